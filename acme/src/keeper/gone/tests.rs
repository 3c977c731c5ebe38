//! What becomes of records that somebody removes while a keeper runs.

use std::path::PathBuf;

use tokio::sync::watch;

use super::*;
use crate::events::What;
use crate::issuers::Issuers;
use crate::keeper::{Command, Config, Keeper};
use crate::plan::Request;
use crate::record::{Phase, Record};
use crate::secrets::{Entries, Secret, SecretFolder};
use crate::vault::directory::DirectoryVault;
use crate::vault::memory::{MemoryVault, away};
use crate::vault::{Key, Stored, Vault};

fn target() -> Target {
    Target {
        namespace: "shop".into(),
        secret: "tls".into(),
    }
}

fn key() -> Key {
    Key::Certificate(target())
}

/// A keeper without an authority. Nothing is wanted yet.
fn keeper(vault: Arc<dyn Vault>) -> Keeper {
    let text = "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      \
                acceptTerms: true\n  default: main\n  unlisted: allow\n";
    let issuers = Issuers::parse(text).expect("issuers");
    let (_issuers, issuers) = watch::channel(Arc::new(issuers));
    Keeper::start(Config::alone(
        issuers,
        vault,
        Arc::new(SecretFolder::new("/nowhere")),
        Arc::new(|_| Err("no authority in this test".to_owned())),
        Arc::new(|_, _| Err("no DNS in this test".to_owned())),
    ))
}

fn request() -> Request {
    let hosts = vec!["a.example.test".to_owned()];
    Request::new("Ingress/shop/web".to_owned(), target(), hosts)
}

fn want(keeper: &Keeper) {
    let wanted = Arc::new(vec![request()]);
    keeper.wanted.send_replace(Some(wanted));
}

/// Takes a certificate from elsewhere over, before anything asks for it.
async fn import(keeper: &Keeper) {
    let made = rcgen::generate_simple_self_signed(["a.example.test".to_owned()]);
    let made = made.expect("a certificate");
    let import = Command::Import {
        chain: made.cert.pem(),
        key: Secret::new(made.signing_key.serialize_pem()),
    };
    keeper.shown().await;
    let imported = keeper.command(target(), import).await;
    imported.expect("imported");
}

