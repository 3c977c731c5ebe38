//! From a wish to a served certificate, and what must not be ordered.

use std::sync::Arc;

use gatehouse_acme::events::What;
use gatehouse_acme::failure::Class;
use gatehouse_acme::issuers::KeyKind;
use gatehouse_acme::plan::Code;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen};
use gatehouse_tests::acme::rules::{AlternatesGone, On, SlowFinalize, problem};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;

use crate::customer::with;
use crate::stand::{Stand, event, issuers, request, served, until, valid, want};

#[test]
fn case_01_one_name_is_one_finalize_and_is_served_within_a_second_of_its_issue() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let _server = stand.serve(&pebble);
            let keeper = stand.keeper();
            let mut certificates = keeper.certificates.clone();
            let mut events = keeper.events();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            event(&mut events, |what| matches!(what, What::Finalizing)).await;
            let begun = tokio::time::Instant::now();
            certificates.changed().await.expect("a certificate");
            // Its download is part of that time, too.
            let took = begun.elapsed();
            let serial = valid(&keeper, "tls").await;
            assert_eq!(pebble.issued(), [serial]);
            assert_eq!(proxy.count(Endpoint::Finalize), 1);
            assert!(took.as_secs() < 5, "{took:?}");
            assert!(proxy.journal().len() <= 12, "{}", proxy.journal().len());
            assert!(
                keeper.board.borrow().entries.is_empty(),
                "nothing is left behind"
            );
        });
    });
}

#[test]
fn case_46_a_host_more_is_one_certificate_more_and_another_order_or_case_is_none() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            want(
                &keeper,
                vec![request("tls", &["a.example.test", "b.example.test"])],
            );
            let first = valid(&keeper, "tls").await;
            want(
                &keeper,
                vec![request("tls", &["B.example.test", "a.example.test."])],
            );
            want(
                &keeper,
                vec![request(
                    "tls",
                    &["b.example.test", "a.example.test", "c.example.test"],
                )],
            );
            let moved = |serial: &Option<String>| serial.as_deref() != Some(first.as_str());
            until(&keeper, "tls", |report| {
                report.phase == Phase::Valid && moved(&report.serial)
            })
            .await;
            assert_eq!(pebble.issued().len(), 2);
        });
    });
}

#[test]
fn case_47_two_objects_with_one_secret_are_one_certificate_and_a_finding() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            let older = request("tls", &["a.example.test"]);
            let mut younger = request("tls", &["b.example.test"]);
            younger.object = "Ingress shop/younger".to_owned();
            younger.since = older.since + jiff::SignedDuration::from_secs(1);
            let both = vec![younger.clone(), older.clone()];
            want(&keeper, both.clone());
            valid(&keeper, "tls").await;
            let codes: Vec<Code> = keeper
                .findings
                .borrow()
                .iter()
                .map(|each| each.code)
                .collect();
            assert_eq!(codes, [Code::ConflictingTls]);
            // Whatever is said again in whatever order: nothing more is ordered.
            want(&keeper, vec![older.clone(), younger]);
            want(&keeper, both);
            want(&keeper, vec![older, request("other", &["c.example.test"])]);
            valid(&keeper, "other").await;
            assert_eq!(pebble.issued().len(), 2, "one each");
        });
    });
}

#[test]
fn case_48_what_is_not_allowed_never_reaches_the_authority() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let rule = "      allow: [{namespaces: {names: [web]}, hosts: [\"*.example.test\"]}]\n";
            let stand = Stand::new(&pebble, &proxy.directory(), rule);
            let keeper = stand.keeper();
            let mut findings = keeper.findings.clone();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            findings.changed().await.expect("a finding");
            assert_eq!(findings.borrow()[0].code, Code::NotAllowed);
            // A certificate that is allowed is issued meanwhile; the other one is not asked about.
            let mut allowed = request("tls", &["b.example.test"]);
            allowed.target.namespace = "web".to_owned();
            let _server = stand.serve(&pebble);
            let target = allowed.target.clone();
            want(&keeper, vec![request("tls", &["a.example.test"]), allowed]);
            let mut certificates = keeper.certificates.clone();
            let there = certificates.wait_for(|all| all.contains_key(&target)).await;
            assert_eq!(there.expect("a certificate").len(), 1);
            assert_eq!(proxy.count(Endpoint::NewOrder), 1);
        });
    });
}

