//! TLS: which certificate, which version, resumption, and names that do not belong together.

use std::io::Write as _;

use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client};
use gatehouse_tests::tls::{Handshake, Pair, VERSIONS};
use gatehouse_tests::wait;
use rustls::ProtocolVersion;

struct World {
    gateway: Gateway,
    scratch: Scratch,
    _backend: Backend,
}

fn tls_host(name: &str, host: &str, names: &[&str]) -> String {
    let pair = Pair::new(names);
    manifests::secret(name, &pair.certificate, &pair.key)
        + &manifests::ingress_with(
            name,
            host,
            &manifests::tls(host, name),
            &[("/", "Prefix", "app")],
        )
}

/// Hosts `one.test`, `two.test` and `*.wild.test` have a certificate each; `plain.test` has none.
fn start(flags: &[&str]) -> World {
    let backend = Backend::plain();
    let scratch = Scratch::new();
    let fallback = Pair::new(&["fallback.test"]);
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("plain", "plain.test", &[("/", "Prefix", "app")])
        + &manifests::secret("fallback", &fallback.certificate, &fallback.key)
        + &tls_host("two", "two.test", &["two.test"])
        + &tls_host("wild", "*.wild.test", &["*.wild.test"]);
    scratch.write("all.yaml", text);
    scratch.write("one.yaml", tls_host("one", "one.test", &["one.test"]));
    let gateway = Gateway::start(scratch.path(), flags);
    World {
        gateway,
        scratch,
        _backend: backend,
    }
}

fn ask(client: &mut Client, host: &str) -> u16 {
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.answer().expect("an answer").status
}

#[test]
fn the_name_decides_the_certificate() {
    let world = start(&["--default-ssl-certificate=demo/fallback"]);
    for (name, served) in [
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("two.test", "two.test"),
        ("a.wild.test", "*.wild.test"),
        ("a.b.wild.test", "fallback.test"),
        ("wild.test", "fallback.test"),
        ("plain.test", "fallback.test"),
        ("unknown.test", "fallback.test"),
    ] {
        let secured = Handshake::new(name)
            .connect(world.gateway.https)
            .expect("TLS handshake");
        assert_eq!(secured.common_name(), served, "{name}");
    }
    let nameless = Handshake::with(None, &["http/1.1"], VERSIONS);
    let secured = nameless
        .connect(world.gateway.https)
        .expect("TLS handshake");
    assert_eq!(secured.common_name(), "fallback.test", "without a name");
}

