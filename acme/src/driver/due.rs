//! When a record needs a step.
//!
//! Pure. `None` is never, until something changes.

use jiff::Timestamp;

use crate::plan::Wanted;
use crate::record::{Phase, Record, State};

/// When the driver has something to do with a record.
pub(crate) fn due(record: &Record, wanted: Option<&Wanted>, now: Timestamp) -> Option<Timestamp> {
    let state = &record.state;
    let hash = wanted.map(Wanted::hash);
    if state.asked.is_some() {
        return Some(now);
    }
    if wanted.is_some_and(|wanted| is_inherited(state, wanted)) {
        return Some(now);
    }
    if let Some(wait) = &state.wait {
        let changed = hash.as_ref() != Some(&wait.spec_hash) && !state.phase.is_past_return();
        let cleaning = !state.cleanup.is_empty() && !state.phase.is_busy();
        return if changed || cleaning {
            Some(now)
        } else {
            wait.until
        };
    }
    if !state.cleanup.is_empty() {
        return Some(now);
    }
    match state.phase {
        Phase::Tombstone if wanted.is_some() => Some(now),
        Phase::Tombstone => Some(state.until.unwrap_or(now)),
        Phase::Empty | Phase::Valid => {
            let current = state.current.as_ref().filter(|_| record.current.is_some());
            match (current, hash) {
                (Some(current), Some(hash)) if current.spec_hash == hash && !current.revoked => {
                    let check = current.ari.next_check;
                    let renewal = current.renew_at;
                    Some(check.map_or(renewal, |check| check.min(renewal)))
                }
                _ => Some(now),
            }
        }
        _ => Some(now),
    }
}

/// Whether a certificate of another tenant lies in the way of a wish, and nothing else comes first:
/// elsewhere the step under way ends, and what it brings is not handed out.
pub(super) fn is_inherited(state: &State, wanted: &Wanted) -> bool {
    let rests = matches!(
        state.phase,
        Phase::Empty | Phase::Valid | Phase::Tombstone | Phase::Delivering
    );
    rests && wanted.is_of_another(&state.namespace_uid)
}
