//! What is to be said of certificates that Gatehouse orders.

use std::sync::Arc;

use gatehouse_acme::events::Report;
use gatehouse_acme::failure::Class;
use gatehouse_acme::plan::{Code as Rule, Finding};
use gatehouse_acme::served::Reports;

use crate::diagnostics::{Code, Diagnostic, Severity};

/// Everything, of the plan and of the certificates.
pub(super) fn diagnostics(findings: &[Finding], reports: &Reports) -> Vec<Diagnostic> {
    let planned = findings.iter().map(planned);
    let standing = reports.values().filter_map(|report| standing(report));
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
fn standing(report: &Report) -> Option<Diagnostic> {
    let class = report.waiting?;
    let why = report.detail.as_deref().unwrap_or_default();
    let next = match report.next_attempt {
        Some(time) => format!("next attempt {time}"),
        None => "tried again when something has changed".to_owned(),
    };
    let (severity, then) = match report.not_after {
        Some(_) => (Severity::Warning, "the present one keeps serving"),
        None => (Severity::Error, "none is there yet"),
    };
    let object = format!(
        "Secret/{}/{}",
        report.target.namespace, report.target.secret
    )
    .into();
    let message = format!("no new certificate ({class:?}): {why}; {next}; {then}");
    let code = match class {
        Class::Storage => Code::StorageNotWritable,
        _ => Code::CertificateNotIssued,
    };
    Some(Diagnostic::new(severity, &object, "", code, message))
}
