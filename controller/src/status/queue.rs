//! Keys that wait for something to be written: each at most once, in the order they came, some of
//! them not before a certain time.
//!
//! Invariants:
//! - A key that is added while its work is under way, or while it rests afterwards, is not
//!   forgotten: it comes again.
//! - Namespaces take turns, so that none makes the others wait by having much to write.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use crate::source::ObjectKey;

/// A key of a namespace.
pub(super) trait InTurn {
    /// The namespace.
    fn namespace(&self) -> Arc<str>;
}

impl InTurn for ObjectKey {
    fn namespace(&self) -> Arc<str> {
        Arc::clone(&self.namespace)
    }
}

#[derive(Debug)]
pub(super) struct Queue<K> {
    ready: Ready<K>,
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
            ready: Ready::default(),
            later: BTreeSet::new(),
            entries: HashMap::default(),
        }
    }
}

impl<K: Clone + Ord + Hash + InTurn> Queue<K> {
    /// There is something to do for this key.
    pub(super) fn add(&mut self, key: K) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.again = true;
            return;
        }
        self.ready.push(key.clone());
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
                    self.ready.push(key);
                }
                _ => drop(self.entries.remove(&key)),
            }
        }
        let key = self.ready.pop()?;
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
        !self.ready.turns.is_empty()
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

/// What waits for nothing but its turn.
#[derive(Debug)]
struct Ready<K> {
    /// Namespaces with something to do, the next first.
    turns: VecDeque<Arc<str>>,
    keys: HashMap<Arc<str>, VecDeque<K>>,
}

impl<K> Default for Ready<K> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            keys: HashMap::default(),
        }
    }
}

impl<K: InTurn> Ready<K> {
    fn push(&mut self, key: K) {
        let namespace = key.namespace();
        let keys = self.keys.entry(Arc::clone(&namespace)).or_default();
        if keys.is_empty() {
            self.turns.push_back(namespace);
        }
        keys.push_back(key);
    }

    fn pop(&mut self) -> Option<K> {
        let namespace = self.turns.pop_front()?;
        let keys = self.keys.get_mut(&namespace)?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.keys.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        key
    }
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// `namespace/name`, or a name alone.
    impl InTurn for &str {
        fn namespace(&self) -> Arc<str> {
            self.split_once('/')
                .map_or("", |(namespace, _)| namespace)
                .into()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_with_much_to_write_does_not_make_the_others_wait() {
        let start = Instant::now();
        let mut queue = Queue::default();
        for key in [
            "noisy/1", "noisy/2", "noisy/3", "noisy/4", "shop/1", "team/1", "shop/2",
        ] {
            queue.add(key);
        }
        let order: Vec<&str> = std::iter::from_fn(|| queue.take(start)).collect();
        let fair = [
            "noisy/1", "shop/1", "team/1", "noisy/2", "shop/2", "noisy/3", "noisy/4",
        ];
        assert_eq!(order, fair);
        assert!(!queue.is_ready());
    }

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
}
