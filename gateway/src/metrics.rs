//! Metrics: the table of names, and the handles that the data plane counts with.
//!
//! Invariants: label values are bounded, they come from the configuration or from a closed list,
//! never from a request; a route holds its resolved counters, so counting is a few atomic
//! additions and no look-up. Counters of a route that is gone vanish with it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::error::Reason;
use crate::model::{CertKey, RouteKey};

macro_rules! table {
    ($($kind:ident $field:ident = $name:literal, $help:literal;)+) => {
        /// Metrics without labels. One line in the table is one metric.
        #[derive(Debug, Default)]
        pub struct Plain { $(#[doc = $help] pub $field: $kind,)+ }

        impl Plain {
            fn register(&self, registry: &mut Registry) {
                $(registry.register($name, $help, self.$field.clone());)+
            }

            /// Name, kind and help of every metric, for the reference page.
            pub const TABLE: &'static [(&'static str, MetricType, &'static str)] =
                &[$(($name, MetricType::$kind, $help),)+];
        }
    };
}

table! {
    Counter connections_accepted = "gatehouse_connections_accepted", "Client connections accepted";
    Counter connections_refused = "gatehouse_connections_refused", "Client connections closed at once because a limit was reached, or descriptors are few";
    Gauge connections_active = "gatehouse_connections_active", "Client connections that are open";
    Gauge tunnels_active = "gatehouse_tunnels_active", "Upgraded connections (websocket) that are open";
    Gauge requests_active = "gatehouse_requests_active", "Requests between their head and the end of their answer";
    Counter accept_errors = "gatehouse_accept_errors", "Failures to accept, such as running out of file descriptors";
    Counter tls_handshake_failures = "gatehouse_tls_handshake_failures", "TLS handshakes that failed or took too long";
    Counter connections_aborted = "gatehouse_connections_aborted", "Client connections closed for abuse or because they made no progress";
    Counter upstream_connects = "gatehouse_upstream_connects", "Connections opened to endpoints";
    Counter upstream_connect_failures = "gatehouse_upstream_connect_failures", "Connections to endpoints that could not be opened";
    Counter upstream_retries = "gatehouse_upstream_retries", "Requests sent again after a failure that made it safe";
    Counter upstream_reused = "gatehouse_upstream_reused", "Requests sent on a pooled connection";
    Gauge generation = "gatehouse_generation", "Generation of the published snapshot";
    Gauge digest = "gatehouse_digest", "Low 48 bits of the digest of what is served; replicas with equal values serve the same";
    Gauge hosts = "gatehouse_hosts", "Hosts in the published snapshot";
    Gauge clusters = "gatehouse_clusters", "Clusters that routes may forward to";
    Counter publishes = "gatehouse_publishes", "Snapshots published";
    Counter host_compiles = "gatehouse_host_compiles", "Hosts compiled for a snapshot";
    Counter access_log_dropped = "gatehouse_access_log_dropped", "Access log lines dropped because the output is too slow or cannot be written";
    Counter panics = "gatehouse_panics", "Requests that failed by a defect of the gateway";
}

/// A metric that a collector renders.
#[derive(Debug)]
pub struct Labelled {
    /// Name, without the suffix of its kind.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricType,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

impl Labelled {
    /// Every metric with labels of the gateway, for the reference page.
    pub const TABLE: &'static [&'static Self] = &[
        &REQUESTS,
        &DURATION,
        &RECEIVED,
        &SENT,
        &LOCAL_ANSWERS,
        &CHALLENGES,
        &CERTIFICATES,
    ];

    /// Begins its output.
    pub fn describe<'a>(
        &self,
        encoder: &'a mut DescriptorEncoder<'_>,
    ) -> Result<MetricEncoder<'a>, fmt::Error> {
        encoder.encode_descriptor(self.name, self.help, None, self.kind)
    }
}

const REQUESTS: Labelled = Labelled {
    name: "gatehouse_requests",
    kind: MetricType::Counter,
    labels: &["host", "path", "namespace", "ingress", "code"],
    help: "Requests by route and class of status",
};

