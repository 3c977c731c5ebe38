//! Single certificates below a wildcard one.

use jiff::SignedDuration;

use super::*;
use crate::schedule::Life;
use crate::stock::{Held, Stock};

/// A wildcard and a single host below it in one namespace.
fn both() -> Vec<Request> {
    vec![
        request(0, "shop/wild", "wild", &["*.example.org"]),
        request(1, "shop/web", "tls", &["a.example.org"]),
    ]
}

fn target(secret: &str) -> Target {
    request(0, "shop/web", secret, &[]).target
}

/// A certificate of a hundred hours of which so many are left at noon.
fn held(names: &[&str], left: i64) -> Stock {
    let hours = |count| noon() + SignedDuration::from_hours(count);
    Stock {
        namespace_uid: "uid-shop".into(),
        held: Some(Held {
            names: names
                .iter()
                .map(|name| Name::parse(name).expect("a name"))
                .collect(),
            life: Life {
                cert_id: String::new(),
                not_before: hours(left - 100),
                not_after: hours(left),
            },
        }),
        ..Stock::default()
    }
}

/// The plan with this much there: what is wanted, and what is served by what.
fn with(requests: &[Request], there: &[(&str, Stock)]) -> (Vec<String>, Option<String>, Plan) {
    let there = there
        .iter()
        .map(|(secret, stock)| (target(secret), stock.clone()));
    let plan = super::super::plan(&issuers(), requests, (&there.collect(), noon()));
    let wanted = plan.wanted.iter().map(|each| each.target.secret.clone());
    let by = plan.covers.get(&target("tls"));
    (wanted.collect(), by.map(|by| by.secret.clone()), plan)
}

fn wild(left: i64) -> Stock {
    held(&["*.example.org"], left)
}

#[test]
fn case_15_a_wildcard_of_the_namespace_spares_the_single_order() {
    let mut asked = request(1, "shop/asked", "asked", &["b.example.org"]);
    asked.always = true;
    let other = request(1, "other/web", "tls", &["c.example.org"]);
    let requests = [both(), vec![asked, other]].concat();
    for there in [vec![], vec![("wild", wild(90))]] {
        let (wanted, by, plan) = with(&requests, &there);
        assert_eq!(wanted, ["tls", "asked", "wild"]);
        assert_eq!(plan.wanted[0].target.namespace, "other");
        assert_eq!(codes(&plan), [Code::Covered]);
        // It is served as soon as it is there, also where one of its own is still missing.
        let served = there.first().map(|_| "wild");
        assert_eq!(by.as_deref(), served);
        let asked = plan.covers.get(&target("asked"));
        assert_eq!(asked.map(|by| by.secret.as_str()), served);
        assert!(plan.covers.keys().all(|target| target.namespace == "shop"));
        // What there is of it stays.
        assert!(plan.refused.contains_key(&target("tls")));
    }
}

#[test]
fn a_wildcard_that_does_not_come_spares_nothing() {
    let fails = Stock {
        fails: true,
        ..Stock::default()
    };
    let slow = Stock {
        ordered: Some(noon() - SignedDuration::from_hours(2)),
        ..Stock::default()
    };
    let foreign = Stock {
        namespace_uid: "uid-of-another".into(),
        ..wild(90)
    };
    let failed = |stock: Stock| Stock {
        fails: true,
        ..stock
    };
    for (why, stock) in [
        ("its orders fail", fails),
        ("its order has been open for hours", slow),
        ("another tenant had it", failed(foreign)),
        ("it has run out", failed(wild(-1))),
        ("it is not valid yet", failed(wild(101))),
        (
            "it is for something else",
            failed(held(&["*.a.example.org"], 90)),
        ),
    ] {
        let (wanted, by, plan) = with(&both(), &[("wild", stock)]);
        assert_eq!(wanted, ["tls", "wild"], "{why}");
        assert_eq!((by, codes(&plan)), (None, vec![]), "{why}");
    }
}

#[test]
fn a_certificate_that_is_there_is_renewed_until_a_wildcard_one_is_there() {
    let own = || ("tls", held(&["a.example.org"], 5));
    let (wanted, by, plan) = with(&both(), &[own()]);
    assert_eq!((wanted.len(), by, codes(&plan)), (2, None, vec![]));
    let (wanted, by, plan) = with(&both(), &[own(), ("wild", wild(90))]);
    assert_eq!((wanted.len(), by.as_deref()), (1, Some("wild")));
    assert!(plan.findings[0].message.contains("is not renewed"));
    assert!(plan.refused.contains_key(&target("tls")), "it is kept");
    // One that is about to end and was not renewed may not be renewed at all.
    let (wanted, by, _) = with(&both(), &[own(), ("wild", wild(10))]);
    assert_eq!((wanted.len(), by), (2, None));
    let (wanted, by, _) = with(
        &both(),
        &[("tls", held(&["a.example.org"], -1)), ("wild", wild(10))],
    );
    assert_eq!((wanted.len(), by.as_deref()), (2, Some("wild")));
}

#[test]
fn the_plan_says_when_time_makes_another_one() {
    let (.., plan) = with(&both(), &[("wild", wild(90))]);
    let ending = noon() + SignedDuration::from_hours(70);
    assert_eq!(plan.again, Some(ending));
    assert_eq!(plan.weighed, [target("tls"), target("wild")].into());
    let alone = [request(0, "shop/web", "tls", &["a.example.org"])];
    let (.., plan) = with(&alone, &[("tls", held(&["a.example.org"], 90))]);
    assert_eq!((plan.again, plan.weighed.len()), (None, 0));
}
