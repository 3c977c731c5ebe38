//! How we stand with the authorities: who is away, which limits hold, how much was ordered.
//!
//! Invariants:
//! - Nothing here is stored: every wait is in the record that met it, and all of this is rebuilt
//!   from records.
//! - An outage is met once: whoever asks the same authority meanwhile waits without asking.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::failure::{Class, Failure, Scope};
use crate::issuers::Issuers;
use crate::names::Name;
use crate::pace::{Pace, Purpose};
use crate::record::{State, mark_of};
use crate::schedule::{Span, between};

/// What is known about all authorities.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    circuits: BTreeMap<String, Circuit>,
    limits: Vec<Limit>,
    paces: BTreeMap<String, Pace>,
}

#[derive(Debug, Clone)]
struct Circuit {
    failures: u32,
    since: Timestamp,
    span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    issuer: String,
    /// Its test directory counts by itself.
    directory: String,
    scope: Scope,
    set: String,
    span: Span,
}

impl Standing {
    /// Counts what a record holds; called once per record when a leader begins.
    pub(crate) fn recall(&mut self, state: &State) {
        for ordered in &state.ordered {
            let purpose = if ordered.renewal {
                Purpose::Renewal
            } else {
                Purpose::New
            };
            self.pace(&ordered.issuer).count(purpose, ordered.at);
        }
        for issue in &state.issues {
            self.pace(&issue.issuer).count_issue(&issue.set, issue.at);
        }
        if let Some(current) = &state.current {
            let set = mark_of(&current.names);
            for at in &state.issued {
                self.pace(&current.issuer).count_issue(&set, *at);
            }
        }
        let (Some(wait), Some(revision)) = (&state.wait, &state.revision) else {
            return;
        };
        let Some(span) = wait.span() else { return };
        match (wait.class, &wait.scope) {
            (Class::Limited, Some(scope)) => {
                let place = (&*revision.issuer, &*revision.directory);
                self.limit(place, scope.clone(), &revision.names, span);
            }
            (Class::Outage, _) => {
                // One of before does not say since when: then it counts from here.
                let since = span.since.unwrap_or(span.until);
                let circuit = Circuit {
                    failures: state.attempts.n.max(1),
                    since,
                    span,
                };
                let known = self.circuits.entry(revision.directory.clone());
                let known = known.or_insert(circuit);
                known.since = known.since.min(since);
            }
            _ => {}
        }
    }

    fn pace(&mut self, issuer: &str) -> &mut Pace {
        self.paces.entry(issuer.to_owned()).or_default()
    }

    /// An authority did not answer: until when nobody asks it.
    pub(crate) fn outage(
        &mut self,
        directory: &str,
        failure: &Failure,
        now: Timestamp,
    ) -> Timestamp {
        let circuit = self
            .circuits
            .entry(directory.to_owned())
            .or_insert(Circuit {
                failures: 0,
                since: now,
                span: Span {
                    since: Some(now),
                    until: now,
                },
            });
        circuit.since = circuit.since.min(now);
        // Eight flows that meet one outage are one failure.
        if !circuit.span.holds(now) {
            circuit.failures += 1;
            let until = failure.wait(circuit.failures, now, None, directory);
            circuit.span = Span {
                since: Some(now),
                until: until.unwrap_or(now),
            };
        }
        circuit.span.until
    }

    /// An authority answered.
    pub(crate) fn answered(&mut self, directory: &str) {
        self.circuits.remove(directory);
    }

    /// Until when an authority is not asked.
    pub(crate) fn away_until(&self, directory: &str, now: Timestamp) -> Option<Timestamp> {
        let circuit = self.circuits.get(directory)?;
        circuit.span.holds(now).then_some(circuit.span.until)
    }

    /// A person wants an authority to be asked now, whatever it said; what is known of its outage stays.
    pub(crate) fn ask_now(&mut self, directory: &str, now: Timestamp) {
        if let Some(circuit) = self.circuits.get_mut(directory) {
            circuit.span.until = circuit.span.until.min(now);
        }
    }

    /// Since when an authority has not answered.
    pub(crate) fn away_since(&self, directory: &str) -> Option<Timestamp> {
        self.circuits.get(directory).map(|circuit| circuit.since)
    }

    /// For how long an authority has not answered.
    pub(crate) fn away_for(&self, directory: &str, now: Timestamp) -> SignedDuration {
        let circuit = self.circuits.get(directory);
        circuit.map_or(SignedDuration::ZERO, |circuit| between(circuit.since, now))
    }

    /// Remembers a limit of an authority for all that it concerns.
    pub(crate) fn limit(
        &mut self,
        (issuer, directory): (&str, &str),
        scope: Scope,
        names: &[Name],
        span: Span,
    ) {
        let limit = Limit {
            issuer: issuer.to_owned(),
            directory: directory.to_owned(),
            scope,
            set: mark_of(names),
            span,
        };
        if !self.limits.contains(&limit) && self.limits.len() < MOST_LIMITS {
            self.limits.push(limit);
        }
    }

    /// Until when a limit forbids an order for these names, and whom that limit concerns.
    pub(crate) fn limited_until(
        &mut self,
        (issuer, directory): (&str, &str),
        names: &[Name],
        now: Timestamp,
    ) -> Option<(Timestamp, Scope)> {
        self.limits.retain(|limit| limit.span.holds(now));
        let set = mark_of(names);
        let concerned = |limit: &&Limit| {
            limit.issuer == issuer
                && limit.directory == directory
                && match &limit.scope {
                    Scope::Account => true,
                    Scope::Set => limit.set == set,
                    Scope::Name(name) => names.contains(name),
                    Scope::Domain(domain) => names.iter().any(|name| is_below(name, domain)),
                    Scope::Pace => false,
                }
        };
        let found = self.limits.iter().filter(concerned);
        let last = found.max_by_key(|limit| limit.span.until)?;
        Some((last.span.until, last.scope.clone()))
    }

    /// Counts an order if it may be made now, by the limits that are configured now; else when it may.
    pub(crate) fn admit(
        &mut self,
        (issuer, issuers): (&str, &Issuers),
        purpose: Purpose,
        names: &[Name],
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        let limits = issuers.issuers.get(issuer).map(|spec| spec.limits);
        let pace = self.pace(issuer);
        let kind = (purpose, &*mark_of(names));
        let free = pace.free_at(limits.unwrap_or_default(), kind, now);
        if free > now {
            return Err(free);
        }
        pace.count(purpose, now);
        Ok(())
    }

    /// Counts a certificate.
    pub(crate) fn issued(&mut self, issuer: &str, names: &[Name], now: Timestamp) {
        let pace = self.pace(issuer);
        pace.count_issue(&mark_of(names), now);
        pace.forget(now);
    }
}

fn is_below(name: &Name, domain: &str) -> bool {
    name.base().is_some_and(|base| {
        base.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// More limits at once than this are not remembered: each certificate still has its own.
const MOST_LIMITS: usize = 1_000;
