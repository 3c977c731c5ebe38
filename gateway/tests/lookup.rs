//! The table against its definition: over random hosts, paths and requests, `lookup` gives what a
//! plain scan by precedence gives, and `explain` gives what `lookup` gives.

use std::sync::Arc;

use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    ActionPlan, Delta, HostKey, HostPattern, HostPlan, ObjectRef, PathKind, PathMatch, PolicySpec,
    RouteKey, RoutePlan, ServerId,
};
use gatehouse_gateway::publish::{Published, Publisher};
use gatehouse_gateway::table::{Recorder, Route, Verdict};
use proptest::prelude::*;
use proptest::sample::select;

/// A host with the paths of its routes; `Prefix /` is added where it is missing.
type Host = (HostPattern, Vec<PathMatch>);

fn plan((pattern, paths): &Host) -> HostPlan {
    let mut paths = paths.clone();
    paths.push(PathMatch {
        kind: PathKind::Prefix,
        path: "/".into(),
    });
    paths.sort();
    paths.dedup();
    let routes = paths.iter().map(|path| {
        // As merging does it: `/x/` redirects `/x` when nothing is defined there.
        let bare = path.path.strip_suffix('/').filter(|bare| !bare.is_empty());
        let policies = bare
            .filter(|bare| paths.iter().all(|other| *other.path != **bare))
            .map(|bare| PolicySpec::TrailingSlash { path: bare.into() });
        Arc::new(RoutePlan {
            key: RouteKey {
                host: pattern.clone(),
                path: path.clone(),
                origin: ObjectRef {
                    kind: "Ingress".into(),
                    namespace: "n".into(),
                    name: "i".into(),
                },
            },
            field: "spec".into(),
            policies: policies.into_iter().collect(),
            action: ActionPlan::NotFound,
        })
    });
    HostPlan {
        host: pattern.clone(),
        routes: routes.collect(),
        tls: None,
    }
}

fn publish(hosts: &[HostPlan]) -> Published {
    let (mut publisher, published) = Publisher::new(Metrics::new());
    let keyed = hosts.iter().map(|plan| {
        let key = HostKey {
            server: ServerId::SHARED,
            host: plan.host.clone(),
        };
        (key, Some(Arc::new(plan.clone())))
    });
    publisher.apply(Delta {
        hosts: keyed.collect(),
        ..Delta::default()
    });
    published
}

/// The host that answers, by trying all.
fn naive_host<'a>(hosts: &'a [HostPlan], name: &str) -> Option<&'a HostPlan> {
    let class = |plan: &&HostPlan| match &plan.host {
        HostPattern::Exact(exact) => (**exact == *name).then_some(3),
        HostPattern::Wildcard(suffix) => {
            let label = name.strip_suffix(&**suffix)?.strip_suffix('.')?;
            (!label.is_empty() && !label.contains('.')).then_some(2)
        }
        HostPattern::Any => Some(1),
    };
    hosts
        .iter()
        .filter(|plan| class(plan).is_some())
        .max_by_key(class)
}

/// How well a route fits, by comparing path elements.
fn naive_rank(route: &RoutePlan, path: &str) -> Option<(usize, usize)> {
    let wanted = &route.key.path;
    let slash = route.policies.iter().any(
        |policy| matches!(policy, PolicySpec::TrailingSlash { path: bare } if **bare == *path),
    );
    let elements: Vec<&str> = path.split('/').collect();
    let mut prefix: Vec<&str> = wanted.path.split('/').collect();
    match wanted.kind {
        PathKind::Exact if *wanted.path == *path => Some((2, 0)),
        PathKind::Prefix if *wanted.path == *path => Some((1, 0)),
        _ if slash => Some((0, usize::MAX)),
        PathKind::Exact => None,
        PathKind::Prefix => {
            // A final slash asks for one more element, whatever it is.
            if wanted.path.ends_with('/') {
                prefix.pop();
                if elements.len() <= prefix.len() {
                    return None;
                }
            }
            elements
                .starts_with(&prefix)
                .then_some((0, wanted.path.len()))
        }
    }
}

fn naive<'a>(hosts: &'a [HostPlan], host: &str, path: &str) -> Option<&'a RouteKey> {
    naive_host(hosts, host)?
        .routes
        .iter()
        .filter_map(|route| Some((naive_rank(route, path)?, &route.key)))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, key)| key)
}

