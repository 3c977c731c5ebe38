//! The world: every object that a source has sent, as it stands now.
//!
//! Invariants:
//! - One owner (the engine), no lock, no I/O. Objects are never modified, only replaced.
//! - Translation reads it through [`Lookup`] alone, which records every key asked for, found or
//!   not. So an object that appears later is noticed by whoever has missed it.
//! - Every mutation answers with the [`Read`]s whose answer may have changed; an equal object
//!   changes none.
//! - A key pair is parsed at most once per content of its Secret, and only when somebody asks. The
//!   last pair that was in use and good is part of the world, so that a rebuild from the same world
//!   gives the same plans.

pub mod facts;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use foldhash::HashMap;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use gatehouse_gateway::model::{CertKey, CertificatePlan};
use gatehouse_gateway::tls::parse_pair;

use self::facts::{ServiceFacts, SliceFacts};
use crate::source::{Absence, Cover, Kept, Kind, Object, ObjectKey};

/// A question that translation can ask the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Read {
    /// One object.
    Object(ObjectKey),
    /// The EndpointSlices of a Service, found by their label.
    Slices(ObjectKey),
    /// All IngressClasses.
    Classes,
    /// The addresses of a DNS name.
    Resolved(Arc<str>),
}

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct World {
    ingresses: Objects<Ingress>,
    classes: Objects<IngressClass>,
    services: Objects<ServiceFacts>,
    slices: Objects<SliceFacts>,
    slices_of: HashMap<ObjectKey, Slices>,
    endpoints: Objects<Endpoints>,
    secrets: HashMap<ObjectKey, SecretEntry>,
    /// What is kept for Secrets, whether they exist or not.
    kept: HashMap<ObjectKey, SecretEntry>,
    /// Those of them that are served whatever is in the Secret.
    first: BTreeSet<ObjectKey>,
    /// Secrets for which another one of their namespace is served.
    covers: BTreeMap<ObjectKey, Cover>,
    config_maps: Objects<ConfigMap>,
    namespaces: Objects<Namespace>,
    resolved: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// Secrets that are not there, by why; `None` when everything that is there has been sent.
    absent: Option<BTreeMap<ObjectKey, Absence>>,
}

type Objects<T> = HashMap<ObjectKey, Arc<T>>;

/// The slices of one Service, sorted by name. There is one as a rule: a map would take ten times
/// its room.
type Slices = Vec<(Arc<str>, Arc<SliceFacts>)>;

impl World {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces an object.
    pub fn apply(&mut self, key: &ObjectKey, object: Object) -> Vec<Read> {
        let changed = match object {
            Object::Ingress(new) => replace(&mut self.ingresses, key, new),
            Object::IngressClass(new) => replace(&mut self.classes, key, new),
            Object::Service(new) => replace(&mut self.services, key, ServiceFacts::of(&new).into()),
            Object::EndpointSlice(new) => {
                return self.apply_slice(key, SliceFacts::of(&new).into());
            }
            Object::Endpoints(new) => replace(&mut self.endpoints, key, new),
            Object::Secret(new) => apply_secret(&mut self.secrets, key, new),
            Object::ConfigMap(new) => replace(&mut self.config_maps, key, new),
            Object::Namespace(new) => replace(&mut self.namespaces, key, new),
        };
        touched(key, changed)
    }

    /// Removes an object.
    pub fn delete(&mut self, key: &ObjectKey) -> Vec<Read> {
        let changed = match key.kind {
            Kind::Ingress => self.ingresses.remove(key).is_some(),
            Kind::IngressClass => self.classes.remove(key).is_some(),
            Kind::Service => self.services.remove(key).is_some(),
            Kind::EndpointSlice => {
                let Some(old) = self.slices.remove(key) else {
                    return Vec::new();
                };
                return self.unlink_slice(key, &old).into_iter().collect();
            }
            Kind::Endpoints => self.endpoints.remove(key).is_some(),
            Kind::Secret => self.secrets.remove(key).is_some(),
            Kind::ConfigMap => self.config_maps.remove(key).is_some(),
            Kind::Namespace => self.namespaces.remove(key).is_some(),
        };
        touched(key, changed)
    }

