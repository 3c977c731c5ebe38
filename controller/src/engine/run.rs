//! The loop around the engine: takes changes, waits for quiet, publishes, reports.
//!
//! Structural changes wait until none has come for [`QUIET`], at most [`LONGEST`] after the first:
//! a rollout that touches many objects becomes one snapshot. Endpoint changes do not wait.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use gatehouse_gateway::model::Delta;
use gatehouse_gateway::publish::Publisher;

use super::{Engine, Outcome, Report, Urgency};
use crate::source::Change;

/// Runs until the source hangs up.
pub async fn run(
    engine: Engine,
    changes: mpsc::Receiver<Change>,
    mut publisher: Publisher,
    reports: watch::Sender<Arc<Report>>,
) {
    let publish = move |delta| {
        let applied = publisher.apply(delta);
        (applied.generation, applied.digest)
    };
    drive(engine, changes, publish, reports).await;
}

/// The loop, with anything that takes deltas and answers with generation and digest.
async fn drive(
    mut engine: Engine,
    mut changes: mpsc::Receiver<Change>,
    publish: impl FnMut(Delta) -> (u64, u64),
    reports: watch::Sender<Arc<Report>>,
) {
    let mut outlet = Outlet {
        publish,
        reports,
        served: (0, 0),
        revision: 0,
    };
    let mut hold_off = HoldOff::default();
    loop {
        tokio::select! {
            biased;
            change = changes.recv() => {
                let Some(change) = change else {
                    break;
                };
                let mut urgency = hold_off.take(engine.apply(change));
                // What has already arrived costs no waiting; the bound keeps the timer alive.
                for _ in 1..BATCH {
                    let Ok(change) = changes.try_recv() else {
                        break;
                    };
                    urgency = urgency.max(hold_off.take(engine.apply(change)));
                }
                if urgency == Urgency::Endpoints {
                    let outcome = engine.reconcile_endpoints();
                    outlet.send(&mut engine, outcome);
                    if engine.is_dirty() {
                        hold_off.take(Urgency::Structural);
                    }
                } else {
                    outlet.report(&mut engine);
                }
                if hold_off.is_over() {
                    hold_off = HoldOff::default();
                    let outcome = engine.reconcile();
                    outlet.send(&mut engine, outcome);
                }
            }
            () = hold_off.wait() => {
                hold_off = HoldOff::default();
                let outcome = engine.reconcile();
                outlet.send(&mut engine, outcome);
            }
        }
    }
    if engine.is_dirty() {
        let outcome = engine.reconcile();
        outlet.send(&mut engine, outcome);
    }
}

/// When the next round is due.
#[derive(Debug, Default, Clone, Copy)]
struct HoldOff {
    quiet: Option<Instant>,
    latest: Option<Instant>,
}

impl HoldOff {
    /// Notes a change.
    fn take(&mut self, urgency: Urgency) -> Urgency {
        if urgency == Urgency::Structural {
            let now = Instant::now();
            self.quiet = Some(now + QUIET);
            self.latest.get_or_insert(now + LONGEST);
        }
        urgency
    }

    fn due(&self) -> Option<Instant> {
        self.quiet
            .zip(self.latest)
            .map(|(quiet, latest)| quiet.min(latest))
    }

    fn is_over(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    async fn wait(&self) {
        match self.due() {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }
}

/// Where results go.
struct Outlet<P> {
    publish: P,
    reports: watch::Sender<Arc<Report>>,
    served: (u64, u64),
    revision: u64,
}

impl<P: FnMut(Delta) -> (u64, u64)> Outlet<P> {
    fn send(&mut self, engine: &mut Engine, outcome: Outcome) {
        let mut served = self.served;
        if !outcome.delta.is_empty() {
            served = (self.publish)(outcome.delta);
        }
        if served == self.served {
            self.report(engine);
        } else {
            self.served = served;
            self.say(engine);
        }
    }

    fn report(&mut self, engine: &mut Engine) {
        if engine.revision() != self.revision {
            self.say(engine);
        }
    }

    fn say(&mut self, engine: &mut Engine) {
        self.revision = engine.revision();
        let (generation, digest) = self.served;
        let report = Report {
            generation,
            digest,
            ..engine.report()
        };
        self.reports.send_replace(Arc::new(report));
    }
}

/// Quiet time after a structural change.
const QUIET: Duration = Duration::from_millis(20);
/// Longest time a structural change waits.
const LONGEST: Duration = Duration::from_millis(200);
/// Changes taken at once.
const BATCH: usize = 1024;
