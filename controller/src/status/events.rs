//! Events on our Ingresses: one for every finding about them and about the Services and Secrets they
//! name, and one when an Ingress is first served, so that `kubectl describe ingress` explains.
//!
//! The kind is `v1/Event`: `describe` reads that one, and a count can be raised in it.
//!
//! Invariants:
//! - The name of an Event is made of the object and of what is said, so the same finding is the
//!   same Event for every replica and after every restart; a repetition raises its count.
//! - An Event is written when its finding appears, and again before the API server forgets it, not
//!   in between. The number of Events for one object and their rate are bounded.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use foldhash::quality::FixedState;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::address::{Addresses, published};
use super::balancer::MANAGER;
use super::desk::{Duty, Rest, Step};
use super::news::differences;
use super::queue::InTurn;
use crate::diagnostics::{Diagnostic, Printable, Severity};
use crate::engine::{Ingresses, Report};
use crate::leader::Clients;
use crate::pace::Pace;
use crate::source::{Kind, ObjectKey};

pub(super) struct Events {
    clients: Clients,
    instance: Arc<str>,
    /// Addresses are written into the status, so one without them has not been served before.
    status_tells: bool,
    owned: Arc<Ingresses>,
    diagnostics: Arc<[Diagnostic]>,
    surveyed: bool,
    /// What is the case now.
    wanted: HashMap<Name, Arc<Saying>>,
    /// The same by object.
    names: HashMap<ObjectKey, Vec<Name>>,
    /// What an Ingress names, as findings name it; and back.
    named: HashMap<ObjectKey, Vec<Arc<str>>>,
    users: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// What the API server has, as far as it came by here.
    written: HashMap<Name, Written>,
    /// Objects of which it was said, or was known, that they are served, with their uid.
    served: HashMap<ObjectKey, Arc<str>>,
    paces: HashMap<ObjectKey, Pace>,
    /// When to look next for what need not be remembered.
    forgets: Instant,
}

/// Namespace and name of an Event.
type Name = (Arc<str>, Arc<str>);

impl InTurn for Name {
    fn namespace(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// What an Event says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Saying {
    object: ObjectKey,
    uid: Arc<str>,
    warning: bool,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    count: i32,
    at: Instant,
}

impl Events {
    /// `instance` is this replica; `status_tells` that addresses are written into the status.
    pub(super) fn new(clients: Clients, instance: Arc<str>, status_tells: bool) -> Self {
        Self {
            clients,
            instance,
            status_tells,
            owned: Arc::default(),
            diagnostics: Arc::default(),
            surveyed: false,
            wanted: HashMap::default(),
            names: HashMap::default(),
            named: HashMap::default(),
            users: HashMap::default(),
            written: HashMap::default(),
            served: HashMap::default(),
            paces: HashMap::default(),
            forgets: Instant::now(),
        }
    }

    /// The objects about which something else may be to say now.
    fn changed(&self, old: (&Ingresses, &[Diagnostic])) -> BTreeSet<ObjectKey> {
        let mut changed = BTreeSet::new();
        differences(
            old.0.iter(),
            self.owned.iter(),
            |left, right| left.0.cmp(right.0),
            |left, right| Arc::ptr_eq(left.1, right.1),
            |(key, _)| {
                changed.insert(key.clone());
            },
        );
        differences(
            old.1.iter(),
            self.diagnostics.iter(),
            Ord::cmp,
            |_, _| true,
            |diagnostic| {
                if let Some(key) = object_key(&diagnostic.object) {
                    changed.insert(key);
                } else if let Some(users) = self.users.get(&diagnostic.object) {
                    changed.extend(users.iter().cloned());
                }
            },
        );
        changed
    }

    /// The findings about an object.
    fn findings<'a>(&'a self, object: &'a str) -> impl Iterator<Item = &'a Diagnostic> {
        // The list is sorted by object.
        let from = self
            .diagnostics
            .partition_point(|diagnostic| *diagnostic.object < *object);
        let rest = self.diagnostics.iter().skip(from);
        rest.take_while(move |diagnostic| *diagnostic.object == *object)
    }

