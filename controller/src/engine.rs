//! The engine: owns the world, keeps every plan up to date, hands out what changed.
//!
//! Three caches (fragments, host plans, cluster plans) hang together by recorded reads. A change
//! dirties whoever has read what changed; each layer stops where its output equals the old one.
//!
//! Invariants:
//! - Incremental result = full rebuild ([`Engine::rebuild`]): plans, diagnostics and reads. The
//!   property test in `tests/incremental.rs` holds this; extend it first.
//! - A delta holds only what changed. Nothing is handed out before the source has said
//!   [`Change::Synced`]; from [`Change::Listed`] on it is computed and kept back, so that the source
//!   learns what else is wanted.
//! - Endpoint changes recompute clusters only, no fragment and no host. One exception, which waits
//!   for the next ordinary round: the default backend loses its last endpoint or gets its first
//!   (its hosts then answer 404, or no longer).
//! - No I/O and no clock in here: the time is told ([`Engine::tell_time`]), and [`run`] has the timer.

mod addresses;
mod findings;
mod graph;
mod layers;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::jiff::Timestamp;

use gatehouse_gateway::model::{
    CertKey, CertificatePlan, ClusterKey, ClusterPlan, Delta, HostPattern, HostPlan, Settings,
};

use crate::config::{Base, Defaults, with_configmap};
use crate::diagnostics::{Code, Diagnostic, Severity};
use crate::expiry::{self, Judgement};
use crate::source::{Change, Kind, ObjectKey};
use crate::translate::address::AddressFragment;
use crate::translate::merge::DefaultAnswer;
use crate::translate::{ClusterRef, Fragment, HostFragment};
use crate::world::{Read, World};

use self::findings::{Findings, Origin};
use self::graph::{Graph, Node};

pub use run::run;

/// How soon a change must be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It changes nothing that is served.
    None,
    /// Behind the hold-off, together with others.
    Structural,
    /// At once: endpoints come and go.
    Endpoints,
}

/// What one round of work gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What changed.
    pub delta: Delta,
    /// What was computed for it.
    pub work: Work,
}

/// Counts of computations; tests hold the incremental promise by them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Ingresses translated.
    pub fragments: u64,
    /// Hosts merged.
    pub hosts: u64,
    /// Clusters planned.
    pub clusters: u64,
}

/// Ingresses by their keys.
pub type Ingresses = BTreeMap<ObjectKey, Arc<Ingress>>;

/// Namespaces by name.
pub type Namespaces = BTreeMap<Arc<str>, Arc<Namespace>>;

/// What the engine can tell of itself.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Generation served; set by the loop.
    pub generation: u64,
    /// Digest of what is served; set by the loop.
    pub digest: u64,
    /// Whether the source has sent everything once, and all of it was looked at.
    pub synced: bool,
    /// Everything to complain about, sorted.
    pub diagnostics: Arc<[Diagnostic]>,
    /// Number of objects by kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// DNS names whose addresses the engine wants to be told, sorted.
    pub external_names: Arc<[Arc<str>]>,
    /// The Ingresses that are ours; the same map as long as none of them changes.
    pub owned: Arc<Ingresses>,
    /// The namespaces that are known; the same map as long as none of them changes.
    pub namespaces: Arc<Namespaces>,
    /// Whether `wanted` is the answer to [`Change::Listed`].
    pub surveyed: bool,
    /// Secrets, ConfigMaps and Endpoints that are asked for, existing or not, sorted.
    pub wanted: Arc<[ObjectKey]>,
}

