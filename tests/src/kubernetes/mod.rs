//! A real Kubernetes API server and its etcd, started by the test: RBAC and audit on, no nodes, no
//! controllers. `EndpointSlices` are written by hand, and nothing collects garbage.
//!
//! Runs in the namespace of [`cluster`] only: the API refuses endpoints on loopback, so whatever
//! they name has an address of [`cluster::address`]. What was started ends with its owner, and
//! everything with the process namespace around it.

mod audit;
pub mod cluster;
mod helm;
mod kubectl;
mod leaks;
mod promtool;
mod proxy;
mod space;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::daemon::{self, Daemon};
use crate::manifests::Scratch;
use crate::pki::Authority;
use crate::raw::{self, Client};
use crate::tls::Handshake;

pub use audit::Audited;
pub use helm::{Helm, chart};
pub use kubectl::{Finished, Kubectl};
pub use leaks::leak;
pub use promtool::{promtool, scrape};
pub use proxy::Proxy;
pub use space::{Space, endpoint};

/// Where API servers listen.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The first address of the range for Services.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Reads and writes, who asked for what, and no bodies. `RequestReceived` would only double it;
/// `ResponseStarted` is when a watch shows.
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
     rules: [{level: Metadata}]\n";

/// A running API server with its etcd.
pub struct ApiServer {
    // Dropped in this order.
    api: Daemon,
    etcd: Daemon,
    address: SocketAddr,
    store: SocketAddr,
    scratch: Scratch,
}

impl ApiServer {
    /// Flags for an API server that asks etcd for every page of a list, instead of keeping copies
    /// of what etcd threw away.
    pub const FORGETFUL: &[&str] = &["--feature-gates=ListFromCacheSnapshot=false"];

    /// Starts both and waits until the API server is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags for the API server.
    pub fn start_with(flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let address = SocketAddr::new(IpAddr::V4(HOST), port());
        let store = SocketAddr::new(IpAddr::V4(HOST), port());
        write_keys(&scratch, address.ip());
        scratch.write("audit-policy.yaml", POLICY);
        let etcd = Daemon::start(
            tool("etcd"),
            &scratch.file("etcd.log"),
            etcd_arguments(&scratch, store),
        );
        let mut arguments = api_arguments(&scratch, address, store);
        arguments.extend(flags.iter().map(ToString::to_string));
        let api = Daemon::start(tool("kube-apiserver"), &scratch.file("api.log"), arguments);
        let mut server = Self {
            api,
            etcd,
            address,
            store,
            scratch,
        };
        server.wait_ready();
        server.admin_at(address);
        server
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Folder of its files: certificates, kubeconfigs, logs.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Kubeconfig of a client that may do everything.
    pub fn admin(&self) -> PathBuf {
        self.scratch.file(&admin_file(self.address))
    }

    /// The same for an API that is reached at another address, such as a [`Proxy`].
    pub fn admin_at(&self, at: SocketAddr) -> PathBuf {
        let credentials = format!(
            "client-certificate: {}, client-key: {}",
            self.scratch.file("admin.crt").display(),
            self.scratch.file("admin.key").display()
        );
        self.write_kubeconfig(&admin_file(at), at, &credentials);
        self.scratch.file(&admin_file(at))
    }

    /// `kubectl` as that client.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.admin(), self.scratch.file("kubectl-cache"))
    }

    /// Kubeconfig of a `ServiceAccount` that exists, with a fresh token from the API. The token lies
    /// in a file next to it, [`Self::token_file`].
    pub fn service_account(&self, namespace: &str, name: &str) -> PathBuf {
        self.service_account_at(self.address, namespace, name)
    }

    /// The same for an API that is reached at another address.
    pub fn service_account_at(&self, at: SocketAddr, namespace: &str, name: &str) -> PathBuf {
        self.renew_token(namespace, name);
        let token = self.token_file(namespace, name);
        let file = format!("{namespace}-{name}-{}.kubeconfig", at.port());
        self.write_kubeconfig(&file, at, &format!("tokenFile: {}", token.display()));
        self.scratch.file(&file)
    }

    /// Where the token of a `ServiceAccount` lies, as a kubelet would project it.
    pub fn token_file(&self, namespace: &str, name: &str) -> PathBuf {
        self.scratch.file(&format!("{namespace}-{name}.token"))
    }

    /// Replaces the token by a fresh one, as a kubelet does.
    pub fn renew_token(&self, namespace: &str, name: &str) {
        let token = self
            .kubectl()
            .run(&["create", "token", name, "--namespace", namespace])
            .success();
        let file = format!("{namespace}-{name}.token");
        self.scratch.replace(&file, token.trim());
    }

