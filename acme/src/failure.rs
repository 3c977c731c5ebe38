//! What a failure means: whose it is, how long to wait, whom else it concerns.
//!
//! Pure: no clock, no I/O.
//!
//! Invariants:
//! - A client error is not one thing: the class comes from the problem's type and the step.
//! - `Retry-After` always wins over our own table; without it, a date in the text does.
//! - An outage of the authority is never counted against a certificate, and what one order meets is
//!   never an outage.
//! - A wait has a bound, except for what only a person can mend, and that is probed daily.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ca::{Cause, Problem, Refusal, Step};
use crate::names::Name;
use crate::schedule::{Life, between, later, share};

/// Whose failure it is; this decides what waits and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// A nonce was rejected: the same step again at once.
    Transient,
    /// The authority is away or broken; nobody's counters move.
    Outage,
    /// A rate limit.
    Limited,
    /// The authority stopped issuing for a name until a person follows a link.
    Paused,
    /// The authority could not validate a name.
    Validation,
    /// The authority will never issue this; the specification has to change.
    Spec,
    /// The account: terms, binding, deactivation. All certificates of the issuer wait.
    Issuer,
    /// The authority does not know the account: a private one was reset.
    AccountGone,
    /// The order does not exist any more: plan again with the same key.
    OrderGone,
    /// The reference to the replaced certificate is refused: the same without it.
    Replaces,
    /// The order is further than thought: look at it.
    OrderNotReady,
    /// One order does not get on: its certificate is late, or an answer about it makes no sense. The
    /// authority is well.
    NotYet,
    /// What was downloaded is not what was ordered.
    BadCertificate,
    /// Here: DNS provider, a key that does not load.
    Local,
    /// Here: what the certificate goes to cannot be written. Nobody outside is asked again.
    Storage,
}

/// Whom a rate limit concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "of")]
pub enum Scope {
    /// Every order of the account.
    Account,
    /// Every name below a registered domain.
    Domain(String),
    /// One set of names.
    Set,
    /// One name.
    Name(Name),
    /// Nobody's: our own pace keeps below all limits. Not stored by this name, which older programs do
    /// not know.
    Pace,
}

/// A classified failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose it is.
    pub class: Class,
    /// The authority's words, or ours, for people.
    pub detail: String,
    /// The wait that the authority asks for.
    pub retry_after: Option<SignedDuration>,
    /// The moment that the text names.
    pub until: Option<Timestamp>,
    /// Whom a limit concerns.
    pub scope: Option<Box<Scope>>,
    /// Page that explains, or that a person has to visit.
    pub link: Option<String>,
}

impl Failure {
    /// A failure that no authority is part of.
    pub fn local(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
            retry_after: None,
            until: None,
            scope: None,
            link: None,
        }
    }

    /// What a refusal means. `replacing` says whether the order named a certificate to replace.
    pub fn of(refusal: &Refusal, replacing: bool) -> Self {
        let class = class(refusal, replacing);
        let mut detail = refusal.sentence();
        if let Cause::Distrusted(_) = refusal.cause {
            detail.push_str(DISTRUST);
        }
        let limited = class == Class::Limited;
        Self {
            class,
            retry_after: refusal
                .retry_after
                .and_then(|wait| SignedDuration::try_from(wait).ok()),
            until: limited.then(|| date_in(&detail)).flatten(),
            scope: limited.then(|| Box::new(scope(refusal.problem()))),
            link: refusal.help.clone().or_else(|| link_in(&detail)),
            detail,
        }
    }

    /// A validation that the authority reported inside an authorization.
    pub fn of_validation(name: &Name, problem: Option<&Problem>) -> Self {
        let text = problem.map_or_else(|| "no reason given".to_owned(), ToString::to_string);
        let class = match problem {
            Some(problem) if problem.kind == "rejectedIdentifier" => Class::Spec,
            Some(problem) if is_paused(&problem.detail) => Class::Paused,
            _ => Class::Validation,
        };
        let link = link_in(&text).filter(|_| class == Class::Paused);
        Self {
            link,
            ..Self::local(class, format!("{name}: {text}"))
        }
    }

    /// Whether it is our own pace.
    pub(crate) fn is_of_pace(&self) -> bool {
        self.scope.as_deref() == Some(&Scope::Pace)
    }

    /// Until when to wait after the `n`th failure of this class in a row; `None` until somebody
    /// changes something.
    pub fn wait(
        &self,
        n: u32,
        now: Timestamp,
        life: Option<&Life>,
        jitter: &str,
    ) -> Option<Timestamp> {
        let own = match self.class {
            Class::Transient | Class::Replaces | Class::OrderNotReady | Class::OrderGone => {
                SignedDuration::ZERO
            }
            Class::Outage | Class::AccountGone | Class::NotYet => {
                jittered(pick(&OUTAGE, n), jitter)
            }
            Class::Limited => {
                let asked = self.retry_after.map(|wait| later(now, wait)).or(self.until);
                let until = asked.unwrap_or_else(|| later(now, LIMITED));
                return Some(until.clamp(later(now, SOONEST), later(now, LONGEST_LIMIT)));
            }
            // What is looked at here costs nobody outside anything.
            Class::Local if self.retry_after.is_some() => SignedDuration::ZERO,
            Class::Validation | Class::Local => {
                let table = jittered(pick(&VALIDATION, n), jitter);
                let most = life.map_or(DAY, |life| (life.left(now) / 8).max(LEAST_CAP));
                table.min(most).min(DAY)
            }
            Class::Storage => jittered(pick(&STORAGE, n), jitter),
            Class::BadCertificate => BAD_CERTIFICATE,
            Class::Paused | Class::Issuer => DAY,
            Class::Spec => return None,
        };
        let most = match self.class {
            Class::Outage => DAY,
            _ => LONGEST_LIMIT,
        };
        let asked = self.retry_after.unwrap_or_default();
        Some(later(now, own.max(asked.min(most))))
    }
}

