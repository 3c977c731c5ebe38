//! What must not go round without a pause.

use super::*;
use crate::keeper::{Command, Keeper};
use crate::plan::Request;
use crate::record::Asked;

/// Lets ten minutes pass: the looks at the clock meanwhile.
async fn ten_minutes(stand: &Stand) -> usize {
    let before = stand.clock.looks();
    tokio::time::sleep(Duration::from_secs(600)).await;
    stand.clock.looks() - before
}

async fn valid_once(stand: &Stand) -> Keeper {
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    keeper
}

#[tokio::test(start_paused = true)]
async fn a_wish_of_a_person_for_what_nothing_asks_for_is_refused_and_a_stored_one_forgotten() {
    let stand = Stand::new("");
    let keeper = valid_once(&stand).await;
    want(&keeper, vec![]);
    until(&keeper, ("tls", SOON), |report| {
        report.phase == Phase::Tombstone
    })
    .await;
    for asked in [Command::Retry, Command::Renew { force: false }] {
        let refused = command(&keeper, asked).await.expect_err("for nobody");
        assert!(refused.contains("nothing asks for shop/tls"), "{refused}");
    }
    drop(keeper);
    let mut record = stand.stored("tls").await;
    record.state.asked = Some(Asked::Renew);
    stand.store(&record).await;
    let keeper = stand.keeper();
    want(&keeper, vec![]);
    let looks = ten_minutes(&stand).await;
    assert!(looks < 1_000, "{looks}");
    assert_eq!(stand.stored("tls").await.state.asked, None);
    assert_eq!(stand.ca.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_made_anew_inherits_nothing_while_its_certificate_waits() {
    let stand = Stand::new("");
    let keeper = valid_once(&stand).await;
    stand
        .ca
        .play(|step, _| (step == Step::NewOrder).then(|| said(403, "caa", "forbidden")));
    command(&keeper, Command::Renew { force: false })
        .await
        .expect("asked");
    let waits = |report: &crate::events::Report| report.waiting == Some(Class::Validation);
    until(&keeper, ("tls", SOON), waits).await;
    drop(keeper);
    let mut anew = request("tls", &["a.example.org"]);
    anew.namespace_uid = "another".to_owned();
    let keeper = stand.keeper();
    want(&keeper, vec![anew]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(keeper.certificates.borrow().is_empty());
    let record = stand.stored("tls").await;
    assert!(record.current.is_none() && record.previous.is_none());
    assert!(record.state.wait.is_some(), "the names still wait");
    let looks = ten_minutes(&stand).await;
    assert!(looks < 1_000, "{looks}");
}

#[tokio::test(start_paused = true)]
async fn what_can_only_be_said_of_an_order_is_an_outage_where_there_is_none() {
    for kind in ["accountDoesNotExist", "alreadyReplaced", "orderNotReady"] {
        let stand = Stand::new("");
        let step = Step::Directory;
        stand
            .ca
            .play(move |asked, _| (asked == step).then(|| said(400, kind, "nonsense")));
        let keeper = stand.keeper();
        want(&keeper, vec![request("tls", &["a.example.org"])]);
        let looks = ten_minutes(&stand).await;
        assert!(looks < 1_000, "{kind}: {looks}");
        assert!(
            stand.ca.count(step) < 10,
            "{kind}: {}",
            stand.ca.count(step)
        );
        let report = until(&keeper, ("tls", SOON), |_| true).await;
        assert_eq!(report.waiting, Some(Class::Outage), "{kind}");
        stand.ca.heal();
        let hour = Duration::from_secs(3_600);
        until(&keeper, ("tls", hour), |report| {
            report.phase == Phase::Valid
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_published_once_while_dns_is_looked_at_again_and_again() {
    let stand = Stand::new(
        "      challenges: [http-01, dns-01]\n      dns: [{zones: [example.org], provider: exec, \
         command: /bin/true}]\n",
    );
    stand.dns.hides.store(100, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(
        &keeper,
        vec![request("tls", &["a.example.org", "*.b.example.org"])],
    );
    until(&keeper, ("tls", SOON), |report| {
        report.phase == Phase::Presenting
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(keeper.board.borrow().entries.len(), 1);
    let before = stand.vault.writes();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(
        stand.dns.hides.load(Ordering::SeqCst) < 80,
        "it was looked for"
    );
    assert_eq!(stand.vault.writes(), before);
    until(&keeper, ("tls", 3 * SOON), |report| {
        report.phase == Phase::Valid
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_command_for_what_has_no_certificate_says_whether_it_is_refused() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    let refused = Request {
        issuer: Some("nobody".to_owned()),
        ..request("tls", &["a.example.org"])
    };
    for (wishes, why) in [
        (
            vec![refused],
            "asked for and refused, and there is no certificate yet: `gatehouse cert show",
        ),
        (
            vec![],
            "there is no certificate shop/tls: `gatehouse cert list`",
        ),
    ] {
        let some = !wishes.is_empty();
        want(&keeper, wishes);
        let mut findings = keeper.findings.clone();
        let told = findings.wait_for(|found| found.is_empty() != some).await;
        drop(told.expect("a keeper"));
        tokio::time::sleep(SOON).await;
        let said = command(&keeper, Command::Retry).await.expect_err("none");
        assert!(said.contains(why), "{said}");
    }
}