    /// Notes what an Ingress names now.
    fn refer(&mut self, key: &ObjectKey) {
        let names = self.owned.get(key).map(|ingress| references(key, ingress));
        let names: Vec<Arc<str>> = names
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect();
        let old = self.named.get(key).map(Vec::as_slice).unwrap_or_default();
        if *old == *names {
            return;
        }
        for name in self.named.remove(key).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&name) {
                users.remove(key);
                if users.is_empty() {
                    self.users.remove(&name);
                }
            }
        }
        for name in &names {
            self.users
                .entry(Arc::clone(name))
                .or_default()
                .insert(key.clone());
        }
        self.named.insert(key.clone(), names);
    }

    /// What is to be said about an object. Notes when it was served before.
    fn compose(&mut self, key: &ObjectKey) -> Vec<Saying> {
        let owned = Arc::clone(&self.owned);
        let Some(ingress) = owned.get(key) else {
            return Vec::new();
        };
        let Some(uid) = ingress.metadata.uid.as_deref().map(Arc::<str>::from) else {
            return Vec::new();
        };
        let object = key.to_string();
        let mut list: Vec<_> = self.findings(&object).collect();
        let broken = list.iter().any(|found| found.severity == Severity::Error);
        let named = self.named.get(key).map(Vec::as_slice).unwrap_or_default();
        list.extend(named.iter().flat_map(|name| self.findings(name)));
        list.sort_by_key(|diagnostic| diagnostic.severity);
        list.truncate(MOST);
        let findings = list
            .into_iter()
            .map(|found| finding(key, &uid, found, &object));
        let mut sayings: Vec<Saying> = findings.collect();
        if self.served.get(key) == Some(&uid) {
            return sayings;
        }
        if !self.surveyed && (!self.status_tells || !published(ingress).is_empty()) {
            self.served.insert(key.clone(), uid);
        } else if !broken {
            sayings.push(welcome(key, &uid, ingress));
        }
        sayings
    }

    /// Bounds what is remembered. Not at every report: it looks at everything.
    fn forget(&mut self, now: Instant) {
        if now < self.forgets {
            return;
        }
        self.forgets = now + FORGETTING;
        let (wanted, owned) = (&self.wanted, &self.owned);
        self.written.retain(|name, written| {
            wanted.contains_key(name) || now.duration_since(written.at) < KEPT
        });
        self.paces
            .retain(|key, pace| owned.contains_key(key) || !pace.is_fresh(now));
    }
}

impl Duty for Events {
    type Key = Name;
    type Written = i32;

    fn survey(&mut self, report: &Report, _addresses: &Addresses) -> Vec<Name> {
        if self.surveyed
            && Arc::ptr_eq(&self.owned, &report.owned)
            && Arc::ptr_eq(&self.diagnostics, &report.diagnostics)
        {
            return Vec::new();
        }
        let owned = std::mem::replace(&mut self.owned, Arc::clone(&report.owned));
        let diagnostics = Arc::clone(&report.diagnostics);
        let diagnostics = std::mem::replace(&mut self.diagnostics, diagnostics);
        let mut news = Vec::new();
        for key in self.changed((&owned, &diagnostics)) {
            let old = self.names.remove(&key).unwrap_or_default();
            for name in &old {
                self.wanted.remove(name);
            }
            if !self.owned.contains_key(&key) {
                self.served.remove(&key);
            }
            self.refer(&key);
            let mut names = Vec::new();
            for saying in self.compose(&key) {
                let name = saying.name();
                if !old.contains(&name) {
                    news.push(name.clone());
                }
                self.wanted.insert(name.clone(), Arc::new(saying));
                names.push(name);
            }
            if !names.is_empty() {
                self.names.insert(key, names);
            }
        }
        self.surveyed = true;
        self.forget(Instant::now());
        news
    }

    fn request(&mut self, name: &Name, now: Instant) -> Step<i32> {
        let Some(saying) = self.wanted.get(name) else {
            return Step::Nothing;
        };
        let pace = self
            .paces
            .entry(saying.object.clone())
            .or_insert_with(|| Pace::new(INTERVAL, BURST));
        let allowed = pace.allows(now);
        if allowed > now {
            return Step::Later(allowed);
        }
        pace.spend(now);
        let known = self.written.get(name).map(|written| written.count);
        let (client, saying) = ((self.clients)(), Arc::clone(saying));
        let (name, instance) = (name.clone(), Arc::clone(&self.instance));
        Step::Send(Box::pin(async move {
            write(client, &name, &saying, &instance, known).await
        }))
    }

    fn learn(&mut self, name: &Name, count: i32, now: Instant) -> Rest {
        self.written
            .insert(name.clone(), Written { count, at: now });
        let Some(saying) = self.wanted.get(name) else {
            return Rest::For(REPEAT);
        };
        if saying.reason == SERVED {
            let uid = Arc::clone(&saying.uid);
            self.served.insert(saying.object.clone(), uid);
            self.wanted.remove(name);
            return Rest::For(REPEAT);
        }
        Rest::Until(REPEAT)
    }
}

impl Saying {
    fn name(&self) -> Name {
        // A fixed seed: every replica and every start must come to the same name.
        let state = FixedState::with_seed(SEED);
        let said = state.hash_one((&*self.uid, self.reason, &self.message));
        let mut object = &*self.object.name;
        if let Some((end, _)) = object.char_indices().nth(LONGEST_NAME) {
            object = object.split_at(end).0;
        }
        let object = object.trim_end_matches(['.', '-']);
        (
            Arc::clone(&self.object.namespace),
            format!("{object}.{said:016x}").into(),
        )
    }

    fn event(&self, name: &Name, instance: &str) -> Event {
        let now = Time(Timestamp::now());
        Event {
            metadata: ObjectMeta {
                namespace: Some(name.0.to_string()),
                name: Some(name.1.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("networking.k8s.io/v1".to_owned()),
                kind: Some("Ingress".to_owned()),
                namespace: Some(self.object.namespace.to_string()),
                name: Some(self.object.name.to_string()),
                uid: Some(self.uid.to_string()),
                ..ObjectReference::default()
            },
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.clone()),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource {
                component: Some(MANAGER.to_owned()),
                ..EventSource::default()
            }),
            reporting_component: Some(MANAGER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..Event::default()
        }
    }
}

