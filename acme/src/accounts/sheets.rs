//! What accounts look like to people.
//!
//! Invariants: whoever looks reads no vault and waits for nobody; what was read last stays shown while
//! the vault is away.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AccountReport, Accounts, Entry, Sheet, read};
use crate::issuers::{IssuerSpec, Issuers};
use crate::vault::{Key, VaultError};

/// What is known of accounts, by issuer; nothing before the first look.
pub(crate) type Sheets = Option<Arc<BTreeMap<String, Known>>>;

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

impl Accounts {
    /// Shows what was read or written.
    pub(super) fn show(&self, issuer: &str, entry: &Entry) {
        let known = Ok(Stored::of(entry));
        self.sheets.send_if_modified(|sheets| {
            let sheets = Arc::make_mut(sheets.get_or_insert_default());
            let changed = sheets.get(issuer) != Some(&known);
            if changed {
                sheets.insert(issuer.to_owned(), known);
            }
            changed
        });
    }

    /// Reads what others wrote. Who leads knows all but what was stored before an issuer was named.
    pub(crate) async fn look(&self, issuers: &Issuers, leads: bool) -> Result<(), VaultError> {
        let mut found = BTreeMap::new();
        for name in issuers.issuers.keys() {
            let known = |sheets: &Arc<BTreeMap<_, _>>| sheets.contains_key(name);
            if leads && self.sheets.borrow().as_ref().is_some_and(known) {
                continue;
            }
            if let Some(stored) = self.vault.read(&Key::Account(name.clone())).await? {
                let entry = read(&stored);
                found.insert(name.clone(), entry.map(|entry| Stored::of(&entry)));
            }
        }
        self.sheets.send_if_modified(|sheets| {
            if leads && let Some(sheets) = sheets {
                let known = sheets.len();
                let sheets = Arc::make_mut(sheets);
                for (name, account) in found {
                    // What was written meanwhile is newer.
                    sheets.entry(name).or_insert(account);
                }
                return sheets.len() > known;
            }
            let changed = sheets.as_deref() != Some(&found);
            if changed {
                *sheets = Some(Arc::new(found));
            }
            changed
        });
        Ok(())
    }
}

/// How the accounts of all issuers stand.
pub(crate) fn reports(issuers: &Issuers, sheets: &Sheets) -> Result<Vec<AccountReport>, String> {
    let sheets = sheets.as_ref().ok_or(
        "what is kept of the accounts has not been read yet: ask again in a moment; if it stays so, \
         the log says why",
    )?;
    let report = |(name, spec): (&String, &IssuerSpec)| {
        let known = sheets.get(name);
        let stored = known.and_then(|known| known.as_ref().ok());
        let trouble = stored.and_then(|stored| stored.sheet.troubles.get(&spec.directory));
        AccountReport {
            issuer: name.clone(),
            directory: spec.directory.clone(),
            url: stored.and_then(|stored| stored.sheet.accounts.get(&spec.directory).cloned()),
            thumbprint: stored.map(|stored| stored.thumbprint.clone()),
            contact: spec.contact.clone(),
            rotating: stored.is_some_and(|stored| stored.rotating),
            refused: trouble.map(|trouble| trouble.detail.clone()),
            until: trouble.map(|trouble| trouble.until),
            unreadable: known.and_then(|known| known.as_ref().err().cloned()),
        }
    };
    Ok(issuers.issuers.iter().map(report).collect())
}
