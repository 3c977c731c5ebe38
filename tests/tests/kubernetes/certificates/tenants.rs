//! Namespaces that do not trust each other, on an API server.

use gatehouse_tests::acme::fault::Endpoint;
use gatehouse_tests::kubernetes::cluster;
use gatehouse_tests::manifests;
use serde_json::json;

use super::{Stand, wait_serves, wish};

/// Greater than the name of the other namespace: of equally old Ingresses its own goes first.
const VICTIM: &str = "acme-victim";

#[test]
fn a_stranger_gets_no_secret_for_a_host_of_an_older_ingress() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-stranger");
        let kubectl = stand.space.kubectl();
        let host = "imp.example.test";
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": VICTIM}});
        kubectl.apply(&namespace.to_string());
        let tls = manifests::tls(host, "own");
        let served = manifests::ingress_with("web", host, &tls, &[("/", "Prefix", "app")]);
        let served = served.replace("namespace: demo", &format!("namespace: {VICTIM}"));
        kubectl.apply(&stand.space.own(&served));
        // A rule for something else, and the host in the tls section.
        let loot =
            wish("loot", host).replace(&format!("- host: '{host}'"), "- host: 'x.example.test'");
        stand.space.apply(&loot);
        let gateway = stand.replica_at(stand.pebble.address(), &["--host-ownership=enforce"]);
        let whose = format!("{host} belongs to namespace {VICTIM}");
        gateway.wait_diagnostic(&["CertificateNotAllowed", "acme-stranger/loot", &whose]);
        stand.want("shop", "shop.example.test");
        wait_serves(&gateway, "shop.example.test");
        assert_eq!(stand.secret("loot"), None);
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
    });
}