#[derive(Default)]
struct Explained {
    hosts: Vec<(HostPattern, bool)>,
    matched: Vec<RouteKey>,
    others: Vec<RouteKey>,
}

impl Recorder for Explained {
    fn host(&mut self, pattern: &HostPattern, matched: bool) {
        self.hosts.push((pattern.clone(), matched));
    }

    fn route(&mut self, route: &Route, verdict: Verdict) {
        match verdict {
            Verdict::Matched => self.matched.push(route.key.clone()),
            Verdict::Shadowed | Verdict::NotMatched(_) => self.others.push(route.key.clone()),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "c-1"]), 1..4)
        .prop_map(|labels| format!("{}.example", labels.join(".")))
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        3 => name().prop_map(|name| HostPattern::Exact(name.into())),
        2 => name().prop_map(|name| HostPattern::Wildcard(name.into())),
        1 => Just(HostPattern::Any),
    ]
}

/// Few elements, so that paths meet; among them what has a meaning in the tree.
fn path() -> impl Strategy<Value = String> {
    let element = select(vec![
        "a", "a", "b", "ab", "A", "{a}", "{*a}", "}", "é", "a{b", "*", ":a", "",
    ]);
    (prop::collection::vec(element, 0..5), any::<bool>()).prop_map(|(elements, slash)| {
        let end = if slash || elements.is_empty() {
            "/"
        } else {
            ""
        };
        let path: String = elements.iter().flat_map(|one| ["/", *one]).collect();
        path + end
    })
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let kind = prop_oneof![1 => Just(PathKind::Exact), 2 => Just(PathKind::Prefix)];
    (kind, path()).prop_map(|(kind, path)| PathMatch {
        kind,
        path: path.into(),
    })
}

/// Hosts with few routes and with many are matched in different ways.
fn paths() -> impl Strategy<Value = Vec<PathMatch>> {
    prop_oneof![
        prop::collection::vec(path_match(), 0..8),
        prop::collection::vec(path_match(), 16..40),
    ]
}

