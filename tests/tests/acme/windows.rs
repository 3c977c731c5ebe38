//! What the authority says about renewals, as a keeper asks for it.

use std::sync::Arc;

use gatehouse_acme::record::{Ari, Record};
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Vault};
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen};
use gatehouse_tests::acme::rules::{On, edge_unavailable};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, request, target, valid, want};

/// A directory that does not speak of renewals.
struct NoWindows;

impl Rule for NoWindows {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Directory
            && let Ok(Value::Object(mut directory)) = serde_json::from_slice(&answer.body)
        {
            directory.remove("renewalInfo");
            answer.body = Value::Object(directory).to_string().into_bytes();
        }
    }
}

/// Waits until what is stored of the windows of this certificate is as `fits` says.
async fn stored(vault: &MemoryVault, secret: &str, fits: impl Fn(&Ari) -> bool) -> Ari {
    let key = Key::Certificate(target(secret));
    let mut changes = vault.changes();
    let waiting = async {
        loop {
            let found = vault.read(&key).await.expect("read").expect("there");
            let record = Record::from_entries(&found.entries).expect("a record");
            if let Some(current) = record.state.current.filter(|each| fits(&each.ari)) {
                return current.ari;
            }
            changes.changed().await.expect("changes");
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.expect("stored in time")
}

#[test]
fn case_30_windows_are_asked_for_when_a_pause_is_over_and_by_nobody_else_meanwhile() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(On::these(&[Endpoint::Renewal], edge_unavailable(3_600)));
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let vault = MemoryVault::new();
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            let begun = Timestamp::now();
            let mut wishes = vec![request("a", &["a.example.test"])];
            want(&keeper, wishes.clone());
            valid(&keeper, "a").await;
            let hour = begun + SignedDuration::from_hours(1);
            let later =
                |ari: &Ari| ari.failures == 1 && ari.next_check.is_some_and(|at| at >= hour);
            stored(&vault, "a", later).await;
            assert_eq!(proxy.count(Endpoint::Renewal), 1);
            // Who cannot say when to renew may still issue.
            wishes.push(request("b", &["b.example.test"]));
            want(&keeper, wishes);
            valid(&keeper, "b").await;
            stored(&vault, "b", later).await;
            assert_eq!(proxy.count(Endpoint::Renewal), 1, "nobody asks meanwhile");
        });
    });
}

#[test]
fn case_30_a_directory_that_does_not_speak_of_windows_for_once_is_looked_at_again() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(NoWindows);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let vault = MemoryVault::new();
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            let begun = Timestamp::now();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let asked = |ari: &Ari| {
                ari.next_check
                    .is_none_or(|at| at > begun + SignedDuration::from_hours(1))
            };
            let ari = stored(&vault, "tls", asked).await;
            let next = ari.next_check.expect("it is asked for again");
            assert!(
                next <= Timestamp::now() + SignedDuration::from_hours(24),
                "{next}"
            );
            assert_eq!(proxy.count(Endpoint::Renewal), 0);
        });
    });
}
