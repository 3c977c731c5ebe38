//! Metrics of the certificate manager.
//!
//! Invariant: labels come from the configuration, from objects that exist, or from closed lists. What
//! an authority answers with is one of such a list, or `other`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gatehouse_acme::ca::{Endpoint, Exchange, Observer, Step};
use gatehouse_acme::events::{Event, Report, What};
use gatehouse_acme::failure::Class;
use gatehouse_acme::keeper::Asker;
use gatehouse_acme::served::Reports;
use gatehouse_gateway::metrics::Labelled;
use http::Uri;
use k8s_openapi::jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tokio::sync::{broadcast, watch};

/// What was counted: shared by whoever counts and whoever shows.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// By authority, endpoint, status and problem.
    requests: BTreeMap<(Arc<str>, &'static str, &'static str, &'static str), u64>,
    /// By authority and endpoint.
    times: BTreeMap<(Arc<str>, &'static str), Times>,
    /// By issuer and result.
    orders: BTreeMap<(String, &'static str), u64>,
    /// By authority.
    authorities: BTreeMap<Arc<str>, Authority>,
}

#[derive(Debug, Default)]
struct Times {
    buckets: [u64; BUCKETS.len()],
    sum: f64,
}

#[derive(Debug, Default)]
struct Authority {
    up: bool,
    skew: Option<i64>,
}

impl Tally {
    /// Counts what is asked of an authority.
    pub fn observer(&self, endpoint: &Endpoint) -> Observer {
        let tally = self.clone();
        let uri: Option<Uri> = endpoint.directory.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let authority: Arc<str> = host.into();
        Arc::new(move |exchange| tally.exchange(&authority, exchange))
    }

    fn exchange(&self, authority: &Arc<str>, exchange: &Exchange) {
        let step = step(exchange.step);
        let problem = exchange
            .problem
            .as_deref()
            .map_or("", |problem| one_of(&PROBLEMS, problem).unwrap_or("other"));
        let mut counts = self.counts();
        let request = (
            Arc::clone(authority),
            step,
            status(exchange.status),
            problem,
        );
        *counts.requests.entry(request).or_default() += 1;
        let times = counts
            .times
            .entry((Arc::clone(authority), step))
            .or_default();
        let seconds = exchange.elapsed.as_secs_f64();
        let bucket = BUCKETS.partition_point(|&limit| limit < seconds);
        if let Some(count) = times.buckets.get_mut(bucket) {
            *count += 1;
        }
        times.sum += seconds;
        let known = counts.authorities.entry(Arc::clone(authority)).or_default();
        known.up = exchange.status.is_some_and(|status| status < 500);
        if let Some(date) = exchange.date {
            known.skew = Some(date.as_second() - Timestamp::now().as_second());
        }
    }

    /// Counts what happens to orders until the keeper ends.
    pub async fn follow(
        self,
        mut events: broadcast::Receiver<Event>,
        reports: watch::Receiver<Arc<Reports>>,
    ) {
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                // Counts are too low then, which is better than to hold the keeper up.
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let result = match event.what {
                What::Ordered { .. } => "ordered",
                What::Finalizing => "finalized",
                What::Issued { .. } => "issued",
                What::Failed { .. } => "failed",
                What::TakenOver { .. } | What::Warning(_) => continue,
            };
            let issuer = reports.borrow().get(&event.target).map(|report| {
                let under = report.order.as_ref().map(|under| &under.issuer);
                under.unwrap_or(&report.issuer).clone()
            });
            let key = (issuer.unwrap_or_default(), result);
            *self.counts().orders.entry(key).or_default() += 1;
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic while counting leaves counts that are still the best there are.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows what was counted, and how certificates stand.
#[derive(Debug)]
pub struct Board {
    /// What was counted.
    pub tally: Tally,
    /// How certificates stand.
    pub asker: Asker,
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let reports = self.asker.reports.borrow().clone();
        let gauges: [(&Labelled, Read); 6] = [
            (&NOT_BEFORE, |report| second(report.not_before)),
            (&RENEW_AT, renewal),
            (&FAILURES, |report| Some(i64::from(report.failures))),
            (&NEXT_ATTEMPT, |report| second(report.next_attempt)),
            (&REVISION, |report| i64::try_from(report.rev).ok()),
            (&WANTED, |report| Some(i64::from(report.wanted))),
        ];
        for (metric, read) in gauges {
            let mut family = metric.describe(&mut encoder)?;
            for report in reports.values() {
                let Some(value) = read(report) else { continue };
                let certificate = report.target.to_string();
                family
                    .encode_family(&[("certificate", &*certificate), ("issuer", &report.issuer)])?
                    .encode_gauge(&value)?;
            }
        }
        let mut family = PHASE.describe(&mut encoder)?;
        for report in reports.values() {
            let (certificate, phase) = (report.target.to_string(), format!("{:?}", report.phase));
            let labels = [
                ("certificate", &*certificate),
                ("issuer", &report.issuer),
                ("phase", &phase),
            ];
            family.encode_family(&labels)?.encode_gauge(&1i64)?;
        }
        let mut family = WAITING.describe(&mut encoder)?;
        for report in reports.values() {
            let Some(class) = report.waiting else {
                continue;
            };
            let certificate = report.target.to_string();
            let labels = [
                ("certificate", &*certificate),
                ("issuer", &report.issuer),
                ("class", waiting(class)),
            ];
            family.encode_family(&labels)?.encode_gauge(&1i64)?;
        }
        let mut family = SERIAL.describe(&mut encoder)?;
        for report in reports.values() {
            let Some(serial) = &report.serial else {
                continue;
            };
            let certificate = report.target.to_string();
            family
                .encode_family(&[("certificate", &*certificate), ("serial", serial)])?
                .encode_gauge(&1i64)?;
        }
        LEADER
            .describe(&mut encoder)?
            .encode_gauge(&i64::from(self.asker.leads()))?;
        limits(&reports, &mut encoder)?;
        self.tally.counts().encode(&mut encoder)
    }
}

/// Until when limits of the authorities hold, as certificates met them.
fn limits(reports: &Reports, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut limits: BTreeMap<(&str, &'static str), i64> = BTreeMap::new();
    for report in reports.values() {
        if let (Some(Class::Limited), Some(until)) = (report.waiting, report.next_attempt) {
            let under = report.order.as_ref().map(|under| under.issuer.as_str());
            let issuer = under.unwrap_or(&report.issuer);
            let scope = report.scope.as_ref().map_or(Some("account"), scope);
            // What keeps a pace of its own meets no limit.
            let Some(scope) = scope else { continue };
            let latest = limits.entry((issuer, scope)).or_default();
            *latest = (*latest).max(until.as_second());
        }
    }
    let mut family = LIMITED_UNTIL.describe(encoder)?;
    for ((issuer, scope), until) in limits {
        family
            .encode_family(&[("issuer", issuer), ("scope", scope)])?
            .encode_gauge(&until)?;
    }
    Ok(())
}

impl Counts {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = REQUESTS.describe(encoder)?;
        for ((ca, endpoint, status, problem), count) in &self.requests {
            let labels = [
                ("ca", &**ca),
                ("endpoint", endpoint),
                ("status", status),
                ("problem", problem),
            ];
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
        let mut family = TIMES.describe(encoder)?;
        for ((ca, endpoint), times) in &self.times {
            let buckets: Vec<(f64, u64)> = BUCKETS
                .iter()
                .copied()
                .zip(times.buckets.iter().copied())
                .collect();
            let count = times.buckets.iter().sum();
            family
                .encode_family(&[("ca", &**ca), ("endpoint", endpoint)])?
                .encode_histogram::<NoLabelSet>(times.sum, count, &buckets, None)?;
        }
        let mut family = ORDERS.describe(encoder)?;
        for ((issuer, result), count) in &self.orders {
            family
                .encode_family(&[("issuer", issuer.as_str()), ("result", result)])?
                .encode_counter::<NoLabelSet, _, f64>(count, None)?;
        }
        let mut family = UP.describe(encoder)?;
        for (ca, authority) in &self.authorities {
            family
                .encode_family(&[("ca", &**ca)])?
                .encode_gauge(&i64::from(authority.up))?;
        }
        let mut family = SKEW.describe(encoder)?;
        for (ca, authority) in &self.authorities {
            if let Some(skew) = authority.skew {
                family
                    .encode_family(&[("ca", &**ca)])?
                    .encode_gauge(&skew)?;
            }
        }
        Ok(())
    }
}

type Read = fn(&Report) -> Option<i64>;

/// Nobody renews what nothing asks for, or what is refused and kept.
fn renewal(report: &Report) -> Option<i64> {
    second(report.renew_at).filter(|_| report.wanted)
}

fn second(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_second)
}

fn one_of(list: &[&'static str], text: &str) -> Option<&'static str> {
    list.iter().copied().find(|known| *known == text)
}

fn status(status: Option<u16>) -> &'static str {
    let Some(status) = status else { return "none" };
    one_of(&STATUSES, &status.to_string()).unwrap_or("other")
}

/// What a person can mend is told apart from what passes by itself.
fn waiting(class: Class) -> &'static str {
    match class {
        Class::Limited => "limited",
        Class::Outage | Class::Transient => "outage",
        Class::Paused | Class::Spec | Class::Issuer | Class::AccountGone => "blocked",
        Class::Validation => "validation",
        Class::BadCertificate => "bad-certificate",
        Class::OrderGone | Class::Replaces | Class::OrderNotReady | Class::NotYet => "order",
        Class::Local => "local",
        Class::Storage => "storage",
    }
}

/// Whom a limit of an authority concerns.
fn scope(scope: &gatehouse_acme::failure::Scope) -> Option<&'static str> {
    use gatehouse_acme::failure::Scope;
    Some(match scope {
        Scope::Account => "account",
        Scope::Domain(_) => "domain",
        Scope::Set => "set",
        Scope::Name(_) => "name",
        Scope::Pace => return None,
    })
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Directory => "directory",
        Step::Nonce => "nonce",
        Step::Account => "account",
        Step::NewOrder => "new-order",
        Step::Order => "order",
        Step::Authorization => "authorization",
        Step::Challenge => "challenge",
        Step::Finalize => "finalize",
        Step::Certificate => "certificate",
        Step::RenewalInfo => "renewal-info",
        Step::Revoke => "revoke",
        Step::KeyChange => "key-change",
    }
}

/// Every metric here, for the reference page.
pub const METRICS: [&Labelled; 16] = [
    &NOT_BEFORE,
    &RENEW_AT,
    &FAILURES,
    &NEXT_ATTEMPT,
    &REVISION,
    &WANTED,
    &PHASE,
    &WAITING,
    &SERIAL,
    &LEADER,
    &LIMITED_UNTIL,
    &REQUESTS,
    &TIMES,
    &ORDERS,
    &UP,
    &SKEW,
];

macro_rules! metrics {
    ($($(#[$about:meta])* $constant:ident = $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $($(#[$about])* const $constant: Labelled = Labelled {
            name: $name,
            kind: MetricType::$kind,
            labels: $labels,
            help: $help,
        };)+
    };
}

metrics! {
    NOT_BEFORE = Gauge "gatehouse_certificate_not_before_seconds" CERTIFICATE, "Begin of validity of each certificate that is ordered here, seconds since the Unix epoch";
    RENEW_AT = Gauge "gatehouse_certificate_renew_at_seconds" CERTIFICATE, "When each certificate will be renewed, seconds since the Unix epoch; none for one that nothing asks for, or that is refused and kept";
    FAILURES = Gauge "gatehouse_certificate_failures" CERTIFICATE, "Failed attempts in a row of each certificate";
    NEXT_ATTEMPT = Gauge "gatehouse_certificate_next_attempt_seconds" CERTIFICATE, "When the next attempt is made for each certificate that waits, seconds since the Unix epoch";
    REVISION = Gauge "gatehouse_certificate_revision" CERTIFICATE, "Number of the certificate, counted up whenever one is ordered";
    WANTED = Gauge "gatehouse_certificate_wanted" CERTIFICATE, "Whether an object asks for the certificate";
    PHASE = Gauge "gatehouse_certificate_phase" &["certificate", "issuer", "phase"], "1 for the phase that each certificate is in";
    WAITING = Gauge "gatehouse_certificate_waiting" &["certificate", "issuer", "class"], "1 for each certificate that waits after a failure, by whose it is; blocked waits for a person";
    SERIAL = Gauge "gatehouse_certificate_serial_info" &["certificate", "serial"], "Serial number of the certificate that this replica has; replicas with equal ones serve the same";
    LEADER = Gauge "gatehouse_acme_leader" &[], "Whether this replica orders certificates";
    LIMITED_UNTIL = Gauge "gatehouse_acme_limited_until_seconds" &["issuer", "scope"], "Until when a rate limit of the authority holds, seconds since the Unix epoch";
    REQUESTS = Counter "gatehouse_acme_requests" &["ca", "endpoint", "status", "problem"], "Requests to authorities, by host of the directory, status and type of problem";
    TIMES = Histogram "gatehouse_acme_request_duration_seconds" &["ca", "endpoint"], "Time that authorities took to answer";
    ORDERS = Counter "gatehouse_acme_orders" &["issuer", "result"], "What became of orders: ordered, finalized, issued or failed";
    UP = Gauge "gatehouse_acme_ca_up" &["ca"], "Whether the authority answered the last request without a fault of its own";
    SKEW = Gauge "gatehouse_acme_clock_skew_seconds" &["ca"], "How far the clock of the authority is ahead of ours";
}

const CERTIFICATE: &[&str] = &["certificate", "issuer"];

/// Types of problems (RFC 8555, section 6.7; RFC 9773).
const PROBLEMS: [&str; 27] = [
    "accountDoesNotExist",
    "alreadyReplaced",
    "alreadyRevoked",
    "autoRenewalCanceled",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "invalidProfile",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
];

const STATUSES: [&str; 14] = [
    "200", "201", "204", "400", "401", "403", "404", "405", "409", "429", "500", "502", "503",
    "504",
];

const BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, f64::MAX];

#[cfg(test)]
mod tests {
    use gatehouse_acme::record::Record;

    use super::*;

    #[test]
    fn what_nobody_renews_has_no_moment_of_its_renewal() {
        let text = r#"{"v": 1, "rev": 1, "phase": "Valid", "epoch": 1, "namespaceUid": "",
            "target": {"namespace": "shop", "secret": "tls"}}"#;
        let state = serde_json::from_str(text).expect("a record");
        let record = Record {
            state,
            next: None,
            current: None,
            previous: None,
            rejected: None,
        };
        let mut report = Report::stored(&record);
        assert_eq!(report.target.secret, "tls");
        report.renew_at = Some(Timestamp::UNIX_EPOCH);
        for (wanted, moment) in [(true, Some(0)), (false, None)] {
            report.wanted = wanted;
            assert_eq!(renewal(&report), moment);
        }
    }
}
