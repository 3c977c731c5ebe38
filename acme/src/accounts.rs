//! Our accounts at the authorities.
//!
//! Invariants:
//! - A key is stored before it is registered, and registering is repeated with the same key, so no
//!   crash makes a second account.
//! - One key per issuer, also for its test directory: stateless answers stay unambiguous.
//! - An account that an authority refuses is not asked for again before its wait is over or the
//!   configuration changes; the wait is stored. So is a limit that it names for new accounts.

mod pardon;
mod rotate;
pub(crate) mod sheets;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::board::{Pen, Thumbprint};
use crate::ca::{Account, AccountKey, Ca, Connect, Endpoint, ExternalAccount, Registration};
use crate::clock::Clock;
use crate::failure::{Class, Failure, Scope};
use crate::issuers::{IssuerSpec, Issuers};
use crate::leaf;
use crate::schedule::{Span, between, later};
use crate::secrets::{Entries, Secret, Secrets};
use crate::vault::{Key, Stored, Vault, VaultError, Version};

/// Why there is no account to order with.
#[derive(Debug)]
pub(crate) enum NoAccount {
    /// The authority's or the configuration's fault.
    Failed(Failure),
    /// The account could not be read or stored.
    Vault(VaultError),
}

impl From<VaultError> for NoAccount {
    fn from(error: VaultError) -> Self {
        match error {
            // Only a person can mend it.
            VaultError::Damaged(why) => Self::Failed(Failure::local(Class::Local, why)),
            error => Self::Vault(error),
        }
    }
}

/// An issuer as it is in the configuration.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'a str,
    pub(crate) spec: &'a IssuerSpec,
    /// Whether its test directory is meant.
    pub(crate) test: bool,
}

impl<'a> Named<'a> {
    /// The issuer of this name; the error is a sentence.
    pub(crate) fn find(issuers: &'a Issuers, name: &str) -> Result<Self, String> {
        let found = issuers.issuers.get_key_value(name);
        let (name, spec) = found.ok_or_else(|| format!("issuer {name} is no longer configured"))?;
        Ok(Self {
            name,
            spec,
            test: false,
        })
    }

    /// URL of the directory that is meant.
    pub(crate) fn directory(self) -> &'a str {
        match &self.spec.test_directory {
            Some(url) if self.test => url,
            _ => &self.spec.directory,
        }
    }
}

/// All accounts of this installation.
pub(crate) struct Accounts {
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) connect: Arc<Connect>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pen: Arc<Pen>,
    /// What was read so far, by issuer. What is done with one account follows each other, so that none
    /// is registered twice; another issuer's waits for none of it.
    pub(crate) known: std::sync::Mutex<BTreeMap<String, Arc<Mutex<Known>>>>,
    /// What people are shown.
    pub(crate) sheets: watch::Sender<sheets::Sheets>,
}

/// The account of an issuer, for whoever has this and nobody else.
pub(crate) type Turn = OwnedMutexGuard<Known>;

/// What was read of an account and connected for it so far.
#[derive(Default)]
pub(crate) struct Known {
    entry: Option<Entry>,
    authorities: BTreeMap<(String, Option<String>), Arc<dyn Ca>>,
}

#[derive(Clone)]
struct Entry {
    version: Version,
    key: AccountKey,
    /// The key that is to take its place: stored before the authority is told.
    next: Option<AccountKey>,
    sheet: Sheet,
}

