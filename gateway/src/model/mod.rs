//! The contract between the control plane and the data plane: plain data, no behaviour of its own.
//!
//! The controller decides and hands a [`Delta`] of plans to [`crate::publish::Publisher`], which
//! compiles them and swaps one snapshot. Nothing here knows Kubernetes: an object is only an
//! [`ObjectRef`] that is carried along so that a route can say where it came from.
//!
//! Invariants: plans are free of conflicts (merging has settled them), sorted where they hold
//! lists, and comparable, so that an unchanged plan is recognised and compiles nothing.

mod certificate;
mod challenge;
mod cluster;
mod host;
mod settings;

pub use certificate::{CertKey, CertificatePlan};
pub use challenge::{ChallengePlan, HandshakePlan, Identifier, Thumbprint, TokenPlan};
pub use cluster::{
    Affinity, Balance, ClusterKey, ClusterPlan, EndpointPhase, EndpointPlan, UpstreamProtocol,
};
pub(crate) use host::status_as_number;
pub use host::{
    ActionPlan, HostPattern, HostPlan, HostTls, ObjectRef, PathKind, PathMatch, PolicySpec,
    RefuseReason, RouteKey, RoutePlan, WeightedCluster,
};
pub use settings::{
    ForwardedTrust, HeaderSettings, Limits, Settings, Timeouts, TlsSettings, is_framing,
};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One change of the published state. A key with `None` goes away.
///
/// The publisher applies clusters first, then certificates, then hosts and settings, so that no
/// published route ever points at something missing.
#[derive(Debug, Default, Clone)]
pub struct Delta {
    /// Clusters that appeared, changed (`Some`) or went away (`None`).
    pub clusters: Vec<(ClusterKey, Option<Arc<ClusterPlan>>)>,
    /// Certificates by slot. A slot that goes away falls back to the default certificate.
    pub certificates: Vec<(CertKey, Option<Arc<CertificatePlan>>)>,
    /// Hosts of one virtual server that appeared, changed or went away.
    pub hosts: Vec<(HostKey, Option<Arc<HostPlan>>)>,
    /// The slot served when no host asks for another; `Some(None)` means the built-in
    /// self-signed certificate. `None` leaves it as it is.
    pub default_certificate: Option<Option<CertKey>>,
    /// The slot that serves a client who names no host and has reached this address; `None`: the
    /// default one.
    pub addresses: Vec<(IpAddr, Option<CertKey>)>,
    /// New settings, or `None` to leave them as they are.
    pub settings: Option<Arc<Settings>>,
}

impl Delta {
    /// Whether applying this would change nothing.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.certificates.is_empty()
            && self.hosts.is_empty()
            && self.default_certificate.is_none()
            && self.addresses.is_empty()
            && self.settings.is_none()
    }
}

/// Which set of hosts a listener serves. Ingress objects share [`ServerId::SHARED`]; listeners
/// with a set of their own come with the Gateway API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ServerId(pub u16);

impl ServerId {
    /// The virtual server that all Ingress objects contribute to.
    pub const SHARED: Self = Self(0);
}

/// Identity of a host plan: the virtual server it belongs to and the host pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct HostKey {
    /// The virtual server.
    pub server: ServerId,
    /// The host pattern within it.
    pub host: HostPattern,
}

/// What a listener speaks to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// Plain HTTP/1.1, and HTTP/2 by prior knowledge.
    Http,
    /// TLS with HTTP/1.1 or HTTP/2 by ALPN.
    Https,
}

/// A socket to listen on. Listeners are data: their number is not fixed by the code.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ListenerPlan {
    /// Name in logs, metrics and explanations.
    pub name: Arc<str>,
    /// Address to bind; port 0 asks the system for a free one.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// The hosts served there.
    pub server: ServerId,
    /// Port clients believe they reach, when it differs from the bound one (a port mapping in
    /// front): used for `X-Forwarded-Port`. `None` means the bound port.
    pub public_port: Option<u16>,
}
