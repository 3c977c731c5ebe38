//! Choosing an endpoint. Pure apart from the generator and the turn that are passed in.
//!
//! Invariants: endpoints that already failed this request are left out as long as another one
//! exists; the consistent hash is rendezvous hashing with seeds from the addresses, so an
//! endpoint that leaves moves only its own clients, and every worker and replica agrees.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::cluster::{ClusterState, Endpoint, hash_ip, mix};
use crate::model::Balance;

/// Small generator of one worker (splitmix64): spreads load, decides nothing secret.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        mix(state)
    }

    /// Uniform below `bound`, by multiplication instead of division.
    fn below(&self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

/// What a choice depends on besides the cluster.
pub(crate) struct Choice<'a> {
    /// The client, for the consistent hash.
    pub(crate) client: IpAddr,
    /// The generator of the worker.
    pub(crate) random: &'a Random,
    /// Next round robin position of this cluster in this worker.
    pub(crate) turn: &'a dyn Fn() -> u32,
    /// Endpoints that failed this request.
    pub(crate) tried: &'a [u64],
}

/// The endpoint for a request, or `None` when the cluster has none.
pub(crate) fn choose(state: &ClusterState, choice: &Choice<'_>) -> Option<Arc<Endpoint>> {
    let serving = state.serving();
    if let [only] = serving {
        return Some(Arc::clone(only));
    }
    if choice.tried.is_empty() {
        return pick(state.balance(), serving, choice).map(Arc::clone);
    }
    let untried: Vec<Arc<Endpoint>> = serving
        .iter()
        .filter(|endpoint| !choice.tried.contains(&endpoint.id))
        .map(Arc::clone)
        .collect();
    let candidates = if untried.is_empty() {
        serving
    } else {
        &untried
    };
    pick(state.balance(), candidates, choice).map(Arc::clone)
}

fn pick<'a>(
    balance: Balance,
    candidates: &'a [Arc<Endpoint>],
    choice: &Choice<'_>,
) -> Option<&'a Arc<Endpoint>> {
    if candidates.is_empty() {
        return None;
    }
    match balance {
        Balance::RoundRobin => {
            // A retry takes no turn: two endpoints, one of them dead, would otherwise be met in
            // the same order by every request.
            let position = if choice.tried.is_empty() {
                usize::try_from((choice.turn)()).unwrap_or(0) % candidates.len()
            } else {
                choice.random.below(candidates.len())
            };
            candidates.get(position)
        }
        Balance::LeastRequest => {
            let (a, b) = two(candidates, choice.random)?;
            Some(if b.load() < a.load() { b } else { a })
        }
        Balance::PeakEwma => {
            let (a, b) = two(candidates, choice.random)?;
            let now = Instant::now();
            let cost = |endpoint: &Endpoint| endpoint.latency().cost(endpoint.load(), now);
            Some(if cost(b) < cost(a) { b } else { a })
        }
        Balance::ClientHash => {
            let client = hash_ip(choice.client);
            candidates
                .iter()
                .max_by_key(|endpoint| mix(endpoint.seed ^ client))
        }
    }
}

