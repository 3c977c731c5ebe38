//! Wall-clock time for the access log, derived from the monotonic clock that everything else uses.

use std::sync::OnceLock;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The wall-clock time of a moment.
///
/// The pair of clocks is read anew when the last reading is older than a minute, so a corrected
/// system clock shows within that time.
pub(crate) fn timestamp(moment: Instant) -> Timestamp {
    static START: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (base, wall) = START.get_or_init(read);
    let age = moment.saturating_duration_since(*base);
    let (base, wall) = if age.as_secs() < 60 {
        (*base, *wall)
    } else {
        read()
    };
    let since =
        SignedDuration::try_from(moment.saturating_duration_since(base)).unwrap_or_default();
    let before =
        SignedDuration::try_from(base.saturating_duration_since(moment)).unwrap_or_default();
    wall.checked_add(since)
        .and_then(|at| at.checked_sub(before))
        .unwrap_or(wall)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn read() -> (Instant, Timestamp) {
    let wall = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    (Instant::now(), wall)
}
