//! Answers of authorities and what becomes of them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ca::Subproblem;

fn problem(step: Step, status: u16, kind: &str, detail: &str) -> Refusal {
    let problem = Problem {
        kind: kind.into(),
        detail: detail.into(),
        subproblems: Vec::new(),
    };
    Refusal::new(step, Cause::Problem(status, problem))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// What Pebble says of a signature by another key than the account's.
const STALE: &str = "JWS verification error: error in cryptographic primitive";

#[test]
fn each_answer_has_its_class() {
    let order = Step::NewOrder;
    for (step, status, kind, detail, expected) in [
        (order, 400, "badNonce", "", Class::Transient),
        (order, 500, "serverInternal", "", Class::Outage),
        (order, 429, "rateLimited", "too many", Class::Limited),
        (order, 503, "rateLimited", "too many", Class::Limited),
        (
            order,
            429,
            "rateLimited",
            "paused, see https://a/",
            Class::Paused,
        ),
        // Of an order that replaces nothing.
        (order, 409, "alreadyReplaced", "", Class::Validation),
        // Whether the account may have these names, or is good at all, is found out by asking.
        (order, 403, "unauthorized", "not for you", Class::Validation),
        (order, 403, "userActionRequired", "terms", Class::Issuer),
        (order, 400, "accountDoesNotExist", "", Class::AccountGone),
        (order, 400, "malformed", STALE, Class::AccountGone),
        (Step::Account, 400, "malformed", STALE, Class::Issuer),
        (order, 400, "rejectedIdentifier", "", Class::Spec),
        (order, 400, "invalidProfile", "", Class::Spec),
        (order, 400, "malformed", "bad name", Class::Spec),
        (Step::Account, 403, "unauthorized", "bad MAC", Class::Issuer),
        (
            Step::Account,
            400,
            "externalAccountRequired",
            "",
            Class::Issuer,
        ),
        (
            Step::Order,
            404,
            "malformed",
            "no such order",
            Class::OrderGone,
        ),
        (
            Step::Finalize,
            403,
            "orderNotReady",
            "",
            Class::OrderNotReady,
        ),
        (Step::Finalize, 403, "caa", "forbids", Class::Validation),
        (Step::Finalize, 400, "badCSR", "", Class::Spec),
    ] {
        let failure = Failure::of(&problem(step, status, kind, detail), false);
        assert_eq!(failure.class, expected, "{step:?} {status} {kind}");
    }
}

#[test]
fn case_35_html_of_an_edge_and_silence_are_outages() {
    let mut html = Refusal::new(Step::NewOrder, Cause::Answer(503, "<html>".into()));
    html.retry_after = Some(Duration::from_secs(700));
    let failure = Failure::of(&html, false);
    assert_eq!(failure.class, Class::Outage);
    assert_eq!(failure.wait(1, at(0), None, ""), Some(at(700)));
    let silent = Refusal::new(Step::Order, Cause::Deadline(Duration::from_secs(30)));
    assert_eq!(Failure::of(&silent, false).class, Class::Outage);
}

#[test]
fn a_refused_replacement_is_tried_without_it_whatever_the_status() {
    let step = Step::NewOrder;
    for refusal in [
        problem(
            step,
            403,
            "unauthorized",
            "requester account did not request the certificate being replaced",
        ),
        problem(
            step,
            404,
            "malformed",
            "could not find predecessor certificate",
        ),
        problem(step, 400, "malformed", "parsing ARI CertID failed"),
        problem(step, 409, "conflict", "has already been replaced"),
        problem(
            step,
            500,
            "serverInternal",
            "could not find an order for the given certificate: no such serial number",
        ),
        Refusal::new(step, Cause::Answer(404, String::new())),
    ] {
        assert_eq!(
            Failure::of(&refusal, true).class,
            Class::Replaces,
            "{refusal}"
        );
        assert_ne!(
            Failure::of(&refusal, false).class,
            Class::Replaces,
            "{refusal}"
        );
    }
}

#[test]
fn the_scope_and_end_of_a_limit_come_from_the_words() {
    for (detail, scope, until) in [
        (
            "too many new orders (300) from this account in the last 3h0m0s, retry after \
             2026-08-01 12:34:56 UTC: see https://letsencrypt.org/docs/",
            Scope::Account,
            Some("2026-08-01T12:34:56Z"),
        ),
        (
            "too many certificates (50) already issued for \"example.org\" in the last 168h0m0s, \
             retry after 2026-08-01 12:34:56 UTC: see https://a/",
            Scope::Account,
            Some("2026-08-01T12:34:56Z"),
        ),
        (
            "too many certificates already issued for \"example.org\"",
            Scope::Domain("example.org".into()),
            None,
        ),
        (
            "too many certificates (5) already issued for this exact set of identifiers in the \
             last 168h0m0s, retry after 2026-08-01 12:34:56 UTC",
            Scope::Set,
            Some("2026-08-01T12:34:56Z"),
        ),
        (
            "too many failed authorizations (5) for \"a.example.org\" in the last 1h0m0s",
            Scope::Name(Name::Dns("a.example.org".into())),
            None,
        ),
    ] {
        let failure = Failure::of(&problem(Step::NewOrder, 429, "rateLimited", detail), false);
        let until: Option<Timestamp> = until.map(|text| text.parse().expect("a time"));
        assert_eq!(failure.until, until, "{detail}");
        if detail.contains("(50)") {
            assert_eq!(
                failure.scope.as_deref(),
                Some(&Scope::Domain("example.org".into()))
            );
        } else {
            assert_eq!(failure.scope.as_deref(), Some(&scope), "{detail}");
        }
    }
}

#[test]
fn case_20_a_failed_validation_waits_1_10_100_minutes_and_then_a_day() {
    let failure = Failure::local(Class::Validation, "no");
    let waits = [1, 2, 3, 4, 9].map(|n| {
        let until = failure.wait(n, at(0), None, "x").expect("a time");
        until.as_second() / 60
    });
    for (wait, expected) in waits.iter().zip([1, 10, 100, 1_440, 1_440]) {
        assert!(
            (expected..=expected + expected / 10).contains(wait),
            "{waits:?}"
        );
    }
    let life = Life {
        cert_id: "a".into(),
        not_before: at(-1_000_000),
        not_after: at(16 * 3_600),
    };
    let ending = failure.wait(9, at(0), Some(&life), "x");
    assert_eq!(ending, Some(at(2 * 3_600)), "an eighth of what is left");
}

#[test]
fn case_21_a_rejected_name_waits_for_a_change_and_is_named() {
    let mut refusal = problem(Step::NewOrder, 400, "rejectedIdentifier", "policy");
    if let Cause::Problem(_, problem) = &mut refusal.cause {
        problem.subproblems.push(Subproblem {
            name: Some("blocked.example".into()),
            kind: "rejectedIdentifier".into(),
            detail: "on a list".into(),
        });
    }
    let failure = Failure::of(&refusal, false);
    assert_eq!(failure.wait(1, at(0), None, ""), None);
    assert!(failure.detail.contains("blocked.example"));
}

#[test]
fn a_pause_shows_its_link_and_is_probed_daily() {
    let detail =
        "account is paused for \"a.example\": visit https://portal.example/unpause?jwt=a.b.";
    let failure = Failure::of(&problem(Step::NewOrder, 429, "rateLimited", detail), false);
    assert_eq!(
        failure.link.as_deref(),
        Some("https://portal.example/unpause?jwt=a.b")
    );
    assert_eq!(failure.wait(1, at(0), None, ""), Some(at(86_400)));
}

proptest! {
    #[test]
    fn no_answer_makes_a_wait_without_bound_or_a_panic(
        status in 100..600_u16, kind in "[a-zA-Z]{0,12}", detail in "\\PC{0,80}",
        n in any::<u32>(), wait in prop::option::of(any::<u64>()), replacing in any::<bool>(),
    ) {
        let mut refusal = problem(Step::NewOrder, status, &kind, &format!("{detail} retry after {detail}"));
        refusal.retry_after = wait.map(Duration::from_secs);
        let failure = Failure::of(&refusal, replacing);
        let until = failure.wait(n, at(0), None, &detail);
        prop_assert_eq!(until.is_none(), failure.class == Class::Spec);
        let second = until.map_or(0, Timestamp::as_second);
        prop_assert!((0..=8 * 86_400).contains(&second));
    }
}

#[test]
fn what_says_itself_when_to_look_again_is_looked_at_then() {
    let mut failure = Failure::local(Class::Local, "a secret is not there");
    failure.retry_after = Some(SignedDuration::from_mins(5));
    for n in 1..9 {
        assert_eq!(failure.wait(n, at(0), None, ""), Some(at(300)));
    }
}

#[test]
fn a_name_with_the_word_in_it_is_no_pause() {
    for (detail, class) in [
        (
            "issuance for a.example is paused, see https://a/",
            Class::Paused,
        ),
        ("\"a.example\": Paused.", Class::Paused),
        ("paused.example.org is too long", Class::Limited),
        (
            "too many orders for \"shop-paused.example.org\"",
            Class::Limited,
        ),
    ] {
        let failure = Failure::of(&problem(Step::NewOrder, 429, "rateLimited", detail), false);
        assert_eq!(failure.class, class, "{detail}");
    }
}

#[test]
fn no_edge_is_believed_to_be_away_for_more_than_a_day() {
    let mut refusal = Refusal::new(Step::NewOrder, Cause::Answer(503, "<html>".into()));
    refusal.retry_after = Some(Duration::from_secs(8 * 86_400));
    let failure = Failure::of(&refusal, false);
    assert_eq!(failure.wait(1, at(0), None, ""), Some(at(86_400)));
}

#[test]
fn an_authority_that_is_not_believed_here_is_not_away() {
    let refused = |cause: fn(String) -> Cause, text: &str| {
        Failure::of(
            &Refusal::new(Step::Directory, cause(text.to_owned())),
            false,
        )
    };
    let distrusted = refused(Cause::Distrusted, "nobody vouches for it");
    assert_eq!(distrusted.class, Class::Local);
    assert!(
        distrusted.detail.contains("caBundle"),
        "{}",
        distrusted.detail
    );
    let away = refused(Cause::Unreachable, "Connection refused");
    assert_eq!(away.class, Class::Outage);
}
