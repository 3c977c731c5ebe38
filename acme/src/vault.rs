//! Where records, accounts and the board are kept.
//!
//! Invariants:
//! - An object is replaced as a whole, and only if it still has the version that was read.
//! - Who does not lead cannot write, whatever it believes.
//! - What is damaged is reported, never taken for what it was.

pub mod directory;
pub mod memory;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

use crate::Answer;
use crate::plan::Target;
use crate::secrets::Entries;

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The record of a certificate.
    Certificate(Target),
    /// The account of an issuer.
    Account(String),
    /// The published challenges.
    Board,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(target) => write!(formatter, "certificate {target}"),
            Self::Account(issuer) => write!(formatter, "account of {issuer}"),
            Self::Board => formatter.write_str("board"),
        }
    }
}

/// Version of an object: equal only for the same write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub String);

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// Its files.
    pub entries: Entries,
}

/// Everything of a kind, and what could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects, sorted.
    pub stored: Vec<Stored>,
    /// Sentences about what is damaged.
    pub damaged: Vec<String>,
    /// What could not be looked at: nobody knows what it holds.
    pub unread: Vec<Unread>,
}

/// A part of a vault that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Of which certificate, if that is known.
    pub target: Option<Target>,
    /// A sentence with the place and what to do.
    pub why: String,
}

/// Why nothing was read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Somebody else wrote in between.
    #[error("{0} was changed by somebody else")]
    Conflict(Key),
    /// This process does not lead.
    #[error("this process does not lead: {0}")]
    NotLeader(String),
    /// What is there is in the way: nobody can read it, or it is of a later term, and nothing may take its
    /// place.
    #[error("{0}")]
    Damaged(String),
    /// The storage is away; worth trying again.
    #[error("the vault cannot be reached: {0}")]
    Unavailable(String),
}

/// A store with compare-and-swap.
pub trait Vault: Send + Sync {
    /// All certificates.
    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>>;

    /// One object; `None` if there is none. What cannot be read is `None` as well, where another one may
    /// take its place, and [`VaultError::Damaged`] where it may not, as of an account.
    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>>;

    /// Of which of these certificates there is no record any more, for who leads: names are looked at,
    /// and nothing is read. What is not known is not missing; a record just written may be.
    fn missing(&self, targets: Vec<Target>) -> Answer<'_, Vec<Target>>;

    /// Replaces the version that was read, or creates where nothing was.
    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>>;

    /// Removes the version that was read.
    fn remove<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, Result<(), VaultError>>;

    /// Changes its value whenever something may have been written by others.
    fn changes(&self) -> watch::Receiver<u64>;

    /// How long others may take to see what was written; nothing if nobody looks, or all are told.
    fn lateness(&self) -> Answer<'_, Duration> {
        Box::pin(std::future::ready(Duration::ZERO))
    }

    /// The epoch, while this process leads.
    fn epoch(&self) -> watch::Receiver<Option<u64>>;

    /// Where an object is, for whoever has to mend it.
    fn place(&self, key: &Key) -> String {
        key.to_string()
    }

    /// Why this process cannot lead, although nobody else does: a sentence with what to do. Where others
    /// say that, nothing.
    fn trouble(&self) -> watch::Receiver<Option<String>> {
        watch::channel(None).1
    }

    /// Whether this process leads in that epoch, now: asked before every effect. Where leading may
    /// end by the clock alone, the clock is looked at.
    fn leads(&self, epoch: u64) -> bool {
        *self.epoch().borrow() == Some(epoch)
    }
}
