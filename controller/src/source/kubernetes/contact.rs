//! How the conversation with the API server goes, watch by watch: shared by the watches, which
//! write it down, and by whoever shows it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gatehouse_gateway::metrics::Labelled;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::{Kind, ObjectKey};
use super::refusal::{REFUSED, Refusals};
use super::target::Target;
use crate::diagnostics::{Code, Diagnostic, Severity};

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Contacts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    watches: Mutex<BTreeMap<Target, State>>,
    refusals: Refusals,
    /// One waiter: the source.
    changed: Notify,
    /// Every watch that waits for the server to come back.
    revived: Notify,
}

/// What is known about one watch.
#[derive(Debug, Clone)]
struct State {
    /// Last word from the server about it.
    heard: Option<Instant>,
    since: Instant,
    version: Arc<str>,
    listed: bool,
    /// Refused so often that nobody waits for it any longer.
    given_up: bool,
    /// What goes wrong, and since when.
    trouble: Option<(Trouble, Instant)>,
    /// Objects of a form that cannot be read; the first of them.
    unread: BTreeSet<ObjectKey>,
    /// There are more of them than are listed.
    unread_beyond: bool,
}

/// What goes wrong with a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// 403.
    Forbidden(String),
    /// 404.
    NotServed,
    /// 401.
    Unauthorized,
    /// Any other refusal.
    Refused(String),
    /// No answer.
    Unreachable(String),
    /// A list without most of what was known is not believed yet: how many are missing of how
    /// many.
    Held(usize, usize),
}

/// All watches of one kind, for `/api/convergence`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindView {
    /// The kind.
    pub kind: &'static str,
    /// Number of watches.
    pub watches: usize,
    /// Whether each has listed everything once.
    pub synced: bool,
    /// Version of the newest list, event or bookmark.
    #[serde(rename = "resourceVersion")]
    pub resource_version: Arc<str>,
    /// Time since the server was last heard, of the watch for which it is longest. An idle watch is
    /// renewed every 45 seconds.
    #[serde(rename = "lastContactSeconds")]
    pub last_contact: f64,
    /// Number of watches that do not work.
    pub failing: usize,
    /// What is wrong with the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trouble: Vec<String>,
}

impl Contacts {
    /// The handle of one watch.
    pub(super) fn open(&self, target: &Target) -> Contact {
        let state = State {
            heard: None,
            since: Instant::now(),
            version: "".into(),
            listed: false,
            given_up: false,
            trouble: None,
            unread: BTreeSet::new(),
            unread_beyond: false,
        };
        self.watches().insert(target.clone(), state);
        Contact {
            target: target.clone(),
            contacts: self.clone(),
        }
    }

    /// What the server refuses beside watches.
    pub fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// A watch has ended for good.
    pub(super) fn close(&self, target: &Target) {
        self.watches().remove(target);
    }

    /// Whether the watch has listed everything once, or is not needed and has been refused.
    pub(super) fn settled(&self, target: &Target, needed: bool) -> bool {
        let watches = self.watches();
        let state = watches.get(target);
        state.is_some_and(|state| state.listed || (state.given_up && !needed))
    }

    /// Until a watch has something to tell.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Everything to complain about, sorted. Silence is complained about after a while.
    pub(crate) fn complaints(&self) -> Vec<Diagnostic> {
        let watches = self.watches();
        let mut list: Vec<Diagnostic> = Vec::new();
        for (target, state) in watches.iter() {
            if let Some((trouble, since)) = &state.trouble
                && let Some(complaint) = trouble.complaint(target, since.elapsed())
                // One sentence for all that is out of reach.
                && list.iter().all(|known| known.object != complaint.object)
            {
                list.push(complaint);
            }
        }
        let unread = watches.values().flat_map(|state| &state.unread);
        list.extend(unread.map(cannot_be_read));
        let crowded = watches.iter().filter(|(_, state)| state.unread_beyond);
        list.extend(crowded.map(|(target, _)| more_cannot_be_read(target)));
        list.extend(self.0.refusals.complaints());
        list.sort();
        list.dedup();
        list
    }

