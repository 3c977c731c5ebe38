//! Where objects come from. A source is a task that sends [`Change`]s; nothing else differs
//! between a directory of manifests and a cluster.

mod convert;
mod decode;
pub mod directory;
mod follow;
pub mod kubernetes;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use crate::diagnostics::Diagnostic;

/// Kinds that Gatehouse reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Endpoints.
    Endpoints,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Namespace.
    Namespace,
}

impl Kind {
    /// The name as written in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Namespace => "Namespace",
        }
    }
}

/// Identity of an object. The namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace, or empty.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.as_str(), self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.as_str(), self.namespace, self.name)
        }
    }
}

/// An object of a kind that Gatehouse reads.
#[derive(Debug, Clone)]
pub enum Object {
    /// Ingress.
    Ingress(Arc<Ingress>),
    /// IngressClass.
    IngressClass(Arc<IngressClass>),
    /// Service.
    Service(Arc<Service>),
    /// EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// Endpoints.
    Endpoints(Arc<Endpoints>),
    /// Secret.
    Secret(Arc<Secret>),
    /// ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// Namespace.
    Namespace(Arc<Namespace>),
}

/// Why a Secret that somebody asks for is not among the objects that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It does not exist.
    Missing,
    /// The server refuses to show it.
    Refused,
    /// Too many are asked for by name.
    LeftOut,
}

/// What Gatehouse keeps for a Secret by itself: served when there is no such Secret, or none that can
/// be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// In the form of the Secret.
    pub secret: Arc<Secret>,
    /// Served in any case: what is in the Secret was written by Gatehouse, or in its place.
    pub first: bool,
}

/// Another Secret of the same namespace whose certificate is served where this one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// Its name.
    pub secret: Arc<str>,
    /// Whatever is in the Secret that is named; else only if that cannot be used.
    pub first: bool,
}

/// What a source tells the engine.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is new or has changed.
    Apply(ObjectKey, Object),
    /// The object is gone.
    Delete(ObjectKey),
    /// What Gatehouse keeps for a Secret by itself.
    Keep(ObjectKey, Option<Kept>),
    /// Which Secret covers another one.
    Cover(ObjectKey, Option<Cover>),
    /// Everything that is to be said of certificates that Gatehouse orders, replacing what was said
    /// before.
    Certificates(Vec<Diagnostic>),
    /// Everything the source has to complain about (files that do not parse, objects that do not
    /// decode), replacing what it complained about before.
    Complaints(Vec<Diagnostic>),
    /// Files in which objects stand, for messages; of new objects and of those that moved.
    Places(Vec<(ObjectKey, Arc<str>)>),
    /// Addresses of a DNS name (ExternalName services), from the resolver.
    Resolved {
        /// The name, lower case, without a trailing dot.
        name: Arc<str>,
        /// Its addresses; empty when it does not resolve.
        addresses: Arc<[std::net::IpAddr]>,
    },
    /// The Secrets that are asked for and have been looked for in vain, replacing those that were
    /// said before. A source that has said [`Change::Listed`] does not know yet about any other that
    /// it has not sent.
    Absent(BTreeMap<ObjectKey, Absence>),
    /// Everything has been sent once but what only the engine can tell to be wanted: it computes
    /// and reports that, and publishes nothing yet. A source that sends everything anyway need not
    /// say it.
    Listed,
    /// Everything that exists has been sent once; nothing is published before.
    Synced,
}
