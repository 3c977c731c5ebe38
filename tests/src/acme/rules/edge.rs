//! Answers that come before any order is looked at: limits, faults, the edge in front.

use std::sync::Arc;

use gatehouse_acme::clock::Clock;
use jiff::{SignedDuration, Timestamp};

use super::{answer, problem, with};
use crate::acme::fault::{Endpoint, Rule, Seen, Verdict};
use crate::raw::Answer;

/// Gives one answer, or none, to requests of some endpoints, as often as told.
pub struct On {
    endpoints: Option<Vec<Endpoint>>,
    times: usize,
    skip: usize,
    reply: Option<Answer>,
}

impl On {
    /// Every request of these endpoints gets this answer.
    pub fn these(endpoints: &[Endpoint], reply: Answer) -> Self {
        Self {
            endpoints: Some(endpoints.to_vec()),
            times: usize::MAX,
            skip: 0,
            reply: Some(reply),
        }
    }

    /// Every request at all gets this answer.
    pub fn everything(reply: Answer) -> Self {
        Self {
            endpoints: None,
            ..Self::these(&[], reply)
        }
    }

    /// These endpoints never answer.
    pub fn silent(endpoints: &[Endpoint]) -> Self {
        Self {
            reply: None,
            ..Self::these(endpoints, Answer::default())
        }
    }

    /// Only so often.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Not the first few.
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }
}

impl Rule for On {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let meant = match &self.endpoints {
            Some(endpoints) => endpoints.contains(&seen.endpoint),
            None => true,
        };
        if !meant || self.times == 0 {
            return Verdict::Pass;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Verdict::Pass;
        }
        self.times -= 1;
        match &self.reply {
            Some(reply) => Verdict::Answer(reply.clone()),
            None => Verdict::Silence,
        }
    }
}

/// (g) A limit was reached: the words name it and the time, fields say both again.
pub fn rate_limited(what: &str, seconds: u64, at: &str) -> Answer {
    let text = format!("too many {what}, retry after {at}: see https://ca.example/limits");
    with(
        problem(429, "rateLimited", &text),
        &[
            ("Retry-After", &seconds.to_string()),
            ("Link", "<https://ca.example/limits>;rel=\"help\""),
        ],
    )
}

/// (g) A limit as an authority keeps it: after so many new orders the next ones are refused for a
/// while, however fast they came.
pub struct Allowance {
    most: usize,
    pause: SignedDuration,
    clock: Arc<dyn Clock>,
    used: usize,
    until: Option<Timestamp>,
}

impl Allowance {
    /// By the time of this clock.
    pub fn new(most: usize, pause: SignedDuration, clock: Arc<dyn Clock>) -> Self {
        Self {
            most,
            pause,
            clock,
            used: 0,
            until: None,
        }
    }
}

impl Rule for Allowance {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint != Endpoint::NewOrder {
            return Verdict::Pass;
        }
        let now = self.clock.now();
        if self.until.is_some_and(|until| until <= now) {
            (self.used, self.until) = (0, None);
        }
        if self.used < self.most {
            self.used += 1;
            return Verdict::Pass;
        }
        let until = *self.until.get_or_insert(now + self.pause);
        let seconds = u64::try_from(until.duration_since(now).as_secs() + 1).unwrap_or(1);
        Verdict::Answer(rate_limited("new orders from this account", seconds, ""))
    }
}

/// (h) The authority itself has a fault.
pub fn internal_error() -> Answer {
    with(
        problem(500, "serverInternal", "something went wrong"),
        &[("Retry-After", "60")],
    )
}

/// (h) The edge in front of the authority: no problem document.
pub fn edge_unavailable(seconds: u64) -> Answer {
    let page = "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>";
    with(
        answer(503, "text/html", page),
        &[("Retry-After", &seconds.to_string())],
    )
}

/// (l) A name that failed too often is paused until a person follows the link.
pub fn paused(name: &str) -> Answer {
    let text = format!(
        "issuance for {name} is paused after many failures: visit \
         https://ca.example/unpause?jwt=abc to go on"
    );
    problem(429, "rateLimited", &text)
}
