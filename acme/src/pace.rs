//! How fast an account may order: what the strictest public authority allows, kept by ourselves, so
//! that its limits are never met.
//!
//! Pure: no clock; nothing is stored. The buckets are rebuilt from the times that the records hold.
//!
//! Invariants:
//! - Whatever was ordered counts, also what another leader ordered.
//! - Renewals of an unchanged set of names do not use up what new names need.
//! - More than five certificates for one set of names in a week are never ordered.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::issuers::Limits;
use crate::schedule::later;

/// What an order is for, which says what it counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A set of names that this account has no certificate for.
    New,
    /// The same names again.
    Renewal,
}

/// Recent orders of one account, whatever its limits are: these may change at any time.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    new: VecDeque<Timestamp>,
    renewals: VecDeque<Timestamp>,
    /// Issues by set of names.
    sets: BTreeMap<String, VecDeque<Timestamp>>,
}

impl Pace {
    /// Counts an order that was made at `at`.
    pub fn count(&mut self, purpose: Purpose, at: Timestamp) {
        let times = match purpose {
            Purpose::New => &mut self.new,
            Purpose::Renewal => &mut self.renewals,
        };
        insert(times, at, MOST);
    }

    /// Counts a certificate issued for a set of names.
    pub fn count_issue(&mut self, set: &str, at: Timestamp) {
        let times = self.sets.entry(set.to_owned()).or_default();
        insert(times, at, PER_SET);
    }

    /// Forgets sets that no longer count, so that memory follows what is in use.
    pub fn forget(&mut self, now: Timestamp) {
        self.sets
            .retain(|_, times| times.back().is_some_and(|last| later(*last, WEEK) > now));
    }

    /// When the next order may be made by these limits: `now`, or the moment at which enough old ones no longer
    /// count.
    pub fn free_at(
        &self,
        limits: Limits,
        (purpose, set): (Purpose, &str),
        now: Timestamp,
    ) -> Timestamp {
        let by_purpose = match purpose {
            Purpose::New => {
                let per_minute = usize_of(limits.orders_per_minute);
                let minute = free(&self.new, per_minute, MINUTE, now);
                let per_three_hours = usize_of(limits.orders_per_three_hours);
                let hours = free(&self.new, per_three_hours, HOURS, now);
                minute.max(hours)
            }
            Purpose::Renewal => {
                let most = usize_of(limits.renewals_per_minute);
                free(&self.renewals, most, MINUTE, now)
            }
        };
        let by_set = self
            .sets
            .get(set)
            .and_then(|times| free(times, PER_SET, WEEK, now));
        by_purpose.max(by_set).map_or(now, |free| free.max(now))
    }
}

/// When one more fits below `most` in `span`; `None` if fewer were made at all. What was counted while
/// the clock was ahead does not count.
fn free(
    times: &VecDeque<Timestamp>,
    most: usize,
    span: SignedDuration,
    now: Timestamp,
) -> Option<Timestamp> {
    let past = times.partition_point(|at| *at <= later(now, MINUTE));
    let oldest_that_counts = past.checked_sub(most.max(1))?;
    times.get(oldest_that_counts).map(|at| later(*at, span))
}

/// Keeps times sorted and only as many as can matter.
fn insert(times: &mut VecDeque<Timestamp>, at: Timestamp, most: usize) {
    let place = times.partition_point(|other| *other <= at);
    times.insert(place, at);
    while times.len() > most.max(1) {
        times.pop_front();
    }
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(MOST).min(MOST)
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOURS: SignedDuration = SignedDuration::from_hours(3);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Orders of one kind that are remembered: more than any authority allows in the time for which they
/// count. A limit above it holds at this number.
const MOST: usize = 10_000;

/// Certificates for one exact set of names in a week.
pub const PER_SET: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// By the usual limits.
    fn free_at(pace: &Pace, purpose: Purpose, set: &str, now: Timestamp) -> Timestamp {
        pace.free_at(Limits::default(), (purpose, set), now)
    }

    #[test]
    fn other_limits_hold_for_what_was_ordered_before_them() {
        let mut pace = Pace::default();
        for second in 0..20 {
            pace.count(Purpose::New, at(second));
        }
        let free = |most| {
            let limits = Limits {
                orders_per_minute: 1_000,
                orders_per_three_hours: most,
                ..Limits::default()
            };
            pace.free_at(limits, (Purpose::New, ""), at(20)).as_second()
        };
        assert_eq!(
            [free(30), free(20), free(1)],
            [20, 3 * 3_600, 19 + 3 * 3_600]
        );
    }

    #[test]
    fn the_order_after_the_last_that_fits_waits_until_the_first_no_longer_counts() {
        let mut pace = Pace::default();
        for second in 0..20 {
            assert_eq!(free_at(&pace, Purpose::New, "a", at(second)), at(second));
            pace.count(Purpose::New, at(second));
        }
        assert_eq!(free_at(&pace, Purpose::New, "a", at(20)), at(60));
        assert_eq!(free_at(&pace, Purpose::Renewal, "a", at(20)), at(20));
    }

    #[test]
    fn the_sixth_certificate_of_one_set_in_a_week_waits() {
        let mut pace = Pace::default();
        for n in 0..5 {
            pace.count_issue("a", at(n));
        }
        assert_eq!(
            free_at(&pace, Purpose::Renewal, "a", at(10)),
            at(7 * 86_400)
        );
        assert_eq!(free_at(&pace, Purpose::Renewal, "b", at(10)), at(10));
        pace.forget(at(8 * 86_400));
        assert_eq!(free_at(&pace, Purpose::Renewal, "a", at(10)), at(10));
    }

    #[test]
    fn what_was_counted_while_the_clock_was_ahead_does_not_count() {
        let mut pace = Pace::default();
        for n in 0..5 {
            pace.count_issue("a", at(400 * 86_400 + n));
        }
        assert_eq!(free_at(&pace, Purpose::Renewal, "a", at(10)), at(10));
    }

    proptest! {
        #[test]
        fn no_span_ever_holds_more_than_its_limit(
            gaps in prop::collection::vec(0..4_000_i64, 1..400),
            minute in 1..20_u32, hours in 1..60_u32,
        ) {
            let limits = Limits { orders_per_minute: minute, orders_per_three_hours: hours, ..Limits::default() };
            let mut pace = Pace::default();
            let mut now = 0;
            let mut made: Vec<i64> = Vec::new();
            for gap in gaps {
                now += gap / 40;
                let free = pace.free_at(limits, (Purpose::New, ""), at(now));
                prop_assert!(free >= at(now));
                now = free.as_second();
                pace.count(Purpose::New, free);
                made.push(now);
            }
            for (n, last) in made.iter().enumerate() {
                let within = |span: i64| made[..=n].iter().filter(|first| *last - **first < span).count();
                prop_assert!(within(60) <= minute as usize);
                prop_assert!(within(3 * 3_600) <= hours as usize);
            }
        }

        #[test]
        fn counting_in_another_order_gives_the_same_pace(mut times in prop::collection::vec(0..10_000_i64, 0..60)) {
            let limits = Limits { orders_per_minute: 5, orders_per_three_hours: 30, ..Limits::default() };
            let build = |times: &[i64]| {
                let mut pace = Pace::default();
                for time in times { pace.count(Purpose::New, at(*time)); }
                pace.free_at(limits, (Purpose::New, ""), at(10_000))
            };
            let one = build(&times);
            times.reverse();
            prop_assert_eq!(one, build(&times));
        }
    }
}
