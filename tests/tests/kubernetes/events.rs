//! What `kubectl describe ingress` says.

use std::time::Duration;

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{Space, cluster};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{manifests, wait};
use serde_json::Value;

fn gateway(space: &Space<'_>) -> Gateway {
    let namespace = format!("--pod-namespace={}", space.name);
    space.gateway(&[&namespace, "--publish-status-address=203.0.113.7"])
}

fn describe(space: &Space<'_>, ingress: &str) -> String {
    space
        .kubectl()
        .run(&["-n", &space.name, "describe", "ingress", ingress])
        .success()
}

/// Waits until `describe` shows a line with all of these.
fn wait_line(space: &Space<'_>, ingress: &str, words: &[&str]) -> String {
    let mut last = String::new();
    wait::within(wait::PATIENCE, || {
        last = describe(space, ingress);
        let mut lines = last.lines();
        let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned)
    })
    .unwrap_or_else(|| panic!("no line with {words:?} in:\n{last}"))
}

/// The Events about Ingresses of the namespace by name, with their counts. The API server tells of
/// Services, too, whose addresses it had to put in order.
fn events(space: &Space<'_>) -> Vec<(String, i64)> {
    let list = space.kubectl().get(&space.name, "events");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let mut events: Vec<(String, i64)> = items
        .iter()
        .filter(|event| event["involvedObject"]["kind"] == "Ingress")
        .map(|event: &Value| {
            let name = event["metadata"]["name"].as_str().expect("a name");
            (name.to_owned(), event["count"].as_i64().unwrap_or_default())
        })
        .collect();
    events.sort();
    events
}

fn ingress(name: &str, service: &str) -> String {
    manifests::ingress(name, &format!("{name}.test"), &[("/", "Prefix", service)])
}

#[test]
fn describe_tells_what_is_wrong_and_what_is_served() {
    cluster::shared(|server| {
        let space = Space::new(server, "told-events");
        let _backend = space.backend("app");
        space.apply(&ingress("good", "app"));
        space.apply(&ingress("bad", "missing"));
        let first = gateway(&space);
        wait_line(
            &space,
            "good",
            &["Normal", "Sync", "gatehouse", "served for good.test"],
        );
        let words = [
            "Warning",
            "ServiceMissing",
            "Service `missing` does not exist",
        ];
        println!("{}", wait_line(&space, "bad", &words));
        assert!(
            !describe(&space, "bad").contains("Sync"),
            "it is not served"
        );

        // Repaired, it is told; broken again in the same way, that is the same Event.
        space.apply(&ingress("bad", "app"));
        wait_line(&space, "bad", &["Sync", "served for bad.test"]);
        let known = events(&space);
        assert_eq!(known.len(), 3, "{known:?}");

        // Another replica and another start say nothing new.
        let holder = || {
            let lease = space.kubectl().get(&space.name, "lease/gatehouse-leader");
            let holder = lease["spec"]["holderIdentity"].as_str();
            holder.unwrap_or_default().to_owned()
        };
        let before = holder();
        let second = gateway(&space);
        drop(first);
        wait::until("the second replica leads", || {
            let now = holder();
            (!now.is_empty() && now != before).then_some(())
        });
        second.wait_status("good.test", "/", 200);
        space.apply(&ingress("other", "missing"));
        wait_line(&space, "other", &["Warning", "ServiceMissing"]);
        let now = events(&space);
        assert_eq!(now.len(), 4, "{now:?}");
        for event in known {
            assert!(now.contains(&event), "{event:?} in {now:?}");
        }
    });
}

