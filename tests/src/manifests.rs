//! Scratch folders and the manifests in them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of its own, removed when dropped.
pub struct Scratch(PathBuf);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Makes the folder.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gatehouse-tests-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("scratch folder");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in place, as `cat >` does.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), text).expect("manifest written");
    }

    /// Writes a file by atomic rename, as editors and `kubectl` do.
    pub fn replace(&self, name: &str, text: impl AsRef<[u8]>) {
        let hidden = self.file(&format!(".{name}.new"));
        std::fs::write(&hidden, text).expect("manifest written");
        std::fs::rename(&hidden, self.file(name)).expect("manifest renamed");
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.file(name)).expect("manifest removed");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Our IngressClass, under the default name and controller.
pub fn class() -> String {
    "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: gatehouse}\n\
     spec: {controller: gatehouse.dev/ingress-controller}\n---\n"
        .into()
}

/// A Service with port 80 named `http`, and its slice with these endpoints.
pub fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    service_with(name, "", endpoints)
}

/// The same with an `appProtocol`.
pub fn service_with(name: &str, protocol: &str, endpoints: &[SocketAddr]) -> String {
    let app = match protocol {
        "" => String::new(),
        name => format!(", appProtocol: {name}"),
    };
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec: {{ports: [{{name: http, port: 80, protocol: TCP{app}}}]}}\n---\n"
    );
    // One slice per endpoint: a slice has one port, and test endpoints differ in theirs.
    for (index, endpoint) in endpoints.iter().enumerate() {
        write!(
            text,
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{index}, namespace: demo, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP{app}}}]\n\
             endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]\n---\n",
            endpoint.port(),
            endpoint.ip()
        )
        .expect("write to a string");
    }
    text
}

/// An Ingress with one host and these `(path, type, service)` rules.
pub fn ingress(name: &str, host: &str, rules: &[(&str, &str, &str)]) -> String {
    ingress_with(name, host, "", rules)
}

/// The same with lines of `spec` before the rules, such as a tls section.
pub fn ingress_with(name: &str, host: &str, spec: &str, rules: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: demo}}\n\
         spec:\n  ingressClassName: gatehouse\n{spec}  rules:\n  - host: '{host}'\n    http:\n      paths:\n"
    );
    if host.is_empty() {
        text = text.replace("  - host: ''\n    http:", "  - http:");
    }
    for (path, kind, service) in rules {
        writeln!(
            text,
            "      - {{path: '{path}', pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}"
        )
        .expect("write to a string");
    }
    text.push_str("---\n");
    text
}

/// The tls section of an Ingress.
pub fn tls(host: &str, secret: &str) -> String {
    format!("  tls: [{{hosts: ['{host}'], secretName: {secret}}}]\n")
}

/// A TLS Secret in readable form.
pub fn secret(name: &str, certificate: &str, key: &str) -> String {
    let indent = |pem: &str| pem.trim().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: demo}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n---\n",
        indent(certificate),
        indent(key)
    )
}
