//! The vault of a cluster: records, accounts and challenges as Secrets in our own namespace.
//!
//! Invariants:
//! - An object is replaced only if it still has the version that was read (`resourceVersion`); what is
//!   created was not there; what is removed is what was read.
//! - Only the leader writes, and says in which term.
//! - Who leads reads from the API server, so that it never takes an old copy for the last word. Who
//!   follows reads from its own copy, so that serving asks nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gatehouse_acme::Answer;
use gatehouse_acme::leaf::small_fingerprint;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::State;
use gatehouse_acme::secrets::{Entries, Secret as Value};
use gatehouse_acme::vault::{Key, Listing, Stored, Unread, Vault, VaultError, Version};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::mirror::{Mirror, News};
use super::request::ISSUER;
use crate::leader::{Clients, Leadership};
use crate::source::kubernetes::plain;

/// See the module.
pub(super) struct SecretVault {
    clients: Clients,
    namespace: Arc<str>,
    leadership: Leadership,
    epoch: watch::Sender<Option<u64>>,
    changes: watch::Sender<u64>,
    copy: Arc<Mutex<Option<Copy>>>,
    /// Ends with the vault.
    _tasks: JoinSet<()>,
}

/// Secrets as they were last told, by name; what cannot be read, as a sentence.
type Copy = BTreeMap<String, Result<Stored, String>>;

impl SecretVault {
    /// Begins to follow the Secrets and the leadership. Needs a runtime.
    pub(super) fn open(clients: &Clients, namespace: Arc<str>, leadership: Leadership) -> Self {
        let (epoch, changes) = (
            watch::Sender::new(leadership.epoch()),
            watch::Sender::new(0),
        );
        let copy: Arc<Mutex<Option<Copy>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let mirror = Mirror {
            clients: Arc::clone(clients),
            namespace: Some(Arc::clone(&namespace)),
            labels: VAULT,
            read: |secret| {
                let name = secret.metadata.name.clone()?;
                Some((name, stored(secret)))
            },
        };
        let own = Arc::clone(&copy);
        let (news, mut heard) = watch::channel(0_u64);
        tasks.spawn(mirror.follow(move |told| {
            take(&mut lock(&own), told);
            news.send_modify(|count| *count += 1);
        }));
        let counter = changes.clone();
        tasks.spawn(async move {
            // Who follows reads everything anew: the first news at once, of a stream not each.
            while heard.changed().await.is_ok() {
                counter.send_replace(*heard.borrow_and_update());
                sleep(GATHER).await;
            }
        });
        let (mut lead, told) = (leadership.clone(), epoch.clone());
        tasks.spawn(async move {
            loop {
                let known = *told.borrow();
                let now = lead.changed(known).await;
                told.send_replace(now);
            }
        });
        Self {
            clients: Arc::clone(clients),
            namespace,
            leadership,
            epoch,
            changes,
            copy,
            _tasks: tasks,
        }
    }

    /// Waits until it is known what there is.
    pub(super) async fn listed(&self) {
        let listed = |_: &u64| lock(&self.copy).is_some();
        self.changes.subscribe().wait_for(listed).await.ok();
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced((self.clients)(), &self.namespace)
    }

