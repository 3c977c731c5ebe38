//! What the data plane answers to certificate authorities: HTTP-01 and TLS-ALPN-01, on real sockets
//! and next to ordinary traffic. The board is filled by the test; who fills it in earnest is tested
//! with a real authority.

use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use gatehouse_gateway::access_log::{AccessLog, Format};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    ActionPlan, Affinity, Balance, ChallengePlan, ClusterKey, ClusterPlan, Delta, EndpointPhase,
    EndpointPlan, HandshakePlan, HostKey, HostPattern, HostPlan, Identifier, ListenerPlan,
    ListenerProtocol, ObjectRef, PathKind, PathMatch, PolicySpec, RouteKey, RoutePlan, ServerId,
    Settings, Thumbprint, TokenPlan, UpstreamProtocol, WeightedCluster,
};
use gatehouse_gateway::publish::{Published, Publisher};
use gatehouse_gateway::server::{Gateway, GatewayConfig};
use gatehouse_tests::backend::Backend;
use gatehouse_tests::http2::Session;
use gatehouse_tests::raw::{self, Client};
use gatehouse_tests::tls::{Handshake, VERSIONS};
use gatehouse_tests::wait;
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
const OTHER: &str = "token-of-somebody-elses-solver";
const DIGEST: [u8; 32] = *b"the digest of a key authorizatio";

/// A gateway in this process. `shop.test` forwards everything to a backend, by https only, and
/// another solver's path on it, in plain text, too.
struct World {
    _gateway: Gateway,
    published: Published,
    metrics: Arc<Metrics>,
    log: Log,
    http: SocketAddr,
    https: SocketAddr,
    backend: Backend,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    fn start() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let backend = Backend::plain();
        let metrics = Metrics::new();
        let (mut publisher, published) = Publisher::new(Arc::clone(&metrics));
        publisher.apply(Delta {
            settings: Some(Arc::new(settings)),
            ..plans(backend.address)
        });
        let listener = |name: &str, protocol| ListenerPlan {
            name: name.into(),
            address: "127.0.0.1:0".parse().expect("loopback"),
            protocol,
            server: ServerId::SHARED,
            public_port: None,
        };
        let log = Log::default();
        let config = GatewayConfig {
            listeners: vec![
                listener("http", ListenerProtocol::Http),
                listener("https", ListenerProtocol::Https),
            ],
            workers: 2,
            access_log: AccessLog::to(Format::Json, log.clone(), &metrics).expect("log"),
        };
        let gateway = Gateway::start(config, published.clone(), Arc::clone(&metrics));
        let gateway = gateway.expect("a gateway");
        let address = |at: usize| gateway.addresses()[at].1;
        Self {
            http: address(0),
            https: address(1),
            _gateway: gateway,
            published,
            metrics,
            log,
            backend,
        }
    }

    fn publish(&self, plan: ChallengePlan) {
        assert!(self.published.challenges().publish(plan));
    }

    /// Waits for this count: it is made when the connection has been closed.
    fn counted(&self, kind: &str, result: &str, count: u64) {
        wait::until("it is counted", || {
            (self.count(kind, result) == count).then_some(())
        });
    }

    fn count(&self, kind: &str, result: &str) -> u64 {
        let series = format!(
            "gatehouse_acme_challenge_answers_total{{type=\"{kind}\",result=\"{result}\"}} "
        );
        let text = self.metrics.render().expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.expect("a series").parse().expect("a number")
    }

    fn logged(&self, words: &[&str]) {
        wait::until("the access log has it", || {
            let bytes = self.log.0.lock().expect("log").clone();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let fits = |line: &str| words.iter().all(|word| line.contains(word));
            text.lines().any(fits).then_some(())
        });
    }
}

