//! What happens to certificates, as values: somebody else makes Events, metrics and log lines.
//!
//! Invariants:
//! - Texts are stable for the same cause, so that repeated ones can be counted instead of kept.
//! - No value holds a key.

use jiff::Timestamp;

use crate::failure::Class;
use crate::names::Name;
use crate::plan::Target;
use crate::record::{Need, Phase, Record};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// To which certificate.
    pub target: Target,
    /// What.
    pub what: What,
}

/// What happens to a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An order was made.
    Ordered {
        /// Why.
        need: Need,
        /// By which issuer.
        issuer: String,
    },
    /// The one call that creates a certificate is about to be made.
    Finalizing,
    /// A certificate is stored.
    Issued {
        /// Its serial number.
        serial: String,
        /// Why it was ordered.
        need: Need,
        /// End of its life.
        not_after: Timestamp,
    },
    /// Something failed.
    Failed {
        /// Whose failure it is.
        class: Class,
        /// The words.
        detail: String,
        /// When it is tried again.
        until: Option<Timestamp>,
    },
    /// Something is not as it should be, but goes on.
    Warning(String),
}

/// How a certificate stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub target: Target,
    /// Where it stands.
    pub phase: Phase,
    /// Number of the certificate.
    pub rev: u64,
    /// Names that are wanted; those of the current one, if it is no longer wanted.
    pub names: Vec<Name>,
    /// Issuer.
    pub issuer: String,
    /// End of life of the current one.
    pub not_after: Option<Timestamp>,
    /// Serial number of the current one.
    pub serial: Option<String>,
    /// When it will be renewed.
    pub renew_at: Option<Timestamp>,
    /// What is waited for.
    pub waiting: Option<Class>,
    /// When something is tried again.
    pub next_attempt: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure in words.
    pub detail: Option<String>,
    /// Page that explains it.
    pub link: Option<String>,
}

impl Report {
    /// Of a record, with what is wanted now.
    pub(crate) fn of(record: &Record, wanted: Option<(&[Name], &str)>) -> Self {
        let state = &record.state;
        let current = state.current.as_ref();
        let (names, issuer) = match (wanted, current) {
            (Some((names, issuer)), _) => (names.to_vec(), issuer.to_owned()),
            (None, Some(current)) => (current.names.clone(), current.issuer.clone()),
            (None, None) => (Vec::new(), String::new()),
        };
        let serial = |material: &crate::record::Material| crate::leaf::serial_of(&material.chain);
        Self {
            target: state.target.clone(),
            phase: state.phase,
            rev: state.rev,
            names,
            issuer,
            not_after: current.map(|current| current.life.not_after),
            serial: record.current.as_ref().and_then(serial),
            renew_at: current.map(|current| current.renew_at),
            waiting: state.wait.as_ref().map(|wait| wait.class),
            next_attempt: state.wait.as_ref().and_then(|wait| wait.until),
            failures: state.attempts.n,
            detail: state.attempts.detail.clone(),
            link: state.attempts.link.clone(),
        }
    }
}
