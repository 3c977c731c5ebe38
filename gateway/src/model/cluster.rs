//! Clusters: the endpoints behind one service port, and how to talk to them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

/// Stable identity of a cluster, such as `namespace/service:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClusterKey(pub Arc<str>);

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One cluster. A change of endpoints or of balancing swaps the cluster's state and touches no
/// route table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ClusterPlan {
    /// Identity.
    pub key: ClusterKey,
    /// What the endpoints speak.
    pub protocol: UpstreamProtocol,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Whether a client stays with its endpoint.
    pub affinity: Affinity,
    /// Endpoints, sorted by address, without duplicates.
    pub endpoints: Vec<EndpointPlan>,
}

/// Wire protocol to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 on plain TCP; also `appProtocol: http` and `kubernetes.io/ws`.
    Http1,
    /// HTTP/2 by prior knowledge on plain TCP (`appProtocol: kubernetes.io/h2c`, `grpc`).
    H2c,
    /// HTTP/1.1 over TLS (`appProtocol: https`, `kubernetes.io/wss`). The certificate of the
    /// endpoint is not verified, as ingress-nginx does by default.
    Https,
    /// HTTP/2 over TLS (`appProtocol: grpcs`).
    H2,
}

/// Balancing among the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub enum Balance {
    /// Each in turn, per worker, from a random start.
    #[default]
    RoundRobin,
    /// Of two random endpoints the one with fewer requests in flight.
    LeastRequest,
    /// Of two random endpoints the one with the lower peak-sensitive moving average of latency
    /// times load.
    PeakEwma,
    /// Consistent hash of the client address.
    ClientHash,
}

/// Session affinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub enum Affinity {
    /// None.
    #[default]
    None,
    /// By client address (`sessionAffinity: ClientIP`): overrides the balancing.
    ClientIp,
}

/// One endpoint of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EndpointPlan {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes new requests.
    pub phase: EndpointPhase,
}

/// Phase of an endpoint's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointPhase {
    /// Takes requests.
    Ready,
    /// Terminating but still serving: running requests finish, new ones go elsewhere unless no
    /// endpoint is ready.
    Draining,
}
