//! A clock that was ahead and is set right.

use super::*;
use crate::keeper::Command;

/// More than a year.
const AHEAD: SignedDuration = SignedDuration::from_hours(400 * 24);

#[tokio::test(start_paused = true)]
async fn an_outage_that_was_met_while_the_clock_was_ahead_ends_when_it_is_set_right() {
    for again in [false, true] {
        let stand = Stand::new("");
        stand.clock.set(AHEAD);
        stand.ca.play(|_, _| Some(double::silence()));
        let mut keeper = stand.keeper();
        want(&keeper, vec![request("tls", &["a.example.org"])]);
        let away = |report: &crate::events::Report| report.waiting == Some(Class::Outage);
        until(&keeper, ("tls", SOON), away).await;
        stand.clock.set(SignedDuration::ZERO);
        stand.ca.heal();
        if again {
            drop(keeper);
            keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.org"])]);
        }
        let minutes = Duration::from_secs(180);
        until(&keeper, ("tls", minutes), |report| {
            report.phase == Phase::Valid
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_a_record_that_does_not_say_when_it_began_is_bounded() {
    let stand = Stand::new("");
    stand.clock.set(AHEAD);
    stand
        .ca
        .play(|step, _| (step == Step::Directory).then(double::silence));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    drop(keeper);
    let record = stand.stored("tls").await;
    let state = serde_json::to_value(&record.state).expect("JSON");
    let mut before = state.clone();
    before["wait"]
        .as_object_mut()
        .expect("a wait")
        .remove("since");
    let mut record = record;
    record.state = serde_json::from_value(before).expect("as it was written before");
    stand.store(&record).await;
    stand.clock.set(SignedDuration::ZERO);
    stand.ca.heal();
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
}

#[tokio::test(start_paused = true)]
async fn validations_that_failed_while_the_clock_was_ahead_do_not_count_for_ever() {
    let stand = Stand::new("");
    stand.clock.set(AHEAD);
    stand.ca.believes.store(false, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    for failures in 1..4 {
        until(&keeper, ("tls", SOON), |report| report.failures == failures).await;
        command(&keeper, Command::Retry).await.expect("asked");
    }
    until(&keeper, ("tls", SOON), |report| report.failures == 4).await;
    stand.clock.set(SignedDuration::ZERO);
    let minutes = Duration::from_secs(180);
    let report = until(&keeper, ("tls", minutes), |report| report.failures == 5).await;
    let next = report.next_attempt.expect("a time");
    let most = crate::schedule::later(stand.clock.now(), SignedDuration::from_hours(30));
    assert!(next < most, "{next}");
}
