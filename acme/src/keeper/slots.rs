//! All certificates, and which of them is due.
//!
//! Invariants:
//! - A certificate is worked on by one flow at a time: its slot is empty meanwhile.
//! - No authority has more than its share of flows: one that is slow keeps the others' certificates from
//!   nothing.
//! - What was begun goes first, then what is nearly over, then what is missing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::driver::{Flow, due};
use crate::failure::Class;
use crate::issuers::Issuers;
use crate::plan::Target;
use crate::record::{Asked, Phase, Record, Wait};
use crate::schedule::Span;

/// Where a certificate is.
pub(super) enum Slot {
    /// Here.
    Idle {
        flow: Box<Flow>,
        /// Has to be read again before anything is done.
        stale: bool,
    },
    /// With a flow or a command.
    Busy(Busy),
    /// A record that this program does not understand.
    LeftAlone,
}

impl Slot {
    /// Whether it is wanted, or kept, and here as it is stored.
    fn is_stored(&self) -> bool {
        match self {
            Self::Idle { flow, stale: false } => {
                (flow.wanted.is_some() || flow.kept) && flow.is_stored()
            }
            _ => false,
        }
    }
}

/// What is remembered of a certificate that is not here.
pub(super) struct Busy {
    /// By which configuration it began.
    since: u64,
    /// Directory of the authority whose flow it has; a command has none.
    at: Option<String>,
}

/// How many certificates of one authority are worked on at once.
#[derive(Clone, Copy)]
pub(super) struct Share<'a> {
    pub(super) issuers: &'a Issuers,
    pub(super) most: usize,
}

impl Share<'_> {
    /// Whether the authority of a certificate has all its flows.
    fn is_used(&self, flows: &BTreeMap<String, usize>, flow: &Flow) -> bool {
        let count = flows.get(flow.authority(self.issuers));
        count.is_some_and(|count| *count >= self.most)
    }
}

#[derive(Default)]
pub(super) struct Slots {
    by_target: BTreeMap<Target, Slot>,
    /// How often the configuration changed.
    changes: u64,
}

impl Slots {
    pub(super) fn insert(&mut self, mut flow: Flow) {
        let target = flow.target().clone();
        // It may have failed by what no longer holds.
        if let Some(Slot::Busy(busy)) = self.by_target.get(&target)
            && busy.since < self.changes
        {
            wait_no_longer(&mut flow);
        }
        let slot = Slot::Idle {
            flow: Box::new(flow),
            stale: false,
        };
        self.by_target.insert(target, slot);
    }

    pub(super) fn ensure(&mut self, target: &Target, make: impl FnOnce() -> Flow) {
        if !self.by_target.contains_key(target) {
            self.insert(make());
        }
    }

    pub(super) fn remove(&mut self, target: &Target) {
        self.by_target.remove(target);
    }

    pub(super) fn leave_alone(&mut self, target: Target) {
        self.by_target.insert(target, Slot::LeftAlone);
    }

    /// Which ones are left alone.
    pub(super) fn left_alone(&self) -> Vec<Target> {
        let all = self.by_target.iter();
        let alone = all.filter(|(_, slot)| matches!(slot, Slot::LeftAlone));
        alone.map(|(target, _)| target.clone()).collect()
    }

    /// Exactly these of those that are not here are left alone.
    pub(super) fn leave_alone_only(&mut self, targets: &BTreeSet<Target>) {
        self.by_target
            .retain(|target, slot| !matches!(slot, Slot::LeftAlone) || targets.contains(target));
        for target in targets {
            let slot = self.by_target.entry(target.clone());
            slot.or_insert(Slot::LeftAlone);
        }
    }

    /// Whether what is stored of a certificate is not known here.
    pub(super) fn can_be_filled(&self, target: &Target) -> bool {
        matches!(self.by_target.get(target), None | Some(Slot::LeftAlone))
    }

    /// What is stored has to be read before anything is done: it could not be after a failed write, or
    /// the flow got lost.
    pub(super) fn lose(&mut self, flow: Flow) {
        let target = flow.target().clone();
        let slot = Slot::Idle {
            flow: Box::new(flow),
            stale: true,
        };
        self.by_target.insert(target, slot);
    }

    /// Certificates that are wanted, or kept, and rest here as they are stored.
    pub(super) fn stored(&self) -> Vec<Target> {
        let all = self.by_target.iter();
        let stored = all.filter(|(_, slot)| slot.is_stored());
        stored.map(|(target, _)| target.clone()).collect()
    }

