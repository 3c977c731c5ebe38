//! What is asked for otherwise while a certificate waits.

use super::*;
use crate::ca::ChallengeKind;
use crate::events::Report;
use crate::failure::Scope;
use crate::plan::Request;

/// One way to prove the name.
fn by(kind: ChallengeKind) -> Vec<Request> {
    let mut wish = request("tls", &["a.example.org"]);
    wish.challenges = Some(vec![kind]);
    vec![wish]
}

fn waits(report: &Report) -> bool {
    report.waiting.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_was_put_right_is_tried_at_once() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, by(ChallengeKind::TlsAlpn01));
    let report = until(&keeper, ("tls", SOON), waits).await;
    assert_eq!(report.waiting, Some(Class::Spec));
    assert_eq!(report.next_attempt, None, "until something changes");
    want(&keeper, by(ChallengeKind::Http01));
    valid(&keeper, "tls").await;
    // Another order of preference is no other certificate.
    want(&keeper, by(ChallengeKind::TlsAlpn01));
    tokio::time::sleep(SOON).await;
    assert_eq!(stand.ca.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_validation_that_failed_by_another_challenge_is_not_waited_for() {
    let stand = Stand::new(
        "      challenges: [http-01]\n      dns: [{zones: [example.org], provider: exec, \
         command: /bin/true}]\n",
    );
    stand.ca.believes.store(false, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, by(ChallengeKind::Http01));
    let report = until(&keeper, ("tls", SOON), waits).await;
    assert_eq!(report.waiting, Some(Class::Validation));
    let asked = stand.ca.count(Step::NewOrder);
    // The same wish waits on.
    let mut same = by(ChallengeKind::Http01);
    same[0].object = "Ingress/shop/other".to_owned();
    want(&keeper, same);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stand.ca.count(Step::NewOrder), asked);
    let mut both = by(ChallengeKind::Http01);
    both[0].challenges = Some(vec![ChallengeKind::Dns01, ChallengeKind::Http01]);
    want(&keeper, both);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stand.ca.count(Step::NewOrder), asked + 1);
}

fn limited(orders: u32) -> String {
    format!("      limits: {{ordersPerThreeHours: {orders}}}\n")
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_issuer_hold_as_soon_as_they_are_written() {
    let stand = Stand::new(&limited(1));
    let keeper = stand.keeper();
    let wish = |secret: &str| request(secret, &[&format!("{secret}.example.org")]);
    want(&keeper, vec![wish("a")]);
    valid(&keeper, "a").await;
    want(&keeper, vec![wish("a"), wish("b")]);
    let report = until(&keeper, ("b", SOON), waits).await;
    assert_eq!(report.waiting, Some(Class::Limited));
    assert_eq!(report.scope, Some(Scope::Pace), "no limit of the authority");
    assert_eq!(report.failures, 0);
    let write = |orders: u32| {
        let issuers = double::issuers(&limited(orders));
        stand.issuers.send_replace(Arc::new(issuers));
    };
    write(3);
    valid(&keeper, "b").await;
    // Fewer than were made already.
    write(1);
    want(&keeper, vec![wish("a"), wish("b"), wish("c")]);
    until(&keeper, ("c", SOON), waits).await;
    write(3);
    valid(&keeper, "c").await;
    assert_eq!(stand.ca.issued(), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_limit_that_another_met_says_whose_it_is_and_has_not_failed() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    let detail = "too many new orders recently";
    stand
        .ca
        .play(move |step, _| (step == Step::NewOrder).then(|| said(429, "rateLimited", detail)));
    let one = request("a", &["a.example.org"]);
    want(&keeper, vec![one.clone()]);
    until(&keeper, ("a", SOON), waits).await;
    want(&keeper, vec![one, request("b", &["b.example.org"])]);
    let report = until(&keeper, ("b", SOON), waits).await;
    assert_eq!(stand.ca.count(Step::NewOrder), 1);
    assert_eq!(report.waiting, Some(Class::Limited));
    assert_eq!(
        (report.scope.clone(), report.failures),
        (Some(Scope::Account), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn that_a_namespace_made_anew_inherits_no_certificate_is_told_once() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let first = valid(&keeper, "tls").await;
    let mut events = keeper.events();
    let mut anew = request("tls", &["a.example.org"]);
    "another".clone_into(&mut anew.namespace_uid);
    want(&keeper, vec![anew]);
    renewed(&keeper, ("tls", SOON), &first).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let What::Warning(text) = event.what {
            told.push(text);
        }
    }
    assert!(told.len() == 1 && told[0].contains(&first), "{told:?}");
}
