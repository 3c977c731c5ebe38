//! A keeper whose vault cannot be used as it should be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::*;
use crate::issuers::Issuers;
use crate::keeper::{Command, Config, Keeper};
use crate::plan::{Request, Target};
use crate::secrets::{Entries, Secret, SecretFolder};
use crate::vault::directory::DirectoryVault;
use crate::vault::memory::MemoryVault;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keeper-{}-{name}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn target(secret: &str) -> Target {
    Target {
        namespace: "shop".into(),
        secret: secret.into(),
    }
}

/// A keeper without an authority that wants a certificate in this Secret.
fn keeper(vault: Arc<dyn Vault>, secret: &str) -> Keeper {
    let text = "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      \
                acceptTerms: true\n  default: main\n  unlisted: allow\n";
    let issuers = Issuers::parse(text).expect("issuers");
    let (_issuers, issuers) = watch::channel(Arc::new(issuers));
    let keeper = Keeper::start(Config::alone(
        issuers,
        vault,
        Arc::new(SecretFolder::new("/nowhere")),
        Arc::new(|_| Err("no authority in this test".to_owned())),
        Arc::new(|_, _| Err("no DNS in this test".to_owned())),
    ));
    let hosts = vec![format!("{secret}.example.test")];
    let request = Request::new(format!("Ingress/shop/{secret}"), target(secret), hosts);
    keeper.wanted.send_replace(Some(Arc::new(vec![request])));
    keeper
}

/// Waits for what is told; all of it.
async fn told(keeper: &Keeper, fits: impl Fn(&Troubles) -> bool) -> Troubles {
    let mut troubles = keeper.troubles.clone();
    let waiting = troubles.wait_for(|all| fits(all));
    let found = tokio::time::timeout(Duration::from_secs(100), waiting).await;
    let found = found.unwrap_or_else(|_| panic!("told: {:?}", keeper.troubles.borrow()));
    found.expect("a keeper").as_ref().clone()
}

/// What is told once there is something; the first of it.
async fn trouble(keeper: &Keeper) -> Trouble {
    let all = told(keeper, |all| !all.is_empty()).await;
    all.first().expect("a trouble").clone()
}

async fn retry(keeper: &Keeper, secret: &str) -> String {
    let answer = keeper.command(target(secret), Command::Retry).await;
    answer.expect_err("not obeyed")
}

#[tokio::test(start_paused = true)]
async fn a_record_that_nobody_understands_is_told_and_taken_when_it_is_mended() {
    let vault = MemoryVault::new();
    let key = Key::Certificate(target("junk"));
    let junk = Entries::from([("state.json".to_owned(), Secret::new("junk"))]);
    let version = vault.write(&key, None, &junk).await.expect("stored");
    for follows in [true, false] {
        let seen = if follows {
            vault.follower()
        } else {
            vault.clone()
        };
        let keeper = keeper(Arc::new(seen), "junk");
        let trouble = trouble(&keeper).await;
        assert_eq!(
            (trouble.kind, trouble.target),
            (Kind::Read, Some(target("junk")))
        );
        for part in ["shop/junk", "newer program", "ordered anew"] {
            assert!(trouble.why.contains(part), "{part}: {}", trouble.why);
        }
        if follows {
            continue;
        }
        let said = retry(&keeper, "junk").await;
        assert!(said.contains("cert show shop/junk"), "{said}");
        // The way out that was told.
        vault.remove(&key, &version).await.expect("removed");
        told(&keeper, Troubles::is_empty).await;
        let mut reports = keeper.reports.clone();
        let begun = reports.wait_for(|all| all.contains_key(&target("junk")));
        drop(begun.await.expect("a keeper"));
    }
}

