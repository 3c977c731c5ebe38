//! What goes on beside the keeper's loop: records that were not stored, commands that wait for an
//! authority, pages that people look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gatehouse_acme::Answer;
use gatehouse_acme::ca::Step;
use gatehouse_acme::clock::{Clock as _, ScaledClock};
use gatehouse_acme::driver::Projector;
use gatehouse_acme::failure::Class;
use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::journal::{Journal, Point};
use gatehouse_acme::keeper::{Command, Keeper};
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::{Material, Phase, Record};
use gatehouse_acme::secrets::Secret;
use gatehouse_acme::vault::memory::{self, MemoryVault};
use gatehouse_acme::vault::{Key, Vault as _, VaultError};
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen, Verdict};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::tls::Pair;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, insist, request, served, target, until, valid, want};
use crate::waits::Undated;

/// A vault that is away for the next few uses of records, and counts how often accounts are read.
struct Shaky {
    inner: MemoryVault,
    away: Arc<AtomicUsize>,
    looked: Arc<AtomicUsize>,
}

impl Shaky {
    fn new() -> Self {
        let (away, looked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (left, looks) = (Arc::clone(&away), Arc::clone(&looked));
        let inner = MemoryVault::new().guarded(move |key, written| {
            let order = Ordering::SeqCst;
            let less = |left: usize| left.checked_sub(1);
            match key {
                Key::Account(_) if written.is_none() => {
                    looks.fetch_add(1, order);
                }
                Key::Certificate(_) if left.fetch_update(order, order, less).is_ok() => {
                    return Err(memory::away());
                }
                _ => {}
            }
            Ok(())
        });
        Self {
            inner,
            away,
            looked,
        }
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
            let keeper = stand.keeper_on(Arc::new(vault.inner.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            assert_eq!(vault.away.load(Ordering::SeqCst), 0, "both were met");
            assert_eq!(*notes.stored.borrow(), [Some(Phase::Planned)]);
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}

/// A vault that takes a plan, and while it is closed nothing of this kind after that.
fn full(refuses: fn(Phase) -> bool, closed: Arc<AtomicBool>) -> MemoryVault {
    let planned = AtomicBool::new(false);
    MemoryVault::new().guarded(move |key, written| {
        let order = Ordering::SeqCst;
        let (Key::Certificate(_), Some(entries)) = (key, written) else {
            return Ok(());
        };
        let phase = Record::from_entries(entries).expect("a record").state.phase;
        let planned = planned.fetch_or(phase == Phase::Planned, order);
        if planned && closed.load(order) && refuses(phase) {
            return Err(VaultError::Unavailable("it is full".to_owned()));
        }
        Ok(())
    })
}

/// Orders that an authority gets in ten minutes in which nothing can be stored of this kind, and before
/// the certificate is there after that.
fn orders_while_full(refuses: fn(Phase) -> bool) -> (usize, usize) {
    let pebble = Pebble::start_with(Setup::default().trusting());
    let proxy = Fault::before(&pebble);
    proxy.rule(Undated);
    let mut counts = (0, 0);
    with(async || {
        let closed = Arc::new(AtomicBool::new(true));
        let vault = full(refuses, Arc::clone(&closed));
        let mut stand = Stand::new(&pebble, &proxy.directory(), "");
        let begin = Timestamp::now();
        let clock = Arc::new(ScaledClock::new(begin, 300));
        stand.clock = Arc::<ScaledClock>::clone(&clock);
        let keeper = stand.keeper_on(Arc::new(vault));
        want(&keeper, vec![request("tls", &["a.example.test"])]);
        asked(&proxy, Endpoint::NewOrder).await;
        while clock.now() < begin + SignedDuration::from_mins(10) {
            tokio::task::yield_now().await;
        }
        counts.0 = proxy.count(Endpoint::NewOrder);
        closed.store(false, Ordering::SeqCst);
        valid(&keeper, "tls").await;
        counts.1 = proxy.count(Endpoint::NewOrder);
    });
    assert_eq!(pebble.issued().len(), 1);
    counts
}

#[test]
fn what_cannot_be_stored_is_not_asked_for_again_and_again() {
    alone(|| {
        let (meanwhile, all) = orders_while_full(|_| true);
        assert_eq!(meanwhile, 1, "a vault that takes nothing");
        assert_eq!(all, 2);
        // As if only the order was too large for it. The last one may have been on its way.
        let (meanwhile, all) = orders_while_full(|phase| phase == Phase::Ordered);
        assert!(meanwhile <= 10, "{meanwhile} in ten minutes");
        assert!(all <= meanwhile + 2, "{all} after {meanwhile}");
    });
}

#[test]
fn looking_at_accounts_reads_no_vault() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let vault = Shaky::new();
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper_on(Arc::new(vault.inner.clone()));
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

/// An authority that does not answer this.
struct Silent(Endpoint);

impl Rule for Silent {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint == self.0 {
            return Verdict::Silence;
        }
        Verdict::Pass
    }
}

/// Waits until an authority was asked for this.
async fn asked(proxy: &Fault, endpoint: Endpoint) {
    let asking = async {
        while proxy.count(endpoint) == 0 {
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.expect("the authority is asked");
}

/// Begins a command; what is being looked after for another reason is asked again.
fn begin(keeper: &Keeper, command: Command) -> JoinHandle<Result<String, String>> {
    let asker = keeper.asker();
    let ask = async move || asker.command(target("tls"), command.clone()).await;
    tokio::spawn(insist(ask))
}

fn revoking(keeper: &Keeper, reason: u8) -> JoinHandle<Result<String, String>> {
    begin(keeper, Command::Revoke { reason })
}

#[test]
fn other_certificates_do_not_wait_for_a_revocation() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            let wish = || request("tls", &["a.example.test"]);
            want(&keeper, vec![wish()]);
            valid(&keeper, "tls").await;
            proxy.rule(Silent(Endpoint::Revoke));
            let revoking = revoking(&keeper, 4);
            asked(&proxy, Endpoint::Revoke).await;
            want(&keeper, vec![wish(), request("other", &["b.example.test"])]);
            valid(&keeper, "other").await;
            assert!(!revoking.is_finished(), "the authority has not answered");
            let busy = keeper.command(target("tls"), Command::Retry).await;
            assert!(busy.expect_err("busy").contains("worked on"));
        });
    });
}

