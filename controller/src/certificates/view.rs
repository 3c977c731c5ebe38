//! How a certificate stands, as people and programs are told: the same for the admin server and for
//! a vault that nobody works in.
//!
//! Pure. Invariant: no value holds a key.

use std::collections::BTreeMap;

use gatehouse_acme::events::Report;
use gatehouse_acme::failure::{Class, Scope};
use gatehouse_acme::names::Name;
use gatehouse_acme::plan::{Code as Rule, Finding, Target};
use gatehouse_acme::record::{Need, Phase, Revocation};
use gatehouse_acme::schedule::{Reason, Window};
use gatehouse_acme::served::Reports;
use gatehouse_acme::troubles::{Kind, Trouble, Troubles};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::diagnostics::{Code, Diagnostic};

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other, as JSON"
)]
pub struct View {
    /// Namespace of its Secret.
    pub namespace: String,
    /// Name of its Secret.
    pub secret: String,
    /// What it comes to.
    pub status: Status,
    /// Phase of the record; none if there is no record.
    pub phase: Option<Phase>,
    /// Number of the certificate.
    pub revision: u64,
    /// Whether it is known here that something asks for it.
    #[serde(default = "known")]
    pub wanted: bool,
    /// Its names.
    pub names: Vec<Name>,
    /// Its issuer.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: Option<String>,
    /// Begin of its life.
    pub not_before: Option<Timestamp>,
    /// End of its life.
    pub not_after: Option<Timestamp>,
    /// When it was stored.
    pub issued_at: Option<Timestamp>,
    /// Whether somebody else ordered it.
    #[serde(default)]
    pub taken_over: bool,
    /// Whether it is revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// Whether a Secret of the directory is served in its place.
    #[serde(default)]
    pub shadowed: bool,
    /// When it is renewed.
    pub renew_at: Option<Timestamp>,
    /// Why then.
    pub renew_reason: Option<Reason>,
    /// When the authority wants it renewed.
    pub window: Option<Window>,
    /// Page on which the authority explains that.
    pub explanation: Option<String>,
    /// The order that is under way.
    pub order: Option<Order>,
    /// The last failure, while something is waited for.
    pub failure: Option<Failure>,
    /// Revocations that the authority has not answered yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<Owed>,
    /// What is wrong with the objects that ask for it.
    pub remarks: Vec<Remark>,
}

/// What a certificate comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// There is one, and nothing is going on.
    Valid,
    /// One is being ordered.
    Ordering,
    /// An order failed, or cannot be made now.
    Waiting,
    /// What asks for it may not, or is wrong.
    Refused,
    /// Nothing asks for it any more.
    Unwanted,
    /// Nothing was done yet.
    Pending,
    /// What is kept of it cannot be read or understood.
    Unusable,
}

/// An order that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// By which issuer.
    pub issuer: String,
    /// Why.
    pub need: Need,
    /// Since when.
    pub since: Timestamp,
    /// Whether at the directory for tests.
    pub test: bool,
}

/// Why something is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Whose failure it is.
    pub class: Class,
    /// Whom a limit concerns.
    pub scope: Option<Scope>,
    /// How many in a row.
    pub count: u32,
    /// The words of whoever refused.
    pub words: String,
    /// Page that explains it.
    pub link: Option<String>,
    /// When it is tried again; never by itself, if absent.
    pub next_attempt: Option<Timestamp>,
}

/// A revocation that the authority has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owed {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The reason, of RFC 5280.
    pub reason: u8,
    /// How often the authority was asked.
    pub count: u32,
    /// What came of the last try.
    pub words: String,
    /// When it is asked again.
    pub next_attempt: Option<Timestamp>,
    /// When the certificate ends: nobody is asked after that.
    pub until: Timestamp,
}