    /// Sets what is kept for a Secret.
    pub fn keep(&mut self, key: &ObjectKey, kept: Option<Kept>) -> Vec<Read> {
        let first = kept.as_ref().is_some_and(|kept| kept.first);
        let placed = if first {
            self.first.insert(key.clone())
        } else {
            self.first.remove(key)
        };
        let changed = match kept {
            Some(kept) => apply_secret(&mut self.kept, key, kept.secret),
            None => self.kept.remove(key).is_some(),
        };
        touched(key, changed || placed)
    }

    /// Sets which Secret covers another one.
    pub fn cover(&mut self, key: &ObjectKey, cover: Option<Cover>) -> Vec<Read> {
        let same = self.covers.get(key) == cover.as_ref();
        match cover {
            Some(cover) => self.covers.insert(key.clone(), cover),
            None => self.covers.remove(key),
        };
        touched(key, !same)
    }

    /// Sets the addresses of a DNS name.
    pub fn resolve(&mut self, name: &Arc<str>, addresses: Arc<[IpAddr]>) -> Vec<Read> {
        if self.resolved.get(name) == Some(&addresses) {
            return Vec::new();
        }
        self.resolved.insert(Arc::clone(name), addresses);
        vec![Read::Resolved(Arc::clone(name))]
    }

    /// From now on a Secret that was not sent may only not have been looked for.
    pub fn on_demand(&mut self) {
        self.absent.get_or_insert_default();
    }

    /// Sets which Secrets have been looked for in vain. Says nothing to a world to which everything
    /// that is there has been sent.
    pub fn miss(&mut self, absent: BTreeMap<ObjectKey, Absence>) -> Vec<Read> {
        let Some(known) = &mut self.absent else {
            return Vec::new();
        };
        let old = std::mem::replace(known, absent);
        let keys: BTreeSet<&ObjectKey> = old.keys().chain(known.keys()).collect();
        let changed = keys
            .into_iter()
            .filter(|key| old.get(key) != known.get(key));
        changed.cloned().map(Read::Object).collect()
    }

    /// One Ingress.
    pub fn ingress(&self, key: &ObjectKey) -> Option<&Arc<Ingress>> {
        self.ingresses.get(key)
    }

    /// The keys of all Ingresses.
    pub fn ingress_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.ingresses.keys()
    }

    /// One ConfigMap.
    pub fn config_map(&self, key: &ObjectKey) -> Option<&Arc<ConfigMap>> {
        self.config_maps.get(key)
    }

    /// The key pair of a Secret, or the one that is kept for it. Only for the engine, which publishes
    /// certificates; translation uses [`Lookup::pair`].
    pub fn pair(&self, key: &ObjectKey) -> Option<Pair> {
        let kept = || {
            let kept = self.kept.get(key).map(SecretEntry::pair);
            kept.as_ref().and_then(Pair::usable).cloned()
        };
        if self.first.contains(key)
            && let Some(plan) = kept()
        {
            return Some(Pair::Good(plan));
        }
        let pair = self.secrets.get(key).map(SecretEntry::pair);
        if matches!(pair, Some(Pair::Good(_))) {
            return pair;
        }
        let kept = kept();
        match (pair, kept) {
            (Some(Pair::LastGood(_, why) | Pair::Broken(why)), Some(plan)) => {
                Some(Pair::Kept(plan, why))
            }
            (None, Some(plan)) => Some(Pair::Good(plan)),
            (pair, _) => pair,
        }
    }

    /// How many objects there are of each kind.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        [
            (Kind::Ingress, self.ingresses.len()),
            (Kind::IngressClass, self.classes.len()),
            (Kind::Service, self.services.len()),
            (Kind::EndpointSlice, self.slices.len()),
            (Kind::Endpoints, self.endpoints.len()),
            (Kind::Secret, self.secrets.len()),
            (Kind::ConfigMap, self.config_maps.len()),
            (Kind::Namespace, self.namespaces.len()),
        ]
        .into_iter()
        .map(|(kind, count)| (kind.as_str(), count))
        .collect()
    }

    fn apply_slice(&mut self, key: &ObjectKey, new: Arc<SliceFacts>) -> Vec<Read> {
        let mut reads = Vec::new();
        if let Some(old) = self.slices.get(key).cloned() {
            if old == new {
                return reads;
            }
            reads.extend(self.unlink_slice(key, &old));
        }
        if let Some(service) = service_of(key, &new) {
            let slices = self.slices_of.entry(service.clone()).or_default();
            let place = slices.partition_point(|(name, _)| *name < key.name);
            slices.reserve_exact(1);
            slices.insert(place, (Arc::clone(&key.name), Arc::clone(&new)));
            let read = Read::Slices(service);
            if !reads.contains(&read) {
                reads.push(read);
            }
        }
        self.slices.insert(key.clone(), new);
        reads
    }

    fn unlink_slice(&mut self, key: &ObjectKey, old: &SliceFacts) -> Option<Read> {
        let service = service_of(key, old)?;
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|(name, _)| *name != key.name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        Some(Read::Slices(service))
    }
}

