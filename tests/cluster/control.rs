//! What decides in a cluster: the API server of the tests with its etcd, and the controllers and the
//! scheduler beside it.

use std::path::Path;

use gatehouse_tests::gateway;
use gatehouse_tests::kubernetes::ApiServer;

use crate::processes;

/// Starts all of it and waits until the API server is ready.
pub(crate) fn start(state: &Path) -> ApiServer {
    let flags = [
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
    ];
    let server = ApiServer::start_with(&flags);
    let file = |name: &str| server.folder().join(name).display().to_string();
    let kubeconfig = format!("--kubeconfig={}", server.admin().display());
    let controllers = vec![
        kubeconfig.clone(),
        format!(
            "--service-account-private-key-file={}",
            file("accounts.key")
        ),
        format!("--root-ca-file={}", file("ca.crt")),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    let scheduler = vec![
        kubeconfig,
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    for (name, arguments) in [
        ("kube-controller-manager", controllers),
        ("kube-scheduler", scheduler),
    ] {
        let log = state.join(format!("{name}.log"));
        processes::start(state, "outside", &log, &tool(name), &arguments);
    }
    server
}

/// What `scripts/test-setup nodes` built.
pub(crate) fn tool(name: &str) -> std::path::PathBuf {
    let path = gateway::workspace().join("target/tools/nodes").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run scripts/test-setup nodes",
        path.display()
    );
    path
}
