//! A keeper without an authority: what it reads and shows.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Answer;
use crate::secrets::{Entries, SecretFolder};
use crate::vault::memory::MemoryVault;
use crate::vault::{Stored, VaultError, Version};

/// A vault whose accounts cannot be read the first few times.
struct Shy {
    inner: MemoryVault,
    away: AtomicUsize,
}

impl Vault for Shy {
    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>> {
        self.inner.certificates()
    }

    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>> {
        let order = Ordering::SeqCst;
        let less = |left: usize| left.checked_sub(1);
        if matches!(key, Key::Account(_)) && self.away.fetch_update(order, order, less).is_ok() {
            let error = VaultError::Unavailable("it is away".to_owned());
            return Box::pin(std::future::ready(Err(error)));
        }
        self.inner.read(key)
    }

    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>> {
        self.inner.write(key, expected, entries)
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

#[tokio::test(start_paused = true)]
async fn accounts_that_could_not_be_read_are_looked_at_again_until_they_are() {
    let text = "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      \
                acceptTerms: true\n  default: main\n";
    let issuers = Issuers::parse(text).expect("issuers");
    let (_issuers, issuers) = watch::channel(Arc::new(issuers));
    // The first looks of a follower and of a leader, and one more.
    let vault = Arc::new(Shy {
        inner: MemoryVault::new(),
        away: AtomicUsize::new(3),
    });
    let keeper = Keeper::start(Config::alone(
        issuers,
        Arc::<Shy>::clone(&vault),
        Arc::new(SecretFolder::new("/nowhere")),
        Arc::new(|_| Err("no authority in this test".to_owned())),
        Arc::new(|_, _| Err("no DNS in this test".to_owned())),
    ));
    let asker = keeper.asker();
    keeper.shown().await;
    let early = asker.accounts().expect_err("nobody has read them");
    assert!(early.contains("not been read yet"), "{early}");
    let mut sheets = keeper.sheets.clone();
    sheets.mark_unchanged();
    let looked = tokio::time::timeout(Duration::from_secs(30), sheets.changed()).await;
    looked.expect("in time").expect("a keeper");
    assert_eq!(vault.away.load(Ordering::SeqCst), 0);
    assert_eq!(asker.accounts().expect("accounts").len(), 1);
}
