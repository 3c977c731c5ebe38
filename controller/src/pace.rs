//! Bounds how often something happens: so many at once, then one each time the interval passes.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// When the next one would be allowed if all before it had kept the interval.
    next: Option<Instant>,
    interval: Duration,
    burst: u32,
}

impl Pace {
    pub(crate) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            next: None,
            interval,
            burst,
        }
    }

    /// When the next one is allowed; the present, when it is now.
    pub(crate) fn allows(&self, now: Instant) -> Instant {
        let credit = self.interval * self.burst.saturating_sub(1);
        let due = self.next.map_or(now, |next| next.max(now));
        // An early start is a debt to the interval, up to the burst.
        due.checked_sub(credit).map_or(now, |at| at.max(now))
    }

    /// One happens now.
    pub(crate) fn spend(&mut self, now: Instant) {
        let due = self.next.map_or(now, |next| next.max(now));
        self.next = Some(due + self.interval);
    }

    /// Whether it is as if nothing had ever happened.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_pace_allows_a_burst_and_then_one_each_interval() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, 3);
        let mut times = Vec::new();
        let mut now = start;
        for _ in 0..6 {
            now = pace.allows(now);
            pace.spend(now);
            times.push((now - start).as_secs());
        }
        assert_eq!(times, [0, 0, 0, 1, 2, 3]);
        assert!(!pace.is_fresh(now));
        assert!(pace.is_fresh(now + 3 * SECOND));
        now += 100 * SECOND;
        assert_eq!(pace.allows(now), now);
    }
}
