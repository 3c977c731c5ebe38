//! Secrets of the API server by a label, followed live on a way of their own: what the certificate
//! manager keeps and writes concerns nobody who routes.
//!
//! Invariants:
//! - No failure takes anything away; a list that lacks most of what was known is believed only when
//!   a second one says the same.
//! - Every answer has a deadline, and no watch lives longer than [`LIFE`].
//! - Every attempt after a failure waits; the pauses grow up to [`LONGEST`].
//! - A Secret is held until a page of a list is read and no longer: anybody may label large ones.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::leader::Clients;
use crate::source::kubernetes::plain;

/// News of the server.
pub(super) enum News<T> {
    /// These are there, and no others.
    All(Vec<T>),
    /// This one is new or has changed.
    Now(T),
    /// This one is gone.
    Gone(T),
}

/// Which Secrets.
pub(super) struct Mirror<T> {
    pub(super) clients: Clients,
    /// In one namespace, or in all.
    pub(super) namespace: Option<Arc<str>>,
    /// With these labels.
    pub(super) labels: &'static str,
    /// What matters of each; nothing, if it cannot matter.
    pub(super) read: fn(&Secret) -> Option<T>,
}

/// A list as it was read.
struct Listed<T> {
    /// To go on from.
    version: String,
    names: BTreeSet<String>,
    all: Vec<T>,
}

impl<T> Mirror<T> {
    /// Tells the news, for ever.
    pub(super) async fn follow(self, mut tell: impl FnMut(News<T>)) {
        let mut pause = FIRST;
        let mut known = BTreeSet::new();
        let mut complained = false;
        loop {
            let begun = Instant::now();
            let why = match self.round(&mut known, &mut tell).await {
                Err(error) => error,
                // A new list: history was lost, or the server closed in order.
                Ok(()) => String::new(),
            };
            if begun.elapsed() > LIFE {
                (pause, complained) = (FIRST, false);
            }
            if !why.is_empty() && !std::mem::replace(&mut complained, true) {
                tracing::warn!(
                    error = why,
                    "Secrets with the label {} cannot be followed: what is known stays; `gatehouse \
                     generate rbac --acme` prints the rights it takes",
                    self.labels
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Lists, then follows until only a new list helps.
    async fn round(
        &self,
        known: &mut BTreeSet<String>,
        tell: &mut impl FnMut(News<T>),
    ) -> Result<(), String> {
        let mut listed = self.list().await?;
        if listed.names.intersection(known).count() * 2 < known.len() {
            sleep(CONFIRM).await;
            listed = self.list().await?;
        }
        let mut version = listed.version;
        *known = listed.names;
        tell(News::All(listed.all));
        loop {
            let begun = Instant::now();
            if !self.watch(&mut version, known, tell).await? {
                return Ok(());
            }
            if begun.elapsed() < SHORT {
                sleep(SHORT).await;
            }
        }
    }

    /// Everything, page by page.
    async fn list(&self) -> Result<Listed<T>, String> {
        let mut params = ListParams::default().labels(self.labels).limit(PAGE);
        let mut listed = Listed {
            version: String::new(),
            names: BTreeSet::new(),
            all: Vec::new(),
        };
        loop {
            let api = self.api();
            let page = timeout(ANSWER, api.list(&params)).await;
            let page = page
                .map_err(|_| format!("no answer in {ANSWER:?}"))?
                .map_err(|error| plain(&error))?;
            listed.names.extend(page.items.iter().map(name));
            listed.all.extend(page.items.iter().filter_map(self.read));
            let rest = page.metadata.continue_.filter(|rest| !rest.is_empty());
            let Some(rest) = rest else {
                listed.version = page.metadata.resource_version.unwrap_or_default();
                return Ok(listed);
            };
            params.continue_token = Some(rest);
        }
    }

    /// One watch; whether another may go on from where it ended.
    async fn watch(
        &self,
        version: &mut String,
        known: &mut BTreeSet<String>,
        tell: &mut impl FnMut(News<T>),
    ) -> Result<bool, String> {
        let end = Instant::now() + LIFE;
        let params = WatchParams::default()
            .labels(self.labels)
            .timeout(WATCH_SECONDS);
        let api = self.api();
        let events = timeout(ANSWER, api.watch(&params, version)).await;
        let events = events
            .map_err(|_| format!("no answer in {ANSWER:?}"))?
            .map_err(|error| plain(&error))?;
        let mut events = pin!(events);
        loop {
            let event = timeout_at(end, events.next()).await;
            let Some(event) = event.map_err(|_| "the watch is silent".to_owned())? else {
                return Ok(true);
            };
            match event.map_err(|error| plain(&error))? {
                WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                    keep(version, secret.metadata.resource_version.as_ref());
                    known.insert(name(&secret));
                    if let Some(read) = (self.read)(&secret) {
                        tell(News::Now(read));
                    }
                }
                WatchEvent::Deleted(secret) => {
                    keep(version, secret.metadata.resource_version.as_ref());
                    known.remove(&name(&secret));
                    if let Some(read) = (self.read)(&secret) {
                        tell(News::Gone(read));
                    }
                }
                WatchEvent::Bookmark(mark) => {
                    keep(version, Some(&mark.metadata.resource_version));
                }
                WatchEvent::Error(status) if status.code == 410 => return Ok(false),
                WatchEvent::Error(status) => return Err(status.message.clone()),
            }
        }
    }

    fn api(&self) -> Api<Secret> {
        match &self.namespace {
            Some(namespace) => Api::namespaced((self.clients)(), namespace),
            None => Api::all((self.clients)()),
        }
    }
}

fn keep(version: &mut String, heard: Option<&String>) {
    if let Some(heard) = heard {
        version.clone_from(heard);
    }
}

fn name(secret: &Secret) -> String {
    let metadata = &secret.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// How long the server shall keep a watch open.
const WATCH_SECONDS: u32 = 45;
/// When a watch that the server has not ended is taken for dead.
const LIFE: Duration = Duration::from_secs(55);
/// A watch that ends sooner is not followed by another at once.
const SHORT: Duration = Duration::from_secs(1);
/// For the head of an answer, and for a page of a list.
const ANSWER: Duration = Duration::from_secs(20);
/// Between a list that lacks most and the one that confirms it.
const CONFIRM: Duration = Duration::from_secs(10);
/// Pauses after failures.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);
/// A record may have 40 KB.
const PAGE: u32 = 100;
