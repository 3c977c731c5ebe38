//! What befalls one certificate, one directory or one authority, and nobody beside it.

use std::sync::Arc;

use gatehouse_acme::clock::ScaledClock;
use gatehouse_acme::failure::Class;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen, Verdict};
use gatehouse_tests::acme::rules::{On, edge_unavailable, problem, rate_limited};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::customer::with;
use crate::stand::{Stand, request, until, valid, want};
use crate::waits::Undated;

/// An authority that has not been told that this account may have the name.
struct NotFor(&'static str);

impl Rule for NotFor {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let names = seen.payload["identifiers"].to_string();
        if seen.endpoint == Endpoint::NewOrder && names.contains(self.0) {
            let text = format!("the account is not authorized for {}", self.0);
            return Verdict::Answer(problem(403, "unauthorized", &text));
        }
        Verdict::Pass
    }
}

/// Offers no profile.
struct NoProfiles;

impl Rule for NoProfiles {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Directory
            && let Ok(mut directory) = serde_json::from_slice::<Value>(&answer.body)
        {
            directory["meta"]["profiles"] = json!({});
            answer.body = directory.to_string().into_bytes();
        }
    }
}

#[test]
fn a_name_that_the_account_may_not_have_stops_its_own_certificate_and_no_other() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(NotFor("a.example.test"));
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("a", &["a.example.test"])]);
            let refused = until(&keeper, "a", |report| report.waiting.is_some()).await;
            assert_eq!(refused.waiting, Some(Class::Validation), "{refused:?}");
            let detail = refused.detail.as_deref().unwrap_or_default();
            assert!(detail.contains("not authorized for"), "{detail}");
            let both = [("a", "a.example.test"), ("b", "b.example.test")];
            let both = both.map(|(secret, host)| request(secret, &[host]));
            want(&keeper, both.to_vec());
            valid(&keeper, "b").await;
            // The registration, and one look whether the account is good.
            assert_eq!(proxy.count(Endpoint::NewAccount), 2);
        });
    });
}

#[test]
fn a_secret_of_an_issuer_that_is_put_back_is_read_within_minutes() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(Undated);
        with(async || {
            let mut stand = Stand::new(&pebble, &proxy.directory(), "");
            let clock = Arc::new(ScaledClock::new(Timestamp::now(), 60));
            stand.clock = Arc::<ScaledClock>::clone(&clock);
            stand.secret("roots", "ca.crt", "nothing that could be read");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let waits = until(&keeper, "tls", |report| report.waiting.is_some()).await;
            assert_eq!(waits.waiting, Some(Class::Local), "{waits:?}");
            stand.secret("roots", "ca.crt", &pebble.bundle());
            valid(&keeper, "tls").await;
        });
    });
}

/// A second attempt, which goes to the test directory first, while that one has a fault.
async fn rehearsed(pebble: &Pebble, fault: impl FnOnce(&Fault)) {
    let (real, test) = (Fault::before(pebble), Fault::before(pebble));
    let more = format!(
        "      profile: classic\n      testDirectory: {}\n",
        test.directory()
    );
    let mut stand = Stand::new(pebble, &real.directory(), &more);
    stand.clock = Arc::new(ScaledClock::new(Timestamp::now(), 600));
    for proxy in [&real, &test] {
        proxy.rule(Undated);
    }
    let refused = problem(403, "caa", "CAA forbids");
    real.rule(On::these(&[Endpoint::NewOrder], refused).times(1));
    fault(&test);
    let issued = pebble.issued().len();
    let keeper = stand.keeper();
    want(&keeper, vec![request("a", &["a.example.test"])]);
    valid(&keeper, "a").await;
    assert!(!test.journal().is_empty(), "the test directory was asked");
    // Nor does another certificate wait for what the test directory said.
    let both = [("a", "a.example.test"), ("b", "b.example.test")];
    let both = both.map(|(secret, host)| request(secret, &[host]));
    want(&keeper, both.to_vec());
    valid(&keeper, "b").await;
    assert_eq!(pebble.issued().len(), issued + 2);
}

#[test]
fn a_test_directory_that_is_away_does_not_keep_the_real_one_from_issuing() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let away = |test: &Fault| test.rule(On::everything(edge_unavailable(DAYS)));
        with(async || rehearsed(&pebble, away).await);
    });
}

#[test]
fn a_limit_of_a_test_directory_is_none_of_the_real_one() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let limit = || rate_limited("new orders (300) from this account", DAYS, "");
        let limits = |test: &Fault| test.rule(On::these(&[Endpoint::NewOrder], limit()));
        with(async || rehearsed(&pebble, limits).await);
    });
}

#[test]
fn a_test_directory_without_the_profile_does_not_keep_the_real_one_from_issuing() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let less = |test: &Fault| test.rule(NoProfiles);
        with(async || rehearsed(&pebble, less).await);
    });
}

#[test]
fn a_name_that_the_test_directory_has_proved_is_ordered_at_the_real_one() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || rehearsed(&pebble, |_| {}).await);
    });
}

/// Three days, in seconds.
const DAYS: u64 = 3 * 86_400;
