//! Records that somebody removes while this process runs.
//!
//! Invariants:
//! - Only who leads looks, and only after certificates that are wanted, or kept, and at rest. In another vault it
//!   does not lead any more, so nothing of this one gets there.
//! - A look is at names alone, and beside the loop: there may be thousands of records.
//! - What was missed is read with the look after that, and stored again only if it is not there then: a
//!   look may be late, and somebody may be putting a record back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Work;
use crate::plan::Target;

/// The looks after what is there.
pub(super) struct Looks {
    /// The one that is under way.
    pub(super) running: JoinSet<Vec<Target>>,
    /// When the next one is due.
    at: Instant,
    /// What the last one missed.
    missed: BTreeSet<Target>,
    /// How many in a row missed anything.
    rounds: u32,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            running: JoinSet::new(),
            at: Instant::now() + LOOK,
            missed: BTreeSet::new(),
            rounds: 0,
        }
    }

    /// What the look before missed: it has to be read, whether it is still missing or there again.
    fn end(&mut self, missing: Vec<Target>) -> BTreeSet<Target> {
        let now = missing.into_iter().collect();
        let before = std::mem::replace(&mut self.missed, now);
        // One that is missing for long makes no other one wait.
        let is_new = self.missed.difference(&before).next().is_some();
        if is_new || self.missed.is_empty() {
            self.rounds = 0;
        }
        let pause = if self.missed.is_empty() {
            LOOK
        } else {
            let pause = AGAIN * 2_u32.pow(self.rounds.min(MOST_DOUBLED));
            self.rounds = self.rounds.saturating_add(1);
            pause
        };
        self.at = Instant::now() + pause;
        before
    }
}

impl Work {
    /// When the next look is due; the end of one that is under way is heard of.
    pub(super) fn looks_after(&self) -> Option<Instant> {
        let looks = self.epoch.is_some() && self.known && self.looks.running.is_empty();
        looks.then_some(self.looks.at)
    }

    /// Begins a look if it is due.
    pub(super) fn look_after(&mut self) {
        if self.looks_after().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let vault = Arc::clone(&self.driver.vault);
        let stored = self.slots.stored();
        let look = async move { vault.missing(stored).await };
        self.looks.running.spawn(look);
    }

    /// A look has ended.
    pub(super) fn looked_after(&mut self, missing: Vec<Target>) {
        for target in self.looks.end(missing) {
            self.slots.doubt(&target);
        }
    }
}

/// From one look to the next, as long as nothing is missing.
const LOOK: Duration = Duration::from_secs(60);

/// After a look that missed something new; twice as long each time that it is still missing, up to 80
/// seconds.
const AGAIN: Duration = Duration::from_secs(5);
const MOST_DOUBLED: u32 = 4;

#[cfg(test)]
mod tests;
