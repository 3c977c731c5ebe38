//! Objects come from the API server and are followed.

use std::time::Duration;

use gatehouse_tests::backend::{self, Backend};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{Space, cluster, endpoint};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{manifests, raw, wait};
use serde_json::{Value, json};

/// Name of the certificate that a host is served with.
fn certificate(gateway: &Gateway, host: &str) -> String {
    let secured = Handshake::new(host).connect(gateway.https);
    secured.expect("a handshake").common_name()
}

/// `/api/convergence`.
fn convergence(gateway: &Gateway) -> Value {
    let (status, body) = gateway.admin_get("/api/convergence");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[test]
fn an_ingress_is_served_edited_and_gone() {
    cluster::shared(|server| {
        let space = Space::new(server, "followed");
        let (_app, _other) = (space.backend("app"), space.backend("other"));
        let rules = |service| [("/", "Prefix", service)];
        space.apply(&manifests::ingress("x", "followed.test", &rules("app")));
        let gateway = space.gateway(&[]);
        let answer = gateway.wait_status("followed.test", "/", 200);
        assert_eq!(answer.text(), "app");

        space.apply(&manifests::ingress("x", "followed.test", &rules("other")));
        wait::until("the other backend answers", || {
            let answer = raw::get(gateway.http, "followed.test", "/").ok()?;
            (answer.text() == "other").then_some(())
        });
        space.delete("ingress/x");
        gateway.wait_status("followed.test", "/", 404);
    });
}

#[test]
fn classes_are_obeyed_live() {
    cluster::shared(|server| {
        let space = Space::new(server, "classes");
        let _backend = space.backend("app");
        space.apply(&manifests::ingress(
            "x",
            "classes.test",
            &[("/", "Prefix", "app")],
        ));
        let gateway = space.gateway(&[]);
        gateway.wait_status("classes.test", "/", 200);
        let kubectl = space.kubectl();
        kubectl
            .run(&["delete", "ingressclass", "classes"])
            .success();
        gateway.wait_status("classes.test", "/", 404);
        gateway.wait_diagnostic(&["ClassUnknown", "Ingress/classes/x"]);
        kubectl.apply(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: classes}\n\
             spec: {controller: gatehouse.dev/classes}\n",
        );
        gateway.wait_status("classes.test", "/", 200);

        // The annotation of old, and no class at all.
        let unset = json!({"spec": {"ingressClassName": null},
                           "metadata": {"annotations": {"kubernetes.io/ingress.class": "classes"}}});
        kubectl.patch("classes", "ingress/x", &unset);
        assert!(wait::holds(Duration::from_millis(300), || {
            raw::get(gateway.http, "classes.test", "/").is_ok_and(|answer| answer.status == 200)
        }));
        let none = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": null}}});
        kubectl.patch("classes", "ingress/x", &none);
        gateway.wait_status("classes.test", "/", 404);
    });
}

#[test]
fn a_known_host_has_its_certificate_from_the_first_moment() {
    cluster::shared(|server| {
        let space = Space::new(server, "secrets");
        let _backend = space.backend("app");
        let mut text = String::new();
        for (name, kind) in [("pair", "kubernetes.io/tls"), ("opaque", "Opaque")] {
            let host = format!("{name}.secrets.test");
            let pair = Pair::new(&[&host]);
            let secret = manifests::secret(name, &pair.certificate, &pair.key);
            text += &secret.replace("kubernetes.io/tls", kind);
            let tls = manifests::tls(&host, name);
            text += &manifests::ingress_with(name, &host, &tls, &[("/", "Prefix", "app")]);
        }
        space.apply(&text);
        // Ready only now: the very first handshake must be right, whatever the type of the Secret.
        let gateway = space.gateway(&[]);
        assert_eq!(
            certificate(&gateway, "pair.secrets.test"),
            "pair.secrets.test"
        );
        assert_eq!(
            certificate(&gateway, "opaque.secrets.test"),
            "opaque.secrets.test"
        );

        // One that appears later, of either type.
        for (name, kind) in [("late", "kubernetes.io/tls"), ("later", "Opaque")] {
            let host = format!("{name}.secrets.test");
            let tls = manifests::tls(&host, name);
            space.apply(&manifests::ingress_with(
                name,
                &host,
                &tls,
                &[("/", "Prefix", "app")],
            ));
            gateway.wait_diagnostic(&["SecretMissing", name]);
            let pair = Pair::new(&[&host]);
            let secret = manifests::secret(name, &pair.certificate, &pair.key);
            space.apply(&secret.replace("kubernetes.io/tls", kind));
            wait::until("the certificate is served", || {
                (certificate(&gateway, &host) == host).then_some(())
            });
        }
    });
}