/// A Secret, and what has become of its key pair.
#[derive(Debug, Clone)]
pub struct SecretEntry {
    key: CertKey,
    object: Arc<Secret>,
    parsed: OnceLock<Result<Arc<CertificatePlan>, Arc<str>>>,
    last_good: Option<Arc<CertificatePlan>>,
}

/// The key pair of a Secret.
#[derive(Debug, Clone)]
pub enum Pair {
    /// Good.
    Good(Arc<CertificatePlan>),
    /// Broken now (why), but a former version was good and in use: that one keeps serving.
    LastGood(Arc<CertificatePlan>, Arc<str>),
    /// Broken (why), but another one is kept for it.
    Kept(Arc<CertificatePlan>, Arc<str>),
    /// Broken (why).
    Broken(Arc<str>),
}

impl Pair {
    /// What can be served.
    pub fn usable(&self) -> Option<&Arc<CertificatePlan>> {
        match self {
            Self::Good(plan) | Self::LastGood(plan, _) | Self::Kept(plan, _) => Some(plan),
            Self::Broken(_) => None,
        }
    }
}

impl SecretEntry {
    /// The key pair, parsed at the first call.
    pub fn pair(&self) -> Pair {
        match (self.parsed.get_or_init(|| self.parse()), &self.last_good) {
            (Ok(plan), _) => Pair::Good(Arc::clone(plan)),
            (Err(why), Some(plan)) => Pair::LastGood(Arc::clone(plan), Arc::clone(why)),
            (Err(why), None) => Pair::Broken(Arc::clone(why)),
        }
    }

    fn parse(&self) -> Result<Arc<CertificatePlan>, Arc<str>> {
        let chain = self.field("tls.crt").ok_or("it has no tls.crt")?;
        let key = self.field("tls.key").ok_or("it has no tls.key")?;
        match parse_pair(self.key.clone(), chain, key) {
            Ok(plan) => Ok(Arc::new(plan)),
            Err(error) => Err(error.to_string().into()),
        }
    }

    /// A value; `stringData` wins over `data`, as the API server merges them.
    fn field(&self, name: &str) -> Option<&[u8]> {
        let text = self.object.string_data.as_ref().and_then(|d| d.get(name));
        let data = self.object.data.as_ref().and_then(|d| d.get(name));
        text.map(String::as_bytes)
            .or_else(|| data.map(|bytes| bytes.0.as_slice()))
    }
}

/// Reads the world and records every question.
#[derive(Debug)]
pub struct Lookup<'a> {
    world: &'a World,
    reads: RefCell<Vec<Read>>,
}

impl<'a> Lookup<'a> {
    /// A lookup that has recorded nothing.
    pub fn new(world: &'a World) -> Self {
        Self {
            world,
            reads: RefCell::default(),
        }
    }

    /// The same key as the world holds it, if it holds the object, so that text which is everywhere
    /// lies in memory once. It tells nothing, so it is no question.
    pub fn share(&self, key: ObjectKey) -> ObjectKey {
        let world = self.world;
        let held = match key.kind {
            Kind::Ingress => world.ingresses.get_key_value(&key).map(|(held, _)| held),
            Kind::IngressClass => world.classes.get_key_value(&key).map(|(held, _)| held),
            Kind::Service => world.services.get_key_value(&key).map(|(held, _)| held),
            Kind::Secret => world.secrets.get_key_value(&key).map(|(held, _)| held),
            _ => None,
        };
        held.cloned().unwrap_or(key)
    }