    fn write_kubeconfig(&self, file: &str, at: SocketAddr, user: &str) {
        let authority = self.scratch.file("ca.crt");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'https://{at}', certificate-authority: {}}}}}]\n\
             users: [{{name: test, user: {{{user}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            authority.display()
        );
        self.scratch.write(file, text);
    }

    /// Stops the API server without closing anything: to its clients it is silent.
    pub fn pause(&self) {
        self.api.signal("STOP");
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.api.signal("CONT");
    }

    /// Kills the API server: connections break, new ones are refused.
    pub fn kill(&mut self) {
        self.api.kill();
    }

    /// Starts the API server again, on the same address and data, and waits until it is ready.
    pub fn restart(&mut self) {
        self.api.kill();
        self.api.restart();
        self.wait_ready();
    }

    /// Stops etcd without closing anything.
    pub fn pause_etcd(&self) {
        self.etcd.signal("STOP");
    }

    /// Ends that pause.
    pub fn resume_etcd(&self) {
        self.etcd.signal("CONT");
    }

    /// Kills etcd.
    pub fn kill_etcd(&mut self) {
        self.etcd.kill();
    }

    /// Starts etcd again with its data, and waits until the API server is ready on top of it.
    pub fn restart_etcd(&mut self) {
        self.etcd.kill();
        self.etcd.restart();
        self.wait_ready();
    }

    /// Starts both again without any data, as after a restore gone wrong.
    pub fn lose_everything(&mut self) {
        self.api.kill();
        self.etcd.kill();
        std::fs::remove_dir_all(self.scratch.file("etcd")).expect("data of etcd");
        self.etcd.restart();
        self.api.restart();
        self.wait_ready();
    }

    /// Throws away all history before now: older resource versions and the tokens of lists that
    /// are under way are answered with 410 from here on, as far as etcd is asked.
    pub fn compact(&self) {
        // What is read at the newest revision survives, so there has to be a newer one: a key of
        // ours (`tests`), which the API server does not know.
        let written = self.etcd_call("/v3/kv/put", &json!({"key": "dGVzdHM="}));
        let revision = &written["header"]["revision"];
        assert!(revision.is_string(), "etcd tells its revision: {written}");
        let request = json!({"revision": revision});
        self.etcd_call("/v3/kv/compaction", &request);
    }

    fn etcd_call(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut client = Client::plain(self.store);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = client.answer().expect("an answer of etcd");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// Everything the API server was asked so far, in the order of its answers. Watches show when
    /// they start and, a second time, when they end.
    pub fn audit(&self) -> Vec<Audited> {
        let text = std::fs::read_to_string(self.scratch.file("audit.log")).unwrap_or_default();
        audit::parse(&text)
    }

    fn wait_ready(&mut self) {
        let store = self.store;
        self.etcd.wait_ready(|| {
            raw::get(store, "etcd", "/health").is_ok_and(|answer| answer.status == 200)
        });
        let address = self.address;
        self.api.wait_ready(|| {
            let Ok(secured) = Handshake::new("localhost").connect(address) else {
                return false;
            };
            let mut client = Client::over(Box::new(secured));
            client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.answer().is_ok_and(|answer| answer.status == 200)
        });
    }
}

/// A tool built by `scripts/test-setup`; `GATEHOUSE_TOOLS` names another folder.
pub fn tool(name: &str) -> PathBuf {
    daemon::tool("kubernetes", "GATEHOUSE_TOOLS", name)
}

/// Writes `ca.crt`, `server.crt|key`, `admin.crt|key` and `accounts.key|pub`.
fn write_keys(scratch: &Scratch, server: IpAddr) {
    let authority = Authority::new(scratch);
    let hosts = ["localhost", "kubernetes.default.svc"];
    // Pods come by the address of the Service `kubernetes`.
    let addresses = [server, SERVICE.into()];
    authority.server(scratch, "kube-apiserver", &addresses, &hosts);
    // The group that RBAC lets do everything.
    authority.client(scratch, "admin", "system:masters");
    let accounts = KeyPair::generate().expect("key");
    scratch.write("accounts.key", accounts.serialize_pem());
    scratch.write("accounts.pub", accounts.public_key_pem());
}

fn admin_file(at: SocketAddr) -> String {
    format!("admin-{}.kubeconfig", at.port())
}

/// A port nobody else has: the namespace is ours, and the kernel's own choice begins at 32768.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(6443);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn etcd_arguments(scratch: &Scratch, store: SocketAddr) -> Vec<String> {
    let peers = SocketAddr::new(store.ip(), port());
    vec![
        format!("--data-dir={}", scratch.file("etcd").display()),
        format!("--listen-client-urls=http://{store}"),
        format!("--advertise-client-urls=http://{store}"),
        format!("--listen-peer-urls=http://{peers}"),
        format!("--initial-advertise-peer-urls=http://{peers}"),
        format!("--initial-cluster=default=http://{peers}"),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_arguments(scratch: &Scratch, address: SocketAddr, store: SocketAddr) -> Vec<String> {
    let file = |name: &str| scratch.file(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{store}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            file("accounts.key")
        ),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--authorization-mode=Node,RBAC".into(),
        // For logs and commands in pods, where there are nodes.
        format!("--kubelet-client-certificate={}", file("admin.crt")),
        format!("--kubelet-client-key={}", file("admin.key")),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
    ]
}
