//! The cluster as a whole, and Gatehouse and its backends in it.

use std::net::SocketAddr;
use std::path::PathBuf;

use gatehouse_tests::kubernetes::{ApiServer, Helm, Kubectl, chart};
use gatehouse_tests::{raw, wait};
use serde_json::Value;

use crate::control;
use crate::node::Node;
use crate::say::line;

/// Namespace of Gatehouse.
pub(crate) const OURS: &str = "gatehouse";
/// Labels of every pod of Gatehouse.
pub(crate) const PODS: &str = "app.kubernetes.io/name=gatehouse";
/// Flags of what makes pods.
const CHANGE: &[&str] = &["--wait", "--timeout=3m", "--values=-"];
/// Host of the backends.
pub(crate) const HOST: &str = "app.test";

/// Everything that runs.
pub(crate) struct Site {
    server: ApiServer,
    pub(crate) nodes: [Node; 2],
    pub(crate) kubectl: Kubectl,
    helm: Helm,
}

impl Site {
    /// Starts all of it and waits until both nodes are ready.
    pub(crate) fn bring_up(state: PathBuf) -> Self {
        line("starting etcd, API server, controllers and scheduler");
        let server = control::start(&state);
        line("starting two nodes");
        let nodes = [1, 2].map(|number| Node::start(&state, number, &server));
        let kubectl = server.kubectl();
        let helm = Helm::at(server.admin());
        wait::until("the nodes are registered", || {
            kubectl
                .run(&["get", "node/node1", "node/node2"])
                .ok()
                .then_some(())
        });
        kubectl
            .run(&[
                "wait",
                "--for=condition=Ready",
                "node",
                "--all",
                "--timeout=120s",
            ])
            .success();
        kubectl
            .run(&["label", "node", "--all", "node-role/edge=true"])
            .success();
        line("both nodes are ready");
        Self {
            server,
            nodes,
            kubectl,
            helm,
        }
    }

    /// Of a client that may do everything.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server.admin()
    }

    /// Installs the chart as a user does and waits for it; then lets `helm test` look.
    pub(crate) fn install(&self, release: &str, values: &str) {
        let chart = chart().display().to_string();
        let install = ["install", release, &chart, "--create-namespace"];
        self.helm(&[&install[..], CHANGE].concat(), values);
        let said = self.helm(&["test", release, "--timeout=1m"], "");
        assert!(said.contains("Succeeded"), "helm test: {said}");
    }

    /// Gives the release these values and no others, and waits until every pod has them.
    pub(crate) fn upgrade(&self, release: &str, values: &str, flags: &[&str]) {
        let chart = chart().display().to_string();
        self.helm(
            &[&["upgrade", release, &chart], CHANGE, flags].concat(),
            values,
        );
    }

    /// Goes back to what the release was before, and waits for it.
    pub(crate) fn roll_back(&self, release: &str) {
        self.helm(&["rollback", release, "--wait", "--timeout=3m"], "");
    }

    fn helm(&self, arguments: &[&str], values: &str) -> String {
        let arguments = [arguments, &["--namespace", OURS]].concat();
        self.helm.run(&arguments, values).success()
    }

    /// Takes the release away and waits until its pods are gone.
    pub(crate) fn uninstall(&self, release: &str) {
        self.helm(&["uninstall", release, "--wait"], "");
        let pods = format!("{PODS},app.kubernetes.io/instance={release}");
        wait::within(6 * wait::PATIENCE, || {
            self.pods(OURS, &pods).is_empty().then_some(())
        })
        .expect("the pods of the release end");
    }

    /// Backends that are told to end only after everybody has heard of it, or, when `rude`, end at
    /// once with whatever they serve.
    pub(crate) fn backends(&self, rude: bool) {
        let manners = if rude {
            ""
        } else {
            ", lifecycle: {preStop: {sleep: {seconds: 20}}}"
        };
        self.kubectl.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: app}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: app, namespace: app}}\nspec:\n  \
             replicas: 3\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  \
             selector: {{matchLabels: {{app: app}}}}\n  template:\n    metadata: {{labels: {{app: app}}}}\n    \
             spec:\n      containers:\n      - {{name: app, image: 'localhost/gatehouse:e2e', \
             args: [echo, '--listen=0.0.0.0:8080'], ports: [{{containerPort: 8080}}], \
             readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}{manners}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: app, namespace: app}}\n\
             spec: {{selector: {{app: app}}, ports: [{{port: 80, targetPort: 8080}}]}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: app, namespace: app}}\nspec:\n  \
             ingressClassName: gatehouse\n  rules:\n  - host: {HOST}\n    http: {{paths: [{{path: /, pathType: Prefix, \
             backend: {{service: {{name: app, port: {{number: 80}}}}}}}}]}}\n"
        ));
        self.rolled_out("app", "deployment/app");
    }

    /// Replaces every pod of a workload, and waits until that is done.
    pub(crate) fn restart(&self, namespace: &str, workload: &str) {
        self.kubectl
            .run(&["-n", namespace, "rollout", "restart", workload])
            .success();
        self.rolled_out(namespace, workload);
    }

    /// Waits until every pod of a workload is what it should be.
    pub(crate) fn rolled_out(&self, namespace: &str, workload: &str) {
        self.kubectl
            .run(&[
                "-n",
                namespace,
                "rollout",
                "status",
                workload,
                "--timeout=300s",
            ])
            .success();
    }

    /// Pods with these labels.
    pub(crate) fn pods(&self, namespace: &str, labels: &str) -> Vec<Value> {
        let flags = ["-n", namespace, "get", "pods", "-l", labels, "-o", "json"];
        let list: Value = serde_json::from_str(&self.kubectl.run(&flags).success()).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

/// Waits until a client gets answers at this address.
pub(crate) fn serves(address: SocketAddr) {
    wait::within(3 * wait::PATIENCE, || {
        let answer = raw::get(address, HOST, "/").ok()?;
        (answer.status == 200).then_some(())
    })
    .unwrap_or_else(|| panic!("nothing is served at {address}"));
}