/// What to do about an authority that is not believed.
const DISTRUST: &str = "; the certificate of the authority itself is of nobody who is believed here: name the \
                        secret with its root (entry ca.crt) in caBundle of the issuer";

fn class(refusal: &Refusal, replacing: bool) -> Class {
    let problem = match &refusal.cause {
        // An authority that is not believed is there; another issuer may believe it.
        Cause::Local(_) | Cause::Distrusted(_) => return Class::Local,
        Cause::Answer(429, _) => return Class::Limited,
        Cause::Answer(404, _) => return not_found(refusal.step, replacing),
        Cause::Answer(status, _) if *status < 500 && is_about_an_order(refusal.step) => {
            return Class::NotYet;
        }
        Cause::Unreachable(_) | Cause::Deadline(_) | Cause::Answer(..) => return Class::Outage,
        Cause::Problem(_, problem) => problem,
    };
    let new_order = refusal.step == Step::NewOrder;
    let broken = refusal.status().is_some_and(|status| status >= 500);
    let about_replacing = replacing && new_order && is_about_replacing(broken, problem);
    match problem.kind.as_str() {
        kind if broken && kind != "rateLimited" && !about_replacing => Class::Outage,
        "badNonce" => Class::Transient,
        _ if is_paused(&problem.detail) => Class::Paused,
        "rateLimited" => Class::Limited,
        // Of an order that replaces nothing it is nonsense, and dropping the reference would go round.
        "alreadyReplaced" if !new_order || replacing => Class::Replaces,
        _ if about_replacing => Class::Replaces,
        "accountDoesNotExist" => Class::AccountGone,
        "userActionRequired" | "externalAccountRequired" => Class::Issuer,
        _ if refusal.step == Step::Account => Class::Issuer,
        "malformed" if is_of_another_key(problem) => Class::AccountGone,
        // Another account's: a private authority was reset, and the key has another account since.
        "unauthorized" if matches!(refusal.step, Step::Order | Step::Certificate) => {
            Class::OrderGone
        }
        "unauthorized" | "caa" | "dns" | "connection" | "tls" | "incorrectResponse" => {
            Class::Validation
        }
        "orderNotReady" => Class::OrderNotReady,
        "rejectedIdentifier" | "unsupportedIdentifier" | "invalidProfile" | "badCSR" => Class::Spec,
        "malformed" if refusal.status() == Some(404) => not_found(refusal.step, replacing),
        "malformed" if new_order => Class::Spec,
        "serverInternal" => Class::Outage,
        _ if refusal.status() == Some(404) => not_found(refusal.step, replacing),
        _ if refusal.status() == Some(429) => Class::Limited,
        _ => Class::Validation,
    }
}

fn not_found(step: Step, replacing: bool) -> Class {
    match step {
        Step::NewOrder if replacing => Class::Replaces,
        Step::Certificate => Class::NotYet,
        Step::Order | Step::Authorization | Step::Challenge | Step::Finalize => Class::OrderGone,
        _ => Class::Outage,
    }
}

/// Whether the account is there and has another key, as after a backup from before a rotation was put
/// back: the key that is here needs an account of its own. Boulder and Pebble say it in these words.
fn is_of_another_key(problem: &Problem) -> bool {
    problem.detail.starts_with("JWS verification error")
}

/// What is said there without a reason concerns that order: others may get on.
fn is_about_an_order(step: Step) -> bool {
    use Step::{Authorization, Certificate, Challenge, Finalize, NewOrder, Order};
    matches!(
        step,
        NewOrder | Order | Authorization | Challenge | Finalize | Certificate
    )
}

