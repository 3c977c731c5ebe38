//! Revocations that no authority has answered yet.
//!
//! Invariants:
//! - One is stored before the authority is asked, and stays until it has answered or the certificate has
//!   ended: whoever leads then asks again. What was done already is told by the authority.
//! - It is asked again with the pauses of an outage, and not before it wants to be.
//! - Whatever comes of a try, the certificate goes its way.

use jiff::{SignedDuration, Timestamp};

use super::{Driver, Flow, LONGEST_CALL, Trouble, Turn, due};
use crate::accounts::{Named, NoAccount};
use crate::ca::{Cause, Refusal, Step};
use crate::events::What;
use crate::failure::{Class, Failure};
use crate::journal::Point;
use crate::leaf;
use crate::record::Revocation;
use crate::schedule::later;

/// What came of one try.
pub(crate) enum Tried {
    /// It is revoked.
    Done,
    /// The authority will not.
    Refused(String),
    /// It is owed: who knows whether it was done.
    Owed(Failure),
}

impl Driver {
    pub(super) fn has_to_revoke(&self, flow: &Flow) -> bool {
        let now = self.clock.now();
        due::revoking(&flow.record.state, now).is_some_and(|at| at <= now)
    }

    /// Asks once more for what is owed and due.
    pub(super) async fn revoke_again(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let now = self.clock.now();
        let mut left = Vec::new();
        for mut owed in std::mem::take(&mut flow.record.state.revocations) {
            let serial = owed.serial.clone();
            if owed.not_after <= now {
                let words = owed.detail.as_deref().unwrap_or("it was not asked");
                let text = format!(
                    "{serial} has ended, so its revocation is no longer asked for; the authority has not \
                     answered: {words}"
                );
                self.tell(flow, What::Warning(text));
                continue;
            }
            if owed.due(now) > now {
                left.push(owed);
                continue;
            }
            match self.try_to_revoke(flow, &owed, false).await {
                Tried::Done => has_revoked(flow, &serial),
                Tried::Refused(why) => {
                    self.tell(flow, What::Warning(refused(&serial, &why)));
                    stays(flow, &owed);
                }
                Tried::Owed(failure) => {
                    self.owe(&mut owed, &failure);
                    left.push(owed);
                }
            }
        }
        flow.record.state.revocations = left;
        self.save(flow).await?;
        Ok(Turn::Go)
    }

    /// Asks the authority once; `insist` also if it is known to be away.
    pub(crate) async fn try_to_revoke(
        &self,
        flow: &Flow,
        owed: &Revocation,
        insist: bool,
    ) -> Tried {
        let issuers = self.issuers.borrow().clone();
        let local = |why: String| Tried::Owed(Failure::local(Class::Local, why));
        let named = match Named::find(&issuers, &owed.issuer) {
            Ok(named) => named,
            Err(why) => return local(why),
        };
        if named.directory() != owed.directory {
            return local(format!(
                "issuer {} now has another directory than {}",
                named.name, owed.directory
            ));
        }
        let away = self
            .standing()
            .away_until(&owed.directory, self.clock.now());
        if let Some(until) = away.filter(|_| !insist) {
            let mut failure = Failure::local(Class::Outage, format!("{} is away", owed.directory));
            failure.until = Some(until);
            return Tried::Owed(failure);
        }
        let Some(der) = owed.der() else {
            return Tried::Refused("what is noted of the certificate is no base64url".to_owned());
        };
        let (authority, account) = match self.accounts.account(named).await {
            Ok(found) => found,
            Err(NoAccount::Failed(failure)) => return Tried::Owed(failure),
            Err(NoAccount::Vault(error)) => {
                return Tried::Owed(Failure::local(Class::Outage, error.to_string()));
            }
        };
        let step = Step::Revoke;
        self.journal
            .reached(Point::Asking(step), flow.target())
            .await;
        let call = authority.revoke(&account, &der, owed.reason);
        let answer = match tokio::time::timeout(LONGEST_CALL, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::new(step, Cause::Deadline(LONGEST_CALL))),
        };
        self.journal
            .reached(Point::Asked(step), flow.target())
            .await;
        let refusal = match answer {
            Ok(()) => return Tried::Done,
            Err(refusal) if refusal.is("alreadyRevoked") => return Tried::Done,
            Err(refusal) => refusal,
        };
        let failure = Failure::of(&refusal, false);
        if is_final(&refusal, failure.class) {
            return Tried::Refused(failure.detail);
        }
        if failure.class == Class::AccountGone
            && let Err(error) = self.accounts.reset(named).await
        {
            tracing::warn!(issuer = named.name, %error, "an account that is gone was not noted");
        }
        Tried::Owed(failure)
    }

    /// Notes a try that brought no answer, and when the next one is.
    pub(crate) fn owe(&self, owed: &mut Revocation, failure: &Failure) {
        let now = self.clock.now();
        owed.tries = owed.tries.saturating_add(1);
        owed.since = Some(now);
        owed.detail = Some(failure.detail.clone());
        owed.next = Some(next_try(owed, failure, now));
        let (serial, until) = (&owed.serial, owed.next.map(|next| next.to_string()));
        tracing::warn!(
            serial,
            error = failure.detail,
            until,
            "a revocation is owed"
        );
    }
}

