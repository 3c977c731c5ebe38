//! When a certificate is renewed and when its authority is asked about that.
//!
//! Pure: no clock and no randomness. A moment is chosen by hashing what it is about, so it is
//! spread evenly over certificates, and the same after a restart and on every replica.
//!
//! Invariants:
//! - A window belongs to one certificate: it is used only for the certificate it was asked about.
//! - Nonsense from the authority (an end before its start) is no window.
//! - Whatever a window says, a certificate is renewed when a fifth of its life is left.
//! - The chosen moment never lies outside the certificate's life.
//!
//! A window that begins in the past does not by itself mean "now": everybody whose window has begun
//! would come at once. The chosen moment inside it counts; it is in the past when the window is.

use std::time::Duration;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Life of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// `base64url(AKI).base64url(serial)` (RFC 9773, section 4.1).
    pub cert_id: String,
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

/// A renewal window that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Begin.
    pub start: Timestamp,
    /// End, after the begin.
    pub end: Timestamp,
}

impl Window {
    /// A window, unless it is nonsense.
    pub fn new(start: Timestamp, end: Timestamp) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }
}

/// A wait as it was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// When it was, if that was noted, too.
    pub(crate) since: Option<Timestamp>,
    /// Its end.
    pub(crate) until: Timestamp,
}

impl Span {
    /// Whether it is not over. A clock that is ahead, before it is set right, notes what nobody may
    /// wait for: a begin in the future, or an end further away than any.
    pub(crate) fn holds(self, now: Timestamp) -> bool {
        let ahead = self.since.is_some_and(|since| since > later(now, SLACK));
        self.until > now && !ahead && self.until <= later(now, LONGEST_WAIT)
    }
}

/// Why a certificate is renewed at its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The authority's window.
    Window,
    /// Two thirds (half, if short) of the life are over.
    Lifetime,
    /// A fifth of the life is left.
    Backstop,
}

impl Life {
    /// From begin to end, at least a second.
    pub fn length(&self) -> SignedDuration {
        between(self.not_before, self.not_after).max(SignedDuration::from_secs(1))
    }

    /// What is left at `now`, never negative.
    pub fn left(&self, now: Timestamp) -> SignedDuration {
        between(now, self.not_after).max(SignedDuration::ZERO)
    }

    /// Whether less than a fifth of the life is left.
    pub fn is_ending(&self, now: Timestamp) -> bool {
        self.left(now) <= self.length() / LAST_PART
    }

    /// When a fifth of the life is left.
    pub(crate) fn ending(&self) -> Timestamp {
        earlier(self.not_after, self.length() / LAST_PART)
    }

    /// When to renew, and why then.
    pub fn renewal(&self, window: Option<Window>) -> (Timestamp, Reason) {
        let backstop = self.ending();
        let (moment, reason) = match window {
            Some(window) => (self.moment_in(window), Reason::Window),
            None => (self.moment_of_life(), Reason::Lifetime),
        };
        if backstop < moment {
            (backstop.max(self.not_before), Reason::Backstop)
        } else {
            (moment.max(self.not_before), reason)
        }
    }

    fn moment_in(&self, window: Window) -> Timestamp {
        let length = between(window.start, window.end).as_millis();
        let mark = format!("{}|{}|{}", self.cert_id, window.start, window.end);
        let offset = share(&mark, u64::try_from(length).unwrap_or(u64::MAX));
        later(window.start, SignedDuration::from_millis(offset))
    }

    /// Two thirds of the life, half of a short one, give or take a fiftieth.
    fn moment_of_life(&self) -> Timestamp {
        let length = self.length().as_millis();
        let part = if self.length() < SHORT {
            length / 2
        } else {
            length * 2 / 3
        };
        let spread = length / 50;
        let width = u64::try_from(spread * 2).unwrap_or(0).max(1);
        let offset = i128::from(share(&self.cert_id, width)) - spread;
        let after = i64::try_from(part + offset).unwrap_or(0);
        later(self.not_before, SignedDuration::from_millis(after))
    }
}

/// When to ask for the window again after an answer.
pub fn next_check(now: Timestamp, retry_after: Option<Duration>) -> Timestamp {
    let wait = retry_after
        .and_then(|wait| SignedDuration::try_from(wait).ok())
        .unwrap_or(USUAL_CHECK)
        .clamp(SOONEST_CHECK, LATEST_CHECK);
    later(now, wait)
}

/// When to ask again after the `n`th failure in a row: 1, 2, 4 … minutes, at most six hours; not
/// before the pause is over that was asked for, of a day at most.
pub fn next_check_after_failure(now: Timestamp, n: u32, pause: SignedDuration) -> Timestamp {
    let minutes = 1_i64 << n.saturating_sub(1).min(9);
    let own = SignedDuration::from_mins(minutes).min(USUAL_CHECK);
    later(now, own.max(pause.min(LATEST_CHECK)))
}

/// When to look again whether windows are offered, where they are not.
pub fn next_look(now: Timestamp) -> Timestamp {
    later(now, LATEST_CHECK)
}

/// A whole number below `width`, made of text: evenly spread and always the same.
pub(crate) fn share(text: &str, width: u64) -> i64 {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let number = hash
        .as_ref()
        .iter()
        .take(8)
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let scaled = (u128::from(number) * u128::from(width)) >> 64;
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

/// `at` plus a duration, at the end of time at the latest.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

/// `at` minus a duration.
pub(crate) fn earlier(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_sub(by).unwrap_or(at)
}

/// From one moment to another.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> SignedDuration {
    to.duration_since(from)
}

