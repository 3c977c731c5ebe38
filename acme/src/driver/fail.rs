//! What becomes of a record when a step failed.
//!
//! Invariants:
//! - Every failure ends in a stored wait or in a bounded repetition, and in one event.
//! - From `Finalizing` on the order and its key are kept, whatever fails: only the order itself says
//!   that it brings nothing. While it stands still, another wish or a person may give it up.

use jiff::{SignedDuration, Timestamp};

use super::{Driver, Flow, Trouble, Turn, named};
use crate::accounts::RESET;
use crate::ca::ChallengeKind;
use crate::events::What;
use crate::failure::{Class, Failure, Scope};
use crate::plan::Wanted;
use crate::record::{Asked, Need, Phase, State, Wait};
use crate::schedule::{Span, between, later};
use crate::vault::VaultError;

impl Driver {
    /// What follows trouble. The error is the vault's.
    pub(super) async fn meet(&self, flow: &mut Flow, trouble: Trouble) -> Result<Turn, VaultError> {
        let (failure, ended) = match trouble {
            Trouble::Failed(failure) => (failure, false),
            Trouble::Ended(failure) => (failure, true),
            Trouble::Vault(error) => return Err(error),
        };
        match self.fail(flow, failure, ended).await {
            Ok(turn) => Ok(turn),
            Err(Trouble::Vault(error)) => Err(error),
            Err(Trouble::Failed(failure) | Trouble::Ended(failure)) => {
                // Failing to note a failure: try again later as if it just began.
                tracing::warn!(target = %flow.target(), error = failure.detail, "a failure could not be noted");
                flow.memo.rest_until = Some(later(self.clock.now(), BREATH));
                Ok(Turn::Rest)
            }
        }
    }

    /// Notes a failure and says what follows.
    async fn fail(&self, flow: &mut Flow, failure: Failure, ended: bool) -> Result<Turn, Trouble> {
        let keep = is_kept(&flow.record.state, ended);
        if flow.record.state.revision.is_none() && is_of_an_order(failure.class) {
            // Said of an order before there is one: an authority that is not well.
            let class = Class::Outage;
            return self.outage(flow, Failure { class, ..failure }).await;
        }
        match failure.class {
            Class::Transient => {
                flow.memo.transient += 1;
                if flow.memo.transient <= MOST_TRANSIENT {
                    return Ok(Turn::Go);
                }
                let detail = format!("one nonce after the other is rejected: {}", failure.detail);
                self.outage(flow, Failure::local(Class::Outage, detail))
                    .await
            }
            Class::Outage => self.outage(flow, failure).await,
            Class::Replaces => {
                flow.revision_mut()?.replaces = None;
                if let Some(current) = &mut flow.record.state.current {
                    current.ari.refused = true;
                }
                self.tell(flow, What::Warning(failure.detail));
                self.save(flow).await?;
                Ok(Turn::Go)
            }
            Class::OrderNotReady => {
                flow.memo.fresh = false;
                flow.memo.polls += 1;
                if flow.memo.polls > MOST_POLLS {
                    return self.wait(flow, failure, true).await;
                }
                Ok(Turn::Poll(std::time::Duration::from_secs(2)))
            }
            Class::OrderGone => self.order_gone(flow, failure).await,
            Class::AccountGone => self.account_gone(flow, failure).await,
            Class::Issuer => {
                let issuers = self.issuers.borrow().clone();
                // A refusal by the issuer's own conversation is stored with the account already.
                if failure.retry_after.is_none()
                    && let Ok(revision) = flow.revision()
                    && let Ok(named) = named(&issuers, revision)
                {
                    self.accounts.refuse(named, &failure.detail).await?;
                }
                self.wait(flow, failure, keep).await
            }
            Class::Limited => {
                self.limited(flow, &failure);
                self.wait(flow, failure, true).await
            }
            Class::BadCertificate | Class::NotYet => self.wait(flow, failure, true).await,
            Class::Validation | Class::Spec | Class::Paused | Class::Local | Class::Storage => {
                self.wait(flow, failure, keep).await
            }
        }
    }

    /// The authority is away: its circuit says until when; the certificate's counters stay.
    async fn outage(&self, flow: &mut Flow, failure: Failure) -> Result<Turn, Trouble> {
        let now = self.clock.now();
        let directory = match flow.revision() {
            Ok(revision) => revision.directory.clone(),
            Err(_) => self.main_directory(flow),
        };
        // An end that is known comes from the circuit itself.
        let until = failure
            .until
            .unwrap_or_else(|| self.standing().outage(&directory, &failure, now));
        if is_rehearsal(flow) {
            return self.without_rehearsal(flow, &failure).await;
        }
        let state = &mut flow.record.state;
        state.attempts.detail = Some(failure.detail.clone());
        self.store_wait(flow, &failure, (Some(until), Vec::new()))
            .await
    }

