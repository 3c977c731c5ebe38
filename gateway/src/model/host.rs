//! Hosts and their routes, as the control plane describes them.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::{CertKey, ClusterKey};

/// Names an object of the control plane, so that diagnostics, logs and `explain` can say where a
/// route came from. The data plane only carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// Kind, such as `Ingress`.
    pub kind: Arc<str>,
    /// Namespace; empty for objects without one.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Which request hosts a plan is for. Names are canonical: lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(Arc<str>),
    /// `*.suffix`: one more label in front of the suffix held here (without `*.`).
    Wildcard(Arc<str>),
    /// Every host that no other pattern matches.
    Any,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Everything served on one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HostPlan {
    /// The pattern; also the key under which the plan is published.
    pub host: HostPattern,
    /// Routes, sorted by [`RoutePlan::key`]; no two have the same path match. A host always has a
    /// route for `Prefix /`, even if only to answer 404: merging adds it.
    pub routes: Vec<Arc<RoutePlan>>,
    /// The certificate of the host, when an object asked for one.
    pub tls: Option<HostTls>,
}

/// TLS facts of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HostTls {
    /// Slot of the certificate; `None` serves the default certificate.
    pub certificate: Option<CertKey>,
    /// The object that decided it.
    pub origin: ObjectRef,
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum PathKind {
    /// The whole path, byte for byte.
    Exact,
    /// Element by element: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`.
    Prefix,
}

/// A path condition. The path is the decoded canonical form that requests are matched in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PathMatch {
    /// How to compare.
    pub kind: PathKind,
    /// What to compare with; begins with `/`. A final slash of a prefix is kept as written.
    pub path: Arc<str>,
}

/// Stable identity of a route: state that outlives a swap hangs on this, never on an index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RouteKey {
    /// The host.
    pub host: HostPattern,
    /// The path condition.
    pub path: PathMatch,
    /// The object that contributed the route.
    pub origin: ObjectRef,
}

/// One route of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct RoutePlan {
    /// Identity, which also holds the path condition.
    pub key: RouteKey,
    /// Where in the object it stands, such as `spec.rules[0].http.paths[1]`.
    pub field: Arc<str>,
    /// Policies to apply; order in the list has no meaning (the stage decides).
    pub policies: Vec<PolicySpec>,
    /// What happens when no policy answered before.
    pub action: ActionPlan,
}

/// A declared policy. One variant is one file below `policy/`, where it is compiled to a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicySpec {
    /// Answer 200 on exactly this path.
    HealthCheck {
        /// The path.
        path: Arc<str>,
    },
    /// Answer 301 with a final slash added when the path is exactly this prefix without it
    /// (nginx does so for a location written `/x/` when `/x` is not defined).
    TrailingSlash {
        /// The path that redirects, without the final slash.
        path: Arc<str>,
    },
    /// Answer a plain-text request with a redirect to https.
    HttpsRedirect {
        /// 308 unless configured otherwise.
        #[serde(serialize_with = "status_as_number")]
        status: StatusCode,
        /// Whether the route's own path is exempt from the redirect (ACME challenge paths).
        exempt: bool,
    },
    /// Add `Strict-Transport-Security` to answers on TLS connections.
    Hsts {
        /// Complete field value.
        value: Arc<str>,
    },
}

/// Last step of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionPlan {
    /// Forward to one of the clusters, by weight. Never empty.
    Forward(Vec<WeightedCluster>),
    /// The default answer of a host or path that nothing serves: 404.
    NotFound,
    /// Configuration is broken in a way that must not be served: answer with a fixed error.
    Refuse(RefuseReason),
}

/// A share of a split.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct WeightedCluster {
    /// The cluster.
    pub cluster: ClusterKey,
    /// Its share; shares need not add up to anything.
    pub weight: u32,
}

/// Why a route refuses instead of forwarding. Each has a fixed status and reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RefuseReason {
    /// The service or its port does not exist: 503.
    ServiceMissing,
    /// The backend is of a kind that is not supported: 404, as nginx does for resource backends.
    UnsupportedBackend,
    /// A security-relevant setting is broken, so the door stays closed: 503.
    BrokenPolicy,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
pub(crate) fn status_as_number<S: serde::Serializer>(
    status: &StatusCode,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
