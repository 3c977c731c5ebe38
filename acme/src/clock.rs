//! The clocks: wall time for what is stored, tokio's for waiting.
//!
//! Invariants:
//! - Stored times are wall times, so a restart or another leader changes nothing.
//! - A wait is made of a stored time at the moment it begins, never carried over.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::schedule::{between, later};

/// What time it is.
pub trait Clock: Send + Sync {
    /// Wall time.
    fn now(&self) -> Timestamp;

    /// When, in the time of the runtime, a wall time will be reached.
    fn instant(&self, at: Timestamp) -> Instant {
        let wait = Duration::try_from(between(self.now(), at)).unwrap_or_default();
        Instant::now() + wait.min(LONGEST_SLEEP)
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of this crate that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// A clock that begins anywhere and runs `factor` times as fast as the runtime's: for tests, which
/// can pause the runtime's, and for rehearsals of long waits.
#[derive(Debug, Clone)]
pub struct ScaledClock {
    start: Timestamp,
    begin: Instant,
    factor: u32,
}

impl ScaledClock {
    /// Begins now.
    pub fn new(start: Timestamp, factor: u32) -> Self {
        Self {
            start,
            begin: Instant::now(),
            factor: factor.max(1),
        }
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.begin.elapsed()).unwrap_or_default();
        let factor = i32::try_from(self.factor).unwrap_or(i32::MAX);
        later(self.start, passed.saturating_mul(factor))
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let wait = Duration::try_from(between(self.now(), at)).unwrap_or_default();
        Instant::now() + wait.min(LONGEST_SLEEP) / self.factor
    }
}

/// Looks at the wall clock again after this, in case it was set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// How far our clock and an authority's may be apart: beyond, nothing is ordered.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_hours(1);
