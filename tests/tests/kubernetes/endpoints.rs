//! The life of an endpoint: ready, terminating, gone.

use std::time::Duration;

use gatehouse_tests::backend::{Backend, Request, Step};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{Space, cluster, endpoint};
use gatehouse_tests::raw::Client;
use gatehouse_tests::{backend, manifests, raw, wait, websocket};
use serde_json::json;

/// A slice of one endpoint; conditions as JSON.
fn slice(space: &Space<'_>, name: &str, backend: &Backend, conditions: &str) {
    space.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, namespace: demo, labels: {{kubernetes.io/service-name: app}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{}], conditions: {conditions}}}]\n",
        backend.address.port(),
        backend.address.ip(),
    ));
}

/// Two pods behind one host; every answer is the name of a pod, websockets are echoed.
fn pods(space: &Space<'_>) -> [Backend; 2] {
    space.apply(&manifests::service("app", &[]));
    space.apply(&manifests::ingress(
        "app",
        "app.endpoints",
        &[("/", "Prefix", "app")],
    ));
    ["one", "two"].map(|name| {
        let pod = Backend::at(endpoint(), move |request: &Request| {
            if request.header("upgrade").is_some() {
                return vec![
                    Step::Send(websocket::accepted().into_bytes()),
                    Step::EchoFrames,
                ];
            }
            backend::ok(name)
        });
        slice(space, name, &pod, "{ready: true}");
        pod
    })
}