    /// What was asked, sorted, each question once.
    pub fn into_reads(self) -> Vec<Read> {
        let mut reads = self.reads.into_inner();
        reads.sort_unstable();
        reads.dedup();
        reads.shrink_to_fit();
        reads
    }

    /// One IngressClass.
    pub fn ingress_class(&self, name: &str) -> Option<&'a Arc<IngressClass>> {
        let key = ObjectKey {
            kind: Kind::IngressClass,
            namespace: "".into(),
            name: name.into(),
        };
        let found = self.world.classes.get(&key);
        self.record(Read::Object(self.share(key)));
        found
    }

    /// All IngressClasses, by name.
    pub fn ingress_classes(&self) -> BTreeMap<&'a str, &'a Arc<IngressClass>> {
        self.record(Read::Classes);
        self.world
            .classes
            .iter()
            .map(|(key, class)| (&*key.name, class))
            .collect()
    }

    /// One Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&'a Arc<ServiceFacts>> {
        self.record(Read::Object(key.clone()));
        self.world.services.get(key)
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices(&self, service: &ObjectKey) -> Option<&'a [(Arc<str>, Arc<SliceFacts>)]> {
        self.record(Read::Slices(service.clone()));
        self.world.slices_of.get(service).map(Vec::as_slice)
    }

    /// The legacy Endpoints of a Service, which have its name.
    pub fn endpoints(&self, service: &ObjectKey) -> Option<&'a Arc<Endpoints>> {
        let key = ObjectKey {
            kind: Kind::Endpoints,
            ..service.clone()
        };
        let found = self.world.endpoints.get(&key);
        self.record(Read::Object(key));
        found
    }

    /// The key pair of a Secret, or the one that is kept for it.
    pub fn pair(&self, namespace: &Arc<str>, name: &str) -> Option<Pair> {
        let key = secret_key(namespace, name);
        let found = self.world.pair(&key);
        self.record(Read::Object(self.share(key)));
        found
    }

    /// The certificate that is kept for a Secret.
    pub fn kept(&self, namespace: &Arc<str>, name: &str) -> Option<Arc<CertificatePlan>> {
        let key = secret_key(namespace, name);
        let pair = self.world.kept.get(&key).map(SecretEntry::pair);
        self.record(Read::Object(self.share(key)));
        pair.as_ref().and_then(Pair::usable).cloned()
    }

    /// The Secret whose certificate is served where this one is named: itself, or the one that covers it.
    pub fn serving<'n>(&self, namespace: &Arc<str>, name: &'n str) -> Cow<'n, str> {
        let key = secret_key(namespace, name);
        let cover = self.world.covers.get(&key);
        let cover = cover
            .filter(|cover| cover.first || !matches!(self.world.pair(&key), Some(Pair::Good(_))));
        self.record(Read::Object(self.share(key)));
        let usable = cover.filter(|cover| {
            let pair = self.pair(namespace, &cover.secret);
            pair.is_some_and(|pair| pair.usable().is_some())
        });
        usable.map_or(name.into(), |cover| cover.secret.to_string().into())
    }

    /// Whether a Secret that somebody wrote is served instead of what is ordered for it. In a cluster
    /// such a Secret is left alone before anything is ordered, and told as one that cannot be written.
    pub fn shadows(&self, namespace: &Arc<str>, name: &str) -> bool {
        let key = secret_key(namespace, name);
        let world = self.world;
        let pair = world.secrets.get(&key).map(SecretEntry::pair);
        let own = matches!(pair, Some(Pair::Good(_))) && !world.first.contains(&key);
        self.record(Read::Object(self.share(key)));
        own && world.absent.is_none()
    }

    /// Why [`Lookup::pair`] has not found it; `None` while nobody has looked.
    pub fn absence(&self, namespace: &Arc<str>, name: &str) -> Option<Absence> {
        let Some(absent) = &self.world.absent else {
            return Some(Absence::Missing);
        };
        let key = secret_key(namespace, name);
        let found = absent.get(&key).copied();
        self.record(Read::Object(key));
        found
    }

    /// The addresses of a DNS name; `None` while nobody has tried to resolve it.
    pub fn resolved(&self, name: &Arc<str>) -> Option<&'a Arc<[IpAddr]>> {
        self.record(Read::Resolved(Arc::clone(name)));
        self.world.resolved.get(name)
    }

    fn record(&self, read: Read) {
        self.reads.borrow_mut().push(read);
    }
}

