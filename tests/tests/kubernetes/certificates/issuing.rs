//! From an annotation to a certificate, on one replica and on several.

use gatehouse_tests::acme::fault::Endpoint;
use gatehouse_tests::kubernetes::{cluster, scrape};
use gatehouse_tests::raw;
use gatehouse_tests::wait;
use serde_json::Value;

use super::{Stand, serves, wait_serves};

#[test]
fn case_01_an_annotation_is_enough_and_the_certificate_lies_in_the_secret_and_in_the_vault() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-first");
        stand.want("shop", host);
        let gateway = stand.replica();
        wait_serves(&gateway, host);
        let secret = stand.wait_secret("shop");
        assert_eq!(secret["type"], "kubernetes.io/tls");
        let metadata = &secret["metadata"];
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/managed-by"],
            "gatehouse"
        );
        assert!(metadata["ownerReferences"].is_null());
        let annotation = |name: &str| {
            let name = format!("gatehouse.dev/{name}");
            metadata["annotations"][name].as_str().map(str::to_owned)
        };
        assert_eq!(annotation("issuer").as_deref(), Some("main"));
        assert_eq!(annotation("alt-names").as_deref(), Some(host));
        assert!(annotation("not-after").is_some() && annotation("renew-at").is_some());
        let serial = annotation("serial").expect("a serial");
        let issued = stand.pebble.issued();
        // Zeros in front are written by one and not by the other.
        let issued: Vec<&str> = issued.iter().map(|s| s.trim_start_matches('0')).collect();
        assert_eq!(issued, [serial.trim_start_matches('0')]);
        // What it is made from lies in the namespace of the installation.
        let record = annotation("record").expect("a record");
        let record = stand
            .look(&stand.own, &format!("secret/{record}"))
            .expect("the record");
        assert_eq!(record["type"], "gatehouse.dev/certificate-state");
        let labels = &record["metadata"]["labels"];
        assert_eq!(labels["gatehouse.dev/namespace"], "acme-first");
        assert_eq!(labels["gatehouse.dev/secret"], "shop");
        assert_eq!(labels["gatehouse.dev/issuer"], "main");
        wait::until("nothing is going on", || {
            let flags = ["-n", &stand.own, "get", "secrets", "-o", "name", "-l"];
            let valid = "gatehouse.dev/phase=Valid";
            let kubectl = stand.space.kubectl();
            let list = kubectl.run(&[&flags[..], &[valid]].concat()).success();
            (list.lines().count() == 1).then_some(())
        });
        // The authority is asked for its window after the Secret was written.
        wait::until("the Secret says when it is renewed", || {
            let (_, shown) = gateway.admin_get("/api/certificates/acme-first/shop");
            let shown: Value = serde_json::from_str(&shown).ok()?;
            shown["window"].as_object()?;
            let renewal = shown["renewAt"].as_str()?.to_owned();
            let annotations = &stand.secret("shop")?["metadata"]["annotations"];
            (annotations["gatehouse.dev/renew-at"] == renewal).then_some(())
        });
        // Everybody else is redirected as before, and nothing is complained about.
        let answer = raw::get(gateway.http, host, "/").expect("an answer");
        assert_eq!(answer.status, 308);
        wait::until("nothing is wrong", || {
            let said = gateway.diagnostics();
            (!said.contains("\"warning\"") && !said.contains("\"error\"")).then_some(())
        });

        // Series of nearly every kind are there now.
        let (_, metrics) = gateway.admin_get("/metrics");
        scrape(&metrics);

        // Another start serves what is kept, and orders nothing.
        drop(gateway);
        let orders = stand.authority.count(Endpoint::NewOrder);
        let gateway = stand.replica();
        assert!(serves(&gateway, host), "from the first moment");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), orders);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}
