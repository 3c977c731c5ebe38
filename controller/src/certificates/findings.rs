//! What is to be said of certificates that Gatehouse orders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gatehouse_acme::events::Report;
use gatehouse_acme::failure::Class;
use gatehouse_acme::plan::{Code as Rule, Finding, Request, Target};
use gatehouse_acme::served::Reports;
use gatehouse_acme::troubles::{Kind, Troubles};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::view::cause;
use crate::diagnostics::{Code, Diagnostic, Severity};

/// Of whom something is said that is about a certificate: whoever asks for it, since people look there.
pub(super) struct Askers<'a>(BTreeMap<&'a Target, &'a str>);

impl<'a> Askers<'a> {
    /// Of several, the first whose own wish is not refused: the certificate is not that one's.
    pub(super) fn new(findings: &[Finding], asking: &'a [Request]) -> Self {
        let refused = findings.iter().filter(|finding| refuses(finding.code));
        let refused: BTreeSet<(&Target, &str)> = refused
            .map(|finding| (&finding.target, finding.object.as_str()))
            .collect();
        let (others, first): (Vec<_>, Vec<_>) = asking
            .iter()
            .map(|request| (&request.target, request.object.as_str()))
            .partition(|wish| refused.contains(wish));
        let mut askers = BTreeMap::new();
        for (target, object) in first.into_iter().chain(others) {
            askers.entry(target).or_insert(object);
        }
        Self(askers)
    }

    pub(super) fn of(&self, target: &Target) -> Option<&'a str> {
        self.0.get(target).copied()
    }
}

/// Whether nothing is ordered for who is told this.
fn refuses(code: Rule) -> bool {
    match code {
        Rule::ConflictingTls
        | Rule::NotAllowed
        | Rule::UnknownIssuer
        | Rule::NoName
        | Rule::TooManyNames
        | Rule::NoChallenge => true,
        Rule::BadName | Rule::Covered | Rule::Doubled => false,
    }
}

