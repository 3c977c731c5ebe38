//! What `networking.k8s.io/v1` means: the scenarios that the Kubernetes project once published for
//! Ingress controllers, in our words. Ports 80 and 443, as clients use them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use gatehouse_tests::backend::{self, Backend, Request, Step};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster, endpoint};
use gatehouse_tests::raw::{self, Answer, Client};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{manifests, wait};

/// A gateway on the ports that clients expect, on an address of its own.
fn gateway(space: &Space<'_>, extra: &[&str]) -> Gateway {
    let address = cluster::address();
    let (http, https) = (format!("{address}:80"), format!("{address}:443"));
    space.gateway_at([&http, &https, "127.0.0.1:0"], extra)
}

/// Host, path, and the service that must answer; none means 404.
type Row = (&'static str, &'static str, Option<&'static str>);

/// One GET; a redirect to the same host is followed, as the scenarios have it.
fn get(gateway: &Gateway, host: &str, path: &str) -> Answer {
    let answer = raw::get(gateway.http, host, path).expect("an answer");
    let here = format!("http://{host}");
    let next = answer
        .header("location")
        .filter(|_| answer.status / 100 == 3);
    match next.and_then(|location| location.strip_prefix(&here)) {
        Some(path) => raw::get(gateway.http, host, path).expect("an answer"),
        None => answer,
    }
}

/// Sends each row and compares who answered.
fn check(gateway: &Gateway, rows: &[Row]) {
    for (host, path, service) in rows {
        let answer = get(gateway, host, path);
        let got = (answer.status == 200).then(|| answer.text());
        assert_eq!(
            got.as_deref(),
            *service,
            "GET http://{host}{path}: {answer:?}"
        );
        if service.is_none() {
            assert_eq!(answer.status, 404, "GET http://{host}{path}");
        }
    }
}

#[test]
fn a_default_backend_gets_whatever_nothing_else_serves() {
    cluster::shared(|server| {
        let space = Space::new(server, "ics-default");
        let backend = space.scripted("fallback", |request: &Request| {
            let text = request.line.clone();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
                 Server: app/1\r\nDate: Fri, 27 Nov 2026 02:00:00 GMT\r\n\r\n{text}",
                text.len()
            );
            vec![Step::ReadBody, Step::Send(head.into_bytes())]
        });
        space.apply(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\n\
             metadata: {name: all, namespace: demo}\n\
             spec: {ingressClassName: gatehouse, defaultBackend: {service: {name: fallback, port: {number: 80}}}}\n",
        );
        let gateway = gateway(&space, &[]);
        let address = gateway.http.ip().to_string();
        gateway.wait_status("first", "/", 200);
        backend.take();
        for (method, host, path) in [
            ("GET", "my-host", "/"),
            ("GET", "my-host", "/sub-path"),
            ("POST", "some-host", "/"),
            ("PUT", address.as_str(), "/resource"),
            ("DELETE", "some-host", "/resource"),
            ("PATCH", "my-host", "/resource"),
        ] {
            let mut client = Client::plain(gateway.http);
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tests/1\r\nContent-Length: 0\r\n\r\n"
            ));
            let answer = client.answer().expect("an answer");
            let place = format!("{method} http://{host}{path}: {answer:?}");
            assert_eq!(answer.line, "HTTP/1.1 200 OK", "{place}");
            assert_eq!(
                answer.text(),
                format!("{method} {path} HTTP/1.1"),
                "{place}"
            );
            // The scenario has `Server` here, too. We send none, on purpose: it tells nobody but an
            // attacker anything, and the endpoint's own is removed as nginx does.
            assert!(answer.header("server").is_none(), "{place}");
            for name in ["content-length", "content-type", "date"] {
                assert!(answer.header(name).is_some(), "{name}: {place}");
            }
            let arrived = backend.take();
            assert_eq!(arrived.len(), 1, "{place}");
            assert_eq!(arrived[0].header("user-agent"), Some("tests/1"), "{place}");
            assert_eq!(arrived[0].header("host"), Some(host), "{place}");
        }
    });
}

