//! Another key for an account.
//!
//! Invariants:
//! - The next key is stored before the authority is told of it, and the old one is kept until the
//!   authority is known to have switched: a crash in between loses no account.
//! - Which of the two is right is found out by looking for the account of the next key, which makes
//!   none.
//! - One key per issuer: what is registered at other directories of the issuer is forgotten, and
//!   registered again with the new key when it is needed.

use super::{Accounts, Entry, Known, Named, NoAccount, Turn};
use crate::ca::{Account, AccountKey, Ca, Registration};
use crate::failure::{Class, Failure};

impl Accounts {
    /// Gives the account of an issuer another key; answers with the URL of the account.
    pub(crate) async fn rotate(
        &self,
        issuer: Named<'_>,
        mut known: Turn,
    ) -> Result<String, NoAccount> {
        // Also ends a change that was begun before.
        let (authority, account) = self.registered(&mut known, issuer).await?;
        let mut entry = self.stored(&mut known, issuer).await?;
        let next = AccountKey::generate();
        let next = next.map_err(|why| NoAccount::Failed(Failure::local(Class::Local, why)))?;
        entry.next = Some(next);
        self.store(&mut known, issuer, entry).await?;
        let entry = self.stored(&mut known, issuer).await?;
        self.settle(&mut known, issuer, authority.as_ref(), entry)
            .await?;
        Ok(account.url)
    }

    /// Ends a change of the key: the authority has switched, or switches now, or refuses.
    pub(super) async fn settle(
        &self,
        known: &mut Known,
        issuer: Named<'_>,
        authority: &dyn Ca,
        mut entry: Entry,
    ) -> Result<Entry, NoAccount> {
        let Some(next) = entry.next.clone() else {
            return Ok(entry);
        };
        let directory = issuer.directory().to_owned();
        let switched = match entry.sheet.accounts.get(&directory) {
            // Nobody knows the old key, so nobody has to be told.
            None => Ok(()),
            Some(url) => {
                let old = Account {
                    url: url.clone(),
                    key: entry.key.clone(),
                };
                switch(authority, &old, &next).await
            }
        };
        match switched {
            Ok(()) => {
                tracing::info!(issuer = issuer.name, "the account has another key");
                entry.key = next;
                entry.sheet.accounts.retain(|place, _| *place == directory);
            }
            // Either key may be the right one: it is found out the next time.
            Err((failure, Standing::Unknown)) => return Err(NoAccount::Failed(failure)),
            Err((failure, Standing::Old)) => {
                entry.next = None;
                self.store(known, issuer, entry).await?;
                return Err(NoAccount::Failed(failure));
            }
        }
        entry.next = None;
        self.introduce(issuer, &entry.key).await?;
        self.store(known, issuer, entry).await?;
        Ok(self.stored(known, issuer).await?)
    }
}

/// Which key an account has after a change that failed.
enum Standing {
    /// The old one.
    Old,
    /// Nobody knows.
    Unknown,
}

/// Makes sure that the account has the next key.
async fn switch(
    authority: &dyn Ca,
    old: &Account,
    next: &AccountKey,
) -> Result<(), (Failure, Standing)> {
    let look = Registration {
        key: next.clone(),
        contact: Vec::new(),
        terms_agreed: false,
        external: None,
        existing: true,
    };
    match authority.register(&look).await {
        Ok(found) if found.url == old.url => return Ok(()),
        Ok(found) => {
            let detail = format!("the next key belongs to another account, {}", found.url);
            return Err((Failure::local(Class::Local, detail), Standing::Old));
        }
        Err(refusal) if refusal.is("accountDoesNotExist") => {}
        // Limited, or away: an earlier change may have come through.
        Err(refusal) => return Err((Failure::of(&refusal, false), Standing::Unknown)),
    }
    let changed = authority.change_key(old, next).await;
    changed.map(|_| ()).map_err(|refusal| {
        let failure = Failure::of(&refusal, false);
        let standing = match failure.class {
            Class::Outage | Class::Transient | Class::Limited => Standing::Unknown,
            _ => Standing::Old,
        };
        (failure, standing)
    })
}