#[test]
fn who_does_not_own_a_host_is_told_and_not_served() {
    cluster::shared(|server| {
        let space = Space::new(server, "owners");
        let _backend = space.backend("app");
        space.apply(&ingress("owner", "app"));
        let kubectl = space.kubectl();
        kubectl.apply("{apiVersion: v1, kind: Namespace, metadata: {name: strangers}}");
        // Ages have a resolution of a second, and of equal age the greater name wins.
        let created = |namespace: &str, name: &str| {
            let object = kubectl.get(namespace, &format!("ingress/{name}"));
            let text = object["metadata"]["creationTimestamp"].as_str();
            text.expect("a time").to_owned()
        };
        let owned = created("owners", "owner");
        wait::until("a second has passed", || {
            let probe = space.own(&ingress("probe", "app").replace("probe.test", "probe.example"));
            kubectl.apply_in(
                "strangers",
                &probe.replace("namespace: owners", "namespace: strangers"),
            );
            let later = created("strangers", "probe") > owned;
            if !later {
                kubectl.delete("strangers", "ingress/probe");
            }
            later.then_some(())
        });
        let stranger = manifests::ingress("stranger", "owner.test", &[("/login", "Prefix", "app")]);
        let stranger = space
            .own(&stranger)
            .replace("namespace: owners", "namespace: strangers");
        kubectl.apply_in("strangers", &stranger);

        let namespace = "--pod-namespace=owners";
        let gateway = space.gateway(&[namespace, "--host-ownership=enforce"]);
        assert_eq!(
            gateway.wait_status("owner.test", "/login", 200).text(),
            "app"
        );
        let mut last = String::new();
        let told = wait::within(wait::PATIENCE, || {
            let flags = ["-n", "strangers", "describe", "ingress", "stranger"];
            last = kubectl.run(&flags).success();
            let words = ["HostOwnedElsewhere", "belongs to namespace `owners`"];
            words.iter().all(|word| last.contains(word)).then_some(())
        });
        assert!(told.is_some(), "{last}");

        // The owner leaves, the next in age is served: by a service that it does not have.
        space.delete("ingress/owner");
        gateway.wait_status("owner.test", "/login", 503);
    });
}

#[test]
fn events_are_few_however_much_is_wrong() {
    cluster::shared(|server| {
        let space = Space::new(server, "flood");
        let paths: Vec<String> = (0..60).map(|number| format!("/{number}")).collect();
        let rules: Vec<(&str, &str, &str)> = paths
            .iter()
            .map(|path| (path.as_str(), "Prefix", "missing"))
            .collect();
        space.apply(&manifests::ingress("flood", "flood.test", &rules));
        let _gateway = gateway(&space);
        wait::until("twenty are told", || {
            (events(&space).len() >= 20).then_some(())
        });
        assert!(wait::holds(Duration::from_secs(2), || events(&space).len() <= 20));
    });
}

#[test]
fn what_is_wrong_with_a_service_or_a_secret_is_said_about_the_ingress() {
    cluster::shared(|server| {
        let space = Space::new(server, "named");
        space.apply(&manifests::service("idle", &[]));
        space.apply(&manifests::secret("pair", "no certificate", "no key"));
        let tls = manifests::tls("named.test", "pair");
        let rules = [("/", "Prefix", "idle")];
        space.apply(&manifests::ingress_with("x", "named.test", &tls, &rules));
        let _gateway = gateway(&space);
        wait_line(
            &space,
            "x",
            &["EndpointsMissing", "Service/named/idle: no endpoint"],
        );
        wait_line(&space, "x", &["CertificateInvalid", "Secret/named/pair"]);
    });
}

#[test]
fn a_secret_that_is_there_is_never_called_missing() {
    cluster::shared(|server| {
        let space = Space::new(server, "unsaid");
        let _backend = space.backend("app");
        space.apply(&ingress("plain", "app"));
        let gateway = gateway(&space);
        wait_line(&space, "plain", &["Sync"]);
        // Nothing has named a Secret of this namespace so far, so none of them is watched; the second
        // is of a type that has to be looked for by name.
        for (name, kind) in [("pair", "kubernetes.io/tls"), ("opaque", "Opaque")] {
            let host = format!("{name}.unsaid");
            let pair = Pair::new(&[&host]);
            let secret = manifests::secret(name, &pair.certificate, &pair.key);
            space.apply(&secret.replace("kubernetes.io/tls", kind));
            let (tls, rules) = (manifests::tls(&host, name), [("/", "Prefix", "app")]);
            space.apply(&manifests::ingress_with(name, &host, &tls, &rules));
            wait::until("the certificate is served", || {
                let secured = Handshake::new(&host).connect(gateway.https).ok()?;
                (secured.common_name() == host).then_some(())
            });
        }
        let tls = manifests::tls("none.unsaid", "none");
        let rules = [("/", "Prefix", "app")];
        space.apply(&manifests::ingress_with(
            "none",
            "none.unsaid",
            &tls,
            &rules,
        ));
        wait_line(&space, "none", &["SecretMissing", "create it"]);
        for name in ["pair", "opaque"] {
            let told = wait_line(&space, name, &["Sync"]);
            let all = describe(&space, name);
            assert!(!all.contains("Warning"), "{told} in:\n{all}");
        }
    });
}
