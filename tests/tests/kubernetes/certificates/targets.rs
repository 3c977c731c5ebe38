//! The Secrets of users: what may be written, what is mended, and what is left alone.

use std::time::Duration;

use gatehouse_tests::acme::Setup;
use gatehouse_tests::acme::fault::Endpoint;
use gatehouse_tests::acme::rules::SlowFinalize;
use gatehouse_tests::kubernetes::cluster;
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{manifests, wait};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ALLOW, Stand, holds_certificate, serves, wait_serves};

const HOST: &str = "shop.example.test";

/// Waits until the Secret holds exactly this again.
fn wait_back(stand: &Stand<'_>, before: &Value) -> Duration {
    let begun = Instant::now();
    wait::until("the Secret is back", || {
        let now = stand.secret("shop")?;
        (now["data"] == before["data"] && now["type"] == before["type"]).then_some(())
    });
    begun.elapsed()
}

fn damage(stand: &Stand<'_>) {
    let nonsense = json!({"data": {"tls.crt": "bm9uc2Vuc2U="}});
    stand
        .space
        .kubectl()
        .patch(&stand.space.name, "secret/shop", &nonsense);
}

#[test]
fn case_40_a_secret_that_is_deleted_or_damaged_is_back_without_a_request_to_the_authority() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-heal");
        stand.want("shop", HOST);
        let gateway = stand.replica();
        let before = stand.wait_secret("shop");
        wait_serves(&gateway, HOST);
        // The window of the renewal is asked for once, right after the issue.
        wait::until("nothing is going on", || {
            (stand.authority.count(Endpoint::Renewal) == 1).then_some(())
        });
        let requests = stand.journal().len();
        stand.space.delete("secret/shop");
        let took = wait_back(&stand, &before);
        println!("a deleted Secret was back after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        damage(&stand);
        wait_back(&stand, &before);
        assert!(serves(&gateway, HOST));
        assert_eq!(stand.journal().len(), requests);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn a_secret_that_is_fought_over_is_left_alone_and_what_is_kept_is_served() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-fight");
        stand.want("shop", HOST);
        let gateway = stand.replica();
        let before = stand.wait_secret("shop");
        wait_serves(&gateway, HOST);
        for _ in 0..3 {
            damage(&stand);
            wait_back(&stand, &before);
        }
        let other = Pair::new(&[HOST]);
        let intruder = json!({"stringData": {"tls.crt": other.certificate, "tls.key": other.key}});
        let kubectl = stand.space.kubectl();
        kubectl.patch(&stand.space.name, "secret/shop", &intruder);
        gateway.wait_diagnostic(&["CertificateSecretContested", "acme-fight", "shop"]);
        let left = stand.secret("shop").expect("the Secret");
        assert_ne!(left["data"], before["data"]);
        // The intruder's would be good for the host as well.
        let shown = Handshake::new(HOST).connect(gateway.https).expect("TLS");
        let ours = shown.certificate();
        let theirs = &other.certificate;
        assert!(!theirs.contains(&base64(&ours)), "what is kept is served");
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

/// The first characters of a certificate as in PEM.
fn base64(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    text.chars().take(60).collect()
}

#[test]
fn case_42_a_secret_that_cannot_be_written_blocks_before_any_order() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-block");
        let kubectl = stand.space.kubectl();
        // The wrong type cannot be changed.
        stand.space.apply(
            "{apiVersion: v1, kind: Secret, metadata: {name: shop, namespace: demo}, type: Opaque}",
        );
        stand.want("shop", HOST);
        let gateway = stand.replica();
        gateway.wait_diagnostic(&[
            "CertificateSecretNotWritable",
            "shop",
            "Opaque",
            "delete it",
        ]);
        wait::until("the owner of the Ingress is told", || {
            let flags = ["-n", "acme-block", "get", "events", "-o", "json"];
            let text = kubectl.run(&flags).success();
            let events: Value = serde_json::from_str(&text).expect("JSON");
            let mut events = events["items"].as_array()?.iter();
            events.find(|event| event["reason"] == "CertificateSecretNotWritable")?;
            Some(())
        });
        stand.space.delete("secret/shop");
        wait_serves(&gateway, HOST);
        stand.wait_secret("shop");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);

        // A quota that is used up.
        stand.space.apply(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: full, namespace: demo}, spec: \
             {hard: {count/secrets: '1'}}}",
        );
        let used =
            json!({"status": {"hard": {"count/secrets": "1"}, "used": {"count/secrets": "1"}}});
        kubectl.patch_status("acme-block", "resourcequota/full", &used);
        stand.want("cart", "cart.example.test");
        gateway.wait_diagnostic(&["CertificateSecretNotWritable", "cart", "quota"]);
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        stand.space.delete("resourcequota/full");
        wait_serves(&gateway, "cart.example.test");
        stand.wait_secret("cart");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 2);
        assert_eq!(stand.pebble.issued().len(), 2);
    });
}

