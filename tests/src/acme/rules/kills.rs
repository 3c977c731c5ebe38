//! A client that dies while it talks with the authority.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};

use crate::acme::fault::{Endpoint, Rule, Seen, Verdict};
use crate::gateway::signal;
use crate::raw::Answer;

/// A request by what it is for and whether the authority had been told to issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Moment {
    Directory,
    Nonce,
    NewAccount,
    NewOrder,
    Authorization,
    Challenge,
    OrderBefore,
    Finalize,
    OrderAfter,
    Certificate,
    Renewal,
}

impl Moment {
    /// All of them, in the order in which a certificate comes into being.
    pub const ALL: [Self; 11] = [
        Self::Directory,
        Self::Nonce,
        Self::NewAccount,
        Self::NewOrder,
        Self::Authorization,
        Self::Challenge,
        Self::OrderBefore,
        Self::Finalize,
        Self::OrderAfter,
        Self::Certificate,
        Self::Renewal,
    ];

    fn is(self, endpoint: Endpoint, finalized: bool) -> bool {
        let expected = match self {
            Self::Directory => Endpoint::Directory,
            Self::Nonce => Endpoint::Nonce,
            Self::NewAccount => Endpoint::NewAccount,
            Self::NewOrder => Endpoint::NewOrder,
            Self::Authorization => Endpoint::Authorization,
            Self::Challenge => Endpoint::Challenge,
            Self::OrderBefore | Self::OrderAfter => Endpoint::Order,
            Self::Finalize => Endpoint::Finalize,
            Self::Certificate => Endpoint::Certificate,
            Self::Renewal => Endpoint::Renewal,
        };
        expected == endpoint && (self != Self::OrderAfter || finalized)
    }
}

/// Which side of a request a client dies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The authority never gets the request.
    Before,
    /// The authority acted on it, and nobody hears of that.
    After,
}

/// Kills a process at each of these moments in turn, with SIGKILL. The process that has to die is
/// asked for when its moment has come: until it is named, the request waits.
pub struct Kills {
    moments: VecDeque<(Moment, Side)>,
    victims: Receiver<u32>,
    killed: Sender<Moment>,
    finalized: bool,
    /// What the authority is working on, and who dies when it is done.
    doomed: Option<(String, u32)>,
}

impl Kills {
    /// At these moments; who is killed is read from `victims`, what happened told to `killed`.
    pub fn at(
        moments: impl IntoIterator<Item = (Moment, Side)>,
        victims: Receiver<u32>,
        killed: Sender<Moment>,
    ) -> Self {
        Self {
            moments: moments.into_iter().collect(),
            victims,
            killed,
            finalized: false,
            doomed: None,
        }
    }

    /// The process that has to die at this request, if this is the next moment.
    fn victim(&mut self, seen: &Seen) -> Option<u32> {
        let (moment, _) = self.moments.front()?;
        if !moment.is(seen.endpoint, self.finalized) {
            return None;
        }
        // Nobody to be killed: the test has ended.
        self.victims.recv().ok()
    }

    fn kill(&mut self, victim: u32) {
        if let Some((moment, _)) = self.moments.pop_front() {
            assert!(signal(victim, "KILL"), "{victim} dies at {moment:?}");
            self.killed.send(moment).ok();
        }
    }
}

impl Rule for Kills {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let Some(victim) = self.victim(seen) else {
            return Verdict::Pass;
        };
        if self
            .moments
            .front()
            .is_some_and(|(_, side)| *side == Side::After)
        {
            self.doomed = Some((seen.target.clone(), victim));
            return Verdict::Pass;
        }
        self.kill(victim);
        Verdict::Silence
    }

    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        let doomed = self.doomed.take_if(|(target, _)| *target == seen.target);
        if let Some((_, victim)) = doomed {
            self.kill(victim);
        }
        self.finalized |= seen.endpoint == Endpoint::Finalize && answer.status == 200;
    }
}
