//! What the keeper loses: records that somebody removes behind its back, tasks that panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gatehouse_acme::Answer;
use gatehouse_acme::ca::Step;
use gatehouse_acme::journal::{Journal, Point};
use gatehouse_acme::keeper::{Command, Keeper};
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Record;
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Vault};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use tokio::sync::watch;

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, command, request, served, target, valid, want};

fn key() -> Key {
    Key::Certificate(target("tls"))
}

/// A keeper that serves a certificate whose record somebody removed.
async fn with_its_record_removed(stand: &Stand, vault: &MemoryVault) -> Keeper {
    let keeper = stand.keeper_on(Arc::new(vault.clone()));
    want(&keeper, vec![request("tls", &["a.example.test"])]);
    valid(&keeper, "tls").await;
    let stored = vault.read(&key()).await.expect("read").expect("there");
    vault
        .remove(&key(), &stored.version)
        .await
        .expect("removed");
    keeper
}

#[test]
fn a_record_that_was_removed_is_stored_again_with_its_certificate_and_not_ordered_anew() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let vault = MemoryVault::new();
            let keeper = with_its_record_removed(&stand, &vault).await;
            let before = served(&keeper, "tls").expect("served");
            let mut changes = vault.changes();
            // Whatever is written next finds out.
            let renew = Command::Renew { force: true };
            command(&keeper, "tls", renew).await.expect("begun");
            let again = async {
                loop {
                    if let Some(stored) = vault.read(&key()).await.expect("read") {
                        return Record::from_entries(&stored.entries).expect("a record");
                    }
                    changes.changed().await.expect("a vault");
                }
            };
            let record = tokio::time::timeout(PATIENCE, again)
                .await
                .expect("in time");
            assert_eq!(record.current.as_ref(), Some(&before.material));
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}

#[test]
fn a_certificate_whose_record_was_removed_and_that_nobody_wants_is_no_longer_served() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let vault = MemoryVault::new();
            let keeper = with_its_record_removed(&stand, &vault).await;
            let mut certificates = keeper.certificates.clone();
            // Its first write finds out.
            want(&keeper, Vec::new());
            let hidden = certificates.wait_for(|all| !all.contains_key(&target("tls")));
            let hidden = tokio::time::timeout(PATIENCE, hidden).await;
            hidden.expect("in time").expect("a keeper");
            assert!(!keeper.reports.borrow().contains_key(&target("tls")));
        });
    });
}

/// Work on one certificate panics once, while that on another one stays where it is.
struct Broken {
    panics: AtomicBool,
    goes_on: watch::Sender<bool>,
    orders: AtomicUsize,
}

impl Journal for Broken {
    fn reached<'a>(&'a self, point: Point, target: &'a Target) -> Answer<'a, ()> {
        Box::pin(async move {
            if point != Point::Asking(Step::NewOrder) {
                return;
            }
            if target.secret == "other" {
                self.orders.fetch_add(1, Ordering::SeqCst);
                let mut goes_on = self.goes_on.subscribe();
                goes_on.wait_for(|on| *on).await.expect("a journal");
                return;
            }
            assert!(
                !self.panics.swap(false, Ordering::SeqCst),
                "a fault of ours"
            );
        })
    }
}

#[test]
fn a_task_that_panics_gives_its_own_certificate_back_and_no_other_one() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let mut stand = Stand::new(&pebble, &pebble.directory(), "");
            let journal = Arc::new(Broken {
                panics: AtomicBool::new(true),
                goes_on: watch::Sender::new(false),
                orders: AtomicUsize::new(0),
            });
            stand.journal = Arc::<Broken>::clone(&journal);
            let keeper = stand.keeper();
            let wishes = || {
                let tls = request("tls", &["a.example.test"]);
                vec![request("other", &["b.example.test"]), tls]
            };
            want(&keeper, wishes());
            valid(&keeper, "tls").await;
            want(&keeper, wishes());
            // Whatever is due is begun before a command is answered.
            let busy = keeper.command(target("other"), Command::Retry).await;
            assert!(busy.expect_err("busy").contains("worked on"));
            journal.goes_on.send_replace(true);
            valid(&keeper, "other").await;
            assert_eq!(journal.orders.load(Ordering::SeqCst), 1);
            assert_eq!(pebble.issued().len(), 2);
        });
    });
}