fn replace<T: PartialEq>(map: &mut Objects<T>, key: &ObjectKey, new: Arc<T>) -> bool {
    match map.get_mut(key) {
        Some(old) if *old == new => false,
        Some(old) => {
            *old = new;
            true
        }
        None => {
            map.insert(key.clone(), new);
            true
        }
    }
}

fn secret_key(namespace: &Arc<str>, name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Secret,
        namespace: Arc::clone(namespace),
        name: name.into(),
    }
}

fn apply_secret(
    secrets: &mut HashMap<ObjectKey, SecretEntry>,
    key: &ObjectKey,
    new: Arc<Secret>,
) -> bool {
    let mut entry = SecretEntry {
        key: CertKey(format!("{}/{}", key.namespace, key.name).into()),
        object: new,
        parsed: OnceLock::new(),
        last_good: None,
    };
    if let Some(old) = secrets.get(key) {
        if old.object == entry.object {
            return false;
        }
        if old.object.data == entry.object.data
            && old.object.string_data == entry.object.string_data
        {
            entry.parsed = old.parsed.clone();
            entry.last_good.clone_from(&old.last_good);
        } else {
            entry.last_good = match old.parsed.get() {
                Some(Ok(plan)) => Some(Arc::clone(plan)),
                _ => old.last_good.clone(),
            };
        }
    }
    secrets.insert(key.clone(), entry);
    true
}

fn touched(key: &ObjectKey, changed: bool) -> Vec<Read> {
    let mut reads = Vec::new();
    if changed {
        if key.kind == Kind::IngressClass {
            reads.push(Read::Classes);
        }
        reads.push(Read::Object(key.clone()));
    }
    reads
}

fn service_of(key: &ObjectKey, slice: &SliceFacts) -> Option<ObjectKey> {
    Some(ObjectKey {
        kind: Kind::Service,
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(slice.service.as_ref()?),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey {
            kind,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn slice(service: Option<&str>) -> Object {
        let mut slice = EndpointSlice::default();
        slice.metadata.labels =
            service.map(|name| [("kubernetes.io/service-name".into(), name.into())].into());
        Object::EndpointSlice(Arc::new(slice))
    }

    #[test]
    fn a_missed_object_is_recorded_like_a_found_one() {
        let world = World::new();
        let lookup = Lookup::new(&world);
        let wanted = key(Kind::Service, "cart");
        assert!(lookup.service(&wanted).is_none());
        assert!(lookup.service(&wanted).is_none());
        assert_eq!(lookup.into_reads(), [Read::Object(wanted)]);
    }

    #[test]
    fn an_equal_object_touches_nothing() {
        let mut world = World::new();
        let service = Object::Service(Arc::default());
        let wanted = key(Kind::Service, "cart");
        assert_eq!(world.apply(&wanted, service.clone()).len(), 1);
        assert!(world.apply(&wanted, service).is_empty());
        assert_eq!(world.delete(&wanted).len(), 1);
        assert!(world.delete(&wanted).is_empty());
    }

    #[test]
    fn a_slice_that_moves_to_another_service_touches_both() {
        let mut world = World::new();
        let name = key(Kind::EndpointSlice, "cart-1");
        world.apply(&name, slice(Some("cart")));
        let reads = world.apply(&name, slice(Some("pay")));
        let service = |name| Read::Slices(key(Kind::Service, name));
        assert_eq!(reads, [service("cart"), service("pay")]);
        let lookup = Lookup::new(&world);
        assert!(lookup.slices(&key(Kind::Service, "cart")).is_none());
        assert!(lookup.slices(&key(Kind::Service, "pay")).is_some());
        assert_eq!(world.apply(&name, slice(None)), [service("pay")]);
    }
}
