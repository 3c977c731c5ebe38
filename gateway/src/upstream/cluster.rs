//! Clusters and endpoints: the state that outlives every swap of the table.
//!
//! Invariants:
//! - Plan and endpoints change in one swap, so a request never sees the endpoints of one plan
//!   with the settings of another.
//! - An address that stays keeps its [`Endpoint`]: load and latency survive an update.
//! - An endpoint that went away is *gone* for good. The same address coming back is another
//!   endpoint with another id (a recycled pod address is another pod), so nothing learnt about,
//!   and no connection opened to, the old one is ever used for the new one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::HashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{Affinity, Balance, ClusterKey, ClusterPlan, EndpointPhase};

/// The endpoints behind one service port, and how to talk to them.
pub struct Cluster {
    /// Identity.
    pub key: ClusterKey,
    id: u64,
    state: ArcSwap<ClusterState>,
}

/// What a request sees of a cluster, all of it from the same plan.
pub(crate) struct ClusterState {
    pub(crate) plan: Arc<ClusterPlan>,
    /// Every endpoint, in the order of the plan.
    all: Box<[Arc<Endpoint>]>,
    /// Those that take requests: the ready ones, or the draining ones when none is ready.
    serving: Box<[Arc<Endpoint>]>,
}

impl Cluster {
    /// A cluster with the endpoints of its plan.
    pub fn new(plan: Arc<ClusterPlan>) -> Self {
        Self {
            key: plan.key.clone(),
            id: next_id(),
            state: ArcSwap::from_pointee(ClusterState::build(plan, &[])),
        }
    }

    /// Takes over a new plan. Endpoints that stay are carried over; those that went away are
    /// marked, which closes their pooled connections in every worker.
    ///
    /// Only the publisher calls this, one call at a time.
    pub fn apply(&self, plan: Arc<ClusterPlan>) {
        let old = self.state.load_full();
        let new = Arc::new(ClusterState::build(plan, &old.all));
        self.state.store(Arc::clone(&new));
        let kept: foldhash::HashSet<u64> = new.all.iter().map(|endpoint| endpoint.id).collect();
        for endpoint in &old.all {
            if !kept.contains(&endpoint.id) {
                endpoint.mark_gone();
            }
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<ClusterPlan> {
        Arc::clone(&self.state.load().plan)
    }

    /// Whether any endpoint takes requests.
    pub fn has_endpoints(&self) -> bool {
        !self.state.load().serving.is_empty()
    }

    /// Every endpoint with its state, for the operator.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.state.load().all.to_vec()
    }

    /// Process-unique, for state that a worker keeps per cluster.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn state(&self) -> &ArcSwap<ClusterState> {
        &self.state
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for endpoint in &self.state.load().all {
            endpoint.mark_gone();
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("key", &self.key)
            .field("endpoints", &self.state.load().all.len())
            .finish_non_exhaustive()
    }
}

impl ClusterState {
    fn build(plan: Arc<ClusterPlan>, old: &[Arc<Endpoint>]) -> Self {
        let old: HashMap<SocketAddr, &Arc<Endpoint>> = old
            .iter()
            .map(|endpoint| (endpoint.address, endpoint))
            .collect();
        let all: Box<[Arc<Endpoint>]> = plan
            .endpoints
            .iter()
            .map(|planned| match old.get(&planned.address) {
                Some(endpoint) => Arc::clone(endpoint),
                None => Arc::new(Endpoint::new(planned.address)),
            })
            .collect();
        let in_phase = |phase| {
            plan.endpoints
                .iter()
                .zip(&all)
                .filter(move |(planned, _)| planned.phase == phase)
                .map(|(_, endpoint)| Arc::clone(endpoint))
                .collect::<Box<[_]>>()
        };
        let ready = in_phase(EndpointPhase::Ready);
        let serving = if ready.is_empty() {
            in_phase(EndpointPhase::Draining)
        } else {
            ready
        };
        Self { plan, all, serving }
    }

    /// Endpoints that take requests.
    pub(crate) fn serving(&self) -> &[Arc<Endpoint>] {
        &self.serving
    }

    /// The balancing in force: affinity by client address is the consistent hash.
    pub(crate) fn balance(&self) -> Balance {
        match self.plan.affinity {
            Affinity::ClientIp => Balance::ClientHash,
            Affinity::None => self.plan.balance,
        }
    }
}

/// One place to send requests to. Shared by all workers.
pub struct Endpoint {
    /// Process-unique, never used again.
    pub id: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// Hash of the address: the same in every worker, replica and run, so that the consistent
    /// hash agrees everywhere.
    pub(crate) seed: u64,
    load: AtomicU32,
    latency: Latency,
    gone: AtomicBool,
    going: Notify,
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Self {
            id: next_id(),
            address,
            seed: mix(hash_ip(address.ip()) ^ u64::from(address.port())),
            load: AtomicU32::new(0),
            latency: Latency::new(),
            gone: AtomicBool::new(false),
            going: Notify::new(),
        }
    }

    /// Requests in flight, over all workers.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether the endpoint has left its cluster.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Resolves when the endpoint has left its cluster.
    pub async fn gone(&self) {
        let mut notified = std::pin::pin!(self.going.notified());
        // Registered before the flag is read, so the mark cannot fall in between.
        notified.as_mut().enable();
        if !self.is_gone() {
            notified.await;
        }
    }

    pub(crate) fn latency(&self) -> &Latency {
        &self.latency
    }

    fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.going.notify_waiters();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("address", &self.address)
            .field("load", &self.load())
            .field("gone", &self.is_gone())
            .finish_non_exhaustive()
    }
}