fn hosts() -> impl Strategy<Value = Vec<HostPlan>> {
    prop::collection::vec((pattern(), paths()), 0..6).prop_map(|mut hosts: Vec<Host>| {
        hosts.sort_by(|one, other| one.0.cmp(&other.0));
        hosts.dedup_by(|one, other| one.0 == other.0);
        hosts.iter().map(plan).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lookup_equals_a_scan_by_precedence_and_explain_equals_lookup(
        hosts in hosts(),
        requests in prop::collection::vec((name(), path()), 1..40),
    ) {
        let published = publish(&hosts);
        let snapshot = published.load();
        let names: Vec<String> = hosts
            .iter()
            .filter_map(|plan| match &plan.host {
                HostPattern::Exact(name) => Some(name.to_string()),
                HostPattern::Wildcard(suffix) => Some(format!("b.{suffix}")),
                HostPattern::Any => None,
            })
            .collect();
        // Every request on its own host and on every host that is configured.
        for (host, path) in requests.iter().flat_map(|(name, path)| {
            names.iter().chain([name]).map(move |host| (host, path))
        }) {
            let found = snapshot.lookup(ServerId::SHARED, host, path, &mut ());
            let key = found.map(|route| &route.key);
            prop_assert_eq!(key, naive(&hosts, host, path), "{} {}", host, path);

            let mut explained = Explained::default();
            let again = snapshot.lookup(ServerId::SHARED, host, path, &mut explained);
            prop_assert_eq!(again.map(Arc::as_ptr), found.map(Arc::as_ptr));
            prop_assert_eq!(explained.matched.first(), key);
            prop_assert!(explained.matched.len() <= 1);
            let serving = explained.hosts.iter().find(|(_, matched)| *matched);
            let plan = naive_host(&hosts, host);
            prop_assert_eq!(serving.map(|(host, _)| host), plan.map(|plan| &plan.host));
            if let Some(plan) = plan {
                // Every route of the host has exactly one verdict.
                prop_assert_eq!(explained.others.len() + 1, plan.routes.len());
            }
        }
    }
}

/// Paths are given as `Kind path`.
fn table(paths: &[&str]) -> Published {
    let paths = paths.iter().map(|text| {
        let (kind, path) = text.split_once(' ').unwrap_or(("Prefix", text));
        PathMatch {
            kind: match kind {
                "Exact" => PathKind::Exact,
                _ => PathKind::Prefix,
            },
            path: path.into(),
        }
    });
    publish(&[plan(&(HostPattern::Any, paths.collect()))])
}

fn answer(published: &Published, path: &str) -> String {
    let snapshot = published.load();
    let route = snapshot.lookup(ServerId::SHARED, "any.example", path, &mut ());
    route.map_or_else(String::new, |route| {
        format!("{:?} {}", route.key.path.kind, route.key.path.path)
    })
}

#[test]
fn exact_beats_prefix_and_the_longest_prefix_wins() {
    let table = table(&["Prefix /a", "Exact /a", "Prefix /a/b", "Exact /a/b/c"]);
    for (path, expected) in [
        ("/a", "Exact /a"),
        ("/a/", "Prefix /a"),
        ("/a/x/y", "Prefix /a"),
        ("/a/b", "Prefix /a/b"),
        ("/a/bc", "Prefix /a"),
        ("/a/b/c", "Exact /a/b/c"),
        ("/a/b/c/", "Prefix /a/b"),
        ("/A", "Prefix /"),
        ("/aa", "Prefix /"),
        ("/", "Prefix /"),
        ("*", "Prefix /"),
        ("", "Prefix /"),
    ] {
        assert_eq!(answer(&table, path), expected, "{path}");
    }
}

#[test]
fn a_prefix_with_a_slash_takes_the_bare_path_for_its_redirect_unless_that_is_defined() {
    // The redirect beats a shorter prefix, as recorded from ingress-nginx.
    let redirecting = table(&["Prefix /foo", "Prefix /foo/bar/"]);
    assert_eq!(answer(&redirecting, "/foo/bar"), "Prefix /foo/bar/");
    assert_eq!(answer(&redirecting, "/foo/bar/x"), "Prefix /foo/bar/");
    assert_eq!(answer(&redirecting, "/foo/barx"), "Prefix /foo");

    let defined = table(&["Exact /x", "Prefix /x/"]);
    assert_eq!(answer(&defined, "/x"), "Exact /x");
    assert_eq!(answer(&defined, "/x/"), "Prefix /x/");

    // ingress-nginx breaks on this pair; here each serves what it says.
    let both = table(&["Prefix /x", "Prefix /x/"]);
    assert_eq!(answer(&both, "/x"), "Prefix /x");
    assert_eq!(answer(&both, "/x/y"), "Prefix /x/");
}

#[test]
fn explain_says_why_a_route_does_not_answer() {
    struct Reasons(Vec<(String, Verdict)>);
    impl Recorder for Reasons {
        fn host(&mut self, _: &HostPattern, _: bool) {}
        fn route(&mut self, route: &Route, verdict: Verdict) {
            self.0.push((route.key.path.path.to_string(), verdict));
        }
    }
    let table = table(&[
        "Prefix /shop",
        "Exact /shop/car",
        "Prefix /shop/ca",
        "Prefix /SHOP",
        "Exact /shop/cart/",
        "Prefix /other",
    ]);
    let mut reasons = Reasons(Vec::new());
    let snapshot = table.load();
    snapshot.lookup(ServerId::SHARED, "any.example", "/shop/cart", &mut reasons);
    let verdict = |path: &str| {
        let found = reasons.0.iter().find(|(other, _)| other == path);
        match found.map(|(_, verdict)| *verdict) {
            Some(Verdict::Matched) => "matched",
            Some(Verdict::Shadowed) => "shadowed",
            Some(Verdict::NotMatched(why)) => why,
            None => "not reported",
        }
    };
    // The bare form of `/shop/cart/` belongs to that route's redirect.
    assert_eq!(verdict("/shop/cart/"), "matched");
    assert_eq!(verdict("/shop"), "shadowed");
    assert_eq!(verdict("/"), "shadowed");
    assert!(verdict("/shop/car").contains("Exact"));
    assert!(verdict("/shop/ca").contains("whole path elements"));
    assert!(verdict("/SHOP").contains("case"));
    assert_eq!(verdict("/other"), "another path");
}
