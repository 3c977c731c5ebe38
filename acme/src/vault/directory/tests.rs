//! What a power cut, a person and a second process do to a directory.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::secrets::Secret;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vault-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn key(secret: &str) -> Key {
    Key::Certificate(Target {
        namespace: "shop".into(),
        secret: secret.into(),
    })
}

fn entries(text: &str) -> Entries {
    Entries::from([("state.json".to_owned(), Secret::new(text))])
}

fn record(scratch: &Scratch, secret: &str) -> PathBuf {
    scratch.0.join("certs/shop").join(secret).join(RECORD)
}

#[tokio::test]
async fn only_the_version_that_was_read_is_replaced() {
    let scratch = Scratch::new("cas");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let first = vault
        .write(&key("a"), None, &entries("1"))
        .await
        .expect("created");
    let again = vault.write(&key("a"), None, &entries("2")).await;
    assert_eq!(again, Err(VaultError::Conflict(key("a"))));
    let second = vault
        .write(&key("a"), Some(&first), &entries("2"))
        .await
        .expect("replaced");
    let stale = vault.write(&key("a"), Some(&first), &entries("3")).await;
    assert_eq!(stale, Err(VaultError::Conflict(key("a"))));
    let read = vault.read(&key("a")).await.expect("read").expect("there");
    assert_eq!((read.entries, read.version), (entries("2"), second.clone()));
    vault.remove(&key("a"), &second).await.expect("removed");
    assert_eq!(vault.read(&key("a")).await, Ok(None));
    assert_eq!(vault.certificates().await, Ok(Listing::default()));
}

#[tokio::test]
async fn nobody_else_may_read_what_is_written() {
    let scratch = Scratch::new("mode");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    vault
        .write(&key("a"), None, &entries("1"))
        .await
        .expect("created");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&record(&scratch, "a")), 0o600);
    for folder in ["", "certs", "certs/shop", "certs/shop/a", "accounts"] {
        assert_eq!(mode(&scratch.0.join(folder)), 0o700, "{folder}");
    }
}

#[tokio::test]
async fn case_59_every_truncation_falls_back_to_the_version_before_and_is_mended() {
    let scratch = Scratch::new("cut");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let first = vault
        .write(&key("a"), None, &entries("one"))
        .await
        .expect("created");
    vault
        .write(&key("a"), Some(&first), &entries("two"))
        .await
        .expect("replaced");
    let path = record(&scratch, "a");
    let whole = fs::read(&path).expect("whole");
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).expect("cut");
        let listing = vault.certificates().await.expect("listed");
        assert_eq!(listing.stored[0].entries, entries("one"), "{length}");
        assert_eq!(listing.damaged.len(), 1, "{length}");
        assert!(
            listing.damaged[0].contains("version before"),
            "{:?}",
            listing.damaged
        );
    }
    let old = vault.read(&key("a")).await.expect("read").expect("there");
    vault
        .write(&key("a"), Some(&old.version), &entries("three"))
        .await
        .expect("mended");
    let listing = vault.certificates().await.expect("listed");
    assert_eq!(
        (listing.stored[0].entries.clone(), listing.damaged),
        (entries("three"), vec![])
    );
    fs::remove_file(&path).expect("removed");
    let kept = vault.read(&key("a")).await.expect("read").expect("there");
    assert_eq!(
        kept.entries,
        entries("one"),
        "the damaged one replaced nothing"
    );
}

#[tokio::test]
async fn a_cut_between_the_two_renames_leaves_the_version_before() {
    let scratch = Scratch::new("between");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let first = vault
        .write(&key("a"), None, &entries("one"))
        .await
        .expect("created");
    let path = record(&scratch, "a");
    fs::rename(&path, path.with_file_name(OLD)).expect("renamed");
    let read = vault.read(&key("a")).await.expect("read").expect("there");
    assert_eq!((read.entries, &read.version), (entries("one"), &first));
    vault
        .write(&key("a"), Some(&first), &entries("two"))
        .await
        .expect("goes on");
    // No file in its place: nobody knows what was in it.
    fs::remove_file(&path).expect("removed");
    fs::remove_file(path.with_file_name(OLD)).expect("removed");
    fs::create_dir(path.with_file_name(OLD)).expect("a folder");
    let read = vault.read(&key("a")).await;
    assert!(matches!(read, Err(VaultError::Unavailable(_))), "{read:?}");
    let written = vault.write(&key("a"), None, &entries("three")).await;
    assert!(matches!(written, Err(VaultError::Unavailable(_))));
}