/// Whether a new order is refused for the certificate that it replaces. Boulder answers 403, 404 or 400
/// about another account's, an unknown or an unreadable one. `broken`: what most words mean is an outage
/// then, but Pebble 2.10 does not find the order of a certificate whose serial number begins with a zero
/// byte, and there is only one certificate that a new order can be about.
fn is_about_replacing(broken: bool, problem: &Problem) -> bool {
    let detail = problem.detail.to_ascii_lowercase();
    let marks: &[&str] = if broken {
        &["the given certificate"]
    } else {
        &["replac", "ari ", "predecessor"]
    };
    marks.iter().any(|mark| detail.contains(mark))
}

/// Whether the word stands there by itself: in a name it says nothing.
fn is_paused(detail: &str) -> bool {
    let of_a_name = |each: char| each.is_alphanumeric() || "-._*".contains(each);
    let mut words = detail.split(|each| !of_a_name(each));
    words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case("paused"))
}

/// Whom a limit concerns, from the words of the authority; the account, if they do not tell.
fn scope(problem: Option<&Problem>) -> Scope {
    let Some(problem) = problem else {
        return Scope::Account;
    };
    let detail = problem.detail.to_ascii_lowercase();
    if detail.contains("exact set") || detail.contains("exact identifier") {
        return Scope::Set;
    }
    let quoted = detail.split('"').nth(1);
    if detail.contains("failed authorizations")
        && let Some(name) = quoted.and_then(|text| Name::parse(text).ok())
    {
        return Scope::Name(name);
    }
    if detail.contains("registered domain") || detail.contains("already issued for") {
        return match quoted.and_then(|text| Name::parse(text).ok()) {
            Some(Name::Dns(domain)) => Scope::Domain(domain),
            _ => Scope::Account,
        };
    }
    Scope::Account
}

/// `retry after 2026-08-01 12:34:56 UTC`, as Let's Encrypt writes it.
fn date_in(detail: &str) -> Option<Timestamp> {
    let (_, rest) = detail.split_once("retry after ")?;
    let mut words = rest.split_whitespace();
    let (day, time) = (words.next()?, words.next().unwrap_or_default());
    let clean = |text: &str| text.trim_end_matches(['.', ',', ':', ';']).to_owned();
    let (day, time) = (clean(day), clean(time));
    if day.contains('T') {
        return day.parse().ok();
    }
    format!("{day}T{time}Z").parse().ok()
}

fn link_in(text: &str) -> Option<String> {
    let start = text.find("https://")?;
    let link: String = text
        .get(start..)?
        .chars()
        .take_while(|each| each.is_ascii_graphic() && !"\"<>)".contains(*each))
        .take(500)
        .collect();
    Some(link.trim_end_matches(['.', ',', ';']).to_owned())
}

fn pick(table: &[SignedDuration], n: u32) -> SignedDuration {
    let place = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
    let last = table.len().saturating_sub(1);
    table.get(place.min(last)).copied().unwrap_or(DAY)
}

/// Up to a tenth more, so that certificates that failed together do not come back together.
fn jittered(wait: SignedDuration, mark: &str) -> SignedDuration {
    let width = u64::try_from(wait.as_millis() / 10).unwrap_or(0);
    wait.saturating_add(SignedDuration::from_millis(share(mark, width)))
}

/// The moment from which a limit no longer holds, as seconds from `now`, for people.
pub fn seconds_until(now: Timestamp, until: Timestamp) -> i64 {
    between(now, until).as_secs().max(0)
}

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A limit without any date.
const LIMITED: SignedDuration = SignedDuration::from_hours(1);

/// A downloaded certificate that is wrong: a fault on one of the two sides takes a person.
const BAD_CERTIFICATE: SignedDuration = SignedDuration::from_hours(1);

/// No wait is believed to be longer: Let's Encrypt's longest refill is a week. Of an outage not even
/// that: whoever is away does not know for how long.
const LONGEST_LIMIT: SignedDuration = SignedDuration::from_hours(8 * 24);

/// A limit that is over already still costs a moment.
const SOONEST: SignedDuration = SignedDuration::from_secs(1);

/// A certificate that is nearly over tries more often, but not more often than this.
const LEAST_CAP: SignedDuration = SignedDuration::from_mins(10);

const OUTAGE: [SignedDuration; 5] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(2),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(15),
];

/// A look at the target costs nobody outside anything.
const STORAGE: [SignedDuration; 4] = [
    SignedDuration::from_secs(5),
    SignedDuration::from_secs(15),
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(5),
];

/// Let's Encrypt's advice.
const VALIDATION: [SignedDuration; 4] = [
    SignedDuration::from_mins(1),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(100),
    DAY,
];

#[cfg(test)]
mod tests;