/// One request in flight; counts as load of its endpoint while it lives.
#[derive(Debug)]
pub(crate) struct LoadGuard(Arc<Endpoint>);

impl LoadGuard {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.load.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Peak-sensitive moving average of the time to the response head: it jumps up with the first
/// slow answer and decays over [`DECAY`], so a stumbling endpoint is left alone at once.
///
/// The two words are not read together; a torn pair only weighs one sample a little wrong.
pub(crate) struct Latency {
    base: Instant,
    average: AtomicU64,
    stamp: AtomicU64,
}

impl Latency {
    fn new() -> Self {
        Self {
            base: Instant::now(),
            average: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
        }
    }

    /// Takes in one more answer.
    pub(crate) fn observe(&self, took: Duration, now: Instant) {
        let (average, weight) = self.read(now);
        let took = took.as_secs_f64();
        let next = if took > average {
            took
        } else {
            average * weight + took * (1.0 - weight)
        };
        self.average.store(next.to_bits(), Ordering::Relaxed);
        self.stamp.store(self.age(now), Ordering::Relaxed);
    }

    /// Expected cost of one more request: decayed latency times what is already under way.
    pub(crate) fn cost(&self, load: u32, now: Instant) -> f64 {
        let (average, weight) = self.read(now);
        if average == 0.0 && load > 0 {
            // Nothing known yet and a first request under way: wait for its answer rather than
            // send everybody to the newcomer.
            return UNKNOWN + f64::from(load);
        }
        average * weight * (f64::from(load) + 1.0)
    }

    fn read(&self, now: Instant) -> (f64, f64) {
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        let elapsed = self
            .age(now)
            .saturating_sub(self.stamp.load(Ordering::Relaxed));
        let weight = (-Duration::from_micros(elapsed).as_secs_f64() / DECAY.as_secs_f64()).exp();
        (average, weight)
    }

    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Hash of an address with a fixed seed; IPv4-mapped addresses count as IPv4.
pub(crate) fn hash_ip(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
            let (high, low) = ((bits >> 64) as u64, bits as u64);
            mix(mix(high) ^ low)
        }
    }
}

/// One step of `splitmix64`: every bit of the input moves half of the output.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Time constant of the moving average.
const DECAY: Duration = Duration::from_secs(10);
/// Cost of an endpoint that has not answered yet: above any real one.
const UNKNOWN: f64 = 1e12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointPlan, UpstreamProtocol};
    use EndpointPhase::{Draining, Ready};

    fn plan(endpoints: &[(&str, EndpointPhase)]) -> Arc<ClusterPlan> {
        Arc::new(ClusterPlan {
            key: ClusterKey("ns/svc:80".into()),
            protocol: UpstreamProtocol::Http1,
            balance: Balance::RoundRobin,
            affinity: Affinity::None,
            endpoints: endpoints
                .iter()
                .map(|(address, phase)| EndpointPlan {
                    address: address.parse().unwrap(),
                    phase: *phase,
                })
                .collect(),
        })
    }

    #[test]
    fn an_address_that_stays_keeps_its_endpoint_and_a_recycled_one_does_not() {
        let cluster = Cluster::new(plan(&[("10.0.0.1:80", Ready), ("10.0.0.2:80", Ready)]));
        let before = cluster.endpoints();
        let _load = LoadGuard::new(Arc::clone(&before[1]));
        cluster.apply(plan(&[("10.0.0.2:80", Ready)]));
        assert!(before[0].is_gone());
        assert!(Arc::ptr_eq(&before[1], &cluster.endpoints()[0]));
        assert_eq!(cluster.endpoints()[0].load(), 1);

        cluster.apply(plan(&[("10.0.0.1:80", Ready), ("10.0.0.2:80", Ready)]));
        let after = cluster.endpoints();
        assert_ne!(after[0].id, before[0].id);
        assert!(!after[0].is_gone());
        assert!(before[0].is_gone(), "an endpoint never comes back");
    }

    #[test]
    fn draining_endpoints_serve_only_when_none_is_ready() {
        let cluster = Cluster::new(plan(&[("10.0.0.1:80", Draining), ("10.0.0.2:80", Ready)]));
        let serving = |cluster: &Cluster| -> Vec<String> {
            let state = cluster.state().load_full();
            state
                .serving()
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect()
        };
        assert_eq!(serving(&cluster), ["10.0.0.2:80"]);
        cluster.apply(plan(&[("10.0.0.1:80", Draining)]));
        assert_eq!(serving(&cluster), ["10.0.0.1:80"]);
        cluster.apply(plan(&[]));
        assert!(!cluster.has_endpoints());
    }

    #[test]
    fn dropping_the_cluster_marks_its_endpoints_gone() {
        let cluster = Cluster::new(plan(&[("10.0.0.1:80", Ready)]));
        let endpoint = Arc::clone(&cluster.endpoints()[0]);
        drop(cluster);
        assert!(endpoint.is_gone());
    }

    #[test]
    fn latency_jumps_up_at_once_and_decays_over_ten_seconds() {
        let latency = Latency::new();
        let start = latency.base;
        let second = Duration::from_secs(1);
        latency.observe(Duration::from_millis(10), start);
        latency.observe(Duration::from_millis(500), start + second);
        let peak = latency.cost(0, start + second);
        assert!((peak - 0.5).abs() < 1e-9, "{peak}");
        let later = latency.cost(0, start + second * 11);
        assert!((later - 0.5 / std::f64::consts::E).abs() < 1e-6, "{later}");
        assert!(latency.cost(3, start + second) > 3.9 * peak);
    }
}