/// Everything, of the plan and of the certificates.
pub(super) fn diagnostics(
    findings: &[Finding],
    reports: &Reports,
    askers: &Askers<'_>,
    now: Timestamp,
) -> Vec<Diagnostic> {
    let planned = findings.iter().map(planned);
    let certificates = reports.values().flat_map(|report| {
        let asker = askers.of(&report.target);
        [
            standing(report, asker),
            issued(report, asker, now),
            refused(report, asker, now),
        ]
    });
    let mut list: Vec<_> = planned.chain(certificates.flatten()).collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn planned(finding: &Finding) -> Diagnostic {
    let (severity, code) = match finding.code {
        Rule::ConflictingTls => (Severity::Error, Code::CertificateConflict),
        Rule::NotAllowed => (Severity::Error, Code::CertificateNotAllowed),
        Rule::UnknownIssuer => (Severity::Error, Code::CertificateIssuerUnknown),
        Rule::BadName | Rule::NoName => (Severity::Error, Code::CertificateHostInvalid),
        Rule::TooManyNames => (Severity::Error, Code::CertificateNamesTooMany),
        Rule::NoChallenge => (Severity::Error, Code::CertificateChallengeImpossible),
        Rule::Covered => (Severity::Info, Code::CertificateCovered),
        Rule::Doubled => (Severity::Warning, Code::CertificateDoubled),
    };
    let object: Arc<str> = finding.object.as_str().into();
    let secret = &finding.target.secret;
    let message = format!("certificate for Secret `{secret}`: {}", finding.message);
    Diagnostic::new(severity, &object, "spec.tls", code, message)
}

/// A certificate that something stands in the way of.
fn standing(report: &Report, asker: Option<&str>) -> Option<Diagnostic> {
    let class = report.waiting?;
    let why = report.detail.as_deref().unwrap_or_default();
    let next = match report.next_attempt {
        // Soon and often: a text that stays the same is one Event.
        _ if class == Class::Storage => "tried again every few minutes".to_owned(),
        Some(time) => format!("next attempt {}", shown(time)),
        None => format!(
            "tried again when something has changed, or with `gatehouse cert retry {}`",
            report.target
        ),
    };
    let (severity, then) = match report.not_after {
        Some(_) => (Severity::Warning, "the present one keeps serving"),
        None => (Severity::Error, "none is there yet"),
    };
    let secret = &report.target.secret;
    let cause = cause(class, report.scope.as_ref());
    let message =
        format!("certificate for Secret `{secret}`: no new one, {cause}: {why}; {next}; {then}");
    let code = match class {
        Class::Storage => Code::CertificateSecretNotWritable,
        Class::Limited => Code::CertificateLimited,
        Class::Paused | Class::Spec | Class::Issuer | Class::AccountGone => {
            Code::CertificateBlocked
        }
        _ => Code::CertificateNotIssued,
    };
    Some(about(&report.target, asker, severity, code, message))
}

/// What is wrong with the vault.
pub(super) fn vault(troubles: &Troubles, askers: &Askers<'_>) -> Vec<Diagnostic> {
    let said = troubles.iter().map(|trouble| {
        let then = match trouble.kind {
            Kind::Lead | Kind::List => "until then nothing is ordered or renewed",
            Kind::Read => "until then nothing of it is ordered or renewed",
            Kind::Write => "it is tried again, and until then no step is made",
        };
        let why = &trouble.why;
        let Some(target) = &trouble.target else {
            let message = format!("the vault of certificates: {why}; {then}");
            let code = Code::CertificateVaultUnusable;
            return Diagnostic::new(Severity::Error, &"vault".into(), "", code, message);
        };
        let severity = match trouble.kind {
            Kind::Write => Severity::Warning,
            _ => Severity::Error,
        };
        let message = format!("certificate for Secret `{}`: {why}; {then}", target.secret);
        let code = Code::CertificateRecordUnusable;
        about(target, askers.of(target), severity, code, message)
    });
    said.collect()
}

/// Something to say of a certificate: of the object that asks for it, else of its Secret.
pub(super) fn about(
    target: &Target,
    asker: Option<&str>,
    severity: Severity,
    code: Code,
    message: String,
) -> Diagnostic {
    let (object, field) = match asker {
        Some(object) => (object.to_owned(), "spec.tls"),
        None => (format!("Secret/{}/{}", target.namespace, target.secret), ""),
    };
    Diagnostic::new(severity, &object.into(), field, code, message)
}

/// A certificate that came a short while ago.
fn issued(report: &Report, asker: Option<&str>, now: Timestamp) -> Option<Diagnostic> {
    fades(report).filter(|end| *end > now)?;
    let end = report.not_after?;
    let names: Vec<String> = report.names.iter().map(ToString::to_string).collect();
    // Without the time of its renewal, which the authority may still change: one text, one Event.
    let (code, whose) = if report.taken_over {
        // What was imported and nothing asks for has none.
        let whose = match report.issuer.as_str() {
            "" => "was taken over and".to_owned(),
            issuer => format!("was taken over for issuer {issuer} and"),
        };
        (Code::CertificateTakenOver, whose)
    } else {
        let whose = format!("of issuer {}", report.issuer);
        (Code::CertificateIssued, whose)
    };
    let message = format!(
        "certificate for Secret `{}`: {} {whose} is served for {} until {}",
        report.target.secret,
        report.serial.as_deref().unwrap_or_default(),
        names.join(", "),
        shown(end)
    );
    Some(about(&report.target, asker, Severity::Info, code, message))
}

/// A certificate that was handed over and is not taken, until a while after another one came.
fn refused(report: &Report, asker: Option<&str>, now: Timestamp) -> Option<Diagnostic> {
    let why = report.refused.as_deref()?;
    let busy = report.order.is_some() || report.waiting.is_some();
    if !busy && fades(report).is_none_or(|end| end <= now) {
        return None;
    }
    let message = format!(
        "certificate for Secret `{}`: the one in it was handed over and cannot be used: {why}; another \
         one is ordered instead; a good one is taken with `gatehouse cert import {}`",
        report.target.secret, report.target
    );
    let code = Code::CertificateNotTakenOver;
    Some(about(
        &report.target,
        asker,
        Severity::Warning,
        code,
        message,
    ))
}

/// Until when it is told that a certificate came.
fn fades(report: &Report) -> Option<Timestamp> {
    report.issued_at?.checked_add(TOLD).ok()
}

/// When the next of what is told now is told no longer.
pub(super) fn next_fading(reports: &Reports, now: Timestamp) -> Option<Timestamp> {
    let ends = reports.values().filter_map(|report| fades(report));
    ends.filter(|end| *end > now).min()
}

/// To the second: nobody needs more.
pub(crate) fn shown(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%dT%H:%M:%SZ")
}

/// How long it is told that a certificate came: long enough for an Event, and for who looks at once.
const TOLD: SignedDuration = SignedDuration::from_mins(10);

#[cfg(test)]
mod tests {
    use gatehouse_acme::failure::Scope;
    use gatehouse_acme::names::Name;
    use gatehouse_acme::plan::Target;
    use gatehouse_acme::record::Phase;

    use super::*;

    fn report(waiting: Option<Class>) -> Report {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        Report {
            target: Target {
                namespace: "shop".into(),
                secret: "tls".into(),
            },
            phase: Phase::Valid,
            rev: 1,
            names: vec![Name::parse("a.test").unwrap()],
            issuer: "main".into(),
            wanted: true,
            order: None,
            not_before: time("2026-01-01T00:00:00Z"),
            not_after: time("2026-04-01T00:00:00Z"),
            issued_at: time("2026-01-01T01:00:00Z"),
            serial: Some("0a".into()),
            taken_over: false,
            revoked: false,
            refused: None,
            renew_at: time("2026-03-01T00:00:00.5Z"),
            renew_reason: None,
            window: None,
            explanation: None,
            waiting,
            scope: None,
            next_attempt: None,
            failures: 0,
            detail: Some("words".into()),
            link: None,
            revocations: Vec::new(),
        }
    }

    fn codes(report: Report, now: &str) -> Vec<Code> {
        let reports = Reports::from([(report.target.clone(), Arc::new(report))]);
        let askers = Askers::new(&[], &[]);
        let list = diagnostics(&[], &reports, &askers, now.parse().unwrap());
        list.into_iter().map(|diagnostic| diagnostic.code).collect()
    }

    #[test]
    fn each_way_to_stand_has_a_code_of_its_own() {
        let late = "2026-02-01T00:00:00Z";
        for (class, code) in [
            (Class::Validation, Code::CertificateNotIssued),
            (Class::Outage, Code::CertificateNotIssued),
            (Class::Limited, Code::CertificateLimited),
            (Class::Spec, Code::CertificateBlocked),
            (Class::Paused, Code::CertificateBlocked),
            (Class::Issuer, Code::CertificateBlocked),
        ] {
            assert_eq!(codes(report(Some(class)), late), [code]);
        }
        assert_eq!(codes(report(None), late), []);
    }

    #[test]
    fn our_own_pace_is_not_told_as_a_limit_of_the_authority() {
        let mut paced = report(Some(Class::Limited));
        paced.scope = Some(Scope::Pace);
        let said = standing(&paced, None).expect("a finding").message;
        assert!(!said.contains("account"), "{said}");
        assert!(said.contains("orders keep a pace"), "{said}");
    }

    #[test]
    fn every_code_says_that_it_is_about_certificates() {
        let finding = |code| Finding {
            target: report(None).target,
            object: "Ingress/shop/web".into(),
            code,
            message: "words".into(),
        };
        for rule in [
            Rule::ConflictingTls,
            Rule::NotAllowed,
            Rule::UnknownIssuer,
            Rule::BadName,
            Rule::NoName,
            Rule::TooManyNames,
            Rule::NoChallenge,
            Rule::Covered,
            Rule::Doubled,
        ] {
            let code = planned(&finding(rule)).code.as_str();
            assert!(code.starts_with("Certificate"), "{code}");
        }
        for class in [Class::Storage, Class::Limited, Class::Spec, Class::Local] {
            let said = standing(&report(Some(class)), None).expect("a finding");
            assert!(said.code.as_str().starts_with("Certificate"), "{said}");
            assert!(!said.message.contains(&format!("{class:?}")), "{said}");
        }
    }

    #[test]
    fn an_import_that_nothing_asks_for_is_told_without_an_issuer() {
        let said = |issuer: &str| {
            let mut report = report(None);
            report.taken_over = true;
            report.issuer = issuer.into();
            let now = "2026-01-01T01:00:00Z".parse().unwrap();
            issued(&report, None, now).expect("a finding").message
        };
        assert!(said("main").contains("0a was taken over for issuer main and is served"));
        assert!(said("").contains("0a was taken over and is served"));
    }

    #[test]
    fn what_becomes_of_a_certificate_is_told_to_whoever_is_not_refused() {
        let asks = |object: &str| {
            let hosts = vec!["a.test".to_owned()];
            Request::new(object.to_owned(), report(None).target, hosts)
        };
        let asking = ["Ingress/shop/a", "Ingress/shop/b", "Ingress/shop/c"].map(asks);
        let finding = |object: &str, code| Finding {
            target: report(None).target,
            object: object.into(),
            code,
            message: "words".into(),
        };
        let reports = Reports::from([(report(None).target, Arc::new(report(None)))]);
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let told = |findings: &[Finding]| {
            let askers = Askers::new(findings, &asking);
            let list = diagnostics(findings, &reports, &askers, now);
            let mut issued = list
                .iter()
                .filter(|one| one.code == Code::CertificateIssued);
            issued.next().expect("a finding").object.to_string()
        };
        assert_eq!(told(&[]), "Ingress/shop/a");
        let refused = [
            finding("Ingress/shop/a", Rule::ConflictingTls),
            // The other hosts are ordered.
            finding("Ingress/shop/b", Rule::BadName),
        ];
        assert_eq!(told(&refused), "Ingress/shop/b");
        let empty = ["Ingress/shop/a", "Ingress/shop/b"].map(|one| finding(one, Rule::NoName));
        assert_eq!(told(&empty), "Ingress/shop/c");
        // Nobody is left who would look elsewhere.
        let all = asking
            .each_ref()
            .map(|one| finding(&one.object, Rule::NotAllowed));
        assert_eq!(told(&all), "Ingress/shop/a");
    }

    #[test]
    fn that_a_certificate_came_is_told_for_a_while() {
        assert_eq!(
            codes(report(None), "2026-01-01T01:09:59Z"),
            [Code::CertificateIssued]
        );
        assert_eq!(codes(report(None), "2026-01-01T01:10:00Z"), []);
        let reports = report(None);
        let reports = Reports::from([(reports.target.clone(), Arc::new(reports))]);
        let next = next_fading(&reports, "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(next, "2026-01-01T01:10:00Z".parse().ok());
        assert_eq!(
            next_fading(&reports, "2026-01-01T01:10:00Z".parse().unwrap()),
            None
        );
    }
}