    /// All watches by kind.
    pub fn view(&self) -> Vec<KindView> {
        let watches = self.watches();
        let mut kinds: BTreeMap<Kind, KindView> = BTreeMap::new();
        for (target, state) in watches.iter() {
            let silent = state.heard.unwrap_or(state.since).elapsed().as_secs_f64();
            let view = kinds.entry(target.kind).or_insert_with(|| KindView {
                kind: target.kind.as_str(),
                watches: 0,
                synced: true,
                resource_version: "".into(),
                last_contact: 0.0,
                failing: 0,
                trouble: Vec::new(),
            });
            view.watches += 1;
            view.synced &= state.listed;
            view.last_contact = view.last_contact.max(silent);
            // Versions are numbers in practice.
            let newest = |version: &Arc<str>| (version.len(), Arc::clone(version));
            if newest(&state.version) > newest(&view.resource_version) {
                view.resource_version = Arc::clone(&state.version);
            }
            if let Some((trouble, _)) = &state.trouble {
                view.failing += 1;
                if view.trouble.len() < SHOWN {
                    view.trouble.push(format!("{target}: {trouble}"));
                }
            }
        }
        kinds.into_values().collect()
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Target, State>> {
        let watches = self.0.watches.lock();
        watches.unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a watch writes down what happens to it.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    target: Target,
    contacts: Contacts,
}

impl Contact {
    /// The server has said something about this watch: all is well, up to this version.
    pub(super) fn heard(&self, version: Option<&str>) {
        let mut recovered = false;
        self.update(|state| {
            state.heard = Some(Instant::now());
            if let Some(version) = version
                && *state.version != *version
            {
                state.version = version.into();
            }
            recovered = state.trouble.take().is_some();
            recovered
        });
        if recovered {
            self.contacts.0.revived.notify_waiters();
        }
    }

    /// Everything has been listed and sent.
    pub(super) fn listed(&self) {
        self.update(|state| !std::mem::replace(&mut state.listed, true));
    }

    /// Nobody needs to wait for the first list.
    pub(super) fn give_up(&self) {
        self.update(|state| !std::mem::replace(&mut state.given_up, true));
    }

    /// The object could be read, or is gone.
    pub(super) fn read(&self, key: &ObjectKey) {
        self.update(|state| state.unread.remove(key));
    }

    /// The object could not be read.
    pub(super) fn unread(&self, key: &ObjectKey) {
        self.update(|state| {
            if state.unread.len() < UNREAD || state.unread.contains(key) {
                return state.unread.insert(key.clone());
            }
            !std::mem::replace(&mut state.unread_beyond, true)
        });
    }

    /// There are only these objects.
    pub(super) fn keep(&self, listed: &HashSet<ObjectKey>) {
        self.update(|state| {
            let before = state.unread.len();
            state.unread.retain(|key| listed.contains(key));
            state.unread_beyond &= state.unread.len() == UNREAD;
            state.unread.len() < before
        });
    }

    /// Something went wrong.
    pub(super) fn trouble(&self, trouble: Trouble) {
        self.update(|state| {
            // Wording may vary from attempt to attempt; the first stays.
            let kind = std::mem::discriminant::<Trouble>;
            let known = state.trouble.as_ref();
            if known.is_some_and(|(known, _)| kind(known) == kind(&trouble)) {
                return false;
            }
            state.trouble = Some((trouble, Instant::now()));
            true
        });
    }

    /// Until another watch has got through again.
    pub(super) async fn revived(&self) {
        self.contacts.0.revived.notified().await;
    }

    fn update(&self, change: impl FnOnce(&mut State) -> bool) {
        let told = {
            let mut watches = self.contacts.watches();
            watches.get_mut(&self.target).is_some_and(change)
        };
        if told {
            self.contacts.0.changed.notify_one();
        }
    }
}

impl Trouble {
    /// For whoever can do something about it. What may pass by itself is given some time.
    fn complaint(&self, target: &Target, lasting: Duration) -> Option<Diagnostic> {
        let about = |object: String, severity, code, message: String| {
            Some(Diagnostic::new(severity, &object.into(), "", code, message))
        };
        match self {
            Self::Forbidden(why) => about(
                target.to_string(),
                Severity::Error,
                Code::KindForbidden,
                format!(
                    "the API server refuses to list or watch it ({why}), so changes of it are not \
                     seen; grant what `gatehouse generate rbac` prints"
                ),
            ),
            Self::NotServed => about(
                target.to_string(),
                Severity::Error,
                Code::KindNotServed,
                "the API server does not know this resource, so its objects are not read; it is \
                 asked again until it does"
                    .into(),
            ),
            Self::Unauthorized => about(
                API.to_owned(),
                Severity::Error,
                Code::ApiUnauthorized,
                "the API server does not accept the credentials; what is known keeps serving and \
                 they are read again every few seconds"
                    .into(),
            ),
            Self::Refused(why) | Self::Unreachable(why) if lasting >= PATIENCE => about(
                API.to_owned(),
                Severity::Error,
                Code::ApiUnreachable,
                format!(
                    "no answer that could be used ({why}); what is known keeps serving and it is asked \
                     again every few seconds: see that the server is up and that the address in the \
                     kubeconfig, or of the Service `kubernetes`, is reached from here (`kubectl get \
                     --raw /readyz`)"
                ),
            ),
            Self::Refused(_) | Self::Unreachable(_) => None,
            Self::Held(gone, of) => about(
                target.to_string(),
                Severity::Error,
                Code::DeletionHeld,
                format!(
                    "a new list lacks {gone} of {of} objects; they keep serving until a second list \
                     says the same, which is asked for in seconds: if nobody has deleted them, look \
                     at the API server and its etcd"
                ),
            ),
        }
    }
}

fn cannot_be_read(key: &ObjectKey) -> Diagnostic {
    Diagnostic::new(
        Severity::Error,
        &key.to_string().into(),
        "",
        Code::ObjectInvalid,
        "this version of Gatehouse cannot read the form it has, so its last version that could be \
         read, if any, is what holds; write it in a form that `kubectl explain` shows, or update",
    )
}

fn more_cannot_be_read(target: &Target) -> Diagnostic {
    Diagnostic::new(
        Severity::Error,
        &target.to_string().into(),
        "",
        Code::ObjectInvalid,
        format!(
            "this version of Gatehouse cannot read the form of more than {UNREAD} of them, and \
             lists no more than that; most likely it has to be updated"
        ),
    )
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(why) => write!(f, "forbidden: {why}"),
            Self::NotServed => f.write_str("not served"),
            Self::Unauthorized => f.write_str("credentials not accepted"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Unreachable(why) => write!(f, "no answer: {why}"),
            Self::Held(gone, of) => write!(f, "a list lacks {gone} of {of} objects"),
        }
    }
}

impl Collector for Contacts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kinds = self.view();
        let mut family = LAST_CONTACT.describe(&mut encoder)?;
        for kind in &kinds {
            let gauge = ConstGauge::new(kind.last_contact);
            gauge.encode(family.encode_family(&[("kind", kind.kind)])?)?;
        }
        let mut family = TROUBLE.describe(&mut encoder)?;
        for kind in &kinds {
            let gauge = ConstGauge::new(i64::try_from(kind.failing).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("kind", kind.kind)])?)?;
        }
        self.0.refusals.encode(&mut encoder)
    }
}