/// Everything that is served, and what it was made of: for tests, checks and explanations.
#[derive(Debug, Clone, PartialEq)]
pub struct Plans {
    /// Host plans.
    pub hosts: BTreeMap<HostPattern, Arc<HostPlan>>,
    /// Cluster plans.
    pub clusters: BTreeMap<ClusterKey, Arc<ClusterPlan>>,
    /// Certificates in use.
    pub certificates: BTreeMap<CertKey, Arc<CertificatePlan>>,
    /// Slot of the default certificate.
    pub default_certificate: Option<CertKey>,
    /// Slots of addresses.
    pub addresses: BTreeMap<IpAddr, CertKey>,
    /// The Ingresses that are ours.
    pub owned: Arc<Ingresses>,
    /// What every computation has read.
    pub reads: BTreeMap<String, Vec<Read>>,
    /// Everything to complain about, sorted.
    pub diagnostics: Arc<[Diagnostic]>,
}

type Reload = dyn Fn(&BTreeMap<String, String>) -> (Defaults, Settings, Vec<Diagnostic>) + Send;

/// See the module.
pub struct Engine {
    world: World,
    defaults: Arc<Defaults>,
    settings: Arc<Settings>,
    configmap: Option<(ObjectKey, Box<Reload>)>,
    graph: Graph,
    findings: Findings,
    fragments: HashMap<ObjectKey, Fragment>,
    owned: Arc<Ingresses>,
    namespaces: Arc<Namespaces>,
    /// By age, the oldest first. One as a rule, for which a tree would have ten times the room.
    by_host: HashMap<HostPattern, Vec<Arc<HostFragment>>>,
    hosts: HashMap<HostPattern, Arc<HostPlan>>,
    /// By age, the oldest first.
    by_address: BTreeMap<IpAddr, Vec<Arc<AddressFragment>>>,
    addresses: BTreeMap<IpAddr, CertKey>,
    default_addresses: BTreeSet<IpAddr>,
    wanted: HashMap<ClusterKey, Wanted>,
    clusters: HashMap<ClusterKey, Arc<ClusterPlan>>,
    certificate_users: HashMap<CertKey, usize>,
    certificates: HashMap<CertKey, Arc<CertificatePlan>>,
    default_backend: Option<ClusterRef>,
    answer: DefaultAnswer,
    default_certificate: Option<CertKey>,
    /// The publisher has been told the default certificate once.
    default_certificate_sent: bool,
    dirty: Dirty,
    /// The time that was told last.
    now: Option<Timestamp>,
    /// When there will be something else to say of the certificates.
    next: Option<Timestamp>,
    /// What was computed before the first delta may go out.
    held: Delta,
    stage: Stage,
    revision: u64,
}

/// How much of the world is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Not enough to compute anything.
    Unknown,
    /// Everything but what only computing can tell to be wanted.
    Listed,
    /// The same, and computed once.
    Surveyed,
    /// Everything.
    Synced,
    /// The same, and computed once: nothing that is asked for is only not looked at yet.
    Computed,
}

/// A cluster that routes point to, and how many.
struct Wanted {
    cluster: ClusterRef,
    users: usize,
}

/// What must be computed again.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent marks, not the states of one thing"
)]
#[derive(Default)]
struct Dirty {
    everything: bool,
    fragments: HashSet<ObjectKey>,
    hosts: HashSet<HostPattern>,
    clusters: BTreeSet<ClusterKey>,
    /// Clusters of which only the endpoints may have changed.
    endpoints: BTreeSet<ClusterKey>,
    certificates: BTreeSet<CertKey>,
    addresses: BTreeSet<IpAddr>,
    default_backend: bool,
    default_certificate: bool,
    answer: bool,
    settings: bool,
}

impl Dirty {
    fn structural(&self) -> bool {
        self.everything
            || self.default_backend
            || self.default_certificate
            || self.answer
            || self.settings
            || !self.fragments.is_empty()
            || !self.hosts.is_empty()
            || !self.clusters.is_empty()
            || !self.certificates.is_empty()
            || !self.addresses.is_empty()
    }
}

