//! Answering DNS-01: writing one TXT record where the authority will look.
//!
//! Invariants:
//! - A record is known by its exact value, so several challenges may share one name (a wildcard and
//!   its apex do), and all calls may be repeated.
//! - A [`TxtRecord`] says where it was written; it is stored before it is written, and cleaned up at
//!   that place even if delegations have changed since.

mod acme_dns;
mod api;
mod cloudflare;
mod exec;
mod httpreq;
pub mod look;
mod message;
pub mod persist;
mod provider;
mod resolve;
mod rfc2136;
mod route53;
mod sigv4;
pub mod spec;

use serde::{Deserialize, Serialize};

use crate::Answer;

pub use provider::{resolvers_of, solver, solvers};
pub use spec::SolverSpec;

/// A TXT record of a challenge, as the certificate's record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TxtRecord {
    /// Where it is written, after CNAMEs, without a final dot.
    pub fqdn: String,
    /// Zone of `fqdn`, if it had to be found.
    pub zone: Option<String>,
    /// The one value that is added and removed.
    pub value: String,
}

/// Whether all servers that an authority may ask have the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All of them.
    Visible,
    /// Not yet; the text says which server lacks it.
    Missing(String),
}

/// Why DNS was not changed or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// Worth trying again: no answer, an overloaded provider.
    #[error("{0}")]
    Temporary(String),
    /// Wrong until the configuration changes: credentials, zone.
    #[error("{0}")]
    Configuration(String),
}

/// One way to write TXT records: a provider with its credentials.
pub trait Solver: Send + Sync {
    /// Where the record of a domain (without `*.`) belongs: `_acme-challenge.<domain>`, then along
    /// CNAMEs unless that is switched off. Writes nothing.
    fn locate<'a>(
        &'a self,
        domain: &'a str,
        value: &'a str,
    ) -> Answer<'a, Result<TxtRecord, DnsError>>;

    /// Adds the value beside any other of the same name.
    fn present<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>>;

    /// Removes exactly this value; that it is not there is success.
    fn cleanup<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>>;

    /// Looks once whether the record can be seen everywhere. The driver asks again.
    fn ready<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<Readiness, DnsError>>;
}

/// Makes solvers out of the configuration and the secret it names.
pub type Solvers = dyn Fn(&SolverSpec, crate::secrets::Entries) -> Result<std::sync::Arc<dyn Solver>, String>
    + Send
    + Sync;
