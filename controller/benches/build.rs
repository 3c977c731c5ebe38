//! What the control plane costs: a full build, one edited Ingress, one EndpointSlice.
//!
//! `cargo bench -p gatehouse --bench build [INGRESSES]` prints one line each, with the time of the
//! engine alone and together with publishing.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints its result and stops at the first surprise"
)]

use std::sync::Arc;
use std::time::Duration;

use gatehouse::config::Defaults;
use gatehouse::engine::Engine;
use gatehouse::source::{Change, Kind, Object, ObjectKey};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::publish::Publisher;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

fn main() {
    let count = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(10_000);
    let changes: Vec<Change> = (0..count)
        .flat_map(|number| [service(number), slice(number, 1), ingress(number, "/")])
        .chain([Change::Synced])
        .collect();
    let mut defaults = Defaults::default();
    defaults.classes.without_class = true;
    let mut engine = Engine::new(Arc::new(defaults), Arc::default());
    let (mut publisher, published) = Publisher::new(Metrics::new());

    let start = Instant::now();
    for change in changes {
        engine.apply(change);
    }
    let applied = start.elapsed();
    let delta = engine.reconcile().delta;
    let planned = start.elapsed();
    publisher.apply(delta);
    let served = start.elapsed();
    println!(
        "full build of {count} Ingresses: {} ms (world {} ms, plans {} ms, publish {} ms)",
        served.as_millis(),
        applied.as_millis(),
        planned.saturating_sub(applied).as_millis(),
        served.saturating_sub(planned).as_millis(),
    );

    let edits: Vec<Change> = (0..ROUNDS)
        .map(|n| ingress(n * 7 % count, "/edited"))
        .collect();
    let (engine_time, all) = rounds(&mut engine, &mut publisher, edits, Engine::reconcile);
    println!(
        "one edited Ingress: {} µs (engine {} µs)",
        all.as_micros(),
        engine_time.as_micros()
    );

    let slices: Vec<Change> = (0..ROUNDS).map(|n| slice(n * 7 % count, 2)).collect();
    let generation = published.load().generation;
    let step = Engine::reconcile_endpoints;
    let (engine_time, all) = rounds(&mut engine, &mut publisher, slices, step);
    println!(
        "one EndpointSlice: {} µs (engine {} µs)",
        all.as_micros(),
        engine_time.as_micros()
    );
    assert_eq!(
        published.load().generation,
        generation,
        "endpoints make no snapshot"
    );
}

/// Median times of the engine alone and with publishing and reporting.
fn rounds(
    engine: &mut Engine,
    publisher: &mut Publisher,
    changes: Vec<Change>,
    step: impl Fn(&mut Engine) -> gatehouse::engine::Outcome,
) -> (Duration, Duration) {
    let (mut alone, mut all) = (Vec::new(), Vec::new());
    for change in changes {
        let start = Instant::now();
        engine.apply(change);
        let delta = step(engine).delta;
        alone.push(start.elapsed());
        assert!(!delta.is_empty());
        publisher.apply(delta);
        drop(engine.report());
        all.push(start.elapsed());
    }
    (median(alone), median(all))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn service(number: usize) -> Change {
    let object = Object::Service(read("{spec: {ports: [{name: http, port: 80}]}}"));
    apply(Kind::Service, format!("s{number}"), object)
}

fn slice(number: usize, last: u8) -> Change {
    let (high, low) = (number / 250, number % 250);
    let object = Object::EndpointSlice(read(&format!(
        "{{metadata: {{labels: {{kubernetes.io/service-name: s{number}}}}}, addressType: IPv4, \
         endpoints: [{{addresses: [10.{high}.{low}.{last}]}}], ports: [{{name: http, port: 8080}}]}}"
    )));
    apply(Kind::EndpointSlice, format!("s{number}-1"), object)
}

fn ingress(number: usize, path: &str) -> Change {
    let backend = format!("backend: {{service: {{name: s{number}, port: {{number: 80}}}}}}");
    let object = Object::Ingress(read(&format!(
        "{{metadata: {{namespace: shop, name: i{number}}}, spec: {{rules: [{{host: \
         h{number}.example, http: {{paths: [{{path: {path}, pathType: Prefix, {backend}}}, {{path: \
         /api, pathType: Exact, {backend}}}]}}}}]}}}}"
    )));
    apply(Kind::Ingress, format!("i{number}"), object)
}

fn apply(kind: Kind, name: String, object: Object) -> Change {
    let key = ObjectKey {
        kind,
        namespace: "shop".into(),
        name: name.into(),
    };
    Change::Apply(key, object)
}

fn read<T: DeserializeOwned>(yaml: &str) -> Arc<T> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap())
}

const ROUNDS: usize = 501;
