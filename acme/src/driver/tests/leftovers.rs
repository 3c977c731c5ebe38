//! TXT records that cannot be removed.

use super::*;
use crate::dns::TxtRecord;
use crate::keeper::Command;
use crate::record::Leftover;

/// A certificate that is valid, and a TXT record that is left of its order.
async fn littered(stand: &Stand) -> String {
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let serial = valid(&keeper, "tls").await;
    drop(keeper);
    let text = r#"{"issuer": "main", "domain": "a.example.org",
        "record": {"fqdn": "_acme-challenge.a.example.org", "zone": null, "value": "v"}}"#;
    let leftover: Leftover = serde_json::from_str(text).expect("as it was written before");
    let mut record = stand.stored("tls").await;
    record.state.cleanup.push(leftover);
    stand.store(&record).await;
    serial
}

fn dns() -> Stand {
    Stand::new("      dns: [{zones: [example.org], provider: exec, command: /bin/true}]\n")
}

#[tokio::test(start_paused = true)]
async fn a_txt_record_that_cannot_be_removed_holds_no_renewal_and_is_given_up_in_the_end() {
    let stand = dns();
    let first = littered(&stand).await;
    stand.dns.refuses.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let days = Duration::from_secs(65 * 86_400);
    renewed(&keeper, ("tls", days), &first).await;
    let tries = stand.dns.cleanups.load(Ordering::SeqCst);
    assert_eq!(tries, 40, "ever more rarely, and not for ever");
    assert!(stand.stored("tls").await.state.cleanup.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_txt_record_that_cannot_be_removed_holds_no_other_wish_and_no_end() {
    let stand = dns();
    let first = littered(&stand).await;
    stand.dns.refuses.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(
        &keeper,
        vec![request("tls", &["a.example.org", "b.example.org"])],
    );
    renewed(&keeper, ("tls", SOON), &first).await;
    assert_eq!(stand.ca.last_names(), ["a.example.org", "b.example.org"]);
    want(&keeper, vec![]);
    until(&keeper, ("tls", SOON), |report| {
        report.phase == Phase::Tombstone
    })
    .await;
    // Mended: a person need not wait for the next try.
    want(
        &keeper,
        vec![request("tls", &["a.example.org", "b.example.org"])],
    );
    valid(&keeper, "tls").await;
    stand.dns.refuses.store(false, Ordering::SeqCst);
    command(&keeper, Command::Retry).await.expect("asked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stand.stored("tls").await.state.cleanup, []);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_needed_no_order_makes_no_later_failure_one_of_a_person() {
    let stand = dns();
    littered(&stand).await;
    stand.dns.refuses.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    stand.dns.refuses.store(false, Ordering::SeqCst);
    command(&keeper, Command::Retry).await.expect("asked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stand.stored("tls").await.state.cleanup, []);
    stand.ca.believes.store(false, Ordering::SeqCst);
    let days = Duration::from_secs(65 * 86_400);
    until(&keeper, ("tls", days), |report| report.failures == 1).await;
    let attempts = stand.stored("tls").await.state.attempts;
    assert_eq!((attempts.n, attempts.by_command), (1, 0));
}

#[test]
fn a_leftover_of_today_is_read_as_it_was_written() {
    let leftover = Leftover {
        issuer: "main".to_owned(),
        domain: "a.example.org".to_owned(),
        record: TxtRecord {
            fqdn: "_acme-challenge.a.example.org".to_owned(),
            zone: None,
            value: "v".to_owned(),
        },
        tries: 3,
        next: Some(Timestamp::UNIX_EPOCH),
    };
    let text = serde_json::to_string(&leftover).expect("text");
    assert_eq!(
        serde_json::from_str::<Leftover>(&text).expect("read"),
        leftover
    );
}
