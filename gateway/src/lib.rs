//! The data plane of Gatehouse: everything that touches a request.
//!
//! The control plane hands plans ([`model::Delta`]) to [`publish::Publisher`], which compiles them
//! into one [`table::Snapshot`] and swaps it. Workers, one thread per core, read the snapshot and
//! never lock.
//!
//! Invariants:
//! - This crate knows no Kubernetes (a test reads its dependency tree).
//! - A request holds one `Arc<Route>`, a tunnel one `Arc<Endpoint>`; nothing holds the snapshot.
//! - No lock and no snapshot guard is held across an await.
//! - State that must outlive a swap (endpoints, pools, counters, TLS tickets) lives outside the
//!   table under a stable key.
//! - Every request writes its record exactly once, whatever happens to it.

pub mod access_log;
pub mod challenge;
mod clock;
pub mod error;
pub mod metrics;
pub mod model;
pub mod policy;
pub mod publish;
pub mod server;
pub mod table;
pub mod tls;
pub mod upstream;