/// Whether the next answers come from both pods, or from one of them alone.
fn answering(gateway: &Gateway) -> Vec<String> {
    let mut names: Vec<String> = (0..20)
        .map(|_| {
            let answer = raw::get(gateway.http, "app.endpoints", "/").expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.text()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn wait_answering(gateway: &Gateway, expected: &[&str]) {
    wait::until(&format!("{expected:?} answer"), || {
        (answering(gateway) == expected).then_some(())
    });
}

/// A websocket through the gateway to the pod of this name.
fn tunnel(gateway: &Gateway, pod: &Backend) -> Client {
    wait::until("a websocket leads to the pod", || {
        let before = upgrades(pod);
        let mut client = Client::plain(gateway.http);
        client.send(websocket::request("app.endpoints", "/ws"));
        assert_eq!(client.answer().expect("an answer").status, 101);
        (upgrades(pod) > before).then_some(client)
    })
}

fn upgrades(pod: &Backend) -> usize {
    let requests = pod.requests();
    requests
        .iter()
        .filter(|request| request.header("upgrade").is_some())
        .count()
}

fn echoes(client: &mut Client, text: &str) -> bool {
    client.send(websocket::masked(text)) && client.frame().is_ok_and(|frame| frame == text)
}

#[test]
fn a_terminating_endpoint_gets_nothing_new_and_its_websocket_goes_on() {
    cluster::shared(|server| {
        let space = Space::new(server, "terminating");
        let [one, two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        let mut socket = tunnel(&gateway, &one);
        assert!(echoes(&mut socket, "hello"));

        slice(
            &space,
            "one",
            &one,
            "{ready: false, serving: true, terminating: true}",
        );
        wait_answering(&gateway, &["two"]);
        one.take();
        assert_eq!(answering(&gateway), ["two"]);
        assert!(
            one.requests().is_empty(),
            "nothing new for a pod that is going"
        );
        assert!(echoes(&mut socket, "still here"));

        // All of them terminating: better than no answer, as long as they serve.
        slice(
            &space,
            "two",
            &two,
            "{ready: false, serving: true, terminating: true}",
        );
        assert!(wait::holds(Duration::from_millis(500), || {
            raw::get(gateway.http, "app.endpoints", "/").is_ok_and(|answer| answer.status == 200)
        }));
        slice(
            &space,
            "one",
            &one,
            "{ready: false, serving: false, terminating: true}",
        );
        slice(
            &space,
            "two",
            &two,
            "{ready: false, serving: false, terminating: true}",
        );
        gateway.wait_status("app.endpoints", "/", 503);
    });
}

#[test]
fn an_endpoint_that_is_gone_loses_its_idle_connections_at_once() {
    cluster::shared(|server| {
        let space = Space::new(server, "gone");
        let [one, two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        assert!(
            one.open() > 0 && two.open() > 0,
            "both have idle connections"
        );

        space.delete("endpointslice/one");
        wait::until("its connections are closed", || {
            (one.open() == 0).then_some(())
        });
        assert_eq!(answering(&gateway), ["two"]);

        // The address comes back, as another pod's perhaps: on connections of its own.
        let before = one.connections();
        slice(&space, "one", &one, "{ready: true}");
        wait_answering(&gateway, &["one", "two"]);
        assert!(one.connections() > before);
    });
}

#[test]
fn what_runs_on_an_endpoint_that_is_gone_comes_to_its_end() {
    cluster::shared(|server| {
        let space = Space::new(server, "running");
        let [one, two] = pods(&space);
        let gateway = space.gateway(&[]);
        wait_answering(&gateway, &["one", "two"]);
        let mut socket = tunnel(&gateway, &one);
        // A request of which only the half has come.
        let begun = |pod: &Backend| {
            let requests = pod.requests();
            requests.iter().any(|request| request.method() == "POST")
        };
        let mut half = wait::until("a request is on its way to the pod", || {
            let mut client = Client::plain(gateway.http);
            client.send("POST / HTTP/1.1\r\nHost: app.endpoints\r\nContent-Length: 8\r\n\r\nhalf");
            wait::until("it has begun", || {
                (begun(&one) || begun(&two)).then_some(())
            });
            two.take();
            begun(&one).then_some(client)
        });

        space.delete("endpointslice/one");
        wait_answering(&gateway, &["two"]);
        assert!(echoes(&mut socket, "still here"));
        half.send("half");
        let answer = half.answer().expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, "one".into()));
        assert!(echoes(&mut socket, "and here"));
    });
}

/// Pods come and go, and their addresses are given to others.
#[test]
fn an_address_that_changes_hands_gets_no_request_of_its_former_owner() {
    cluster::shared(|server| {
        let (old, new) = (
            Space::new(server, "owner-old"),
            Space::new(server, "owner-new"),
        );
        let pod = old.backend("app");
        for space in [&old, &new] {
            let host = format!("{}.endpoints", space.name);
            space.apply(&manifests::ingress("app", &host, &[("/", "Prefix", "app")]));
        }
        new.apply(&manifests::service("app", &[]));
        // One gateway for both: they share its pools.
        let both = format!("--controller-class={}", new.controller);
        let gateway = old.gateway(&[&both]);
        gateway.wait_status("owner-old.endpoints", "/", 200);
        gateway.wait_status("owner-new.endpoints", "/", 503);
        assert!(pod.open() > 0, "a connection is kept for the next request");

        old.delete("endpointslice/app-0");
        new.apply(&manifests::service("app", &[pod.address]));
        gateway.wait_status("owner-new.endpoints", "/", 200);
        gateway.wait_status("owner-old.endpoints", "/", 503);
        pod.take();
        for _ in 0..20 {
            raw::get(gateway.http, "owner-old.endpoints", "/").expect("an answer");
            raw::get(gateway.http, "owner-new.endpoints", "/").expect("an answer");
        }
        let arrived = pod.take();
        assert_eq!(arrived.len(), 20);
        for request in arrived {
            assert_eq!(request.header("host"), Some("owner-new.endpoints"));
            assert!(
                request.connection > 0,
                "not on the connection of the former owner"
            );
        }
    });
}

#[test]
fn a_slice_that_changes_compiles_nothing() {
    cluster::shared(|server| {
        let space = Space::new(server, "nocompile");
        let [one, _two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        let compiled = || {
            let (_, text) = gateway.admin_get("/metrics");
            let line = text
                .lines()
                .find(|line| line.starts_with("gatehouse_host_compiles_total"));
            line.map(str::to_owned)
        };
        let before = compiled();
        assert!(before.is_some(), "{}", gateway.admin_get("/metrics").1);
        for round in 0..5 {
            let ready = json!({"ready": round % 2 == 1}).to_string();
            slice(&space, "one", &one, &ready);
            let expected: &[&str] = if round % 2 == 1 {
                &["one", "two"]
            } else {
                &["two"]
            };
            wait_answering(&gateway, expected);
        }
        assert_eq!(compiled(), before);
    });
}

#[test]
fn a_service_that_names_the_admin_port_publishes_no_page() {
    cluster::shared(|server| {
        let space = Space::new(server, "pages");
        let own = endpoint().to_string();
        let listen = ["127.0.0.1:0", "127.0.0.1:0", &own];
        let [gateway, other] = [(); 2].map(|()| space.gateway_at(listen, &[]));
        let named = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: named, namespace: demo}}\n\
             spec: {{type: ExternalName, externalName: {}, ports: [{{port: 80, targetPort: {}}}]}}\n---\n",
            other.admin.ip(),
            other.admin.port(),
        );
        for (name, service) in [
            ("own", manifests::service("own", &[gateway.admin])),
            ("other", manifests::service("other", &[other.admin])),
            ("named", named),
        ] {
            let host = format!("{name}.pages");
            let ingress = manifests::ingress(name, &host, &[("/", "Prefix", name)]);
            space.apply(&(service + &ingress));
            gateway.wait_status(&host, "/readyz", 200);
            for page in ["/", "/metrics", "/api/snapshot", "/api/diagnostics"] {
                let answer = raw::get(gateway.http, &host, page).expect("an answer");
                assert_eq!(answer.status, 403, "{name}{page}: {}", answer.text());
            }
        }
        assert_eq!(gateway.admin_get("/api/snapshot").0, 200);
    });
}
