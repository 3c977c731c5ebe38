//! Hosts below a wildcard certificate of their namespace: what they are served, and what becomes of the
//! certificates that were asked for them alone.

use gatehouse_acme::keeper::{Command, Keeper};
use gatehouse_acme::plan::Code;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::{Bind, Pebble, Setup};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;

use crate::customer::with;
use crate::dns::{asking, one_zone};
use crate::home::{Home, PATIENCE};
use crate::stand::{Stand, request, target, until, valid, want};

/// Names of the certificate that a client of this host is shown.
fn shown(gateway: &Gateway, host: &str) -> Vec<String> {
    let secured = Handshake::new(host).connect(gateway.https);
    secured.expect("TLS handshake").names()
}

fn updating(bind: &Bind) -> String {
    format!(
        "      challenges: [http-01, dns-01]\n      dns: [{{zones: [example.test], provider: rfc2136, \
         secret: key, server: '{at}', resolvers: ['{at}']}}]\n",
        at = bind.at()
    )
}

#[test]
fn case_15_a_host_without_a_certificate_of_its_own_is_served_the_wildcard_one() {
    alone(|| {
        let bind = one_zone();
        let pebble = asking(&bind);
        let home = Home::new(&pebble, &updating(&bind));
        home.secret("key", "key", Bind::KEY);
        home.secret("key", "secret", Bind::SECRET);
        home.ask("wild", "main", &["*.example.test"], "");
        home.ask("one", "main", &["shop.example.test"], "");
        let gateway = home.start(pebble.address());
        let wild = |gateway: &Gateway| {
            let names = shown(gateway, "shop.example.test");
            (names == ["*.example.test"]).then_some(())
        };
        let served = wait::within(PATIENCE, || wild(&gateway));
        assert!(served.is_some(), "{}", gateway.diagnostics());
        assert_eq!(pebble.issued().len(), 1);
        gateway.wait_diagnostic(&["CertificateCovered", "one-tls", "wild-tls is valid"]);
        wait::until("nothing is pending", || {
            let said = gateway.diagnostics();
            (!said.contains("CertificatePending")).then_some(())
        });
        // A client that holds the certificate may use one connection for both hosts.
        let secured = Handshake::new("www.example.test").connect(gateway.https);
        let mut client = secured.expect("TLS handshake").client();
        client.send("GET / HTTP/1.1\r\nHost: shop.example.test\r\n\r\n");
        assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
        drop(gateway);
        let gateway = home.start(pebble.address());
        let served = wait::within(PATIENCE, || wild(&gateway));
        assert!(served.is_some(), "{}", gateway.diagnostics());
        assert_eq!(pebble.issued().len(), 1);
    });
}

async fn covered(keeper: &Keeper, secrets: &[&str]) {
    let mut findings = keeper.findings.clone();
    let told = findings.wait_for(|found| {
        let found = found.iter().filter(|each| each.code == Code::Covered);
        let found: Vec<&str> = found.map(|each| each.target.secret.as_str()).collect();
        found == secrets
    });
    let told = tokio::time::timeout(PATIENCE, told).await.map(drop);
    assert!(told.is_ok(), "{:#?}", keeper.findings.borrow());
}

#[test]
fn single_certificates_are_ordered_and_renewed_until_a_wildcard_one_is_there() {
    alone(|| {
        let bind = one_zone();
        let pebble = Pebble::start_with(Setup {
            dns: Some(bind.at()),
            ..Setup::default().trusting()
        });
        with(async || {
            let stand = Stand::updating(&pebble, &pebble.directory(), &bind, "");
            let more = updating(&bind);
            let all = crate::stand::issuers(&pebble.directory(), &more);
            stand.issuers.send_replace(std::sync::Arc::new(all));
            // Nobody may write what would prove a wildcard.
            stand.secret("key", "secret", "d3Jvbmc=");
            let _server = stand.serve(&pebble);
            let keeper = stand.keeper();
            let one = request("one", &["shop.example.test"]);
            want(&keeper, vec![one.clone()]);
            let first = valid(&keeper, "one").await;
            let wishes = vec![
                one,
                request("two", &["news.example.test"]),
                request("wild", &["*.example.test"]),
            ];
            want(&keeper, wishes);
            // What is missing is ordered as soon as the wildcard is known not to come.
            until(&keeper, "wild", |report| report.failures > 0).await;
            valid(&keeper, "two").await;
            let kept = until(&keeper, "one", |report| report.phase == Phase::Valid).await;
            assert!(kept.wanted, "{kept:#?}");
            covered(&keeper, &[]).await;

            stand.secret("key", "secret", Bind::SECRET);
            let retried = keeper.command(target("wild"), Command::Retry).await;
            retried.expect("tried again");
            valid(&keeper, "wild").await;
            covered(&keeper, &["one", "two"]).await;
            // Nothing is thrown away, in case the wildcard is.
            let kept = until(&keeper, "one", |report| !report.wanted).await;
            assert_eq!(kept.serial.as_ref(), Some(&first));
            let covers = keeper.covers.borrow().clone();
            assert_eq!(covers.get(&target("one")), Some(&target("wild")));
            assert_eq!(kept.phase, Phase::Valid);
            assert_eq!(pebble.issued().len(), 3);
        });
    });
}
