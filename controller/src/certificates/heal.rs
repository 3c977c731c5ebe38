//! Mends Secrets that Gatehouse has written and somebody has deleted or changed: from the vault, so
//! without a word to any authority.
//!
//! Invariants:
//! - Only the leader writes, and only certificates that are wanted and delivered.
//! - When a certificate is renewed is known only after it was written, and may move: the annotation that
//!   says so follows, once in [`NOTED`] at most, since that is a write of the whole Secret.
//! - A Secret that is changed again and again is left alone after [`OFTEN`] rewrites in [`WINDOW`], and
//!   said to be contested, and one that cert-manager writes at once; what is kept goes on serving.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_acme::driver::Wishes;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Phase;
use gatehouse_acme::served::{Certificate, Certificates, Reports};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::projection::{Projection, Trouble, Written};
use super::targets::{Mark, Targets};
use crate::diagnostics::Code;
use crate::leader::Leadership;

/// See the module.
pub(super) struct Healer {
    pub(super) projection: Arc<Projection>,
    pub(super) targets: Arc<Targets>,
    pub(super) leadership: Leadership,
    pub(super) certificates: watch::Receiver<Arc<Certificates>>,
    pub(super) reports: watch::Receiver<Arc<Reports>>,
    pub(super) planned: watch::Receiver<Arc<Wishes>>,
    /// What there is to say.
    pub(super) findings: watch::Sender<Arc<Vec<Wound>>>,
}

/// A Secret that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wound {
    pub(super) target: Target,
    pub(super) code: Code,
    pub(super) message: String,
}

/// One target.
#[derive(Default)]
struct Patient {
    /// What should be there, of which certificate.
    due: Option<(Arc<Certificate>, Mark)>,
    /// When it was rewritten.
    rewrites: Vec<Instant>,
    failures: usize,
    /// Left alone until then.
    not_before: Option<Instant>,
    /// Because somebody else goes on writing it.
    contested: bool,
    /// When what is said on it was last brought up to date.
    noted: Option<Instant>,
    finding: Option<Wound>,
}

impl Healer {
    /// Until the keeper ends.
    pub(super) async fn run(mut self) {
        let mut patients = BTreeMap::new();
        let mut changes = self.targets.changes();
        loop {
            let epoch = self.leadership.epoch();
            changes.mark_unchanged();
            let next = if epoch.is_some() && self.targets.known() {
                self.look(&mut patients).await
            } else {
                patients.clear();
                None
            };
            self.say(&patients);
            let next = next.unwrap_or_else(|| Instant::now() + IDLE);
            let changed = tokio::select! {
                changed = self.certificates.changed() => changed.is_ok(),
                changed = self.reports.changed() => changed.is_ok(),
                changed = self.planned.changed() => changed.is_ok(),
                changed = changes.changed() => changed.is_ok(),
                _ = self.leadership.changed(epoch) => true,
                () = sleep_until(next) => true,
            };
            if !changed {
                return;
            }
        }
    }

    /// Looks at every certificate; returns when to look again.
    async fn look(&mut self, patients: &mut BTreeMap<Target, Patient>) -> Option<Instant> {
        let certificates = self.certificates.borrow_and_update().clone();
        let reports = self.reports.borrow_and_update().clone();
        let planned = self.planned.borrow_and_update().clone();
        // A namespace that was made anew under an old name is another tenant.
        let delivered = |target: &Target, certificate: &Certificate| {
            let report = reports.get(target);
            let phase = report.map(|report| report.phase);
            let wish = planned.get(target);
            wish.is_some_and(|wish| !wish.is_of_another(&certificate.namespace_uid))
                && phase.is_some_and(|phase| !matches!(phase, Phase::Delivering | Phase::Tombstone))
        };
        patients.retain(|target, _| {
            let certificate = certificates.get(target);
            certificate.is_some_and(|certificate| delivered(target, certificate))
        });
        let mut next: Option<Instant> = None;
        for (target, certificate) in certificates.iter() {
            if !delivered(target, certificate) {
                continue;
            }
            let patient = patients.entry(target.clone()).or_default();
            let away = self.treat(target, certificate, patient).await;
            let renew_at = reports.get(target).and_then(|report| report.renew_at);
            if let Some(renew_at) = renew_at.filter(|_| !away) {
                self.note(target, patient, renew_at).await;
            }
            let again = patient.not_before;
            next = next.into_iter().chain(again).min();
            if away {
                // The others would be answered the same.
                break;
            }
        }
        next
    }

