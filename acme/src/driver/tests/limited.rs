//! Limits that an authority names before there is anything to order with.

use super::*;
use crate::ca::Cause;

const MANY: usize = 20;

fn many(count: usize) -> Vec<crate::plan::Request> {
    let one = |n: usize| request(&format!("tls-{n}"), &[format!("{n}.example.org").as_str()]);
    (0..count).map(one).collect()
}

/// Until all of them wait for a limit, or are there.
async fn all(
    keeper: &crate::keeper::Keeper,
    count: usize,
    fits: impl Fn(&crate::events::Report) -> bool,
) {
    for n in 0..count {
        let hours = Duration::from_secs(12 * 3_600);
        until(keeper, (&format!("tls-{n}"), hours), &fits).await;
    }
}

fn waits(report: &crate::events::Report) -> bool {
    report.waiting == Some(Class::Limited)
}

#[tokio::test(start_paused = true)]
async fn one_certificate_meets_the_limit_of_accounts_and_all_others_wait_with_it() {
    let stand = Stand::new("");
    let detail = "too many new registrations (10) from this IP address in the last 3h0m0s, retry after \
                  2026-06-01 03:00:00 UTC";
    let limited = move || said(429, "rateLimited", detail);
    let play = || {
        stand
            .ca
            .play(move |step, _| (step == Step::Account).then(limited));
    };
    play();
    let keeper = stand.keeper();
    want(&keeper, many(MANY));
    all(&keeper, MANY, waits).await;
    let reports = keeper.reports.borrow().clone();
    let three = "2026-06-01T03:00:00Z".parse().expect("a time");
    for report in reports.values() {
        assert!(report.next_attempt >= Some(three), "{report:?}");
    }
    assert_eq!(stand.ca.count(Step::Account), 1);
    // Stored: the next leader knows it.
    drop(keeper);
    let keeper = stand.keeper();
    want(&keeper, many(MANY + 1));
    all(&keeper, MANY + 1, waits).await;
    assert_eq!(stand.ca.count(Step::Account), 1);
    let accounts = keeper.asker().accounts().expect("accounts");
    assert_eq!(accounts[0].until, Some(three));
    let refused = accounts[0].refused.as_deref().unwrap_or_default();
    assert!(refused.contains("too many new registrations"), "{refused}");
    stand.ca.heal();
    let there = |report: &crate::events::Report| report.phase == Phase::Valid;
    all(&keeper, MANY + 1, there).await;
    assert_eq!(stand.ca.count(Step::Account), 2);
    let accounts = keeper.asker().accounts().expect("accounts");
    assert_eq!(accounts[0].refused, None);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_directory_is_met_by_those_under_way_and_by_no_other() {
    let stand = Stand::new("");
    stand.ca.play(|step, _| {
        (step == Step::Directory).then(|| Cause::Answer(429, "slow down".to_owned()))
    });
    let keeper = stand.keeper();
    want(&keeper, many(MANY));
    all(&keeper, MANY, waits).await;
    let asked = stand.ca.count(Step::Directory);
    assert!(asked <= 8, "{asked}");
}
