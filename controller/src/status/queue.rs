//! Keys that wait for something to be written: each at most once, in the order they came, some of
//! them not before a certain time.
//!
//! Invariant: a key that is added while its work is under way, or while it rests afterwards, is not
//! forgotten: it comes again.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Queue<K> {
    ready: VecDeque<K>,
    later: BTreeSet<(Instant, K)>,
    entries: HashMap<K, Entry>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// There is something to do when the present phase ends.
    again: bool,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    Busy,
    Later,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            later: BTreeSet::new(),
            entries: HashMap::default(),
        }
    }
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// There is something to do for this key.
    pub(super) fn add(&mut self, key: K) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.again = true;
            return;
        }
        self.ready.push_back(key.clone());
        let entry = Entry {
            phase: Phase::Ready,
            again: true,
            failures: 0,
        };
        self.entries.insert(key, entry);
    }

    /// The next key; it is busy from now on, until one of the methods below is called.
    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.later.pop_first() else {
                break;
            };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.again => {
                    entry.phase = Phase::Ready;
                    self.ready.push_back(key);
                }
                _ => drop(self.entries.remove(&key)),
            }
        }
        let key = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.phase = Phase::Busy;
            entry.again = false;
        }
        Some(key)
    }

    /// It is done; the next time for this key is not before `rest` has passed.
    pub(super) fn done(&mut self, key: K, now: Instant, rest: Duration) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.failures = 0;
        }
        self.rest(key, now + rest);
    }

    /// It is still to be done, but not now.
    pub(super) fn postpone(&mut self, key: K, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.again = true;
        }
        self.rest(key, at);
    }

    /// It failed; the next try comes later each time.
    pub(super) fn failed(&mut self, key: K, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let wait = FIRST_RETRY * 2_u32.saturating_pow(entry.failures.min(10));
        entry.failures = entry.failures.saturating_add(1);
        self.postpone(key, now + wait.min(LAST_RETRY));
    }

    /// When a key that rests comes back; what is ready needs no waiting.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whether a key waits for nothing but its turn.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn rest(&mut self, key: K, until: Instant) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.phase == Phase::Busy
        {
            entry.phase = Phase::Later;
            self.later.insert((until, key));
        }
    }
}

/// Bounds how often something happens: so many at once, then one each time the interval passes.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// When the next one would be allowed if all before it had kept the interval.
    next: Option<Instant>,
    interval: Duration,
    burst: u32,
}

impl Pace {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            next: None,
            interval,
            burst,
        }
    }

    /// When the next one is allowed; the present, when it is now.
    pub(super) fn allows(&self, now: Instant) -> Instant {
        let credit = self.interval * self.burst.saturating_sub(1);
        let due = self.next.map_or(now, |next| next.max(now));
        // An early start is a debt to the interval, up to the burst.
        due.checked_sub(credit).map_or(now, |at| at.max(now))
    }

    /// One happens now.
    pub(super) fn spend(&mut self, now: Instant) {
        let due = self.next.map_or(now, |next| next.max(now));
        self.next = Some(due + self.interval);
    }

    /// Whether it is as if nothing had ever happened.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_busy_or_resting_comes_again_and_only_once() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(start), Some("a"));
        assert_eq!(queue.take(start), None);
        queue.add("a");
        queue.done("a", start, 10 * SECOND);
        assert_eq!(queue.take(start), None, "it rests");
        assert_eq!(queue.due(), Some(start + 10 * SECOND));
        assert_eq!(queue.take(start + 10 * SECOND), Some("a"));
        queue.done("a", start + 10 * SECOND, 10 * SECOND);
        assert_eq!(queue.take(start + 20 * SECOND), None, "nothing new");
        assert!(queue.entries.is_empty(), "and forgotten");
        queue.add("a");
        assert_eq!(queue.take(start + 20 * SECOND), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_ever_later_and_at_least_once_a_minute() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..9 {
            let key = queue.take(now).unwrap();
            queue.failed(key, now);
            let due = queue.due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let key = queue.take(now).unwrap();
        queue.done(key, now, Duration::ZERO);
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"), "a success clears the record");
    }

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