/// Something that the owner of an object can mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// The object.
    pub object: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl View {
    /// Of a report.
    pub fn of(report: &Report) -> Self {
        let order = report.order.as_ref().map(|under| Order {
            issuer: under.issuer.clone(),
            need: under.need,
            since: under.since,
            test: under.test,
        });
        let failure = report.waiting.map(|class| Failure {
            class,
            scope: report.scope.clone(),
            count: report.failures,
            words: report.detail.clone().unwrap_or_default(),
            link: report.link.clone(),
            next_attempt: report.next_attempt,
        });
        Self {
            status: status(report),
            phase: Some(report.phase),
            revision: report.rev,
            wanted: report.wanted,
            names: report.names.clone(),
            issuer: report.issuer.clone(),
            serial: report.serial.clone(),
            not_before: report.not_before,
            not_after: report.not_after,
            issued_at: report.issued_at,
            taken_over: report.taken_over,
            revoked: report.revoked && !is_owed(report),
            renew_at: report.renew_at,
            renew_reason: report.renew_reason,
            window: report.window,
            explanation: report.explanation.clone(),
            order,
            failure,
            revocations: report.revocations.iter().map(Owed::of).collect(),
            ..Self::nothing(&report.target)
        }
    }

    /// Of a certificate whose record cannot be used.
    pub(crate) fn unusable(target: &Target, why: &str) -> Self {
        let mut view = Self::nothing(target);
        view.say(why, Kind::Read);
        view
    }

    /// What is wrong with its record.
    fn say(&mut self, why: &str, kind: Kind) {
        match self.status {
            // Nobody knows more of it.
            _ if kind == Kind::Read && self.phase.is_none() => self.status = Status::Unusable,
            Status::Pending | Status::Ordering => self.status = Status::Waiting,
            _ => {}
        }
        self.remarks.push(Remark {
            object: RECORD.to_owned(),
            message: why.to_owned(),
        });
    }

    /// Of a certificate that was never worked on.
    fn nothing(target: &Target) -> Self {
        Self {
            namespace: target.namespace.clone(),
            secret: target.secret.clone(),
            status: Status::Refused,
            phase: None,
            revision: 0,
            wanted: true,
            names: Vec::new(),
            issuer: String::new(),
            serial: None,
            not_before: None,
            not_after: None,
            issued_at: None,
            taken_over: false,
            revoked: false,
            shadowed: false,
            renew_at: None,
            renew_reason: None,
            window: None,
            explanation: None,
            order: None,
            failure: None,
            revocations: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

/// Of a program that does not say it.
fn known() -> bool {
    true
}

/// Whether it is not known yet that the certificate is revoked.
fn is_owed(report: &Report) -> bool {
    let mut owed = report.revocations.iter();
    owed.any(|owed| report.serial.as_ref() == Some(&owed.serial))
}

impl Owed {
    fn of(owed: &Revocation) -> Self {
        Self {
            serial: owed.serial.clone(),
            reason: owed.reason,
            count: owed.tries,
            words: owed.detail.clone().unwrap_or_default(),
            next_attempt: owed.next,
            until: owed.not_after,
        }
    }
}

/// Whose failure it is, in words.
pub(crate) fn cause(class: Class, scope: Option<&Scope>) -> String {
    let text = match class {
        Class::Transient => "a nonce was rejected",
        Class::Outage => "the authority is away or broken",
        Class::Limited => {
            return match scope {
                Some(Scope::Domain(domain)) => format!("a rate limit for {domain} holds"),
                Some(Scope::Name(name)) => format!("a rate limit for {name} holds"),
                Some(Scope::Pace) => "orders keep a pace that meets no rate limit".to_owned(),
                Some(Scope::Set) => "a rate limit for exactly these names holds".to_owned(),
                Some(Scope::Account) | None => "a rate limit for the account holds".to_owned(),
            };
        }
        Class::Paused => "the authority has paused a name, until a person follows its link",
        Class::Validation => "the authority could not validate a name",
        Class::Spec => "the authority will never issue this as it is asked for",
        Class::Issuer => "the authority does not accept the account",
        Class::AccountGone => "the authority does not know the account any more",
        Class::OrderGone => "the order is gone",
        Class::Replaces => "the authority does not take this as a replacement",
        Class::OrderNotReady => "the order is not as far as it was thought to be",
        Class::NotYet => "the authority does not get on with this order",
        Class::BadCertificate => "what came is not what was ordered",
        Class::Local => "something is wrong on this side",
        Class::Storage => "what the certificate goes to cannot be written",
    };
    text.to_owned()
}

fn status(report: &Report) -> Status {
    match report {
        _ if report.phase == Phase::Tombstone => Status::Unwanted,
        _ if report.waiting.is_some() => Status::Waiting,
        _ if report.phase.is_busy() => Status::Ordering,
        _ if report.not_after.is_some() => Status::Valid,
        _ => Status::Pending,
    }
}

/// All certificates, also those that are asked for and refused; sorted.
pub fn views(reports: &Reports, findings: &[Finding], troubles: &Troubles) -> Vec<View> {
    let views = reports.iter();
    let mut views: BTreeMap<&Target, View> = views
        .map(|(target, report)| (target, View::of(report)))
        .collect();
    for finding in findings {
        let known = views.entry(&finding.target);
        let view = known.or_insert_with(|| View::nothing(&finding.target));
        // What is left out of a certificate that is ordered does not refuse it.
        let refuses = !matches!(
            finding.code,
            Rule::BadName | Rule::ConflictingTls | Rule::Doubled
        );
        let report = reports.get(&finding.target);
        let wanted = report.is_some_and(|report| report.wanted);
        if refuses && !wanted && matches!(view.status, Status::Unwanted | Status::Valid) {
            view.status = Status::Refused;
            // Nobody renews it.
            (view.renew_at, view.renew_reason, view.window) = (None, None, None);
        }
        view.remarks.push(Remark {
            object: finding.object.clone(),
            message: finding.message.clone(),
        });
    }
    for Trouble { kind, target, why } in troubles {
        let Some(target) = target else { continue };
        let known = views.entry(target);
        let view = known.or_insert_with(|| View::nothing(target));
        view.say(why, *kind);
    }
    views.into_values().collect()
}

/// What the rest of the process says of certificates: whether something else is served, and whether it
/// got to where it belongs.
pub(super) fn remark(views: &mut [View], said: &[Diagnostic]) {
    for diagnostic in said {
        let shadowed = diagnostic.code == Code::CertificateShadowed;
        let mine = shadowed
            || diagnostic.code == Code::CertificateSecretContested
            || diagnostic.code == Code::CertificateSecretNotWritable;
        let namespace = diagnostic.object.split('/').nth(1);
        if !mine {
            continue;
        }
        for view in views.iter_mut() {
            let named = || {
                diagnostic
                    .message
                    .contains(&format!("Secret `{}`", view.secret))
            };
            if namespace != Some(view.namespace.as_str()) || !named() {
                continue;
            }
            view.shadowed |= shadowed;
            // The failure says it already.
            if view.failure.is_none() {
                view.remarks.push(Remark {
                    object: diagnostic.object.to_string(),
                    message: diagnostic.message.clone(),
                });
            }
        }
    }
}

/// What a remark about what is kept is about.
const RECORD: &str = "Its record";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostics::Severity;

    fn target(secret: &str) -> Target {
        Target {
            namespace: "shop".into(),
            secret: secret.into(),
        }
    }

    #[test]
    fn a_record_that_cannot_be_used_is_listed_with_its_reason() {
        let troubles = Troubles::from([
            Trouble {
                kind: Kind::Read,
                target: Some(target("junk")),
                why: "move it away".into(),
            },
            Trouble {
                kind: Kind::Lead,
                target: None,
                why: "make room".into(),
            },
        ]);
        let views = views(&Reports::new(), &[], &troubles);
        assert_eq!(views.len(), 1);
        assert_eq!(views[0].status, Status::Unusable);
        assert_eq!(views[0].remarks[0].message, "move it away");
    }

    #[test]
    fn what_is_served_instead_is_remarked_at_the_certificate_that_it_is_about() {
        let mut views = [
            View::nothing(&target("tls")),
            View::nothing(&target("tls2")),
        ];
        let said = |object: &str, code| {
            let object: Arc<str> = object.into();
            let message = "Secret `tls` is served".to_owned();
            Diagnostic::new(Severity::Warning, &object, "", code, message)
        };
        let list = [
            said("Ingress/other/web", Code::CertificateShadowed),
            said("Ingress/shop/web", Code::SecretMissing),
            said("Ingress/shop/web", Code::CertificateSecretContested),
            said("Ingress/shop/web", Code::CertificateShadowed),
        ];
        remark(&mut views, &list[..2]);
        assert!(views.iter().all(|view| view.remarks.is_empty()));
        remark(&mut views, &list[..3]);
        assert!(!views[0].shadowed);
        remark(&mut views, &list[3..]);
        assert!(views[0].shadowed && !views[1].shadowed);
        assert_eq!(views[0].remarks.len(), 2);
        assert!(views[1].remarks.is_empty());
    }
}