#[tokio::test]
async fn without_a_good_version_the_object_is_as_if_it_never_was_and_that_is_said() {
    let scratch = Scratch::new("lost");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    vault
        .write(&key("a"), None, &entries("one"))
        .await
        .expect("created");
    fs::write(record(&scratch, "a"), "{").expect("damaged");
    let listing = vault.certificates().await.expect("listed");
    assert!(listing.stored.is_empty());
    assert!(
        listing.damaged[0].contains("ordered anew"),
        "{:?}",
        listing.damaged
    );
    vault
        .write(&key("a"), None, &entries("two"))
        .await
        .expect("begins again");
}

#[tokio::test]
async fn an_account_that_nobody_can_read_is_refused_by_its_file_and_none_takes_its_place() {
    let scratch = Scratch::new("account");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let account = Key::Account("main".into());
    assert_eq!(vault.read(&account).await, Ok(None));
    let first = vault.write(&account, None, &entries("one")).await;
    let first = first.expect("created");
    let second = vault.write(&account, Some(&first), &entries("two")).await;
    second.expect("replaced");
    let folder = scratch.0.join("accounts/main");
    fs::write(folder.join(RECORD), "{").expect("damaged");
    let read = vault.read(&account).await.expect("read").expect("there");
    assert_eq!(read.entries, entries("one"), "the version before");
    // The newest cut off, or gone.
    fs::write(folder.join(OLD), "{").expect("damaged");
    for left in [folder.join(RECORD), folder.join(OLD)] {
        let Err(VaultError::Damaged(why)) = vault.read(&account).await else {
            panic!("{} can be read", left.display());
        };
        assert!(why.contains(&left.display().to_string()), "{why}");
        drop(fs::remove_file(folder.join(RECORD)));
    }
}

#[tokio::test]
async fn what_a_crash_left_of_a_removal_goes_with_the_next_start() {
    let scratch = Scratch::new("removal");
    let first = DirectoryVault::open(&scratch.0).expect("opened");
    for name in ["a", "b"] {
        let written = first.write(&key(name), None, &entries(name)).await;
        written.expect("created");
    }
    drop(first);
    let folder = scratch.0.join("certs/shop");
    fs::rename(folder.join("a"), folder.join("a.removed")).expect("renamed");
    let second = DirectoryVault::open(&scratch.0).expect("opened");
    second
        .epoch()
        .wait_for(Option::is_some)
        .await
        .expect("it leads");
    assert!(!folder.join("a.removed").exists(), "there was a key in it");
    let listing = second.certificates().await.expect("listed");
    assert_eq!(listing.stored.len(), 1);
}

#[tokio::test]
async fn case_60_of_two_processes_one_writes_and_the_other_takes_over_when_it_ends() {
    let scratch = Scratch::new("two");
    let one = DirectoryVault::open(&scratch.0).expect("opened");
    let two = DirectoryVault::open(&scratch.0).expect("opened");
    assert_eq!(
        (*one.epoch().borrow(), *two.epoch().borrow()),
        (Some(1), None)
    );
    let mut changes = two.changes();
    changes.mark_unchanged();
    one.write(&key("a"), None, &entries("1"))
        .await
        .expect("the leader writes");
    let refused = two.write(&key("b"), None, &entries("1")).await;
    assert!(
        matches!(refused, Err(VaultError::NotLeader(_))),
        "{refused:?}"
    );
    changes.changed().await.expect("the follower learns of it");
    assert!(two.read(&key("a")).await.expect("read").is_some());
    let mut epoch = two.epoch();
    drop(one);
    let led = epoch
        .wait_for(Option::is_some)
        .await
        .expect("it takes over");
    assert_eq!(*led, Some(2));
}

#[tokio::test]
async fn names_that_are_no_file_names_do_not_leave_the_directory() {
    let scratch = Scratch::new("names");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    for name in ["../../x", "", ".", "..", "a/b", "a.removed"] {
        vault
            .write(&key(name), None, &entries(name))
            .await
            .expect(name);
        let read = vault.read(&key(name)).await.expect("read").expect("there");
        assert_eq!(read.entries, entries(name));
    }
    assert_eq!(
        fs::read_dir(scratch.0.join("certs"))
            .expect("there")
            .count(),
        1
    );
}

