//! Counts the work of the publisher, and what readers see.

use super::*;
use crate::model::{
    Affinity, Balance, EndpointPhase, EndpointPlan, HostTls, ObjectRef, PathKind, PathMatch,
    RefuseReason, RouteKey, RoutePlan, ServerId, UpstreamProtocol, WeightedCluster,
};
use crate::table::Action;

fn origin() -> ObjectRef {
    ObjectRef {
        kind: "Ingress".into(),
        namespace: "shop".into(),
        name: "web".into(),
    }
}

fn cluster(key: &str, ports: &[u16]) -> (ClusterKey, Option<Arc<ClusterPlan>>) {
    let key = ClusterKey(key.into());
    let endpoints = ports.iter().map(|&port| EndpointPlan {
        address: ([127, 0, 0, 1], port).into(),
        phase: EndpointPhase::Ready,
    });
    let plan = ClusterPlan {
        key: key.clone(),
        protocol: UpstreamProtocol::Http1,
        balance: Balance::RoundRobin,
        affinity: Affinity::None,
        endpoints: endpoints.collect(),
    };
    (key, Some(Arc::new(plan)))
}

fn host(name: &str, target: &str) -> (HostKey, Option<Arc<HostPlan>>) {
    let pattern = HostPattern::Exact(name.into());
    let route = RoutePlan {
        key: RouteKey {
            host: pattern.clone(),
            path: PathMatch {
                kind: PathKind::Prefix,
                path: "/".into(),
            },
            origin: origin(),
        },
        field: "spec.rules[0].http.paths[0]".into(),
        policies: Vec::new(),
        action: ActionPlan::Forward(vec![WeightedCluster {
            cluster: ClusterKey(target.into()),
            weight: 1,
        }]),
    };
    let plan = HostPlan {
        host: pattern.clone(),
        routes: vec![Arc::new(route)],
        tls: None,
    };
    let key = HostKey {
        server: ServerId::SHARED,
        host: pattern,
    };
    (key, Some(Arc::new(plan)))
}

fn gone<K, P>((key, _): (K, Option<P>)) -> (K, Option<P>) {
    (key, None)
}

fn clusters(clusters: Vec<(ClusterKey, Option<Arc<ClusterPlan>>)>) -> Delta {
    Delta {
        clusters,
        ..Delta::default()
    }
}

fn hosts(hosts: Vec<(HostKey, Option<Arc<HostPlan>>)>) -> Delta {
    Delta {
        hosts,
        ..Delta::default()
    }
}

/// A publisher that serves `a.example` and `b.example` from the cluster `web`.
fn serving() -> (Publisher, Published) {
    let (mut publisher, published) = Publisher::new(Metrics::new());
    publisher.apply(Delta {
        clusters: vec![cluster("web", &[1])],
        hosts: vec![host("a.example", "web"), host("b.example", "web")],
        ..Delta::default()
    });
    (publisher, published)
}

/// What a host does: the first cluster, or why not.
fn outcome(published: &Published, host: &str) -> Option<Result<Arc<Cluster>, RefuseReason>> {
    let snapshot = published.load();
    let route = snapshot.lookup(ServerId::SHARED, host, "/", &mut ())?;
    Some(match &route.action {
        Action::Forward(split) => Ok(Arc::clone(split.choose(0))),
        Action::Refuse(reason) => Err(*reason),
        Action::NotFound => panic!("no host of these tests answers 404"),
    })
}

#[test]
fn the_first_apply_publishes_generation_one_even_when_empty() {
    let (mut publisher, published) = Publisher::new(Metrics::new());
    let subscription = published.subscribe();
    assert_eq!(published.load().generation, 0);

    let applied = publisher.apply(Delta::default());
    assert!(applied.changed);
    assert_eq!((applied.generation, *subscription.borrow()), (1, 1));
    assert!(published.load().server(ServerId::SHARED).is_some());

    let again = publisher.apply(Delta::default());
    assert_eq!((again.generation, again.changed), (1, false));
}

#[test]
fn a_change_of_endpoints_compiles_no_host_and_makes_no_snapshot() {
    let (mut publisher, published) = serving();
    let before = published.load();
    let serving = outcome(&published, "a.example").unwrap().unwrap();

    let applied = publisher.apply(clusters(vec![cluster("web", &[1, 2])]));
    let work = Work {
        clusters: 1,
        ..Work::default()
    };
    assert_eq!((applied.work, applied.changed), (work, true));
    assert!(Arc::ptr_eq(&before, &published.load()));
    assert_eq!(serving.plan().endpoints.len(), 2);
    assert_ne!(applied.digest, before.digest);
    assert_eq!(applied.digest, published.digest());
}

#[test]
fn one_edited_host_compiles_once_and_shares_the_others() {
    let (mut publisher, published) = serving();
    let table = |name: &str| {
        let snapshot = published.load();
        let server = snapshot.server(ServerId::SHARED).unwrap();
        Arc::clone(server.hosts.find(name, &mut ()).unwrap())
    };
    let (a, b) = (table("a.example"), table("b.example"));
    let tls = Arc::clone(&published.load().servers[0].tls);

    let applied = publisher.apply(Delta {
        clusters: vec![cluster("new", &[])],
        hosts: vec![host("a.example", "new"), host("b.example", "web")],
        ..Delta::default()
    });
    let work = Work {
        clusters: 1,
        hosts_compiled: 1,
        snapshots: 1,
        ..Work::default()
    };
    assert_eq!((applied.work, applied.generation), (work, 2));
    assert!(!Arc::ptr_eq(&a, &table("a.example")));
    assert!(Arc::ptr_eq(&b, &table("b.example")));
    assert!(Arc::ptr_eq(&tls, &published.load().servers[0].tls));
}

