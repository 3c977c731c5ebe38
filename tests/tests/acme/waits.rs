//! What a failure makes of a certificate: whose it is, how long it waits, what is tried again.

use std::sync::Arc;

use gatehouse_acme::clock::ScaledClock;
use gatehouse_acme::events::What;
use gatehouse_acme::failure::Class;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen};
use gatehouse_tests::acme::rules::{On, edge_unavailable, problem, rate_limited};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;
use jiff::Timestamp;
use serde_json::json;

use crate::customer::with;
use crate::stand::{Stand, event, issuers, request, until, valid, want};

/// Answers without a date, for a keeper whose clock runs faster than the authority's.
pub(crate) struct Undated;

impl Rule for Undated {
    fn after(&mut self, _: &Seen, answer: &mut Answer) {
        answer
            .headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
    }
}

#[test]
fn case_20_a_validation_that_fails_is_tried_after_1_10_and_100_minutes_and_success_clears() {
    alone(|| {
        // Nobody answers on the validation port until the third attempt has failed.
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(Undated);
        with(async || {
            let more = "      challenges: [http-01]\n";
            let mut stand = Stand::new(&pebble, &proxy.directory(), more);
            let clock = Arc::new(ScaledClock::new(Timestamp::now(), 600));
            stand.clock = Arc::<ScaledClock>::clone(&clock);
            let keeper = stand.keeper();
            let mut events = keeper.events();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            for minutes in [1, 10, 100] {
                let failed = event(&mut events, |what| {
                    matches!(
                        what,
                        What::Failed {
                            class: Class::Validation,
                            ..
                        }
                    )
                });
                let What::Failed {
                    until: Some(next), ..
                } = failed.await.what
                else {
                    panic!("a validation is tried again");
                };
                let now = gatehouse_acme::clock::Clock::now(clock.as_ref());
                let wait = next.duration_since(now).as_secs() / 60;
                // A tenth of jitter, an hour's limit of three, and a machine that is busy.
                let most = if minutes == 100 { 111 } else { minutes + 1 };
                assert!((minutes - 3..=most).contains(&wait), "{wait} for {minutes}");
            }
            assert_eq!(proxy.count(Endpoint::NewOrder), 3);
            let _server = stand.serve(&pebble);
            let serial = valid(&keeper, "tls").await;
            assert_eq!(pebble.issued(), [serial]);
            let report = until(&keeper, "tls", |report| report.phase == Phase::Valid).await;
            assert_eq!((report.failures, report.detail.as_deref()), (0, None));
        });
    });
}

#[test]
fn case_22_a_binding_that_is_refused_is_the_issuers_trouble_until_it_is_mended() {
    alone(|| {
        let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
        let config = json!({
            "externalAccountBindingRequired": true,
            "externalAccountMACKeys": {"kid-1": mac},
        });
        let pebble = Pebble::start_with(
            Setup {
                config,
                ..Setup::default()
            }
            .trusting(),
        );
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            let requests = || {
                vec![
                    request("a", &["a.example.test"]),
                    request("b", &["b.example.test"]),
                ]
            };
            want(&keeper, requests());
            for secret in ["a", "b"] {
                let report = until(&keeper, secret, |report| report.waiting.is_some()).await;
                assert_eq!(report.waiting, Some(Class::Issuer), "{report:?}");
            }
            assert_eq!(proxy.count(Endpoint::NewAccount), 1, "asked once for all");
            assert_eq!(proxy.count(Endpoint::NewOrder), 0);
            stand.secret("eab", "mac", mac);
            let bound = "      eab: {kid: kid-1, secret: eab}\n";
            stand
                .issuers
                .send_replace(Arc::new(issuers(&proxy.directory(), bound)));
            for secret in ["a", "b"] {
                valid(&keeper, secret).await;
            }
        });
    });
}

