//! When a record needs a step.
//!
//! Pure. `None` is never, until something changes.

use jiff::{SignedDuration, Timestamp};

use crate::failure::Class;
use crate::plan::Wanted;
use crate::record::{Current, Leftover, Phase, Record, State};
use crate::schedule::{LATEST_CHECK, later};

/// When the driver has something to do with a record; `kept` if it stays though nothing of it is wanted.
pub(crate) fn due(
    record: &Record,
    (wanted, kept): (Option<&Wanted>, bool),
    now: Timestamp,
) -> Option<Timestamp> {
    let state = &record.state;
    if state.asked.is_some() {
        return Some(now);
    }
    if wanted.is_some_and(|wanted| is_inherited(state, wanted)) {
        return Some(now);
    }
    let cleaning = (!state.phase.is_busy())
        .then(|| cleaning(state, now))
        .flatten();
    let own = own(record, (wanted, kept), now);
    let parts = [own, cleaning, revoking(state, now)];
    parts.into_iter().flatten().min()
}

/// When the authority is asked once more to revoke; whatever the certificate waits for.
pub(super) fn revoking(state: &State, now: Timestamp) -> Option<Timestamp> {
    state.revocations.iter().map(|owed| owed.due(now)).min()
}

/// When a TXT record that is left is removed; nothing depends on that.
pub(super) fn cleaning(state: &State, now: Timestamp) -> Option<Timestamp> {
    let left = state.cleanup.iter();
    left.map(|leftover| due_again(leftover, now)).min()
}

/// Whether an order may be given up because something else is wanted by now. Past the point of return
/// it is finished first, unless what it brought was refused, or it stands still for a reason of which
/// nobody knows whether it ends.
pub(crate) fn may_be_given_up(state: &State) -> bool {
    use Class::{Limited, NotYet, Outage, Transient};
    match (state.phase, &state.wait) {
        (Phase::Finalizing | Phase::Issued, Some(wait)) => {
            !matches!(wait.class, Limited | NotYet | Outage | Transient)
        }
        (phase, _) => !phase.is_past_return(),
    }
}

/// Whether what an order brought was refused: downloaded again, it is the same.
pub(super) fn is_refused(state: &State) -> bool {
    let wait = state.wait.as_ref();
    state.phase == Phase::Issued && wait.is_some_and(|wait| wait.class == Class::BadCertificate)
}

/// When a TXT record is tried to be removed.
pub(super) fn due_again(leftover: &Leftover, now: Timestamp) -> Timestamp {
    let next = leftover.next.unwrap_or(now);
    // Noted while the clock was ahead.
    if next > later(now, LATEST_CLEAN) {
        now
    } else {
        next
    }
}

/// When the authority is asked about the renewal.
pub(super) fn asks(current: &Current, now: Timestamp) -> Option<Timestamp> {
    let next = current.ari.next_check?;
    // Noted while the clock was ahead.
    Some(if next > later(now, LATEST_CHECK) {
        now
    } else {
        next
    })
}

/// When something is to be done about the certificate itself.
fn own(
    record: &Record,
    (wanted, kept): (Option<&Wanted>, bool),
    now: Timestamp,
) -> Option<Timestamp> {
    let state = &record.state;
    if let Some(wait) = &state.wait {
        let changed = wait.is_about_another(wanted) && may_be_given_up(state);
        return if changed || wait.is_over(now) {
            Some(now)
        } else {
            wait.until
        };
    }
    match state.phase {
        Phase::Tombstone if wanted.is_some() || kept => Some(now),
        // What it stands for can only be done as long as it is there.
        Phase::Tombstone if !state.revocations.is_empty() => None,
        Phase::Tombstone => Some(state.until.unwrap_or(now)),
        Phase::Valid if kept && wanted.is_none() => None,
        Phase::Empty | Phase::Valid => {
            let current = state.current.as_ref().filter(|_| record.current.is_some());
            match (current, wanted.map(Wanted::hash)) {
                (Some(current), Some(hash)) if current.spec_hash == hash && !current.revoked => {
                    let check = asks(current, now);
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

/// The longest pause between two tries to remove a TXT record.
pub(super) const LATEST_CLEAN: SignedDuration = SignedDuration::from_hours(24);
