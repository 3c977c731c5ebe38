//! Every protocol that the gateway speaks, end to end with good clients: HTTP/1.1, HTTP/2 with and
//! without TLS, websockets, gRPC, large contents, forwarded fields, and TLS itself.

mod content;
mod proxying;
mod secure;

use gatehouse_tests::gateway::{Echo, Gateway};
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::Client;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::websocket;
use serde_json::Value;

/// A gateway before the echo backend of the binary, reached as `app.test`, and by HTTP/2 as
/// `h2.test`.
struct World {
    gateway: Gateway,
    _scratch: Scratch,
    _echo: Echo,
}

impl World {
    fn start(flags: &[&str]) -> Self {
        let echo = Echo::start("app");
        let scratch = Scratch::new();
        let text = manifests::class()
            + &manifests::service("app", &[echo.address])
            + &manifests::service_with("h2", "kubernetes.io/h2c", &[echo.address])
            + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")])
            + &manifests::ingress("h2", "h2.test", &[("/", "Prefix", "h2")]);
        scratch.write("all.yaml", text);
        let gateway = Gateway::start(scratch.path(), flags);
        Self {
            gateway,
            _scratch: scratch,
            _echo: echo,
        }
    }
}

/// A field that the echo backend reports.
fn reported(report: &Value, name: &str) -> Option<String> {
    let pairs = report["headers"].as_array()?;
    let found = pairs.iter().find(|pair| {
        pair[0]
            .as_str()
            .is_some_and(|known| known.eq_ignore_ascii_case(name))
    })?;
    found[1].as_str().map(str::to_owned)
}

#[test]
fn http1_reaches_the_backend_with_the_fields_of_a_proxy() {
    let world = World::start(&[]);
    let mut client = Client::plain(world.gateway.http);
    for round in 0..3 {
        client.send(format!(
            "GET /a/b?round={round} HTTP/1.1\r\nHost: app.test:8080\r\nX-Own: 1\r\n\r\n"
        ));
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, 200);
        let report = answer.json();
        assert_eq!(report["target"], format!("/a/b?round={round}"));
        assert_eq!(report["host"], "app.test:8080");
        assert_eq!(report["version"], "HTTP/1.1");
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-scheme", "http"),
            ("x-scheme", "http"),
            ("x-forwarded-host", "app.test:8080"),
            ("x-own", "1"),
        ] {
            assert_eq!(
                reported(&report, name).as_deref(),
                Some(value),
                "{name}: {report}"
            );
        }
        let port = world.gateway.http.port().to_string();
        assert_eq!(reported(&report, "x-forwarded-port"), Some(port));
        let id = reported(&report, "x-request-id").expect("a request id");
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
    }
}

#[test]
fn http2_works_with_prior_knowledge_and_over_tls() {
    let world = World::start(&[]);
    let mut plain = Session::open(world.gateway.http, None);
    let secure = Handshake::h2("app.test");
    let mut secure = Session::open(world.gateway.https, Some(&secure));
    for (session, scheme) in [(&mut plain, "http"), (&mut secure, "https")] {
        for host in ["app.test", "h2.test"] {
            let answer = session
                .send("PUT", host, "/x?y", &[("x-own", "1")], b"content")
                .expect("an answer");
            assert_eq!(answer.status, 200, "{scheme} {host}");
            let report = answer.json();
            assert_eq!(report["host"], host);
            assert_eq!(report["method"], "PUT");
            assert_eq!(report["target"], "/x?y");
            assert_eq!(report["body_bytes"], 7);
            assert_eq!(
                report["version"],
                if host == "h2.test" {
                    "HTTP/2.0"
                } else {
                    "HTTP/1.1"
                }
            );
            assert_eq!(
                reported(&report, "x-forwarded-proto").as_deref(),
                Some(scheme)
            );
            assert_eq!(reported(&report, "x-own").as_deref(), Some("1"));
        }
    }
}

#[test]
fn alpn_decides_the_protocol() {
    let world = World::start(&[]);
    for (offer, chosen) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&["h2"], "h2"),
        (&[], ""),
    ] {
        let handshake = Handshake::with(Some("app.test"), offer, gatehouse_tests::tls::VERSIONS);
        let secured = handshake
            .connect(world.gateway.https)
            .expect("TLS handshake");
        assert_eq!(secured.protocol(), chosen, "{offer:?}");
        if chosen != "h2" {
            let mut client = secured.client();
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            assert_eq!(
                client.answer().map(|answer| answer.status),
                Ok(200),
                "{offer:?}"
            );
        }
    }
    // A connection that chose HTTP/1.1 cannot speak HTTP/2 after all.
    let mut client = Handshake::new("app.test")
        .connect(world.gateway.https)
        .expect("TLS handshake")
        .client();
    client.send(gatehouse_tests::frames::PREFACE);
    let answer = client.answer();
    assert!(
        !answer.is_ok_and(|answer| answer.status == 200),
        "HTTP/2 on a connection that chose HTTP/1.1"
    );
}

#[test]
fn websockets_pass_both_ways() {
    let world = World::start(&[]);
    let secured = Handshake::new("app.test")
        .connect(world.gateway.https)
        .expect("TLS handshake");
    for mut client in [Client::plain(world.gateway.http), secured.client()] {
        client.send(websocket::request("app.test", "/ws"));
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, 101);
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some(websocket::ACCEPT)
        );
        assert_eq!(
            answer.header("upgrade").map(str::to_lowercase).as_deref(),
            Some("websocket")
        );
        for text in ["one", "two", &"x".repeat(125)] {
            client.send(websocket::masked(text));
            assert_eq!(client.frame().as_deref(), Ok(text));
        }
        // A close frame is answered and the tunnel ends.
        client.send(b"\x88\x82\0\0\0\0\x03\xe8");
        assert!(
            client.closes_within(std::time::Duration::from_secs(5)),
            "the tunnel ends with its websocket"
        );
    }
}

#[test]
fn grpc_keeps_its_message_and_its_trailers() {
    let world = World::start(&[]);
    let secure = Handshake::h2("h2.test");
    let message = b"\0\0\0\0\x05hello";
    for mut session in [
        Session::open(world.gateway.http, None),
        Session::open(world.gateway.https, Some(&secure)),
    ] {
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = session
            .send("POST", "h2.test", "/echo.Echo/Say", &fields, message)
            .expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert_eq!(answer.body, message);
        assert_eq!(
            answer
                .trailers
                .get("grpc-status")
                .map(http::HeaderValue::as_bytes),
            Some(b"0".as_slice())
        );
    }
}

#[test]
fn many_streams_of_one_connection_do_not_mix() {
    let world = World::start(&[]);
    let mut session = Session::open(world.gateway.http, None);
    let paths: Vec<String> = (0..90).map(|number| format!("/stream/{number}")).collect();
    for (path, answer) in paths.iter().zip(session.get_all("app.test", &paths)) {
        let report = answer.expect("an answer").json();
        assert_eq!(report["target"], **path);
    }
}
