//! Events on our Ingresses: one for every finding about them, and one when an Ingress is first
//! served, so that `kubectl describe ingress` explains.
//!
//! The kind is `v1/Event`: `describe` reads that one, and a count can be raised in it.
//!
//! Invariants:
//! - The name of an Event is made of the object and of what is said, so the same finding is the
//!   same Event for every replica and after every restart; a repetition raises its count.
//! - An Event is written when its finding appears, and again before the API server forgets it, not
//!   in between. The number of Events for one object and their rate are bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use foldhash::{HashMap, HashSet};
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
use super::queue::Pace;
use crate::diagnostics::{Diagnostic, Severity};
use crate::engine::{Ingresses, Report};
use crate::leader::Clients;
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
    wanted: BTreeMap<Name, Arc<Saying>>,
    /// What the API server has, as far as it came by here.
    written: HashMap<Name, Written>,
    /// Objects of which it was said, or was known, that they are served; by uid.
    served: HashSet<Arc<str>>,
    paces: HashMap<ObjectKey, Pace>,
}

/// Namespace and name of an Event.
type Name = (Arc<str>, Arc<str>);

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
            wanted: BTreeMap::new(),
            written: HashMap::default(),
            served: HashSet::default(),
            paces: HashMap::default(),
        }
    }

    fn findings(&self) -> BTreeMap<&ObjectKey, Vec<&Diagnostic>> {
        let mut findings: BTreeMap<&ObjectKey, Vec<&Diagnostic>> = BTreeMap::new();
        for diagnostic in &*self.diagnostics {
            let key = object_key(&diagnostic.object);
            let ours = key.and_then(|key| self.owned.get_key_value(&key));
            if let Some((key, _)) = ours {
                findings.entry(key).or_default().push(diagnostic);
            }
        }
        for list in findings.values_mut() {
            list.sort_by_key(|diagnostic| diagnostic.severity);
            list.truncate(MOST);
        }
        findings
    }

    fn compose(&self) -> (BTreeMap<Name, Arc<Saying>>, HashSet<Arc<str>>) {
        let findings = self.findings();
        let (mut wanted, mut served) = (BTreeMap::new(), HashSet::default());
        for (key, ingress) in &*self.owned {
            let Some(uid) = ingress.metadata.uid.as_deref().map(Arc::<str>::from) else {
                continue;
            };
            let list = findings.get(key).map(Vec::as_slice).unwrap_or_default();
            for diagnostic in list {
                let saying = finding(key, &uid, diagnostic);
                wanted.insert(saying.name(), Arc::new(saying));
            }
            let known = self.served.contains(&uid)
                || (!self.surveyed && (!self.status_tells || !published(ingress).is_empty()));
            let broken = list.iter().any(|found| found.severity == Severity::Error);
            if known {
                served.insert(uid);
            } else if !broken {
                let saying = welcome(key, &uid, ingress);
                wanted.insert(saying.name(), Arc::new(saying));
            }
        }
        (wanted, served)
    }

    fn forget(&mut self, now: Instant) {
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
        self.owned = Arc::clone(&report.owned);
        self.diagnostics = Arc::clone(&report.diagnostics);
        let (wanted, served) = self.compose();
        self.surveyed = true;
        self.served = served;
        let old = std::mem::replace(&mut self.wanted, wanted);
        self.forget(Instant::now());
        let news = self.wanted.keys().filter(|name| !old.contains_key(*name));
        news.cloned().collect()
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
            self.served.insert(Arc::clone(&saying.uid));
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

fn finding(object: &ObjectKey, uid: &Arc<str>, diagnostic: &Diagnostic) -> Saying {
    let mut message = String::new();
    if !diagnostic.field.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(message, "{}: ", diagnostic.field);
    }
    message.push_str(&diagnostic.message);
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
/// Letters of the object's name in the name of an Event, whose bound is 253.
const LONGEST_NAME: usize = 230;
/// Letters of a message.
const LONGEST_MESSAGE: usize = 1000;
const SEED: u64 = 0x6576_656e_7473;

#[cfg(test)]
mod tests;