    /// Mends one, if that is called for; whether the API server is away.
    async fn treat(
        &self,
        target: &Target,
        certificate: &Arc<Certificate>,
        patient: &mut Patient,
    ) -> bool {
        let same = |(known, _): &(Arc<Certificate>, Mark)| Arc::ptr_eq(known, certificate);
        if !patient.due.as_ref().is_some_and(same) {
            let mark = Mark::due(&certificate.material);
            patient.due = Some((Arc::clone(certificate), mark));
        }
        let Some((_, mark)) = &patient.due else {
            return false;
        };
        let now = Instant::now();
        if self.targets.holds(target, mark) {
            (patient.failures, patient.not_before, patient.finding) = (0, None, None);
            return false;
        }
        // Whoever wrote it has deleted it, or somebody who has read what is said about it.
        let given_up = patient.contested && !self.targets.is_there(target);
        if !given_up && patient.not_before.is_some_and(|until| now < until) {
            return false;
        }
        patient.contested = false;
        patient
            .rewrites
            .retain(|at| now.duration_since(*at) < WINDOW);
        if let (true, Some(first)) = (patient.rewrites.len() >= OFTEN, patient.rewrites.first()) {
            patient.not_before = Some(*first + WINDOW);
            patient.finding = Some(contested(target));
            return false;
        }
        match self.projection.write(target, &certificate.material).await {
            Ok(written) => {
                if written == Written::Now {
                    patient.rewrites.push(now);
                    let (namespace, name) = (&target.namespace, &target.secret);
                    tracing::info!(namespace, name, "a Secret was written from the vault");
                }
                patient.failures = 0;
                patient.finding = None;
                patient.not_before = Some(Instant::now() + SETTLE);
                false
            }
            Err(Trouble::Contested(why)) => {
                let grown = CONTESTED * u32::try_from(patient.failures + 1).unwrap_or(u32::MAX);
                patient.failures += 1;
                patient.contested = true;
                patient.not_before = Some(Instant::now() + grown.min(LONGEST));
                patient.finding = Some(Wound {
                    target: target.clone(),
                    code: Code::CertificateSecretContested,
                    message: format!("certificate in Secret `{}`: {why}", target.secret),
                });
                false
            }
            Err(trouble) => {
                let away = matches!(trouble, Trouble::Away(_));
                let refused = matches!(trouble, Trouble::Refused(_));
                let pause = PAUSES.get(patient.failures).unwrap_or(&LONGEST);
                patient.failures += 1;
                patient.not_before = Some(Instant::now() + *pause);
                // What may pass by itself is told when it does not.
                if refused || patient.failures > PASSING {
                    patient.finding = Some(unwritable(target, &trouble.words()));
                }
                away
            }
        }
    }

    /// Has the Secret say when its certificate is renewed, if it says something else.
    async fn note(&self, target: &Target, patient: &mut Patient, renew_at: Timestamp) {
        let Some((certificate, mark)) = &patient.due else {
            return;
        };
        let now = Instant::now();
        let lately = |at: Instant| now.duration_since(at) < NOTED;
        if patient.noted.is_some_and(lately)
            || !self.targets.holds(target, mark)
            || self.targets.says(target, renew_at)
        {
            return;
        }
        patient.noted = Some(now);
        if let Err(trouble) = self.projection.note(target, &certificate.material).await {
            let (namespace, name) = (&target.namespace, &target.secret);
            let error = trouble.words();
            tracing::debug!(
                namespace,
                name,
                error,
                "the annotations of a Secret stay as they are"
            );
        }
    }

    fn say(&self, patients: &BTreeMap<Target, Patient>) {
        let found = patients
            .values()
            .filter_map(|patient| patient.finding.clone());
        let found: Vec<Wound> = found.collect();
        self.findings.send_if_modified(|said| {
            let changed = **said != found;
            if changed {
                *said = Arc::new(found);
            }
            changed
        });
    }
}

fn contested(target: &Target) -> Wound {
    let message = format!(
        "certificate in Secret `{}`: somebody changes it again and again, so it is left alone for ten \
         minutes; what is kept goes on serving; find out who writes it (metadata.managedFields names \
         the client)",
        target.secret
    );
    Wound {
        target: target.clone(),
        code: Code::CertificateSecretContested,
        message,
    }
}

fn unwritable(target: &Target, why: &str) -> Wound {
    let message = format!(
        "certificate in Secret `{}` cannot be put back: {why}; what is kept goes on serving",
        target.secret
    );
    Wound {
        target: target.clone(),
        code: Code::CertificateSecretNotWritable,
        message,
    }
}

/// So many rewrites in this time are a fight.
const OFTEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(600);

/// Until a write has come back as news.
const SETTLE: Duration = Duration::from_secs(1);
/// Until it is looked at again whether somebody else still has it.
const CONTESTED: Duration = Duration::from_secs(10);
/// After the first failures; then this.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
const LONGEST: Duration = Duration::from_secs(60);
/// So many failures in a row of the API server are nobody's matter.
const PASSING: usize = 2;
/// Between two writes of what is said on a Secret.
const NOTED: Duration = Duration::from_secs(60);
/// Without news.
const IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
