//! Waiting for a condition, with a deadline. The only place in the tests that pauses.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which a condition that should hold is taken for broken. Generous: the machine may be
/// busy compiling.
pub const PATIENCE: Duration = Duration::from_secs(20);

const STEP: Duration = Duration::from_millis(5);

/// Calls `probe` until it gives a value. Panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, probe).unwrap_or_else(|| panic!("gave up waiting until {what}"))
}

/// Calls `probe` until it gives a value or the time is over.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Checks that `probe` stays true for the whole of `time`.
pub fn holds(time: Duration, mut probe: impl FnMut() -> bool) -> bool {
    within(time, || (!probe()).then_some(())).is_none()
}
