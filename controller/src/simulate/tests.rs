//! Explanations of a small table.

use gatehouse_gateway::challenge::Challenges;
use gatehouse_gateway::model::{
    ActionPlan, Affinity, CertKey, ChallengePlan, ClusterKey, ClusterPlan, Delta, EndpointPhase,
    HostKey, HostPlan, HostTls, Identifier, ObjectRef, PathMatch, PolicySpec, RouteKey, RoutePlan,
    Thumbprint, WeightedCluster,
};
use http::StatusCode;

use super::*;
use crate::diagnostics::Code;

fn origin(name: &str) -> ObjectRef {
    ObjectRef {
        kind: "Ingress".into(),
        namespace: "web".into(),
        name: name.into(),
    }
}

fn route(host: &HostPattern, path: &str, action: ActionPlan) -> Arc<RoutePlan> {
    Arc::new(RoutePlan {
        key: RouteKey {
            host: host.clone(),
            path: PathMatch {
                kind: PathKind::Prefix,
                path: path.into(),
            },
            origin: origin("shop"),
        },
        field: "spec.rules[0].http.paths[0]".into(),
        policies: vec![PolicySpec::HttpsRedirect {
            status: StatusCode::PERMANENT_REDIRECT,
            exempt: false,
        }],
        action,
    })
}

fn snapshot() -> Arc<Snapshot> {
    let cluster = ClusterKey("web/shop:80".into());
    let host = HostPattern::Exact("shop.example".into());
    let forward = ActionPlan::Forward(vec![WeightedCluster {
        cluster: cluster.clone(),
        weight: 1,
    }]);
    let plan = HostPlan {
        host: host.clone(),
        routes: vec![
            route(&host, "/", ActionPlan::NotFound),
            route(&host, "/cart", forward.clone()),
            route(&host, "/cart/old", forward),
        ],
        tls: Some(HostTls {
            certificate: Some(CertKey("web/tls".into())),
            origin: origin("shop"),
        }),
    };
    let (mut publisher, snapshots) = Publisher::new(Metrics::new());
    publisher.apply(Delta {
        clusters: vec![(
            cluster.clone(),
            Some(Arc::new(ClusterPlan {
                key: cluster,
                protocol: UpstreamProtocol::Http1,
                balance: Balance::RoundRobin,
                affinity: Affinity::None,
                endpoints: vec![EndpointPlan {
                    address: ([192, 0, 2, 1], 8080).into(),
                    phase: EndpointPhase::Ready,
                }],
            })),
        )],
        hosts: vec![(
            HostKey {
                server: ServerId::SHARED,
                host,
            },
            Some(Arc::new(plan)),
        )],
        ..Delta::default()
    });
    snapshots.load()
}

fn explained(method: &str, url: &str, headers: &[&str]) -> Explanation {
    let query = Query::new(method, url, headers.iter().copied()).unwrap();
    let diagnostic = Diagnostic {
        object: "Ingress/web/shop".into(),
        field: "spec".into(),
        severity: Severity::Warning,
        code: Code::SecretMissing,
        message: "no such Secret".into(),
        file: None,
    };
    let challenges = Challenges::default();
    challenges.publish(ChallengePlan {
        accounts: vec![(
            Identifier::of_host("shop.example"),
            Thumbprint("abc".into()),
        )],
        ..ChallengePlan::default()
    });
    let listeners = ListenerView::unbound();
    explain(
        &snapshot(),
        &challenges.load(),
        &listeners,
        &[diagnostic],
        &query,
    )
    .unwrap()
}

#[test]
fn an_explanation_names_listener_host_rule_backend_and_near_misses() {
    let explanation = explained("GET", "https://SHOP.example:8443/x/..//cart?a=1", &[]);
    let text = explanation.to_string();
    for line in [
        "request    GET https://shop.example/cart",
        "listener   https",
        "host       shop.example: matched",
        "tls        web/tls, asked for by Ingress/web/shop",
        "route      Ingress/web/shop spec.rules[0].http.paths[0] (Prefix /cart on shop.example)",
        "filter     HttpsRedirect: passes",
        "answer     forwarded",
        "backend    web/shop:80 weight 1 (Http1, RoundRobin)",
        "  endpoint 192.0.2.1:8080 Ready",
        "note       warning[SecretMissing] Ingress/web/shop spec: no such Secret",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\n is missing in\n{text}"
        );
    }
    assert_eq!(&*explanation.near_misses[0].route.path, "/cart/old");
    assert_eq!(explanation.near_misses.len(), 2);
}

#[test]
fn a_url_cannot_forge_lines_or_command_the_terminal() {
    let url = "http://shop.example/x%0aroute%20none%1b%5b2J%e2%80%ae";
    let text = explained("GET", url, &[]).to_string();
    let line = r"request    GET http://shop.example/x\nroute none\u{1b}[2J\u{202e}";
    assert!(text.lines().any(|found| found == line), "{text}");
    let hold = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!text.contains(hold), "{text:?}");
}

#[test]
fn the_filters_of_the_data_plane_decide_the_answer() {
    let explanation = explained(
        "GET",
        "http://ignored.example/cart?a=1",
        &["Host: shop.example"],
    );
    assert_eq!(
        explanation.answer,
        "308 to https://shop.example/cart?a=1 (redirect_https)"
    );
    assert!(
        explained("GET", "http://other.example/", &[])
            .route
            .is_none()
    );
}

#[test]
fn a_challenge_is_answered_ahead_of_routes_and_filters() {
    let url = "http://shop.example/.well-known/acme-challenge/sixteen-letters-";
    let explanation = explained("GET", url, &[]);
    assert_eq!(
        explanation.answer,
        "200: sixteen-letters-.abc, for a certificate authority (acme_challenge)"
    );
    assert!(explanation.route.is_none() && explanation.filters.is_empty());
    let explanation = explained("POST", url, &[]);
    assert!(explanation.answer.starts_with("308 "), "{explanation}");
}

#[test]
fn methods_that_are_not_served_and_connections_for_another_name_are_told() {
    let refused = |method: &str, url: &str, fields: &[&str]| {
        let query = Query::new(method, url, fields.iter().copied()).unwrap();
        explain(&snapshot(), &Board::default(), &[], &[], &query).err()
    };
    for (method, status) in [("TRACE", "405"), ("CONNECT", "405"), ("get", "400")] {
        let told = refused(method, "http://shop.example/cart", &[]);
        assert!(
            told.is_some_and(|told| told.starts_with(status)),
            "{method}"
        );
    }
    // `shop.example` has a certificate of its own, others have the default one.
    let other = refused("GET", "https://other.example/cart", &["Host: shop.example"]);
    assert!(other.is_some_and(|told| told.starts_with("421")));
    let address = refused("GET", "https://192.0.2.1/cart", &["Host: shop.example"]);
    assert_eq!(address, None);
}

#[test]
fn what_the_gateway_would_refuse_is_refused_here() {
    let query = Query::new("GET", "http://shop.example/%zz", []).unwrap();
    let error = explain(&snapshot(), &Board::default(), &[], &[], &query).unwrap_err();
    assert!(error.starts_with("400"), "{error}");
    for (method, url, header, word) in [
        ("GE T", "http://a.example/", "A: b", "HTTP method"),
        ("GET", "/cart", "A: b", "no URL"),
        ("GET", "ftp://a.example/", "A: b", "no URL"),
        ("GET", "http://a.example/", "A", "header field"),
    ] {
        let error = Query::new(method, url, [header]).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
