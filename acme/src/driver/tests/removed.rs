//! Records that somebody removes while an order is under way.

use futures_util::FutureExt as _;

use super::*;
use crate::keeper::Command;
use crate::record::Leftover;
use crate::vault::memory::MemoryVault;

const RENEW: Command = Command::Renew { force: false };

fn remove(vault: &MemoryVault) {
    let key = Key::Certificate(double::target("tls"));
    let found = vault.read(&key).now_or_never().expect("in memory");
    let stored = found.expect("a vault").expect("a record");
    let removed = vault.remove(&key, &stored.version).now_or_never();
    removed.expect("in memory").expect("removed");
}

/// The record goes when this is asked for the nth time.
fn removed_at(stand: &Stand, step: Step, nth: usize) {
    let vault = stand.vault.clone();
    stand.ca.play(move |asked, ca| {
        if asked == step && ca.count(step) == nth {
            remove(&vault);
        }
        None
    });
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_removed_after_finalize_costs_neither_key_nor_order() {
    for step in [Step::Challenge, Step::Finalize, Step::Certificate] {
        let stand = Stand::new("");
        removed_at(&stand, step, 1);
        let keeper = stand.keeper();
        want(&keeper, vec![request("tls", &["a.example.org"])]);
        let first = valid(&keeper, "tls").await;
        assert_eq!(stand.ca.count(Step::NewOrder), 1, "{step:?}");
        // The same with a certificate that is renewed.
        let next = stand.ca.count(step) + 1;
        removed_at(&stand, step, next);
        command(&keeper, RENEW).await.expect("asked");
        renewed(&keeper, ("tls", SOON), &first).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(stand.ca.count(Step::NewOrder), 2, "{step:?}");
        let record = stand.stored("tls").await;
        let stands = (record.state.phase, record.state.asked);
        assert_eq!(stands, (Phase::Valid, None), "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_removed_before_finalize_keeps_the_counts_and_what_is_left_in_dns() {
    let stand =
        Stand::new("      dns: [{zones: [example.org], provider: exec, command: /bin/true}]\n");
    stand
        .ca
        .play(|step, _| (step == Step::NewOrder).then(|| said(403, "caa", "forbidden")));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    drop(keeper);
    let text = r#"{"issuer": "main", "domain": "a.example.org",
        "record": {"fqdn": "_acme-challenge.a.example.org", "zone": null, "value": "v"}}"#;
    let leftover: Leftover = serde_json::from_str(text).expect("a leftover");
    let mut record = stand.stored("tls").await;
    record.state.cleanup.push(leftover);
    record.state.wait = None;
    stand.store(&record).await;
    let before = stand.ca.count(Step::NewOrder);
    removed_at(&stand, Step::NewOrder, before + 1);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.count(Step::NewOrder), before + 2);
    assert_eq!(stand.stored("tls").await.state.ordered.len(), 2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stand.dns.cleanups.load(Ordering::SeqCst), 1);
    assert!(stand.stored("tls").await.state.cleanup.is_empty());
}