    async fn list(&self) -> Result<Listing, VaultError> {
        let mut params = ListParams::default().labels(RECORDS).limit(PAGE);
        let mut listing = Listing::default();
        loop {
            let page = bounded(READ, self.api().list(&params)).await?;
            for secret in page.items {
                add(&mut listing, stored(&secret));
            }
            let rest = page.metadata.continue_.filter(|rest| !rest.is_empty());
            match rest {
                Some(rest) => params.continue_token = Some(rest),
                None => break,
            }
        }
        listing.stored.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listing)
    }

    fn copied(&self) -> Listing {
        let copy = lock(&self.copy);
        let mut listing = Listing::default();
        // Before the first list nothing is known, and nothing is shown yet.
        for one in copy.iter().flat_map(BTreeMap::values) {
            let other = |stored: &Stored| !matches!(stored.key, Key::Certificate(_));
            if !one.as_ref().is_ok_and(other) {
                add(&mut listing, one.clone());
            }
        }
        listing.stored.sort_by(|one, other| one.key.cmp(&other.key));
        listing
    }

    async fn get(&self, key: &Key) -> Result<Option<Stored>, VaultError> {
        let name = name_of(key);
        if self.leadership.epoch().is_none() {
            let copy = lock(&self.copy);
            let copy = copy.as_ref().ok_or_else(unread)?;
            let found = copy.get(&name).and_then(|one| one.as_ref().ok());
            return Ok(found.filter(|stored| stored.key == *key).cloned());
        }
        let found = bounded(READ, self.api().get_opt(&name)).await?;
        match found.as_ref().map(stored) {
            None => Ok(None),
            Some(Ok(stored)) if stored.key == *key => Ok(Some(stored)),
            // Overwriting it could cost a key.
            Some(Ok(stored)) => Err(VaultError::Damaged(format!(
                "Secret {}/{name} is that of {}: move it away",
                self.namespace, stored.key
            ))),
            Some(Err(why)) => Err(VaultError::Damaged(why)),
        }
    }

    async fn put(
        &self,
        key: &Key,
        expected: Option<&Version>,
        entries: &Entries,
    ) -> Result<Version, VaultError> {
        let epoch = self.leadership.epoch().ok_or_else(not_leader)?;
        let secret = self.secret(key, expected, entries, epoch);
        let (api, params) = (self.api(), PostParams::default());
        let written = match expected {
            Some(_) => {
                let name = name_of(key);
                bounded_for(key, api.replace(&name, &params, &secret)).await
            }
            None => bounded_for(key, api.create(&params, &secret)).await,
        };
        let version = written?.metadata.resource_version;
        version
            .map(Version)
            .ok_or_else(|| VaultError::Unavailable("the API server names no version".to_owned()))
    }

    async fn delete(&self, key: &Key, expected: &Version) -> Result<(), VaultError> {
        if self.leadership.epoch().is_none() {
            return Err(not_leader());
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: Some(expected.0.clone()),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        let (api, name) = (self.api(), name_of(key));
        bounded_for(key, api.delete(&name, &params)).await?;
        Ok(())
    }

    fn secret(
        &self,
        key: &Key,
        expected: Option<&Version>,
        entries: &Entries,
        epoch: u64,
    ) -> Secret {
        let data = entries
            .iter()
            .map(|(name, value)| (name.clone(), ByteString(value.expose().to_vec())));
        let mut annotations = BTreeMap::from([(EPOCH.to_owned(), epoch.to_string())]);
        if let Key::Certificate(target) = key {
            annotations.insert(TARGET.to_owned(), target.to_string());
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(name_of(key)),
                namespace: Some(self.namespace.to_string()),
                resource_version: expected.map(|version| version.0.clone()),
                labels: Some(labels(key, entries)),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            type_: Some(type_of(key).to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }
}

impl Vault for SecretVault {
    fn place(&self, key: &Key) -> String {
        format!("Secret {}/{}", self.namespace, name_of(key))
    }

    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>> {
        if self.leadership.epoch().is_some() {
            return Box::pin(self.list());
        }
        Box::pin(std::future::ready(Ok(self.copied())))
    }

    /// By our own copy, which is told of what is deleted: nobody is asked.
    fn missing(&self, mut targets: Vec<Target>) -> Answer<'_, Vec<Target>> {
        let copy = lock(&self.copy);
        let there = |target: &Target| {
            let name = name_of(&Key::Certificate(target.clone()));
            copy.as_ref().is_none_or(|copy| copy.contains_key(&name))
        };
        targets.retain(|target| !there(target));
        Box::pin(std::future::ready(targets))
    }

    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>> {
        Box::pin(self.get(key))
    }

    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>> {
        Box::pin(self.put(key, expected, entries))
    }

    fn remove<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, Result<(), VaultError>> {
        Box::pin(self.delete(key, expected))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn epoch(&self) -> watch::Receiver<Option<u64>> {
        self.epoch.subscribe()
    }

    fn leads(&self, epoch: u64) -> bool {
        self.leadership.epoch() == Some(epoch)
    }
}

/// Name of the Secret that an object is in.
pub(super) fn name_of(key: &Key) -> String {
    match key {
        Key::Certificate(target) => {
            let hash = small_fingerprint(target.to_string().as_bytes());
            format!("gatehouse-cert-{hash}")
        }
        Key::Account(issuer) => format!("gatehouse-acme-account-{issuer}"),
        Key::Board => "gatehouse-acme-board".to_owned(),
    }
}

/// Whether records of ours have names of this kind.
pub(super) fn is_record(name: &str) -> bool {
    name.starts_with("gatehouse-cert-") || name.starts_with("gatehouse-acme-")
}

fn type_of(key: &Key) -> &'static str {
    match key {
        Key::Certificate(_) => "gatehouse.dev/certificate-state",
        Key::Account(_) => "gatehouse.dev/acme-account",
        Key::Board => "gatehouse.dev/acme-board",
    }
}

/// What people select by.
fn labels(key: &Key, entries: &Entries) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(MANAGED_BY.to_owned(), "gatehouse".to_owned())]);
    let mut label = |name: &str, value: &str| {
        // A longer value is no label; the annotation has it in full.
        if value.len() <= 63 && !value.is_empty() {
            labels.insert(name.to_owned(), value.to_owned());
        }
    };
    match key {
        Key::Certificate(target) => {
            label(KIND, "certificate");
            label("gatehouse.dev/namespace", &target.namespace);
            label("gatehouse.dev/secret", &target.secret);
            let state = entries.get("state.json").map(Value::expose);
            let state = state.and_then(|text| serde_json::from_slice::<State>(text).ok());
            if let Some(state) = state {
                let ordered = state.revision.as_ref().map(|ordered| &ordered.issuer);
                let issuer = ordered.or(state.current.as_ref().map(|current| &current.issuer));
                label("gatehouse.dev/phase", &format!("{:?}", state.phase));
                label(ISSUER, issuer.map_or("", String::as_str));
            }
        }
        Key::Account(issuer) => {
            label(KIND, "account");
            label(ISSUER, issuer);
        }
        Key::Board => label(KIND, "board"),
    }
    labels
}

