//! What becomes of an account that its authority does not know any more.

use tokio::time::advance;

use super::*;
use crate::board::Board;
use crate::clock::ScaledClock;
use crate::secrets::SecretFolder;
use crate::vault::memory::MemoryVault;

const ISSUERS: &str = "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      \
                       acceptTerms: true\n  default: main\n";

/// As after a registration.
async fn registered(accounts: &Accounts, issuer: Named<'_>) {
    let mut known = accounts.turn(issuer).await;
    let mut entry = accounts.stored(&mut known, issuer).await.expect("stored");
    let (directory, url) = (
        issuer.directory().to_owned(),
        "https://ca.test/1".to_owned(),
    );
    entry.sheet.accounts.insert(directory, url);
    let stored = accounts.store(&mut known, issuer, entry).await;
    stored.expect("stored");
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_gone_twice_in_an_hour_is_registered_again_when_the_hour_is_over() {
    let issuers = Issuers::parse(ISSUERS).expect("issuers");
    let vault = Arc::new(MemoryVault::new());
    let board = watch::Sender::new(Arc::new(Board::default()));
    let accounts = Accounts {
        vault: Arc::<MemoryVault>::clone(&vault),
        secrets: Arc::new(SecretFolder::new("/nowhere")),
        connect: Arc::new(|_| Err("no authority in this test".to_owned())),
        clock: Arc::new(ScaledClock::new(Timestamp::UNIX_EPOCH, 1)),
        pen: Arc::new(Pen::new(vault, board)),
        known: std::sync::Mutex::default(),
        sheets: watch::Sender::default(),
    };
    let main = Named::find(&issuers, "main").expect("an issuer");
    let begun = accounts.clock.now();
    registered(&accounts, main).await;
    assert_eq!(accounts.reset(main).await, Ok(None), "the first");
    registered(&accounts, main).await;
    let minutes = |count: u64| advance(std::time::Duration::from_secs(60 * count));
    minutes(10).await;
    assert_eq!(accounts.reset(main).await, Ok(Some(later(begun, RESET))));
    minutes(50).await;
    assert_eq!(accounts.reset(main).await, Ok(None), "an hour later");
}

#[tokio::test]
async fn of_an_authority_whose_roots_change_one_client_is_kept() {
    let text = ISSUERS.replace(
        "      acceptTerms",
        "      caBundle: roots\n      acceptTerms",
    );
    let issuers = Issuers::parse(&text).expect("issuers");
    let main = Named::find(&issuers, "main").expect("an issuer");
    let folder = std::env::temp_dir().join(format!("accounts-{}-roots", std::process::id()));
    std::fs::create_dir_all(folder.join("roots")).expect("a folder");
    let vault = Arc::new(MemoryVault::new());
    let board = watch::Sender::new(Arc::new(Board::default()));
    let accounts = Accounts {
        vault: Arc::<MemoryVault>::clone(&vault),
        secrets: Arc::new(SecretFolder::new(&folder)),
        connect: Arc::new(|endpoint| crate::ca::connect(endpoint, Arc::new(|_| ()))),
        clock: Arc::new(ScaledClock::new(Timestamp::UNIX_EPOCH, 1)),
        pen: Arc::new(Pen::new(vault, board)),
        known: std::sync::Mutex::default(),
        sheets: watch::Sender::default(),
    };
    let mut known = accounts.turn(main).await;
    let mut seen = Vec::new();
    for name in ["one.test", "two.test", "three.test"] {
        let root = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a root");
        std::fs::write(folder.join("roots/ca.crt"), root.cert.pem()).expect("written");
        for _ in 0..2 {
            let authority = accounts.authority_of(&mut known, main).await;
            seen.push(authority.expect("an authority"));
        }
        assert_eq!(known.authorities.len(), 1, "{name}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    let same = |one: usize, other: usize| Arc::ptr_eq(&seen[one], &seen[other]);
    assert!(same(0, 1) && same(2, 3) && !same(1, 2) && !same(3, 4));
}
