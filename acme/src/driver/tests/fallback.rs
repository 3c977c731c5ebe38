//! A second authority for while the first is away, across a change of leader.

use super::*;

/// The issuer `main`, and a second one to fall back on.
fn two() -> Stand {
    let second = format!("directory: {}\n      acceptTerms: true\n", double::TEST);
    Stand::new(&format!(
        "      fallback: [second]\n    second:\n      {second}"
    ))
}

fn wish() -> Vec<crate::plan::Request> {
    let mut wish = request("tls", &["a.example.org"]);
    wish.issuer = Some("main".to_owned());
    vec![wish]
}

fn silent(stand: &Stand) {
    stand
        .ca
        .play(|step, _| (step == Step::NewOrder).then(double::silence));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waited_for_hours_before_an_outage_does_not_turn_to_the_fallback_at_once() {
    let stand = two();
    let detail = "too many new orders (300) from this account, retry after 2026-06-01 05:00:00 UTC";
    stand
        .ca
        .play(move |step, _| (step == Step::NewOrder).then(|| said(429, "rateLimited", detail)));
    let keeper = stand.keeper();
    want(&keeper, wish());
    let hours = Duration::from_secs(6 * 3_600);
    until(&keeper, ("tls", hours), |report| {
        report.waiting == Some(Class::Limited)
    })
    .await;
    silent(&stand);
    until(&keeper, ("tls", hours), |report| {
        report.waiting == Some(Class::Outage)
    })
    .await;
    drop(keeper);
    stand.ca.heal();
    let keeper = stand.keeper();
    want(&keeper, wish());
    until(&keeper, ("tls", hours), |report| {
        report.phase == Phase::Valid
    })
    .await;
    assert_eq!((stand.ca.issued(), stand.test.issued()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_counts_from_its_begin_whoever_leads() {
    let stand = two();
    silent(&stand);
    let keeper = stand.keeper();
    want(&keeper, wish());
    tokio::time::sleep(Duration::from_secs(50 * 60)).await;
    assert_eq!(stand.test.issued(), 0, "not for less than an hour");
    drop(keeper);
    let keeper = stand.keeper();
    want(&keeper, wish());
    let minutes = Duration::from_secs(30 * 60);
    until(&keeper, ("tls", minutes), |report| {
        report.phase == Phase::Valid
    })
    .await;
    assert_eq!((stand.ca.issued(), stand.test.issued()), (0, 1));
}
