//! Which of several replicas writes to the cluster: whoever holds a Lease.
//!
//! Invariants:
//! - The Lease changes hands by compare-and-swap on its `resourceVersion`, so at most one replica
//!   holds it at the API server.
//! - Foreign clocks are never compared: a Lease has lapsed when this replica has seen no change of
//!   it for as long as it is good for, by its own monotonic clock.
//! - A leader believes in itself for `RENEW_WITHIN` after the *start* of its last good renewal,
//!   which ends before anybody else may take over. [`Leadership::epoch`] reads the clock, so a
//!   process that was stopped for a minute does not act on what it believed before.
//! - Traffic depends on no leader.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::metrics::Labelled;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::source::kubernetes::plain;
use crate::source::kubernetes::refusal::{Act, Refusal, Refusals};

/// Gives a client with the latest credentials.
pub type Clients = Arc<dyn Fn() -> Client + Send + Sync>;

/// Who stands for election, and for what.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Unique among all replicas and restarts.
    pub identity: Arc<str>,
    /// Namespace of the Lease.
    pub namespace: Arc<str>,
    /// Name of the Lease.
    pub lease: Arc<str>,
}

/// Whether this replica leads. Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Leadership {
    term: watch::Receiver<Option<Term>>,
}

impl Collector for Leadership {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(i64::from(self.epoch().is_some()));
        gauge.encode(LEADER.describe(&mut encoder)?)
    }
}

/// One time of leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    epoch: u64,
    /// Until when it is certain without another renewal; `None` means for ever.
    until: Option<Instant>,
}

impl Leadership {
    /// A replica that leads without being elected: there is only one, or the operator says so.
    pub fn unquestioned() -> Self {
        let (_, term) = watch::channel(Some(Term {
            epoch: 0,
            until: None,
        }));
        Self { term }
    }

    /// One that ends when told, for the tests of those who obey it.
    #[cfg(test)]
    pub(crate) fn ending() -> (Self, impl FnOnce()) {
        let (sender, term) = watch::channel(Some(Term {
            epoch: 0,
            until: None,
        }));
        let end = move || {
            sender.send_replace(None);
        };
        (Self { term }, end)
    }

    /// The number of this term while this replica leads for certain. It grows with every change of
    /// the leader for as long as the Lease exists.
    pub fn epoch(&self) -> Option<u64> {
        let term = (*self.term.borrow())?;
        let certain = term.until.is_none_or(|until| Instant::now() < until);
        certain.then_some(term.epoch)
    }

    /// Waits until [`Leadership::epoch`] is another than this.
    pub async fn changed(&mut self, known: Option<u64>) -> Option<u64> {
        loop {
            let epoch = self.epoch();
            if epoch != known {
                return epoch;
            }
            let until = self.term.borrow_and_update().and_then(|term| term.until);
            let lapsed = async {
                match until {
                    Some(until) if epoch.is_some() => sleep_until(until).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                news = self.term.changed() => {
                    if news.is_err() {
                        // Nobody renews any more; what is certain stays so until it lapses.
                        match until {
                            Some(until) if epoch.is_some() => sleep_until(until).await,
                            _ => std::future::pending().await,
                        }
                    }
                }
                () = lapsed => {}
            }
        }
    }
}

/// Stands for election until told to stop, then gives the Lease back so that the next replica need
/// not wait for it to lapse. The future is to be spawned.
pub fn stand(
    clients: Clients,
    candidate: Candidate,
    refusals: Refusals,
    stop: oneshot::Receiver<()>,
) -> (Leadership, impl Future<Output = ()> + Send + 'static) {
    let (sender, term) = watch::channel(None);
    let mut election = Election {
        clients,
        candidate,
        refusals,
        term: sender,
        seen: None,
        complained: false,
    };
    let future = async move {
        tokio::select! {
            never = election.run() => never,
            // A sender that is dropped says the same.
            _ = stop => {}
        }
        election.resign().await;
    };
    (Leadership { term }, future)
}

struct Election {
    clients: Clients,
    candidate: Candidate,
    refusals: Refusals,
    term: watch::Sender<Option<Term>>,
    seen: Option<Seen>,
    /// The API server has failed and that has been said.
    complained: bool,
}

/// The Lease as it was when it last changed, and when that was noticed.
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

/// How a request for the Lease ended.
enum Answer {
    /// It is ours, in this version.
    Ours(Box<Lease>),
    /// Somebody else has it; worth asking again then.
    Theirs(Instant),
    /// No answer.
    Nothing,
}

impl Election {
    async fn run<T>(&mut self) -> T {
        loop {
            let asked = Instant::now();
            let answer = self.campaign(asked).await;
            if !matches!(answer, Answer::Nothing) {
                self.recovered();
            }
            let next = match answer {
                Answer::Ours(lease) => {
                    self.lead(*lease, asked).await;
                    Instant::now() + RETRY
                }
                Answer::Theirs(lapses) => lapses.min(asked + RETRY),
                Answer::Nothing => asked + RETRY,
            };
            sleep_until(next.max(asked + RETRY / 10)).await;
        }
    }

