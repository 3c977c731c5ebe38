//! One watch: lists its objects, then follows their changes, for as long as it is wanted.
//!
//! Invariants:
//! - A list is sent as a difference: what is there, then what is gone. The world recognises what
//!   has not changed.
//! - What was sent stays until the server says that it is gone: no failure takes anything away.
//! - A list that lacks most of what was known is not believed until a second one says the same.
//! - An object of a form that cannot be read keeps its last version and harms no other.
//! - What is older than what was heard is not obeyed; a history that was set back (a restore of
//!   etcd) is noticed between two watches.
//! - A connection that is dead is noticed: every answer has a deadline, and no watch lives longer
//!   than [`LIFE`].
//! - Every attempt after a failure waits; the pauses grow and are cut to a quarter when another
//!   watch gets through.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::de::IgnoredAny;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::{Change, Kind, ObjectKey};
use super::access::Access;
use super::backoff::Backoff;
use super::contact::{Contact, Trouble};
use super::failure::Failure;
use super::form::{self, Identity, Item, Page};
use super::holdings::Holdings;
use super::progress::Progress;
use super::prune::Pruned;
use super::target::Target;

/// Keys of the objects that a watch has sent. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<HashSet<ObjectKey>>>);

impl Known {
    /// The keys; a poisoned lock means a panic elsewhere, and they are still the best there are.
    pub(super) fn keys(&self) -> MutexGuard<'_, HashSet<ObjectKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub(super) struct Reflector {
    pub(super) target: Target,
    /// Labels that objects must have.
    pub(super) labels: Option<String>,
    pub(super) access: Access,
    pub(super) contact: Contact,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) known: Known,
    pub(super) holdings: Holdings,
}

impl Reflector {
    /// Runs until the engine is gone.
    pub(super) async fn run<K: Pruned>(self) {
        let mut backoff = Backoff::new();
        let begun = Instant::now();
        let mut refusals = 0;
        loop {
            let failure = match self.relist::<K>().await {
                Ok(version) => {
                    refusals = 0;
                    self.follow::<K>(version, &mut backoff).await
                }
                Err(failure) => failure,
            };
            if matches!(failure, Failure::EngineGone) {
                return;
            }
            refusals += u32::from(failure.is_refusal());
            if refusals >= ENOUGH && begun.elapsed() >= GRACE {
                self.contact.give_up();
            }
            self.recover(&failure, &mut backoff).await;
        }
    }

    /// Writes down what went wrong and waits.
    async fn recover(&self, failure: &Failure, backoff: &mut Backoff) {
        if let Some(trouble) = failure.trouble() {
            self.contact.trouble(trouble);
        }
        if matches!(failure, Failure::Unauthorized) {
            self.access.renew().await;
        }
        let pause = backoff.after(failure);
        if failure.may_pass() {
            // The first that gets through tells the others. They wait a part of the pause all the
            // same: watches that get through and fail again would call each other without end.
            let called = async { timeout(pause, self.contact.revived()).await.ok() };
            tokio::join!(sleep(pause / 4), called);
        } else {
            sleep(pause).await;
        }
    }

    /// Lists everything, twice if need be; the answer is the version to go on from.
    async fn relist<K: Pruned>(&self) -> Result<String, Failure> {
        let of = of_users(self.known.keys().iter());
        let (mut version, mut listed) = self.list::<K>().await?;
        let gone = of_users(self.known.keys().difference(&listed));
        if self.target.name.is_none() && is_doubtful(gone, of) {
            self.contact.trouble(Trouble::Held(gone, of));
            sleep(CONFIRM).await;
            (version, listed) = self.list::<K>().await?;
        }
        self.contact.keep(&listed);
        let gone: Vec<ObjectKey> = self.known.keys().difference(&listed).cloned().collect();
        for key in gone {
            self.delete(key).await?;
        }
        self.contact.heard(Some(&version));
        self.contact.listed();
        Ok(version)
    }