#[test]
fn a_host_is_exact_and_a_wildcard_is_one_label() {
    cluster::shared(|server| {
        let space = Space::new(server, "ics-hosts");
        let pair = Pair::new(&["foo.bar.com"]);
        let _exact = space.backend("exact");
        let _wildcard = space.backend("wildcard");
        space.apply(&manifests::secret(
            "certificate",
            &pair.certificate,
            &pair.key,
        ));
        // One host with a certificate and without the redirect that comes with it, one wildcard
        // whose backend is addressed by the name of its port.
        let rules = manifests::ingress("wild", "*.foo.com", &[("/", "Prefix", "wildcard")])
            .replace("{number: 80}", "{name: http}");
        let exact = manifests::ingress_with(
            "exact",
            "foo.bar.com",
            &manifests::tls("foo.bar.com", "certificate"),
            &[("/", "Prefix", "exact")],
        );
        space.apply(&(rules + &exact));
        let gateway = gateway(&space, &["--set=ssl-redirect=false"]);
        gateway.wait_status("foo.bar.com", "/", 200);
        gateway.wait_status("bar.foo.com", "/", 200);
        let secured = Handshake::new("foo.bar.com").connect(gateway.https);
        let secured = secured.expect("a handshake");
        assert_eq!(secured.names(), ["foo.bar.com"]);
        let mut client = Client::over(Box::new(secured));
        client.send("GET / HTTP/1.1\r\nHost: foo.bar.com\r\n\r\n");
        let answer: Answer = client.answer().expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "exact".into()));
        check(
            &gateway,
            &[
                ("foo.bar.com", "/", Some("exact")),
                ("subdomain.bar.com", "/", None),
                ("bar.foo.com", "/", Some("wildcard")),
                ("baz.bar.foo.com", "/", None),
                ("foo.com", "/", None),
            ],
        );
    });
}

/// An Ingress of paths, all of one type unless a row says otherwise, one backend for each.
fn paths(space: &Space<'_>, host: &str, rules: &[(&str, &str, &str)]) -> Vec<Backend> {
    let name = host.replace('.', "-");
    space.apply(&manifests::ingress(&name, host, rules));
    rules
        .iter()
        .map(|(_, _, service)| space.backend(service))
        .collect()
}

#[test]
fn paths_match_by_their_type_and_the_longest_wins() {
    cluster::shared(|server| {
        let space = Space::new(server, "ics-paths");
        let _backends = [
            paths(&space, "exact.rules", &[("/foo", "Exact", "foo-exact")]),
            paths(
                &space,
                "prefix.rules",
                &[
                    ("/foo", "Prefix", "foo-prefix"),
                    ("/aaa", "Prefix", "aaa-prefix"),
                    ("/aaa/bbb", "Prefix", "aaa-bbb-prefix"),
                ],
            ),
            paths(
                &space,
                "mixed.rules",
                &[
                    ("/foo", "Prefix", "mixed-prefix"),
                    ("/foo", "Exact", "mixed-exact"),
                ],
            ),
            paths(
                &space,
                "trailing.rules",
                &[
                    ("/aaa/bbb/", "Prefix", "slash-prefix"),
                    ("/foo/", "Exact", "slash-exact"),
                ],
            ),
        ];
        let gateway = gateway(&space, &[]);
        for (host, path) in [
            ("exact.rules", "/foo"),
            ("prefix.rules", "/foo"),
            ("prefix.rules", "/aaa"),
            ("prefix.rules", "/aaa/bbb"),
            ("mixed.rules", "/foo"),
            ("mixed.rules", "/foo/x"),
            ("trailing.rules", "/aaa/bbb/"),
            ("trailing.rules", "/foo/"),
        ] {
            gateway.wait_status(host, path, 200);
        }
        check(
            &gateway,
            &[
                ("exact.rules", "/foo", Some("foo-exact")),
                ("exact.rules", "/foo/", None),
                ("exact.rules", "/FOO", None),
                ("exact.rules", "/bar", None),
                ("prefix.rules", "/foo", Some("foo-prefix")),
                ("prefix.rules", "/foo/", Some("foo-prefix")),
                ("prefix.rules", "/FOO", None),
                ("prefix.rules", "/aaa/bbb", Some("aaa-bbb-prefix")),
                ("prefix.rules", "/aaa/bbb/ccc", Some("aaa-bbb-prefix")),
                ("prefix.rules", "/aaa/ccc", Some("aaa-prefix")),
                ("prefix.rules", "/aaaccc", None),
                ("prefix.rules", "/foo/bar", Some("foo-prefix")),
                ("mixed.rules", "/foo", Some("mixed-exact")),
                ("mixed.rules", "/foo/bar", Some("mixed-prefix")),
                ("trailing.rules", "/aaa/bbb", Some("slash-prefix")),
                ("trailing.rules", "/aaa/bbb/", Some("slash-prefix")),
                ("trailing.rules", "/foo/", Some("slash-exact")),
            ],
        );
        // The scenario has 404. ingress-nginx shows the way to a path that ends with a slash, and
        // so do we (decision 0024): the client is told, but what it asked for is not what the rule
        // says, so the service never sees it.
        let answer = raw::get(gateway.http, "trailing.rules", "/foo").expect("an answer");
        let location = answer.header("location");
        assert_eq!(
            (answer.status, location),
            (301, Some("http://trailing.rules/foo/"))
        );
    });
}

