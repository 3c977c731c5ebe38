//! What goes on beside the keeper's loop: records that were not stored, commands that wait for an
//! authority, pages that people look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gatehouse_acme::Answer;
use gatehouse_acme::ca::Step;
use gatehouse_acme::journal::{Journal, Point};
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::{Phase, Record};
use gatehouse_acme::secrets::Entries;
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Listing, Stored, Vault, VaultError, Version};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use tokio::sync::watch;

use crate::customer::with;
use crate::stand::{Stand, request, valid, want};

/// A vault that is away for the next few uses of records, and counts how often accounts are read.
#[derive(Clone)]
struct Shaky {
    inner: MemoryVault,
    away: Arc<AtomicUsize>,
    looked: Arc<AtomicUsize>,
}

impl Shaky {
    fn new() -> Self {
        Self {
            inner: MemoryVault::new(),
            away: Arc::default(),
            looked: Arc::default(),
        }
    }

    fn reach(&self, key: &Key) -> Result<(), VaultError> {
        let less = |left: usize| left.checked_sub(1);
        let concerned = matches!(key, Key::Certificate(_));
        let order = Ordering::SeqCst;
        if concerned && self.away.fetch_update(order, order, less).is_ok() {
            return Err(VaultError::Unavailable("it is away".to_owned()));
        }
        Ok(())
    }
}

impl Vault for Shaky {
    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>> {
        self.inner.certificates()
    }

    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>> {
        if let Key::Account(_) = key {
            self.looked.fetch_add(1, Ordering::SeqCst);
        }
        match self.reach(key) {
            Ok(()) => self.inner.read(key),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>> {
        match self.reach(key) {
            Ok(()) => self.inner.write(key, expected, entries),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn remove<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, Result<(), VaultError>> {
        self.inner.remove(key, expected)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn epoch(&self) -> watch::Receiver<Option<u64>> {
        self.inner.epoch()
    }
}

/// Notes in which phase the record is stored whenever an order is about to be made.
struct Notes {
    vault: MemoryVault,
    stored: watch::Sender<Vec<Option<Phase>>>,
}

impl Journal for Notes {
    fn reached<'a>(&'a self, point: Point, target: &'a Target) -> Answer<'a, ()> {
        Box::pin(async move {
            if point != Point::Asking(Step::NewOrder) {
                return;
            }
            let key = Key::Certificate(target.clone());
            let stored = self.vault.read(&key).await.expect("a vault");
            let record = stored.and_then(|stored| Record::from_entries(&stored.entries).ok());
            let phase = record.map(|record| record.state.phase);
            self.stored.send_modify(|all| all.push(phase));
        })
    }
}

#[test]
fn a_record_that_was_not_stored_is_read_again_before_any_step_is_made_of_it() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let vault = Shaky::new();
            let mut stand = Stand::new(&pebble, &pebble.directory(), "");
            let notes = Arc::new(Notes {
                vault: vault.inner.clone(),
                stored: watch::Sender::new(Vec::new()),
            });
            stand.journal = Arc::<Notes>::clone(&notes);
            // The plan is not stored, and cannot be read after that.
            vault.away.store(2, Ordering::SeqCst);
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            assert_eq!(vault.away.load(Ordering::SeqCst), 0, "both were met");
            assert_eq!(*notes.stored.borrow(), [Some(Phase::Planned)]);
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}

#[test]
fn looking_at_accounts_reads_no_vault() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let vault = Shaky::new();
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let asker = keeper.asker();
            let looked = vault.looked.load(Ordering::SeqCst);
            for away in [false, true] {
                vault.inner.set_away(away);
                let accounts = asker.accounts().expect("accounts");
                assert!(accounts[0].url.is_some(), "{accounts:?}");
                assert!(accounts[0].thumbprint.is_some(), "{accounts:?}");
            }
            assert_eq!(vault.looked.load(Ordering::SeqCst), looked);
        });
    });
}
