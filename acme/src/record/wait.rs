//! What a record waits for: failures in a row, a stored wait, the wish of a person.
//!
//! Invariants: all times are wall times in UTC, written by us.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::is_zero;
use crate::ca::ChallengeKind;
use crate::failure::{Class, Scope};
use crate::plan::Wanted;
use crate::schedule::Span;

/// Failures in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    /// How many.
    pub n: u32,
    /// Of which class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The last one in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Page that explains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Failed validations of the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Timestamp>,
    /// How many of them were of tries that people asked for: a pause grows by the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub by_command: u32,
    /// Whether the try that is under way or due is one of those.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commanded: bool,
    /// Whether the test directory validated all names since the last failure.
    #[serde(default)]
    pub rehearsed: bool,
}

impl Attempts {
    /// Counts a failure of this class.
    pub(crate) fn count(&mut self, class: Class) {
        if self.class != Some(class) {
            self.forget();
        }
        self.class = Some(class);
        self.n = self.n.saturating_add(1);
        if std::mem::take(&mut self.commanded) {
            self.by_command = self.by_command.saturating_add(1);
        }
    }

    /// No failure counts any more.
    pub(crate) fn forget(&mut self) {
        (self.n, self.by_command) = (0, 0);
    }

    /// Which pause comes next: people who try more often than that do not put it off.
    pub(crate) fn pause(&self) -> u32 {
        self.n.saturating_sub(self.by_command).max(1)
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// Why.
    pub class: Class,
    /// When it began, of an outage the outage itself; a record of before does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when; `None` until something changes.
    pub until: Option<Timestamp>,
    /// Whom a limit concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Whether it is our own pace that is waited for, and no limit of the authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paced: bool,
    /// Hash of what was wanted: another wish ends the wait.
    pub spec_hash: String,
    /// Challenges by which it failed: others end the wait as well, if they may help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<ChallengeKind>,
    /// Whether a person asked for a renewal and has none yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owed: bool,
}

impl Wait {
    /// From when until when, if it has an end.
    pub(crate) fn span(&self) -> Option<Span> {
        let since = self.since;
        self.until.map(|until| Span { since, until })
    }

    /// Whom a limit concerns, our own pace included.
    pub(crate) fn whom(&self) -> Option<Scope> {
        self.paced
            .then_some(Scope::Pace)
            .or_else(|| self.scope.clone())
    }

    /// Whether something else is wanted by now than what failed. Other challenges make no other
    /// certificate, and help where it was the challenges that failed.
    pub(crate) fn is_about_another(&self, wanted: Option<&Wanted>) -> bool {
        let Some(wanted) = wanted else {
            return true;
        };
        let by_challenges = matches!(self.class, Class::Spec | Class::Validation | Class::Local);
        let others = !self.kinds.is_empty() && self.kinds != wanted.challenges;
        self.spec_hash != wanted.hash() || (by_challenges && others)
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.span().is_some_and(|span| !span.holds(now))
    }
}

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asked {
    /// A renewal.
    Renew,
    /// To end the wait.
    Retry,
}