#[test]
fn case_52_processing_for_long_and_a_late_certificate_are_one_order() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            proxy.rule(SlowFinalize { answers: 4 });
            let late = problem(404, "malformed", "no such certificate");
            proxy.rule(On::these(&[Endpoint::Certificate], late).times(2));
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            assert_eq!(proxy.count(Endpoint::NewOrder), 1);
            assert_eq!(proxy.count(Endpoint::Finalize), 1);
            assert_eq!(proxy.count(Endpoint::Certificate), 3);
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}

#[test]
fn case_62_kinds_of_keys_are_as_asked_and_a_key_is_kept_only_on_purpose() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            let mut rsa = request("rsa", &["rsa.example.test"]);
            rsa.key = Some(KeyKind::Rsa2048);
            let mut large = request("large", &["large.example.test"]);
            large.key = Some(KeyKind::P384);
            want(&keeper, vec![rsa, large]);
            for secret in ["rsa", "large"] {
                valid(&keeper, secret).await;
            }
            let key = |secret| {
                served(&keeper, secret)
                    .expect("served")
                    .material
                    .key
                    .clone()
            };
            let length = |secret| key(secret).expose().len();
            assert!(length("rsa") > 1_000 && length("large") < 500);
            let first = key("large");
            renew(&keeper, "large").await;
            assert_ne!(key("large"), first, "a new key each time");
            let second = key("large");
            stand.issuers.send_replace(Arc::new(issuers(
                &pebble.directory(),
                "      reuseKey: true\n",
            )));
            renew(&keeper, "large").await;
            assert_eq!(key("large"), second, "kept on purpose");
        });
    });
}

/// Asks for a renewal and waits for it.
pub(crate) async fn renew(keeper: &gatehouse_acme::keeper::Keeper, secret: &str) {
    let before = until(keeper, secret, |report| report.phase == Phase::Valid).await;
    let command = gatehouse_acme::keeper::Command::Renew { force: false };
    let renewed = crate::stand::command(keeper, secret, command).await;
    renewed.expect("begun");
    until(keeper, secret, |report| {
        report.phase == Phase::Valid && report.serial != before.serial
    })
    .await;
}

#[test]
fn case_21_a_blocked_name_is_named_and_nothing_is_tried_until_the_wish_changes() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(
                &keeper,
                vec![request(
                    "tls",
                    &["good.example.test", "blocked-domain.example"],
                )],
            );
            let report = until(&keeper, "tls", |report| report.waiting.is_some()).await;
            assert_eq!(
                (report.waiting, report.next_attempt),
                (Some(Class::Spec), None)
            );
            let detail = report.detail.as_deref().unwrap_or_default();
            assert!(detail.contains("blocked-domain.example"), "{detail}");
            want(
                &keeper,
                vec![request(
                    "tls",
                    &["blocked-domain.example", "good.example.test"],
                )],
            );
            want(&keeper, vec![request("tls", &["good.example.test"])]);
            valid(&keeper, "tls").await;
            assert_eq!(proxy.count(Endpoint::NewOrder), 2);
        });
    });
}

#[test]
fn case_18_half_of_all_nonces_are_rejected_and_no_certificate_counts_a_failure() {
    alone(|| {
        let rejecting = Setup::default()
            .trusting()
            .with("PEBBLE_WFE_NONCEREJECT", 50);
        let pebble = Pebble::start_with(rejecting);
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            let names: Vec<String> = (0..50).map(|n| format!("h{n}")).collect();
            let wish = |name: &String| request(name, &[&format!("{name}.example.test")]);
            want(&keeper, names.iter().map(wish).collect());
            for name in &names {
                let report = until(&keeper, name, |report| {
                    assert_eq!((report.failures, report.waiting), (0, None));
                    report.phase == Phase::Valid
                })
                .await;
                assert_eq!(report.failures, 0);
            }
            assert_eq!(pebble.issued().len(), 50);
        });
    });
}

#[test]
fn case_19_valid_authorizations_are_used_and_not_answered_again() {
    alone(|| {
        let reusing = Setup::default().with("PEBBLE_AUTHZREUSE", 100);
        let pebble = Pebble::start_with(reusing);
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let _server = stand.serve(&pebble);
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let answered = proxy.count(Endpoint::Challenge);
            renew(&keeper, "tls").await;
            assert_eq!(proxy.count(Endpoint::Challenge), answered);
            assert_eq!(pebble.issued().len(), 2);
        });
    });
}