/// It is done.
pub(crate) fn has_revoked(flow: &Flow, serial: &str) {
    let (namespace, name) = (&flow.target().namespace, &flow.target().secret);
    tracing::info!(namespace, name, serial, "certificate revoked");
}

/// What is said of a revocation that the authority will not make.
fn refused(serial: &str, why: &str) -> String {
    format!(
        "{serial} is not revoked, and it is not asked for again, because the authority refuses: {why}"
    )
}

/// What was not revoked need not be replaced for that, if it was not yet.
pub(crate) fn stays(flow: &mut Flow, owed: &Revocation) {
    let record = &mut flow.record;
    let current = record.current.as_ref();
    let der = current.and_then(|current| leaf::leaf_der(&current.chain));
    if let (Some(der), Some(current)) = (der, &mut record.state.current)
        && Revocation::encoded(&der) == owed.certificate
    {
        current.revoked = false;
    }
}

/// Whether an authority that is there and well has said no. What it does not know by name, or a page of
/// something before it, is no answer.
fn is_final(refusal: &Refusal, class: Class) -> bool {
    use Class::{AccountGone, Issuer, Limited, Transient};
    match &refusal.cause {
        Cause::Local(_) => true,
        Cause::Problem(status, problem) => {
            let passes = matches!(class, AccountGone | Issuer | Limited | Transient);
            (400..500).contains(status) && problem.kind != "serverInternal" && !passes
        }
        Cause::Answer(..) | Cause::Unreachable(_) | Cause::Distrusted(_) | Cause::Deadline(_) => {
            false
        }
    }
}

fn next_try(owed: &Revocation, failure: &Failure, now: Timestamp) -> Timestamp {
    let known = failure.until.filter(|_| failure.class == Class::Outage);
    let wait = || failure.wait(owed.tries, now, None, &owed.serial);
    let next = known.or_else(wait).unwrap_or_else(|| later(now, LATEST));
    // A refusal that asks for no pause at all gets one.
    next.clamp(later(now, SOONEST), owed.not_after.max(later(now, SOONEST)))
}

/// Between two tries.
const SOONEST: SignedDuration = SignedDuration::from_mins(1);

/// After a failure that does not say by itself when it is over.
const LATEST: SignedDuration = SignedDuration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Problem;

    fn problem(status: u16, kind: &str) -> Cause {
        let problem = Problem {
            kind: kind.to_owned(),
            detail: String::new(),
            subproblems: Vec::new(),
        };
        Cause::Problem(status, problem)
    }

    #[test]
    fn only_an_authority_that_says_no_ends_a_revocation() {
        let page = || Cause::Answer(404, "not here".to_owned());
        let table = [
            (problem(403, "unauthorized"), true),
            (problem(400, "malformed"), true),
            (problem(404, "malformed"), true),
            (problem(400, "badRevocationReason"), true),
            (Cause::Local("it offers no revocation".to_owned()), true),
            (problem(400, "badNonce"), false),
            (problem(429, "rateLimited"), false),
            (problem(400, "accountDoesNotExist"), false),
            (problem(403, "userActionRequired"), false),
            (problem(500, "serverInternal"), false),
            (problem(503, "unauthorized"), false),
            (page(), false),
            (Cause::Unreachable("nobody".to_owned()), false),
        ];
        for (cause, expected) in table {
            let refusal = Refusal::new(Step::Revoke, cause);
            let class = Failure::of(&refusal, false).class;
            assert_eq!(is_final(&refusal, class), expected, "{refusal:?}");
        }
    }
}