#[tokio::test]
async fn who_leads_waits_for_those_who_look_and_for_nobody_else() {
    let scratch = Scratch::new("followed");
    let first = DirectoryVault::open(&scratch.0).expect("opened");
    assert_eq!(first.lateness().await, Duration::ZERO);
    let second = DirectoryVault::open(&scratch.0).expect("opened");
    while first.lateness().await.is_zero() {
        tokio::task::yield_now().await;
    }
    drop(second);
    while !first.lateness().await.is_zero() {
        tokio::task::yield_now().await;
    }
}

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("a pipe").success());
}

#[tokio::test]
async fn one_entry_that_is_no_record_costs_itself_and_is_named_by_its_path() {
    let scratch = Scratch::new("entries");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    for name in ["folder", "good", "pipe"] {
        let first = vault.write(&key(name), None, &entries("one")).await;
        let first = first.expect("created");
        let second = vault.write(&key(name), Some(&first), &entries("two")).await;
        second.expect("replaced");
    }
    fs::remove_file(record(&scratch, "folder")).expect("removed");
    fs::create_dir(record(&scratch, "folder")).expect("a folder");
    fs::remove_dir_all(scratch.0.join("certs/shop/pipe")).expect("removed");
    fs::create_dir(scratch.0.join("certs/shop/pipe")).expect("a folder");
    pipe(&record(&scratch, "pipe"));
    let listing = vault.certificates().await.expect("listed");
    let stored: Vec<_> = listing.stored.iter().map(|one| one.key.clone()).collect();
    assert_eq!(stored, [key("folder"), key("good")]);
    assert_eq!(
        listing.stored[0].entries,
        entries("one"),
        "the version before"
    );
    for (name, unread) in ["folder", "pipe"].iter().zip(&listing.unread) {
        let path = record(&scratch, name).display().to_string();
        assert_eq!(unread.target.as_ref().expect("known").secret, *name);
        for part in [path.as_str(), "move it away"] {
            assert!(unread.why.contains(part), "{part}: {}", unread.why);
        }
    }
    assert_eq!(listing.unread.len(), 2);
    // Nobody knows what is there: nothing takes its place.
    let old = listing.stored[0].version.clone();
    for (name, version) in [("folder", Some(&old)), ("pipe", None)] {
        let written = vault.write(&key(name), version, &entries("three")).await;
        assert!(matches!(written, Err(VaultError::Unavailable(_))), "{name}");
    }
    let read = vault.read(&key("pipe")).await;
    assert!(matches!(read, Err(VaultError::Unavailable(_))), "{read:?}");
}

#[tokio::test]
async fn a_pipe_in_place_of_the_count_of_leaders_holds_nobody_up() {
    let scratch = Scratch::new("count");
    fs::create_dir_all(&scratch.0).expect("a folder");
    pipe(&scratch.0.join("epoch"));
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    assert!(vault.epoch().borrow().is_some());
    assert!(scratch.0.join("epoch").is_file(), "replaced");
}

/// Waits for what is said of why nobody leads.
async fn told(vault: &DirectoryVault, part: &str) {
    let mut trouble = vault.trouble();
    let said = trouble.wait_for(|why| why.as_ref().is_some_and(|why| why.contains(part)));
    let said = tokio::time::timeout(Duration::from_secs(60), said).await;
    drop(said.expect("in time").expect("a vault"));
}

#[tokio::test]
async fn who_cannot_take_the_lock_says_where_and_what_to_do_until_it_can() {
    for (name, remedy) in [("lock", "move it away"), ("epoch", "move it away")] {
        let scratch = Scratch::new(&format!("locked-{name}"));
        fs::create_dir_all(scratch.0.join(name)).expect("a folder");
        let vault = DirectoryVault::open(&scratch.0).expect("opened");
        assert_eq!(*vault.epoch().borrow(), None, "{name}");
        let why = vault.trouble().borrow().clone().expect("a reason");
        let path = scratch.0.join(name).display().to_string();
        assert!(why.contains(&path) && why.contains(remedy), "{why}");
        fs::remove_dir(scratch.0.join(name)).expect("removed");
        let mut epoch = vault.epoch();
        epoch.wait_for(Option::is_some).await.expect("it leads");
        let mut trouble = vault.trouble();
        trouble.wait_for(Option::is_none).await.expect("mended");
    }
}