    /// Sends what is listed page by page; the answer is the version, and the keys of all pages.
    async fn list<K: Pruned>(&self) -> Result<(String, HashSet<ObjectKey>), Failure> {
        let mut listed = HashSet::new();
        let mut parameters = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.target.fields(),
            limit: Some(self.target.page()),
            ..ListParams::default()
        };
        loop {
            let request = self.collection()?.list(&parameters);
            let request = request.map_err(|error| Failure::Refused(error.to_string(), None))?;
            let client = self.access.client();
            let answer = timeout(ANSWER, client.request_text(request)).await;
            let page = form::page::<K>(&answer.map_err(|_| Failure::Stalled)??)?;
            for item in page.items.into_iter().flatten() {
                if let Some(key) = self.take(item).await? {
                    listed.insert(key);
                }
            }
            match page.metadata.rest.filter(|rest| !rest.is_empty()) {
                Some(rest) => parameters.continue_token = Some(rest),
                None => {
                    return Ok((page.metadata.resource_version.unwrap_or_default(), listed));
                }
            }
        }
    }

    /// Watches from a version on, again and again, until only a new list helps.
    async fn follow<K: Pruned>(&self, version: String, backoff: &mut Backoff) -> Failure {
        let mut progress = Progress::from(version);
        let mut refusals = 0;
        let mut first = true;
        loop {
            let begun = Instant::now();
            let good = if std::mem::take(&mut first) {
                Ok(())
            } else {
                self.check(&progress).await
            };
            let outcome = match good {
                Ok(()) => self.watch::<K>(&mut progress).await,
                failed => failed,
            };
            match outcome {
                Ok(()) if begun.elapsed() >= SHORT => {
                    refusals = 0;
                    backoff.reset();
                }
                // A server that hangs up at once is not asked again at once.
                Ok(()) => sleep(backoff.next(LONG_PAUSE)).await,
                Err(failure @ (Failure::Gone | Failure::EngineGone)) => return failure,
                Err(failure) => {
                    if begun.elapsed() >= SHORT {
                        backoff.reset();
                    }
                    refusals += u32::from(failure.is_answer());
                    if refusals >= ENOUGH {
                        return failure;
                    }
                    self.recover(&failure, backoff).await;
                }
            }
        }
    }

    /// Whether history goes on from this version. When etcd was set back, it has not come that far
    /// yet: such a watch would work, and say nothing until it has.
    async fn check(&self, progress: &Progress) -> Result<(), Failure> {
        let parameters = ListParams::default().limit(1);
        let request = self.collection()?.list(&ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.target.fields(),
            ..parameters
        });
        let request = request.map_err(|error| Failure::Refused(error.to_string(), None))?;
        let client = self.access.client();
        let answer = timeout(ANSWER, client.request::<Page<IgnoredAny>>(request)).await;
        let page = answer.map_err(|_| Failure::Stalled)??;
        if progress.is_ahead_of(page.metadata.resource_version.as_deref()) {
            return Err(Failure::Gone);
        }
        Ok(())
    }

    /// One watch, until the server ends it as it was asked to.
    async fn watch<K: Pruned>(&self, progress: &mut Progress) -> Result<(), Failure> {
        let end = Instant::now() + LIFE;
        let parameters = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.target.fields(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let request = self.collection()?.watch(&parameters, progress.version());
        let request = request.map_err(|error| Failure::Refused(error.to_string(), None))?;
        let client = self.access.client();
        let answer = timeout(ANSWER, client.request_events::<Item<K>>(request)).await;
        let mut events = pin!(answer.map_err(|_| Failure::Stalled)??);
        self.contact.heard(None);
        loop {
            let event = timeout_at(end, events.next()).await;
            let Some(event) = event.map_err(|_| Failure::Stalled)? else {
                return Ok(());
            };
            match event? {
                WatchEvent::Added(mut item) | WatchEvent::Modified(mut item) => {
                    if self.note(&mut item, progress) {
                        self.take(item).await?;
                    }
                }
                WatchEvent::Deleted(mut item) => {
                    if self.note(&mut item, progress)
                        && let Some(key) = key_of(&mut item)
                    {
                        self.contact.read(&key);
                        self.delete(key).await?;
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    progress.hear(bookmark.metadata.resource_version);
                    self.contact.heard(Some(progress.version()));
                }
                WatchEvent::Error(status) => return Err(Failure::from(*status)),
            }
        }
    }

    /// How far the world is; and whether the object belongs to what is new.
    fn note<K: Pruned>(&self, item: &mut Item<K>, progress: &mut Progress) -> bool {
        let version = match item {
            Item::Read(object) => object.metadata().resource_version.take(),
            Item::Unread { metadata } => metadata.resource_version.take(),
        };
        let new = version.is_none_or(|version| progress.hear(version));
        self.contact.heard(Some(progress.version()));
        new
    }

    /// Sends an object. Of one that cannot be read the last version stays.
    async fn take<K: Pruned>(&self, mut item: Item<K>) -> Result<Option<ObjectKey>, Failure> {
        let Some(key) = key_of(&mut item) else {
            return Ok(None);
        };
        match item {
            Item::Read(object) => {
                self.contact.read(&key);
                self.apply(key, object).await
            }
            Item::Unread { .. } => {
                self.contact.unread(&key);
                Ok(Some(key))
            }
        }
    }

    async fn apply<K: Pruned>(
        &self,
        key: ObjectKey,
        mut object: K,
    ) -> Result<Option<ObjectKey>, Failure> {
        object.prune();
        let room = self.room().await?;
        if self.known.keys().insert(key.clone()) {
            self.holdings.take(&key);
        }
        room.send(Change::Apply(key.clone(), object.object()));
        Ok(Some(key))
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Failure> {
        let room = self.room().await?;
        let known = self.known.keys().remove(&key);
        if known && self.holdings.release(&key) {
            room.send(Change::Delete(key));
        }
        Ok(())
    }

    /// Room for one change. Whoever retires a watch ends it where it waits: that must not be
    /// between forgetting an object and sending so, or the object would stay for ever.
    async fn room(&self) -> Result<mpsc::Permit<'_, Change>, Failure> {
        let room = self.changes.reserve().await;
        room.map_err(|_| Failure::EngineGone)
    }

    fn collection(&self) -> Result<Request, Failure> {
        self.target
            .path()
            .map(Request::new)
            .ok_or(Failure::NotServed)
    }
}

/// A list that would take the greater part away is rather a fault of the server than what somebody
/// wanted. Those who did want it wait for [`CONFIRM`].
fn is_doubtful(gone: usize, of: usize) -> bool {
    gone * 2 > of
}

/// How many of these keys users have made. What an API server makes by itself is there again
/// before anybody can list: an etcd that has lost everything is never quite empty.
fn of_users<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> usize {
    keys.filter(|key| !is_of_the_server(key)).count()
}

fn is_of_the_server(key: &ObjectKey) -> bool {
    match key.kind {
        Kind::Service | Kind::EndpointSlice | Kind::Endpoints => {
            &*key.namespace == "default" && &*key.name == "kubernetes"
        }
        Kind::Namespace => &*key.name == "default" || key.name.starts_with("kube-"),
        _ => false,
    }
}

fn key_of<K: Pruned>(item: &mut Item<K>) -> Option<ObjectKey> {
    let (namespace, name) = match item {
        Item::Read(object) => {
            let metadata = object.metadata();
            (metadata.namespace.as_deref(), metadata.name.as_deref()?)
        }
        Item::Unread {
            metadata: Identity {
                namespace, name, ..
            },
        } => (Some(namespace.as_str()), name.as_str()),
    };
    Some(ObjectKey {
        kind: K::KIND,
        namespace: namespace.unwrap_or_default().into(),
        name: name.into(),
    })
}

/// How long the server shall keep a watch open.
const WATCH_SECONDS: u32 = 45;

/// When a watch that the server has not ended is taken for dead.
const LIFE: Duration = Duration::from_secs(55);

/// For the head of an answer, and for a page of a list.
const ANSWER: Duration = Duration::from_secs(20);

/// A watch that ends sooner has failed.
const SHORT: Duration = Duration::from_secs(1);

/// Between a doubtful list and the one that confirms it.
const CONFIRM: Duration = Duration::from_secs(10);

/// Longest pause after an answer that is no good.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// Refusals in a row that mean it.
const ENOUGH: u32 = 3;

/// How long a refusal may be a matter of time: a server that has just started refuses everybody
/// until it has read the roles, and roles may be applied after the gateway.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