impl Engine {
    /// An engine configured by flags, which follows the ConfigMap they name.
    pub fn with_base(base: &Base) -> Self {
        let (defaults, settings) = base.values();
        let mut engine = Self::new(Arc::new(defaults), Arc::new(settings));
        if let Some((namespace, name)) = &base.configmap {
            let key = ObjectKey {
                kind: Kind::ConfigMap,
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
            };
            let base = base.clone();
            engine.watch_configmap(key, Box::new(move |data| with_configmap(&base, data)));
        }
        engine
    }

    /// An engine with an empty world.
    pub fn new(defaults: Arc<Defaults>, settings: Arc<Settings>) -> Self {
        Self {
            world: World::new(),
            defaults,
            settings,
            configmap: None,
            graph: Graph::default(),
            findings: Findings::default(),
            fragments: HashMap::default(),
            owned: Arc::default(),
            namespaces: Arc::default(),
            by_host: HashMap::default(),
            hosts: HashMap::default(),
            by_address: BTreeMap::new(),
            addresses: BTreeMap::new(),
            default_addresses: BTreeSet::new(),
            wanted: HashMap::default(),
            clusters: HashMap::default(),
            certificate_users: HashMap::default(),
            certificates: HashMap::default(),
            default_backend: None,
            answer: DefaultAnswer::default(),
            default_certificate: None,
            default_certificate_sent: false,
            dirty: Dirty {
                everything: true,
                settings: true,
                ..Dirty::default()
            },
            now: None,
            next: None,
            held: Delta::default(),
            stage: Stage::Unknown,
            revision: 0,
        }
    }

    /// Takes defaults and settings from a ConfigMap, now and whenever it changes; without the
    /// ConfigMap, from an empty map.
    pub fn watch_configmap(&mut self, key: ObjectKey, reload: Box<Reload>) {
        self.graph.pin(key.clone());
        self.configmap = Some((key, reload));
        self.reload();
    }

    /// Takes a change into the world and marks what it dirties. Computes nothing.
    pub fn apply(&mut self, change: Change) -> Urgency {
        match change {
            Change::Apply(key, object) => {
                self.know(&key, Some(&object));
                let reads = self.world.apply(&key, object);
                self.touch(&key, &reads)
            }
            Change::Delete(key) => {
                self.findings.displace(&key);
                self.know(&key, None);
                let reads = self.world.delete(&key);
                self.touch(&key, &reads)
            }
            Change::Keep(key, kept) => {
                let reads = self.world.keep(&key, kept);
                self.touch(&key, &reads)
            }
            Change::Cover(key, cover) => {
                let reads = self.world.cover(&key, cover);
                self.touch(&key, &reads)
            }
            Change::Certificates(list) => self.note(Origin::Certificates, list),
            Change::Complaints(list) => self.note(Origin::Source, list),
            Change::Places(places) => {
                self.revision += u64::from(self.findings.place(places));
                Urgency::None
            }
            Change::Resolved { name, addresses } => {
                let reads = self.world.resolve(&name, addresses);
                self.mark(&reads)
            }
            Change::Listed if self.stage >= Stage::Listed => Urgency::None,
            Change::Absent(absent) => {
                let reads = self.world.miss(absent);
                self.mark(&reads)
            }
            Change::Listed => {
                self.stage = Stage::Listed;
                self.world.on_demand();
                Urgency::Structural
            }
            Change::Synced if self.synced() => Urgency::None,
            Change::Synced => {
                self.stage = Stage::Synced;
                self.revision += 1;
                self.configmap_present();
                Urgency::Structural
            }
        }
    }

    /// Replaces defaults and settings.
    pub fn set_defaults(&mut self, defaults: Arc<Defaults>, settings: Arc<Settings>) {
        if self.defaults != defaults {
            self.defaults = defaults;
            self.dirty.everything = true;
        }
        if self.settings != settings {
            self.settings = settings;
            self.dirty.settings = true;
        }
    }

    /// Computes everything that is dirty and answers with what changed. Nothing before `Synced`.
    pub fn reconcile(&mut self) -> Outcome {
        self.reconcile_at(self.now)
    }

