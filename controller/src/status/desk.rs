//! The loop behind everything that the leader writes: what is the case now, what of it is not
//! written yet, and not too much of it at a time.
//!
//! Invariants:
//! - Nothing is sent unless this replica leads for certain, and no request outlives its answer time,
//!   which is shorter than the time between the end of that certainty and the next leader.
//! - What failed is tried again ever later, at least once a minute; what is no longer the case is
//!   not written at all.
//! - Requests under way, their rate and the lines about failures are bounded, however much has
//!   changed.

use std::fmt;
use std::future::{Future, pending};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::address::Addresses;
use super::queue::{InTurn, Queue};
use crate::engine::Report;
use crate::leader::Leadership;
use crate::pace::Pace;
use crate::source::kubernetes::plain;
use crate::source::kubernetes::refusal::{Act, Refusal, Refusals};

/// One kind of thing to write.
pub(super) trait Duty: Send {
    /// What is written by one request.
    type Key: Clone + Ord + Hash + InTurn + fmt::Debug + Send + 'static;
    /// What is known of it afterwards.
    type Written: Send + 'static;

    /// Takes in what is the case; answers with what may have to be written.
    fn survey(&mut self, report: &Report, addresses: &Addresses) -> Vec<Self::Key>;

    /// The request that writes it.
    fn request(&mut self, key: &Self::Key, now: Instant) -> Step<Self::Written>;

    /// It is written. How long it rests, and whether it is to be written again after that.
    fn learn(&mut self, key: &Self::Key, written: Self::Written, now: Instant) -> Rest;
}

/// A request; its future owns all it needs.
pub(super) type Request<W> = Pin<Box<dyn Future<Output = kube::Result<W>> + Send>>;

/// What to do about a key.
pub(super) enum Step<W> {
    /// Nothing: it is so already, or no longer the case.
    Nothing,
    /// Something, but not before that.
    Later(Instant),
    /// To send this.
    Send(Request<W>),
}

/// What follows a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// The next change is written no sooner.
    For(Duration),
    /// The same is written again then.
    Until(Duration),
}

/// What a duty reads and obeys.
#[derive(Clone)]
pub(super) struct Desk {
    /// In a sentence: what cannot be written when it cannot.
    pub(super) what: &'static str,
    /// The same where it is told that the API server refuses it.
    pub(super) act: Act,
    pub(super) refusals: Refusals,
    pub(super) reports: watch::Receiver<Arc<Report>>,
    pub(super) addresses: watch::Receiver<Addresses>,
    pub(super) leadership: Leadership,
    pub(super) pace: Pace,
}

impl Desk {
    /// Does a duty whenever this replica leads, from scratch each time. Ends with the reports.
    pub(super) async fn serve<D: Duty>(mut self, duty: impl Fn() -> D) {
        loop {
            let Some(epoch) = self.leadership.epoch() else {
                self.leadership.changed(None).await;
                continue;
            };
            // Without everything having been read once nobody knows what is the case.
            let synced = self.reports.wait_for(|report| report.generation > 0);
            tokio::select! {
                synced = synced => if synced.is_err() {
                    return;
                },
                _ = self.leadership.changed(Some(epoch)) => continue,
            }
            let ended = self.term(epoch, duty()).await;
            // Whoever leads now finds out by itself.
            self.refusals.forget(self.act);
            if ended.is_none() {
                return;
            }
        }
    }