    /// The order is known to be forbidden before it is asked for, by a limit that was met or by our own
    /// pace: nobody has failed, but people see until when.
    pub(super) async fn forbidden(
        &self,
        flow: &mut Flow,
        until: Timestamp,
        scope: Scope,
    ) -> Result<Turn, Trouble> {
        let detail = match scope {
            Scope::Pace => {
                "`limits` of the issuer say how many, and five certificates for the same names in a week"
            }
            _ => "it was met by an order before",
        };
        let failure = Failure {
            scope: Some(Box::new(scope)),
            ..Failure::local(Class::Limited, detail)
        };
        if is_rehearsal(flow) && !failure.is_of_pace() {
            return self.without_rehearsal(flow, &failure).await;
        }
        let attempts = &mut flow.record.state.attempts;
        (attempts.detail, attempts.link) = (Some(failure.detail.clone()), None);
        self.store_wait(flow, &failure, (Some(until), Vec::new()))
            .await
    }

    fn main_directory(&self, flow: &Flow) -> String {
        let issuers = self.issuers.borrow();
        let wanted = flow.wanted.as_ref();
        let spec = wanted.and_then(|wanted| issuers.issuers.get(&wanted.issuer));
        spec.map(|spec| spec.directory.clone()).unwrap_or_default()
    }

    async fn order_gone(&self, flow: &mut Flow, failure: Failure) -> Result<Turn, Trouble> {
        if flow.record.state.phase == Phase::Delivering {
            return self.wait(flow, failure, true).await;
        }
        flow.record.state.challenges.clear();
        let revision = flow.revision_mut()?;
        revision.order = None;
        revision.gone += 1;
        if revision.gone > MOST_GONE {
            let detail = format!("orders disappear: {}", failure.detail);
            return self
                .wait(flow, Failure::local(Class::Local, detail), false)
                .await;
        }
        // The same key and CSR: an order that did not disappear after all does no harm.
        self.enter(flow, Phase::Planned).await
    }

    async fn account_gone(&self, flow: &mut Flow, failure: Failure) -> Result<Turn, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let named = named(&issuers, flow.revision()?)?;
        flow.memo.resets += 1;
        let again = self.accounts.reset(named).await?;
        let now = self.clock.now();
        let often = (flow.memo.resets > MOST_RESETS).then(|| later(now, RESET));
        if let Some(until) = again.or(often) {
            // Nobody has refused the account: it is registered again when that may be done.
            flow.memo.resets = 0;
            let failure = Failure {
                retry_after: Some(between(now, until)),
                ..failure
            };
            return self.wait(flow, failure, true).await;
        }
        self.tell(flow, What::Warning(failure.detail));
        if flow.record.state.phase.is_awaited() {
            // The same key has an account again: with it the order says what became of it.
            return Ok(Turn::Go);
        }
        flow.record.state.challenges.clear();
        let revision = flow.revision_mut()?;
        revision.order = None;
        revision.replaces = None;
        self.enter(flow, Phase::Planned).await
    }

    fn limited(&self, flow: &Flow, failure: &Failure) {
        let now = self.clock.now();
        let until = failure.wait(1, now, None, "");
        if let (Ok(revision), Some(scope), Some(until)) = (flow.revision(), &failure.scope, until) {
            let since = Some(now);
            self.standing().limit(
                (&revision.issuer, &revision.directory),
                Scope::clone(scope),
                &revision.names,
                Span { since, until },
            );
        }
    }

    /// Counts the failure and waits; `keep` says whether the order stays.
    async fn wait(&self, flow: &mut Flow, failure: Failure, keep: bool) -> Result<Turn, Trouble> {
        if is_rehearsal(flow) && is_the_directorys(failure.class) {
            return self.without_rehearsal(flow, &failure).await;
        }
        let now = self.clock.now();
        let state = &mut flow.record.state;
        state.attempts.count(failure.class);
        state.attempts.detail = Some(failure.detail.clone());
        state.attempts.link.clone_from(&failure.link);
        let life = state.current.as_ref().map(|current| &current.life);
        let mark = state.target.to_string();
        let mut until = failure.wait(state.attempts.pause(), now, life, &mark);
        // Whatever the table says: nothing goes round without a pause.
        until = until.map(|until| until.max(later(now, BREATH)));
        if failure.class == Class::Validation {
            let failed = &mut state.attempts.failed;
            failed.retain(|at| *at <= now && between(*at, now) < HOUR);
            failed.push(now);
            // The newest count: people may have asked for more than there should be.
            failed.drain(..failed.len().saturating_sub(PER_HOUR));
            if failed.len() >= PER_HOUR {
                let oldest = failed.first().map(|at| later(*at, HOUR));
                until = until.max(oldest);
            }
            state.attempts.rehearsed = false;
        }
        if keep && until.is_none() {
            // Nobody knows what the order brings by then.
            until = Some(later(now, LOOK_AGAIN));
        }
        let tried = kinds(flow);
        if !keep {
            flow.record.drop_revision();
        }
        let turn = self.store_wait(flow, &failure, (until, tried)).await?;
        if !keep {
            self.pen.post(flow.target(), Vec::new()).await?;
        }
        Ok(turn)
    }

    /// The test directory is of no use now: nothing but a name that it cannot prove keeps the real one
    /// from being asked.
    pub(super) async fn without_rehearsal(
        &self,
        flow: &mut Flow,
        failure: &Failure,
    ) -> Result<Turn, Trouble> {
        let text = format!("the test directory is left out: {}", failure.detail);
        self.tell(flow, What::Warning(text));
        self.end_rehearsal(flow).await
    }

    /// The next attempt is the real one.
    pub(super) async fn end_rehearsal(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let state = &mut flow.record.state;
        state.attempts.rehearsed = true;
        state.wait = None;
        let revision = state.revision.as_ref();
        if revision.is_some_and(|revision| revision.need == Need::Asked) {
            state.asked = Some(Asked::Renew);
        }
        flow.record.drop_revision();
        self.save(flow).await?;
        self.pen.post(flow.target(), Vec::new()).await?;
        Ok(Turn::Go)
    }

    /// Since when it is waited for this: an outage began when the first one met it, and whoever leads next
    /// knows from here for how long it has lasted.
    fn began(&self, flow: &Flow, class: Class) -> Timestamp {
        let now = self.clock.now();
        let revision = flow.record.state.revision.as_ref();
        let revision = revision.filter(|_| class == Class::Outage);
        let since = revision.and_then(|ordered| self.standing().away_since(&ordered.directory));
        since.map_or(now, |since| since.min(now))
    }

    async fn store_wait(
        &self,
        flow: &mut Flow,
        failure: &Failure,
        (until, kinds): (Option<Timestamp>, Vec<ChallengeKind>),
    ) -> Result<Turn, Trouble> {
        let wanted = flow.wanted.as_ref().map(Wanted::hash);
        let since = self.began(flow, failure.class);
        let state = &mut flow.record.state;
        let ordered = state.revision.as_ref();
        let spec_hash = wanted
            .or_else(|| ordered.map(|revision| revision.spec_hash.clone()))
            .unwrap_or_default();
        // What a person asked for is not forgotten by a failure; an order that stays is the answer.
        let owed = state.asked.take() == Some(Asked::Renew) && state.revision.is_none();
        state.wait = Some(Wait {
            class: failure.class,
            since: Some(since),
            until,
            scope: failure
                .scope
                .as_deref()
                .filter(|_| !failure.is_of_pace())
                .cloned(),
            paced: failure.is_of_pace(),
            spec_hash,
            kinds,
            owed,
        });
        self.save(flow).await?;
        self.tell(
            flow,
            What::Failed {
                class: failure.class,
                detail: failure.detail.clone(),
                until,
            },
        );
        // What can be tidied up is tidied up now, while the reasons are fresh.
        Ok(if self.has_to_clean(flow) {
            Turn::Go
        } else {
            Turn::Rest
        })
    }
}

