//! The authority looks at a host that has rules of its own, and at one by its address.

use std::net::{IpAddr, SocketAddr};

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::backend::{Backend, Step};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::{self, alone};
use gatehouse_tests::raw;
use gatehouse_tests::tls::{Handshake, VERSIONS};
use gatehouse_tests::wait;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::home::{Home, PATIENCE, address, answered, serves, wait_served};

const HOST: &str = "shop.example.test";

#[test]
fn case_03_a_host_that_redirects_rewrites_and_lets_nobody_in_is_proven_by_http_01() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      challenges: [http-01]\n");
        // None of these restrictions can be applied yet, so the door is closed: nobody passes.
        let all = ", nginx.ingress.kubernetes.io/force-ssl-redirect: 'true', \
                   nginx.ingress.kubernetes.io/rewrite-target: /elsewhere, \
                   nginx.ingress.kubernetes.io/auth-type: basic, \
                   nginx.ingress.kubernetes.io/auth-secret: users, \
                   nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24";
        home.ask("web", "main", &[HOST], all);
        let gateway = home.start(cluster::address());
        pebble.lead(HOST, address(&gateway));
        let ask = |path: &str| {
            let plain = raw::get(gateway.http, HOST, path).expect("an answer");
            let mut secure = Handshake::new(HOST)
                .connect(gateway.https)
                .expect("a handshake")
                .client();
            secure.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            (plain.status, secure.answer().expect("an answer").status)
        };
        // What everybody else sees, before and after.
        let guarded = [
            ask("/"),
            ask("/x"),
            ask("/.well-known/acme-challenge/too-short"),
        ];
        wait_served(&gateway, HOST);
        assert!(answered(&gateway, "http-01") > 0);
        assert_eq!(guarded, [(308, 503); 3]);
        assert_eq!([ask("/"), ask("/x")], [(308, 503); 2]);
        assert!(home.backend.requests().is_empty(), "nobody came through");
        assert_eq!(pebble.issued().len(), 1);
    });
}

#[test]
fn case_04_http_01_is_followed_to_the_tls_listener_that_has_no_certificate_yet() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      challenges: [http-01]\n");
        let place = cluster::address();
        // Something in front sends everybody to https, the authority, too.
        let front = SocketAddr::new(IpAddr::V4(place), Pebble::HTTP);
        let redirecting = Backend::at(front, |request| {
            let to = format!("https://{HOST}:{}{}", Pebble::TLS, request.target());
            let head = format!(
                "HTTP/1.1 301 Moved Permanently\r\nLocation: {to}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            );
            vec![Step::Send(head.into_bytes()), Step::Close]
        });
        home.want(HOST);
        pebble.lead(HOST, place);
        let gateway = home.start_under(&[], place, &["--http-listen=127.0.0.1:0"]);
        wait_served(&gateway, HOST);
        assert!(!redirecting.requests().is_empty(), "it was redirected");
        assert!(answered(&gateway, "http-01") > 0, "and answered over TLS");
    });
}

#[test]
fn case_07_a_validation_that_nobody_ordered_ends_with_an_alert_and_shows_no_certificate() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      challenges: [tls-alpn-01]\n");
        home.want(HOST);
        let gateway = home.start(cluster::address());
        pebble.lead(HOST, address(&gateway));
        wait_served(&gateway, HOST);
        wait::until("the challenge is taken away again", || {
            (home.phase("web-tls") == "Valid" && home.published() == 0).then_some(())
        });
        for name in [Some(HOST), Some("other.example.test"), None] {
            for version in VERSIONS {
                let client = Handshake::with(name, &["acme-tls/1"], &[version]);
                let refused = wait::until("the data plane knows that it is over", || {
                    client.connect(gateway.https).err()
                });
                let text = refused.to_string();
                assert!(text.contains("received fatal alert"), "{name:?}: {text}");
            }
        }
        assert!(serves(&gateway, HOST), "everybody else is served");
    });
}

/// What a client without a server name is shown, as `check` judges it.
fn without_a_name(gateway: &Gateway, check: impl Fn(&X509Certificate<'_>) -> bool) -> bool {
    let client = Handshake::with(None, &["http/1.1"], VERSIONS);
    let Ok(secured) = client.connect(gateway.https) else {
        return false;
    };
    let der = secured.certificate();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    check(&certificate)
}

#[test]
fn case_14_an_address_has_a_certificate_of_days_and_is_served_without_a_server_name() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      profile: shortlived\n");
        let place = cluster::address();
        let ip = place.to_string();
        home.ask("web", "main", &[&ip], "");
        let gateway = home.start(place);
        let octets = place.octets();
        let fits = |certificate: &X509Certificate<'_>| {
            let names = certificate.subject_alternative_name().ok().flatten();
            let names = names.map(|names| names.value.general_names.clone());
            names == Some(vec![GeneralName::IPAddress(&octets)])
        };
        let served = wait::within(PATIENCE, || without_a_name(&gateway, fits).then_some(()));
        assert!(served.is_some(), "{}", gateway.diagnostics());
        let days = |certificate: &X509Certificate<'_>| {
            let validity = certificate.validity();
            let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
            seconds <= 6 * 24 * 3_600 + 60
        };
        assert!(without_a_name(&gateway, days), "some days");
        assert_eq!(pebble.issued().len(), 1);
    });
}
