//! Another key for an account.
//!
//! Invariants:
//! - The next key is stored before the authority is told of it, and the old one is kept until the
//!   authority is known to have switched: a crash in between loses no account.
//! - Which of the two is right is found out by looking for the account of the next key, which makes
//!   none. Until then the URL of the account is kept, whatever the authority refuses.
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
        // A person asks: a change that was begun before is ended now, whatever was refused of it.
        let mut entry = self.stored(&mut known, issuer).await?;
        if entry.next.is_some() && entry.sheet.troubles.remove(issuer.directory()).is_some() {
            self.store(&mut known, issuer, entry).await?;
        }
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
        let url = entry.sheet.accounts.get(&directory);
        match switch(authority, url, &entry.key, &next).await {
            Ok(url) => {
                tracing::info!(issuer = issuer.name, "the account has another key");
                entry.key = next;
                entry.sheet.accounts = url
                    .map(|url| (directory.clone(), url))
                    .into_iter()
                    .collect();
                entry.sheet.troubles.remove(&directory);
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

/// Makes sure that the account has the next key; answers with its URL, or that neither key has one.
async fn switch(
    authority: &dyn Ca,
    url: Option<&String>,
    key: &AccountKey,
    next: &AccountKey,
) -> Result<Option<String>, (Failure, Standing)> {
    match (find(authority, next).await?, url) {
        (Some(found), Some(url)) if found != *url => {
            let detail = format!("the next key belongs to another account, {found}");
            return Err((Failure::local(Class::Local, detail), Standing::Old));
        }
        (Some(found), _) => return Ok(Some(found)),
        (None, _) => {}
    }
    let url = match url {
        Some(url) => Some(url.clone()),
        None => find(authority, key).await?,
    };
    // Nobody knows either key, so nobody has to be told.
    let Some(url) = url else { return Ok(None) };
    let key = key.clone();
    let changed = authority.change_key(&Account { url, key }, next).await;
    changed.map(|account| Some(account.url)).map_err(|refusal| {
        let failure = Failure::of(&refusal, false);
        let standing = match failure.class {
            Class::Outage | Class::Transient | Class::Limited => Standing::Unknown,
            _ => Standing::Old,
        };
        (failure, standing)
    })
}

/// URL of the account that has this key, if there is one; makes none.
async fn find(authority: &dyn Ca, key: &AccountKey) -> Result<Option<String>, (Failure, Standing)> {
    let look = Registration::look(key);
    match authority.register(&look).await {
        Ok(found) => Ok(Some(found.url)),
        Err(refusal) if refusal.is("accountDoesNotExist") => Ok(None),
        // Limited, away, or refused: an earlier change may have come through.
        Err(refusal) => Err((Failure::of(&refusal, false), Standing::Unknown)),
    }
}