fn plans(endpoint: SocketAddr) -> Delta {
    let cluster = ClusterKey("shop/app:80".into());
    let host = HostPattern::Exact("shop.test".into());
    let route = |kind, path: &str, policies: Vec<PolicySpec>| {
        Arc::new(RoutePlan {
            key: RouteKey {
                host: host.clone(),
                path: PathMatch {
                    kind,
                    path: path.into(),
                },
                origin: ObjectRef {
                    kind: "Ingress".into(),
                    namespace: "shop".into(),
                    name: "app".into(),
                },
            },
            field: "spec.rules[0]".into(),
            policies,
            action: ActionPlan::Forward(vec![WeightedCluster {
                cluster: cluster.clone(),
                weight: 1,
            }]),
        })
    };
    let to_https = || PolicySpec::HttpsRedirect {
        status: StatusCode::PERMANENT_REDIRECT,
        exempt: false,
    };
    let routes = vec![
        route(PathKind::Exact, &target(OTHER), Vec::new()),
        route(PathKind::Prefix, "/", vec![to_https()]),
        route(PathKind::Prefix, "/.well-known", vec![to_https()]),
    ];
    let plan = ClusterPlan {
        key: cluster.clone(),
        protocol: UpstreamProtocol::Http1,
        balance: Balance::RoundRobin,
        affinity: Affinity::None,
        endpoints: vec![EndpointPlan {
            address: endpoint,
            phase: EndpointPhase::Ready,
        }],
    };
    let key = HostKey {
        server: ServerId::SHARED,
        host: host.clone(),
    };
    let hosts = HostPlan {
        host,
        routes,
        tls: None,
    };
    Delta {
        clusters: vec![(cluster, Some(Arc::new(plan)))],
        hosts: vec![(key, Some(Arc::new(hosts)))],
        ..Delta::default()
    }
}

fn target(token: &str) -> String {
    format!("/.well-known/acme-challenge/{token}")
}

fn managed(hosts: &[&str]) -> ChallengePlan {
    let account = Thumbprint("thumb".into());
    let hosts = hosts.iter().map(|host| Identifier::of_host(host));
    ChallengePlan {
        accounts: hosts.map(|host| (host, account.clone())).collect(),
        ..ChallengePlan::default()
    }
}

fn handshakes(hosts: &[&str]) -> ChallengePlan {
    let hosts = hosts.iter().map(|host| HandshakePlan {
        identifier: Identifier::of_host(host),
        digest: DIGEST,
    });
    ChallengePlan {
        handshakes: hosts.collect(),
        ..ChallengePlan::default()
    }
}

fn ask(client: &mut Client, method: &str, host: &str, target: &str) -> raw::Answer {
    client.send(format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    client.answer_to(method).expect("an answer")
}

#[test]
fn a_token_of_a_managed_host_is_answered_ahead_of_redirect_and_catch_all() {
    let world = World::start();
    let mut plain = Client::plain(world.http);
    assert_eq!(
        ask(&mut plain, "GET", "shop.test", &target(TOKEN)).status,
        308
    );
    // The next request on the same connection: nothing has to be compiled or taken over.
    world.publish(managed(&["shop.test", "127.0.0.1", "[::1]"]));
    let mut secure = Handshake::new("shop.test")
        .connect(world.https)
        .expect("TLS handshake")
        .client();
    for client in [&mut plain, &mut secure] {
        for host in [
            "shop.test",
            "shop.test:5002",
            "SHOP.test.",
            "127.0.0.1:5002",
            "[0:0::1]:80",
        ] {
            let answer = ask(client, "GET", host, &target(TOKEN));
            assert_eq!(
                (answer.status, answer.text()),
                (200, format!("{TOKEN}.thumb")),
                "{host}"
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            let content = answer.header("content-type").expect("a content type");
            assert!(content.starts_with("text/plain"), "{content}");
            assert_eq!(answer.header("location"), None);
        }
        let answer = ask(client, "HEAD", "shop.test", &target(TOKEN));
        let length = (TOKEN.len() + ".thumb".len()).to_string();
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, Some(&*length))
        );
    }
    world.counted("http-01", "answered", 12);
    world.counted("http-01", "unknown", 1);
    world.logged(&["\"reason\":\"acme_challenge\"", "\"status\":200", TOKEN]);
    assert_eq!(ask(&mut plain, "GET", "shop.test", "/x").status, 308);
    assert_eq!(ask(&mut secure, "GET", "shop.test", "/x").status, 200);
    assert_eq!(world.backend.requests().len(), 1, "only the request for /x");
}

#[test]
fn tokens_are_answered_on_http2_with_and_without_tls() {
    let world = World::start();
    world.publish(managed(&["shop.test"]));
    let handshake = Handshake::h2("shop.test");
    for tls in [None, Some(&handshake)] {
        let address = if tls.is_some() {
            world.https
        } else {
            world.http
        };
        let mut session = Session::open(address, tls);
        let answer = session.get("shop.test", &target(TOKEN)).expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, format!("{TOKEN}.thumb").into_bytes());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let head = session.send("HEAD", "shop.test", &target(TOKEN), &[], b"");
        let head = head.expect("an answer");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
}