#[test]
fn a_client_without_a_name_gets_the_certificate_of_the_address_it_has_reached() {
    let world = start(&[
        "--default-ssl-certificate=demo/fallback",
        "--set",
        "use-proxy-protocol=true",
        "--set",
        "proxy-real-ip-cidr=127.0.0.0/8",
    ]);
    // A client of its own for each: a session that is resumed shows its first certificate.
    let nameless = || Handshake::with(None, &["http/1.1"], VERSIONS);
    let reached = |address: &str| {
        let mut socket = raw::connect(world.gateway.https).expect("connect");
        let line = format!("PROXY TCP4 192.0.2.99 {address} 40000 443\r\n");
        socket.write_all(line.as_bytes()).expect("sent");
        nameless().over(socket).expect("TLS handshake")
    };
    assert_eq!(reached("192.0.2.1").common_name(), "fallback.test");
    let pair = ["numbers.test", "192.0.2.1", "127.0.0.1"];
    let seen = world.gateway.generation();
    world
        .scratch
        .write("numbers.yaml", tls_host("numbers", "numbers.test", &pair));
    world.gateway.wait_generation_above(seen);
    let mut secured = reached("192.0.2.1");
    assert_eq!(secured.common_name(), "numbers.test");
    secured
        .write_all(b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
        .expect("sent");
    assert_eq!(
        secured.client().answer().map(|answer| answer.status),
        Ok(404)
    );
    assert_eq!(reached("192.0.2.2").common_name(), "fallback.test");
    let plain = raw::connect(world.gateway.https).expect("connect");
    let mut unproxied = plain.try_clone().expect("a socket");
    unproxied.write_all(b"PROXY UNKNOWN\r\n").expect("sent");
    let secured = nameless().over(plain).expect("TLS handshake");
    assert_eq!(
        secured.common_name(),
        "numbers.test",
        "the address of the listener"
    );
    // Who names a host has not asked for an address.
    let mut socket = raw::connect(world.gateway.https).expect("connect");
    let line = b"PROXY TCP4 192.0.2.99 192.0.2.1 40000 443\r\n";
    socket.write_all(line).expect("sent");
    let named = Handshake::new("unknown.test").over(socket);
    assert_eq!(named.expect("TLS handshake").common_name(), "fallback.test");
}

#[test]
fn without_a_default_certificate_a_self_made_one_is_served() {
    let world = start(&[]);
    let secured = Handshake::new("plain.test")
        .connect(world.gateway.https)
        .expect("TLS handshake");
    assert!(!secured.common_name().is_empty());
    assert_eq!(ask(&mut secured.client(), "plain.test"), 200);
}

#[test]
fn versions_and_key_exchange_are_those_of_today() {
    let world = start(&[]);
    let v13 = Handshake::with(Some("one.test"), &["http/1.1"], &[&rustls::version::TLS13]);
    let secured = v13.connect(world.gateway.https).expect("TLS 1.3");
    assert_eq!(secured.version(), ProtocolVersion::TLSv1_3);
    assert_eq!(secured.group(), "X25519MLKEM768");
    assert_eq!(ask(&mut secured.client(), "one.test"), 200);
    let v12 = Handshake::with(Some("one.test"), &["http/1.1"], &[&rustls::version::TLS12]);
    let secured = v12.connect(world.gateway.https).expect("TLS 1.2");
    assert_eq!(secured.version(), ProtocolVersion::TLSv1_2);
    assert_eq!(ask(&mut secured.client(), "one.test"), 200);
}

#[test]
fn sessions_are_resumed_across_a_change_of_the_configuration() {
    let world = start(&[]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let handshake = Handshake::with(Some("one.test"), &["http/1.1"], &[version]);
        let first = handshake
            .connect(world.gateway.https)
            .expect("TLS handshake");
        assert!(!first.resumed());
        // Tickets of TLS 1.3 come after the handshake: an exchange takes them in.
        assert_eq!(ask(&mut first.client(), "one.test"), 200);
        let seen = world.gateway.generation();
        let name = format!("extra{:?}", version.version)
            .to_lowercase()
            .replace('_', "");
        let text = manifests::ingress(&name, &format!("{name}.test"), &[("/", "Prefix", "app")]);
        world.scratch.write(&format!("{name}.yaml"), text);
        world.gateway.wait_generation_above(seen);
        // Tickets hold for every worker, so any connection may resume.
        let second = handshake
            .connect(world.gateway.https)
            .expect("TLS handshake");
        assert!(second.resumed(), "{:?}", version.version);
        assert_eq!(ask(&mut second.client(), "one.test"), 200);
    }
}

#[test]
fn a_certificate_is_exchanged_without_a_dropped_connection() {
    let world = start(&[]);
    let mut old = Handshake::new("one.test")
        .connect(world.gateway.https)
        .expect("TLS handshake")
        .client();
    assert_eq!(ask(&mut old, "one.test"), 200);
    world.scratch.replace(
        "one.yaml",
        tls_host("one", "one.test", &["renewed.test", "one.test"]),
    );
    wait::until("the new certificate is served", || {
        let secured = Handshake::new("one.test")
            .connect(world.gateway.https)
            .expect("TLS handshake");
        (secured.common_name() == "renewed.test").then_some(())
    });
    assert_eq!(
        ask(&mut old, "one.test"),
        200,
        "the old connection lives on"
    );
}

#[test]
fn a_host_under_the_certificate_of_another_is_misdirected() {
    let world = start(&[]);
    let mut client = Handshake::new("one.test")
        .connect(world.gateway.https)
        .expect("TLS handshake")
        .client();
    assert_eq!(ask(&mut client, "one.test"), 200);
    assert_eq!(ask(&mut client, "two.test"), 421);
    assert_eq!(
        ask(&mut client, "one.test"),
        200,
        "the connection is as good as before"
    );
    let mut client = Handshake::new("a.wild.test")
        .connect(world.gateway.https)
        .expect("TLS handshake")
        .client();
    assert_eq!(
        ask(&mut client, "b.wild.test"),
        200,
        "the same certificate covers both"
    );
    let handshake = Handshake::h2("one.test");
    let mut session = Session::open(world.gateway.https, Some(&handshake));
    assert_eq!(session.get("two.test", "/").expect("an answer").status, 421);
    assert_eq!(session.get("one.test", "/").expect("an answer").status, 200);
}

#[test]
fn hosts_with_a_certificate_redirect_to_https_and_send_hsts() {
    let world = start(&[]);
    let mut client = Client::plain(world.gateway.http);
    client.send("GET /a/?b=c HTTP/1.1\r\nHost: one.test:8080\r\n\r\n");
    let answer = client.answer().expect("an answer");
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("https://one.test/a/?b=c"))
    );
    client.send("GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: plain.test\r\n\r\n");
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    let mut secure = Handshake::new("one.test")
        .connect(world.gateway.https)
        .expect("TLS handshake")
        .client();
    secure.send("GET / HTTP/1.1\r\nHost: one.test\r\n\r\n");
    let answer = secure.answer().expect("an answer");
    assert_eq!(
        answer.header("strict-transport-security"),
        Some("max-age=31536000; includeSubDomains")
    );
    client.send("GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n");
    let answer = client.answer().expect("an answer");
    assert_eq!(
        answer.header("strict-transport-security"),
        None,
        "not on plain http"
    );
}

#[test]
fn unknown_names_can_be_refused() {
    let world = start(&["--set", "ssl-reject-handshake=true"]);
    assert!(
        Handshake::new("one.test")
            .connect(world.gateway.https)
            .is_ok()
    );
    assert!(
        Handshake::new("unknown.test")
            .connect(world.gateway.https)
            .is_err()
    );
}

#[test]
fn every_tls_connection_ends_with_close_notify() {
    let world = start(&[]);
    let mut client = Handshake::new("one.test")
        .connect(world.gateway.https)
        .expect("TLS handshake");
    std::io::Write::write_all(
        &mut client,
        b"GET / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\n\r\n",
    )
    .expect("sent");
    let mut all = Vec::new();
    // rustls gives an error when the peer closes without saying so.
    let end = std::io::Read::read_to_end(&mut client, &mut all);
    assert!(end.is_ok(), "R80: {end:?}");
}