    /// The same at this time: certificates that changed are judged by it.
    fn reconcile_at(&mut self, now: Option<Timestamp>) -> Outcome {
        let mut outcome = Outcome::default();
        if self.stage == Stage::Unknown {
            return outcome;
        }
        let held = mem::take(&mut self.held);
        let first = !held.is_empty();
        outcome.delta = held;
        self.compute(&mut outcome);
        // Also when it is no news to the outside that one is gone.
        let exchanged = !outcome.delta.certificates.is_empty();
        if first {
            // Nothing of it has gone out, so only what is there in the end is news.
            latest(&mut outcome.delta.clusters);
            latest(&mut outcome.delta.certificates);
            latest(&mut outcome.delta.hosts);
            latest(&mut outcome.delta.addresses);
        }
        if self.synced() {
            self.revision += u64::from(self.stage != Stage::Computed);
            self.stage = Stage::Computed;
            if let Some(now) = now.filter(|_| exchanged) {
                self.tell_time(now);
            }
            let news = !outcome.delta.is_empty() || self.graph.has_news();
            self.revision += u64::from(news);
        } else {
            self.stage = Stage::Surveyed;
            self.revision += 1;
            self.held = mem::take(&mut outcome.delta);
        }
        outcome
    }

    /// Judges the certificates in use by the time.
    pub fn tell_time(&mut self, now: Timestamp) {
        self.now = Some(now);
        let plans = self.certificates.values().map(|plan| &**plan);
        let Judgement { findings, next } = expiry::judge(plans, now);
        self.note(Origin::Time, findings);
        self.next = next;
    }

    /// When there will be something else to say of the certificates, as far as is known now.
    fn next_judgement(&self) -> Option<Timestamp> {
        self.next
    }

    /// Computes only the clusters whose endpoints changed. What else is dirty stays dirty.
    pub fn reconcile_endpoints(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        // What is held back goes out first: behind newer endpoints it would bring back the old.
        if self.synced() && self.held.is_empty() {
            self.compute_endpoints(&mut outcome);
            self.revision += u64::from(self.graph.has_news());
        }
        outcome
    }

    /// Whether [`Engine::reconcile`] has something to do.
    pub fn is_dirty(&self) -> bool {
        self.stage > Stage::Unknown && self.dirty.structural()
    }

    /// What the engine can tell of itself. Cheap when nothing has changed since the last call.
    pub fn report(&mut self) -> Report {
        let synced = self.stage == Stage::Computed;
        Report {
            generation: 0,
            digest: 0,
            synced,
            // Before that, what is missing may only not have been sent yet.
            diagnostics: if synced {
                self.findings.list()
            } else {
                self.findings.of(&Origin::Source).into()
            },
            objects: self.world.counts(),
            external_names: self.graph.names(),
            owned: Arc::clone(&self.owned),
            namespaces: Arc::clone(&self.namespaces),
            surveyed: self.stage >= Stage::Surveyed,
            wanted: self.graph.wanted(),
        }
    }

    /// Grows whenever the report may have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A new engine that has computed everything from the present world: the definition that
    /// incremental work must equal.
    #[must_use]
    pub fn rebuild(&self) -> Self {
        let mut fresh = Self::new(Arc::clone(&self.defaults), Arc::clone(&self.settings));
        fresh.world = self.world.clone();
        fresh.namespaces = Arc::clone(&self.namespaces);
        fresh.now = self.now;
        fresh.stage = self.stage;
        fresh.findings.place_like(&self.findings);
        for origin in [Origin::Source, Origin::Settings, Origin::Certificates] {
            let list = self.findings.of(&origin).to_vec();
            fresh.note(origin, list);
        }
        fresh.reconcile();
        fresh
    }

    /// Everything that is served now.
    pub fn plans(&mut self) -> Plans {
        Plans {
            hosts: sorted(&self.hosts),
            clusters: sorted(&self.clusters),
            certificates: sorted(&self.certificates),
            default_certificate: self.default_certificate.clone(),
            addresses: self.addresses.clone(),
            owned: Arc::clone(&self.owned),
            reads: self.graph.reads(),
            diagnostics: self.findings.list(),
        }
    }

