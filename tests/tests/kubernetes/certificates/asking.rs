//! `gatehouse cert` at replicas of a cluster: everybody answers, the leader acts.

use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::cluster;
use gatehouse_tests::wait;
use serde_json::Value;

use super::{Stand, wait_serves};

/// Runs a command at a replica: whether it succeeded, and what it printed.
fn ask(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let admin = gateway.admin.to_string();
    let output = gateway::run([arguments, &["--admin", &admin]].concat());
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

/// The serial number that a replica shows, once it has another than this one.
fn serial(gateway: &Gateway, certificate: &str, before: &str) -> String {
    wait::until("the replica has the certificate", || {
        let (_, body) = gateway.admin_get(&format!("/api/certificates/{certificate}"));
        let view: Value = serde_json::from_str(&body).ok()?;
        let serial = view["serial"].as_str()?.to_owned();
        (view["status"] == "valid" && serial != before).then_some(serial)
    })
}

#[test]
fn every_replica_says_how_a_certificate_stands_and_the_leader_acts() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-asked");
        let leader = stand.another(&[]).gateway;
        wait::until("it leads", || {
            let (_, metrics) = leader.admin_get("/metrics");
            metrics.contains("gatehouse_acme_leader 1").then_some(())
        });
        let other = stand.replica();
        stand.want("shop", host);
        wait_serves(&leader, host);
        wait_serves(&other, host);
        let certificate = "acme-asked/shop";
        let first = serial(&leader, certificate, "");
        assert_eq!(serial(&other, certificate, ""), first);
        let (_, metrics) = other.admin_get("/metrics");
        assert!(metrics.contains("gatehouse_acme_leader 0"), "{metrics}");
        assert!(
            metrics.contains(&format!("serial=\"{first}\"}} 1")),
            "{metrics}"
        );
        for replica in [&leader, &other] {
            let (good, text) = ask(replica, &["cert", "show", certificate]);
            assert!(
                good && text.contains(&first) && text.contains(host),
                "{text}"
            );
            let (good, text) = ask(replica, &["account", "show"]);
            assert!(good && text.contains("/my-account/"), "{text}");
        }
        // It is told where the owner of the Ingress looks.
        wait::until("an Event says that it was issued", || {
            let events = stand.space.kubectl().get(&stand.space.name, "events");
            let mut items = events["items"].as_array()?.iter();
            let event = items.find(|event| event["reason"] == "CertificateIssued")?;
            assert_eq!(event["involvedObject"]["name"], "shop");
            assert_eq!(event["type"], "Normal");
            event["message"].as_str()?.contains(host).then_some(())
        });

        let (good, text) = ask(&other, &["cert", "renew", certificate]);
        assert!(!good && text.contains("does not lead"), "{text}");
        wait::until("it is renewed", || {
            let (good, text) = ask(&leader, &["cert", "renew", certificate]);
            assert!(good || text.contains("worked on"), "{text}");
            good.then_some(())
        });
        let second = serial(&leader, certificate, &first);
        assert_eq!(serial(&other, certificate, &first), second);
        let secret = stand.wait_secret("shop");
        wait::until("the Secret has it", || {
            let secret = stand.secret("shop")?;
            let serial = secret["metadata"]["annotations"]["gatehouse.dev/serial"].as_str()?;
            (serial == second).then_some(())
        });
        assert!(secret["data"]["tls.key"].is_string());
        assert_eq!(stand.pebble.issued().len(), 2);
    });
}
