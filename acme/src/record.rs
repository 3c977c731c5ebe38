//! What is stored about one certificate: one object of the vault, replaced as a whole.
//!
//! Invariants:
//! - All times are wall times in UTC, written by us.
//! - `next` (key and CSR) is there from `Planned` until the certificate is stored, and never changes
//!   in between: whichever order the authority fulfils, the key is here.
//! - `current` is replaced only by a certificate that was checked against its key and names.
//! - The places of TXT records are in `cleanup` before they are written and until they are removed, or
//!   given up after many tries.
//! - A revocation is in `revocations` before the authority is asked, and until it has answered.
//! - A record of a newer version than this program knows is left alone.

mod owed;
mod wait;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ca::ChallengeKind;
use crate::dns::TxtRecord;
use crate::issuers::KeyKind;
use crate::leaf;
use crate::names::Name;
use crate::plan::{Target, Wanted};
use crate::schedule::{Life, Reason, Window};
use crate::secrets::{Entries, Secret};

pub(crate) use owed::MOST_REVOCATIONS;
pub use owed::Revocation;
pub use wait::{Asked, Attempts, Wait};

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing was issued yet, and nothing is going on.
    Empty,
    /// A certificate is there, and nothing is going on.
    Valid,
    /// Key and CSR are stored; the order is not.
    Planned,
    /// The order is stored.
    Ordered,
    /// Challenges are stored, and are being published.
    Presenting,
    /// The authority is told to look.
    Validating,
    /// All names are proved; the certificate is asked for.
    Finalizing,
    /// The authority issued; the certificate is not here yet.
    Issued,
    /// The certificate is stored, and is being handed out.
    Delivering,
    /// No longer wanted; kept for a while.
    Tombstone,
}

/// The part of a record that is no key and no certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of this format.
    pub v: u32,
    /// Number of the certificate, counted up at every plan.
    pub rev: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Epoch of the leader that wrote.
    pub epoch: u64,
    /// Where the certificate goes.
    pub target: Target,
    /// Identity of its namespace.
    pub namespace_uid: String,
    /// What is being ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Challenges that are published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub challenges: Vec<Published>,
    /// TXT records that may exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cleanup: Vec<Leftover>,
    /// Revocations that the authority has not answered yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<Revocation>,
    /// The certificate that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
    /// Failures in a row.
    #[serde(default)]
    pub attempts: Attempts,
    /// What is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Issues of the last 30 days by a program that did not note for which names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issued: Vec<Timestamp>,
    /// Issues of the last 30 days.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issues: Vec<Issue>,
    /// Orders of the last three hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ordered: Vec<Ordered>,
    /// End of a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What a person asked for and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Why a certificate that was handed over was not taken, so that one is ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What is being ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Hash of what was wanted.
    pub spec_hash: String,
    /// Names.
    pub names: Vec<Name>,
    /// Issuer, which may be a fallback of the one that was wanted.
    pub issuer: String,
    /// URL of the directory.
    pub directory: String,
    /// Whether the directory is the one for tests.
    #[serde(default)]
    pub test: bool,
    /// URL of the account.
    pub account: String,
    /// Profile.
    pub profile: Option<String>,
    /// Kind of key.
    pub key: KeyKind,
    /// Challenges in the order of preference.
    pub kinds: Vec<ChallengeKind>,
    /// Why it is ordered.
    pub need: Need,
    /// Certificate that it replaces, as the authority is told.
    pub replaces: Option<String>,
    /// URL of the order.
    pub order: Option<String>,
    /// When it was planned.
    pub planned_at: Timestamp,
    /// When the order was made.
    pub ordered_at: Option<Timestamp>,
    /// When the challenges were published.
    pub presented_at: Option<Timestamp>,
    /// How often the order disappeared.
    #[serde(default)]
    pub gone: u32,
}

/// Why a certificate is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Need {
    /// There is none.
    New,
    /// Something else is wanted than what is there.
    Changed,
    /// Its moment has come.
    Renewal(Reason),
    /// A person asked.
    Asked,
}

/// A challenge that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Name that it proves.
    pub name: Name,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ChallengeKind,
    /// Its token.
    pub token: String,
    /// Its URL.
    pub url: String,
    /// Where its TXT record goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<TxtRecord>,
    /// Names of the authority that a standing record may bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
}

/// A TXT record that may exist, and by which issuer's solvers it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    /// Issuer whose solvers wrote it.
    pub issuer: String,
    /// Domain that was proved.
    pub domain: String,
    /// The record.
    pub record: TxtRecord,
    /// How often it could not be removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// When that is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
}

