//! What is read of a vault, and what becomes of what cannot be.
//!
//! Invariants:
//! - A record that cannot be understood costs its own certificate only, is told, and is left as it is.
//! - As long as there is one, the vault is looked through again and again, ever more rarely: whoever
//!   mends it need not restart anything.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::Instant;

use super::Work;
use crate::driver::{Flow, Memo};
use crate::plan::Target;
use crate::record::Record;
use crate::troubles::{Kind, Trouble, Troubles};
use crate::vault::{Key, Listing, Stored, Vault, VaultError, Version};

/// What is wrong with the record at a place, in words; the way out as well.
pub(super) fn strange(place: &str, why: &str) -> String {
    format!(
        "{place} is a record that this program does not understand ({why}): run a newer program, or \
         remove the record, and the certificate is ordered anew"
    )
}

/// What was read.
#[derive(Default)]
pub(super) struct Intake {
    pub(super) records: Vec<(Record, Version)>,
    troubles: Troubles,
}

impl Intake {
    fn of(vault: &dyn Vault, listing: Listing) -> Self {
        let mut taken = Self::default();
        for unread in listing.unread {
            taken.troubles.insert(Trouble {
                kind: Kind::Read,
                target: unread.target,
                why: unread.why,
            });
        }
        for stored in listing.stored {
            taken.take(vault, stored);
        }
        taken
    }

    fn take(&mut self, vault: &dyn Vault, stored: Stored) {
        let Key::Certificate(target) = &stored.key else {
            return;
        };
        match Record::from_entries(&stored.entries) {
            Ok(record) => self.records.push((record, stored.version)),
            Err(why) => {
                self.troubles.insert(Trouble {
                    kind: Kind::Read,
                    target: Some(target.clone()),
                    why: strange(&vault.place(&stored.key), &why),
                });
            }
        }
    }
}

impl Work {
    /// What the vault holds. What is wrong with it is told.
    pub(super) async fn intake(&mut self) -> Option<Intake> {
        let listed = self.driver.vault.certificates().await;
        let complaints = &self.driver.served.complaints;
        let why = listed.as_ref().err().map(ToString::to_string);
        complaints.put(Kind::List, None, why);
        let listing = listed.ok()?;
        for complaint in &listing.damaged {
            tracing::warn!(error = complaint, "the vault is damaged");
        }
        let mut taken = Intake::of(self.driver.vault.as_ref(), listing);
        self.look_at_unlisted(&mut taken).await;
        let complaints = &self.driver.served.complaints;
        if complaints.put_all(Kind::Read, taken.troubles.clone()) {
            self.looked = 0;
        }
        self.look_through = Instant::now() + self.pause();
        Some(taken)
    }

    /// A record that lost the marks by which it is listed is there all the same: nothing can take its
    /// place before somebody mends or removes it.
    async fn look_at_unlisted(&self, taken: &mut Intake) {
        let mut alone = self.slots.left_alone();
        let records = taken.records.iter().map(|(record, _)| &record.state.target);
        let troubles = taken.troubles.iter().filter_map(|one| one.target.as_ref());
        let listed: BTreeSet<Target> = records.chain(troubles).cloned().collect();
        alone.retain(|target| !listed.contains(target));
        let vault = self.driver.vault.as_ref();
        let reads = alone.into_iter().map(|target| async move {
            let read = vault.read(&Key::Certificate(target.clone())).await;
            (target, read)
        });
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some((target, read)) = reads.next().await {
            let why = match read {
                Ok(None) => continue,
                Ok(Some(stored)) => {
                    taken.take(vault, stored);
                    continue;
                }
                Err(VaultError::Damaged(why)) => why,
                Err(error) => {
                    let complaints = &self.driver.served.complaints;
                    let known = complaints.why(Kind::Read, &target);
                    known.unwrap_or_else(|| error.to_string())
                }
            };
            let unnamed = Trouble {
                kind: Kind::Read,
                target: None,
                why,
            };
            // Then it is listed, too, by somebody who could not tell of what it is.
            taken.troubles.remove(&unnamed);
            taken.troubles.insert(Trouble {
                target: Some(target),
                ..unnamed
            });
        }
    }

    fn pause(&self) -> Duration {
        LOOK_THROUGH * 2_u32.pow(self.looked.min(MOST_DOUBLED))
    }

    /// Certificates that can be worked on from now on, and those that cannot.
    pub(super) fn fill(&mut self, taken: Intake, epoch: u64) {
        let mut readable = Vec::new();
        for (record, version) in taken.records {
            readable.push(record.state.target.clone());
            // Whatever is at work on the others knows better.
            if !self.slots.can_be_filled(&record.state.target) {
                continue;
            }
            self.driver.standing().recall(&record.state);
            self.slots.insert(Flow {
                record,
                version: Some(version),
                wanted: None,
                kept: false,
                epoch,
                memo: Memo::default(),
            });
        }
        let alone = taken.troubles.into_iter().filter_map(|one| one.target);
        // One of which the version before is read is worked on, as far as that goes.
        let alone = alone.filter(|target| !readable.contains(target)).collect();
        self.slots.leave_alone_only(&alone);
    }

    /// Whether something in the vault has to be mended by a person: then when to look again.
    pub(super) fn looks_through(&self) -> Option<Instant> {
        let complaints = &self.driver.served.complaints;
        complaints.are_about_parts().then_some(self.look_through)
    }

    /// Looks whether somebody has mended it.
    pub(super) async fn look_through(&mut self) {
        let due = self.looks_through();
        if due.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.looked = self.looked.saturating_add(1);
        self.look_through = Instant::now() + self.pause();
        let Some(epoch) = self.epoch else {
            return self.follow().await;
        };
        if let Some(taken) = self.intake().await {
            self.fill(taken, epoch);
            self.adopt();
        }
    }
}

/// After a part of a vault could not be read it is looked through; twice as long each time that this
/// brings nothing new, up to five minutes: it may be much that is read.
const LOOK_THROUGH: Duration = Duration::from_secs(20);
const MOST_DOUBLED: u32 = 4;

/// Records that are read at once of those in no listing.
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests;
