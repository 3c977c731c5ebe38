//! What is to be said of certificates that Gatehouse orders.

use std::collections::BTreeMap;
use std::sync::Arc;

use gatehouse_acme::events::Report;
use gatehouse_acme::failure::Class;
use gatehouse_acme::plan::{Code as Rule, Finding, Request, Target};
use gatehouse_acme::served::Reports;

use crate::diagnostics::{Code, Diagnostic, Severity};

/// Everything, of the plan and of the certificates. What stands in the way of one is said of whoever
/// asks for it: people look there.
pub(super) fn diagnostics(
    findings: &[Finding],
    reports: &Reports,
    asking: &[Request],
) -> Vec<Diagnostic> {
    let mut askers: BTreeMap<&Target, &str> = BTreeMap::new();
    for request in asking {
        askers.entry(&request.target).or_insert(&request.object);
    }
    let planned = findings.iter().map(planned);
    let standing = reports.values().filter_map(|report| {
        let asker = askers.get(&report.target).copied();
        standing(report, asker)
    });
    let mut list: Vec<_> = planned.chain(standing).collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn planned(finding: &Finding) -> Diagnostic {
    let (severity, code) = match finding.code {
        Rule::ConflictingTls => (Severity::Error, Code::ConflictingTls),
        Rule::NotAllowed => (Severity::Error, Code::NotAllowed),
        Rule::UnknownIssuer => (Severity::Error, Code::IssuerUnknown),
        Rule::BadName => (Severity::Error, Code::CertificateHostInvalid),
        Rule::TooManyNames => (Severity::Error, Code::TooManyNames),
        Rule::NoChallenge => (Severity::Error, Code::ChallengeImpossible),
        Rule::Covered => (Severity::Info, Code::CertificateCovered),
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
        Some(time) => format!("next attempt {time}"),
        None => "tried again when something has changed".to_owned(),
    };
    let (severity, then) = match report.not_after {
        Some(_) => (Severity::Warning, "the present one keeps serving"),
        None => (Severity::Error, "none is there yet"),
    };
    let secret = &report.target.secret;
    let message =
        format!("certificate for Secret `{secret}`: no new one ({class:?}): {why}; {next}; {then}");
    let code = match class {
        Class::Storage => Code::StorageNotWritable,
        _ => Code::CertificateNotIssued,
    };
    Some(about(&report.target, asker, severity, code, message))
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
