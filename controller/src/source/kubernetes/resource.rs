//! What Gatehouse asks of the API server: the one table that the source builds its requests from
//! and that `gatehouse generate rbac` prints. A right that is not in here is not used, and a
//! request that is not in here is not made.

use super::super::Kind;

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version asked for.
    pub version: &'static str,
    /// Plural name, with the subresource behind a slash.
    pub resource: &'static str,
    /// Verbs used.
    pub verbs: &'static [&'static str],
    /// Where.
    pub reach: Reach,
    /// What for; decides whether the row is needed.
    pub purpose: Purpose,
}

/// Where a right is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In every namespace that is watched; in the whole cluster when all are.
    Watched,
    /// The resource belongs to no namespace.
    Cluster,
    /// In the namespace of Gatehouse itself; RBAC cannot bind the verb to a name.
    Own,
    /// One object only.
    Named,
}

/// What a right is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The objects that are served; always needed.
    Serve,
    /// The classes; only when the whole cluster is watched.
    Classes,
    /// The Secret of `--default-ssl-certificate`.
    DefaultCertificate,
    /// The ConfigMap of `--configmap`.
    Settings,
    /// Writing `status.loadBalancer`.
    Status,
    /// The Service of `--publish-service`.
    PublishService,
    /// The addresses of the nodes that Gatehouse runs on.
    NodeAddresses,
    /// Finding those nodes, and whether this is the last replica.
    OtherPods,
    /// Events on Ingresses.
    Events,
    /// Electing the replica that writes.
    Election,
    /// Certificates: records, accounts and challenges.
    Vault,
    /// Certificates: the Secrets that they go to.
    Projection,
    /// Certificates: who a namespace is, and its labels.
    Tenants,
}

const READ: &[&str] = &["list", "watch"];
const VAULT: &[&str] = &["create", "delete", "get", "list", "update", "watch"];

macro_rules! grants {
    ($($group:literal $version:literal $resource:literal $verbs:expr, $reach:ident, $purpose:ident;)+) => {
        /// The table.
        pub const GRANTS: &[Grant] = &[$(Grant {
            group: $group,
            version: $version,
            resource: $resource,
            verbs: $verbs,
            reach: Reach::$reach,
            purpose: Purpose::$purpose,
        },)+];
    };
}

grants! {
    "networking.k8s.io" "v1" "ingresses" READ, Watched, Serve;
    "networking.k8s.io" "v1" "ingressclasses" READ, Cluster, Classes;
    "" "v1" "services" READ, Watched, Serve;
    "discovery.k8s.io" "v1" "endpointslices" READ, Watched, Serve;
    "" "v1" "endpoints" READ, Watched, Serve;
    "" "v1" "secrets" READ, Watched, Serve;
    "" "v1" "secrets" READ, Named, DefaultCertificate;
    "" "v1" "configmaps" READ, Named, Settings;
    "networking.k8s.io" "v1" "ingresses/status" &["patch"], Watched, Status;
    "" "v1" "services" &["get"], Named, PublishService;
    "" "v1" "nodes" &["get"], Cluster, NodeAddresses;
    "" "v1" "pods" &["get", "list"], Own, OtherPods;
    "" "v1" "events" &["create", "patch"], Watched, Events;
    "coordination.k8s.io" "v1" "leases" &["create"], Own, Election;
    "coordination.k8s.io" "v1" "leases" &["get", "update"], Named, Election;
    "" "v1" "secrets" VAULT, Own, Vault;
    "" "v1" "secrets" &["create", "patch"], Watched, Projection;
    "" "v1" "namespaces" READ, Cluster, Tenants;
}

/// The row by which the objects of a kind are read. None: the source does not read it.
pub(super) fn reading(kind: Kind) -> Option<&'static Grant> {
    let resource = match kind {
        Kind::Ingress => "ingresses",
        Kind::IngressClass => "ingressclasses",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Endpoints => "endpoints",
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::Namespace => "namespaces",
    };
    GRANTS
        .iter()
        .find(|grant| grant.resource == resource && grant.verbs == READ)
}

impl Grant {
    /// The path of the collection.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.resource),
            None => format!("{root}/{}", self.resource),
        }
    }

    /// The name that `kubectl` understands: `ingresses.networking.k8s.io`.
    pub fn name(&self) -> String {
        match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        let path = |kind, namespace| reading(kind).unwrap().path(namespace);
        assert_eq!(
            path(Kind::Ingress, None),
            "/apis/networking.k8s.io/v1/ingresses"
        );
        assert_eq!(
            path(Kind::Secret, Some("shop")),
            "/api/v1/namespaces/shop/secrets"
        );
        assert_eq!(path(Kind::Namespace, None), "/api/v1/namespaces");
    }
}
