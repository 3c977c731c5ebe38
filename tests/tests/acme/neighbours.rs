//! What befalls one certificate, one directory or one authority, and nobody beside it.

use std::sync::Arc;

use gatehouse_acme::clock::ScaledClock;
use gatehouse_acme::failure::Class;
use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::keeper::Command;
use gatehouse_acme::plan::Request;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen, Verdict};
use gatehouse_tests::acme::rules::{On, SlowFinalize, edge_unavailable, problem, rate_limited};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, request, target, until, valid, want};
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

/// Asks for a minute wherever it asks for time at all.
struct InAMinute;

impl Rule for InAMinute {
    fn after(&mut self, _: &Seen, answer: &mut Answer) {
        for (name, value) in &mut answer.headers {
            if name.eq_ignore_ascii_case("retry-after") {
                "60".clone_into(value);
            }
        }
    }
}

/// Issuers `main` and `other` at these directories of one authority.
fn two(main: &str, other: &str) -> Issuers {
    let one = |name: &str, directory: &str| {
        format!(
            "    {name}:\n      directory: {directory}\n      acceptTerms: true\n      caBundle: roots\n"
        )
    };
    let text = format!(
        "acme:\n  issuers:\n{}{}  default: main\n  unlisted: allow\n",
        one("main", main),
        one("other", other)
    );
    Issuers::parse(&text).expect("issuers")
}

/// As many certificates of issuer `main` as are worked on at once, and more.
fn many(count: usize) -> Vec<Request> {
    let wish = |n| request(&format!("a{n}"), &[&format!("a{n}.example.test")]);
    (0..count).map(wish).collect()
}

/// One of issuer `other`, behind all of those in every order.
fn beside() -> Request {
    let mut wish = request("z", &["z.example.test"]);
    wish.issuer = Some("other".to_owned());
    wish
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

#[test]
fn orders_that_their_authority_takes_minutes_for_keep_nobody_waiting() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let (slow, other) = (Fault::before(&pebble), Fault::before(&pebble));
        slow.rule(SlowFinalize {
            answers: usize::MAX,
        });
        slow.rule(InAMinute);
        with(async || {
            let stand = Stand::new(&pebble, &slow.directory(), "");
            let issuers = two(&slow.directory(), &other.directory());
            stand.issuers.send_replace(Arc::new(issuers));
            let keeper = stand.keeper();
            want(&keeper, many(FLOWS));
            for wish in many(FLOWS) {
                let asked = |phase| phase == Phase::Finalizing;
                until(&keeper, &wish.target.secret, |report| asked(report.phase)).await;
            }
            let more = many(FLOWS + 1).into_iter().chain([beside()]);
            want(&keeper, more.collect());
            valid(&keeper, "z").await;
            // Not of the same authority either.
            let last = format!("a{FLOWS}");
            until(&keeper, &last, |report| report.phase == Phase::Finalizing).await;
        });
    });
}

#[test]
fn an_authority_that_is_slow_to_answer_holds_only_its_own_share_of_the_work() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let (slow, other) = (Fault::before(&pebble), Fault::before(&pebble));
        slow.rule(On::silent(&[Endpoint::NewOrder]));
        with(async || {
            let stand = Stand::new(&pebble, &slow.directory(), "");
            let issuers = two(&slow.directory(), &other.directory());
            stand.issuers.send_replace(Arc::new(issuers));
            let keeper = stand.keeper();
            want(&keeper, many(FLOWS + 4));
            wait_asked(&slow, FLOWS).await;
            want(
                &keeper,
                many(FLOWS + 4).into_iter().chain([beside()]).collect(),
            );
            valid(&keeper, "z").await;
            let reports = keeper.reports.borrow().clone();
            let waiting = reports.values().filter(|each| each.waiting.is_some());
            assert_eq!(waiting.count(), 0, "none of them has given up yet");
            assert_eq!(slow.count(Endpoint::NewOrder), FLOWS);
        });
    });
}

/// Waits until so many orders were asked for.
async fn wait_asked(proxy: &Fault, count: usize) {
    let asked = async {
        while proxy.count(Endpoint::NewOrder) < count {
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    asked.expect("orders in time");
}

#[test]
fn a_person_who_knows_better_ends_a_pause_that_the_edge_has_asked_for() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(On::these(&[Endpoint::NewOrder], edge_unavailable(DAYS)).times(1));
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let waits = until(&keeper, "tls", |report| report.waiting.is_some()).await;
            assert_eq!(waits.waiting, Some(Class::Outage), "{waits:?}");
            let next = waits.next_attempt.expect("an outage ends");
            let most = Timestamp::now() + SignedDuration::from_hours(24);
            assert!(next <= most, "{next} is believed");
            keeper
                .command(target("tls"), Command::Retry)
                .await
                .expect("obeyed");
            valid(&keeper, "tls").await;
        });
    });
}

/// As many as are worked on at once.
const FLOWS: usize = 8;

/// Three days, in seconds.
const DAYS: u64 = 3 * 86_400;