/// How the account of an issuer stands, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountReport {
    /// Issuer.
    pub issuer: String,
    /// URL of its directory.
    pub directory: String,
    /// URL of the account there, once it is registered.
    pub url: Option<String>,
    /// Thumbprint of its key (RFC 7638), once there is one.
    pub thumbprint: Option<String>,
    /// E-mail address that the authority was told.
    pub contact: Option<String>,
    /// Whether a change of the key has begun and not ended.
    pub rotating: bool,
    /// What the authority refused, in its words.
    pub refused: Option<String>,
    /// Until when it is not asked again.
    pub until: Option<Timestamp>,
    /// Why what is kept of it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// `account.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sheet {
    /// URLs of accounts by directory.
    accounts: BTreeMap<String, String>,
    /// What an authority refused, by directory.
    #[serde(default)]
    troubles: BTreeMap<String, Trouble>,
    /// Which limit an authority named when it was asked for an account, by directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<String, Limit>,
    /// When an authority last did not know the key any more.
    #[serde(default)]
    reset: BTreeMap<String, Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trouble {
    until: Timestamp,
    detail: String,
    /// Of the configuration that was refused.
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limit {
    since: Timestamp,
    until: Timestamp,
    detail: String,
}

impl Accounts {
    /// Forgets what was read: another one may have written.
    pub(crate) async fn forget(&self) {
        let all: Vec<_> = self.places().values().cloned().collect();
        for known in all {
            known.lock().await.entry = None;
        }
    }

    /// An account for oneself, if nobody else has it.
    pub(crate) fn reserve(&self, issuer: &str) -> Option<Turn> {
        self.place(issuer).try_lock_owned().ok()
    }

    async fn turn(&self, issuer: Named<'_>) -> Turn {
        self.place(issuer.name).lock_owned().await
    }

    fn place(&self, issuer: &str) -> Arc<Mutex<Known>> {
        Arc::clone(self.places().entry(issuer.to_owned()).or_default())
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Mutex<Known>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn authority_of(
        &self,
        known: &mut Known,
        issuer: Named<'_>,
    ) -> Result<Arc<dyn Ca>, Failure> {
        let bundled = |why: &str| {
            let secret = issuer.spec.ca_bundle.as_deref().unwrap_or_default();
            let name = issuer.name;
            unreadable(format!(
                "issuer {name}: caBundle: entry ca.crt of secret {secret}: {why}; write the root certificate of \
                 the authority there, as PEM"
            ))
        };
        // A bundle that cannot be read is not as if there was none: the system's roots are not meant.
        let roots = match &issuer.spec.ca_bundle {
            None => None,
            Some(secret) => {
                let entry = self.entry((secret, "ca.crt"), (issuer.name, "caBundle"));
                let roots = entry.await?;
                let text = roots.text().ok_or_else(|| bundled("it is no text"))?;
                Some(text.to_owned())
            }
        };
        let place = (issuer.directory().to_owned(), roots);
        if let Some(authority) = known.authorities.get(&place) {
            return Ok(Arc::clone(authority));
        }
        let endpoint = Endpoint {
            directory: place.0.clone(),
            roots: place.1.clone(),
        };
        let authority = (self.connect)(&endpoint).map_err(|why| match &endpoint.roots {
            Some(_) => bundled(&why),
            None => unreadable(format!("issuer {}: {why}", issuer.name)),
        })?;
        // Whoever still speaks by other roots keeps that one as long as it takes.
        known.authorities.retain(|(other, _), _| *other != place.0);
        known.authorities.insert(place, Arc::clone(&authority));
        Ok(authority)
    }

    /// The account of an issuer, registered if it is not yet.
    pub(crate) async fn account(
        &self,
        issuer: Named<'_>,
    ) -> Result<(Arc<dyn Ca>, Account), NoAccount> {
        let mut known = self.turn(issuer).await;
        self.registered(&mut known, issuer).await
    }

    async fn registered(
        &self,
        known: &mut Known,
        issuer: Named<'_>,
    ) -> Result<(Arc<dyn Ca>, Account), NoAccount> {
        let authority = self
            .authority_of(known, issuer)
            .await
            .map_err(NoAccount::Failed)?;
        let mut entry = self.stored(known, issuer).await?;
        let (directory, now) = (issuer.directory().to_owned(), self.clock.now());
        if entry.is_changing(issuer) {
            let external = self.external(issuer).await.ok().flatten();
            let hash = hash_of(issuer.spec, external.as_ref());
            entry.untroubled(&directory, &hash, now)?;
            entry = self
                .settle(known, issuer, authority.as_ref(), entry)
                .await?;
        }
        if let Some(url) = entry.sheet.accounts.get(&directory) {
            let (url, key) = (url.clone(), entry.key);
            return Ok((authority, Account { url, key }));
        }
        let external = self.external(issuer).await.map_err(NoAccount::Failed)?;
        let hash = hash_of(issuer.spec, external.as_ref());
        entry.untroubled(&directory, &hash, now)?;
        entry.unlimited(&directory, now)?;
        let contact = issuer.spec.contact.iter();
        let registration = Registration {
            key: entry.key.clone(),
            contact: contact.map(|address| format!("mailto:{address}")).collect(),
            terms_agreed: issuer.spec.accept_terms,
            external,
            existing: false,
        };
        match authority.register(&registration).await {
            Ok(account) => {
                tracing::info!(
                    issuer = issuer.name,
                    account = account.url,
                    "account registered"
                );
                entry.sheet.troubles.remove(&directory);
                entry.sheet.limits.remove(&directory);
                entry.sheet.accounts.insert(directory, account.url.clone());
                self.store(known, issuer, entry).await?;
                Ok((authority, account))
            }
            Err(refusal) => {
                let failure = Failure::of(&refusal, false);
                if entry.sheet.note(directory, &failure, hash, now) {
                    self.store(known, issuer, entry).await?;
                }
                Err(NoAccount::Failed(failure))
            }
        }
    }

    /// The authority does not know the account any more: register the same key again, once an hour
    /// at most: nothing if that is done now, else when it may be.
    pub(crate) async fn reset(&self, issuer: Named<'_>) -> Result<Option<Timestamp>, VaultError> {
        let mut known = self.turn(issuer).await;
        let mut entry = self.stored(&mut known, issuer).await?;
        let (directory, now) = (issuer.directory().to_owned(), self.clock.now());
        if !entry.sheet.accounts.contains_key(&directory) {
            return Ok(None);
        }
        let last = entry.sheet.reset.get(&directory);
        if let Some(last) = last.filter(|last| **last <= now) {
            let ago = between(*last, now);
            if ago < JUST_RESET {
                // Another flow met the same: it is registered again already.
                return Ok(None);
            }
            if ago < RESET {
                return Ok(Some(later(*last, RESET)));
            }
        }
        if !entry.is_changing(issuer) {
            entry.sheet.accounts.remove(&directory);
        }
        entry.sheet.reset.insert(directory, now);
        self.store(&mut known, issuer, entry).await?;
        Ok(None)
    }

    /// An authority refuses the account: nobody orders with it until the wait is over.
    pub(crate) async fn refuse(&self, issuer: Named<'_>, detail: &str) -> Result<(), VaultError> {
        let mut known = self.turn(issuer).await;
        let mut entry = self.stored(&mut known, issuer).await?;
        let external = self.external(issuer).await.ok().flatten();
        let trouble = Trouble {
            until: later(self.clock.now(), TROUBLE),
            detail: detail.to_owned(),
            hash: hash_of(issuer.spec, external.as_ref()),
        };
        let directory = issuer.directory().to_owned();
        if !entry.is_changing(issuer) {
            entry.sheet.accounts.remove(&directory);
        }
        entry.sheet.troubles.insert(directory, trouble);
        self.store(&mut known, issuer, entry).await
    }

    async fn stored(&self, known: &mut Known, issuer: Named<'_>) -> Result<Entry, VaultError> {
        if let Some(entry) = &known.entry {
            return Ok(entry.clone());
        }
        let key = Key::Account(issuer.name.to_owned());
        let found = self.vault.read(&key).await?;
        let entry = if let Some(stored) = found {
            read(&stored).map_err(|why| VaultError::Damaged(format!("{key}: {why}")))?
        } else {
            let made = AccountKey::generate().map_err(VaultError::Unavailable)?;
            let mut entry = Entry {
                version: Version(String::new()),
                key: made,
                next: None,
                sheet: Sheet::default(),
            };
            let entries = entry.entries().map_err(VaultError::Unavailable)?;
            entry.version = self.vault.write(&key, None, &entries).await?;
            entry
        };
        self.introduce(issuer, &entry.key).await?;
        self.show(issuer.name, &entry);
        known.entry = Some(entry.clone());
        Ok(entry)
    }

    /// Lets every replica answer in the name of this key.
    async fn introduce(&self, issuer: Named<'_>, key: &AccountKey) -> Result<(), VaultError> {
        let thumbprint = Thumbprint {
            thumbprint: key.thumbprint().to_owned(),
            answers: issuer.spec.http01,
        };
        self.pen.introduce(issuer.name, thumbprint).await
    }

    async fn store(
        &self,
        known: &mut Known,
        issuer: Named<'_>,
        mut entry: Entry,
    ) -> Result<(), VaultError> {
        let key = Key::Account(issuer.name.to_owned());
        // Whatever happens below, what is known is no longer what is stored.
        known.entry = None;
        let entries = entry.entries().map_err(VaultError::Unavailable)?;
        entry.version = self
            .vault
            .write(&key, Some(&entry.version), &entries)
            .await?;
        self.show(issuer.name, &entry);
        known.entry = Some(entry);
        Ok(())
    }

    async fn external(&self, issuer: Named<'_>) -> Result<Option<ExternalAccount>, Failure> {
        let Some(eab) = &issuer.spec.eab else {
            return Ok(None);
        };
        let mac = self
            .entry((&eab.secret, "mac"), (issuer.name, "eab.secret"))
            .await?;
        let text = mac.text().unwrap_or_default().trim_end_matches('=');
        let text = text.replace('+', "-").replace('/', "_");
        let mac = URL_SAFE_NO_PAD.decode(&text).map_err(|_| {
            let secret = &eab.secret;
            unreadable(format!(
                "entry mac of secret {secret} is not base64url: copy it whole"
            ))
        })?;
        Ok(Some(ExternalAccount {
            kid: eab.kid.clone(),
            mac: Secret::new(mac),
        }))
    }

    /// An entry of a secret that a field of an issuer names.
    async fn entry(
        &self,
        (secret, entry): (&str, &str),
        (issuer, field): (&str, &str),
    ) -> Result<Secret, Failure> {
        let failed = |why: String| {
            unreadable(format!(
                "issuer {issuer}: {field}: secret {secret}: {why}; make it with the entry {entry}, or name \
                 another secret"
            ))
        };
        let mut entries = self.secrets.read(secret).await.map_err(failed)?;
        entries
            .remove(entry)
            .ok_or_else(|| failed(format!("it has no entry {entry}")))
    }
}

/// What an issuer needs from here cannot be read: no authority has refused anything, so whoever puts
/// it right need not say so.
fn unreadable(detail: String) -> Failure {
    Failure {
        retry_after: Some(READ_AGAIN),
        ..Failure::local(Class::Local, detail)
    }
}

fn hash_of(spec: &IssuerSpec, external: Option<&ExternalAccount>) -> String {
    let mut text = format!("{:?}|{}|", spec.contact, spec.accept_terms).into_bytes();
    if let Some(external) = external {
        text.extend_from_slice(external.kid.as_bytes());
        text.extend_from_slice(external.mac.expose());
    }
    leaf::fingerprint(&text)
}

impl Sheet {
    /// Notes why there is no account, if others are to wait for that as well; whether it did.
    fn note(&mut self, directory: String, failure: &Failure, hash: String, now: Timestamp) -> bool {
        let detail = failure.detail.clone();
        match (failure.class, failure.wait(1, now, None, "")) {
            (Class::Issuer, _) => {
                let until = later(now, TROUBLE);
                let trouble = Trouble {
                    until,
                    detail,
                    hash,
                };
                self.troubles.insert(directory, trouble);
                true
            }
            (Class::Limited, Some(until)) => {
                let limit = Limit {
                    since: now,
                    until,
                    detail,
                };
                self.limits.insert(directory, limit);
                true
            }
            _ => false,
        }
    }
}

impl Entry {
    /// Whether a change of the key has begun that only the account at this directory can end.
    fn is_changing(&self, issuer: Named<'_>) -> bool {
        self.next.is_some() && !issuer.test
    }

    /// Refuses while an authority's refusal of this configuration holds.
    fn untroubled(&self, directory: &str, hash: &str, now: Timestamp) -> Result<(), NoAccount> {
        // One that ends later was noted while the clock was ahead.
        let latest = later(now, TROUBLE);
        match self.sheet.troubles.get(directory) {
            Some(Trouble {
                until, hash: of, ..
            }) if *until <= now || *until > latest || of != hash => Ok(()),
            Some(trouble) => {
                let mut failure = Failure::local(Class::Issuer, trouble.detail.clone());
                failure.retry_after = Some(between(now, trouble.until));
                Err(NoAccount::Failed(failure))
            }
            None => Ok(()),
        }
    }

    /// Refuses while a limit for new accounts holds.
    fn unlimited(&self, directory: &str, now: Timestamp) -> Result<(), NoAccount> {
        let Some(limit) = self.sheet.limits.get(directory) else {
            return Ok(());
        };
        let (since, until) = (Some(limit.since), limit.until);
        if !(Span { since, until }).holds(now) {
            return Ok(());
        }
        let mut failure = Failure::local(Class::Limited, limit.detail.clone());
        failure.until = Some(until);
        failure.scope = Some(Box::new(Scope::Account));
        Err(NoAccount::Failed(failure))
    }

    fn entries(&self) -> Result<Entries, String> {
        let sheet = serde_json::to_vec_pretty(&self.sheet).map_err(|error| error.to_string())?;
        let pem = |key: &AccountKey| Secret::new(leaf::pem("PRIVATE KEY", key.pkcs8().expose()));
        let mut entries = Entries::from([
            (KEY.to_owned(), pem(&self.key)),
            (SHEET.to_owned(), Secret::new(sheet)),
            (
                THUMBPRINT.to_owned(),
                Secret::new(self.key.thumbprint().as_bytes()),
            ),
        ]);
        if let Some(next) = &self.next {
            entries.insert(NEXT.to_owned(), pem(next));
        }
        Ok(entries)
    }
}

fn read(stored: &Stored) -> Result<Entry, String> {
    let entries = &stored.entries;
    let text = |name: &str| {
        let text = entries.get(name).and_then(Secret::text);
        text.ok_or_else(|| format!("{name} of the account is missing"))
    };
    let key = |name: &str| {
        let key =
            leaf::der(text(name)?).ok_or_else(|| format!("{name} of the account is no PEM"))?;
        AccountKey::from_pkcs8(Secret::new(key))
    };
    let next = entries.contains_key(NEXT).then(|| key(NEXT)).transpose()?;
    Ok(Entry {
        version: stored.version.clone(),
        key: key(KEY)?,
        next,
        sheet: serde_json::from_str(text(SHEET)?).map_err(|error| format!("{SHEET}: {error}"))?,
    })
}

/// A secret that could not be read is read again this often.
const READ_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// An account that is refused is probed this often.
const TROUBLE: SignedDuration = SignedDuration::from_hours(24);

/// A private authority that was reset is registered with again this often at most.
pub(crate) const RESET: SignedDuration = SignedDuration::from_hours(1);

/// Flows that were under way meet a reset within this time.
const JUST_RESET: SignedDuration = SignedDuration::from_mins(2);

const KEY: &str = "key.pem";
const NEXT: &str = "next.pem";
const SHEET: &str = "account.json";
const THUMBPRINT: &str = "thumbprint";

#[cfg(test)]
mod tests;
