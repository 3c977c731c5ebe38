//! Which Ingresses are ours, followed live. On an API server of their own: a default class is one
//! for the whole cluster.

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster};
use gatehouse_tests::manifests;
use serde_json::json;

const LEGACY: &str = "kubernetes.io/ingress.class";

/// An Ingress for host `NAME.classes`, with a class or without.
fn ingress(space: &Space<'_>, name: &str, class: Option<&str>, annotation: Option<&str>) {
    let text = manifests::ingress(name, &format!("{name}.classes"), &[("/", "Prefix", "app")]);
    let class = class.map_or_else(String::new, |class| {
        format!("  ingressClassName: {class}\n")
    });
    let text = text.replace("  ingressClassName: gatehouse\n", &class);
    let note = annotation.map_or_else(String::new, |class| {
        format!(", annotations: {{{LEGACY}: {class}}}")
    });
    let name = format!("metadata: {{name: {name}, namespace: demo");
    space.apply(&text.replace(&name, &format!("{name}{note}")));
}

fn class(server: &ApiServer, name: &str, controller: &str, default: bool) {
    server.kubectl().apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: {name}\n  \
         annotations: {{ingressclass.kubernetes.io/is-default-class: '{default}'}}\n\
         spec: {{controller: {controller}}}\n"
    ));
}

fn serves(gateway: &Gateway, name: &str, status: u16) {
    gateway.wait_status(&format!("{name}.classes"), "/", status);
}

#[test]
fn a_class_is_ours_by_its_controller_and_changes_of_it_are_followed() {
    cluster::shared(|server| {
        let space = Space::new(server, "class-rules");
        let _backend = space.backend("app");
        // A second class of the same controller, and one of somebody else.
        class(server, "class-rules-second", &space.controller, false);
        class(server, "class-rules-foreign", "example.com/other", false);
        for (name, class, annotation) in [
            ("field", Some("class-rules"), None),
            ("second", Some("class-rules-second"), None),
            ("foreign", Some("class-rules-foreign"), None),
            ("absent", Some("class-rules-absent"), None),
            ("legacy", None, Some("class-rules")),
            ("legacy-foreign", None, Some("nobody")),
            ("neither", None, None),
        ] {
            ingress(&space, name, class, annotation);
        }
        let gateway = space.gateway(&[]);
        for name in ["field", "second", "legacy"] {
            serves(&gateway, name, 200);
        }
        for name in ["foreign", "absent", "legacy-foreign", "neither"] {
            serves(&gateway, name, 404);
        }

        // A class that appears, and one that changes hands: the field is immutable, so it is
        // deleted and made again.
        class(server, "class-rules-absent", &space.controller, false);
        serves(&gateway, "absent", 200);
        space.delete("ingressclass/class-rules-second");
        serves(&gateway, "second", 404);
        class(server, "class-rules-second", "example.com/other", false);
        class(server, "class-rules-marker", &space.controller, false);
        ingress(&space, "marker", Some("class-rules-marker"), None);
        serves(&gateway, "marker", 200);
        serves(&gateway, "second", 404);

        // An Ingress that moves in and out.
        let to = |class: &str| json!({"spec": {"ingressClassName": class}});
        let kubectl = space.kubectl();
        kubectl.patch(&space.name, "ingress/foreign", &to("class-rules"));
        serves(&gateway, "foreign", 200);
        kubectl.patch(&space.name, "ingress/foreign", &to("class-rules-foreign"));
        serves(&gateway, "foreign", 404);
    });
}

#[test]
fn the_default_class_is_given_at_creation_and_without_a_class_needs_a_flag() {
    cluster::alone(|| {
        let server = ApiServer::start();
        let space = Space::new(&server, "ours");
        let _backend = space.backend("app");
        ingress(&space, "before", None, None);
        class(&server, "ours", &space.controller, true);
        ingress(&space, "after", None, None);
        let given = |name: &str| {
            let object = space.kubectl().get(&space.name, &format!("ingress/{name}"));
            object["spec"]["ingressClassName"].clone()
        };
        // The API server does this, for new objects only.
        assert_eq!(
            (given("before"), given("after")),
            (json!(null), json!("ours"))
        );

        let gateway = space.gateway(&[]);
        serves(&gateway, "after", 200);
        serves(&gateway, "before", 404);
        let taking = space.gateway(&["--watch-ingress-without-class"]);
        serves(&taking, "after", 200);
        serves(&taking, "before", 200);
    });
}

#[test]
fn classes_made_for_ingress_nginx_are_taken_over() {
    cluster::shared(|server| {
        let space = Space::new(server, "takeover");
        let _backend = space.backend("app");
        class(server, "takeover-nginx", "k8s.io/ingress-nginx", false);
        ingress(&space, "nginx", Some("takeover-nginx"), None);
        ingress(&space, "own", Some("takeover"), None);
        let gateway = space.gateway(&["--controller-class=k8s.io/ingress-nginx"]);
        serves(&gateway, "nginx", 200);
        serves(&gateway, "own", 200);
    });
}
