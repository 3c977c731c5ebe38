//! What happens to certificates, as values: somebody else makes Events, metrics and log lines.
//!
//! Invariants:
//! - Texts are stable for the same cause, so that repeated ones can be counted instead of kept.
//! - No value holds a key.

use jiff::Timestamp;

use crate::failure::{Class, Scope};
use crate::leaf;
use crate::names::Name;
use crate::plan::Target;
use crate::record::{Current, Material, Need, Phase, Record, Revocation, Wait};
use crate::schedule::{Reason, Window};

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
    /// A certificate that somebody else ordered was taken over.
    TakenOver {
        /// Its serial number.
        serial: String,
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
    /// Whether somebody wants it now.
    pub wanted: bool,
    /// What is being ordered, and why.
    pub order: Option<Under>,
    /// Begin of life of the current one.
    pub not_before: Option<Timestamp>,
    /// End of life of the current one.
    pub not_after: Option<Timestamp>,
    /// When the current one was stored.
    pub issued_at: Option<Timestamp>,
    /// Serial number of the current one.
    pub serial: Option<String>,
    /// Whether somebody else ordered the current one.
    pub taken_over: bool,
    /// Whether the current one was revoked, or the authority is asked to.
    pub revoked: bool,
    /// Why one that was handed over was not taken.
    pub refused: Option<String>,
    /// When it will be renewed.
    pub renew_at: Option<Timestamp>,
    /// Why then.
    pub renew_reason: Option<Reason>,
    /// When the authority wants it renewed.
    pub window: Option<Window>,
    /// Page on which the authority explains that.
    pub explanation: Option<String>,
    /// What is waited for.
    pub waiting: Option<Class>,
    /// Whom a limit concerns.
    pub scope: Option<Scope>,
    /// When something is tried again.
    pub next_attempt: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure in words.
    pub detail: Option<String>,
    /// Page that explains it.
    pub link: Option<String>,
    /// Revocations that the authority has not answered yet.
    pub revocations: Vec<Revocation>,
}

/// An order that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under {
    /// By which issuer, which may be a fallback.
    pub issuer: String,
    /// Why.
    pub need: Need,
    /// Since when.
    pub since: Timestamp,
    /// Whether at the directory for tests, from which nothing is issued.
    pub test: bool,
}

impl Report {
    /// Of a record as it is stored, when it is not known what is wanted.
    pub fn stored(record: &Record) -> Self {
        Self::of(record, None)
    }

    /// Of a record, with what is wanted now.
    pub(crate) fn of(record: &Record, wanted: Option<(&[Name], &str)>) -> Self {
        let state = &record.state;
        let current = state.current.as_ref();
        let (names, issuer) = match (wanted, current) {
            (Some((names, issuer)), _) => (names.to_vec(), issuer.to_owned()),
            (None, Some(current)) => (current.names.clone(), current.issuer.clone()),
            (None, None) => (Vec::new(), String::new()),
        };
        let serial = |material: &Material| leaf::serial_of(&material.chain);
        let order = state.revision.as_ref().map(|revision| Under {
            issuer: revision.issuer.clone(),
            need: revision.need,
            since: revision.planned_at,
            test: revision.test,
        });
        Self {
            target: state.target.clone(),
            phase: state.phase,
            rev: state.rev,
            names,
            issuer,
            wanted: wanted.is_some(),
            order,
            not_before: current.map(|current| current.life.not_before),
            issued_at: current.map(|current| current.issued_at),
            not_after: current.map(|current| current.life.not_after),
            serial: record.current.as_ref().and_then(serial),
            taken_over: current.is_some_and(Current::is_taken_over),
            revoked: current.is_some_and(|current| current.revoked),
            refused: state.refused.clone(),
            renew_at: current.map(|current| current.renew_at),
            renew_reason: current.map(|current| current.renew_reason),
            window: current.and_then(|current| current.ari.window),
            explanation: current.and_then(|current| current.ari.url.clone()),
            waiting: state.wait.as_ref().map(|wait| wait.class),
            scope: state.wait.as_ref().and_then(Wait::whom),
            next_attempt: state.wait.as_ref().and_then(|wait| wait.until),
            failures: state.attempts.n,
            detail: state.attempts.detail.clone(),
            link: state.attempts.link.clone(),
            revocations: state.revocations.clone(),
        }
    }
}