#[test]
fn certificates_of_another_issuer_do_not_wait_for_another_key() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let text = |name: &str, directory: &str| {
                format!(
                    "    {name}:\n      directory: {directory}\n      acceptTerms: true\n      \
                     caBundle: roots\n"
                )
            };
            let both = format!(
                "acme:\n  issuers:\n{}{}  default: main\n  unlisted: allow\n",
                text("main", &proxy.directory()),
                text("second", &pebble.directory())
            );
            let both = Issuers::parse(&both).expect("issuers");
            stand.issuers.send_replace(Arc::new(both));
            let keeper = stand.keeper();
            let wish = || request("tls", &["a.example.test"]);
            want(&keeper, vec![wish()]);
            valid(&keeper, "tls").await;
            proxy.rule(Silent(Endpoint::KeyChange));
            let asker = keeper.asker();
            let rotate = async move || asker.rotate("main".to_owned()).await;
            let rotating = tokio::spawn(insist(rotate));
            asked(&proxy, Endpoint::KeyChange).await;
            let mut other = request("other", &["b.example.test"]);
            other.issuer = Some("second".to_owned());
            want(&keeper, vec![wish(), other]);
            valid(&keeper, "other").await;
            assert!(!rotating.is_finished(), "the authority has not answered");
        });
    });
}

#[test]
fn what_cannot_be_replaced_this_week_is_revoked_only_if_its_key_is_known_to_others() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let mut serial = valid(&keeper, "tls").await;
            for _ in 1..5 {
                let renew = Command::Renew { force: true };
                let renewed = begin(&keeper, renew).await.expect("an answer");
                renewed.expect("renewed");
                let report = until(&keeper, "tls", |report| {
                    report.phase == Phase::Valid && report.serial.as_deref() != Some(&serial)
                });
                serial = report.await.serial.clone().expect("a serial");
            }
            assert_eq!(pebble.issued().len(), 5);
            let refused = revoking(&keeper, 4).await.expect("an answer");
            let refused = refused.expect_err("no other one would come");
            assert!(refused.contains("5 certificates"), "{refused}");
            assert!(refused.contains("key-compromise"), "{refused}");
            assert_eq!(pebble.status_of(&serial)["Status"], "Valid");
            let said = revoking(&keeper, 1).await.expect("an answer");
            let said = said.expect("revoked");
            assert!(said.contains(&serial) && said.contains("week"), "{said}");
            assert_eq!(pebble.status_of(&serial)["Status"], "Revoked");
        });
    });
}

/// Takes no certificate but this one.
struct Picky(String);

impl Projector for Picky {
    fn preflight<'a>(&'a self, _: &'a Target) -> Answer<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn project<'a>(
        &'a self,
        _: &'a Target,
        material: &'a Material,
    ) -> Answer<'a, Result<(), String>> {
        let good = material.chain.trim() == self.0.trim();
        let answer = good.then_some(()).ok_or_else(|| "refused".to_owned());
        Box::pin(std::future::ready(answer))
    }
}

#[test]
fn an_import_that_its_secret_does_not_take_is_put_right_by_another_one() {
    alone(|| {
        let pebble = Pebble::start();
        let [first, wrong, right] = [(); 3].map(|()| Pair::new(&["shop.example.test"]));
        with(async || {
            let mut stand = Stand::new(&pebble, &pebble.directory(), "");
            stand.projector = Arc::new(Picky(right.certificate.clone()));
            let keeper = stand.keeper();
            let import = |pair: &Pair| {
                let import = Command::Import {
                    chain: pair.certificate.clone(),
                    key: Secret::new(pair.key.as_str()),
                };
                let begun = begin(&keeper, import);
                async { begun.await.expect("an answer") }
            };
            import(&first).await.expect("imported");
            want(&keeper, vec![request("tls", &["shop.example.test"])]);
            until(&keeper, "tls", |report| report.issuer == "main").await;
            import(&wrong).await.expect("imported");
            let report = until(&keeper, "tls", |report| report.waiting.is_some()).await;
            assert_eq!(report.waiting, Some(Class::Storage));
            import(&right).await.expect("put right");
            let settled = until(&keeper, "tls", |report| {
                report.phase == Phase::Valid && report.waiting.is_none()
            });
            settled.await;
            let kept = served(&keeper, "tls").expect("a certificate");
            assert_eq!(kept.material.chain.trim(), right.certificate.trim());
            assert!(pebble.issued().is_empty(), "nothing was ordered");
        });
    });
}