/// What a Secret of the vault holds; the error is a sentence.
fn stored(secret: &Secret) -> Result<Stored, String> {
    let metadata = &secret.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let label = |wanted: &str| {
        let labels = metadata.labels.as_ref()?;
        labels.get(wanted).map(String::as_str)
    };
    let target = || {
        let target = metadata.annotations.as_ref()?.get(TARGET)?;
        let (namespace, secret) = target.split_once('/')?;
        Some(Target {
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
        })
    };
    let key = match label(KIND) {
        Some("certificate") => target().map(Key::Certificate),
        Some("account") => label(ISSUER).map(|name| Key::Account(name.to_owned())),
        Some("board") => Some(Key::Board),
        _ => None,
    };
    let fits = |key: &Key| name_of(key) == name;
    let key = key.filter(fits).ok_or_else(|| {
        format!(
            "Secret {namespace}/{name} does not say of what it is: its labels and annotations were \
             changed; put them back, or delete it, and what it held is made anew"
        )
    })?;
    let data = secret.data.iter().flatten();
    Ok(Stored {
        key,
        version: Version(metadata.resource_version.clone().unwrap_or_default()),
        entries: data
            .map(|(name, value)| (name.clone(), Value::new(value.0.as_slice())))
            .collect(),
    })
}

fn add(listing: &mut Listing, one: Result<Stored, String>) {
    match one {
        Ok(stored) => listing.stored.push(stored),
        Err(why) => listing.unread.push(Unread { target: None, why }),
    }
}

fn take(copy: &mut Option<Copy>, news: News<(String, Result<Stored, String>)>) {
    match news {
        News::All(all) => *copy = Some(all.into_iter().collect()),
        News::Now((name, stored)) => {
            copy.get_or_insert_default().insert(name, stored);
        }
        News::Gone((name, _)) => {
            copy.get_or_insert_default().remove(&name);
        }
    }
}

/// A poisoned lock means a panic elsewhere, and the copy is still the best there is.
fn lock(copy: &Mutex<Option<Copy>>) -> MutexGuard<'_, Option<Copy>> {
    copy.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn bounded<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, VaultError> {
    match timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(VaultError::Unavailable(plain(&error))),
        Err(_) => Err(VaultError::Unavailable(format!("no answer in {limit:?}"))),
    }
}

