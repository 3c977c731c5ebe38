//! The life of a release on a real API server: install, upgrade, rollback, uninstall.

use std::collections::BTreeSet;

use gatehouse_tests::kubernetes::{ApiServer, Helm, chart, cluster};
use serde_json::Value;

/// Everything in the cluster that a release could leave behind, but Events and Leases of the cluster.
fn inventory(server: &ApiServer) -> BTreeSet<String> {
    let kubectl = server.kubectl();
    let listed = kubectl.run(&["api-resources", "--verbs=list,delete", "-o", "name"]);
    let kinds: Vec<String> = listed
        .success()
        .lines()
        .filter(|kind| !kind.starts_with("events") && !kind.starts_with("leases"))
        .map(str::to_owned)
        .collect();
    let names = ["get", &kinds.join(","), "--all-namespaces", "-o", "json"];
    let list: Value = serde_json::from_str(&kubectl.run(&names).success()).expect("JSON");
    let items = list["items"].as_array().expect("items");
    let names = items.iter().map(|item| {
        format!(
            "{} {}/{}",
            item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]
        )
    });
    names.collect()
}

#[test]
fn a_release_is_installed_upgraded_rolled_back_and_leaves_nothing() {
    cluster::alone(|| {
        let server = ApiServer::start();
        let helm = Helm::at(server.admin());
        let chart = chart().display().to_string();
        let kubectl = server.kubectl();
        kubectl.run(&["create", "namespace", "edge"]).success();
        // Made by the server for itself soon after its start.
        kubectl
            .run(&[
                "wait",
                "--for=create",
                "service/kubernetes",
                "--timeout=20s",
            ])
            .success();
        let before = inventory(&server);

        let installed = helm.run(&["install", "edge", &chart, "-n", "edge"], "");
        let notes = installed.success();
        for word in [
            "rollout status deployment/edge-gatehouse",
            "explain --admin",
            "--class=gatehouse",
        ] {
            assert!(
                notes.contains(word),
                "{word} is missing in the notes: {notes}"
            );
        }
        let deployment = || kubectl.get("edge", "deployment/edge-gatehouse");
        let settings = || kubectl.get("edge", "configmap/edge-gatehouse")["data"].clone();
        let first = deployment();
        assert_eq!(first["spec"]["replicas"], 3);

        // A setting reaches the pods through the ConfigMap that they follow: none restarts.
        let flags = ["upgrade", "edge", &chart, "-n", "edge", "--values=-"];
        helm.run(&flags, "settings: {proxy-body-size: 8m}")
            .success();
        assert_eq!(settings()["proxy-body-size"], "8m");
        assert_eq!(
            deployment()["spec"],
            first["spec"],
            "the pods stay as they are"
        );

        // The name is part of the selector, which cannot change, and neither can a controller.
        for values in [
            "{nameOverride: other, fullnameOverride: edge-gatehouse}",
            "ingressClass: {controller: example.com/other}",
        ] {
            let refused = helm.run(&flags, values);
            assert!(!refused.ok() && refused.text().contains("immutable"));
        }

        // The other mode is an upgrade, too.
        helm.run(&flags, "{mode: daemonset, service: {type: NodePort}}")
            .success();
        let daemons = kubectl.get("edge", "daemonset/edge-gatehouse");
        let ports = &daemons["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(ports[0]["hostPort"], 80);
        assert_eq!(
            kubectl.get("edge", "deployments")["items"],
            Value::Array(Vec::new())
        );

        helm.run(&["rollback", "edge", "1", "-n", "edge"], "")
            .success();
        assert_eq!(deployment()["spec"], first["spec"]);
        assert!(settings().is_null(), "{}", settings());

        helm.run(&["uninstall", "edge", "-n", "edge"], "").success();
        let left: Vec<String> = inventory(&server).difference(&before).cloned().collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    });
}

#[test]
fn an_autoscaler_goes_on_from_the_replicas_that_are_there() {
    cluster::shared(|server| {
        let helm = Helm::at(server.admin());
        let chart = chart().display().to_string();
        let kubectl = server.kubectl();
        kubectl.run(&["create", "namespace", "scaled"]).success();
        // Nothing for the whole cluster: others share the server.
        let values = |deployment: &str| {
            format!(
                "{{ingressClass: {{create: false}}, rbac: {{create: false}}, deployment: {{{deployment}}}}}"
            )
        };
        let run = |command: &str, deployment: &str| {
            let flags = [command, "scaled", &chart, "-n", "scaled", "--values=-"];
            helm.run(&flags, &values(deployment)).success();
        };
        let replicas =
            || kubectl.get("scaled", "deployment/scaled-gatehouse")["spec"]["replicas"].clone();
        let autoscaled = "autoscaling: {enabled: true, minReplicas: 2, maxReplicas: 20}";

        run("install", "replicas: 5");
        assert_eq!(replicas(), 5);
        run("upgrade", autoscaled);
        assert_eq!(replicas(), 5, "from one upgrade to the next");

        // As the autoscaler does, of which there is none here.
        let scale = [
            "scale",
            "-n",
            "scaled",
            "deployment/scaled-gatehouse",
            "--replicas=9",
        ];
        kubectl.run(&scale).success();
        run("upgrade", autoscaled);
        assert_eq!(replicas(), 9);

        // An autoscaler does nothing about 0, so its least is written.
        run("upgrade", "replicas: 0");
        run("upgrade", autoscaled);
        assert_eq!(replicas(), 2);
    });
}

#[test]
fn the_notes_say_what_the_network_and_the_ports_of_nodes_ask_for() {
    cluster::shared(|server| {
        let helm = Helm::at(server.admin());
        let chart = chart().display().to_string();
        let notes = |values: &str| {
            let flags = ["install", "notes", &chart, "--dry-run=server", "--values=-"];
            let said = helm.run(&flags, values).success();
            let (_, notes) = said.split_once("\nNOTES:\n").expect("notes");
            notes.to_owned()
        };
        // A balancer that is in time within the second half finds connections closed already.
        let ports = notes("{mode: daemonset, drain: {delaySeconds: 9}}");
        assert!(ports.contains("NODE:80/healthz"), "{ports}");
        assert!(ports.contains("within 4.5 s of"), "{ports}");
        assert!(!ports.contains("every process of the node"), "{ports}");

        let host = notes("{mode: daemonset, daemonset: {hostNetwork: true}}");
        assert!(host.contains("NODE:8080/healthz"), "{host}");
        assert!(host.contains("within 7.5 s of"), "{host}");
        assert!(
            host.contains("127.0.0.1:9091 of the node: every process"),
            "{host}"
        );
        assert!(!host.contains("firewall"), "{host}");
        let open =
            "{mode: daemonset, daemonset: {hostNetwork: true}, listen: {adminAddress: 0.0.0.0}}";
        assert!(notes(open).contains("behind its firewall"));
    });
}