#[test]
fn a_service_without_a_slice_has_its_endpoints() {
    cluster::shared(|server| {
        let space = Space::new(server, "endpoints");
        let backend = Backend::at(endpoint(), |_| backend::ok("old"));
        let addresses = |address: &str| {
            format!(
                "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: app, namespace: demo}}\n\
                 subsets: [{{addresses: [{{ip: {address}}}], ports: [{{name: http, port: {}}}]}}]\n---\n",
                backend.address.port()
            )
        };
        space.apply(&manifests::service("app", &[]));
        space.apply(&addresses(&backend.address.ip().to_string()));
        space.apply(&manifests::ingress(
            "x",
            "endpoints.test",
            &[("/", "Prefix", "app")],
        ));
        let gateway = space.gateway(&[]);
        assert_eq!(
            gateway.wait_status("endpoints.test", "/", 200).text(),
            "old"
        );
        // A slice takes its place.
        let new = space.backend("app");
        wait::until("the slice counts", || {
            let answer = raw::get(gateway.http, "endpoints.test", "/").ok()?;
            (answer.text() == "app").then_some(())
        });
        drop(new);
    });
}

#[test]
fn only_ingresses_with_the_labels_are_read_and_the_settings_are_followed() {
    cluster::shared(|server| {
        let space = Space::new(server, "labels");
        let _backend = space.backend("app");
        for name in ["blue", "green"] {
            let host = format!("{name}.labels.test");
            let ingress = manifests::ingress(name, &host, &[("/", "Prefix", "app")]);
            space.apply(&ingress.replace(
                "namespace: demo}",
                &format!("namespace: demo, labels: {{team: {name}}}}}"),
            ));
        }
        let selector = "--watch-ingress-selector=team=blue";
        let gateway = space.gateway(&[selector, "--configmap=labels/settings"]);
        gateway.wait_status("blue.labels.test", "/", 200);
        gateway.wait_status("green.labels.test", "/", 404);
        gateway.wait_diagnostic(&["ConfigMap/labels/settings", "does not exist"]);
        let kubectl = space.kubectl();
        // The label moves on.
        let label = json!({"metadata": {"labels": {"team": "blue"}}});
        kubectl.patch("labels", "ingress/green", &label);
        gateway.wait_status("green.labels.test", "/", 200);
        let label = json!({"metadata": {"labels": {"team": null}}});
        kubectl.patch("labels", "ingress/blue", &label);
        gateway.wait_status("blue.labels.test", "/", 404);

        space.apply(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: demo}\n\
             data: {no-such-setting: 'true'}\n",
        );
        gateway.wait_diagnostic(&["no-such-setting"]);
    });
}

#[test]
fn replicas_converge_and_say_so() {
    cluster::shared(|server| {
        let space = Space::new(server, "replicas");
        let _backend = space.backend("app");
        let watch = "--watch-namespace=replicas";
        let replicas = [space.gateway(&[watch]), space.gateway(&[watch])];
        for number in 0..10 {
            let host = format!("h{number}.replicas.test");
            let name = format!("x{number}");
            space.apply(&manifests::ingress(&name, &host, &[("/", "Prefix", "app")]));
        }
        for number in 0..5 {
            space.delete(&format!("ingress/x{number}"));
        }
        for replica in &replicas {
            replica.wait_status("h0.replicas.test", "/", 404);
            replica.wait_status("h4.replicas.test", "/", 404);
            replica.wait_status("h9.replicas.test", "/", 200);
        }
        let fresh = space.gateway(&[watch]);
        let wanted = convergence(&fresh)["digest"].clone();
        for replica in &replicas {
            let view = convergence(replica);
            assert_eq!(view["digest"], wanted, "{view}");
            assert_eq!(view["synced"], true);
            assert_eq!(view["ready"], true);
            let kinds = view["kinds"].as_array().expect("kinds");
            let kind = |name: &str| kinds.iter().find(|kind| kind["kind"] == name);
            assert!(kind("IngressClass").is_none(), "only namespaces: {view}");
            let ingress = kind("Ingress").expect("Ingresses are read");
            assert_ne!(ingress["resourceVersion"], "");
            assert!(ingress["lastContactSeconds"].as_f64().expect("a time") < 60.0);
            let low = u64::from_str_radix(wanted.as_str().expect("text"), 16).expect("hex");
            let low = low & ((1 << 48) - 1);
            let (_, metrics) = replica.admin_get("/metrics");
            assert!(
                metrics.contains(&format!("gatehouse_digest {low}\n")),
                "{metrics}"
            );
            assert!(metrics.contains("gatehouse_source_last_contact_seconds{kind=\"Ingress\"}"));
        }
    });
}