    /// One time of leading; `None` when there will be no more reports.
    async fn term<D: Duty>(&mut self, epoch: u64, mut duty: D) -> Option<()> {
        let mut queue = Queue::default();
        let mut running = JoinSet::new();
        let mut complained: Option<Instant> = None;
        // It knows the present time of leading and waits for its end.
        let mut leadership = self.leadership.clone();
        self.survey(&mut duty, &mut queue);
        loop {
            let wake = self.launch(epoch, &mut duty, &mut queue, &mut running);
            tokio::select! {
                _ = leadership.changed(Some(epoch)) => return Some(()),
                news = self.reports.changed() => {
                    news.ok()?;
                    self.survey(&mut duty, &mut queue);
                }
                news = self.addresses.changed() => {
                    if news.is_err() {
                        return None;
                    }
                    self.survey(&mut duty, &mut queue);
                }
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    let Ok((key, result)) = ended else {
                        continue;
                    };
                    self.note(&key, result.as_ref());
                    // One object that fails for ever, among others that do not, is no news each
                    // time.
                    if let Some(why) = settle(&mut duty, &mut queue, key, result)
                        && complained.is_none_or(|at| at.elapsed() >= SILENCE)
                    {
                        complained = Some(Instant::now());
                        tracing::warn!(why, "{} cannot be written now: trying again", self.what);
                    }
                }
                () = at(wake) => {}
            }
        }
    }

    fn survey<D: Duty>(&mut self, duty: &mut D, queue: &mut Queue<D::Key>) {
        let report = Arc::clone(&self.reports.borrow_and_update());
        let addresses = self.addresses.borrow_and_update().clone();
        for key in duty.survey(&report, &addresses) {
            queue.add(key);
        }
    }

    /// Writes down whether the API server refuses it.
    fn note<K: InTurn + fmt::Debug, W>(&self, key: &K, result: Option<&kube::Result<W>>) {
        match result {
            // Rights are looked at before objects.
            Some(Err(kube::Error::Api(status)))
                if status.is_not_found() || status.is_conflict() =>
            {
                self.refusals.passed(self.act, &key.namespace(), key);
            }
            Some(Err(error)) => {
                if let Some(refusal) = Refusal::of(error, key) {
                    self.refusals.note(self.act, &key.namespace(), refusal);
                }
            }
            Some(Ok(_)) => self.refusals.passed(self.act, &key.namespace(), key),
            None => {}
        }
    }

    /// Sends what may be sent now; answers when to look again without news.
    fn launch<D: Duty>(
        &mut self,
        epoch: u64,
        duty: &mut D,
        queue: &mut Queue<D::Key>,
        running: &mut JoinSet<Ended<D>>,
    ) -> Option<Instant> {
        while running.len() < PARALLEL {
            let now = Instant::now();
            let allowed = self.pace.allows(now);
            if allowed > now {
                return (queue.is_ready() || queue.due().is_some()).then_some(allowed);
            }
            if self.leadership.epoch() != Some(epoch) {
                return None;
            }
            let Some(key) = queue.take(now) else {
                return queue.due();
            };
            match duty.request(&key, now) {
                Step::Nothing => {
                    self.refusals.gone(self.act, &key.namespace(), &key);
                    queue.done(key, now, Duration::ZERO);
                }
                Step::Later(at) => queue.postpone(key, at),
                Step::Send(request) => {
                    self.pace.spend(now);
                    running.spawn(async move { (key, timeout(ANSWER, request).await.ok()) });
                }
            }
        }
        None
    }
}

/// A request that has ended; without a result there was no answer.
type Ended<D> = (<D as Duty>::Key, Option<kube::Result<<D as Duty>::Written>>);

/// Draws the consequence; answers with what is worth a complaint.
fn settle<D: Duty>(
    duty: &mut D,
    queue: &mut Queue<D::Key>,
    key: D::Key,
    result: Option<kube::Result<D::Written>>,
) -> Option<String> {
    let now = Instant::now();
    match result {
        Some(Ok(written)) => {
            match duty.learn(&key, written, now) {
                Rest::For(rest) => queue.done(key, now, rest),
                Rest::Until(rest) => {
                    queue.add(key.clone());
                    queue.done(key, now, rest);
                }
            }
            None
        }
        // The object is gone, or is another one of the same name: the watch will tell.
        Some(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
            queue.done(key, now, Duration::from_secs(1));
            None
        }
        Some(Err(error)) => {
            queue.failed(key, now);
            Some(plain(&error))
        }
        None => {
            queue.failed(key, now);
            Some(format!("no answer in {ANSWER:?}"))
        }
    }
}

async fn at(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => pending().await,
    }
}

/// Requests under way.
const PARALLEL: usize = 8;
/// Between two complaints.
const SILENCE: Duration = Duration::from_secs(600);
/// How long a request may take. A leader is certain for 10 s of the 15 s that its lease is good for.
pub(super) const ANSWER: Duration = Duration::from_secs(4);
