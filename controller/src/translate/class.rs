//! Whether an Ingress is ours.
//!
//! The rules are those of ingress-nginx: `spec.ingressClassName` must name an existing class of our
//! controller; else the annotation must equal our class name; else the flag decides. One addition:
//! an Ingress without any class is ours when a class of ours is marked as the default. In a cluster
//! the API server writes the default class into the object at creation; nobody admits the objects
//! of a directory, so the mark is read here, with the same result. Where only namespaces are
//! watched, no class is read and its name decides.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use crate::config::{ClassReading, ClassRules};
use crate::diagnostics::{Code, Remarks, suggest};
use crate::world::Lookup;

/// Decides; says so when the class is nobody's.
pub fn is_ours(
    ingress: &Ingress,
    lookup: &Lookup<'_>,
    rules: &ClassRules,
    remarks: &mut Remarks,
) -> bool {
    let named = ingress
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_deref());
    if let Some(name) = named {
        if rules.reading == ClassReading::Nowhere {
            return name_is_ours(name, rules, remarks);
        }
        if let Some(class) = lookup.ingress_class(name) {
            return class_is_ours(name, class, rules);
        }
        let near = suggest(name, lookup.ingress_classes().into_keys())
            .map(|near| format!(" (did you mean `{near}`?)"))
            .unwrap_or_default();
        let controller = rules
            .controllers
            .first()
            .map_or("", |controller| &**controller);
        remarks.info(
            "spec.ingressClassName",
            Code::ClassUnknown,
            format!(
                "no IngressClass `{name}` exists{near}, so this Ingress is not served: create one \
                 whose spec.controller is `{controller}`"
            ),
        );
        return false;
    }
    let annotations = ingress.metadata.annotations.as_ref();
    if let Some(class) = annotations.and_then(|all| all.get(ANNOTATION)) {
        return **class == *rules.class;
    }
    let files = rules.reading == ClassReading::Files;
    if rules.without_class || (files && has_default(lookup, rules)) {
        return true;
    }
    let why = if files {
        " and no class of ours is the default"
    } else {
        ""
    };
    remarks.info(
        "spec.ingressClassName",
        Code::ClassUnknown,
        format!(
            "the Ingress names no class{why}, so it is not served: set spec.ingressClassName or \
             start with --watch-ingress-without-class"
        ),
    );
    false
}

/// Somebody else's class looks like a wrong name, so only what looks like ours is remarked on.
fn name_is_ours(name: &str, rules: &ClassRules, remarks: &mut Remarks) -> bool {
    if *name == *rules.class {
        return true;
    }
    if suggest(name, [&*rules.class]).is_some() {
        remarks.info(
            "spec.ingressClassName",
            Code::ClassUnknown,
            format!(
                "the class `{name}` is not ours, so this Ingress is not served: with \
                 --watch-namespace no IngressClass is read, and only the name `{}` of \
                 --ingress-class counts",
                rules.class
            ),
        );
    }
    false
}

fn has_default(lookup: &Lookup<'_>, rules: &ClassRules) -> bool {
    lookup.ingress_classes().into_iter().any(|(name, class)| {
        let annotations = class.metadata.annotations.as_ref();
        let mark = annotations.and_then(|all| all.get(DEFAULT_MARK));
        mark.is_some_and(|mark| mark == "true") && class_is_ours(name, class, rules)
    })
}

fn class_is_ours(name: &str, class: &IngressClass, rules: &ClassRules) -> bool {
    let controller = class
        .spec
        .as_ref()
        .and_then(|spec| spec.controller.as_deref());
    let by_controller =
        controller.is_some_and(|ours| rules.controllers.iter().any(|known| **known == *ours));
    by_controller || (rules.by_name && *name == *rules.class)
}

const ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_MARK: &str = "ingressclass.kubernetes.io/is-default-class";
