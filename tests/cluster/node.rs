//! A node: containerd, kubelet and kube-proxy in a namespace of their own.
//!
//! Every setting that is not plain was needed: containerd must not lower its priority for the
//! kernel's killer (that wants a capability that sandboxes lack), two kubelets on one kernel need
//! a cgroup each, and kube-proxy must leave kernel limits alone that are read-only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gatehouse_tests::kubernetes::ApiServer;

use crate::control::tool;
use crate::processes;

/// A node by its number, 1 or 2.
pub(crate) struct Node {
    /// Name in the cluster and of its namespace.
    pub(crate) name: String,
    /// Address in the outside network.
    pub(crate) address: String,
    folder: PathBuf,
}

impl Node {
    /// Starts it and loads the images.
    pub(crate) fn start(state: &Path, number: u8, server: &ApiServer) -> Self {
        let name = format!("node{number}");
        let node = Self {
            folder: state.join(&name),
            address: format!("172.30.0.1{number}"),
            name,
        };
        for part in ["cni", "containerd", "kubelet", "logs", "run"] {
            fs::create_dir_all(node.folder.join(part)).expect("a folder");
        }
        node.write("cni/10-pods.conflist", &network(&node, number));
        node.write("containerd.toml", &containerd(&node));
        node.write("kubelet.yaml", &kubelet(&node, server));
        node.write("kube-proxy.yaml", &proxy(&node, server));
        node.run(
            state,
            Path::new("/usr/bin/containerd"),
            &["--config", &node.file("containerd.toml")],
        );
        gatehouse_tests::wait::until("containerd answers", || {
            node.ctr(&["version"]).then_some(())
        });
        for image in ["pause", "gatehouse"] {
            let archive = state.join(format!("{image}.tar")).display().to_string();
            assert!(
                node.ctr(&["--namespace=k8s.io", "images", "import", &archive]),
                "{archive}"
            );
        }
        let kubeconfig = format!("--kubeconfig={}", server.admin().display());
        node.run(
            state,
            &tool("kubelet"),
            &[
                &format!("--config={}", node.file("kubelet.yaml")),
                &kubeconfig,
                &format!("--root-dir={}", node.file("kubelet")),
                &format!("--cert-dir={}", node.file("kubelet/pki")),
                &format!("--hostname-override={}", node.name),
                &format!("--node-ip={}", node.address),
            ],
        );
        let configured = format!("--config={}", node.file("kube-proxy.yaml"));
        node.run(state, &tool("kube-proxy"), &[&configured]);
        node
    }

    /// Process id of the container with this id, as the API names it.
    pub(crate) fn process(&self, container: &str) -> String {
        let id = container.trim_start_matches("containerd://");
        let output = Command::new("ctr")
            .arg(format!("--address={}", self.socket()))
            .args(["--namespace=k8s.io", "tasks", "list"])
            .output()
            .expect("ctr starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with(id));
        let line = line.unwrap_or_else(|| panic!("{id} is not one of\n{text}"));
        line.split_whitespace()
            .nth(1)
            .expect("a process id")
            .to_owned()
    }

    fn run(&self, state: &Path, program: &Path, arguments: &[&str]) {
        let name = program.file_name().expect("a name").display();
        let log = self.folder.join(format!("{name}.log"));
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        processes::start(state, &self.name, &log, program, &arguments);
    }

    fn ctr(&self, arguments: &[&str]) -> bool {
        let output = Command::new("ctr")
            .arg(format!("--address={}", self.socket()))
            .args(arguments)
            .output();
        output.expect("ctr starts").status.success()
    }

    fn socket(&self) -> String {
        self.file("run/containerd.sock")
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file of the node");
    }
}

fn network(node: &Node, number: u8) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "gatehouse-cluster-{name}", "plugins": [
  {{"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{data}", "ranges": [[{{"subnet": "10.244.{number}.0/24"}}]],
             "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}},
  {{"type": "firewall"}}
]}}"#,
        name = node.name,
        data = node.file("addresses"),
    )
}

fn containerd(node: &Node) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:e2e"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        root = node.file("containerd"),
        state = node.file("run"),
        socket = node.socket(),
        cni = node.file("cni"),
    )
}

fn kubelet(node: &Node, server: &ApiServer) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: false}}, x509: {{clientCAFile: {authority}}}}}\n\
         authorization: {{mode: AlwaysAllow}}\n\
         cgroupDriver: cgroupfs\ncgroupRoot: /gatehouse-cluster/{name}\nfailCgroupV1: false\nfailSwapOn: false\n\
         enforceNodeAllocatable: []\nresolvConf: ''\nmakeIPTablesUtilChains: false\n\
         containerRuntimeEndpoint: unix://{socket}\npodLogsDir: {logs}\n\
         volumePluginDir: {plugins}\nimageGCHighThresholdPercent: 100\n\
         evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}\n\
         maxParallelImagePulls: 2\nserializeImagePulls: false\n",
        authority = server.folder().join("ca.crt").display(),
        name = node.name,
        socket = node.socket(),
        logs = node.file("logs"),
        plugins = node.file("kubelet/plugins-of-volumes"),
    )
}

/// Changes of endpoints reach clients up to five seconds late, as they do on large clusters.
fn proxy(node: &Node, server: &ApiServer) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         clientConnection: {{kubeconfig: {kubeconfig}}}\nhostnameOverride: {name}\n\
         clusterCIDR: 10.244.0.0/16\nmode: iptables\niptables: {{minSyncPeriod: 5s}}\n\
         conntrack: {{maxPerCore: 0}}\n",
        kubeconfig = server.admin().display(),
        name = node.name,
    )
}
