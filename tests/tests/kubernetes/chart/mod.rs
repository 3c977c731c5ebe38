//! The chart: what it renders, for a matrix of values, and what a real API server says to it.
//!
//! A case is a folder of `cases` with a `values.yaml`; `UPDATE_GOLDEN=1` writes what is rendered, and
//! the diff is read line by line.

mod alarms;
mod issuers;
mod life;
mod refused;
mod renders;
mod rights;
mod two;

use std::path::PathBuf;

use gatehouse_tests::gateway;
use gatehouse_tests::kubernetes::Helm;
use serde_json::Value;

/// Release and namespace of everything that is only rendered.
const RELEASE: &str = "gatehouse";

/// One set of values.
struct Case {
    name: String,
    folder: PathBuf,
    values: String,
}

/// All of them, sorted.
fn cases() -> Vec<Case> {
    let root = gateway::workspace().join("tests/tests/kubernetes/chart/cases");
    let entries = std::fs::read_dir(&root).expect("the cases");
    let mut cases: Vec<Case> = entries
        .map(|entry| entry.expect("a case").path())
        .map(|folder| Case {
            name: folder.file_name().expect("a name").display().to_string(),
            values: std::fs::read_to_string(folder.join("values.yaml")).expect("values"),
            folder,
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!cases.is_empty(), "there are cases");
    cases
}

impl Case {
    /// Namespaces whose Secrets may be written: no flag of the program says so.
    fn writes(&self) -> Vec<String> {
        let values: Value = serde_saphyr::from_str(&self.values).unwrap_or_default();
        let list = values.pointer("/certificates/writeNamespaces");
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn render(&self) -> String {
        Helm::alone()
            .render(RELEASE, RELEASE, &self.values)
            .success()
    }
}

/// The documents of a render.
fn objects(manifests: &str) -> Vec<Value> {
    manifests
        .split("\n---\n")
        .map(|document| {
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}"))
        })
        .filter(|object: &Value| !object.is_null())
        .collect()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// The pod that the Deployment or `DaemonSet` of a render makes.
fn pod(objects: &[Value]) -> &Value {
    let workload = objects
        .iter()
        .find(|object| ["Deployment", "DaemonSet"].contains(&text(object, "/kind")));
    &workload.expect("a workload")["spec"]["template"]
}

/// The command line of its container.
fn arguments(objects: &[Value]) -> Vec<&str> {
    let arguments = pod(objects)["spec"]["containers"][0]["args"].as_array();
    let arguments = arguments.expect("arguments").iter();
    arguments.filter_map(Value::as_str).collect()
}
