//! What is said, when, and how often.

use super::*;
use crate::diagnostics::Code;
use crate::status::tests::{offline, scene};

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Ingress,
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn ingress(name: &str, uid: &str, more: &str) -> (ObjectKey, Arc<Ingress>) {
    let yaml = format!("{{metadata: {{name: {name}, namespace: shop, uid: {uid}}}{more}}}");
    (key(name), Arc::new(serde_saphyr::from_str(&yaml).unwrap()))
}

fn served(name: &str, uid: &str) -> (ObjectKey, Arc<Ingress>) {
    ingress(
        name,
        uid,
        ", status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}",
    )
}

fn found(object: &str, severity: Severity, code: Code, message: &str) -> Diagnostic {
    Diagnostic::new(severity, &object.into(), "spec", code, message)
}

fn reasons(events: &Events, names: &[Name]) -> Vec<&'static str> {
    let mut reasons: Vec<_> = names
        .iter()
        .map(|name| events.wanted[name].reason)
        .collect();
    reasons.sort_unstable();
    reasons
}

#[tokio::test(start_paused = true)]
async fn every_finding_about_an_ingress_of_ours_is_said_once() {
    let mut events = Events::new(offline(), "me".into(), true);
    let list = vec![
        found(
            "Ingress/shop/cart",
            Severity::Error,
            Code::ServiceMissing,
            "gone",
        ),
        found(
            "Ingress/shop/cart",
            Severity::Info,
            Code::ClassUnknown,
            "hm",
        ),
        found(
            "Ingress/team/other",
            Severity::Error,
            Code::PathInvalid,
            "not ours",
        ),
        found(
            "Service/shop/cart",
            Severity::Error,
            Code::PathInvalid,
            "no Ingress",
        ),
    ];
    let report = scene([served("cart", "u1")], list.clone());
    let news = events.survey(&report, &None);
    assert_eq!(reasons(&events, &news), ["ClassUnknown", "ServiceMissing"]);
    let types: Vec<bool> = news
        .iter()
        .map(|name| events.wanted[name].warning)
        .collect();
    assert!(types.contains(&true) && types.contains(&false));
    assert!(events.survey(&report, &None).is_empty());

    let now = Instant::now();
    let name = news[0].clone();
    assert!(matches!(events.request(&name, now), Step::Send(_)));
    assert_eq!(events.learn(&name, 1, now), Rest::Until(REPEAT));

    // Repaired before the second was written: it is not written at all.
    let repaired = scene([served("cart", "u1")], Vec::new());
    assert!(events.survey(&repaired, &None).is_empty());
    assert!(matches!(events.request(&news[1], now), Step::Nothing));
    // Broken again: the same Event, whose count is known.
    assert_eq!(events.survey(&report, &None).len(), 2);
    assert_eq!(events.written[&name].count, 1);
    // Another object under the same name is told anew.
    let report = scene([served("cart", "u2")], list);
    let again = events.survey(&report, &None);
    assert_eq!(again.len(), 2);
    assert!(!again.contains(&name));
}