#[test]
fn equal_plans_cost_nothing() {
    let (mut publisher, published) = serving();
    let before = published.load();
    let applied = publisher.apply(Delta {
        clusters: vec![cluster("web", &[1]), gone(cluster("unknown", &[]))],
        hosts: vec![host("a.example", "web"), gone(host("unknown", "web"))],
        default_certificate: Some(None),
        settings: Some(Arc::new(Settings::default())),
        ..Delta::default()
    });
    assert_eq!((applied.work, applied.changed), (Work::default(), false));
    assert!(Arc::ptr_eq(&before, &published.load()));
}

#[test]
fn a_route_refuses_while_its_cluster_is_missing_and_recovers_without_being_told() {
    let (mut publisher, published) = serving();
    publisher.apply(hosts(vec![host("c.example", "late")]));
    let missing = Some(Err(RefuseReason::ServiceMissing));
    assert_eq!(reason(outcome(&published, "c.example")), missing);

    let applied = publisher.apply(clusters(vec![cluster("late", &[])]));
    assert_eq!(applied.work.hosts_compiled, 1);
    assert_eq!(reason(outcome(&published, "c.example")), Some(Ok(())));

    let applied = publisher.apply(clusters(vec![gone(cluster("late", &[]))]));
    assert_eq!(applied.work.hosts_compiled, 1);
    assert_eq!(reason(outcome(&published, "c.example")), missing);
    assert_eq!(reason(outcome(&published, "a.example")), Some(Ok(())));
}

fn reason<T>(outcome: Option<Result<T, RefuseReason>>) -> Option<Result<(), RefuseReason>> {
    outcome.map(|outcome| outcome.map(drop))
}

#[test]
fn a_new_certificate_of_a_host_makes_the_names_anew_and_a_removed_host_too() {
    let (mut publisher, published) = serving();
    let tls = || Arc::clone(&published.load().servers[0].tls);
    let before = tls();
    let (key, plan) = host("a.example", "web");
    let mut plan = Arc::unwrap_or_clone(plan.unwrap());
    plan.tls = Some(HostTls {
        certificate: Some(CertKey("shop/cert".into())),
        origin: origin(),
    });
    publisher.apply(hosts(vec![(key, Some(Arc::new(plan)))]));
    let secured = tls();
    assert!(!Arc::ptr_eq(&before, &secured));
    publisher.apply(hosts(vec![gone(host("b.example", "web"))]));
    assert!(!Arc::ptr_eq(&secured, &tls()));
    assert!(outcome(&published, "b.example").is_none());
}

#[test]
fn settings_publish_and_compile_nothing() {
    let (mut publisher, published) = serving();
    let mut settings = Settings::default();
    settings.limits.tries = 7;
    let applied = publisher.apply(Delta {
        settings: Some(Arc::new(settings)),
        ..Delta::default()
    });
    assert_eq!(applied.work.snapshots, 1);
    assert_eq!(applied.work.hosts_compiled, 0);
    assert_eq!(published.load().settings.limits.tries, 7);
}

#[test]
fn the_digest_tells_the_state_and_not_the_way_to_it() {
    let (mut one, _one) = serving();
    let (mut other, _other) = Publisher::new(Metrics::new());
    other.apply(hosts(vec![host("b.example", "web")]));
    other.apply(clusters(vec![cluster("web", &[9]), cluster("x", &[])]));
    other.apply(hosts(vec![host("z.example", "x"), host("a.example", "x")]));
    let differs = other.apply(hosts(vec![host("a.example", "web")]));
    let same = other.apply(Delta {
        clusters: vec![cluster("web", &[1]), gone(cluster("x", &[]))],
        hosts: vec![gone(host("z.example", "x"))],
        ..Delta::default()
    });
    let target = one.apply(Delta::default());
    assert_ne!(differs.digest, target.digest);
    assert_eq!(same.digest, target.digest);
}

#[test]
fn a_virtual_server_without_hosts_serves_nobody() {
    let (mut publisher, published) = serving();
    let (key, plan) = host("late.example", "web");
    let server = ServerId(2);
    publisher.apply(hosts(vec![(HostKey { server, ..key }, plan)]));
    let snapshot = published.load();
    let found = |id| snapshot.lookup(id, "late.example", "/", &mut ()).is_some();
    assert!(found(server));
    assert!(!found(ServerId(1)) && !found(ServerId::SHARED) && !found(ServerId(3)));
}

#[test]
fn the_snapshot_can_be_read_as_json() {
    let (_publisher, published) = serving();
    let json = serde_json::to_value(&*published.load()).unwrap();
    let host = &json["servers"][0]["hosts"][1];
    assert_eq!(host["host"], "b.example");
    let route = &host["routes"][0];
    assert_eq!(route["origin"], "Ingress/shop/web");
    assert_eq!(route["action"]["forward"][0]["cluster"], "web");
    assert_eq!(json["generation"], 1);
}
