//! What is wanted, from what is asked for and what there is.
//!
//! Invariants: planned anew before anything is begun, whenever what was asked for or what decided the
//! last plan has changed; a change of any other certificate costs a comparison.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Work;
use crate::driver::{Covers, Wishes};
use crate::plan::{Target, plan};
use crate::served::{Served, renew};
use crate::stock::{Stock, Stocks};
use crate::troubles::Troubles;

/// What the plan was made with.
pub(super) struct Weighed {
    /// What there is of each certificate.
    stocks: watch::Receiver<Arc<Stocks>>,
    /// What is wrong with the vault.
    troubles: watch::Receiver<Arc<Troubles>>,
    /// The certificates that decided,
    decided: BTreeSet<Target>,
    /// and what there was of them.
    last: Stocks,
    /// When time alone makes another plan.
    again: Option<Instant>,
    covers: watch::Sender<Arc<Covers>>,
}

impl Weighed {
    pub(super) fn new(served: &Served) -> Self {
        Self {
            stocks: served.stocks(),
            troubles: served.complaints.subscribe(),
            decided: BTreeSet::new(),
            last: Stocks::new(),
            again: None,
            covers: watch::Sender::default(),
        }
    }

    /// Which certificate is served for which.
    pub(super) fn covers(&self) -> watch::Receiver<Arc<Covers>> {
        self.covers.subscribe()
    }

    /// When to look again though nothing changes.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Waits for anything to be another.
    pub(super) async fn changed(&self) {
        let (mut stocks, mut troubles) = (self.stocks.clone(), self.troubles.clone());
        tokio::select! {
            Ok(()) = stocks.changed() => {}
            Ok(()) = troubles.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Whether there is something else of those that decided.
    fn news(&mut self) -> bool {
        let changed = |open: Result<bool, _>| open.unwrap_or(false);
        if !changed(self.stocks.has_changed()) && !changed(self.troubles.has_changed()) {
            return false;
        }
        let stocks = self.stocks.borrow_and_update();
        let troubles = self.troubles.borrow_and_update();
        let troubled = troubled(&troubles);
        // Of these alone: there may be thousands of others, and each of their steps comes by here.
        let mut decided = self.decided.iter();
        decided.any(|target| stock(&stocks, &troubled, target).as_ref() != self.last.get(target))
    }

    /// What there is now.
    fn now(&mut self) -> Stocks {
        let stocks = self.stocks.borrow_and_update();
        let troubles = self.troubles.borrow_and_update();
        let troubled = troubled(&troubles);
        let targets = stocks.keys().chain(troubled.iter().copied());
        let all = targets.filter_map(|target| {
            let stock = stock(&stocks, &troubled, target)?;
            Some((target.clone(), stock))
        });
        all.collect()
    }
}

/// Certificates whose record cannot be read or written.
fn troubled(troubles: &Troubles) -> BTreeSet<&Target> {
    let targets = troubles.iter().map(|trouble| trouble.target.as_ref());
    targets.flatten().collect()
}

/// What there is of a certificate. Nothing comes of one whose record cannot be read or written.
fn stock(stocks: &Stocks, troubled: &BTreeSet<&Target>, target: &Target) -> Option<Stock> {
    let known = stocks.get(target).cloned();
    if !troubled.contains(target) {
        return known;
    }
    let known = known.unwrap_or_default();
    Some(Stock {
        fails: true,
        ..known
    })
}

impl Work {
    /// What is wanted now, from what is asked for.
    pub(super) fn replan(&mut self) {
        let issuers = self.issuers.borrow_and_update().clone();
        let Some(requests) = self.requests.borrow_and_update().clone() else {
            return;
        };
        self.known = true;
        let (mut stocks, clock) = (self.weighed.now(), &self.driver.clock);
        let plan = plan(&issuers, &requests, (&stocks, clock.now()));
        self.weighed.again = plan.again.map(|at| clock.instant(at));
        stocks.retain(|target, _| plan.weighed.contains(target));
        (self.weighed.last, self.weighed.decided) = (stocks, plan.weighed);
        renew(&self.findings, plan.findings);
        let wishes = plan.wanted.into_iter();
        let wishes: Wishes = wishes
            .map(|wanted| (wanted.target.clone(), wanted))
            .collect();
        // First: what is no longer wanted is not thrown away in between.
        self.refused.send_replace(Arc::new(plan.refused));
        self.wishes.send_replace(Arc::new(wishes));
        renew(&self.weighed.covers, plan.covers);
        self.adopt();
    }

    /// Plans anew if what decided the last plan is another by now.
    pub(super) fn weigh(&mut self) {
        let due = self.weighed.again.is_some_and(|at| at <= Instant::now());
        if self.weighed.news() || due {
            self.replan();
        }
    }
}
