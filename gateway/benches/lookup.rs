//! Costs of the table: a lookup among 1 and 10,000 hosts, a full build, one edited host.
//! Run with `cargo bench -p gatehouse-gateway --bench lookup`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::sync::Arc;

use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    ActionPlan, Affinity, Balance, ClusterKey, ClusterPlan, Delta, HostKey, HostPattern, HostPlan,
    ObjectRef, PathKind, PathMatch, RouteKey, RoutePlan, ServerId, UpstreamProtocol,
    WeightedCluster,
};
use gatehouse_gateway::publish::{Published, Publisher};
use tokio::time::Instant;

const HOSTS: usize = 10_000;
const PATHS: [&str; 5] = ["/", "/api", "/api/v1/items", "/static", "/admin"];
const LOOKUPS: u32 = 5_000_000;

fn cluster() -> ClusterKey {
    ClusterKey("shop/web:80".into())
}

fn host(number: usize, field: &str) -> (HostKey, Option<Arc<HostPlan>>) {
    host_with(number, field, &PATHS)
}

fn host_with(number: usize, field: &str, paths: &[&str]) -> (HostKey, Option<Arc<HostPlan>>) {
    let host = HostPattern::Exact(format!("host-{number}.bench.example").into());
    let routes = paths.iter().map(|&path| {
        Arc::new(RoutePlan {
            key: RouteKey {
                host: host.clone(),
                path: PathMatch {
                    kind: PathKind::Prefix,
                    path: path.into(),
                },
                origin: ObjectRef {
                    kind: "Ingress".into(),
                    namespace: "shop".into(),
                    name: format!("web-{number}").into(),
                },
            },
            field: field.into(),
            policies: Vec::new(),
            action: ActionPlan::Forward(vec![WeightedCluster {
                cluster: cluster(),
                weight: 1,
            }]),
        })
    });
    let plan = HostPlan {
        host: host.clone(),
        routes: routes.collect(),
        tls: None,
    };
    let server = ServerId::SHARED;
    (HostKey { server, host }, Some(Arc::new(plan)))
}

fn publish(hosts: usize) -> (Publisher, Published) {
    let (mut publisher, published) = Publisher::new(Metrics::new());
    let plan = ClusterPlan {
        key: cluster(),
        protocol: UpstreamProtocol::Http1,
        balance: Balance::RoundRobin,
        affinity: Affinity::None,
        endpoints: Vec::new(),
    };
    let delta = Delta {
        clusters: vec![(cluster(), Some(Arc::new(plan)))],
        hosts: (0..hosts).map(|number| host(number, "spec")).collect(),
        ..Delta::default()
    };
    let start = Instant::now();
    publisher.apply(delta);
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    println!(
        "full build, {hosts} hosts x {} paths: {elapsed:.1} ms",
        PATHS.len()
    );
    (publisher, published)
}

fn lookups(published: &Published, hosts: usize) {
    let snapshot = published.load();
    let mut names: Vec<String> = (0..hosts)
        .map(|number| format!("host-{number}.bench.example"))
        .collect();
    // A fixed shuffle, so that neighbours in the list are strangers in memory.
    let mut state = 1_u64;
    for last in (1..names.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        names.swap(last, usize::try_from(state >> 33).unwrap_or(0) % (last + 1));
    }
    let requests: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(
            ["/", "/api/v1/items/7", "/api/x", "/nothing/here"]
                .into_iter()
                .cycle(),
        )
        .collect();
    // What it costs only to come by the next host name, which a real request has at hand.
    let start = Instant::now();
    for (host, path) in requests.iter().cycle().take(LOOKUPS as usize) {
        black_box((host.len(), path.len(), host.as_bytes().first()));
    }
    let idle = start.elapsed();
    let start = Instant::now();
    for (host, path) in requests.iter().cycle().take(LOOKUPS as usize) {
        black_box(snapshot.lookup(ServerId::SHARED, black_box(host), black_box(path), &mut ()));
    }
    let each = start.elapsed().saturating_sub(idle).as_secs_f64() * 1e9 / f64::from(LOOKUPS);
    println!("lookup, {hosts} hosts: {each:.0} ns");
}

/// One host with many paths, which is matched by the tree.
fn large_host() {
    const COUNT: u32 = 5_000;
    let (mut publisher, published) = publish(1);
    let paths: Vec<String> = (0..COUNT)
        .map(|n| format!("/team-{}/app-{n}", n % 70))
        .collect();
    let texts: Vec<&str> = paths.iter().map(String::as_str).chain(["/"]).collect();
    let start = Instant::now();
    publisher.apply(Delta {
        hosts: vec![host_with(0, "large", &texts)],
        ..Delta::default()
    });
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    println!("compile one host with {COUNT} paths: {elapsed:.1} ms");
    let snapshot = published.load();
    let start = Instant::now();
    for path in paths.iter().cycle().take(LOOKUPS as usize) {
        let name = black_box("host-0.bench.example");
        black_box(snapshot.lookup(ServerId::SHARED, name, black_box(path), &mut ()));
    }
    let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS);
    println!("lookup in it: {each:.0} ns");
}

fn main() {
    let (_one, published) = publish(1);
    lookups(&published, 1);
    let (mut publisher, published) = publish(HOSTS);
    lookups(&published, HOSTS);
    let delta = Delta {
        hosts: vec![host(0, "edited")],
        ..Delta::default()
    };
    let start = Instant::now();
    let applied = publisher.apply(delta);
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    println!(
        "one edited host among {HOSTS}: {elapsed:.2} ms, {:?}",
        applied.work
    );
    large_host();
}