    fn synced(&self) -> bool {
        self.stage >= Stage::Synced
    }

    fn touch(&mut self, key: &ObjectKey, reads: &[Read]) -> Urgency {
        if reads.is_empty() {
            return Urgency::None;
        }
        self.revision += 1;
        let mut urgency = self.mark(reads);
        match key.kind {
            Kind::Ingress => {
                self.dirty.fragments.insert(key.clone());
                urgency = urgency.max(Urgency::Structural);
            }
            Kind::Secret => {
                let slot = CertKey(format!("{}/{}", key.namespace, key.name).into());
                if self.certificate_users.contains_key(&slot) {
                    self.dirty.certificates.insert(slot);
                    urgency = urgency.max(Urgency::Structural);
                }
            }
            Kind::ConfigMap if self.configmap.as_ref().is_some_and(|(ours, _)| ours == key) => {
                self.reload();
                urgency = urgency.max(Urgency::Structural);
            }
            _ => {}
        }
        urgency
    }

    /// Marks whoever has read one of these.
    fn mark(&mut self, reads: &[Read]) -> Urgency {
        let mut urgency = Urgency::None;
        for read in reads {
            let hot = match read {
                Read::Slices(_) | Read::Resolved(_) => true,
                Read::Object(key) => key.kind == Kind::Endpoints,
                Read::Classes => false,
            };
            for node in self.graph.readers(read) {
                match node {
                    Node::Fragment(key) => drop(self.dirty.fragments.insert(key.clone())),
                    Node::Cluster(key) if hot => drop(self.dirty.endpoints.insert(key.clone())),
                    Node::Cluster(key) => drop(self.dirty.clusters.insert(key.clone())),
                    Node::DefaultBackend => self.dirty.default_backend = true,
                    Node::DefaultCertificate => self.dirty.default_certificate = true,
                }
                urgency = urgency.max(if hot {
                    Urgency::Endpoints
                } else {
                    Urgency::Structural
                });
            }
        }
        urgency
    }

    fn reload(&mut self) {
        let Some((key, reload)) = &self.configmap else {
            return;
        };
        let empty = BTreeMap::new();
        let data = self.world.config_map(key).and_then(|map| map.data.as_ref());
        let (defaults, settings, diagnostics) = reload(data.unwrap_or(&empty));
        self.set_defaults(Arc::new(defaults), Arc::new(settings));
        self.note(Origin::Settings, diagnostics);
        self.configmap_present();
    }

    fn configmap_present(&mut self) {
        let Some((key, _)) = &self.configmap else {
            return;
        };
        let mut list = Vec::new();
        if self.synced() && self.world.config_map(key).is_none() {
            list.push(Diagnostic::new(
                Severity::Warning,
                &key.to_string().into(),
                "",
                Code::SettingInvalid,
                "the ConfigMap named by --configmap does not exist, so flags and defaults hold",
            ));
        }
        self.note(Origin::ConfigMap, list);
    }

    fn note(&mut self, origin: Origin, list: Vec<Diagnostic>) -> Urgency {
        self.revision += u64::from(self.findings.set(origin, list));
        Urgency::None
    }
}

fn sorted<K: Ord + Clone, V: Clone>(map: &HashMap<K, V>) -> BTreeMap<K, V> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Of several plans for a key the last, and nothing for a key without a plan.
fn latest<K: Clone + Eq + Hash, V>(list: &mut Vec<(K, Option<V>)>) {
    let mut seen = HashSet::default();
    let mut kept: Vec<_> = mem::take(list)
        .into_iter()
        .rev()
        .filter(|(key, plan)| seen.insert(key.clone()) && plan.is_some())
        .collect();
    kept.reverse();
    *list = kept;
}
