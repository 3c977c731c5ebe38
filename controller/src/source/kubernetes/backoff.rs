//! How long to wait before the next attempt: doubling from [`FIRST`] to a limit, of which at least
//! the half, the rest by chance, so that replicas do not come back in step.

use std::hash::BuildHasher as _;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::failure::Failure;

/// See the module.
#[derive(Debug)]
pub(super) struct Backoff {
    attempts: u32,
    /// The last failure was that nobody answered.
    silent: bool,
    random: u64,
}

impl Backoff {
    /// Seeded by chance.
    pub(super) fn new() -> Self {
        Self::seeded(RandomState::default().hash_one(Instant::now()))
    }

    fn seeded(seed: u64) -> Self {
        Self {
            attempts: 0,
            silent: false,
            // Zero would stay zero.
            random: seed | 1,
        }
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The pause after a failure.
    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        if failure.is_answer() && self.silent {
            // A server that is back needs some time to find itself, but not as long as it was away.
            self.attempts = self.attempts.min(EASED);
        }
        self.silent = !failure.is_answer();
        let pause = self.next(failure.longest_pause());
        pause.max(failure.wished_pause())
    }

    /// The pause before the next attempt.
    pub(super) fn next(&mut self, limit: Duration) -> Duration {
        let grown = FIRST.saturating_mul(1 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let half = grown.min(limit) / 2;
        half + half.mul_f64(self.chance())
    }

    /// From 0 to 1 (xorshift; nothing here needs better).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let high = u32::try_from(self.random >> 32).unwrap_or_default();
        f64::from(high) / f64::from(u32::MAX)
    }
}

/// Longest first pause.
const FIRST: Duration = Duration::from_millis(100);

/// Failures that still count when the server is back.
const EASED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_differ_by_chance() {
        let limit = Duration::from_secs(30);
        let mut backoff = Backoff::seeded(7);
        let mut grown = FIRST;
        for _ in 0..40 {
            let pause = backoff.next(limit);
            assert!(
                pause >= grown / 2 && pause <= grown,
                "{pause:?} of {grown:?}"
            );
            grown = (grown * 2).min(limit);
        }
        for _ in 0..40 {
            let pause = backoff.after(&Failure::Stalled);
            assert!(pause <= Failure::Stalled.longest_pause());
        }
        let refused = Failure::Refused("503".into(), None);
        assert!(backoff.after(&refused) <= FIRST * 4, "it is just back");
        backoff.reset();
        assert!(backoff.next(limit) <= FIRST);
        let mut other = Backoff::seeded(8);
        other.next(limit);
        assert_ne!(backoff.next(limit), other.next(limit));
    }
}