/// Two different candidates, or the only one twice.
fn two<'a>(
    candidates: &'a [Arc<Endpoint>],
    random: &Random,
) -> Option<(&'a Arc<Endpoint>, &'a Arc<Endpoint>)> {
    if let [only] = candidates {
        return Some((only, only));
    }
    let first = random.below(candidates.len());
    let mut second = random.below(candidates.len().checked_sub(1)?);
    if second >= first {
        second += 1;
    }
    Some((candidates.get(first)?, candidates.get(second)?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::model::{
        Affinity, ClusterKey, ClusterPlan, EndpointPhase, EndpointPlan, UpstreamProtocol,
    };
    use crate::upstream::cluster::{Cluster, LoadGuard};

    fn plan(balance: Balance, endpoints: u8) -> Arc<ClusterPlan> {
        Arc::new(ClusterPlan {
            key: ClusterKey("ns/svc:80".into()),
            protocol: UpstreamProtocol::Http1,
            balance,
            affinity: Affinity::None,
            endpoints: (1..=endpoints)
                .map(|host| EndpointPlan {
                    address: (Ipv4Addr::new(10, 0, 0, host), 80).into(),
                    phase: EndpointPhase::Ready,
                })
                .collect(),
        })
    }

    struct Bench {
        cluster: Cluster,
        random: Random,
        turn: Cell<u32>,
    }

    impl Bench {
        fn new(balance: Balance, endpoints: u8) -> Self {
            Self {
                cluster: Cluster::new(plan(balance, endpoints)),
                random: Random::seeded(7),
                turn: Cell::new(3),
            }
        }

        fn choose(&self, client: u32, tried: &[u64]) -> Arc<Endpoint> {
            let turn = || {
                self.turn.set(self.turn.get() + 1);
                self.turn.get()
            };
            let choice = Choice {
                client: IpAddr::from(Ipv4Addr::from_bits(client)),
                random: &self.random,
                turn: &turn,
                tried,
            };
            choose(&self.cluster.state().load_full(), &choice).unwrap()
        }

        fn spread(&self, requests: u32) -> Vec<u32> {
            let mut counts: HashMap<u64, u32> = HashMap::new();
            for client in 0..requests {
                *counts.entry(self.choose(client, &[]).id).or_default() += 1;
            }
            let mut counts: Vec<u32> = counts.into_values().collect();
            counts.sort_unstable();
            counts
        }
    }

    #[test]
    fn round_robin_gives_everybody_the_same() {
        assert_eq!(Bench::new(Balance::RoundRobin, 4).spread(400), [100; 4]);
    }

    #[test]
    fn least_request_prefers_the_idle_and_still_spreads() {
        let bench = Bench::new(Balance::LeastRequest, 2);
        let busy = Arc::clone(&bench.cluster.endpoints()[0]);
        let load = LoadGuard::new(Arc::clone(&busy));
        for client in 0..100 {
            assert_ne!(bench.choose(client, &[]).id, busy.id);
        }
        drop(load);
        for count in Bench::new(Balance::LeastRequest, 8).spread(8000) {
            assert!((850..1150).contains(&count), "{count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peak_ewma_leaves_the_slow_alone_until_it_has_decayed() {
        let bench = Bench::new(Balance::PeakEwma, 2);
        let endpoints = bench.cluster.endpoints();
        let observe = |slow: u64, fast: u64| {
            let now = Instant::now();
            endpoints[0]
                .latency()
                .observe(Duration::from_millis(slow), now);
            endpoints[1]
                .latency()
                .observe(Duration::from_millis(fast), now);
        };
        observe(900, 10);
        for client in 0..100 {
            assert_eq!(bench.choose(client, &[]).id, endpoints[1].id);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        endpoints[1]
            .latency()
            .observe(Duration::from_millis(10), Instant::now());
        assert_eq!(bench.choose(0, &[]).id, endpoints[0].id, "forgiven");
    }

    #[test]
    fn a_client_stays_and_only_clients_of_the_leaver_move() {
        let bench = Bench::new(Balance::ClientHash, 10);
        let before: Vec<Arc<Endpoint>> = (0..10_000).map(|c| bench.choose(c, &[])).collect();
        for count in bench.spread(10_000) {
            assert!((850..1150).contains(&count), "{count}");
        }
        let leaver = bench.cluster.endpoints()[9].id;
        bench.cluster.apply(plan(Balance::ClientHash, 9));
        for (client, old) in before.iter().enumerate() {
            let new = bench.choose(u32::try_from(client).unwrap(), &[]);
            assert!(new.id == old.id || old.id == leaver);
            assert_ne!(new.id, leaver);
        }
    }

    #[test]
    fn an_endpoint_that_failed_this_request_is_avoided_while_another_exists() {
        for balance in [
            Balance::RoundRobin,
            Balance::LeastRequest,
            Balance::PeakEwma,
            Balance::ClientHash,
        ] {
            let bench = Bench::new(balance, 3);
            for client in 0..50 {
                let first = bench.choose(client, &[]).id;
                let second = bench.choose(client, &[first]).id;
                assert_ne!(first, second);
                let all: Vec<u64> = bench.cluster.endpoints().iter().map(|e| e.id).collect();
                assert!(all.contains(&bench.choose(client, &all).id));
            }
        }
    }
}
