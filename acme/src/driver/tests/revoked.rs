//! Revocations that did not reach the authority.

use super::*;
use crate::failure::Class;
use crate::keeper::{Command, Keeper};
use crate::plan::Request;

const REVOKE: Command = Command::Revoke { reason: 4 };
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate whose revocation got no answer, and what its owner was told.
async fn unanswered(stand: &Stand) -> (Keeper, String, String) {
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let serial = valid(&keeper, "tls").await;
    stand
        .ca
        .play(|step, _| (step == Step::Revoke).then(double::silence));
    let said = command(&keeper, REVOKE).await.expect_err("no answer");
    (keeper, serial, said)
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_got_no_answer_is_repeated_until_there_is_one() {
    let stand = Stand::new("");
    let (keeper, first, said) = unanswered(&stand).await;
    assert!(said.contains("not known whether it is revoked"), "{said}");
    assert!(said.contains("asked again"), "{said}");
    renewed(&keeper, ("tls", SOON), &first).await;
    assert_eq!(stand.ca.issued(), 2, "it is replaced either way");
    tokio::time::sleep(HOUR).await;
    let tries = stand.ca.count(Step::Revoke);
    assert!((5..10).contains(&tries), "{tries}: 1, 2, 5, 10 and 15 min");
    stand.ca.heal();
    tokio::time::sleep(HOUR).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries + 1);
    tokio::time::sleep(DAY).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries + 1, "once it is done");
    assert_eq!(stand.ca.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_got_no_answer_is_repeated_by_whoever_leads_next() {
    let stand = Stand::new("");
    let (keeper, ..) = unanswered(&stand).await;
    drop(keeper);
    let tries = stand.ca.count(Step::Revoke);
    let revoked = || said(400, "alreadyRevoked", "it is");
    stand
        .ca
        .play(move |step, _| (step == Step::Revoke).then(revoked));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    tokio::time::sleep(HOUR).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries + 1);
    valid(&keeper, "tls").await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_waits_for_as_long_as_the_authority_says() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    let text = "too many, retry after 2026-06-01 05:00:00 UTC";
    let limit = move || said(429, "rateLimited", text);
    stand
        .ca
        .play(move |step, _| (step == Step::Revoke).then(limit));
    let answer = command(&keeper, REVOKE).await.expect_err("a limit");
    assert!(answer.contains("not revoked yet"), "{answer}");
    stand.ca.heal();
    tokio::time::sleep(4 * HOUR).await;
    assert_eq!(stand.ca.count(Step::Revoke), 1);
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(stand.ca.count(Step::Revoke), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_refused_in_the_end_is_told_and_no_longer_owed() {
    let stand = Stand::new("");
    let (keeper, first, _) = unanswered(&stand).await;
    renewed(&keeper, ("tls", SOON), &first).await;
    let mut events = keeper.events();
    let refusal = || said(403, "unauthorized", "not yours");
    stand
        .ca
        .play(move |step, _| (step == Step::Revoke).then(refusal));
    let told = async {
        loop {
            if let Ok(Event {
                what: What::Warning(text),
                ..
            }) = events.recv().await
            {
                return text;
            }
        }
    };
    let told = tokio::time::timeout(HOUR, told).await.expect("told");
    assert!(
        told.contains("not yours") && told.contains(&first),
        "{told}"
    );
    let tries = stand.ca.count(Step::Revoke);
    tokio::time::sleep(DAY).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_owed_no_longer_than_the_certificate_is_good() {
    let stand = Stand::new("");
    let (keeper, first, _) = unanswered(&stand).await;
    renewed(&keeper, ("tls", SOON), &first).await;
    tokio::time::sleep(89 * DAY).await;
    let before = stand.ca.count(Step::Revoke);
    tokio::time::sleep(2 * DAY).await;
    let last = stand.ca.count(Step::Revoke);
    assert!(last > before, "asked to the end");
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(stand.ca.count(Step::Revoke), last);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_owed_also_when_nothing_asks_for_the_certificate_any_more() {
    let stand = Stand::new("");
    let (keeper, ..) = unanswered(&stand).await;
    want(&keeper, vec![]);
    tokio::time::sleep(6 * DAY).await;
    assert!(stand.ca.count(Step::Revoke) > 100);
    assert_eq!(stand.stored("tls").await.state.phase, Phase::Tombstone);
    stand.ca.heal();
    command(&keeper, Command::Retry).await.expect("asked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(keeper.reports.borrow().is_empty(), "and then it is removed");
}

#[tokio::test(start_paused = true)]
async fn a_person_who_asks_for_another_try_need_not_wait_with_a_revocation() {
    let stand = Stand::new("");
    let (keeper, first, _) = unanswered(&stand).await;
    renewed(&keeper, ("tls", SOON), &first).await;
    tokio::time::sleep(2 * HOUR).await;
    stand.ca.heal();
    let tries = stand.ca.count(Step::Revoke);
    command(&keeper, Command::Retry).await.expect("asked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries + 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waits_holds_no_revocation() {
    let stand = Stand::new("");
    let (keeper, ..) = unanswered(&stand).await;
    stand.shelf.full.store(true, Ordering::SeqCst);
    let waits = |report: &crate::events::Report| report.waiting == Some(Class::Storage);
    until(&keeper, ("tls", SOON), waits).await;
    stand.ca.heal();
    let tries = stand.ca.count(Step::Revoke);
    tokio::time::sleep(HOUR).await;
    assert_eq!(stand.ca.count(Step::Revoke), tries + 1);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_of_what_is_not_replaced_says_why() {
    let asked = request("tls", &["a.example.org"]);
    let refused = Request {
        issuer: Some("nobody".to_owned()),
        ..asked.clone()
    };
    let kept = "asked for and refused, so it is not replaced: `gatehouse cert show shop/tls`";
    for (then, why) in [(vec![refused], kept), (vec![], "nothing asks for shop/tls")] {
        let stand = Stand::new("");
        let keeper = stand.keeper();
        want(&keeper, vec![asked.clone()]);
        let serial = valid(&keeper, "tls").await;
        want(&keeper, then);
        until(&keeper, ("tls", SOON), |report| !report.wanted).await;
        let said = command(&keeper, REVOKE).await.expect("revoked");
        assert!(said.contains(&serial) && said.contains(why), "{said}");
        until(&keeper, ("tls", SOON), |report| report.revoked).await;
        assert_eq!(stand.ca.issued(), 1);
    }
}
