//! What a person asks for while an order is under way.

use super::*;
use crate::keeper::Command;

const RENEW: Command = Command::Renew { force: false };

#[tokio::test(start_paused = true)]
async fn case_43_a_renewal_asked_for_while_the_secret_cannot_be_written_is_no_second_order() {
    let stand = Stand::new("");
    stand.shelf.full.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let waits = |report: &crate::events::Report| report.waiting == Some(Class::Storage);
    let report = until(&keeper, ("tls", SOON), waits).await;
    assert_eq!(report.phase, Phase::Delivering);
    stand.shelf.full.store(false, Ordering::SeqCst);
    command(&keeper, RENEW).await.expect("asked");
    valid(&keeper, "tls").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stand.ca.issued(), 1);
    assert_eq!(stand.stored("tls").await.state.asked, None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_asked_for_while_a_certificate_is_late_is_no_second_order() {
    let stand = Stand::new("");
    let late = || said(404, "malformed", "no such certificate");
    stand
        .ca
        .play(move |step, _| (step == Step::Certificate).then(late));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let hour = Duration::from_secs(3_600);
    let report = until(&keeper, ("tls", hour), |report| report.waiting.is_some()).await;
    assert_eq!(
        (report.phase, report.waiting),
        (Phase::Issued, Some(Class::NotYet))
    );
    stand.ca.heal();
    command(&keeper, RENEW).await.expect("asked");
    until(&keeper, ("tls", hour), |report| {
        report.phase == Phase::Valid
    })
    .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(stand.ca.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_asked_for_is_made_after_its_rehearsal() {
    let stand = Stand::new(&format!("      testDirectory: {}\n", double::TEST));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let first = valid(&keeper, "tls").await;
    stand.ca.believes.store(false, Ordering::SeqCst);
    command(&keeper, RENEW).await.expect("asked");
    until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    stand.ca.believes.store(true, Ordering::SeqCst);
    let hour = Duration::from_secs(3_600);
    renewed(&keeper, ("tls", hour), &first).await;
    assert_eq!(stand.test.count(Step::NewOrder), 1);
    assert_eq!((stand.test.issued(), stand.ca.issued()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn validations_that_a_person_asked_for_count_too() {
    let stand = Stand::new("");
    stand.ca.believes.store(false, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    for failures in 1..4 {
        until(&keeper, ("tls", SOON), |report| report.failures == failures).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        command(&keeper, Command::Retry).await.expect("asked");
    }
    until(&keeper, ("tls", SOON), |report| report.failures == 4).await;
    let failed = stand.stored("tls").await.state.attempts.failed;
    let last = *failed.last().expect("a failure");
    let ago = crate::schedule::between(last, stand.clock.now());
    assert!(
        failed.len() == 3 && ago < SignedDuration::from_secs(10),
        "{failed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn tries_that_a_person_asked_for_put_the_next_one_by_itself_off_no_further() {
    let stand = Stand::new("");
    stand.ca.believes.store(false, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let failed = async |failures: u32, most: u64| {
        let most = Duration::from_secs(most);
        let report = until(&keeper, ("tls", most), |report| report.failures == failures).await;
        let next = report.next_attempt.expect("a time");
        crate::schedule::between(stand.clock.now(), next)
    };
    for failures in 1..8 {
        let next = failed(failures, 100).await;
        // An hour is for the authority, which counts as well.
        assert!(next <= SignedDuration::from_mins(61), "{failures}: {next}");
        command(&keeper, Command::Retry).await.expect("asked");
    }
    failed(8, 100).await;
    // By itself it grows.
    let next = failed(9, 3_700).await;
    assert!(next >= SignedDuration::from_mins(5), "{next}");
    let next = failed(10, 3_700).await;
    assert!(next >= SignedDuration::from_mins(80), "{next}");
}

#[tokio::test(start_paused = true)]
async fn a_person_who_asks_for_another_try_ends_the_wait_of_the_account_once() {
    let stand = Stand::new("");
    let refusal = || said(403, "unauthorized", "the binding is unknown");
    stand
        .ca
        .play(move |step, _| (step == Step::Account).then(refusal));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let waits = |report: &crate::events::Report| report.waiting == Some(Class::Issuer);
    until(&keeper, ("tls", SOON), waits).await;
    assert_eq!(stand.ca.count(Step::Account), 1);
    // Refused once more, it waits once more.
    let answer = command(&keeper, Command::Retry).await.expect("asked");
    assert!(
        answer.contains("account of issuer main") && answer.contains("the binding is unknown"),
        "{answer}"
    );
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(stand.ca.count(Step::Account), 2);
    stand.ca.heal();
    command(&keeper, Command::Retry).await.expect("asked");
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.count(Step::Account), 3);
    let accounts = keeper.asker().accounts().expect("accounts");
    assert_eq!((&accounts[0].refused, accounts[0].until), (&None, None));
}

#[tokio::test(start_paused = true)]
async fn a_person_who_asks_for_another_try_need_not_wait_to_register_an_account_that_is_gone() {
    let stand = Stand::new("");
    let gone = || said(400, "accountDoesNotExist", "no such account");
    stand
        .ca
        .play(move |step, _| (step == Step::NewOrder).then(gone));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let waits = |report: &crate::events::Report| report.waiting == Some(Class::AccountGone);
    until(&keeper, ("tls", SOON), waits).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let registered = stand.ca.count(Step::Account);
    stand.ca.play(move |step, ca| {
        let known = ca.count(Step::Account) > registered;
        (step == Step::NewOrder && !known).then(gone)
    });
    command(&keeper, Command::Retry).await.expect("asked");
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.count(Step::Account), registered + 1);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_nothing_to_try_again_the_command_that_renews_is_named() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let first = valid(&keeper, "tls").await;
    let said = command(&keeper, Command::Retry).await.expect_err("nothing");
    for part in ["nothing to try again", "cert renew shop/tls"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(valid(&keeper, "tls").await, first);
}
