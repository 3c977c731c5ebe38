//! Resolves the DNS names of ExternalName services and tells the engine what changed.
//!
//! Invariants: only names that the engine asks for are resolved, a bounded number at a time; a
//! name that resolved once keeps its addresses while the resolver fails, for `FORGIVEN` rounds;
//! a change is sent only when the set of addresses differs.
//!
//! The resolver of the system does not tell the TTL of a record. Every name is asked for again
//! every `ROUND`, which is shorter than TTLs are; the cluster's DNS server, which knows them,
//! answers from its cache until they have passed.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::engine::Report;
use crate::source::Change;

/// Follows the names in the reports with the resolver of the system, until the engine is gone.
///
/// In a cluster the names are absolute, as they are to its DNS server: the search list of the
/// gateway's own pod would make `cart` a service beside the gateway. Elsewhere a name may stand in
/// the file of hosts, where none ends with a dot.
pub async fn run(
    reports: watch::Receiver<Arc<Report>>,
    changes: mpsc::Sender<Change>,
    absolute: bool,
) {
    let root = if absolute { "." } else { "" };
    follow(reports, changes, move |name: Arc<str>| async move {
        let addresses = tokio::net::lookup_host((format!("{name}{root}"), 0)).await?;
        Ok(addresses.map(|address| address.ip()).collect())
    })
    .await;
}

/// What is known about a name.
#[derive(Debug, Default)]
struct Known {
    addresses: Option<Arc<[IpAddr]>>,
    failures: u32,
}

async fn follow<L, F>(
    mut reports: watch::Receiver<Arc<Report>>,
    changes: mpsc::Sender<Change>,
    lookup: L,
) where
    L: Fn(Arc<str>) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let mut known: HashMap<Arc<str>, Known> = HashMap::new();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let every = tokio::select! {
            _ = rounds.tick() => true,
            news = reports.changed() => {
                if news.is_err() {
                    return;
                }
                false
            }
        };
        let wanted = Arc::clone(&reports.borrow_and_update().external_names);
        known.retain(|name, _| wanted.contains(name));
        let due = wanted
            .iter()
            .filter(|name| every || !known.contains_key(*name))
            .cloned();
        for (name, result) in resolve(due, &lookup).await {
            let entry = known.entry(Arc::clone(&name)).or_default();
            let Some(addresses) = entry.learn(result) else {
                continue;
            };
            let change = Change::Resolved { name, addresses };
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

impl Known {
    /// The addresses, if they are others than before.
    fn learn(&mut self, result: io::Result<Vec<IpAddr>>) -> Option<Arc<[IpAddr]>> {
        let mut addresses = if let Ok(addresses) = result {
            self.failures = 0;
            addresses
        } else {
            self.failures += 1;
            if self.addresses.is_some() && self.failures <= FORGIVEN {
                return None;
            }
            Vec::new()
        };
        addresses.sort_unstable();
        addresses.dedup();
        if self.addresses.as_deref() == Some(addresses.as_slice()) {
            return None;
        }
        let addresses: Arc<[IpAddr]> = addresses.into();
        self.addresses = Some(Arc::clone(&addresses));
        Some(addresses)
    }
}

async fn resolve<L, F>(
    names: impl Iterator<Item = Arc<str>>,
    lookup: &L,
) -> Vec<(Arc<str>, io::Result<Vec<IpAddr>>)>
where
    L: Fn(Arc<str>) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let mut results = Vec::new();
    let mut running = JoinSet::new();
    for name in names {
        if running.len() >= PARALLEL
            && let Some(Ok(result)) = running.join_next().await
        {
            results.push(result);
        }
        let answer = timeout(DEADLINE, lookup(Arc::clone(&name)));
        running.spawn(async move {
            let answer = answer.await;
            (
                name,
                answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            )
        });
    }
    while let Some(result) = running.join_next().await {
        results.extend(result);
    }
    results
}

/// How often every name is resolved again.
const ROUND: Duration = Duration::from_secs(5);

/// How long one lookup may take.
const DEADLINE: Duration = Duration::from_secs(4);

/// Failed rounds during which the last addresses stay.
const FORGIVEN: u32 = 12;

/// Lookups at a time.
const PARALLEL: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outlive_a_failing_resolver_for_a_while() {
        let mut known = Known::default();
        let address: IpAddr = [192, 0, 2, 1].into();
        let found = known.learn(Ok(vec![address, address])).unwrap();
        assert_eq!(&*found, [address]);
        assert!(known.learn(Ok(vec![address])).is_none(), "unchanged");
        for _ in 0..FORGIVEN {
            assert!(known.learn(Err(io::ErrorKind::Other.into())).is_none());
        }
        let lost = known.learn(Err(io::ErrorKind::Other.into())).unwrap();
        assert!(lost.is_empty());
        assert!(known.learn(Err(io::ErrorKind::Other.into())).is_none());
    }

    #[test]
    fn a_name_that_never_resolved_is_reported_at_once() {
        let mut known = Known::default();
        let lost = known.learn(Err(io::ErrorKind::NotFound.into())).unwrap();
        assert!(lost.is_empty());
    }
}