/// The part of a life after which a certificate is renewed whatever a window says.
const LAST_PART: i32 = 5;

/// A life below this is a short one.
const SHORT: SignedDuration = SignedDuration::from_hours(10 * 24);

const SOONEST_CHECK: SignedDuration = SignedDuration::from_mins(1);
const USUAL_CHECK: SignedDuration = SignedDuration::from_hours(6);
pub(crate) const LATEST_CHECK: SignedDuration = SignedDuration::from_hours(24);

/// A clock that is disciplined goes back by less.
const SLACK: SignedDuration = SignedDuration::from_mins(5);

/// Longer than any wait that is stored: a limit of an authority is believed for eight days.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(9 * 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn life(id: &str, begin: i64, seconds: i64) -> Life {
        Life {
            cert_id: id.into(),
            not_before: at(begin),
            not_after: at(begin + seconds),
        }
    }

    const DAY: i64 = 86_400;

    #[test]
    fn without_a_window_two_thirds_of_a_long_and_half_of_a_short_life_count() {
        for (days, part) in [(90, 60.0), (6, 3.0)] {
            let (moment, reason) = life("a.b", 0, days * DAY).renewal(None);
            #[expect(clippy::cast_precision_loss, reason = "days")]
            let day = moment.as_second() as f64 / DAY as f64;
            #[expect(clippy::cast_precision_loss, reason = "days")]
            let spread = days as f64 / 50.0;
            assert!((day - part).abs() <= spread, "{day} of {days}");
            assert_eq!(reason, Reason::Lifetime);
        }
    }

    #[test]
    fn a_window_in_the_past_means_now_and_one_beyond_the_end_the_backstop() {
        let life = life("a.b", 0, 90 * DAY);
        let past = Window::new(at(-20 * DAY), at(-10 * DAY));
        assert!(life.renewal(past).0 <= at(0));
        let (moment, reason) = life.renewal(Window::new(at(200 * DAY), at(201 * DAY)));
        assert_eq!((moment, reason), (at(72 * DAY), Reason::Backstop));
    }

    #[test]
    fn certificates_spread_over_a_window() {
        let window = Window::new(at(60 * DAY), at(62 * DAY));
        let moments: Vec<i64> = (0..1_000)
            .map(|n| {
                let life = life(&format!("aki.{n}"), 0, 90 * DAY);
                life.renewal(window).0.as_second()
            })
            .collect();
        for tenth in 0..10 {
            let from = 60 * DAY + tenth * 2 * DAY / 10;
            let inside = |moment: &&i64| (from..from + 2 * DAY / 10).contains(*moment);
            let count = moments.iter().filter(inside).count();
            assert!((60..140).contains(&count), "tenth {tenth}: {count}");
        }
    }

    #[test]
    fn case_30_the_next_check_is_clamped_and_failures_double_up_to_six_hours() {
        let now = at(0);
        let check = |wait: Option<u64>| next_check(now, wait.map(Duration::from_secs));
        assert_eq!(check(Some(1)), at(60));
        assert_eq!(check(Some(30 * 86_400)), at(DAY));
        assert_eq!(check(Some(7_200)), at(7_200));
        assert_eq!(check(None), at(6 * 3_600));
        assert_eq!(check(Some(u64::MAX)), at(6 * 3_600));
        let next = |n, pause| next_check_after_failure(now, n, pause).as_second() / 60;
        let after = |n| next(n, SignedDuration::ZERO);
        assert_eq!([1, 2, 3, 9, 10, 99].map(after), [1, 2, 4, 256, 360, 360]);
        let hour = SignedDuration::from_hours(1);
        assert_eq!([1, 9].map(|n| next(n, hour)), [60, 256]);
        assert_eq!(next(1, hour * 24 * 30), 24 * 60);
        assert_eq!(Window::new(at(1), at(1)), None);
    }

    proptest! {
        #[test]
        fn a_renewal_lies_in_the_life_before_its_last_fifth_and_is_always_the_same(
            id in "[a-z]{1,8}",
            begin in -1_000_000..4_000_000_000_i64,
            seconds in 1..40_000_000_i64,
            window in prop::option::of((0..5_000_000_000_i64, 1..100_000_000_i64)),
        ) {
            let life = life(&id, begin, seconds);
            let window = window.and_then(|(start, length)| Window::new(at(start), at(start + length)));
            let (moment, reason) = life.renewal(window);
            prop_assert_eq!(life.renewal(window), (moment, reason));
            prop_assert!(moment >= life.not_before);
            prop_assert!(moment <= earlier(life.not_after, life.length() / LAST_PART));
            if let (Some(window), Reason::Window) = (window, reason) {
                prop_assert!(moment <= window.end || moment == life.not_before);
                prop_assert!(moment >= window.start || moment == life.not_before);
            }
        }

        #[test]
        fn the_next_check_is_never_nearer_than_a_minute_nor_further_than_a_day(
            wait in prop::option::of(any::<u64>()), n in any::<u32>(), pause in any::<i64>(),
        ) {
            for next in [
                next_check(at(0), wait.map(Duration::from_secs)),
                next_check_after_failure(at(0), n, SignedDuration::from_secs(pause)),
            ] {
                prop_assert!((60..=DAY).contains(&next.as_second()));
            }
        }
    }
}