#[test]
fn case_42_a_secret_without_room_for_a_certificate_blocks_before_any_order() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-room");
        // A Secret has room for 1 MiB.
        let secret = |bytes: usize| {
            let more = "A".repeat(bytes);
            format!(
                "{{apiVersion: v1, kind: Secret, metadata: {{name: shop, namespace: demo}}, type: \
                 kubernetes.io/tls, stringData: {{tls.crt: '', tls.key: '', more: {more}}}}}"
            )
        };
        stand.space.create(&secret(1_047_000));
        stand.want("shop", HOST);
        let gateway = stand.replica();
        gateway.wait_diagnostic(&["CertificateSecretNotWritable", "shop", "1048576"]);
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 0);
        stand.space.delete("secret/shop");
        stand.space.create(&secret(1_000_000));
        wait_serves(&gateway, HOST);
        let written = wait::until("the Secret is written", || {
            stand.secret("shop").filter(holds_certificate)
        });
        assert!(written["data"]["more"].is_string(), "what others put there");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn case_43_a_secret_that_cannot_be_written_any_more_costs_no_certificate() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-late");
        stand.authority.rule(SlowFinalize { answers: 1 });
        stand.want("shop", HOST);
        let gateway = stand.replica();
        wait::until("the certificate is asked for", || {
            (stand.authority.count(Endpoint::Finalize) == 1).then_some(())
        });
        // Made while the authority says that it is still processing, for three seconds.
        stand.space.apply(
            "{apiVersion: v1, kind: Secret, metadata: {name: shop, namespace: demo}, type: Opaque}",
        );
        wait_serves(&gateway, HOST);
        gateway.wait_diagnostic(&["CertificateSecretNotWritable", "shop", "Opaque"]);
        stand.space.delete("secret/shop");
        stand.wait_secret("shop");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn a_certificate_of_somebody_else_is_served_as_it_is_until_it_is_handed_over() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-adopt");
        let theirs = Pair::new(&[HOST]);
        let secret = manifests::secret("shop", &theirs.certificate, &theirs.key);
        stand.space.apply(&secret);
        stand.want("shop", HOST);
        let gateway = stand.replica();
        gateway.wait_diagnostic(&[
            "CertificateSecretNotWritable",
            "shop",
            "gatehouse.dev/adopt",
        ]);
        assert!(serves(&gateway, HOST), "theirs");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 0);
        let before = stand.secret("shop").expect("the Secret");
        let kubectl = stand.space.kubectl();
        let labels = json!({"metadata": {"labels": {"team": "web"}, "annotations": {"gatehouse.dev/adopt": "true"}}});
        kubectl.patch("acme-adopt", "secret/shop", &labels);
        let after = wait::until("it is taken over", || {
            let now = stand.secret("shop")?;
            (now["data"] != before["data"]).then_some(now)
        });
        assert!(holds_certificate(&after));
        // What others have written on it stays.
        assert_eq!(after["metadata"]["labels"]["team"], "web");
        wait_serves(&gateway, HOST);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn labels_of_a_namespace_decide_who_may_have_a_certificate() {
    cluster::shared(|server| {
        let allow =
            "      allow: [{namespaces: {matchLabels: {team: web}}, hosts: ['*.example.test']}]\n";
        let stand = Stand::with(server, "acme-labels", Setup::default(), allow);
        stand.want("shop", HOST);
        let gateway = stand.replica();
        gateway.wait_diagnostic(&["CertificateNotAllowed", "acme-labels", "allow"]);
        assert_eq!(stand.authority.count(Endpoint::NewAccount), 0);
        let label = json!({"metadata": {"labels": {"team": "web"}}});
        let kubectl = stand.space.kubectl();
        kubectl.patch("acme-labels", "namespace/acme-labels", &label);
        wait_serves(&gateway, HOST);
    });
}

#[test]
fn case_45_what_nobody_wants_is_kept_for_its_namespace_and_not_for_another_of_the_same_name() {
    cluster::shared(|server| {
        let stand = Stand::with(server, "acme-tenant", Setup::default(), ALLOW);
        let kubectl = stand.space.kubectl();
        stand.want("shop", HOST);
        let gateway = stand.replica();
        stand.wait_secret("shop");
        wait_serves(&gateway, HOST);
        let phase = |wanted: &str| {
            let label = format!("gatehouse.dev/phase={wanted}");
            let flags = [
                "-n", &stand.own, "get", "secrets", "-o", "name", "-l", &label,
            ];
            wait::until(wanted, || {
                (kubectl.run(&flags).success().lines().count() == 1).then_some(())
            });
        };
        phase("Valid");
        stand.space.delete("ingress/shop");
        phase("Tombstone");
        stand.want("shop", HOST);
        phase("Valid");
        wait_serves(&gateway, HOST);
        assert_eq!(stand.pebble.issued().len(), 1, "revived");

        // Gone with everything in it; no controller collects that here.
        stand.space.delete("ingress/shop");
        phase("Tombstone");
        stand.space.delete("secret/shop");
        stand.space.delete("service/app");
        stand.space.delete("endpointslice/app-0");
        kubectl.delete("acme-tenant", "namespace/acme-tenant");
        let rest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme-tenant"},
            "spec": {"finalizers": []}});
        let path = "/api/v1/namespaces/acme-tenant/finalize";
        let flags = ["replace", "--raw", path, "-f", "-"];
        kubectl.run_with(&flags, &rest.to_string()).success();
        wait::until("the namespace is gone", || {
            stand
                .look("acme-tenant", "namespace/acme-tenant")
                .is_none()
                .then_some(())
        });
        kubectl.apply("{apiVersion: v1, kind: Namespace, metadata: {name: acme-tenant}}");
        let backend = stand.space.backend("app");
        stand.want("shop", HOST);
        stand.wait_secret("shop");
        wait_serves(&gateway, HOST);
        assert_eq!(
            stand.pebble.issued().len(),
            2,
            "another tenant, another key"
        );
        drop(backend);
    });
}
