//! The loop around the engine: takes changes, waits for quiet, publishes, reports.
//!
//! Structural changes wait until none has come for [`QUIET`], at most [`LONGEST`] after the first:
//! a rollout that touches many objects becomes one snapshot. Endpoint changes do not wait.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use k8s_openapi::jiff::Timestamp;

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
    drive(engine, changes, publish, reports, Timestamp::now).await;
}

/// The loop, with anything that takes deltas and answers with generation and digest, and a clock.
async fn drive(
    mut engine: Engine,
    mut changes: mpsc::Receiver<Change>,
    publish: impl FnMut(Delta) -> (u64, u64),
    reports: watch::Sender<Arc<Report>>,
    clock: impl Fn() -> Timestamp,
) {
    let mut calendar = Calendar {
        clock,
        due: Instant::now(),
    };
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
                    // A default backend that lost its endpoints; what waits already waits no longer.
                    if engine.is_dirty() && hold_off.due().is_none() {
                        hold_off.take(Urgency::Structural);
                    }
                } else {
                    outlet.report(&mut engine);
                }
                if hold_off.is_over() {
                    hold_off = HoldOff::default();
                    let outcome = calendar.reconcile(&mut engine);
                    outlet.send(&mut engine, outcome);
                }
            }
            () = hold_off.wait() => {
                hold_off = HoldOff::default();
                let outcome = calendar.reconcile(&mut engine);
                outlet.send(&mut engine, outcome);
            }
            () = sleep_until(calendar.due) => {
                calendar.consult(&mut engine);
                outlet.report(&mut engine);
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

/// When the certificates are judged by the time again.
struct Calendar<C> {
    clock: C,
    due: Instant,
}

impl<C: Fn() -> Timestamp> Calendar<C> {
    fn reconcile(&mut self, engine: &mut Engine) -> Outcome {
        let now = (self.clock)();
        let outcome = engine.reconcile_at(Some(now));
        if !outcome.delta.certificates.is_empty() {
            self.wait(engine, now);
        }
        outcome
    }

    fn consult(&mut self, engine: &mut Engine) {
        let now = (self.clock)();
        engine.tell_time(now);
        self.wait(engine, now);
    }

    fn wait(&mut self, engine: &Engine, now: Timestamp) {
        let left = engine
            .next_judgement()
            .and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        self.due = Instant::now() + left.unwrap_or(LONGEST_LOOK).min(LONGEST_LOOK);
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
/// The clock of the system may be set meanwhile, so it is asked that often at least.
const LONGEST_LOOK: Duration = Duration::from_secs(3600);
/// Changes taken at once.
const BATCH: usize = 1024;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use k8s_openapi::api::core::v1::{Secret, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use k8s_openapi::api::networking::v1::Ingress;
    use serde::de::DeserializeOwned;
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::*;
    use crate::config::Defaults;
    use crate::diagnostics::Code;
    use crate::source::{Kind, Object, ObjectKey};

    fn read<T: DeserializeOwned>(yaml: &str) -> Arc<T> {
        Arc::new(serde_saphyr::from_str(yaml).unwrap())
    }

    fn apply(kind: Kind, name: &str, object: Object) -> Change {
        let key = ObjectKey {
            kind,
            namespace: "shop".into(),
            name: name.into(),
        };
        Change::Apply(key, object)
    }

    fn ingress(path: &str) -> Change {
        let yaml = format!(
            "{{metadata: {{namespace: shop, name: cart}}, spec: {{rules: [{{host: cart.test, http: \
             {{paths: [{{path: {path}, pathType: Prefix, backend: {{service: {{name: cart, port: \
             {{number: 80}}}}}}}}]}}}}]}}}}"
        );
        apply(
            Kind::Ingress,
            "cart",
            Object::Ingress(read::<Ingress>(&yaml)),
        )
    }

    fn service() -> Change {
        let service = read::<Service>("{spec: {ports: [{port: 80}]}}");
        apply(Kind::Service, "cart", Object::Service(service))
    }

    fn slice(address: &str) -> Change {
        let yaml = format!(
            "{{metadata: {{labels: {{kubernetes.io/service-name: cart}}}}, addressType: IPv4, \
             endpoints: [{{addresses: [{address}]}}], ports: [{{port: 80}}]}}"
        );
        let slice = Object::EndpointSlice(read::<EndpointSlice>(&yaml));
        apply(Kind::EndpointSlice, "cart-1", slice)
    }

    /// When a delta came, and how many hosts and clusters it held.
    type Log = Rc<RefCell<Vec<(u128, usize, usize)>>>;

    /// Runs the loop while `play` sends changes; time is paused, so it is exact.
    async fn record(
        play: impl AsyncFnOnce(mpsc::Sender<Change>, &Log),
    ) -> Vec<(u128, usize, usize)> {
        let mut defaults = Defaults::default();
        defaults.classes.without_class = true;
        let engine = Engine::new(Arc::new(defaults), Arc::default());
        let (sender, changes) = mpsc::channel(16);
        let (reports, _keep) = watch::channel(Arc::default());
        let log = Log::default();
        let (kept, start) = (Rc::clone(&log), Instant::now());
        let publish = move |delta: Delta| {
            let entry = (
                start.elapsed().as_millis(),
                delta.hosts.len(),
                delta.clusters.len(),
            );
            kept.borrow_mut().push(entry);
            (1, 0)
        };
        LocalSet::new()
            .run_until(async {
                let clock = || Timestamp::UNIX_EPOCH;
                let task =
                    tokio::task::spawn_local(drive(engine, changes, publish, reports, clock));
                play(sender, &log).await;
                task.await.unwrap();
            })
            .await;
        log.take()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_published_before_everything_was_sent() {
        let log = record(async |sender, log| {
            for change in [ingress("/"), service(), slice("10.0.0.1")] {
                sender.send(change).await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
            assert!(log.borrow().is_empty());
            sender.send(Change::Synced).await.unwrap();
        })
        .await;
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].1, 2, "the host and the catch-all");
    }

    #[tokio::test(start_paused = true)]
    async fn structural_changes_wait_for_quiet_and_endpoints_do_not() {
        let log = record(async |sender, _| {
            for change in [ingress("/"), service(), slice("10.0.0.1"), Change::Synced] {
                sender.send(change).await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
            sender.send(ingress("/a")).await.unwrap();
            sleep(Duration::from_millis(10)).await;
            sender.send(slice("10.0.0.2")).await.unwrap();
            sleep(Duration::from_millis(990)).await;
        })
        .await;
        assert_eq!(log, [(20, 2, 1), (1010, 0, 1), (1020, 1, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn endless_changes_are_published_every_two_hundred_milliseconds() {
        let log = record(async |sender, _| {
            sender.send(Change::Synced).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            for number in 0..50 {
                sender.send(ingress(&format!("/{number}"))).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let times: Vec<u128> = log.iter().map(|entry| entry.0).collect();
        assert_eq!(times[..3], [20, 1200, 1410]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_certificate_is_told_when_it_comes() {
        let mut params = rcgen::CertificateParams::new(["cart.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let secret = Secret {
            string_data: Some(
                [
                    ("tls.crt".into(), params.self_signed(&key).unwrap().pem()),
                    ("tls.key".into(), key.serialize_pem()),
                ]
                .into(),
            ),
            ..Secret::default()
        };
        let ingress = read::<Ingress>(
            "{metadata: {namespace: shop, name: cart}, spec: {tls: [{hosts: [cart.test], \
             secretName: tls}], rules: [{host: cart.test}]}}",
        );
        let mut defaults = Defaults::default();
        defaults.classes.without_class = true;
        let engine = Engine::new(Arc::new(defaults), Arc::default());
        let (sender, changes) = mpsc::channel(16);
        let (reports, mut told) = watch::channel(Arc::default());
        let (start, begin) = (Instant::now(), "2026-03-01T00:00:00Z");
        let begin: Timestamp = begin.parse().unwrap();
        let clock = move || begin + start.elapsed();
        tokio::spawn(drive(engine, changes, |_| (1, 0), reports, clock));
        for change in [
            apply(Kind::Secret, "tls", Object::Secret(Arc::new(secret))),
            apply(Kind::Ingress, "cart", Object::Ingress(ingress)),
            Change::Synced,
        ] {
            sender.send(change).await.unwrap();
        }
        for (code, moment) in [
            (Code::CertificateExpiresSoon, "2026-03-18T00:00:00Z"),
            (Code::CertificateExpired, "2026-04-01T00:00:01Z"),
        ] {
            told.wait_for(|report: &Arc<Report>| report.diagnostics.iter().any(|d| d.code == code))
                .await
                .unwrap();
            let late = clock().duration_since(moment.parse().unwrap());
            assert!(late.as_millis() < 10, "{code:?} {late}");
            assert!(late.as_millis() >= 0, "{code:?} {late}");
        }
    }
}