#[test]
fn case_35_an_edge_that_is_away_is_nobodys_failure_and_is_asked_when_it_said() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let mut stand = Stand::new(&pebble, &proxy.directory(), "");
            stand.clock = Arc::new(ScaledClock::new(Timestamp::now(), 60));
            proxy.rule(Undated);
            proxy.rule(On::these(&[Endpoint::NewOrder], edge_unavailable(600)).times(1));
            let keeper = stand.keeper();
            let mut events = keeper.events();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let failed = event(&mut events, |what| {
                matches!(
                    what,
                    What::Failed {
                        class: Class::Outage,
                        ..
                    }
                )
            });
            let What::Failed {
                until: Some(next), ..
            } = failed.await.what
            else {
                panic!("an outage ends");
            };
            let report = until(&keeper, "tls", |report| {
                report.waiting == Some(Class::Outage)
            })
            .await;
            assert_eq!((report.failures, report.next_attempt), (0, Some(next)));
            valid(&keeper, "tls").await;
            assert!(gatehouse_acme::clock::Clock::now(stand.clock.as_ref()) >= next);
            assert_eq!(proxy.count(Endpoint::NewOrder), 2);
        });
    });
}

#[test]
fn a_renewal_that_was_asked_for_is_made_after_an_outage_and_after_a_refusal() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let mut stand = Stand::new(&pebble, &proxy.directory(), "");
            stand.clock = Arc::new(ScaledClock::new(Timestamp::now(), 600));
            proxy.rule(Undated);
            let keeper = stand.keeper();
            let wish = || request("tls", &["a.example.test"]);
            want(&keeper, vec![wish()]);
            valid(&keeper, "tls").await;
            // Away before anything is planned for it: another certificate has found that out.
            proxy.rule(On::these(&[Endpoint::NewOrder], edge_unavailable(300)).times(1));
            want(&keeper, vec![wish(), request("other", &["b.example.test"])]);
            until(&keeper, "other", |report| report.waiting.is_some()).await;
            crate::issuing::renew(&keeper, "tls").await;
            // Refused after it was planned: what was planned is dropped.
            let refused = problem(403, "caa", "CAA forbids");
            proxy.rule(On::these(&[Endpoint::NewOrder], refused).times(1));
            crate::issuing::renew(&keeper, "tls").await;
            valid(&keeper, "other").await;
            assert_eq!(pebble.issued().len(), 4, "once each");
        });
    });
}

#[test]
fn a_limit_of_the_account_holds_for_all_and_survives_a_restart() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let limit = rate_limited("new orders (300) from this account", 3_600, "");
            proxy.rule(On::these(&[Endpoint::NewOrder], limit).times(1));
            let keeper = stand.keeper();
            want(&keeper, vec![request("a", &["a.example.test"])]);
            let first = until(&keeper, "a", |report| report.waiting.is_some()).await;
            assert_eq!(first.waiting, Some(Class::Limited));
            drop(keeper);
            let keeper = stand.keeper();
            let both = vec![
                request("a", &["a.example.test"]),
                request("b", &["b.example.test"]),
            ];
            want(&keeper, both);
            let second = until(&keeper, "b", |report| report.waiting.is_some()).await;
            assert_eq!(second.waiting, Some(Class::Limited));
            let again = until(&keeper, "a", |_| true).await;
            assert_eq!(again.next_attempt, first.next_attempt);
            assert_eq!(
                proxy.count(Endpoint::NewOrder),
                1,
                "nobody asks before it is over"
            );
        });
    });
}

#[test]
fn case_56_an_authority_that_forgot_everything_issues_to_the_same_key_again() {
    alone(|| {
        let mut pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("a", &["a.example.test"])]);
            valid(&keeper, "a").await;
            let thumbprint = keeper.board.borrow().accounts["main"].thumbprint.clone();
            pebble.restart();
            let both = vec![
                request("a", &["a.example.test"]),
                request("b", &["b.example.test"]),
            ];
            want(&keeper, both);
            valid(&keeper, "b").await;
            assert_eq!(
                keeper.board.borrow().accounts["main"].thumbprint,
                thumbprint
            );
        });
    });
}
