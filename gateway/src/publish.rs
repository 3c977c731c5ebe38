//! Takes the plans of the control plane, compiles what changed and swaps the snapshot.
//!
//! Invariants:
//! - Clusters first, then certificates, then the snapshot: no published route points at something
//!   missing. A route whose cluster is missing compiles to a refusal, and compiles again when the
//!   cluster appears or goes away.
//! - A change of endpoints or of a certificate's content makes no snapshot and compiles no host.
//! - A plan that equals the published one costs nothing.
//! - The digest is a sum over all plans: independent of the order and history of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::challenge::Challenges;
use crate::metrics::Metrics;
use crate::model::{
    ActionPlan, CertKey, CertificatePlan, ClusterKey, ClusterPlan, Delta, HostKey, HostPattern,
    HostPlan, Settings,
};
use crate::table::{self, HostIndex, Snapshot, VirtualServer};
use crate::tls::{AddressIndex, CertSlots, TlsIndex};
use crate::upstream::Cluster;

/// What one [`Publisher::apply`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Generation of the snapshot that is published now.
    pub generation: u64,
    /// Digest of all plans, endpoints and certificates included.
    pub digest: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// What it cost.
    pub work: Work,
}

/// Work done, for tests that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Clusters added, changed or removed.
    pub clusters: u64,
    /// Certificate slots set or emptied.
    pub certificates: u64,
    /// Addresses that are served another slot.
    pub addresses: u64,
    /// Hosts compiled.
    pub hosts_compiled: u64,
    /// Snapshots published: 0 or 1.
    pub snapshots: u64,
}

/// What readers hold: always the latest snapshot.
#[derive(Clone)]
pub struct Published {
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Receiver<u64>,
    digest: Arc<AtomicU64>,
    challenges: Challenges,
    addresses: AddressIndex,
}

impl Published {
    /// The latest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Challenges of certificate authorities, published beside the snapshot by whoever has some.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Certificates for clients that name no host.
    pub fn addresses(&self) -> &AddressIndex {
        &self.addresses
    }

    /// A reader for one worker, which touches shared memory only after a swap.
    pub fn cache(&self) -> arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>> {
        arc_swap::Cache::new(Arc::clone(&self.current))
    }