/// Asked by serde, which hands out references.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The certificate that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Current {
    /// Identifier and dates.
    pub life: Life,
    /// Hash of what was wanted.
    pub spec_hash: String,
    /// Names.
    pub names: Vec<Name>,
    /// Issuer.
    pub issuer: String,
    /// URL of its directory.
    pub directory: String,
    /// URL of the account that ordered it.
    pub account: String,
    /// Kind of its key.
    pub key: KeyKind,
    /// When it was stored.
    pub issued_at: Timestamp,
    /// When it will be renewed.
    pub renew_at: Timestamp,
    /// Why then.
    pub renew_reason: Reason,
    /// What the authority says about that.
    #[serde(default)]
    pub ari: Ari,
    /// It was revoked, or is about to be: it is replaced, with another key.
    #[serde(default)]
    pub revoked: bool,
}

/// What an authority says about the renewal of the current certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ari {
    /// Its window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Page that explains an unusual window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When to ask again; never, if the authority is not the one that issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_check: Option<Timestamp>,
    /// Failures in a row.
    #[serde(default)]
    pub failures: u32,
    /// Whether a replacement was refused, so that none is named again.
    #[serde(default)]
    pub refused: bool,
}

/// An order that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ordered {
    /// When.
    pub at: Timestamp,
    /// By which issuer.
    pub issuer: String,
    /// Whether for names that had a certificate.
    pub renewal: bool,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issue {
    /// When.
    pub at: Timestamp,
    /// By which issuer.
    pub issuer: String,
    /// For which names, as [`mark_of`] has it.
    pub set: String,
}

/// A chain and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Leaf first.
    pub chain: String,
    /// PKCS#8.
    pub key: Secret,
}

/// What the authority will be asked to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// PKCS#8, PEM.
    pub key: Secret,
    /// DER.
    pub csr: Vec<u8>,
}

/// One certificate as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Everything but keys and certificates.
    pub state: State,
    /// Key and CSR of the revision.
    pub next: Option<Next>,
    /// What is served.
    pub current: Option<Material>,
    /// What was served before.
    pub previous: Option<Material>,
    /// A chain that was downloaded and refused, for inspection.
    pub rejected: Option<String>,
}

impl State {
    /// Nothing was done yet.
    pub(crate) fn new(target: &Target, epoch: u64) -> Self {
        Self {
            v: VERSION,
            rev: 0,
            phase: Phase::Empty,
            epoch,
            target: target.clone(),
            namespace_uid: String::new(),
            revision: None,
            challenges: Vec::new(),
            cleanup: Vec::new(),
            revocations: Vec::new(),
            current: None,
            attempts: Attempts::default(),
            wait: None,
            issued: Vec::new(),
            issues: Vec::new(),
            ordered: Vec::new(),
            until: None,
            asked: None,
            refused: None,
        }
    }

    /// When this issuer issued for exactly these names. What was noted without names is taken to be
    /// for those of the current certificate.
    pub(crate) fn issued_for(&self, issuer: &str, names: &[Name]) -> Vec<Timestamp> {
        let current = self.current.as_ref();
        let same = current.is_some_and(|each| each.issuer == issuer && each.names == names);
        let unnamed = self.issued.iter().copied().filter(|_| same);
        let set = mark_of(names);
        let own = |issue: &&Issue| issue.issuer == issuer && issue.set == set;
        let named = self.issues.iter().filter(own).map(|issue| issue.at);
        unnamed.chain(named).collect()
    }
}

impl Record {
    /// A record of a certificate that was never ordered.
    pub fn new(wanted: &Wanted, epoch: u64) -> Self {
        let mut record = Self::empty(State::new(&wanted.target, epoch));
        record.state.namespace_uid.clone_from(&wanted.namespace_uid);
        record
    }

    /// A record with no key and no certificate.
    pub(crate) fn empty(state: State) -> Self {
        Self {
            state,
            next: None,
            current: None,
            previous: None,
            rejected: None,
        }
    }

    /// The files of the record.
    pub fn to_entries(&self) -> Result<Entries, String> {
        let state = serde_json::to_vec_pretty(&self.state).map_err(|error| error.to_string())?;
        let mut entries = Entries::from([(STATE.to_owned(), Secret::new(state))]);
        let mut put = |name: &str, value: Secret| entries.insert(name.to_owned(), value);
        if let Some(next) = &self.next {
            put(NEXT_KEY, next.key.clone());
            put(
                NEXT_CSR,
                Secret::new(leaf::pem("CERTIFICATE REQUEST", &next.csr)),
            );
        }
        let materials = [
            (&self.current, CURRENT_CHAIN, CURRENT_KEY),
            (&self.previous, PREVIOUS_CHAIN, PREVIOUS_KEY),
        ];
        for (material, chain, key) in materials {
            if let Some(material) = material {
                put(chain, Secret::new(material.chain.as_bytes()));
                put(key, material.key.clone());
            }
        }
        if let Some(rejected) = &self.rejected {
            put(REJECTED, Secret::new(rejected.as_bytes()));
        }
        Ok(entries)
    }