#[test]
fn case_53_the_preferred_root_is_chosen_and_one_that_is_gone_is_a_warning() {
    alone(|| {
        let setup = Setup::default()
            .trusting()
            .with("PEBBLE_ALTERNATE_ROOTS", 1);
        let pebble = Pebble::start_with(setup);
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let plain = stand.keeper();
            want(&plain, vec![request("tls", &["a.example.test"])]);
            valid(&plain, "tls").await;
            let root = |keeper: &_| {
                let chain = served(keeper, "tls")
                    .expect("served")
                    .material
                    .chain
                    .clone();
                gatehouse_acme::leaf::root_of(&chain).expect("a root")
            };
            let other = root_name(&pebble.root(1));
            assert_ne!(root(&plain), other);
            let more = format!("      preferredChain: {other}\n");
            let stand = Stand::new(&pebble, &proxy.directory(), &more);
            let chosen = stand.keeper();
            want(&chosen, vec![request("tls", &["b.example.test"])]);
            valid(&chosen, "tls").await;
            assert_eq!(root(&chosen), other);

            proxy.rule(AlternatesGone);
            let stand = Stand::new(&pebble, &proxy.directory(), &more);
            let keeper = stand.keeper();
            let mut events = keeper.events();
            want(&keeper, vec![request("tls", &["c.example.test"])]);
            event(
                &mut events,
                |what| matches!(what, What::Warning(text) if text.contains("alternate")),
            )
            .await;
            valid(&keeper, "tls").await;
            assert_ne!(root(&keeper), other, "the default is kept");
        });
    });
}

fn root_name(pem: &str) -> String {
    // A root is its own issuer.
    gatehouse_acme::leaf::root_of(pem).expect("a root")
}

#[test]
fn case_45_a_host_that_is_removed_before_finalize_costs_no_certificate() {
    alone(|| {
        // Nobody answers: the validation is under way for as long as it is watched.
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(On::silent(&[Endpoint::Challenge]));
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            until(&keeper, "tls", |report| report.phase == Phase::Validating).await;
            assert_eq!(keeper.board.borrow().entries.len(), 1);
            want(&keeper, vec![]);
            proxy.heal();
            until(&keeper, "tls", |report| report.phase == Phase::Tombstone).await;
            assert!(keeper.board.borrow().entries.is_empty());
            assert!(pebble.issued().is_empty());
        });
    });
}

#[test]
fn case_45_a_host_that_is_removed_after_finalize_is_finished_and_kept_for_a_while() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            proxy.rule(SlowFinalize { answers: 3 });
            let keeper = stand.keeper();
            let mut events = keeper.events();
            let wish = request("tls", &["a.example.test"]);
            want(&keeper, vec![wish.clone()]);
            event(&mut events, |what| matches!(what, What::Finalizing)).await;
            want(&keeper, vec![]);
            until(&keeper, "tls", |report| report.phase == Phase::Tombstone).await;
            assert_eq!(pebble.issued().len(), 1);
            // Wanted again: the certificate is there, nothing is ordered.
            want(&keeper, vec![wish]);
            valid(&keeper, "tls").await;
            assert_eq!(pebble.issued().len(), 1);
            assert_eq!(proxy.count(Endpoint::NewOrder), 1);
        });
    });
}

/// An authority that wants proof of another name than the one that was ordered.
struct Another;

impl Rule for Another {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Authorization {
            let text = answer.text().replace("a.example.test", "b.example.test");
            answer.body = text.into_bytes();
        }
    }
}

#[test]
fn proof_of_a_name_that_was_not_ordered_is_neither_published_nor_offered() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(Another);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let _server = stand.serve(&pebble);
            let keeper = stand.keeper();
            let mut board = keeper.board.clone();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let waits = until(&keeper, "tls", |report| report.waiting.is_some());
            tokio::select! {
                report = waits => {
                    assert_eq!(report.waiting, Some(Class::Local), "{report:?}");
                    let detail = report.detail.clone().unwrap_or_default();
                    assert!(detail.contains("b.example.test"), "{detail}");
                }
                posted = board.wait_for(|board| !board.entries.is_empty()) => {
                    panic!("published: {:?}", posted.expect("a keeper").entries);
                }
            }
            assert_eq!(proxy.count(Endpoint::Challenge), 0);
        });
    });
}