    /// Tells each new generation, after it can be loaded.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Digest of all plans as of now. The one of the snapshot stands still while only endpoints
    /// or the content of certificates change.
    pub fn digest(&self) -> u64 {
        self.digest.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

/// Single writer of the published state.
pub struct Publisher {
    metrics: Arc<Metrics>,
    clusters: HashMap<ClusterKey, Arc<Cluster>>,
    users: Users,
    /// By [`ServerId`]; the shared one always exists.
    servers: Vec<Server>,
    certificates: HashMap<CertKey, Arc<CertificatePlan>>,
    slots: CertSlots,
    default_certificate: Option<CertKey>,
    addresses: BTreeMap<IpAddr, CertKey>,
    settings: Arc<Settings>,
    digest: Digest,
    address_index: AddressIndex,
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Sender<u64>,
    live_digest: Arc<AtomicU64>,
}

/// One virtual server as the publisher sees it.
struct Server {
    plans: HashMap<HostPattern, Arc<HostPlan>>,
    published: Arc<VirtualServer>,
}

/// Hosts whose routes name a cluster, existing or not; sorted. Nearly always one, for which a tree
/// would have ten times the room.
#[derive(Default)]
struct Users(HashMap<ClusterKey, Vec<HostKey>>);

/// What must be done after all plans of a delta are taken over.
#[derive(Default)]
struct Todo {
    hosts: BTreeSet<HostKey>,
    tls: BTreeSet<u16>,
    settings: bool,
}

impl Publisher {
    /// A publisher and its readers. Published is the empty snapshot, generation 0.
    pub fn new(metrics: Arc<Metrics>) -> (Self, Published) {
        let slots = CertSlots::new();
        let settings = Arc::new(Settings::default());
        let default_certificate = None;
        let mut digest = Digest(0);
        digest.swap(Kind::Settings, None, Some(&settings));
        digest.swap(Kind::DefaultCertificate, None, Some(&default_certificate));
        let shared = Server::new(&slots, None);
        let snapshot = Snapshot {
            generation: 0,
            digest: digest.0,
            settings: Arc::clone(&settings),
            servers: Box::new([Arc::clone(&shared.published)]),
        };
        let (generation, receiver) = watch::channel(0);
        let published = Published {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
            generation: receiver,
            digest: Arc::new(AtomicU64::new(digest.0)),
            challenges: Challenges::default(),
            addresses: AddressIndex::default(),
        };
        let publisher = Self {
            metrics,
            clusters: HashMap::new(),
            users: Users::default(),
            servers: vec![shared],
            certificates: HashMap::new(),
            slots,
            default_certificate,
            addresses: BTreeMap::new(),
            settings,
            digest,
            address_index: published.addresses.clone(),
            current: Arc::clone(&published.current),
            generation,
            live_digest: Arc::clone(&published.digest),
        };
        (publisher, published)
    }

    /// Takes over a change. When this returns, it is published.
    ///
    /// The first call publishes generation 1 even when there is nothing to serve: an empty
    /// configuration is a complete one.
    pub fn apply(&mut self, delta: Delta) -> Applied {
        let mut work = Work::default();
        let mut todo = Todo::default();
        for (key, plan) in delta.clusters {
            work.clusters += u64::from(self.apply_cluster(&key, plan, &mut todo));
        }
        for (key, plan) in delta.certificates {
            work.certificates += u64::from(self.apply_certificate(key, plan));
        }
        work.addresses = self.apply_addresses(delta.addresses);
        if let Some(default) = delta.default_certificate {
            self.apply_default_certificate(default, &mut todo);
        }
        if let Some(settings) = delta.settings {
            self.apply_settings(settings, &mut todo);
        }
        for (key, plan) in delta.hosts {
            self.apply_host(key, plan, &mut todo);
        }

        let first = *self.generation.borrow() == 0;
        let restructured = !todo.hosts.is_empty() || !todo.tls.is_empty() || todo.settings;
        self.live_digest.store(self.digest.0, Ordering::Release);
        if restructured || first {
            work.hosts_compiled = self.rebuild(todo);
            work.snapshots = 1;
            self.publish();
        }
        self.count(work);
        Applied {
            generation: *self.generation.borrow(),
            digest: self.digest.0,
            changed: first
                || restructured
                || work.clusters + work.certificates + work.addresses > 0,
            work,
        }
    }

    fn apply_cluster(
        &mut self,
        key: &ClusterKey,
        plan: Option<Arc<ClusterPlan>>,
        todo: &mut Todo,
    ) -> bool {
        let old = self.clusters.get(key).map(|cluster| cluster.plan());
        if old == plan {
            return false;
        }
        self.digest.swap(Kind::Cluster, old.as_ref(), plan.as_ref());
        let appeared_or_gone = old.is_none() != plan.is_none();
        match (plan, self.clusters.get(key)) {
            (Some(plan), Some(cluster)) => cluster.apply(plan),
            (Some(plan), None) => {
                let cluster = Arc::new(Cluster::new(plan));
                self.clusters.insert(key.clone(), cluster);
            }
            (None, _) => {
                // Requests under way keep the cluster; its endpoints end with the last of them.
                self.clusters.remove(key);
            }
        }
        if appeared_or_gone {
            todo.hosts.extend(self.users.of(key));
        }
        true
    }

    fn apply_certificate(&mut self, key: CertKey, plan: Option<Arc<CertificatePlan>>) -> bool {
        let old = self.certificates.get(&key);
        if old == plan.as_ref() {
            return false;
        }
        self.digest.swap(Kind::Certificate, old, plan.as_ref());
        let end = plan.as_ref().map(|plan| plan.not_after);
        self.metrics.certificate(&key, end);
        match &plan {
            Some(plan) => self.certificates.insert(key.clone(), Arc::clone(plan)),
            None => self.certificates.remove(&key),
        };
        self.slots.set(key, plan);
        true
    }

    fn apply_addresses(&mut self, list: Vec<(IpAddr, Option<CertKey>)>) -> u64 {
        let mut changed = 0;
        for (address, slot) in list {
            let keyed = |slot: &CertKey| (address, slot.clone());
            let new = slot.as_ref().map(keyed);
            let old = match slot {
                Some(slot) => self.addresses.insert(address, slot),
                None => self.addresses.remove(&address),
            };
            let old = old.as_ref().map(keyed);
            changed += u64::from(old != new);
            self.digest.swap(Kind::Address, old.as_ref(), new.as_ref());
        }
        if changed > 0 {
            self.address_index.store(self.addresses.iter(), &self.slots);
        }
        changed
    }

    fn apply_default_certificate(&mut self, default: Option<CertKey>, todo: &mut Todo) {
        if default == self.default_certificate {
            return;
        }
        self.digest.swap(
            Kind::DefaultCertificate,
            Some(&self.default_certificate),
            Some(&default),
        );
        self.default_certificate = default;
        todo.tls.extend((0..=u16::MAX).take(self.servers.len()));
    }

    fn apply_settings(&mut self, settings: Arc<Settings>, todo: &mut Todo) {
        if settings != self.settings {
            self.digest
                .swap(Kind::Settings, Some(&self.settings), Some(&settings));
            self.settings = settings;
            todo.settings = true;
        }
    }

    fn apply_host(&mut self, key: HostKey, plan: Option<Arc<HostPlan>>, todo: &mut Todo) {
        let index = usize::from(key.server.0);
        while self.servers.len() <= index {
            let server = Server::new(&self.slots, self.default_certificate.as_ref());
            self.servers.push(server);
        }
        let Some(server) = self.servers.get_mut(index) else {
            return;
        };
        let old = server.plans.get(&key.host).cloned();
        if old == plan {
            return;
        }
        let keyed = |plan: &Arc<HostPlan>| (key.server, Arc::clone(plan));
        self.digest.swap(
            Kind::Host,
            old.as_ref().map(keyed).as_ref(),
            plan.as_ref().map(keyed).as_ref(),
        );
        if old.as_deref().map(certificate) != plan.as_deref().map(certificate) {
            todo.tls.insert(key.server.0);
        }
        self.users.update(&key, old.as_deref(), plan.as_deref());
        match plan {
            Some(plan) => server.plans.insert(key.host.clone(), plan),
            None => server.plans.remove(&key.host),
        };
        todo.hosts.insert(key);
    }

    /// Compiles the hosts and makes the virtual servers anew that have changed. Returns how many
    /// hosts were compiled.
    fn rebuild(&mut self, todo: Todo) -> u64 {
        let mut compiled = 0;
        let mut indexes: BTreeMap<u16, HostIndex> = BTreeMap::new();
        for key in todo.hosts {
            let Some(server) = self.servers.get(usize::from(key.server.0)) else {
                continue;
            };
            let index = indexes
                .entry(key.server.0)
                .or_insert_with(|| server.published.hosts.clone());
            let table = server.plans.get(&key.host).map(|plan| {
                compiled += 1;
                let cluster = |key: &ClusterKey| self.clusters.get(key).cloned();
                Arc::new(table::compile(plan, cluster, &self.metrics))
            });
            index.set(&key.host, table);
        }
        for (id, server) in (0..=u16::MAX).zip(&mut self.servers) {
            let hosts = indexes.remove(&id);
            let tls = todo.tls.contains(&id).then(|| {
                let entries = server.plans.iter();
                TlsIndex::build(
                    entries.map(|(host, plan)| (host, certificate(plan))),
                    &self.slots,
                    self.default_certificate.as_ref(),
                )
            });
            if hosts.is_some() || tls.is_some() {
                server.published = Arc::new(VirtualServer {
                    hosts: hosts.unwrap_or_else(|| server.published.hosts.clone()),
                    tls: tls.unwrap_or_else(|| Arc::clone(&server.published.tls)),
                });
            }
        }
        compiled
    }

    fn publish(&mut self) {
        let generation = *self.generation.borrow() + 1;
        let servers = self.servers.iter();
        let snapshot = Arc::new(Snapshot {
            generation,
            digest: self.digest.0,
            settings: Arc::clone(&self.settings),
            servers: servers
                .map(|server| Arc::clone(&server.published))
                .collect(),
        });
        // The old one is not kept: a removed cluster ends with the last table that holds it.
        self.current.store(snapshot);
        self.generation.send_replace(generation);
    }

    fn count(&self, work: Work) {
        let plain = &self.metrics.plain;
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        plain.host_compiles.inc_by(work.hosts_compiled);
        plain.publishes.inc_by(work.snapshots);
        plain.clusters.set(gauge(self.clusters.len()));
        let hosts = self.servers.iter().map(|server| server.plans.len()).sum();
        plain.hosts.set(gauge(hosts));
        let generation = i64::try_from(*self.generation.borrow()).unwrap_or(i64::MAX);
        plain.generation.set(generation);
        let digest = i64::try_from(self.digest.0 & EXACT).unwrap_or_default();
        plain.digest.set(digest);
    }
}

/// What of a digest a metric can tell: scrapers keep values as floating point numbers.
const EXACT: u64 = (1 << 48) - 1;

impl Users {
    fn of(&self, key: &ClusterKey) -> impl Iterator<Item = HostKey> {
        self.0.get(key).into_iter().flatten().cloned()
    }

    fn update(&mut self, host: &HostKey, old: Option<&HostPlan>, new: Option<&HostPlan>) {
        let old: HashSet<&ClusterKey> = old.into_iter().flat_map(cluster_keys).collect();
        let new: HashSet<&ClusterKey> = new.into_iter().flat_map(cluster_keys).collect();
        for &key in old.difference(&new) {
            if let Some(hosts) = self.0.get_mut(key) {
                if let Ok(place) = hosts.binary_search(host) {
                    hosts.remove(place);
                }
                if hosts.is_empty() {
                    self.0.remove(key);
                }
            }
        }
        for &key in new.difference(&old) {
            let hosts = self.0.entry(key.clone()).or_default();
            if let Err(place) = hosts.binary_search(host) {
                if hosts.is_empty() {
                    hosts.reserve_exact(1);
                }
                hosts.insert(place, host.clone());
            }
        }
    }
}

impl Server {
    fn new(slots: &CertSlots, default_certificate: Option<&CertKey>) -> Self {
        Self {
            plans: HashMap::new(),
            published: Arc::new(VirtualServer {
                hosts: HostIndex::default(),
                tls: TlsIndex::build(std::iter::empty(), slots, default_certificate),
            }),
        }
    }
}

/// The certificate slot that a host asks for.
fn certificate(plan: &HostPlan) -> Option<&CertKey> {
    plan.tls.as_ref()?.certificate.as_ref()
}

/// The clusters that the routes of a host name.
fn cluster_keys(plan: &HostPlan) -> impl Iterator<Item = &ClusterKey> {
    plan.routes
        .iter()
        .flat_map(|route| match &route.action {
            ActionPlan::Forward(shares) => shares.as_slice(),
            ActionPlan::NotFound | ActionPlan::Refuse(_) => &[],
        })
        .map(|share| &share.cluster)
}

/// Sum of the hashes of all plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest(u64);

/// Keeps equal data of different meaning apart.
#[derive(Debug, Clone, Copy, Hash)]
enum Kind {
    Settings,
    DefaultCertificate,
    Certificate,
    Address,
    Cluster,
    Host,
}

impl Digest {
    /// Takes the old plan out of the sum and the new one in.
    fn swap<T: Hash>(&mut self, kind: Kind, old: Option<&T>, new: Option<&T>) {
        // A fixed seed: replicas of one build must come to the same sum.
        let state = foldhash::quality::FixedState::with_seed(SEED);
        let hash = |plan: Option<&T>| plan.map_or(0, |plan| state.hash_one((kind, plan)));
        self.0 = self.0.wrapping_sub(hash(old)).wrapping_add(hash(new));
    }
}

const SEED: u64 = 0x6761_7465_686f_7573;

#[cfg(test)]
mod tests;