/// Whether an order and its key stay when a step failed; `ended` says that the order is known to bring
/// nothing.
fn is_kept(state: &State, ended: bool) -> bool {
    match state.phase {
        Phase::Finalizing | Phase::Issued => state.revision.is_some() && !ended,
        phase => phase.is_past_return(),
    }
}

/// The challenges that are tried: those of the order, which may no longer be the ones that are wanted.
fn kinds(flow: &Flow) -> Vec<ChallengeKind> {
    let ordered = flow.revision().map(|revision| &revision.kinds);
    let wanted = flow.wanted.as_ref().map(|wanted| &wanted.challenges);
    ordered.ok().or(wanted).cloned().unwrap_or_default()
}

/// What can only be said of an order.
fn is_of_an_order(class: Class) -> bool {
    use Class::{AccountGone, OrderGone, OrderNotReady, Replaces};
    matches!(class, AccountGone | OrderGone | OrderNotReady | Replaces)
}

/// The shortest pause between two attempts.
const BREATH: SignedDuration = SignedDuration::from_secs(5);

fn is_rehearsal(flow: &Flow) -> bool {
    flow.revision().is_ok_and(|revision| revision.test)
}

/// Whether a failure is one of the directory, and not of the names or of this side.
pub(super) fn is_the_directorys(class: Class) -> bool {
    use Class::{AccountGone, Issuer, Limited, NotYet, Outage, Paused, Spec};
    matches!(
        class,
        AccountGone | Issuer | Limited | NotYet | Outage | Paused | Spec
    )
}

/// Requests in one flow of which every nonce was rejected, each of about twenty; below this they are nobody's
/// failure.
const MOST_TRANSIENT: u32 = 1;

/// Looks at an order that should be further.
const MOST_POLLS: u32 = 60;

/// Accounts that disappear within one flow.
const MOST_RESETS: u32 = 2;

/// Orders of one revision that may disappear.
const MOST_GONE: u32 = 3;

/// Failed validations of one certificate in an hour: two below Let's Encrypt's limit.
const PER_HOUR: usize = 3;

/// An order that stays is looked at this often at least.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(24);

const HOUR: SignedDuration = SignedDuration::from_hours(1);
