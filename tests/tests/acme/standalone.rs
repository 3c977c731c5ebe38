//! The whole way of a process on its own: manifests with an annotation, `gatehouse run --acme`, a real
//! authority that validates at the listeners of the gateway.

use std::time::Duration;

use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::{self, Client};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use serde_json::json;

use crate::home::{Home, serves};

/// What Pebble says about an order that it works on.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn issues(issuer: &str, answered: &str) {
    let host = "shop.example.test";
    let pebble = Pebble::start();
    let home = Home::new(&pebble, issuer);
    home.want(host);
    let gateway = home.start(pebble.address());
    let issued = wait::within(Duration::from_secs(60), || {
        (!pebble.issued().is_empty()).then_some(())
    });
    assert!(
        issued.is_some(),
        "{}\n{:#?}",
        gateway.diagnostics(),
        gateway.process.stderr.all()
    );
    let begun = tokio::time::Instant::now();
    wait::until("it is served", || serves(&gateway, host).then_some(()));
    let took = begun.elapsed();
    // The authority asks to be asked again a second after it has signed.
    assert!(took < RETRY_AFTER + Duration::from_secs(1), "{took:?}");
    let (_, metrics) = gateway.admin_get("/metrics");
    let series = format!("type=\"{answered}\",result=\"answered\"}} ");
    let line = metrics.lines().find(|line| line.contains(&series));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
    // Everybody else is redirected as before, and nothing is complained about.
    let answer = raw::get(gateway.http, host, "/").expect("an answer");
    assert_eq!(answer.status, 308);
    wait::until("nothing is wrong", || {
        let said = gateway.diagnostics();
        (!said.contains("\"warning\"") && !said.contains("\"error\"")).then_some(())
    });
    gateway.wait_diagnostic(&["CertificateIssued", "web-tls", host]);

    home.keeps_quiet(&gateway);

    // Another start serves what is kept, at once and without an order.
    drop(gateway);
    assert!(home.vault().is_dir());
    let gateway = home.start(pebble.address());
    assert!(serves(&gateway, host), "a gateway that is ready serves it");
    assert_eq!(pebble.issued().len(), 1);
}

#[test]
fn case_01_an_annotation_is_enough_for_a_certificate_by_http_01() {
    alone(|| issues("      challenges: [http-01]\n", "http-01"));
}

#[test]
fn case_05_an_annotation_is_enough_for_a_certificate_by_tls_alpn_01() {
    alone(|| issues("      challenges: [tls-alpn-01]\n", "tls-alpn-01"));
}

#[test]
fn case_48_a_host_that_is_not_allowed_is_told_and_not_ordered() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        home.want("shop.other.test");
        let gateway = home.start(pebble.address());
        gateway.wait_diagnostic(&["CertificateNotAllowed", "Ingress/demo/web", "allow"]);
        gateway.wait_diagnostic(&["CertificatePending", "web-tls"]);
        assert!(pebble.issued().is_empty());
        assert!(!pebble.log().contains("/sign-me-up"), "no account either");
        // The right host is ordered without a restart.
        home.want("shop.example.test");
        wait::until("it is served", || {
            serves(&gateway, "shop.example.test").then_some(())
        });
    });
}

#[test]
fn a_renewal_is_served_without_a_request_or_a_handshake_that_fails() {
    alone(|| {
        let host = "shop.example.test";
        let lives =
            json!({"profiles": {"classic": {"description": "short", "validityPeriod": 40}}});
        let pebble = Pebble::start_with(Setup {
            config: lives,
            ..Setup::default()
        });
        let home = Home::new(&pebble, "      challenges: [tls-alpn-01]\n");
        home.want(host);
        let gateway = home.start(pebble.address());
        wait::until("it is served", || serves(&gateway, host).then_some(()));
        let handshake = || Handshake::new(host).connect(gateway.https);
        let ask = |client: &mut Client| {
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
        };
        let first = handshake().expect("TLS handshake");
        let certificate = first.certificate();
        let mut open = first.client();
        let renewed = wait::within(Duration::from_secs(60), || {
            ask(&mut open);
            let secured = handshake().expect("TLS handshake");
            let new = secured.certificate() != certificate;
            assert_eq!(secured.names(), [host]);
            ask(&mut secured.client());
            new.then_some(())
        });
        assert!(renewed.is_some(), "{}", gateway.diagnostics());
        ask(&mut open);
        assert!(pebble.issued().len() >= 2);
        home.keeps_quiet(&gateway);
    });
}
