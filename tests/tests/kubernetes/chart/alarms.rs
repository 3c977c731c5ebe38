//! The alarms, as Prometheus reads them and as it plays them.

use gatehouse_tests::gateway;
use gatehouse_tests::kubernetes::{Helm, cluster, promtool};
use gatehouse_tests::manifests::Scratch;
use serde_json::{Value, json};

use super::{RELEASE, objects, text};

/// The rules of a release, in the form of a file of Prometheus: JSON is YAML, too.
fn rules(release: &str, namespace: &str, more: &str) -> Value {
    let values = format!("{{metrics: {{prometheusRule: {{enabled: true}}}}{more}}}");
    let rendered = Helm::alone().render(release, namespace, &values).success();
    let objects = objects(&rendered);
    let mut found = objects
        .iter()
        .filter(|object| text(object, "/kind") == "PrometheusRule");
    let rules = found.next().expect("rules");
    json!({"groups": rules["spec"]["groups"]})
}

#[test]
fn prometheus_reads_every_alarm() {
    cluster::alone(|| {
        let scratch = Scratch::new();
        let file = scratch.file("rules.json").display().to_string();
        let check = |rules: &Value| {
            scratch.write("rules.json", rules.to_string());
            promtool(&["check", "rules", "--lint-fatal", &file], "")
        };
        let written = rules(RELEASE, RELEASE, "");
        let alarms = written["groups"][0]["rules"].as_array().map(Vec::len);
        let said = check(&written).success();
        let all = format!("{} rules found", alarms.expect("alarms"));
        assert!(said.contains(&all), "{said}");
        // Names that look like numbers, and one that is no identifier.
        let other = rules("2024", "x-1", ", fullnameOverride: edge-front");
        check(&other).success();

        let mut broken = written;
        broken["groups"][0]["rules"][1]["expr"] = json!("max by (pod) (up{) > 1");
        let refused = check(&broken);
        assert!(!refused.ok() && refused.text().contains("could not parse expression"));
    });
}

#[test]
fn prometheus_reads_every_panel_of_the_dashboard() {
    let board = gateway::workspace().join("manifests/chart/gatehouse/files/dashboard.json");
    let board = std::fs::read_to_string(board).expect("the dashboard");
    let board: Value = serde_json::from_str(&board).expect("JSON");
    let targets = board["panels"].as_array().expect("panels").iter();
    let targets = targets.filter_map(|panel| panel["targets"].as_array());
    // Variables of Grafana stand where only a duration may.
    let queries = targets
        .flatten()
        .map(|target| text(target, "/expr").replace("$__rate_interval", "5m"));
    let rules: Vec<Value> = queries
        .enumerate()
        .map(|(number, query)| json!({"record": format!("board:{number}"), "expr": query}))
        .collect();
    assert!(rules.len() > 20, "panels ask for something");
    cluster::alone(|| {
        let scratch = Scratch::new();
        let file = json!({"groups": [{"name": "board", "rules": rules}]});
        scratch.write("rules.json", file.to_string());
        let file = scratch.file("rules.json").display().to_string();
        promtool(&["check", "rules", "--lint-fatal", &file], "").success();
    });
}

/// The file says what is played, and what fires when.
#[test]
fn alarms_fire_when_they_should_and_at_no_other_time() {
    cluster::alone(|| {
        let scratch = Scratch::new();
        scratch.write("rules.json", rules(RELEASE, RELEASE, "").to_string());
        let played = gateway::workspace().join("tests/tests/kubernetes/chart/alarms.yaml");
        let played = std::fs::read_to_string(played).expect("what is played");
        scratch.write("alarms.yaml", &played);
        let file = scratch.file("alarms.yaml").display().to_string();
        promtool(&["test", "rules", &file], "").success();

        // Each of them fires somewhere in it.
        let rules = rules(RELEASE, RELEASE, "");
        for rule in rules["groups"][0]["rules"].as_array().expect("alarms") {
            let fires = format!("alertname=\"{}\"", text(rule, "/alert"));
            assert!(played.contains(&fires), "{fires} is not played");
        }
    });
}
