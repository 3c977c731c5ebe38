//! The table: which route answers a request.
//!
//! A [`Snapshot`] is immutable. The publisher makes a new one per generation and shares with the
//! old one all that did not change; workers read it without locks.
//!
//! Invariants:
//! - `lookup` does not allocate for the host and decides exact host, then one-label wildcard, then
//!   [`HostPattern::Any`]; a host that is found answers for all of its paths, hosts are never
//!   mixed.
//! - Every route holds its clusters: nothing is resolved by name while a request waits.
//! - `explain` is `lookup` with another [`Recorder`], so the two cannot drift apart.

mod compile;
mod path;
mod route;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::model::{HostPattern, HostTls, ServerId, Settings};
use crate::tls::TlsIndex;

pub(crate) use compile::compile;
pub use route::{Action, Route, Split};

use path::Paths;

/// One generation of everything that is served.
pub struct Snapshot {
    /// Counts snapshots of this process; 0 is the empty one before the first apply.
    pub generation: u64,
    /// Sum of the hashes of all plans when this was made; equal digests mean equal plans, on
    /// whatever replica. Endpoints and certificates may have moved on since then.
    pub digest: u64,
    /// Settings of the gateway.
    pub settings: Arc<Settings>,
    /// Virtual servers by [`ServerId`].
    pub servers: Box<[Arc<VirtualServer>]>,
}

impl Snapshot {
    /// A virtual server. [`ServerId::SHARED`] always exists.
    pub fn server(&self, id: ServerId) -> Option<&VirtualServer> {
        self.servers.get(usize::from(id.0)).map(AsRef::as_ref)
    }

    /// The route for a canonical host (lower case, without port and final dot) and a canonical
    /// (decoded) path. `None` only when no pattern takes the host.
    pub fn lookup<R: Recorder>(
        &self,
        server: ServerId,
        host: &str,
        path: &str,
        recorder: &mut R,
    ) -> Option<&Arc<Route>> {
        self.server(server)?
            .hosts
            .find(host, recorder)?
            .find(path, recorder)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// The hosts that a set of listeners serves.
pub struct VirtualServer {
    /// Hosts.
    pub hosts: HostIndex,
    /// Certificates by server name.
    pub tls: Arc<TlsIndex>,
}

/// Told what a lookup did. `()` is told nothing and costs nothing.
pub trait Recorder {
    /// Whether anything is recorded; the lookup of a request does not even build the facts.
    const ACTIVE: bool = true;

    /// A host pattern that could serve the host, most precise first. `matched` is true for the one
    /// that does; those before it are not configured, those after it are, but give way to it.
    fn host(&mut self, pattern: &HostPattern, matched: bool);

    /// A route of the matched host: first the one that answers, then those that would have, then
    /// all others.
    fn route(&mut self, route: &Route, verdict: Verdict);
}

impl Recorder for () {
    const ACTIVE: bool = false;

    fn host(&mut self, _: &HostPattern, _: bool) {}

    fn route(&mut self, _: &Route, _: Verdict) {}
}

/// What a lookup made of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Matched,
    /// It does not fit the path.
    NotMatched(&'static str),
    /// It fits, but a more precise route answers.
    Shadowed,
}

/// Hosts of a virtual server.
///
/// The keys come from the configuration, which is trusted to be no attack on the hash; requests
/// only look up. The seed is random nevertheless.
#[derive(Clone, Default)]
pub struct HostIndex {
    exact: HashMap<Arc<str>, Arc<HostTable>, foldhash::fast::RandomState>,
    wildcard: HashMap<Arc<str>, Arc<HostTable>, foldhash::fast::RandomState>,
    fallback: Option<Arc<HostTable>>,
}

impl HostIndex {
    /// Puts a table in, or takes it away.
    pub fn set(&mut self, pattern: &HostPattern, table: Option<Arc<HostTable>>) {
        let (map, name) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcard, suffix),
            HostPattern::Any => {
                self.fallback = table;
                return;
            }
        };
        match table {
            Some(table) => map.insert(Arc::clone(name), table),
            None => map.remove(name),
        };
    }

    /// The table under exactly this pattern.
    pub fn table(&self, pattern: &HostPattern) -> Option<&Arc<HostTable>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.fallback.as_ref(),
        }
    }

    /// The table that serves a canonical host.
    pub fn find<R: Recorder>(&self, host: &str, recorder: &mut R) -> Option<&Arc<HostTable>> {
        if R::ACTIVE {
            self.record(host, recorder);
        }
        self.exact
            .get(host)
            .or_else(|| self.wildcard.get(suffix(host)?))
            .or(self.fallback.as_ref())
    }

    /// Number of patterns.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + usize::from(self.fallback.is_some())
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tables, in no order.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<HostTable>> {
        self.exact
            .values()
            .chain(self.wildcard.values())
            .chain(&self.fallback)
    }

    #[cold]
    fn record<R: Recorder>(&self, host: &str, recorder: &mut R) {
        let exact = HostPattern::Exact(host.into());
        let wildcard = suffix(host).map(|suffix| HostPattern::Wildcard(suffix.into()));
        let mut matched = false;
        for pattern in [Some(exact), wildcard, Some(HostPattern::Any)]
            .into_iter()
            .flatten()
        {
            let exists = self.table(&pattern).is_some();
            if exists || !matched {
                recorder.host(&pattern, exists && !matched);
            }
            matched |= exists;
        }
    }
}

/// What a wildcard must hold to match the host: all but the first label.
fn suffix(host: &str) -> Option<&str> {
    host.split_once('.')
        .filter(|(label, _)| !label.is_empty())
        .map(|(_, suffix)| suffix)
}

/// The routes of one host pattern.
pub struct HostTable {
    pattern: HostPattern,
    tls: Option<HostTls>,
    routes: Box<[Arc<Route>]>,
    paths: Paths,
}

impl HostTable {
    /// The host pattern.
    pub fn pattern(&self) -> &HostPattern {
        &self.pattern
    }

    /// The certificate that an object asked for.
    pub fn tls(&self) -> Option<&HostTls> {
        self.tls.as_ref()
    }

    /// Routes in the order of the plan.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The route for a canonical path.
    pub fn find<R: Recorder>(&self, path: &str, recorder: &mut R) -> Option<&Arc<Route>> {
        if R::ACTIVE {
            self.record(path, recorder);
        }
        self.paths.candidates(path).next()
    }

    #[cold]
    fn record<R: Recorder>(&self, path: &str, recorder: &mut R) {
        let mut verdict = Verdict::Matched;
        for route in self.paths.candidates(path) {
            recorder.route(route, verdict);
            verdict = Verdict::Shadowed;
        }
        for route in &self.routes {
            let mut candidates = self.paths.candidates(path);
            if !candidates.any(|other| Arc::ptr_eq(other, route)) {
                let why = path::why_not(&route.key.path, path);
                recorder.route(route, Verdict::NotMatched(why));
            }
        }
    }
}