/// Waits, in the time of the test, for the record to be there as it should be.
async fn record(vault: &dyn Vault, fits: impl Fn(&Record) -> bool) -> Stored {
    for _ in 0..1_000 {
        if let Some(stored) = vault.read(&key()).await.expect("read")
            && fits(&Record::from_entries(&stored.entries).expect("a record"))
        {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is no such record");
}

/// Waits for a certificate that is taken over, wanted and at rest.
async fn valid(keeper: &Keeper, vault: &dyn Vault) -> Stored {
    import(keeper).await;
    want(keeper);
    record(vault, |record| record.state.phase == Phase::Valid).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    record(vault, |record| record.state.phase == Phase::Valid).await
}

async fn remove(vault: &MemoryVault, stored: &Stored) {
    let removed = vault.remove(&key(), &stored.version).await;
    removed.expect("removed");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_removed_is_stored_again_as_it_was_though_nothing_is_due_and_told_once() {
    let vault = MemoryVault::new();
    let keeper = keeper(Arc::new(vault.clone()));
    let before = valid(&keeper, &vault).await;
    let mut events = keeper.events();
    remove(&vault, &before).await;
    let after = record(&vault, |_| true).await;
    assert_eq!(after.entries, before.entries);
    // The look after it sees that it is there again.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (writes, reads) = (vault.writes(), vault.reads());
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(vault.writes(), writes, "once");
    assert_eq!(vault.reads(), reads, "names alone are looked at");
    let told = events.try_recv().expect("an event").what;
    assert!(
        matches!(&told, What::Warning(text) if text.contains("shop/tls was removed") && text.contains("stored again")),
        "{told:?}"
    );
    assert!(events.try_recv().is_err(), "told once");
    // And each time.
    remove(&vault, &after).await;
    record(&vault, |_| true).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_so_far_is_stored_again_as_well() {
    let vault = MemoryVault::new();
    let keeper = keeper(Arc::new(vault.clone()));
    want(&keeper);
    let failed = |record: &Record| record.state.attempts.n > 0 && record.state.wait.is_some();
    let before = record(&vault, failed).await;
    remove(&vault, &before).await;
    assert_eq!(record(&vault, |_| true).await.entries, before.entries);
}

#[tokio::test(start_paused = true)]
async fn a_command_for_a_certificate_whose_record_was_just_removed_is_obeyed() {
    let vault = MemoryVault::new();
    let keeper = keeper(Arc::new(vault.clone()));
    want(&keeper);
    let failed = |record: &Record| record.state.wait.is_some();
    let before = record(&vault, failed).await;
    remove(&vault, &before).await;
    let said = keeper.command(target(), Command::Retry).await;
    assert_eq!(said.expect("obeyed"), "shop/tls is tried now");
    // One that is another one meanwhile is read first.
    let before = record(&vault, failed).await;
    vault.set_damaged(&key(), false);
    let said = keeper.command(target(), Command::Retry).await;
    let said = said.expect_err("of another one");
    assert!(said.contains("ask once more"), "{said}");
    let now = record(&vault, |_| true).await;
    assert_eq!(now.entries, before.entries);
    let said = keeper.command(target(), Command::Retry).await;
    said.expect("obeyed");
}

#[tokio::test(start_paused = true)]
async fn who_follows_goes_on_serving_what_is_wanted_and_was_removed_and_nothing_else() {
    let vault = MemoryVault::new();
    let leader = keeper(Arc::new(vault.clone()));
    let before = valid(&leader, &vault).await;
    let follower = keeper(Arc::new(vault.follower()));
    want(&follower);
    let shown = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let shown = follower.certificates.borrow();
        (shown.len(), follower.reports.borrow().len())
    };
    assert_eq!(shown().await, (1, 1));
    drop(leader);
    remove(&vault, &before).await;
    assert_eq!(shown().await, (1, 1));
    // Ordered anew by another leader, and not there yet.
    let mut ordered = Record::from_entries(&before.entries).expect("a record");
    (ordered.current, ordered.state.current) = (None, None);
    let entries = ordered.to_entries().expect("entries");
    let written = vault.write(&key(), None, &entries).await;
    let fresh = Stored {
        key: key(),
        version: written.expect("written"),
        entries,
    };
    assert_eq!(shown().await, (1, 1));
    remove(&vault, &fresh).await;
    // Refused, so that nobody orders another one.
    let mut request = request();
    request.issuer = Some("nosuch".to_owned());
    follower.wanted.send_replace(Some(Arc::new(vec![request])));
    assert_eq!(shown().await, (1, 1));
    let written = vault.write(&Key::Board, None, &Entries::new()).await;
    written.expect("written");
    assert_eq!(shown().await, (1, 1));
    // What nobody wants goes with its record.
    let written = vault.write(&key(), None, &before.entries).await;
    let stored = Stored {
        version: written.expect("written"),
        ..before
    };
    follower.wanted.send_replace(Some(Arc::default()));
    assert_eq!(shown().await, (1, 1));
    remove(&vault, &stored).await;
    assert_eq!(shown().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_stored_does_not_keep_others_waiting() {
    let mut looks = Looks::new();
    let pause = |looks: &Looks| looks.at - Instant::now();
    let other = Target {
        secret: "other".into(),
        ..target()
    };
    for _ in 0..10 {
        looks.end(vec![target()]);
    }
    assert!(pause(&looks) > LOOK && pause(&looks) < 2 * LOOK);
    looks.end(vec![target(), other.clone()]);
    assert_eq!(pause(&looks), AGAIN);
    let read = looks.end(vec![target()]);
    assert_eq!(
        read,
        BTreeSet::from([other, target()]),
        "also what is there again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_that_nobody_wants_stays_removed() {
    let vault = MemoryVault::new();
    let keeper = keeper(Arc::new(vault.clone()));
    import(&keeper).await;
    keeper.wanted.send_replace(Some(Arc::default()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stored = record(&vault, |_| true).await;
    remove(&vault, &stored).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(vault.read(&key()).await.expect("read"), None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_stored_again_is_tried_ever_more_rarely_until_it_can() {
    let vault = MemoryVault::new();
    let (full, is_full) = watch::channel(false);
    let tries = watch::Sender::new(0_u32);
    let tried = tries.clone();
    let guarded = vault.guarded(move |key, entries: Option<&Entries>| {
        if matches!(key, Key::Certificate(_)) && entries.is_some() && *is_full.borrow() {
            tried.send_modify(|count| *count += 1);
            return Err(away());
        }
        Ok(())
    });
    let keeper = keeper(Arc::new(guarded));
    let before = valid(&keeper, &vault).await;
    remove(&vault, &before).await;
    full.send_replace(true);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let count = *tries.borrow();
    assert!((2..60).contains(&count), "{count} tries");
    assert_eq!(keeper.troubles.borrow().len(), 1);
    full.send_replace(false);
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(record(&vault, |_| true).await.entries, before.entries);
    assert!(keeper.troubles.borrow().is_empty());
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[tokio::test(start_paused = true)]
async fn all_records_of_a_directory_may_be_removed() {
    let name = format!("keeper-{}-removed", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    drop(std::fs::remove_dir_all(&scratch.0));
    let vault = Arc::new(DirectoryVault::open(&scratch.0).expect("opened"));
    let keeper = keeper(Arc::<DirectoryVault>::clone(&vault));
    let before = valid(&keeper, &*vault).await;
    std::fs::remove_dir_all(scratch.0.join("certs")).expect("removed");
    let after = record(&*vault, |_| true).await;
    assert_eq!(after.entries, before.entries);
}
