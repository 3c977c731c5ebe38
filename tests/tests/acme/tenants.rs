//! Namespaces that do not trust each other: nobody gets a key for what another one is served.

use std::net::Ipv4Addr;

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::manifests;
use gatehouse_tests::wait;

use crate::home::{Home, serves};

const HOST: &str = "shop.example.test";

/// An Ingress `namespace/web` with a rule for one host and a tls entry for another.
fn ingress(home: &Home, (namespace, year): (&str, u16), rule: &str, tls: (&str, &str)) {
    let (host, annotations) = tls;
    let section = manifests::tls(host, "loot");
    let text = manifests::ingress_with("web", rule, &section, &[("/", "Prefix", "app")]);
    let metadata = format!(
        "namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z', annotations: \
         {{{annotations}}}"
    );
    let text = text.replace("namespace: demo", &metadata);
    let name = format!("manifests/{namespace}.yaml");
    home.scratch.write(&name, text);
}

fn start(home: &Home, address: Ipv4Addr, mode: &str) -> Gateway {
    home.start_under(&[], address, &[&format!("--host-ownership={mode}")])
}

#[test]
fn a_stranger_gets_no_certificate_for_a_host_of_an_older_ingress_in_any_mode() {
    alone(|| {
        for mode in ["enforce", "warn", "off"] {
            let pebble = Pebble::start();
            let home = Home::new(&pebble, "");
            let host = "imp.example.test";
            ingress(&home, ("victim", 2020), host, (host, ""));
            let asks = "gatehouse.dev/issuer: main";
            let other = "other.example.test";
            ingress(&home, ("evil", 2026), other, (host, asks));
            home.want(HOST);
            let gateway = start(&home, pebble.address(), mode);
            gateway.wait_diagnostic(&[
                "CertificateNotAllowed",
                "Ingress/evil/web",
                "imp.example.test belongs to namespace victim, whose Ingress/victim/web is older",
            ]);
            wait::until("what is allowed is served", || {
                serves(&gateway, HOST).then_some(())
            });
            assert_eq!(pebble.issued().len(), 1, "{mode}");
            assert!(!home.vault().join("certs/evil").exists(), "{mode}");
            assert!(home.vault().join("certs/demo").exists(), "{mode}");
            // When the older one has left, whoever is left has the host.
            home.scratch.remove("manifests/victim.yaml");
            wait::until("it is issued", || {
                home.vault().join("certs/evil").exists().then_some(())
            });
        }
    });
}
