//! Two installations in one cluster, even in one namespace, do not meddle with each other.

use std::collections::BTreeSet;

use gatehouse_tests::kubernetes::{Helm, cluster};
use serde_json::Value;

use super::{RELEASE, arguments, objects, text};

/// The values that the document names for a second installation.
const SECOND: &str = "ingressClass: {name: internal}";

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
