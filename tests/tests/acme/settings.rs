//! What is said about certificates in the file of issuers and by annotation, while the gateway runs.

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use serde_json::Value;

use crate::asking::{HOST, insist, renewed, shown, valid};
use crate::home::{Home, issuer};

#[test]
fn the_file_of_issuers_is_followed_and_a_broken_one_keeps_the_last_good() {
    alone(|| {
        let pebble = Pebble::start();
        let good = issuer("main", &pebble.directory(), "");
        let allowing = |host: &str| good.replace("*.example.test", host);
        let home = Home::with(&pebble, &[allowing("other.test")]);
        home.want(HOST);
        let gateway = home.start(pebble.address());
        gateway.wait_diagnostic(&["CertificateNotAllowed", HOST]);
        home.issuers(std::slice::from_ref(&good));
        valid(&gateway);
        let broken = allowing("*.org");
        home.issuers(&[broken]);
        let file = home.scratch.file("issuers.yaml").display().to_string();
        let found = gateway.wait_diagnostic(&[
            "CertificateIssuersInvalid",
            &file,
            "acme.issuers.main.allow",
        ]);
        assert!(found.contains("*.name.org"), "{found}");
        // The last good one holds: it is renewed as before.
        let before = valid(&gateway);
        insist(&gateway, &["cert", "renew", "demo/web-tls"]);
        renewed(&gateway, &before);
        home.scratch.replace("issuers.yaml", "acme: [");
        gateway.wait_diagnostic(&["CertificateIssuersInvalid", "line"]);
        home.issuers(std::slice::from_ref(&good));
        wait::until("it is mended", || {
            (!gateway.diagnostics().contains("CertificateIssuersInvalid")).then_some(())
        });
        home.keeps_quiet(&gateway);
    });
}

#[test]
fn an_ingress_says_which_kind_of_certificate_it_wants() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        home.ask(
            "web",
            "main",
            &[HOST],
            ", gatehouse.dev/tls-key: rsa2048, gatehouse.dev/tls-challenges: tls-alpn-01, \
             gatehouse.dev/tls-profile: classic",
        );
        let gateway = home.start(pebble.address());
        let first = valid(&gateway);
        // An RSA key in a certificate, and nothing of that kind in an EC one.
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        let has = |der: &[u8]| der.windows(rsa.len()).any(|part| part == rsa);
        let serves = |rsa: bool| {
            let shown = Handshake::new(HOST).connect(gateway.https).ok()?;
            (shown.names() == [HOST] && has(&shown.certificate()) == rsa).then_some(())
        };
        wait::until("an RSA key is served", || serves(true));
        let (_, metrics) = gateway.admin_get("/metrics");
        let unused =
            "gatehouse_acme_challenge_answers_total{type=\"http-01\",result=\"answered\"} 0";
        assert!(metrics.contains(unused), "{metrics}");
        // A mistake is told, and does not take the certificate away.
        home.ask("web", "main", &[HOST], ", gatehouse.dev/tls-key: rsa1024");
        let found =
            gateway.wait_diagnostic(&["CertificateSettingInvalid", "gatehouse.dev/tls-key"]);
        assert!(
            found.contains("rsa2048") && found.contains("rsa1024"),
            "{found}"
        );
        renewed(&gateway, &first);
        wait::until("the issuer's setting holds", || serves(false));
        let before = pebble.issued().len();
        home.ask(
            "web",
            "main",
            &[HOST],
            ", gatehouse.dev/tls-profile: nonsense",
        );
        let view = shown_failing(&gateway);
        let words = view["failure"]["words"].as_str().expect("words").to_owned();
        assert!(
            words.contains("nonsense") && words.contains("classic"),
            "{view:#}"
        );
        assert_eq!(pebble.issued().len(), before);
    });
}

fn shown_failing(gateway: &Gateway) -> Value {
    shown(gateway, |view| view["failure"].is_object())
}
