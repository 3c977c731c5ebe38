//! Single certificates and the wildcard certificates of their namespace that cover all their hosts.
//!
//! Invariants:
//! - A single certificate is left out only while a wildcard certificate is in force and not near its end;
//!   or, as long as it has never been ordered itself, while one is on its way and nothing has failed.
//! - What is left out is kept, and is asked for again as soon as that is no longer so.
//! - One namespace covers nothing of another, nor a namespace what it inherits by its name alone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Code, Planner, Request, Target, Wanted};
use crate::names::Name;
use crate::stock::{Stock, Stocks};

/// What wildcard certificates do for others.
#[derive(Default)]
pub(super) struct Cover {
    /// What is not ordered.
    pub(super) left_out: BTreeSet<Target>,
    /// Which certificate is served for another one.
    pub(super) by: BTreeMap<Target, Target>,
    /// All that this was decided by.
    pub(super) weighed: BTreeSet<Target>,
    /// When it has to be decided anew.
    pub(super) again: Option<Timestamp>,
}

/// A request and the certificate that it wants.
type Chosen<'a> = BTreeMap<&'a Target, (&'a Request, Wanted)>;

impl Planner<'_> {
    /// What the wildcard certificates of all namespaces cover now.
    pub(super) fn cover(
        &mut self,
        chosen: &Chosen<'_>,
        (stocks, now): (&Stocks, Timestamp),
    ) -> Cover {
        let wild = |(_, wanted): &&(&Request, Wanted)| wanted.names.iter().any(Name::is_wildcard);
        let wild: Vec<&(&Request, Wanted)> = chosen.values().filter(wild).collect();
        let mut cover = Cover::default();
        for (request, wanted) in chosen.values() {
            let others = wild.iter().filter(|(_, other)| is_for_all(other, wanted));
            let others: Vec<&Target> = others.map(|(_, other)| &other.target).collect();
            if others.is_empty() {
                continue;
            }
            let nothing = Stock::default();
            let stock = |target: &Target| stocks.get(target).unwrap_or(&nothing);
            cover.weigh(stocks, others.iter().copied().chain([&wanted.target]), now);
            let uid = &request.namespace_uid;
            let held = |target: &Target| stock(target).covers(&wanted.names, uid, now);
            let lasting =
                |target: &&Target| held(target).is_some_and(|held| !held.life.is_ending(now));
            let valid = others.iter().find(|target| lasting(target)).copied();
            let ending = others.iter().find(|target| held(target).is_some()).copied();
            let own = stock(&wanted.target);
            let coming = others
                .iter()
                .find(|target| stock(target).is_on_its_way(now));
            let coming = coming.filter(|_| !own.is_begun()).copied();
            let left_out = !request.always && (valid.is_some() || coming.is_some());
            if left_out {
                let said = match (valid, coming) {
                    (None, Some(other)) => later(other),
                    (other, _) => instead(other.unwrap_or(&wanted.target), own.held.is_some()),
                };
                self.find(request, Code::Covered, said);
                cover.left_out.insert(wanted.target.clone());
            }
            if (left_out || held(&wanted.target).is_none())
                && let Some(other) = valid.or(ending)
            {
                cover.by.insert(wanted.target.clone(), other.clone());
            }
        }
        cover
    }
}

impl Cover {
    /// These decide.
    fn weigh<'a>(
        &mut self,
        stocks: &Stocks,
        targets: impl Iterator<Item = &'a Target>,
        now: Timestamp,
    ) {
        for target in targets {
            if !self.weighed.insert(target.clone()) {
                continue;
            }
            let turns = stocks.get(target).into_iter().flat_map(Stock::turns);
            let next = turns.filter(|at| *at > now);
            self.again = next.chain(self.again).min();
        }
    }
}

/// Whether a certificate with wildcards is, as it is wanted, for all hosts of a single one.
fn is_for_all(wild: &Wanted, single: &Wanted) -> bool {
    let by = |name: &Name| {
        let mut names = wild.names.iter();
        names.any(|other| other.is_wildcard() && other.covers(name))
    };
    wild.target.namespace == single.target.namespace
        && wild.target != single.target
        && wild.issuer == single.issuer
        && single
            .names
            .iter()
            .all(|name| !name.is_wildcard() && by(name))
}

fn instead(wild: &Target, has_own: bool) -> String {
    let own = if has_own {
        "; the one that there is stays and is not renewed meanwhile"
    } else {
        ""
    };
    format!(
        "nothing is ordered: the wildcard certificate in Secret {} is valid and covers all hosts{own}; \
         gatehouse.dev/tls-always orders it all the same",
        wild.secret
    )
}

fn later(wild: &Target) -> String {
    format!(
        "not ordered yet: the wildcard certificate for Secret {}, which covers all hosts, is on its way; \
         should that fail, this one is ordered",
        wild.secret
    )
}