#[tokio::test(start_paused = true)]
async fn an_ingress_is_welcomed_when_it_is_first_served_without_error() {
    let mut events = Events::new(offline(), "me".into(), true);
    let broken = |name: &str| {
        let object = format!("Ingress/shop/{name}");
        vec![found(
            &object,
            Severity::Error,
            Code::ServiceMissing,
            "gone",
        )]
    };
    let rules = ", spec: {rules: [{host: b.test}, {host: a.test}, {}]}";
    let report = scene(
        [
            ingress("new", "u1", rules),
            served("old", "u2"),
            ingress("bad", "u3", rules),
        ],
        broken("bad"),
    );
    let news = events.survey(&report, &None);
    assert_eq!(reasons(&events, &news), ["ServiceMissing", "Sync"]);
    let sync = news
        .iter()
        .find(|name| name.1.starts_with("new."))
        .unwrap()
        .clone();
    assert_eq!(
        events.wanted[&sync].message,
        "served for a.test, b.test, every other host"
    );
    assert_eq!(events.learn(&sync, 1, Instant::now()), Rest::For(REPEAT));

    let report = scene(
        [
            ingress("new", "u1", rules),
            served("old", "u2"),
            ingress("bad", "u3", rules),
        ],
        broken("new"),
    );
    let news = events.survey(&report, &None);
    assert_eq!(
        reasons(&events, &news),
        ["ServiceMissing", "Sync"],
        "the repaired one"
    );
    assert!(news.iter().any(|name| name.1.starts_with("bad.")));

    // Without status nobody can tell who was served before: those of the start were.
    let mut events = Events::new(offline(), "me".into(), false);
    assert!(
        events
            .survey(&scene([ingress("a", "u1", "")], Vec::new()), &None)
            .is_empty()
    );
    let both = scene([ingress("a", "u1", ""), ingress("b", "u2", "")], Vec::new());
    assert_eq!(events.survey(&both, &None).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_what_an_ingress_names_is_said_about_the_ingress() {
    let spec = "spec: {defaultBackend: {service: {name: web}}, tls: [{secretName: pair}]}";
    let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}";
    let report = |list| {
        let one = ingress("one", "u1", &format!(", {spec}, {status}"));
        let two = ingress("two", "u2", &format!(", {spec}, {status}"));
        scene([one, two, served("other", "u3")], list)
    };
    let broken = || {
        found(
            "Secret/shop/pair",
            Severity::Error,
            Code::CertificateInvalid,
            "no key",
        )
    };
    let unready = || {
        found(
            "Service/shop/web",
            Severity::Warning,
            Code::EndpointsMissing,
            "none",
        )
    };
    let foreign = || {
        found(
            "Service/team/web",
            Severity::Warning,
            Code::EndpointsMissing,
            "none",
        )
    };
    let mut events = Events::new(offline(), "me".into(), true);
    let first = report(Vec::new());
    assert!(events.survey(&first, &None).is_empty());
    // The same objects, other findings.
    let later = |list: Vec<Diagnostic>| Report {
        owned: Arc::clone(&first.owned),
        ..report(list)
    };
    let news = events.survey(&later(vec![broken(), foreign(), unready()]), &None);
    let expected = [
        "CertificateInvalid",
        "CertificateInvalid",
        "EndpointsMissing",
        "EndpointsMissing",
    ];
    assert_eq!(reasons(&events, &news), expected);
    let said = news.iter().map(|name| &*events.wanted[name].message);
    assert!(
        said.into_iter()
            .any(|message| message == "Secret/shop/pair spec: no key")
    );
    assert!(events.survey(&later(vec![broken()]), &None).is_empty());
    assert_eq!(events.wanted.len(), 2);
    assert_eq!(
        events
            .survey(&later(vec![broken(), unready()]), &None)
            .len(),
        2
    );

    let gone = scene([served("one", "u1")], vec![broken(), unready()]);
    assert!(events.survey(&gone, &None).is_empty());
    assert!(events.wanted.is_empty() && events.users.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_object_cannot_flood_the_api_server() {
    let mut events = Events::new(offline(), "me".into(), true);
    let mut now = Instant::now();
    let mut sent = 0;
    for round in 0..100 {
        let list: Vec<Diagnostic> = (0..50)
            .map(|number| {
                let message = format!("{round} {number}");
                found(
                    "Ingress/shop/cart",
                    Severity::Error,
                    Code::PathInvalid,
                    &message,
                )
            })
            .collect();
        let report = scene([served("cart", "u1")], list);
        let news = events.survey(&report, &None);
        assert_eq!(news.len(), MOST);
        for name in news {
            match events.request(&name, now) {
                Step::Send(_) => sent += 1,
                Step::Later(at) => assert!(at > now),
                Step::Nothing => panic!("nothing for {name:?}"),
            }
        }
        now += Duration::from_secs(1);
    }
    assert!(sent <= 20 + 100 / 30, "{sent}");
    events.forget(now + 2 * KEPT);
    assert!(events.written.is_empty());
}

#[test]
fn names_are_stable_and_fit() {
    let saying = |object: &str, message: &str| {
        let diagnostic = found("x", Severity::Error, Code::PathInvalid, message);
        finding(&key(object), &"u1".into(), &diagnostic, "x")
    };
    let name = saying("cart", "why").name();
    assert_eq!(name, saying("cart", "why").name());
    assert_ne!(name, saying("cart", "why not").name());
    assert_eq!(&*name.1, "cart.eade07103f39c2ff");
    let long = saying(&"a.".repeat(126), &"ü".repeat(5000));
    assert!(long.name().1.len() <= 253);
    assert_eq!(long.message.chars().count(), LONGEST_MESSAGE + 1);
}

#[test]
fn an_event_is_what_describe_looks_for() {
    let diagnostic = found("x", Severity::Warning, Code::RouteConflict, "taken");
    let saying = finding(&key("cart"), &"u1".into(), &diagnostic, "x");
    let event = serde_json::to_value(saying.event(&saying.name(), "me")).unwrap();
    assert_eq!(event["involvedObject"]["kind"], "Ingress");
    assert_eq!(event["involvedObject"]["uid"], "u1");
    assert_eq!(event["message"], "spec: taken");
    assert_eq!(event["reason"], "RouteConflict");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["source"]["component"], "gatehouse");
}

#[tokio::test(start_paused = true)]
async fn how_a_certificate_stands_is_said_to_the_ingress_that_asks_for_it() {
    let mut events = Events::new(offline(), "me".into(), true);
    let asks = ", spec: {tls: [{hosts: [a.test], secretName: tls}]}, \
                status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}";
    for (severity, code) in [
        (Severity::Error, Code::CertificateNotIssued),
        (Severity::Error, Code::CertificateBlocked),
        (Severity::Warning, Code::CertificateLimited),
        (Severity::Info, Code::CertificateIssued),
    ] {
        let finding = found("Secret/shop/tls", severity, code, "how it stands");
        let report = scene([ingress("web", "u1", asks)], vec![finding]);
        let news = events.survey(&report, &None);
        assert_eq!(reasons(&events, &news), [code.as_str()]);
        assert_eq!(events.wanted[&news[0]].warning, severity != Severity::Info);
    }
}