#[test]
fn what_is_no_challenge_of_ours_goes_the_way_of_other_requests() {
    let world = World::start();
    world.publish(managed(&["shop.test"]));
    let mut client = Client::plain(world.http);
    for bad in [
        "short",
        "with.dots.but.long.enough",
        "percent%2Dencoded%2Dtoken",
        "deeper/than-a-token-can-be",
        &"x".repeat(129),
        "",
    ] {
        let answer = ask(&mut client, "GET", "shop.test", &target(bad));
        assert_eq!(answer.status, 308, "{bad}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = ask(&mut client, method, "shop.test", &target(TOKEN));
        assert_eq!(answer.status, 308, "{method}");
    }
    for host in ["other.test", "www.shop.test", "127.0.0.1"] {
        let answer = ask(&mut client, "GET", host, &target(TOKEN));
        assert_eq!(answer.status, 404, "{host}");
    }
    world.counted("http-01", "answered", 0);
    world.counted("http-01", "unknown", 3);
}

#[test]
fn the_path_of_another_solver_is_left_to_it() {
    let world = World::start();
    world.publish(managed(&["shop.test"]));
    let mut client = Client::plain(world.http);
    let answer = ask(&mut client, "GET", "shop.test", &target(OTHER));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(world.backend.requests()[0].target(), target(OTHER));
    world.counted("http-01", "route", 1);
    let answer = ask(&mut client, "GET", "shop.test", &target(TOKEN));
    assert_eq!(answer.text(), format!("{TOKEN}.thumb"));
}

#[test]
fn with_published_tokens_alone_no_other_token_is_answered() {
    let world = World::start();
    world.publish(ChallengePlan {
        tokens: vec![TokenPlan {
            identifier: Identifier::of_host("shop.test"),
            token: TOKEN.into(),
            account: Thumbprint("mine".into()),
        }],
        ..ChallengePlan::default()
    });
    let mut client = Client::plain(world.http);
    let answer = ask(&mut client, "GET", "shop.test", &target(TOKEN));
    assert_eq!(answer.text(), format!("{TOKEN}.mine"));
    let unknown = target("another-token-of-this-length");
    assert_eq!(ask(&mut client, "GET", "shop.test", &unknown).status, 308);
    world.publish(ChallengePlan::default());
    assert_eq!(
        ask(&mut client, "GET", "shop.test", &target(TOKEN)).status,
        308
    );
}

#[test]
fn a_token_is_answered_behind_a_balancer_with_the_proxy_protocol() {
    let mut settings = Settings::default();
    settings.trust.proxy_protocol_from = vec!["127.0.0.0/8".parse().expect("a network")];
    let world = World::with(settings);
    world.publish(managed(&["shop.test"]));
    let mut client = Client::plain(world.http);
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 40000 80\r\n");
    let answer = ask(&mut client, "GET", "shop.test", &target(TOKEN));
    assert_eq!(answer.text(), format!("{TOKEN}.thumb"));
    world.logged(&["acme_challenge", "192.0.2.1"]);
    world
        .published
        .challenges()
        .publish(handshakes(&["shop.test"]));
    let mut socket = raw::connect(world.https).expect("connect");
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n";
    socket.write_all(line).expect("sent");
    let secured = authority(Some("shop.test"))
        .over(socket)
        .expect("TLS handshake");
    assert_eq!(secured.protocol(), "acme-tls/1");
}

/// A client that offers the protocol of a validation and nothing else.
fn authority(name: Option<&str>) -> Handshake {
    Handshake::with(name, &["acme-tls/1"], VERSIONS)
}

/// What RFC 8737, section 3, wants to see.
fn assert_proves(certificate: &CertificateDer<'_>, name: &GeneralName<'_>) {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("names");
    let names = &names.expect("names").value.general_names;
    assert_eq!(names.as_slice(), std::slice::from_ref(name));
    let proof = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
        .expect("the identifier extension");
    assert!(proof.critical);
    assert!(matches!(
        proof.parsed_extension(),
        ParsedExtension::UnsupportedExtension { .. }
    ));
    assert_eq!(proof.value, [&[4, 32][..], &DIGEST].concat());
}

#[test]
fn an_authority_sees_the_proof_for_a_name_and_for_an_address() {
    let world = World::start();
    world.publish(handshakes(&["shop.test", "192.0.2.7", "[2001:db8::1]"]));
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets();
    let reverse = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    let four = Ipv4Addr::new(192, 0, 2, 7).octets();
    for (sni, name) in [
        ("shop.test", GeneralName::DNSName("shop.test")),
        ("SHOP.test", GeneralName::DNSName("shop.test")),
        ("7.2.0.192.in-addr.arpa", GeneralName::IPAddress(&four)),
        (reverse, GeneralName::IPAddress(&six)),
    ] {
        for version in VERSIONS {
            let client = Handshake::with(Some(sni), &["acme-tls/1"], &[version]);
            let mut secured = client.connect(world.https).expect("TLS handshake");
            assert_eq!(secured.protocol(), "acme-tls/1");
            assert_proves(&secured.certificate(), &name);
            let end = secured
                .read_to_end(&mut Vec::new())
                .expect("closed properly");
            assert_eq!(end, 0, "closed after the handshake");
        }
    }
    world.counted("tls-alpn-01", "answered", 8);
    world.logged(&["acme_challenge", "shop.test", "\"tls\":true"]);
}

#[test]
fn an_authority_never_sees_an_ordinary_certificate() {
    let world = World::start();
    world.publish(handshakes(&["shop.test"]));
    for name in [Some("other.test"), Some("www.shop.test"), None] {
        let error = authority(name).connect(world.https).err();
        let error = error.expect("no handshake").to_string();
        assert!(error.contains("received fatal alert"), "{name:?}: {error}");
    }
    world.counted("tls-alpn-01", "unknown", 3);
    world.publish(ChallengePlan::default());
    assert!(authority(Some("shop.test")).connect(world.https).is_err());
}

#[test]
fn ordinary_clients_are_not_disturbed_by_a_validation() {
    let world = World::start();
    world.publish(handshakes(&["shop.test"]));
    let client = Handshake::h2("shop.test");
    let mut session = Session::open(world.https, Some(&client));
    assert_eq!(
        session.get("shop.test", "/").expect("an answer").status,
        200
    );
    let ordinary = session.common_name.clone();
    // Offered among others it is no validation, and never chosen.
    for (offer, chosen) in [
        (&["acme-tls/1", "h2"][..], "h2"),
        (&["http/1.1", "acme-tls/1"], "http/1.1"),
        (&["http/1.1"], "http/1.1"),
        (&[], ""),
    ] {
        let client = Handshake::with(Some("shop.test"), offer, VERSIONS);
        let secured = client.connect(world.https).expect("TLS handshake");
        assert_eq!(secured.protocol(), chosen, "{offer:?}");
        assert_eq!(Some(secured.common_name()), ordinary);
    }
    assert!(authority(Some("shop.test")).connect(world.https).is_ok());
    assert_eq!(
        session.get("shop.test", "/").expect("an answer").status,
        200
    );
    world.counted("tls-alpn-01", "answered", 1);
}

#[test]
fn no_session_is_resumed_into_a_validation_or_out_of_it() {
    let world = World::start();
    world.publish(handshakes(&["shop.test"]));
    for version in VERSIONS {
        let validation = Handshake::with(Some("shop.test"), &["acme-tls/1"], &[version]);
        for round in 0..2 {
            let secured = validation.connect(world.https).expect("TLS handshake");
            assert!(!secured.resumed(), "{round}");
        }
        let ordinary = Handshake::with(Some("shop.test"), &["http/1.1"], &[version]);
        let mut first = ordinary
            .connect(world.https)
            .expect("TLS handshake")
            .client();
        assert_eq!(ask(&mut first, "GET", "shop.test", "/").status, 200);
        let turned = ordinary.offering(&["acme-tls/1"]);
        assert!(
            !turned
                .connect(world.https)
                .expect("TLS handshake")
                .resumed()
        );
    }
}

#[test]
fn openssl_sees_the_proof_as_well() {
    let world = World::start();
    world.publish(handshakes(&["shop.test"]));
    let shown = |name: &str| {
        let output = Command::new("openssl")
            .args(["s_client", "-alpn", "acme-tls/1", "-servername", name])
            .args(["-connect", &world.https.to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("openssl starts: it is in the package of that name");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let text = shown("shop.test");
    assert!(text.contains("ALPN protocol: acme-tls/1"), "{text}");
    assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    let text = shown("other.test");
    assert!(text.contains("alert"), "{text}");
    assert!(!text.contains("BEGIN CERTIFICATE"), "{text}");
}