    /// Takes the Lease if nobody has it.
    async fn campaign(&mut self, now: Instant) -> Answer {
        let (api, params) = (self.api(), PostParams::default());
        let name = Arc::clone(&self.candidate.lease);
        let Ok(found) = self.ask(api.get_opt(&name)).await else {
            return Answer::Nothing;
        };
        let Some(mut lease) = found else {
            let lease = self.lease(ObjectMeta {
                name: Some(name.to_string()),
                ..ObjectMeta::default()
            });
            return Self::won(self.ask(api.create(&params, &lease)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&*self.candidate.identity);
        let lapses = self.lapses(&spec, now);
        if !ours && lapses > now {
            return Answer::Theirs(lapses);
        }
        let fresh = self.lease(std::mem::take(&mut lease.metadata));
        let transitions = spec.lease_transitions.unwrap_or_default();
        lease = Lease {
            spec: fresh.spec.map(|spec| LeaseSpec {
                lease_transitions: Some(transitions.saturating_add(i32::from(!ours))),
                ..spec
            }),
            ..fresh
        };
        Self::won(self.ask(api.replace(&name, &params, &lease)).await)
    }

    /// Without success somebody was faster, or the API server is in trouble: the next look shows.
    fn won(result: Result<Lease, Trouble>) -> Answer {
        result.map_or(Answer::Nothing, |lease| Answer::Ours(Box::new(lease)))
    }

    /// When the Lease lapses unless it is renewed.
    fn lapses(&mut self, spec: &LeaseSpec, now: Instant) -> Instant {
        let held = spec
            .holder_identity
            .as_deref()
            .is_some_and(|holder| !holder.is_empty());
        if !held {
            self.seen = None;
            return now;
        }
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
            .clamp(Duration::from_secs(1), LONGEST);
        match &self.seen {
            Some(seen) if seen.spec == *spec => seen.at + duration,
            _ => {
                self.seen = Some(Seen {
                    spec: spec.clone(),
                    at: now,
                });
                now + duration
            }
        }
    }

    /// Renews until that fails for too long or somebody else has the Lease.
    async fn lead(&mut self, mut lease: Lease, mut asked: Instant) {
        let epoch = epoch(&lease);
        tracing::info!(epoch, identity = %self.candidate.identity, "this replica leads");
        loop {
            let certain = asked + RENEW_WITHIN;
            self.term.send_replace(Some(Term {
                epoch,
                until: Some(certain),
            }));
            sleep_until(asked + RETRY).await;
            let renewed = timeout_at(certain, self.renew(lease)).await;
            match renewed {
                Ok(Some((next, at))) => (lease, asked) = (next, at),
                Ok(None) | Err(_) => break,
            }
        }
        self.term.send_replace(None);
        tracing::warn!(
            epoch,
            "this replica leads no longer: the lease was not renewed"
        );
    }

    /// The renewed Lease and when the renewal began; `None` when it belongs to somebody else. Tries
    /// again for as long as the caller waits.
    async fn renew(&mut self, mut lease: Lease) -> Option<(Lease, Instant)> {
        let params = PostParams::default();
        let name = Arc::clone(&self.candidate.lease);
        loop {
            let (api, asked) = (self.api(), Instant::now());
            if let Some(spec) = &mut lease.spec {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            match self.ask(api.replace(&name, &params, &lease)).await {
                Ok(renewed) => {
                    self.recovered();
                    return Some((renewed, asked));
                }
                // Somebody has written to it. That may have been ourselves, when the answer to a
                // renewal was lost.
                Err(Trouble::Conflict) => match self.ask(api.get_opt(&name)).await {
                    Ok(Some(found)) if self.is_ours(&found) => {
                        lease = found;
                        continue;
                    }
                    Ok(_) => return None,
                    Err(_) => {}
                },
                Err(Trouble::Gone) => return None,
                Err(Trouble::Other) => {}
            }
            sleep_until(asked + RETRY).await;
        }
    }

    /// Gives the Lease back, if it is ours. Asks first: a renewal that was cut off may have made
    /// another version of it.
    async fn resign(&mut self) {
        let led = self.term.send_replace(None).is_some();
        let name = Arc::clone(&self.candidate.lease);
        let api = self.api();
        let found = timeout(GOODBYE, api.get_opt(&name)).await;
        let Ok(Ok(Some(mut lease))) = found else {
            return;
        };
        if !self.is_ours(&lease) {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        let freed = timeout(GOODBYE, api.replace(&name, &params, &lease)).await;
        tracing::info!(
            led,
            freed = matches!(freed, Ok(Ok(_))),
            "the lease is given back"
        );
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced((self.clients)(), &self.candidate.namespace)
    }

    fn lease(&self, metadata: ObjectMeta) -> Lease {
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.candidate.identity.to_string()),
                lease_duration_seconds: Some(GOOD_FOR_SECONDS),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(&*self.candidate.identity)
    }

    /// All that is needed now could be done. One request that is answered is not enough: the Lease may
    /// be read where it may not be written.
    fn recovered(&mut self) {
        self.refusals.forget(Act::Election);
        if std::mem::take(&mut self.complained) {
            let Candidate {
                namespace, lease, ..
            } = &self.candidate;
            tracing::info!("the lease {namespace}/{lease} is in reach again");
        }
    }

    /// One request with a bound; complains once per time of trouble.
    async fn ask<T>(
        &mut self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        let error = match timeout(ANSWER, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {
                return Err(Trouble::Conflict);
            }
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {
                return Err(Trouble::Conflict);
            }
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
                return Err(Trouble::Gone);
            }
            Ok(Err(error)) => {
                if let Some(refusal) = Refusal::of(&error, &self.candidate.lease) {
                    let namespace = &self.candidate.namespace;
                    self.refusals.note(Act::Election, namespace, refusal);
                }
                plain(&error)
            }
            Err(_elapsed) => format!("no answer in {ANSWER:?}"),
        };
        if !std::mem::replace(&mut self.complained, true) {
            let Candidate {
                namespace, lease, ..
            } = &self.candidate;
            tracing::warn!(
                error,
                "the lease {namespace}/{lease} cannot be read or written: status and events wait, \
                 traffic does not; `gatehouse generate rbac` prints the rights it takes"
            );
        }
        Err(Trouble::Other)
    }
}

/// Why a request for the Lease had no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Somebody else has written to it.
    Conflict,
    /// It does not exist.
    Gone,
    /// The API server does not answer, or not to us.
    Other,
}

/// Number of the term that begins with this Lease. A Lease that was deleted and made anew counts on
/// from the moment of that, because what is written with a number outlives the Lease.
fn epoch(lease: &Lease) -> u64 {
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    let transitions = u64::try_from(transitions.unwrap_or_default()).unwrap_or_default();
    let made = lease.metadata.creation_timestamp.as_ref();
    let made = made.map_or(0, |time| time.0.as_second().try_into().unwrap_or(0_u64));
    (made << TRANSITIONS) | transitions.min((1 << TRANSITIONS) - 1)
}

/// What is shown by the metrics.
pub const METRICS: [&Labelled; 1] = [&LEADER];

const LEADER: Labelled = Labelled {
    name: "gatehouse_leader",
    kind: MetricType::Gauge,
    labels: &[],
    help: "Whether this replica leads, so that it writes status and events",
};

/// Bits of an epoch that count changes of hands: room for weeks of one every two seconds, and for the
/// seconds above them in what a JSON number holds exactly.
const TRANSITIONS: u32 = 20;
/// How long a Lease is good for after a renewal, in its own unit.
const GOOD_FOR_SECONDS: i32 = 15;
/// How long a leader is certain of itself after the start of a renewal.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at the Lease, and between two renewals.
const RETRY: Duration = Duration::from_secs(2);
/// How long one request may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long each of the two requests of a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// What a foreign Lease may claim at most.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
