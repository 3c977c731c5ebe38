//! The rights in the chart are those that the program prints for the flags that the chart gives it.

use std::collections::BTreeSet;

use gatehouse_tests::gateway;
use gatehouse_tests::kubernetes::cluster;
use serde_json::{Value, json};

use super::{arguments, cases, objects, pod, text};

/// Flags of `run` that change the rights.
const DECIDE: &[&str] = &[
    "configmap",
    "default-ssl-certificate",
    "election-id",
    "leader-election",
    "publish-service",
    "publish-status-address",
    "update-status",
    "update-status-on-shutdown",
    "watch-namespace",
];

/// Roles and bindings in a form that does not tell in which order they were written, nor labels.
fn rights(objects: &[Value]) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for object in objects {
        let kind = text(object, "/kind");
        let place = format!(
            "{kind} {}/{}",
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name")
        );
        if kind.ends_with("Role") {
            let rules = object["rules"].as_array().expect("rules");
            assert!(!rules.is_empty(), "{place} is empty");
            rights.extend(rules.iter().map(|rule| format!("{place} {rule}")));
        } else if kind.ends_with("Binding") {
            let bound = json!({"role": object["roleRef"], "to": object["subjects"]});
            rights.insert(format!("{place} {bound}"));
        }
    }
    rights
}

fn printed(namespace: &str, account: &str, run: &[&str], write: &[String]) -> BTreeSet<String> {
    let mut flags = vec![
        "generate".to_owned(),
        "rbac".to_owned(),
        format!("--namespace={namespace}"),
        format!("--service-account={account}"),
    ];
    let decides = |flag: &&str| {
        let name = flag.trim_start_matches("--");
        DECIDE.contains(&name.split_once('=').map_or(name, |(name, _)| name))
    };
    let taken = run.iter().copied().filter(decides);
    flags.extend(taken.map(str::to_owned));
    // The program is given a file, and where the rights are printed there is none.
    if run.iter().any(|flag| flag.starts_with("--acme=")) {
        flags.push("--acme".to_owned());
    }
    flags.extend(
        write
            .iter()
            .map(|namespace| format!("--acme-namespace={namespace}")),
    );
    let output = gateway::run(&flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {said}");
    rights(&objects(&String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn the_chart_grants_what_the_program_prints_for_its_flags() {
    cluster::alone(|| {
        for case in cases() {
            let objects = objects(&case.render());
            let account = text(pod(&objects), "/spec/serviceAccountName");
            let granted = rights(&objects);
            if case.name == "least" {
                assert!(granted.is_empty(), "rbac.create is off: {granted:#?}");
                continue;
            }
            let run = arguments(&objects);
            assert_eq!(
                granted,
                printed(super::RELEASE, account, &run, &case.writes()),
                "{}",
                case.name
            );
        }
    });
}

#[test]
fn every_flag_of_the_chart_is_one_that_the_program_knows() {
    cluster::alone(|| {
        for case in cases() {
            let objects = objects(&case.render());
            // Everything is read before the cluster is looked for, which is not there.
            let arguments = arguments(&objects);
            let output = gateway::run(&arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{}: {said}", case.name);
            for complaint in [
                "unexpected argument",
                "invalid value '",
                "cannot be used with",
            ] {
                assert!(!said.contains(complaint), "{}: {said}", case.name);
            }
        }
    });
}