#[test]
fn load_is_spread_over_every_endpoint_of_a_service_that_grew() {
    cluster::shared(|server| {
        let space = Space::new(server, "ics-balance");
        let pods: Vec<Backend> = (0..10)
            .map(|_| Backend::at(endpoint(), |_| backend::ok("pod")))
            .collect();
        let addresses: Vec<SocketAddr> = pods.iter().map(|pod| pod.address).collect();
        space.apply(&manifests::service("pods", &addresses[..1]));
        space.apply(&manifests::ingress(
            "pods",
            "load.rules",
            &[("/", "Prefix", "pods")],
        ));
        let gateway = gateway(&space, &[]);
        gateway.wait_status("load.rules", "/", 200);
        space.apply(&manifests::service("pods", &addresses));
        let reached = || {
            let hit: BTreeSet<usize> = (0..pods.len())
                .filter(|pod| !pods[*pod].requests().is_empty())
                .collect();
            hit.len()
        };
        wait::until("the last endpoint that was added is used", || {
            raw::get(gateway.http, "load.rules", "/").ok()?;
            (reached() == pods.len()).then_some(())
        });
        for pod in &pods {
            pod.take();
        }
        for _ in 0..100 {
            let answer = raw::get(gateway.http, "load.rules", "/").expect("an answer");
            assert_eq!(answer.status, 200);
        }
        assert_eq!(
            reached(),
            pods.len(),
            "one hundred requests reach all of them"
        );
    });
}

/// The class that nobody obeys stays without an address while ours gets one.
#[test]
fn an_ingress_of_an_unknown_class_gets_no_address() {
    cluster::shared(|server: &ApiServer| {
        let space = Space::new(server, "ics-class");
        let _backend = space.backend("app");
        let ours = manifests::ingress("ours", "ours.rules", &[("/", "Prefix", "app")]);
        let other = manifests::ingress("other", "other.rules", &[("/", "Prefix", "app")])
            .replace("ingressClassName: gatehouse", "ingressClassName: nobody");
        space.apply(&(ours + &other));
        let gateway = gateway(&space, &["--publish-status-address=192.0.2.7"]);
        gateway.wait_status("ours.rules", "/", 200);
        let addresses = |name: &str| {
            let object = space.kubectl().get(&space.name, &format!("ingress/{name}"));
            object["status"]["loadBalancer"]["ingress"].clone()
        };
        wait::until("our Ingress has an address", || {
            (addresses("ours") == serde_json::json!([{"ip": "192.0.2.7"}])).then_some(())
        });
        assert!(addresses("other").is_null());
        check(&gateway, &[("other.rules", "/", None)]);
    });
}
