//! Whom the gateway believes, and how it spreads requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use gatehouse_tests::backend::{Backend, Request, ok};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client, Failure};

fn start(endpoints: &[SocketAddr], service: &str, flags: &[&str]) -> (Gateway, Scratch) {
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", endpoints)
            .replace("spec: {ports", &format!("spec: {{{service}ports"))
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), flags);
    (gateway, scratch)
}

fn seen(backend: &Backend, client: &mut Client, bytes: &str) -> Request {
    backend.take();
    client.send(bytes);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    backend.take().pop().expect("a request")
}

const FORWARDED: &str = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
                         X-Forwarded-Host: outer.test\r\nX-Forwarded-Port: 444\r\n\r\n";

#[test]
fn forwarded_fields_are_believed_of_trusted_peers_only() {
    let backend = Backend::plain();
    let trust = ["--set", "use-forwarded-headers=true", "--set"];
    for (network, believed) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let cidr = format!("proxy-real-ip-cidr={network}");
        let flags = [trust[0], trust[1], trust[2], &cidr];
        let (gateway, _scratch) = start(&[backend.address], "", &flags);
        let request = seen(&backend, &mut Client::plain(gateway.http), FORWARDED);
        let expected = if believed {
            ["1.2.3.4", "https", "outer.test"]
        } else {
            ["127.0.0.1", "http", "app.test"]
        };
        let got = ["x-real-ip", "x-forwarded-proto", "x-forwarded-host"]
            .map(|name| request.header(name).unwrap_or_default());
        assert_eq!(got, expected, "{network}");
    }
}

#[test]
fn the_proxy_protocol_is_read_of_trusted_peers_only() {
    let backend = Backend::plain();
    let line = "PROXY TCP4 1.2.3.4 5.6.7.8 40000 80\r\n";
    let get = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let flags = [
        "--set",
        "use-proxy-protocol=true",
        "--set",
        "proxy-real-ip-cidr=127.0.0.0/8",
    ];
    let (gateway, _scratch) = start(&[backend.address], "", &flags);
    let request = seen(
        &backend,
        &mut Client::plain(gateway.http),
        &format!("{line}{get}"),
    );
    assert_eq!(request.all("x-forwarded-for"), ["1.2.3.4"], "version 1");
    let mut client = Client::plain(gateway.http);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x05\x06\x07\x08\x05\x06\x07\x09\x9c\x40\0\x50";
    client.send(v2);
    let request = seen(&backend, &mut client, get);
    assert_eq!(request.all("x-forwarded-for"), ["5.6.7.8"], "version 2");
    for broken in [
        "PROXY TCP4 1.2.3.4\r\n",
        "PROXY TCP9 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 x y 1 2\r\n",
    ] {
        let mut client = Client::plain(gateway.http);
        client.send(format!("{broken}{get}"));
        assert!(
            !client.answer().is_ok_and(|answer| answer.status == 200),
            "{broken:?}"
        );
    }
    drop(gateway);
    let (gateway, _scratch) = start(
        &[backend.address],
        "",
        &[
            "--set",
            "use-proxy-protocol=true",
            "--set",
            "proxy-real-ip-cidr=10.0.0.0/8",
        ],
    );
    let mut client = Client::plain(gateway.http);
    client.send(format!("{line}{get}"));
    let answer = client.answer().map(|answer| answer.status);
    assert!(
        matches!(answer, Ok(400) | Err(Failure::Closed)),
        "T22: from an untrusted peer such bytes are a bad request: {answer:?}"
    );
}

fn named() -> (Vec<Backend>, Vec<SocketAddr>) {
    let backends: Vec<Backend> = ["a", "b", "c"]
        .map(|name| Backend::scripted(move |_| ok(name)))
        .into();
    let addresses = backends.iter().map(|backend| backend.address).collect();
    (backends, addresses)
}

#[test]
fn requests_go_round_the_endpoints() {
    let (_backends, addresses) = named();
    let (gateway, _scratch) = start(&addresses, "", &["--workers=1"]);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..30 {
        let answer = raw::get(gateway.http, "app.test", "/").expect("an answer");
        *counts.entry(answer.text()).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn client_affinity_keeps_to_one_endpoint() {
    let (_backends, addresses) = named();
    let (gateway, _scratch) = start(&addresses, "sessionAffinity: ClientIP, ", &[]);
    let answers: BTreeSet<String> = (0..20)
        .map(|_| {
            raw::get(gateway.http, "app.test", "/")
                .expect("an answer")
                .text()
        })
        .collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn a_dead_endpoint_costs_no_request() {
    let (_backends, mut addresses) = named();
    let gone =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    addresses.push(gone.expect("a port that nobody listens on"));
    let (gateway, _scratch) = start(&addresses, "", &[]);
    let mut client = Client::plain(gateway.http);
    for _ in 0..40 {
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            client.answer().map(|answer| answer.status),
            Ok(200),
            "nothing was sent, so any method may be tried elsewhere"
        );
    }
}

#[test]
fn the_access_log_has_one_line_per_request_refused_ones_included() {
    let backend = Backend::plain();
    let (gateway, _scratch) = start(&[backend.address], "", &[]);
    for bytes in [
        "GET /logged?a HTTP/1.1\r\nHost: app.test\r\nUser-Agent: \"quoted\\\x1b\r\nConnection: close\r\n\r\n",
        "GET /logged HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /missing HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n",
    ] {
        let mut client = Client::plain(gateway.http);
        client.send(bytes);
        assert!(client.answer().is_ok(), "{bytes:?}");
    }
    let lines = gatehouse_tests::wait::until("four lines are written", || {
        let lines = gateway.process.stdout.all();
        (lines.len() >= 4).then_some(lines)
    });
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for line in &lines {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(value["status"].as_u64().is_some(), "{line}");
    }
    let (status, metrics) = gateway.admin_get("/metrics");
    assert_eq!(status, 200);
    assert!(
        metrics.contains("# TYPE") && !metrics.contains("nobody.test"),
        "unknown hosts are one series"
    );
}
