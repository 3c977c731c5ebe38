//! What one test has for itself on a shared API server: a namespace, an `IngressClass`, and a
//! controller name that no other gateway obeys.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::{ApiServer, Kubectl, cluster};
use crate::backend::{self, Backend, Request, Step};
use crate::gateway::Gateway;
use crate::manifests;

/// The namespace and class of one test. Nothing is removed at its end: the server goes as a whole.
pub struct Space<'a> {
    server: &'a ApiServer,
    /// Name of the namespace and of the class.
    pub name: String,
    /// Controller of the class.
    pub controller: String,
}

impl<'a> Space<'a> {
    /// Makes both under this name.
    pub fn new(server: &'a ApiServer, name: &str) -> Self {
        let controller = format!("gatehouse.dev/{name}");
        server.kubectl().apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}}}\n\
             spec: {{controller: {controller}}}\n"
        ));
        Self {
            server,
            name: name.to_owned(),
            controller,
        }
    }

    /// `kubectl` as a client that may do everything.
    pub fn kubectl(&self) -> Kubectl {
        self.server.kubectl()
    }

    /// Applies manifests. Those of [`manifests`] speak of namespace `demo` and class `gatehouse`:
    /// here they mean this namespace and this class.
    pub fn apply(&self, manifests: &str) {
        self.kubectl().apply_in(&self.name, &self.own(manifests));
    }

    /// Creates objects that are too large, or too many, for a server-side apply.
    pub fn create(&self, manifests: &str) {
        let flags = ["-n", &self.name, "create", "-f", "-"];
        let finished = self.kubectl().run_with(&flags, &self.own(manifests));
        assert!(finished.ok(), "{}", finished.text());
    }

    /// Manifests with this namespace and this class in them.
    pub fn own(&self, manifests: &str) -> String {
        manifests
            .replace("namespace: demo", &format!("namespace: {}", self.name))
            .replace(
                "ingressClassName: gatehouse",
                &format!("ingressClassName: {}", self.name),
            )
    }

    /// Deletes an object of this namespace, such as `ingress/shop`.
    pub fn delete(&self, object: &str) {
        self.kubectl().delete(&self.name, object);
    }

    /// A backend on an address of its own, with its Service and slice. It answers with its name.
    pub fn backend(&self, service: &str) -> Backend {
        let name = service.to_owned();
        self.scripted(service, move |_| backend::ok(&name))
    }

    /// The same with a script.
    pub fn scripted(
        &self,
        service: &str,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Backend {
        let backend = Backend::at(endpoint(), script);
        self.apply(&manifests::service(service, &[backend.address]));
        backend
    }

    /// A gateway that obeys this class, as a client that may do everything, on loopback.
    pub fn gateway(&self, extra: &[&str]) -> Gateway {
        self.gateway_with(&self.server.admin(), extra)
    }

    /// The same with a kubeconfig of its own.
    pub fn gateway_with(&self, kubeconfig: &Path, extra: &[&str]) -> Gateway {
        let any = "127.0.0.1:0";
        self.start(&[], kubeconfig, [any, any, any], extra)
    }

    /// A gateway with these variables beside those of the test.
    pub fn gateway_under(&self, variables: &[(&str, &Path)], extra: &[&str]) -> Gateway {
        let any = "127.0.0.1:0";
        self.start(variables, &self.server.admin(), [any, any, any], extra)
    }

    /// The same on the given plain, TLS and admin addresses.
    pub fn gateway_at(&self, listen: [&str; 3], extra: &[&str]) -> Gateway {
        self.start(&[], &self.server.admin(), listen, extra)
    }

    fn start(
        &self,
        variables: &[(&str, &Path)],
        kubeconfig: &Path,
        listen: [&str; 3],
        extra: &[&str],
    ) -> Gateway {
        let controller = format!("--controller-class={}", self.controller);
        let class = format!("--ingress-class={}", self.name);
        // Replicas of other tests must not lead this one.
        let lease = format!("--pod-namespace={}", self.name);
        let flags = [&[&*controller, &*class, &*lease], extra].concat();
        Gateway::start_in_cluster_under(variables, kubeconfig, listen, &flags)
    }
}

/// An address of its own with a port that the kernel chooses.
pub fn endpoint() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(cluster::address()), 0)
}