fn finding(object: &ObjectKey, uid: &Arc<str>, diagnostic: &Diagnostic, own: &str) -> Saying {
    let foreign = Some(&*diagnostic.object).filter(|about| *about != own);
    let field = Some(&*diagnostic.field).filter(|field| !field.is_empty());
    let place: Vec<&str> = foreign.into_iter().chain(field).collect();
    let mut message = place.join(" ");
    if !message.is_empty() {
        message.push_str(": ");
    }
    message.push_str(&diagnostic.message);
    let mut message = Printable(&message).to_string();
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
        message.push('…');
    }
    Saying {
        object: object.clone(),
        uid: Arc::clone(uid),
        warning: diagnostic.severity != Severity::Info,
        reason: diagnostic.code.as_str(),
        message,
    }
}

fn welcome(object: &ObjectKey, uid: &Arc<str>, ingress: &Ingress) -> Saying {
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_deref());
    let mut hosts: Vec<&str> = rules
        .unwrap_or_default()
        .iter()
        .map(|rule| rule.host.as_deref().filter(|host| !host.is_empty()))
        .map(|host| host.unwrap_or("every other host"))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    let rest = hosts.len().saturating_sub(NAMED);
    hosts.truncate(NAMED);
    let mut message = match hosts.as_slice() {
        [] => "served as the default backend".to_owned(),
        hosts => format!("served for {}", hosts.join(", ")),
    };
    if rest > 0 {
        let _ = write!(message, " and {rest} more");
    }
    Saying {
        object: object.clone(),
        uid: Arc::clone(uid),
        warning: false,
        reason: SERVED,
        message,
    }
}

/// The Services and Secrets that an Ingress names, as findings name them; sorted, each once.
fn references(key: &ObjectKey, ingress: &Ingress) -> BTreeSet<String> {
    let Some(spec) = &ingress.spec else {
        return BTreeSet::new();
    };
    let rules = spec.rules.iter().flatten();
    let paths = rules.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
    let backends = paths.map(|path| &path.backend).chain(&spec.default_backend);
    let services =
        backends.filter_map(|backend| Some(("Service", &backend.service.as_ref()?.name)));
    let tls = spec.tls.iter().flatten();
    let secrets = tls.filter_map(|tls| Some(("Secret", tls.secret_name.as_ref()?)));
    services
        .chain(secrets)
        .map(|(kind, name)| format!("{kind}/{}/{name}", key.namespace))
        .collect()
}

/// The object of a finding, `Ingress/namespace/name`.
fn object_key(object: &str) -> Option<ObjectKey> {
    let (namespace, name) = object.strip_prefix("Ingress/")?.split_once('/')?;
    Some(ObjectKey {
        kind: Kind::Ingress,
        namespace: namespace.into(),
        name: name.into(),
    })
}

/// Writes an Event and answers with its count. One that was there before this replica led is only
/// touched, so that it is not forgotten.
async fn write(
    client: Client,
    name: &Name,
    saying: &Saying,
    instance: &str,
    known: Option<i32>,
) -> kube::Result<i32> {
    let api: Api<Event> = Api::namespaced(client, &name.0);
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    if let Some(count) = known {
        let touched = touch(&api, name, Some(count.saturating_add(1))).await;
        match touched {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => return other,
        }
    }
    match api.create(&params, &saying.event(name, instance)).await {
        Ok(event) => Ok(event.count.unwrap_or(1)),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            touch(&api, name, None).await
        }
        Err(error) => Err(error),
    }
}

async fn touch(api: &Api<Event>, name: &Name, count: Option<i32>) -> kube::Result<i32> {
    let now = Time(Timestamp::now());
    let patch = match count {
        Some(count) => json!({"lastTimestamp": now, "count": count}),
        None => json!({"lastTimestamp": now}),
    };
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let event = api.patch(&name.1, &params, &Patch::Merge(patch)).await?;
    Ok(event.count.unwrap_or(1))
}

/// Reason of the Event that an Ingress is served, the one of ingress-nginx.
const SERVED: &str = "Sync";
/// Hosts that are named in it.
const NAMED: usize = 5;
/// Events for one object at a time; errors first. `/api/diagnostics` has all findings.
const MOST: usize = 20;
/// Events for one object at once, and between two after that.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(30);
/// The API server forgets Events after an hour, unless told otherwise.
const REPEAT: Duration = Duration::from_secs(45 * 60);
/// How long the count of an Event is remembered after its finding has gone.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// How often what is remembered is gone through.
const FORGETTING: Duration = Duration::from_secs(60);
/// Letters of the object's name in the name of an Event, whose bound is 253.
const LONGEST_NAME: usize = 230;
/// Letters of a message.
const LONGEST_MESSAGE: usize = 1000;
const SEED: u64 = 0x6576_656e_7473;

#[cfg(test)]
mod tests;
