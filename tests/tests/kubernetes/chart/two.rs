//! Two installations in one cluster, even in one namespace, do not meddle with each other.

use std::collections::BTreeSet;

use gatehouse_tests::kubernetes::{Helm, cluster};
use serde_json::Value;

use super::{RELEASE, arguments, objects, text};

/// The values that the document names for a second installation.
const SECOND: &str = "ingressClass: {name: internal}";

/// Everything that Prometheus and Grafana are told.
const WATCHED: &str = "metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}";

/// What a release of this name makes, in the namespace of the first one.
fn release(name: &str, values: &str) -> Vec<Value> {
    objects(&Helm::alone().render(name, RELEASE, values).success())
}

/// The value of a flag of the gateway.
fn flag(objects: &[Value], name: &str) -> String {
    let start = format!("--{name}=");
    let found = arguments(objects).into_iter();
    let mut found = found.filter_map(|argument| argument.strip_prefix(&start));
    found.next().expect(name).to_owned()
}

fn controller(objects: &[Value]) -> String {
    let class = objects
        .iter()
        .find(|object| text(object, "/kind") == "IngressClass");
    text(class.expect("a class"), "/spec/controller").to_owned()
}

#[test]
fn each_of_two_installations_serves_its_own_class() {
    cluster::alone(|| {
        let (first, second) = (release(RELEASE, ""), release("second", SECOND));
        assert_eq!(controller(&first), "gatehouse.dev/ingress-controller");
        assert_eq!(
            controller(&second),
            "gatehouse.dev/ingress-controller-internal"
        );
        for one in [&first, &second] {
            assert_eq!(flag(one, "controller-class"), controller(one));
        }
        // Whoever names one gets that one.
        let named = "ingressClass: {name: internal, controller: example.com/inside}";
        assert_eq!(controller(&release("second", named)), "example.com/inside");
    });
}

#[test]
fn two_installations_in_one_namespace_have_no_object_in_common() {
    cluster::alone(|| {
        let names = |objects: &[Value]| -> BTreeSet<String> {
            let name = |object: &Value| {
                let place = text(object, "/metadata/namespace");
                let name = text(object, "/metadata/name");
                format!("{} {place}/{name}", text(object, "/kind"))
            };
            objects.iter().map(name).collect()
        };
        let first = names(&release(RELEASE, ""));
        let second = names(&release("second", SECOND));
        assert!(first.is_disjoint(&second), "{first:#?} {second:#?}");
    });
}

#[test]
fn each_of_two_installations_in_one_namespace_has_a_leader() {
    cluster::alone(|| {
        let leases = [RELEASE, "second"].map(|name| {
            let objects = release(name, SECOND);
            let lease = flag(&objects, "election-id");
            let rules = objects
                .iter()
                .filter_map(|object| object["rules"].as_array());
            let mut rules = rules.flatten();
            let bound = rules
                .any(|rule| rule["resources"][0] == "leases" && rule["resourceNames"][0] == *lease);
            assert!(bound, "no right to use {lease}");
            lease
        });
        assert_eq!(leases, ["gatehouse-leader", "second-gatehouse-leader"]);
    });
}

#[test]
fn alarms_and_dashboard_of_an_installation_are_about_itself() {
    cluster::alone(|| {
        let values = format!("{SECOND}\n{WATCHED}");
        let objects = release("second", &values);
        let of = |kind: &str| {
            let mut found = objects
                .iter()
                .filter(|object| text(object, "/kind") == kind);
            found.next().expect(kind)
        };
        // The label is made from another one, which holds the name of the release.
        let monitor = of("ServiceMonitor");
        assert_eq!(
            text(monitor, "/spec/jobLabel"),
            "app.kubernetes.io/instance"
        );
        let rules = of("PrometheusRule")["spec"]["groups"][0]["rules"].as_array();
        for rule in rules.expect("alarms") {
            let (name, seen) = (text(rule, "/alert"), text(rule, "/expr"));
            let own = format!("{{namespace=\"{RELEASE}\", job=\"second\"");
            let all = seen.matches("gatehouse_").count();
            assert_eq!(seen.matches(&own).count(), all, "{name}: {seen}");
            // Alertmanager takes two that are alike for one.
            assert_eq!(text(rule, "/labels/job"), "second", "{name}");
            assert_eq!(text(rule, "/labels/namespace"), RELEASE, "{name}");
        }
        let boards = [RELEASE, "second"].map(|name| {
            let objects = release(name, &values);
            let mut data = objects
                .iter()
                .filter(|object| text(object, "/metadata/name").ends_with("-board"))
                .filter_map(|object| object["data"].as_object()?.iter().next());
            let (file, board) = data.next().expect("a dashboard");
            let board: Value = serde_json::from_str(board.as_str().expect("text")).expect("JSON");
            [file, text(&board, "/uid"), text(&board, "/title")].map(str::to_owned)
        });
        for (one, other) in boards[0].iter().zip(&boards[1]) {
            assert_ne!(one, other);
        }
        assert!(boards[1][1].len() <= 40, "Grafana takes no longer uid");
    });
}

#[test]
fn releases_whose_names_run_together_differently_have_rights_of_their_own() {
    cluster::alone(|| {
        let roles = [("edge", "x-gatehouse"), ("edge-x", "gatehouse")].map(|(space, name)| {
            let rendered = Helm::alone().render(name, space, "").success();
            let objects = objects(&rendered);
            let mut roles = objects
                .iter()
                .filter(|object| text(object, "/kind") == "ClusterRole");
            text(roles.next().expect("a role"), "/metadata/name").to_owned()
        });
        assert_eq!(roles, ["edge:x-gatehouse", "edge-x:gatehouse"]);
    });
}