    /// Reads the files of a record. The error is a sentence for the operator.
    pub fn from_entries(entries: &Entries) -> Result<Self, String> {
        let state = entries
            .get(STATE)
            .ok_or_else(|| format!("{STATE} is missing"))?;
        let state: State =
            serde_json::from_slice(state.expose()).map_err(|error| format!("{STATE}: {error}"))?;
        if state.v > VERSION {
            return Err(format!(
                "{STATE} has version {}, this program knows {VERSION}: use the newer program",
                state.v
            ));
        }
        let text = |name: &str| {
            let text = entries.get(name)?.text()?;
            Some(format!("{text}\n"))
        };
        let material = |chain: &str, key: &str| {
            Some(Material {
                chain: text(chain)?,
                key: entries.get(key)?.clone(),
            })
        };
        let next = match (entries.get(NEXT_KEY), text(NEXT_CSR)) {
            (Some(key), Some(csr)) => Some(Next {
                key: key.clone(),
                csr: leaf::der(&csr).ok_or_else(|| format!("{NEXT_CSR} is no PEM"))?,
            }),
            _ => None,
        };
        Ok(Self {
            next,
            current: material(CURRENT_CHAIN, CURRENT_KEY),
            previous: material(PREVIOUS_CHAIN, PREVIOUS_KEY),
            rejected: text(REJECTED),
            state,
        })
    }

    /// Keeps what stays of the record that this one replaces: what was served, the counts of orders,
    /// what still has to be removed from DNS, and what is to be revoked.
    pub fn take_place_of(&mut self, other: &Self) {
        self.previous.clone_from(&other.current);
        self.state.rev = other.state.rev + 1;
        self.state.issued.clone_from(&other.state.issued);
        self.state.issues.clone_from(&other.state.issues);
        self.state.ordered.clone_from(&other.state.ordered);
        self.state.cleanup.clone_from(&other.state.cleanup);
        let owed = &other.state.revocations;
        self.state.revocations.clone_from(owed);
    }

    /// The phase in which nothing is going on.
    pub fn rest_phase(&self) -> Phase {
        if self.current.is_some() && self.state.current.is_some() {
            Phase::Valid
        } else {
            Phase::Empty
        }
    }

    /// Gives up what is being ordered; TXT records stay on the list until they are removed, and what a
    /// person asked for is still to be done.
    pub fn drop_revision(&mut self) {
        let revision = self.state.revision.as_ref();
        if revision.is_some_and(|revision| revision.need == Need::Asked) {
            self.state.asked = Some(Asked::Renew);
        }
        self.state.phase = self.rest_phase();
        self.state.revision = None;
        self.state.challenges.clear();
        self.next = None;
    }
}

impl Current {
    /// Whether somebody else ordered it, and it was not taken over for a wish yet.
    pub fn is_imported(&self) -> bool {
        self.spec_hash == IMPORTED
    }

    /// Whether somebody else ordered it: no account of ours did.
    pub fn is_taken_over(&self) -> bool {
        self.account.is_empty()
    }

    /// Whether it is good for all of these names.
    pub fn covers(&self, names: &[Name]) -> bool {
        let mut names = names.iter();
        names.all(|name| self.names.iter().any(|own| own.covers(name)))
    }
}

impl Phase {
    /// Whether a certificate may exist at the authority that is not here yet.
    pub fn is_past_return(self) -> bool {
        matches!(self, Self::Finalizing | Self::Issued | Self::Delivering)
    }

    /// Whether the authority was asked for a certificate that is not here yet.
    pub fn is_awaited(self) -> bool {
        matches!(self, Self::Finalizing | Self::Issued)
    }

    /// Whether something is going on.
    pub fn is_busy(self) -> bool {
        !matches!(self, Self::Empty | Self::Valid | Self::Tombstone)
    }
}

/// A set of names as one text.
pub fn set_of(names: &[Name]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(",")
}

/// A short mark of a set of names, the same for the same names.
pub fn mark_of(names: &[Name]) -> String {
    leaf::fingerprint(set_of(names).as_bytes())
}

/// In place of the hash of a wish: no wish made this certificate.
pub(crate) const IMPORTED: &str = "imported";

/// Version of the format that is written.
const VERSION: u32 = 1;

const STATE: &str = "state.json";
const NEXT_KEY: &str = "next.key";
const NEXT_CSR: &str = "next.csr";
const CURRENT_CHAIN: &str = "current.crt";
const CURRENT_KEY: &str = "current.key";
const PREVIOUS_CHAIN: &str = "previous.crt";
const PREVIOUS_KEY: &str = "previous.key";
const REJECTED: &str = "rejected.crt";

#[cfg(test)]
mod tests;
