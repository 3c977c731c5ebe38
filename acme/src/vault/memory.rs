//! A vault in memory, for tests and for what need not survive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Key, Listing, Stored, Vault, VaultError, Version};
use crate::Answer;
use crate::plan::Target;
use crate::secrets::Entries;

/// One process's view of a shared store. Clones share the store and the leadership.
#[derive(Debug, Clone)]
pub struct MemoryVault {
    store: Arc<Store>,
    epoch: watch::Sender<Option<u64>>,
    guard: Option<Guard>,
}

/// Of [`MemoryVault::guarded`].
#[derive(Clone)]
struct Guard(Arc<Check>);

type Check = dyn Fn(&Key, Option<&Entries>) -> Result<(), VaultError> + Send + Sync;

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Guard")
    }
}

#[derive(Debug)]
struct Store {
    objects: Mutex<Objects>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Objects {
    written: u64,
    by_key: BTreeMap<Key, (u64, Entries)>,
    /// Newest epoch that was ever given out.
    epoch: u64,
    away: bool,
    damaged: BTreeSet<Key>,
    reads: u64,
}

impl Default for MemoryVault {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryVault {
    /// An empty store that this process leads.
    pub fn new() -> Self {
        let store = Store {
            objects: Mutex::new(Objects::default()),
            changes: watch::Sender::new(0),
        };
        let vault = Self {
            store: Arc::new(store),
            epoch: watch::Sender::new(None),
            guard: None,
        };
        vault.lead();
        vault
    }

    /// Another process on the same store, which does not lead.
    #[must_use]
    pub fn follower(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            epoch: watch::Sender::new(None),
            guard: None,
        }
    }

    /// The same view, but `guard` is asked before an object is read, or written with these entries; its
    /// error is the answer then.
    #[must_use]
    pub fn guarded(
        &self,
        guard: impl Fn(&Key, Option<&Entries>) -> Result<(), VaultError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            guard: Some(Guard(Arc::new(guard))),
            ..self.clone()
        }
    }

    /// Takes the lead; whoever had it cannot write any more, though it does not learn that.
    pub fn lead(&self) {
        let mut objects = self.lock();
        objects.epoch += 1;
        self.epoch.send_replace(Some(objects.epoch));
    }

    /// Whether the store can be reached.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// Whether what is stored of an object has lost the marks that it is found by: it is in no listing,
    /// nobody can read it, and nothing may take its place.
    pub fn set_damaged(&self, key: &Key, damaged: bool) {
        let mut objects = self.lock();
        objects.written += 1;
        let version = objects.written;
        if let Some(object) = objects.by_key.get_mut(key) {
            object.0 = version;
        }
        if damaged {
            objects.damaged.insert(key.clone());
        } else {
            objects.damaged.remove(key);
        }
    }

    /// How many looks at single objects and at all of them there were.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// How many writes there were.
    pub fn writes(&self) -> u64 {
        self.lock().written
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        let lock = self.store.objects.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, key: &Key, entries: Option<&Entries>) -> Result<(), VaultError> {
        let guard = self.guard.as_ref();
        guard.map_or(Ok(()), |Guard(guard)| guard(key, entries))
    }

    fn reach(&self) -> Result<MutexGuard<'_, Objects>, VaultError> {
        let objects = self.lock();
        if objects.away {
            return Err(away());
        }
        Ok(objects)
    }

    fn list(&self) -> Result<Listing, VaultError> {
        let mut objects = self.reach()?;
        objects.reads += 1;
        let certificates = objects.by_key.iter().filter(|(key, _)| {
            matches!(key, Key::Certificate(_)) && !objects.damaged.contains(*key)
        });
        Ok(Listing {
            stored: certificates
                .map(|(key, value)| stored(key, value))
                .collect(),
            ..Listing::default()
        })
    }

    fn change(
        &self,
        key: &Key,
        expected: Option<&Version>,
        entries: Option<&Entries>,
    ) -> Result<Version, VaultError> {
        let mut objects = self.reach()?;
        if *self.epoch.borrow() != Some(objects.epoch) {
            return Err(VaultError::NotLeader(
                "another one took the lead".to_owned(),
            ));
        }
        let found = objects.by_key.get(key);
        let found = found.map(|(version, _)| Version(version.to_string()));
        if found.as_ref() != expected {
            return Err(VaultError::Conflict(key.clone()));
        }
        objects.written += 1;
        let version = objects.written;
        match entries {
            Some(entries) => objects
                .by_key
                .insert(key.clone(), (version, entries.clone())),
            None => objects.by_key.remove(key),
        };
        drop(objects);
        self.store.changes.send_modify(|count| *count += 1);
        Ok(Version(version.to_string()))
    }
}

/// The error of a store that cannot be reached.
pub fn away() -> VaultError {
    VaultError::Unavailable("it is away".to_owned())
}

fn stored(key: &Key, (version, entries): &(u64, Entries)) -> Stored {
    Stored {
        key: key.clone(),
        version: Version(version.to_string()),
        entries: entries.clone(),
    }
}

impl Vault for MemoryVault {
    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>> {
        Box::pin(async { self.list() })
    }

    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>> {
        Box::pin(async move {
            self.pass(key, None)?;
            let mut objects = self.reach()?;
            objects.reads += 1;
            if objects.damaged.contains(key) {
                return Err(VaultError::Damaged(format!("{key} lost its marks")));
            }
            Ok(objects.by_key.get(key).map(|value| stored(key, value)))
        })
    }

    fn missing(&self, mut targets: Vec<Target>) -> Answer<'_, Vec<Target>> {
        let found = self.reach().map(|objects| {
            targets.retain(|target| {
                let key = Key::Certificate(target.clone());
                !objects.by_key.contains_key(&key)
            });
            targets
        });
        Box::pin(std::future::ready(found.unwrap_or_default()))
    }

    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>> {
        Box::pin(async move {
            self.pass(key, Some(entries))?;
            self.change(key, expected, Some(entries))
        })
    }

    fn remove<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, Result<(), VaultError>> {
        Box::pin(async move { self.change(key, Some(expected), None).map(drop) })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes.subscribe()
    }

    fn epoch(&self) -> watch::Receiver<Option<u64>> {
        self.epoch.subscribe()
    }
}
