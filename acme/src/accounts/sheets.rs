//! What accounts look like to people.
//!
//! Invariants: whoever looks reads no vault and waits for nobody; what was read last stays shown while
//! the vault is away.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{AccountReport, Accounts, Entry, Sheet, read};
use crate::issuers::{IssuerSpec, Issuers};
use crate::vault::{Key, VaultError};

/// What is known of accounts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sheets {
    /// Whether there was a look at all of them: before that, one that is missing may be registered.
    read: bool,
    /// By issuer.
    known: Arc<BTreeMap<String, Known>>,
}

/// What is known of an account: what is stored, or why that cannot be read.
pub(crate) type Known = Result<Stored, String>;

/// What is stored of an account, without its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    sheet: Sheet,
    thumbprint: String,
    rotating: bool,
}

impl Stored {
    fn of(entry: &Entry) -> Self {
        Self {
            sheet: entry.sheet.clone(),
            thumbprint: entry.key.thumbprint().to_owned(),
            rotating: entry.next.is_some(),
        }
    }
}

impl Sheet {
    /// Why there is no account at a directory, and until when none is asked for.
    fn refused(&self, directory: &str) -> Option<(&str, Timestamp)> {
        let trouble = self.troubles.get(directory);
        let trouble = trouble.map(|trouble| (&*trouble.detail, trouble.until));
        let limit = self.limits.get(directory);
        trouble.or(limit.map(|limit| (&*limit.detail, limit.until)))
    }
}

impl Accounts {
    /// Shows what was read or written.
    pub(super) fn show(&self, issuer: &str, entry: &Entry) {
        let known = Ok(Stored::of(entry));
        self.sheets.send_if_modified(|sheets| {
            let changed = sheets.known.get(issuer) != Some(&known);
            if changed {
                Arc::make_mut(&mut sheets.known).insert(issuer.to_owned(), known);
            }
            changed
        });
    }

    /// Whether a change of the key has begun and not ended, as far as is known.
    pub(crate) fn is_rotating(&self, issuer: &str) -> bool {
        let sheets = self.sheets.borrow();
        let known = sheets.known.get(issuer);
        known.is_some_and(|known| known.as_ref().is_ok_and(|stored| stored.rotating))
    }

    /// Whether an authority has refused an account or not known it, as far as is known.
    pub(super) fn has_trouble(&self, issuer: &str, directory: &str) -> bool {
        let sheets = self.sheets.borrow();
        let known = sheets.known.get(issuer);
        let stored = known.and_then(|known| known.as_ref().ok());
        stored.is_some_and(|stored| {
            let sheet = &stored.sheet;
            sheet.troubles.contains_key(directory) || sheet.reset.contains_key(directory)
        })
    }

    /// Reads what others wrote. Who leads knows all but what was stored before an issuer was named.
    pub(crate) async fn look(&self, issuers: &Issuers, leads: bool) -> Result<(), VaultError> {
        let mut found = BTreeMap::new();
        for name in issuers.issuers.keys() {
            if leads && self.sheets.borrow().known.contains_key(name) {
                continue;
            }
            let account = match self.vault.read(&Key::Account(name.clone())).await {
                Ok(None) => continue,
                Ok(Some(stored)) => read(&stored).map(|entry| Stored::of(&entry)),
                Err(VaultError::Damaged(why)) => Err(why),
                Err(error) => return Err(error),
            };
            found.insert(name.clone(), account);
        }
        self.sheets.send_if_modified(|sheets| {
            let first = !std::mem::replace(&mut sheets.read, true);
            if leads {
                let before = sheets.known.len();
                let known = Arc::make_mut(&mut sheets.known);
                for (name, account) in found {
                    // What was written meanwhile is newer.
                    known.entry(name).or_insert(account);
                }
                return first || known.len() > before;
            }
            let changed = *sheets.known != found;
            if changed {
                sheets.known = Arc::new(found);
            }
            first || changed
        });
        Ok(())
    }
}

/// How the accounts of all issuers stand.
pub(crate) fn reports(issuers: &Issuers, sheets: &Sheets) -> Result<Vec<AccountReport>, String> {
    if !sheets.read {
        let why = "what is kept of the accounts has not been read yet: ask again in a moment; if it \
                   stays so, the log says why";
        return Err(why.to_owned());
    }
    let report = |(name, spec): (&String, &IssuerSpec)| {
        let known = sheets.known.get(name);
        let stored = known.and_then(|known| known.as_ref().ok());
        let refused = stored.and_then(|stored| stored.sheet.refused(&spec.directory));
        AccountReport {
            issuer: name.clone(),
            directory: spec.directory.clone(),
            url: stored.and_then(|stored| stored.sheet.accounts.get(&spec.directory).cloned()),
            thumbprint: stored.map(|stored| stored.thumbprint.clone()),
            contact: spec.contact.clone(),
            rotating: stored.is_some_and(|stored| stored.rotating),
            refused: refused.map(|(detail, _)| detail.to_owned()),
            until: refused.map(|(_, until)| until),
            unreadable: known.and_then(|known| known.as_ref().err().cloned()),
        }
    };
    Ok(issuers.issuers.iter().map(report).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Pen;
    use crate::ca::AccountKey;
    use crate::clock::SystemClock;
    use crate::secrets::SecretFolder;
    use crate::vault::Version;
    use crate::vault::memory::MemoryVault;

    #[tokio::test]
    async fn an_account_that_is_used_does_not_make_others_look_unregistered() {
        let issuer = |name| {
            format!("    {name}:\n      directory: https://{name}.test/\n      acceptTerms: true\n")
        };
        let text = format!(
            "acme:\n  issuers:\n{}{}  default: one\n",
            issuer("one"),
            issuer("two")
        );
        let issuers = Issuers::parse(&text).expect("issuers");
        let memory = MemoryVault::new();
        let vault: Arc<dyn crate::vault::Vault> = Arc::new(memory.clone());
        let accounts = Accounts {
            vault: Arc::clone(&vault),
            secrets: Arc::new(SecretFolder::new("/nowhere")),
            connect: Arc::new(|_| Err("no authority in this test".to_owned())),
            clock: Arc::new(SystemClock),
            pen: Arc::new(Pen::new(vault, tokio::sync::watch::Sender::default())),
            known: std::sync::Mutex::default(),
            sheets: tokio::sync::watch::Sender::default(),
        };
        memory.set_away(true);
        accounts.look(&issuers, false).await.expect_err("away");
        let entry = Entry {
            version: Version("1".to_owned()),
            key: AccountKey::generate().expect("a key"),
            next: None,
            sheet: Sheet::default(),
        };
        accounts.show("one", &entry);
        let known = || reports(&issuers, &accounts.sheets.borrow());
        known().expect_err("nothing is known of the other one");
        memory.set_away(false);
        accounts.look(&issuers, true).await.expect("a look");
        let known = known().expect("accounts");
        let thumbprints = known.iter().map(|report| report.thumbprint.is_some());
        assert_eq!(thumbprints.collect::<Vec<_>>(), [true, false]);
    }
}
