//! What there is of each certificate, as far as it decides whether others are needed beside it.
//!
//! Invariants: made of what is stored alone, so every replica that sees the same records sees the same;
//! whatever depends on the time is asked with the time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::names::Name;
use crate::plan::is_another;
use crate::record::State;
use crate::schedule::{Life, later};

/// Of all certificates, by target.
pub type Stocks = BTreeMap<crate::plan::Target, Stock>;

/// What there is of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// Identity of the namespace that it is for.
    pub namespace_uid: String,
    /// The certificate; none that was revoked.
    pub held: Option<Held>,
    /// Since when one is being ordered.
    pub ordered: Option<Timestamp>,
    /// Whether the last attempt failed, or nothing can be done with its record.
    pub fails: bool,
}

/// A certificate that is there, in force or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// For which names.
    pub names: Vec<Name>,
    /// From when until when.
    pub life: Life,
}

impl Stock {
    /// Of a record that has a certificate, or none.
    pub(crate) fn of(state: &State, has_certificate: bool) -> Self {
        let current = state.current.as_ref();
        let held = current.filter(|current| has_certificate && !current.revoked);
        Self {
            namespace_uid: state.namespace_uid.clone(),
            held: held.map(|current| Held {
                names: current.names.clone(),
                life: current.life.clone(),
            }),
            ordered: state.revision.as_ref().map(|revision| revision.planned_at),
            fails: state.attempts.n > 0 || state.wait.as_ref().is_some_and(|wait| !wait.paced),
        }
    }

    /// Whether anything came of it or was tried.
    pub(crate) fn is_begun(&self) -> bool {
        self.held.is_some() || self.ordered.is_some() || self.fails
    }

    /// The certificate if it is for all of these names, for this namespace, and in force.
    pub(crate) fn covers(
        &self,
        names: &[Name],
        namespace_uid: &str,
        now: Timestamp,
    ) -> Option<&Held> {
        let held = self.held.as_ref().filter(|held| held.is_in_force(now));
        held.filter(|held| {
            let covered = |name: &Name| held.names.iter().any(|own| own.covers(name));
            !is_another(&self.namespace_uid, namespace_uid) && names.iter().all(covered)
        })
    }

    /// Whether one is being ordered, or is about to be, and nothing speaks against its coming.
    pub(crate) fn is_on_its_way(&self, now: Timestamp) -> bool {
        !self.fails && self.ordered.is_none_or(|since| now < later(since, LONGEST))
    }

    /// The moments at which one of these answers may become another.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Timestamp> {
        let held = self.held.as_ref().map(|held| {
            let life = &held.life;
            [life.not_before, life.ending(), life.not_after]
        });
        let ordered = self.ordered.map(|since| later(since, LONGEST));
        held.into_iter().flatten().chain(ordered)
    }
}

impl Held {
    fn is_in_force(&self, now: Timestamp) -> bool {
        self.life.not_before <= now && now < self.life.not_after
    }
}

/// An order that takes longer is none to wait for.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