const DURATION: Labelled = Labelled {
    name: "gatehouse_request_duration_seconds",
    kind: MetricType::Histogram,
    labels: ROUTE,
    help: "Time from the request head to the end of the answer, by route",
};

const RECEIVED: Labelled = Labelled {
    name: "gatehouse_received_bytes",
    kind: MetricType::Counter,
    labels: ROUTE,
    help: "Request body bytes by route",
};

const SENT: Labelled = Labelled {
    name: "gatehouse_sent_bytes",
    kind: MetricType::Counter,
    labels: ROUTE,
    help: "Response body bytes by route",
};

const LOCAL_ANSWERS: Labelled = Labelled {
    name: "gatehouse_local_answers",
    kind: MetricType::Counter,
    labels: &["reason"],
    help: "Answers that the gateway made itself, by reason",
};

const CHALLENGES: Labelled = Labelled {
    name: "gatehouse_acme_challenge_answers",
    kind: MetricType::Counter,
    labels: &["type", "result"],
    help: "Validations of certificate authorities, by what became of them: answered, left to the route of another solver, or unknown",
};

const CERTIFICATES: Labelled = Labelled {
    name: "gatehouse_certificate_not_after_seconds",
    kind: MetricType::Gauge,
    labels: &["certificate"],
    help: "End of validity of each certificate in use (namespace/secret), seconds since the Unix epoch",
};

const ROUTE: &[&str] = &["host", "path", "namespace", "ingress"];

/// All metrics of the process.
pub struct Metrics {
    /// Metrics without labels.
    pub plain: Plain,
    registry: Mutex<Registry>,
    routes: Arc<Routes>,
    reasons: Arc<Reasons>,
    challenges: Arc<ChallengeAnswers>,
    certificates: Arc<Certificates>,
}

impl Metrics {
    /// An empty set, everything at zero.
    pub fn new() -> Arc<Self> {
        let plain = Plain::default();
        let routes = Arc::new(Routes::default());
        let reasons = Arc::new(Reasons::default());
        let challenges = Arc::new(ChallengeAnswers::default());
        let certificates = Arc::new(Certificates::default());
        let mut registry = Registry::default();
        plain.register(&mut registry);
        registry.register_collector(Box::new(Arc::clone(&routes)));
        registry.register_collector(Box::new(Arc::clone(&reasons)));
        registry.register_collector(Box::new(Arc::clone(&challenges)));
        registry.register_collector(Box::new(Arc::clone(&certificates)));
        Arc::new(Self {
            plain,
            registry: Mutex::new(registry),
            routes,
            reasons,
            challenges,
            certificates,
        })
    }

    /// The counters of a route. The same key gives the same counters while any route holds them,
    /// so a new generation goes on counting where the old one stopped.
    pub fn route(&self, key: &RouteKey) -> Arc<RouteMetrics> {
        let mut routes = lock(&self.routes.0);
        if let Some(live) = routes.get(key).and_then(Weak::upgrade) {
            return live;
        }
        let fresh = Arc::new(RouteMetrics::default());
        routes.insert(key.clone(), Arc::downgrade(&fresh));
        fresh
    }

