//! What lies in the Secrets that Gatehouse has written, as far as it says so itself: by its label.
//!
//! Every replica knows it: who leads mends what was changed, and all serve what is kept instead of it.
//! Keys and certificates are not held here, only what tells one from another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gatehouse_acme::leaf::small_fingerprint;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Material;
use gatehouse_acme::vault::Key;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::mirror::{Mirror, News};
use super::vault::name_of;
use crate::leader::Clients;

/// See the module.
pub(super) struct Targets {
    seen: Arc<Mutex<Seen>>,
    changes: watch::Sender<u64>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// What is in each of them.
    marks: BTreeMap<Target, Mark>,
    /// Lists that are still missing.
    missing: usize,
}

/// What tells one content from another.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    content: String,
    ours: bool,
    /// When it says that it is renewed: its reader's, and not part of what tells it from another.
    renew_at: Option<String>,
}

impl Targets {
    /// Begins to follow them, in these namespaces or in all. Needs a runtime.
    pub(super) fn follow(clients: &Clients, namespaces: &[Arc<str>]) -> Self {
        let places: Vec<Option<Arc<str>>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().cloned().map(Some).collect()
        };
        let seen = Arc::new(Mutex::new(Seen {
            marks: BTreeMap::new(),
            missing: places.len(),
        }));
        let changes = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        for namespace in places {
            let mirror = Mirror {
                clients: Arc::clone(clients),
                namespace: namespace.clone(),
                labels: WRITTEN,
                read: |secret| {
                    let target = target_of(secret)?;
                    let mark = Mark::of(&target, secret);
                    Some((target, mark))
                },
            };
            let (seen, changes) = (Arc::clone(&seen), changes.clone());
            let mut first = true;
            tasks.spawn(mirror.follow(move |news| {
                let mut seen = lock(&seen);
                if std::mem::take(&mut first) {
                    seen.missing = seen.missing.saturating_sub(1);
                }
                seen.take(namespace.as_deref(), news);
                drop(seen);
                changes.send_modify(|count| *count += 1);
            }));
        }
        Self {
            seen,
            changes,
            _tasks: tasks,
        }
    }

    /// Changes its value whenever something else may be there.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether everything has been listed once.
    pub(super) fn known(&self) -> bool {
        lock(&self.seen).missing == 0
    }

    /// Whether the Secret says that it is ours.
    pub(super) fn is_ours(&self, target: &Target) -> bool {
        let seen = lock(&self.seen);
        seen.marks.get(target).is_some_and(|mark| mark.ours)
    }

    /// Whether anything is there.
    pub(super) fn is_there(&self, target: &Target) -> bool {
        lock(&self.seen).marks.contains_key(target)
    }

    /// Whether exactly this is there.
    pub(super) fn holds(&self, target: &Target, mark: &Mark) -> bool {
        let seen = lock(&self.seen);
        seen.marks.get(target).is_some_and(|there| there.is(mark))
    }

    /// Whether what is there says that it is renewed then.
    pub(super) fn says(&self, target: &Target, renew_at: Timestamp) -> bool {
        let seen = lock(&self.seen);
        let said = seen
            .marks
            .get(target)
            .and_then(|mark| mark.renew_at.as_ref());
        said.is_some_and(|said| *said == renew_at.to_string())
    }
}

impl Seen {
    fn take(&mut self, namespace: Option<&str>, news: News<(Target, Mark)>) {
        match news {
            News::All(all) => {
                self.marks
                    .retain(|target, _| namespace.is_some_and(|own| target.namespace != own));
                self.marks.extend(all);
            }
            News::Now((target, mark)) => {
                self.marks.insert(target, mark);
            }
            News::Gone((target, _)) => {
                self.marks.remove(&target);
            }
        }
    }
}

impl Mark {
    /// Of what should be there.
    pub(super) fn due(material: &Material) -> Self {
        Self {
            content: content(TLS, material.chain.as_bytes(), material.key.expose()),
            ours: true,
            renew_at: None,
        }
    }

    /// Of what is there.
    pub(super) fn of(target: &Target, secret: &Secret) -> Self {
        let entry = |name: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(name));
            value.map(|value| value.0.as_slice()).unwrap_or_default()
        };
        let kind = secret.type_.as_deref().unwrap_or_default();
        let annotations = secret.metadata.annotations.as_ref();
        let renew_at = annotations.and_then(|all| all.get(RENEW_AT));
        Self {
            content: content(kind, entry("tls.crt"), entry("tls.key")),
            ours: is_ours(target, secret),
            // Anybody may write a long one.
            renew_at: renew_at.filter(|text| text.len() <= TIME).cloned(),
        }
    }

    /// Whether this is the same content.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.content == other.content && self.ours == other.ours
    }
}

/// Whether a Secret says that Gatehouse has written it, for this target.
pub(super) fn is_ours(target: &Target, secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let record = annotations.and_then(|annotations| annotations.get(RECORD));
    let labels = secret.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(super::vault::MANAGED_BY));
    manager.is_some_and(|manager| manager == "gatehouse")
        && record.is_some_and(|record| *record == name_of(&Key::Certificate(target.clone())))
}

fn content(kind: &str, chain: &[u8], key: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(chain.len() + key.len() + 64);
    for part in [kind.as_bytes(), chain, key] {
        bytes.extend_from_slice(&part.len().to_le_bytes());
        bytes.extend_from_slice(part);
    }
    small_fingerprint(&bytes)
}

fn target_of(secret: &Secret) -> Option<Target> {
    Some(Target {
        namespace: secret.metadata.namespace.clone()?,
        secret: secret.metadata.name.clone()?,
    })
}

/// A poisoned lock means a panic elsewhere, and what was seen is still the best there is.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The type that key pairs have.
pub(super) const TLS: &str = "kubernetes.io/tls";
/// Names the record that a Secret is made from.
pub(super) const RECORD: &str = "gatehouse.dev/record";
/// Says when the certificate in a Secret is renewed.
pub(super) const RENEW_AT: &str = "gatehouse.dev/renew-at";

/// Letters of a moment.
const TIME: usize = 40;

/// Label of what Gatehouse writes for others, unlike its own records.
const WRITTEN: &str = "app.kubernetes.io/managed-by=gatehouse,!gatehouse.dev/vault";