#[tokio::test]
async fn who_cannot_lead_says_so_to_everybody_who_asks() {
    let scratch = Scratch::new("unled");
    std::fs::create_dir_all(scratch.0.join("lock")).expect("a folder");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let keeper = keeper(Arc::new(vault), "shop");
    let trouble = trouble(&keeper).await;
    let lock = scratch.0.join("lock").display().to_string();
    assert_eq!((trouble.kind, trouble.target), (Kind::Lead, None));
    assert!(trouble.why.contains(&lock), "{}", trouble.why);
    let said = retry(&keeper, "shop").await;
    assert!(
        said.contains(&lock) && said.contains("no replica leads"),
        "{said}"
    );
    std::fs::remove_dir(scratch.0.join("lock")).expect("mended");
    told(&keeper, Troubles::is_empty).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_written_is_told_with_its_path_until_it_can() {
    let scratch = Scratch::new("unwritable");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    // A file where the folder of the namespace belongs.
    let place = scratch.0.join("certs/shop");
    std::fs::write(&place, "").expect("written");
    let keeper = keeper(Arc::new(vault), "shop");
    let trouble = trouble(&keeper).await;
    assert_eq!(
        (trouble.kind, trouble.target),
        (Kind::Write, Some(target("shop")))
    );
    let named = |path: &Path| trouble.why.contains(&path.display().to_string());
    assert!(named(&place), "{}", trouble.why);
    assert!(trouble.why.contains("move it away"), "{}", trouble.why);
    std::fs::remove_file(&place).expect("mended");
    told(&keeper, Troubles::is_empty).await;
}

/// Writes the record of a certificate that a leader of this epoch has left empty.
async fn write(vault: &MemoryVault, secret: &str, epoch: u64) -> Key {
    let key = Key::Certificate(target(secret));
    let record = Record::empty(crate::record::State::new(&target(secret), epoch));
    let entries = record.to_entries().expect("entries");
    vault.write(&key, None, &entries).await.expect("stored");
    key
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_in_no_list_and_that_nobody_can_read_is_told_and_left_alone() {
    let vault = MemoryVault::new();
    let key = write(&vault, "hidden", 1).await;
    vault.set_damaged(&key, true);
    let keeper = keeper(Arc::new(vault.clone()), "hidden");
    let trouble = trouble(&keeper).await;
    let told_of = (trouble.kind, trouble.target);
    assert_eq!(told_of, (Kind::Read, Some(target("hidden"))));
    assert!(trouble.why.contains("lost its marks"), "{}", trouble.why);
    let said = retry(&keeper, "hidden").await;
    assert!(said.contains("cert show shop/hidden"), "{said}");
    let mut troubles = keeper.troubles.clone();
    troubles.mark_unchanged();
    let before = vault.reads();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let reads = vault.reads() - before;
    assert!(reads < 100, "{reads} looks in an hour");
    assert!(!troubles.has_changed().expect("a keeper"), "told once");
    // The way out that was told: its marks are put back.
    vault.set_damaged(&key, false);
    let found = troubles.wait_for(|all| all.is_empty());
    let found = tokio::time::timeout(Duration::from_secs(600), found).await;
    drop(found.expect("in time").expect("a keeper"));
    let mut reports = keeper.reports.clone();
    let begun = reports.wait_for(|all| all.contains_key(&target("hidden")));
    drop(begun.await.expect("a keeper"));
}

#[tokio::test(start_paused = true)]
async fn a_vault_of_which_a_part_cannot_be_read_is_looked_through_ever_more_rarely() {
    let vault = MemoryVault::new();
    let key = Key::Certificate(target("junk"));
    let junk = Entries::from([("state.json".to_owned(), Secret::new("junk"))]);
    vault.write(&key, None, &junk).await.expect("stored");
    let keeper = keeper(Arc::new(vault.clone()), "junk");
    trouble(&keeper).await;
    let before = vault.reads();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let reads = vault.reads() - before;
    assert!(reads < 20, "{reads} looks in an hour");
}

#[tokio::test]
async fn what_was_served_when_the_directory_vanished_is_served_on_also_when_another_one_is_there() {
    let scratch = Scratch::new("vanished");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let keeper = keeper(Arc::new(vault), "shop");
    let made = rcgen::generate_simple_self_signed(["shop.example.test".to_owned()]);
    let made = made.expect("a certificate");
    let import = Command::Import {
        chain: made.cert.pem(),
        key: Secret::new(made.signing_key.serialize_pem()),
    };
    while let Err(why) = keeper.command(target("shop"), import.clone()).await {
        let busy = ["worked on", "does not lead", "just being"];
        assert!(busy.iter().any(|busy| why.contains(busy)), "{why}");
        tokio::task::yield_now().await;
    }
    let served = || keeper.certificates.borrow().get(&target("shop")).cloned();
    let mut certificates = keeper.certificates.clone();
    let mut reports = keeper.reports.clone();
    // Nothing is being written any more.
    let rests = reports.wait_for(|all| {
        let shop = all.get(&target("shop"));
        shop.is_some_and(|report| report.phase == crate::record::Phase::Valid)
    });
    drop(rests.await.expect("a keeper"));
    let before = served();
    assert!(before.is_some());
    let aside = Scratch::new("vanished-aside");
    std::fs::rename(&scratch.0, &aside.0).expect("removed");
    // Whoever looks meanwhile finds nothing there, which is not the same as an empty directory.
    certificates.mark_unchanged();
    let looked = told(&keeper, |all| all.iter().any(|one| one.kind == Kind::List));
    tokio::select! {
        _ = looked => {}
        _ = certificates.changed() => {}
    }
    assert_eq!(served(), before);
    let all = keeper.troubles.borrow().clone();
    let lead = all.iter().find(|one| one.kind == Kind::Lead);
    let why = &lead.expect("why nobody leads").why;
    assert!(
        why.contains("put it back")
            && why.contains("ordered anew")
            && !why.contains("restart the process"),
        "{why}"
    );
    // A directory that somebody made in its place: no restart is needed.
    std::fs::create_dir(&scratch.0).expect("made");
    told(&keeper, |all| all.iter().all(|one| one.kind != Kind::Lead)).await;
    let mut epoch = keeper.epoch.clone();
    drop(epoch.wait_for(Option::is_some).await.expect("led again"));
    told(&keeper, Troubles::is_empty).await;
    assert_eq!(served(), before);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_later_term_than_ours_is_told_while_we_lead() {
    let vault = MemoryVault::new();
    write(&vault, "later", 41).await;
    let keeper = keeper(Arc::new(vault.clone()), "later");
    let trouble = trouble(&keeper).await;
    let told_of = (trouble.kind, trouble.target);
    assert_eq!(told_of, (Kind::Write, Some(target("later"))));
    for part in ["shop/later", "41", "restart"] {
        assert!(trouble.why.contains(part), "{part}: {}", trouble.why);
    }
}