/// A write: whoever was faster is told apart from a server that is away.
async fn bounded_for<T>(
    key: &Key,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, VaultError> {
    let answer = timeout(WRITE, request).await;
    let error = match answer {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => return Err(VaultError::Unavailable(format!("no answer in {WRITE:?}"))),
    };
    match &error {
        kube::Error::Api(status) if CONFLICTS.contains(&status.code) => {
            Err(VaultError::Conflict(key.clone()))
        }
        _ => Err(VaultError::Unavailable(plain(&error))),
    }
}

fn not_leader() -> VaultError {
    VaultError::NotLeader("another replica has the Lease, or nobody renews it".to_owned())
}

fn unread() -> VaultError {
    VaultError::Unavailable("the Secrets of the vault have not been listed yet".to_owned())
}

/// Labels of every Secret of the vault, and of those with records.
const VAULT: &str = "app.kubernetes.io/managed-by=gatehouse,gatehouse.dev/vault";
const RECORDS: &str = "app.kubernetes.io/managed-by=gatehouse,gatehouse.dev/vault=certificate";

pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const KIND: &str = "gatehouse.dev/vault";
const TARGET: &str = "gatehouse.dev/target";
const EPOCH: &str = "gatehouse.dev/epoch";

/// Another version, or none: both are somebody else's doing.
const CONFLICTS: [u16; 2] = [404, 409];

/// A write may not outlive the time after which another may lead.
const WRITE: Duration = Duration::from_secs(4);
const READ: Duration = Duration::from_secs(10);
/// Between two times that readers are told of news.
const GATHER: Duration = Duration::from_millis(100);
/// A record may have 40 KB.
const PAGE: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::Certificate(Target {
            namespace: "shop".into(),
            secret: "tls".into(),
        })
    }

    fn vault() -> SecretVault {
        let clients: Clients = Arc::new(|| unreachable!("nobody is asked"));
        SecretVault {
            clients,
            namespace: "own".into(),
            leadership: Leadership::unquestioned(),
            epoch: watch::Sender::new(None),
            changes: watch::Sender::new(0),
            copy: Arc::default(),
            _tasks: JoinSet::new(),
        }
    }

    fn written(key: &Key) -> Secret {
        let entries = Entries::from([("state.json".to_owned(), Value::new("{}"))]);
        vault().secret(key, Some(&Version("7".into())), &entries, 9)
    }

    #[test]
    fn what_is_written_is_read_and_carries_version_and_term() {
        for key in [key(), Key::Account("main".into()), Key::Board] {
            let secret = written(&key);
            let read = stored(&secret).unwrap();
            assert_eq!((&read.key, &*read.version.0), (&key, "7"));
            assert_eq!(read.entries.len(), 1);
            assert_eq!(secret.metadata.annotations.unwrap()[EPOCH], "9");
        }
    }

    #[test]
    fn a_secret_whose_marks_were_changed_is_told_and_not_taken_for_another() {
        let mut secret = written(&key());
        let annotations = secret.metadata.annotations.as_mut().unwrap();
        annotations.insert(TARGET.to_owned(), "pay/tls".to_owned());
        let why = stored(&secret).unwrap_err();
        assert!(why.contains("does not say of what it is"), "{why}");
        secret.metadata.annotations = None;
        assert!(stored(&secret).is_err());
    }

    #[tokio::test]
    async fn what_was_deleted_is_missing_once_it_is_known_what_there_is() {
        let vault = vault();
        let Key::Certificate(target) = key() else {
            unreachable!("a certificate");
        };
        let missing = async || vault.missing(vec![target.clone()]).await;
        assert_eq!(missing().await, []);
        let mut secret = written(&key());
        // Without its marks it is there all the same.
        secret.metadata.annotations = None;
        let one = (name_of(&key()), stored(&secret));
        take(&mut lock(&vault.copy), News::Now(one.clone()));
        assert_eq!(missing().await, []);
        take(&mut lock(&vault.copy), News::Gone(one));
        assert_eq!(missing().await, std::slice::from_ref(&target));
    }

    #[test]
    fn names_too_long_for_a_label_are_in_the_annotation() {
        let long = Target {
            namespace: "shop".into(),
            secret: "s".repeat(200),
        };
        let secret = written(&Key::Certificate(long.clone()));
        let labels = secret.metadata.labels.as_ref().unwrap();
        assert!(!labels.contains_key("gatehouse.dev/secret"));
        assert_eq!(stored(&secret).unwrap().key, Key::Certificate(long));
    }
}
