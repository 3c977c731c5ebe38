//! One order that does not get on, and an authority that is well.

use super::*;
use crate::ca::{Cause, OrderStatus};
use crate::events::Report;

const BAD: &str = "bad.example.org";

/// Until the order for this name waits.
async fn waits(keeper: &crate::keeper::Keeper) -> Arc<Report> {
    want(keeper, vec![request("bad", &[BAD])]);
    let hour = Duration::from_secs(3_600);
    until(keeper, ("bad", hour), |report| report.waiting.is_some()).await
}

/// Another certificate of the same authority is there before any outage would be over.
async fn others_go_on(keeper: &crate::keeper::Keeper) {
    let both = vec![request("bad", &[BAD]), request("tls", &["a.example.org"])];
    want(keeper, both);
    let soon = Duration::from_secs(20);
    until(keeper, ("tls", soon), |report| {
        assert_eq!(report.waiting, None, "{report:?}");
        report.phase == Phase::Valid
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_stands_still_waits_by_itself_and_ever_longer() {
    for status in [OrderStatus::Processing, OrderStatus::Ready] {
        let stand = Stand::new("");
        *stand.ca.stuck.lock().expect("a name") = Some((BAD, status));
        let keeper = stand.keeper();
        let report = waits(&keeper).await;
        let stood = (report.phase, report.waiting);
        assert_eq!(
            stood,
            (Phase::Finalizing, Some(Class::NotYet)),
            "{status:?}"
        );
        others_go_on(&keeper).await;
        let before = stand.ca.count(Step::Order);
        tokio::time::sleep(Duration::from_secs(6 * 3_600)).await;
        let asked = stand.ca.count(Step::Order) - before;
        assert!(asked < 30 * 101, "{status:?}: {asked}");
        let report = until(&keeper, ("bad", SOON), |_| true).await;
        assert!(report.failures > 5, "{status:?}: {}", report.failures);
        assert_eq!(stand.ca.count(Step::NewOrder), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_one_order_that_makes_no_sense_concerns_no_other() {
    for step in [
        Step::NewOrder,
        Step::Authorization,
        Step::Challenge,
        Step::Finalize,
        Step::Certificate,
    ] {
        for status in [200, 403] {
            let stand = Stand::new("");
            // As long as no other one was ordered.
            stand.ca.play(move |asked, ca| {
                let bad = asked == step && ca.last_names() == [BAD];
                bad.then(|| Cause::Answer(status, "nonsense".to_owned()))
            });
            let keeper = stand.keeper();
            let report = waits(&keeper).await;
            assert_eq!(report.waiting, Some(Class::NotYet), "{step:?} {status}");
            others_go_on(&keeper).await;
            stand.ca.heal();
            let hour = Duration::from_secs(3_600);
            until(&keeper, ("bad", hour), |report| {
                report.phase == Phase::Valid
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_does_not_get_on_at_the_test_directory_keeps_nobody_from_the_real_one() {
    let stand = Stand::new(&format!("      testDirectory: {}\n", double::TEST));
    stand.ca.believes.store(false, Ordering::SeqCst);
    let keeper = stand.keeper();
    waits(&keeper).await;
    stand.ca.believes.store(true, Ordering::SeqCst);
    stand.test.play(|step, _| {
        (step == Step::Authorization).then(|| Cause::Answer(200, "nonsense".to_owned()))
    });
    let minutes = Duration::from_secs(180);
    until(&keeper, ("bad", minutes), |report| {
        report.phase == Phase::Valid
    })
    .await;
    assert_eq!(stand.test.count(Step::NewOrder), 1);
}