    /// Whether the record of a certificate is still there has to be looked at.
    pub(super) fn doubt(&mut self, target: &Target) {
        let slot = self.by_target.get_mut(target);
        if let Some(Slot::Idle { flow, .. }) = slot.filter(|slot| slot.is_stored()) {
            flow.memo.doubted = true;
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.by_target.values_mut()
    }

    /// Takes a certificate that nobody works on; `None` if there is none. The error is a sentence.
    pub(super) fn take(&mut self, target: &Target) -> Result<Option<Flow>, String> {
        let busy = self.busy();
        match self.by_target.get_mut(target) {
            None => Ok(None),
            Some(Slot::LeftAlone) => Err(format!(
                "the record of {target} cannot be used: `gatehouse cert show {target}` says why"
            )),
            Some(slot) => match std::mem::replace(slot, busy) {
                Slot::Idle { flow, stale: false } => Ok(Some(*flow)),
                other => {
                    let stale = matches!(other, Slot::Idle { .. });
                    *slot = other;
                    Err(if stale {
                        format!(
                            "the record of {target} has to be read from the vault before anything is done \
                             with it, which happens by itself: ask again in a minute; `gatehouse cert show \
                             {target}` says what stands in the way, if anything"
                        )
                    } else {
                        format!("{target} is being worked on: see its report")
                    })
                }
            },
        }
    }

    /// A certificate that is not here yet is worked on.
    pub(super) fn occupy(&mut self, target: &Target) {
        let busy = self.busy();
        self.by_target.insert(target.clone(), busy);
    }

    /// With a command.
    fn busy(&self) -> Slot {
        let (since, at) = (self.changes, None);
        Slot::Busy(Busy { since, at })
    }

    /// How many flows each authority has, by its directory.
    fn flows(&self) -> BTreeMap<String, usize> {
        let mut flows = BTreeMap::new();
        for slot in self.by_target.values() {
            if let Slot::Busy(Busy { at: Some(at), .. }) = slot {
                *flows.entry(at.clone()).or_default() += 1;
            }
        }
        flows
    }

    /// Whether a certificate may have something on the board.
    pub(super) fn publishes(&self, target: &Target) -> bool {
        match self.by_target.get(target) {
            Some(Slot::Idle { flow, .. }) => !flow.record.state.challenges.is_empty(),
            Some(_) => true,
            None => false,
        }
    }

    /// Whether answers to challenges are published that nobody is working on now.
    pub(super) fn has_answers(&self) -> bool {
        self.by_target.values().any(|slot| match slot {
            Slot::Idle { flow, .. } => !flow.record.state.challenges.is_empty(),
            Slot::Busy(_) | Slot::LeftAlone => false,
        })
    }

    /// The configuration changed: what waited for that waits no longer, nor will what fails by the old
    /// one.
    pub(super) fn reconsider(&mut self) {
        self.changes += 1;
        for slot in self.by_target.values_mut() {
            if let Slot::Idle { flow, .. } = slot {
                wait_no_longer(flow);
            }
        }
    }

    /// Takes the certificates that are due and whose authority has a flow left, the most urgent first,
    /// and says of each whether it has to be read again.
    pub(super) fn take_due(&mut self, now: Timestamp, share: Share<'_>) -> Vec<(Flow, bool)> {
        let mut flows = self.flows();
        let since = self.changes;
        let due = self.by_target.values_mut().filter_map(|slot| {
            let Slot::Idle { flow, stale } = &*slot else {
                return None;
            };
            if share.is_used(&flows, flow) || when(flow, *stale, now).is_none_or(|at| at > now) {
                return None;
            }
            Some((urgency(&flow.record, now), slot))
        });
        let mut due: Vec<_> = due.collect();
        // Of equally urgent ones, the first by name stays the first.
        due.sort_by_key(|(urgency, _)| *urgency);
        let mut taken = Vec::new();
        for (_, slot) in due {
            let Slot::Idle { flow, .. } = &*slot else {
                continue;
            };
            // Those before it may have taken the last one.
            if share.is_used(&flows, flow) {
                continue;
            }
            let at = flow.authority(share.issuers).to_owned();
            *flows.entry(at.clone()).or_default() += 1;
            let at = Some(at);
            let busy = Slot::Busy(Busy { since, at });
            if let Slot::Idle { flow, stale } = std::mem::replace(slot, busy) {
                taken.push((*flow, stale));
            }
        }
        taken
    }

    /// When the next one is due whose authority has a flow left.
    pub(super) fn next_due(&self, now: Timestamp, share: Share<'_>) -> Option<Timestamp> {
        let flows = self.flows();
        let idle = self.by_target.values().filter_map(|slot| match slot {
            Slot::Idle { flow, .. } if share.is_used(&flows, flow) => None,
            Slot::Idle { flow, stale } => when(flow, *stale, now),
            Slot::Busy(_) | Slot::LeftAlone => None,
        });
        idle.min()
    }
}

/// Ends a wait for the configuration. What a person was promised is not forgotten with it.
fn wait_no_longer(flow: &mut Flow) {
    use Class::{Issuer, Local, Spec, Storage};
    let state = &mut flow.record.state;
    let concerned =
        |wait: &mut Wait| wait.paced || matches!(wait.class, Issuer | Spec | Local | Storage);
    if state.wait.take_if(concerned).is_some_and(|wait| wait.owed) {
        state.asked = Some(Asked::Renew);
    }
    // A short pause of the pace is not stored.
    if state.phase == Phase::Planned && flow.memo.unstored == 0 {
        flow.memo.rest_until = None;
    }
}

fn when(flow: &Flow, stale: bool, now: Timestamp) -> Option<Timestamp> {
    if flow.memo.doubted {
        return Some(now);
    }
    // What is stored may be due, whatever is here; and what was not stored is tried again, due or not.
    let due = if stale || flow.memo.unstored > 0 {
        now
    } else {
        due(&flow.record, (flow.wanted.as_ref(), flow.kept), now)?
    };
    // One that was noted while the clock was ahead is none.
    let rest = flow.memo.rest_until.filter(|until| {
        let (since, until) = (None, *until);
        Span { since, until }.holds(now)
    });
    Some(rest.map_or(due, |rest| rest.max(due)))
}

fn urgency(record: &Record, now: Timestamp) -> (u8, SignedDuration) {
    let state = &record.state;
    let left = state.current.as_ref().map(|current| current.life.left(now));
    let ending = state
        .current
        .as_ref()
        .is_some_and(|current| current.life.is_ending(now));
    match (state.phase, left) {
        // An order exists; its authority waits.
        (phase, left) if phase.is_busy() && phase != Phase::Planned => {
            (0, left.unwrap_or_default())
        }
        (_, Some(left)) if ending => (1, left),
        (_, None) => (2, SignedDuration::ZERO),
        (_, Some(left)) => (3, left),
    }
}
