//! Certificates whose time is over, or nearly so.
//!
//! Invariants: pure, the time is an argument; a finding holds moments, never what is left until
//! them, so it stays the same until there is something new to say. Translation knows no time, so
//! whoever has a clock asks here: the loop of the engine, and `check`.

use std::sync::Arc;

use gatehouse_gateway::model::CertificatePlan;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::diagnostics::{Code, Diagnostic, Severity};

/// What the time says about certificates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Findings about those that are over or nearly so.
    pub findings: Vec<Diagnostic>,
    /// When there will be something else to say.
    pub next: Option<Timestamp>,
}

/// Judges certificates by the time.
pub fn judge<'a>(
    plans: impl IntoIterator<Item = &'a CertificatePlan>,
    now: Timestamp,
) -> Judgement {
    let mut judgement = Judgement::default();
    for plan in plans {
        // A moment that no calendar has is never reached.
        let Ok(end) = Timestamp::from_second(plan.not_after) else {
            continue;
        };
        let warn = end.checked_sub(notice(plan)).unwrap_or(Timestamp::MIN);
        let next = if now > end {
            judgement.findings.push(expired(plan, end));
            continue;
        } else if now >= warn {
            judgement.findings.push(expires_soon(plan, end));
            // Valid to the end of its last second (RFC 5280, section 4.1.2.5).
            end.checked_add(SignedDuration::from_secs(1)).ok()
        } else {
            Some(warn)
        };
        judgement.next = judgement.next.into_iter().chain(next).min();
    }
    judgement.findings.sort_unstable();
    judgement
}

/// How long before the end it is told: two weeks, but of a short life only its last sixth, for
/// such a certificate is renewed late by design.
fn notice(plan: &CertificatePlan) -> SignedDuration {
    let life = plan.not_after.saturating_sub(plan.not_before).max(0);
    SignedDuration::from_secs(life / 6).min(LONGEST_NOTICE)
}

fn expired(plan: &CertificatePlan, end: Timestamp) -> Diagnostic {
    finding(
        plan,
        Severity::Error,
        Code::CertificateExpired,
        format!(
            "the certificate{} expired at {end}, so clients refuse it: renew it",
            names(plan)
        ),
    )
}

fn expires_soon(plan: &CertificatePlan, end: Timestamp) -> Diagnostic {
    finding(
        plan,
        Severity::Warning,
        Code::CertificateExpiresSoon,
        format!(
            "the certificate{} expires at {end}: renew it before clients refuse it",
            names(plan)
        ),
    )
}

fn finding(plan: &CertificatePlan, severity: Severity, code: Code, message: String) -> Diagnostic {
    let object: Arc<str> = format!("Secret/{}", plan.key).into();
    Diagnostic::new(severity, &object, "data[tls.crt]", code, message)
}

/// The first names; a certificate may have hundreds.
fn names(plan: &CertificatePlan) -> String {
    let shown: Vec<&str> = plan.names.iter().take(3).map(AsRef::as_ref).collect();
    match (shown.is_empty(), plan.names.len() - shown.len()) {
        (true, _) => String::new(),
        (false, 0) => format!(" for {}", shown.join(", ")),
        (false, more) => format!(" for {} and {more} more", shown.join(", ")),
    }
}

const LONGEST_NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

#[cfg(test)]
mod tests {
    use gatehouse_gateway::model::CertKey;
    use gatehouse_gateway::tls::parse_pair;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Valid from the first of January to this day.
    fn plan(names: &[&str], (month, day): (u8, u8)) -> CertificatePlan {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, month, day);
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let slot = CertKey("web/tls".into());
        parse_pair(slot, chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn codes(plan: &CertificatePlan, now: &str) -> (Vec<Code>, Option<String>) {
        let judgement = judge([plan], at(now));
        let codes = judgement.findings.iter().map(|finding| finding.code);
        (codes.collect(), judgement.next.map(|next| next.to_string()))
    }

    #[test]
    fn a_certificate_is_told_two_weeks_ahead_and_when_it_is_over() {
        let plan = plan(&["shop.test"], (4, 1));
        let next = |text: &str| Some(text.to_owned());
        let soon = "2026-03-18T00:00:00Z";
        assert_eq!(codes(&plan, "2026-03-17T23:59:59Z"), (vec![], next(soon)));
        let over = "2026-04-01T00:00:01Z";
        let warned = (vec![Code::CertificateExpiresSoon], next(over));
        assert_eq!(codes(&plan, soon), warned);
        assert_eq!(codes(&plan, "2026-04-01T00:00:00Z"), warned);
        assert_eq!(codes(&plan, over), (vec![Code::CertificateExpired], None));
    }

    #[test]
    fn a_short_life_is_told_in_its_last_sixth() {
        let plan = plan(&["shop.test"], (1, 7));
        assert_eq!(codes(&plan, "2026-01-05T23:59:59Z").0, []);
        let soon = [Code::CertificateExpiresSoon];
        assert_eq!(codes(&plan, "2026-01-06T00:00:00Z").0, soon);
    }

    #[test]
    fn the_message_names_object_moment_and_remedy_and_not_hundreds_of_names() {
        let plan = plan(&["a.test", "b.test", "c.test", "d.test"], (1, 6));
        let judgement = judge([&plan], at("2027-01-01T00:00:00Z"));
        assert_eq!(
            judgement.findings[0].to_string(),
            "error[CertificateExpired] Secret/web/tls data[tls.crt]: the certificate for a.test, \
             b.test, c.test and 1 more expired at 2026-01-06T00:00:00Z, so clients refuse it: \
             renew it"
        );
    }

    #[test]
    fn moments_beyond_the_calendar_are_never_reached() {
        let mut plan = plan(&["a.test"], (1, 6));
        (plan.not_before, plan.not_after) = (i64::MIN, i64::MAX);
        assert_eq!(judge([&plan], Timestamp::MAX), Judgement::default());
    }
}