    /// Counts an answer that the gateway made itself.
    pub fn count_reason(&self, reason: Reason) {
        if let Some(count) = self.reasons.0.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a validation by a certificate authority.
    pub fn count_challenge(&self, answer: ChallengeAnswer) {
        if let Some(count) = self.challenges.0.get(answer as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes when a certificate ends; `None` when it is no longer used.
    pub fn certificate(&self, key: &CertKey, not_after: Option<i64>) {
        let mut certificates = lock(&self.certificates.0);
        match not_after {
            Some(end) => certificates.insert(key.clone(), end),
            None => certificates.remove(key),
        };
    }

    /// Adds metrics of another part of the program to the output.
    pub fn register(&self, collector: Box<dyn Collector>) {
        lock(&self.registry).register_collector(collector);
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> Result<String, fmt::Error> {
        lock(&self.routes.0).retain(|_, route| route.strong_count() > 0);
        let mut text = String::new();
        encode(&mut text, &lock(&self.registry))?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counters of one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    classes: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl RouteMetrics {
    /// Counts one finished request.
    pub fn count(&self, status: u16, duration: Duration, received: u64, sent: u64) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        if let Some(count) = self.classes.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.partition_point(|&limit| limit < seconds);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        if received > 0 {
            self.received.fetch_add(received, Ordering::Relaxed);
        }
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Requests counted so far.
    pub fn requests(&self) -> u64 {
        self.classes
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

#[derive(Debug, Default)]
struct Routes(Mutex<HashMap<RouteKey, Weak<RouteMetrics>>>);

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut used: Vec<_> = lock(&self.0)
            .iter()
            .filter_map(|(key, route)| Some((key.clone(), route.upgrade()?)))
            .filter(|(_, route)| route.requests() > 0)
            .collect();
        used.sort_by(|a, b| a.0.cmp(&b.0));
        let labelled: Vec<_> = used
            .iter()
            .map(|(key, route)| (Labels::of(key), route))
            .collect();

        let mut family = REQUESTS.describe(&mut encoder)?;
        for (labels, route) in &labelled {
            for (class, count) in CLASSES.iter().zip(&route.classes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    family
                        .encode_family(&labels.with("code", class))?
                        .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
                }
            }
        }
        let mut family = DURATION.describe(&mut encoder)?;
        for (labels, route) in &labelled {
            let buckets: Vec<(f64, u64)> = BUCKETS
                .iter()
                .zip(&route.buckets)
                .map(|(&limit, count)| (limit, count.load(Ordering::Relaxed)))
                .collect();
            let count = buckets.iter().map(|&(_, count)| count).sum();
            let sum = Duration::from_micros(route.micros.load(Ordering::Relaxed)).as_secs_f64();
            family
                .encode_family(&labels.all())?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        for (metric, read) in BYTES {
            let mut family = metric.describe(&mut encoder)?;
            for (labels, route) in &labelled {
                family
                    .encode_family(&labels.all())?
                    .encode_counter::<NoLabelSet, _, f64>(&read(route), None)?;
            }
        }
        Ok(())
    }
}

/// The labels of a route, all of them from the configuration.
struct Labels {
    host: String,
    path: String,
    namespace: Arc<str>,
    object: Arc<str>,
}

impl Labels {
    fn of(key: &RouteKey) -> Self {
        Self {
            host: key.host.to_string(),
            path: key.path.path.to_string(),
            namespace: Arc::clone(&key.origin.namespace),
            object: Arc::clone(&key.origin.name),
        }
    }

    fn all(&self) -> [(&'static str, &str); 4] {
        [
            ("host", &self.host),
            ("path", &self.path),
            ("namespace", &self.namespace),
            ("ingress", &self.object),
        ]
    }

    fn with<'a>(&'a self, name: &'static str, value: &'a str) -> [(&'static str, &'a str); 5] {
        let [host, path, namespace, object] = self.all();
        [host, path, namespace, object, (name, value)]
    }
}

#[derive(Debug)]
struct Reasons([AtomicU64; Reason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Collector for Reasons {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = LOCAL_ANSWERS.describe(&mut encoder)?;
        for (reason, count) in Reason::ALL.iter().zip(&self.0) {
            family
                .encode_family(&[("reason", reason.code())])?
                .encode_counter::<NoLabelSet, _, f64>(&count.load(Ordering::Relaxed), None)?;
        }
        Ok(())
    }
}

/// What became of a validation by a certificate authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeAnswer {
    /// HTTP-01, answered.
    HttpAnswered,
    /// HTTP-01, left to the route that has exactly this path.
    HttpRoute,
    /// HTTP-01 for a host or a token that is not ours.
    HttpUnknown,
    /// TLS-ALPN-01, answered.
    TlsAnswered,
    /// TLS-ALPN-01 for a name without a challenge, or broken off.
    TlsUnknown,
}

impl ChallengeAnswer {
    /// All of them in their order: type and result.
    const ALL: [[&'static str; 2]; 5] = [
        ["http-01", "answered"],
        ["http-01", "route"],
        ["http-01", "unknown"],
        ["tls-alpn-01", "answered"],
        ["tls-alpn-01", "unknown"],
    ];
}

#[derive(Debug, Default)]
struct ChallengeAnswers([AtomicU64; ChallengeAnswer::ALL.len()]);

impl Collector for ChallengeAnswers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = CHALLENGES.describe(&mut encoder)?;
        for ([kind, result], count) in ChallengeAnswer::ALL.iter().zip(&self.0) {
            family
                .encode_family(&[("type", *kind), ("result", *result)])?
                .encode_counter::<NoLabelSet, _, f64>(&count.load(Ordering::Relaxed), None)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Certificates(Mutex<BTreeMap<CertKey, i64>>);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = CERTIFICATES.describe(&mut encoder)?;
        for (key, end) in lock(&self.0).iter() {
            family
                .encode_family(&[("certificate", &*key.0)])?
                .encode_gauge(end)?;
        }
        Ok(())
    }
}

/// A poisoned lock means a panic while counting; the counts are still the best there are.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type ReadBytes = fn(&RouteMetrics) -> u64;

const BYTES: [(&Labelled, ReadBytes); 2] = [
    (&RECEIVED, |route| route.received.load(Ordering::Relaxed)),
    (&SENT, |route| route.sent.load(Ordering::Relaxed)),
];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

const BUCKETS: [f64; 14] = [
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    f64::MAX,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HostPattern, ObjectRef, PathKind, PathMatch};

    fn key(host: &str) -> RouteKey {
        RouteKey {
            host: HostPattern::Exact(host.into()),
            path: PathMatch {
                kind: PathKind::Prefix,
                path: "/".into(),
            },
            origin: ObjectRef {
                kind: "Ingress".into(),
                namespace: "ns".into(),
                name: "a".into(),
            },
        }
    }

    #[test]
    fn a_route_keeps_its_counters_while_it_lives_and_loses_them_with_its_last_holder() {
        let metrics = Metrics::new();
        let first = metrics.route(&key("a.test"));
        first.count(200, Duration::from_millis(3), 0, 120);
        let second = metrics.route(&key("a.test"));
        assert!(Arc::ptr_eq(&first, &second));
        let text = metrics.render().unwrap();
        assert!(
            text.contains(
                r#"gatehouse_requests_total{host="a.test",path="/",namespace="ns",ingress="a",code="2xx"} 1"#
            ),
            "{text}"
        );
        drop((first, second));
        assert!(!metrics.render().unwrap().contains("a.test"));
    }

    #[test]
    fn routes_without_a_request_make_no_series() {
        let metrics = Metrics::new();
        let _quiet = metrics.route(&key("quiet.test"));
        assert!(!metrics.render().unwrap().contains("quiet.test"));
    }

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let metrics = Metrics::new();
        metrics.count_reason(Reason::Misdirected);
        let text = metrics.render().unwrap();
        assert!(
            text.contains(r#"gatehouse_local_answers_total{reason="misdirected"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"gatehouse_local_answers_total{reason="no_endpoints"} 0"#));
    }

    #[test]
    fn what_is_rendered_is_what_the_tables_say() {
        let metrics = Metrics::new();
        let route = metrics.route(&key("a.test"));
        route.count(200, Duration::from_millis(3), 10, 120);
        let certificate = CertKey("ns/tls".into());
        metrics.certificate(&certificate, Some(1_767_225_600));
        let text = metrics.render().unwrap();
        let mut rendered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
            .collect();
        let plain = Plain::TABLE.iter().map(|(name, ..)| *name);
        let labelled = Labelled::TABLE.iter().map(|metric| metric.name);
        let mut listed: Vec<&str> = plain.chain(labelled).collect();
        rendered.sort_unstable();
        listed.sort_unstable();
        assert_eq!(rendered, listed);
        for metric in Labelled::TABLE {
            let series = text
                .lines()
                .find(|line| line.starts_with(metric.name) && line.contains('{'));
            for label in metric.labels {
                assert!(series.is_some_and(|series| series.contains(&format!("{label}="))));
            }
        }
        metrics.certificate(&certificate, None);
        assert!(!metrics.render().unwrap().contains("ns/tls"));
    }
}