#[tokio::test]
async fn a_directory_that_vanished_is_noticed_and_led_by_one_process_only() {
    let scratch = Scratch::new("vanished");
    let first = DirectoryVault::open(&scratch.0).expect("opened");
    assert!(first.epoch().borrow().is_some());
    fs::remove_dir_all(&scratch.0).expect("removed");
    let written = first.write(&key("a"), None, &entries("1")).await;
    assert!(
        matches!(written, Err(VaultError::NotLeader(_))),
        "{written:?}"
    );
    assert!(!scratch.0.exists(), "nothing is made anew without a word");
    told(&first, "put it back").await;
    assert_eq!(*first.epoch().borrow(), None);
    let second = DirectoryVault::open(&scratch.0).expect("opened");
    assert!(second.epoch().borrow().is_some());
    first
        .trouble()
        .wait_for(Option::is_none)
        .await
        .expect("it follows");
    assert_eq!(*first.epoch().borrow(), None, "one leads");
    second
        .write(&key("a"), None, &entries("1"))
        .await
        .expect("written");
    drop(second);
    first
        .epoch()
        .wait_for(Option::is_some)
        .await
        .expect("it takes over");
    assert!(first.read(&key("a")).await.expect("read").is_some());
}

#[tokio::test]
async fn whoever_leads_counts_on_from_the_records_whatever_the_count_says() {
    let scratch = Scratch::new("behind");
    let first = DirectoryVault::open(&scratch.0).expect("opened");
    for (name, text) in [("a", r#"{"epoch": 41}"#), ("b", "{}"), ("c", "no JSON")] {
        let written = first.write(&key(name), None, &entries(text)).await;
        written.expect("created");
    }
    assert_eq!(*first.epoch().borrow(), Some(1));
    drop(first);
    // As after the records of a backup were copied into a directory that was begun anew.
    let second = DirectoryVault::open(&scratch.0).expect("opened");
    let led = *second
        .epoch()
        .wait_for(Option::is_some)
        .await
        .expect("it leads");
    assert_eq!(led, Some(42));
    drop(second);
    fs::remove_file(scratch.0.join("epoch")).expect("removed");
    let third = DirectoryVault::open(&scratch.0).expect("opened");
    let led = *third
        .epoch()
        .wait_for(Option::is_some)
        .await
        .expect("it leads");
    assert!(led > Some(1_000_000_000), "the count is lost: {led:?}");
}

#[tokio::test]
async fn no_two_terms_of_a_process_are_the_same_whichever_directory_they_are_in() {
    let scratch = Scratch::new("terms");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let first = *vault.epoch().borrow();
    fs::remove_dir_all(&scratch.0).expect("removed");
    fs::create_dir_all(&scratch.0).expect("an empty one");
    let mut epoch = vault.epoch();
    let other = epoch.wait_for(|epoch| epoch.is_some() && *epoch != first);
    let other = tokio::time::timeout(Duration::from_secs(60), other).await;
    assert!(*other.expect("in time").expect("a vault") > first);
}

#[tokio::test]
async fn keys_that_others_can_get_at_are_told_with_file_mode_and_remedy() {
    let scratch = Scratch::new("open");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    for secret in ["a", "b"] {
        let written = vault.write(&key(secret), None, &entries("1")).await;
        written.expect("written");
    }
    let account = Key::Account("main".to_owned());
    let written = vault.write(&account, None, &entries("1")).await;
    written.expect("written");
    let told = || vault.folder.open_to_others();
    assert_eq!(told(), None);
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    // A group may be how the process itself gets at it.
    let folders = [
        "",
        "certs",
        "certs/shop",
        "certs/shop/b",
        "accounts",
        "accounts/main",
    ];
    for path in folders {
        set(&scratch.0.join(path), 0o770);
    }
    let (one, other) = (
        record(&scratch, "b"),
        scratch.0.join("accounts/main/record"),
    );
    set(&one, 0o664);
    assert_eq!(told(), None, "nobody else gets there");
    for path in folders {
        set(&scratch.0.join(path), 0o755);
    }
    let said = told().expect("open");
    for part in [
        "1 of the files",
        &format!("{} (mode 664)", one.display()),
        &format!("chmod -R o= {}", scratch.0.display()),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    set(&other, 0o602);
    let said = told().expect("open");
    assert!(said.starts_with("2 of the files"), "{said}");
    set(&one, 0o600);
    let said = told().expect("open");
    let part = format!("{} (mode 602)", other.display());
    assert!(said.contains(&part), "{said}");
    set(&scratch.0, 0o750);
    assert_eq!(told(), None, "nobody else gets there");
}

#[tokio::test]
async fn a_directory_may_be_named_by_one_word() {
    let scratch = Scratch(format!("vault-{}-word", std::process::id()).into());
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    for key in [Key::Board, key("a"), Key::Account("main".to_owned())] {
        let written = vault.write(&key, None, &entries("1")).await;
        written.expect("written");
    }
}

#[tokio::test]
async fn folders_that_others_can_change_are_told_and_nothing_is_that_lies_in_a_closed_one() {
    let outer = Scratch::new("closed");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let root = outer.0.join("vault");
    fs::create_dir_all(&root).expect("made");
    set(&outer.0, 0o755);
    let vault = DirectoryVault::open(&root).expect("opened");
    let written = vault.write(&key("a"), None, &entries("1")).await;
    written.expect("written");
    let told = || vault.folder.changeable_by_others();
    assert_eq!(told(), None);
    set(&root, 0o777);
    let said = told().expect("told");
    let part = format!("in {} (mode 777)", root.display());
    assert!(said.contains(&part) && said.contains("chmod o-w"), "{said}");
    // Only who owns something in it may replace that.
    set(&root, 0o1777);
    assert_eq!(told(), None);
    set(&root.join("accounts"), 0o773);
    let said = told().expect("told");
    assert!(said.contains("vault/accounts (mode 773)"), "{said}");
    for path in ["certs", "certs/shop", "certs/shop/a"] {
        set(&root.join(path), 0o755);
    }
    set(&root.join("accounts"), 0o700);
    assert_eq!(told(), None);
    set(&root.join("certs/shop/a"), 0o757);
    let said = told().expect("told");
    assert!(said.contains("certs/shop/a (mode 757)"), "{said}");
    set(&outer.0, 0o757);
    let said = told().expect("told");
    let part = format!("in {} (mode 757)", outer.0.display());
    assert!(said.contains(&part), "{said}");
    set(&outer.0, 0o755);
    set(&root.join("certs/shop/a").join(RECORD), 0o644);
    assert!(vault.folder.open_to_others().is_some());
    set(&outer.0, 0o700);
    assert_eq!(told(), None, "nobody else gets there");
    assert_eq!(
        vault.folder.open_to_others(),
        None,
        "nobody else gets there"
    );
}

#[tokio::test]
async fn the_folders_of_an_object_are_made_and_never_the_directory_around_them() {
    let scratch = Scratch::new("inside");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let folder = record(&scratch, "a").with_file_name("");
    fs::remove_dir(scratch.0.join("certs")).expect("removed");
    for _ in 0..2 {
        vault.folder.create_inside(&folder).expect("made");
        assert!(folder.is_dir());
    }
    fs::remove_dir_all(&scratch.0).expect("removed");
    let gone = vault.folder.create_inside(&folder).expect_err("it is gone");
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    assert!(!scratch.0.exists());
}

#[tokio::test]
async fn a_record_without_any_version_is_missing_and_none_is_in_another_directory() {
    let scratch = Scratch::new("missing");
    let vault = DirectoryVault::open(&scratch.0).expect("opened");
    let targets = ["one", "two"].map(|secret| match key(secret) {
        Key::Certificate(target) => target,
        _ => unreachable!("a certificate"),
    });
    let missing = async || vault.missing(targets.to_vec()).await;
    let mut version = None;
    for text in ["a", "b"] {
        let (key, entries) = (key("one"), entries(text));
        let written = vault.write(&key, version.as_ref(), &entries).await;
        version = Some(written.expect("written"));
    }
    assert_eq!(missing().await, targets[1..]);
    fs::remove_file(record(&scratch, "one")).expect("removed");
    assert_eq!(missing().await, targets[1..], "the version before is there");
    fs::remove_dir_all(scratch.0.join("certs")).expect("removed");
    assert_eq!(missing().await, targets);
    fs::write(scratch.0.join("certs"), "").expect("a file");
    assert_eq!(missing().await, targets, "a file in the place of a folder");
    let aside = Scratch::new("missing-aside");
    fs::rename(&scratch.0, &aside.0).expect("moved");
    assert_eq!(missing().await, []);
    furnish(&scratch.0).expect("made");
    assert_eq!(missing().await, []);
}