/// What is shown by the metrics.
pub const METRICS: [&Labelled; 3] = [&LAST_CONTACT, &TROUBLE, &REFUSED];

const LAST_CONTACT: Labelled = Labelled {
    name: "gatehouse_source_last_contact_seconds",
    kind: MetricType::Gauge,
    labels: &["kind"],
    help: "Time since the API server was last heard, by kind",
};

const TROUBLE: Labelled = Labelled {
    name: "gatehouse_source_trouble",
    kind: MetricType::Gauge,
    labels: &["kind"],
    help: "Watches of a kind that do not work, such as for lack of rights",
};

/// What complaints about the server as a whole are about.
const API: &str = "Kubernetes API";

/// Objects that cannot be read and are named, for each watch.
const UNREAD: usize = 100;

/// Trouble with the server that may pass by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Troubles listed by kind.
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use gatehouse_gateway::metrics::Metrics;

    use super::*;

    #[test]
    fn every_watch_that_fails_is_counted_and_the_first_are_shown() {
        let contacts = Contacts::default();
        for number in 0..20 {
            let namespace = format!("n{number:02}").into();
            let contact = contacts.open(&Target::within(Kind::Secret, &namespace));
            contact.trouble(Trouble::Unauthorized);
        }
        let view = contacts.view();
        assert_eq!((view[0].watches, view[0].failing), (20, 20));
        assert_eq!(view[0].trouble.len(), SHOWN);

        let metrics = Metrics::new();
        metrics.register(Box::new(contacts));
        let text = metrics.render().unwrap();
        for metric in [LAST_CONTACT, TROUBLE] {
            assert!(text.contains(&format!("{}{{kind=\"Secret\"}}", metric.name)));
        }
        assert!(text.contains("gatehouse_source_trouble{kind=\"Secret\"} 20\n"));
        assert!(text.contains("gatehouse_api_refused{resource=\"events\"} 0\n"));
    }
}
