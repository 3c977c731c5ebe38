//! Records that somebody removes while this process runs.
//!
//! Invariants:
//! - Only who leads looks, and only after certificates that are wanted and at rest. In another vault it
//!   does not lead any more, so nothing of this one gets there.
//! - A look is at names alone, and beside the loop: there may be thousands of records.
//! - What was missed twice in a row is read before it is stored again: a look may be late, and somebody
//!   may be putting a record back.

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

    /// What was missed before as well.
    fn end(&mut self, missing: Vec<Target>) -> Vec<Target> {
        let pause = if missing.is_empty() {
            self.rounds = 0;
            LOOK
        } else {
            let pause = AGAIN * 2_u32.pow(self.rounds.min(MOST_DOUBLED));
            self.rounds = self.rounds.saturating_add(1);
            pause
        };
        self.at = Instant::now() + pause;
        let now = missing.into_iter().collect();
        let before = std::mem::replace(&mut self.missed, now);
        before.intersection(&self.missed).cloned().collect()
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

/// After a look that missed something; twice as long each time that it is still missing, up to five
/// minutes.
const AGAIN: Duration = Duration::from_secs(5);
const MOST_DOUBLED: u32 = 6;

#[cfg(test)]
mod tests;
