//! One certificate, one step at a time.
//!
//! Every step does one thing outside and stores what came of it; a crash anywhere is met by doing
//! the step again, which each step is written for.
//!
//! Invariants:
//! - Every arrow between phases is one compare-and-swap write with the leader's epoch.
//! - What the authority needs is stored before it is asked; `finalize` comes after the write of
//!   `Finalizing` was accepted, so who lost the lead does not reach it.
//! - A wait is stored before it begins. Only polling within one order, and pacing, which is
//!   computed from what is stored, are not.
//! - Authorizations are never deactivated to tidy up: another leader may share them.

mod challenge;
mod due;
mod fail;
mod handover;
mod issue;
mod order;
mod revoke;
mod valid;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, watch};

use crate::Answer;
use crate::accounts::{Accounts, Named, NoAccount};
use crate::board::{Board, Pen, Posted};
use crate::ca::{Order, Refusal, Step};
use crate::clock::Clock;
use crate::dns::persist::Persist;
use crate::dns::{Solver, Solvers};
use crate::events::{Event, What};
use crate::failure::{Class, Failure};
use crate::issuers::Issuers;
use crate::journal::{Journal, Point};
use crate::plan::{Target, Wanted, is_another};
use crate::record::{Asked, Material, Phase, Record, Revision};
use crate::secrets::Secrets;
use crate::standing::Standing;
use crate::vault::{Key, Vault, VaultError, Version};

#[cfg(test)]
pub(crate) use challenge::LONGEST_DNS;
pub(crate) use due::{due, may_be_given_up};
pub(crate) use revoke::{Tried, has_revoked, stays};

/// Where finished certificates go: Secrets of users, or nowhere in particular.
pub trait Projector: Send + Sync {
    /// What lies in the target and is handed over by its owner; asked before anything is ordered. The
    /// error says what is in the way.
    fn handed_over<'a>(&'a self, _: &'a Target) -> Answer<'a, Result<Option<Material>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether the target could be written; asked before anything is ordered.
    fn preflight<'a>(&'a self, target: &'a Target) -> Answer<'a, Result<(), String>>;

    /// Writes the target; may be repeated.
    fn project<'a>(
        &'a self,
        target: &'a Target,
        material: &'a Material,
    ) -> Answer<'a, Result<(), String>>;
}

/// Makes sure that every replica answers, before the authority asks.
pub trait Barrier: Send + Sync {
    /// Waits as long as it makes sense; the error says who does not answer, and is a warning. The
    /// board is as it was stored with the entries on it.
    fn wait<'a>(
        &'a self,
        board: &'a Board,
        entries: &'a [Posted],
    ) -> Answer<'a, Result<(), String>>;
}

/// Nowhere and nobody: for one process that reads the vault itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Projector for Alone {
    fn preflight<'a>(&'a self, _: &'a Target) -> Answer<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn project<'a>(&'a self, _: &'a Target, _: &'a Material) -> Answer<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Barrier for Alone {
    fn wait<'a>(&'a self, _: &'a Board, _: &'a [Posted]) -> Answer<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What is wanted, by target.
pub type Wishes = BTreeMap<Target, Wanted>;

/// Which certificate is served where another one is asked for; both of one namespace.
pub type Covers = BTreeMap<Target, Target>;

/// What is asked for and refused, by target, with the identity of its namespace.
pub(crate) type Refused = BTreeMap<Target, String>;

/// Everything that flows share.
pub(crate) struct Driver {
    pub(crate) issuers: watch::Receiver<Arc<Issuers>>,
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) accounts: Accounts,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) solvers: Arc<Solvers>,
    pub(crate) persist: Arc<dyn Persist>,
    pub(crate) made: Mutex<BTreeMap<String, Arc<dyn Solver>>>,
    pub(crate) projector: Arc<dyn Projector>,
    pub(crate) barrier: Arc<dyn Barrier>,
    pub(crate) pen: Arc<Pen>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) standing: Mutex<Standing>,
    pub(crate) events: broadcast::Sender<Event>,
    /// What is wanted now: looked at before every step.
    pub(crate) wishes: watch::Receiver<Arc<Wishes>>,
    /// What is refused now.
    pub(crate) refused: watch::Receiver<Arc<Refused>>,
    pub(crate) served: Arc<crate::served::Served>,
    pub(crate) tombstone: SignedDuration,
}

/// One certificate while it is worked on.
pub(crate) struct Flow {
    pub(crate) record: Record,
    pub(crate) version: Option<Version>,
    pub(crate) wanted: Option<Wanted>,
    /// Whether it is asked for and refused, and has a certificate, which stays then.
    pub(crate) kept: bool,
    pub(crate) epoch: u64,
    pub(crate) memo: Memo,
}

/// What a flow remembers between steps, and may forget.
#[derive(Default)]
pub(crate) struct Memo {
    /// The order as it was just seen.
    order: Option<Order>,
    /// Whether the phase was entered by this flow: what it stands for was not done yet.
    fresh: bool,
    polls: u32,
    transient: u32,
    /// End of a wait that is not stored.
    deadline: Option<Timestamp>,
    /// Not before this is the flow taken up again.
    pub(crate) rest_until: Option<Timestamp>,
    /// How often the authority did not know the account.
    resets: u32,
    /// How often in a row the record was not stored; the next run remembers it, too.
    pub(crate) unstored: u32,
    /// How often in a row the record was not read; the next run remembers that as well.
    pub(crate) unread: u32,
    /// Whether its record may be gone from the vault.
    pub(crate) doubted: bool,
    /// Whether it is in the middle of a step, and rests only because others need not wait for that.
    polling: bool,
}

impl Memo {
    /// A run ends or begins.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            unstored: self.unstored,
            unread: self.unread,
            ..Self::default()
        };
    }
}

/// What follows a step.
pub(crate) enum Turn {
    /// The next step.
    Go,
    /// The same step after a wait.
    Poll(Duration),
    /// Nothing, until the record is due.
    Rest,
}

/// Why a step did not end.
pub(crate) enum Trouble {
    /// To be classified and stored.
    Failed(Failure),
    /// The same, and the order is known to bring nothing any more.
    Ended(Failure),
    /// The vault: nothing more may be done with this record as it is here.
    Vault(VaultError),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<VaultError> for Trouble {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<NoAccount> for Trouble {
    fn from(error: NoAccount) -> Self {
        match error {
            NoAccount::Failed(failure) => Self::Failed(failure),
            NoAccount::Vault(error) => Self::Vault(error),
        }
    }
}

impl Flow {
    /// Whether what is here was stored as it is.
    pub(crate) fn is_stored(&self) -> bool {
        self.version.is_some() && self.memo.unstored == 0
    }

    pub(crate) fn target(&self) -> &Target {
        &self.record.state.target
    }

    /// Directory of the authority that a step of this certificate asks; nothing, if it asks none.
    pub(crate) fn authority<'a>(&'a self, issuers: &'a Issuers) -> &'a str {
        if let Some(revision) = &self.record.state.revision {
            return &revision.directory;
        }
        let issuer = self.wanted.as_ref().map(|wanted| &wanted.issuer);
        let spec = issuer.and_then(|issuer| issuers.issuers.get(issuer));
        spec.map_or("", |spec| &spec.directory)
    }

    /// The revision that is being ordered; its absence in a busy phase is damage.
    fn revision(&self) -> Result<&Revision, Failure> {
        self.record.state.revision.as_ref().ok_or_else(lost)
    }

    fn revision_mut(&mut self) -> Result<&mut Revision, Failure> {
        self.record.state.revision.as_mut().ok_or_else(lost)
    }

    fn order_url(&self) -> Result<String, Failure> {
        let order = self.revision()?.order.clone();
        order.ok_or_else(|| Failure::local(Class::OrderGone, "the record has no order"))
    }
}

impl Driver {
    /// Works until nothing is to be done now. The error is the vault's: the record has to be read
    /// again.
    pub(crate) async fn run(&self, flow: &mut Flow) -> Result<(), VaultError> {
        if !std::mem::take(&mut flow.memo.polling) {
            flow.memo.forget();
        }
        flow.memo.rest_until = None;
        loop {
            // Boxed: a step is large, and only one exists at a time.
            let turn = match Box::pin(self.step(flow)).await {
                Ok(turn) => turn,
                Err(trouble) => Box::pin(self.meet(flow, trouble)).await?,
            };
            match turn {
                Turn::Go => {}
                Turn::Poll(wait) => {
                    let long = wait > LONGEST_HELD;
                    let wait = SignedDuration::try_from(wait).unwrap_or_default();
                    let until = crate::schedule::later(self.clock.now(), wait);
                    if long {
                        flow.memo.polling = true;
                        flow.memo.rest_until = Some(until);
                        return Ok(());
                    }
                    tokio::time::sleep_until(self.clock.instant(until)).await;
                }
                Turn::Rest => return Ok(()),
            }
        }
    }

    async fn step(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        self.check_lead(flow)?;
        self.look_up(flow);
        if self.has_to_revoke(flow) {
            return self.revoke_again(flow).await;
        }
        if let Some(turn) = self.abort_or_wait(flow).await? {
            return Ok(turn);
        }
        match flow.record.state.phase {
            Phase::Empty | Phase::Valid => self.rest(flow).await,
            Phase::Planned => self.planned(flow).await,
            Phase::Ordered => self.ordered(flow).await,
            Phase::Presenting => self.presenting(flow).await,
            Phase::Validating => self.validating(flow).await,
            Phase::Finalizing => self.finalizing(flow).await,
            Phase::Issued => self.issued(flow).await,
            Phase::Delivering => self.delivering(flow).await,
            Phase::Tombstone => self.tombstone(flow).await,
        }
    }

    /// What is wanted of a flow now, or refused.
    pub(crate) fn look_up(&self, flow: &mut Flow) {
        flow.wanted = self.wishes.borrow().get(flow.target()).cloned();
        let record = &flow.record;
        let refused = self.refused.borrow().get(flow.target()).cloned();
        let own = |uid: String| !is_another(&record.state.namespace_uid, &uid);
        flow.kept = record.current.is_some() && refused.is_some_and(own);
    }

    /// A process that was stopped for a while may believe what is no longer true: asked before
    /// every step, and once more right before what an authority does not forget.
    fn check_lead(&self, flow: &Flow) -> Result<(), VaultError> {
        if self.vault.leads(flow.epoch) {
            return Ok(());
        }
        let why = "its term is over".to_owned();
        Err(VaultError::NotLeader(why))
    }

    /// Before anything else: what another tenant had is taken away, what is no longer wanted is given
    /// up, and a stored wait is kept.
    async fn abort_or_wait(&self, flow: &mut Flow) -> Result<Option<Turn>, Trouble> {
        if let Some(wanted) = flow.wanted.clone()
            && due::is_inherited(&flow.record.state, &wanted)
        {
            self.check_tenant(flow, &wanted).await?;
        }
        let hash = flow.wanted.as_ref().map(Wanted::hash);
        let state = &mut flow.record.state;
        let ordered = state.revision.as_ref().map(|revision| &revision.spec_hash);
        let other = ordered.is_some() && ordered != hash.as_ref();
        let other = state.phase.is_busy() && other && may_be_given_up(state);
        let again = state.asked == Some(Asked::Renew) && due::is_refused(state);
        if other || again {
            state.wait = None;
            flow.record.drop_revision();
            self.save(flow).await?;
            self.pen.post(flow.target(), Vec::new()).await?;
            return Ok(Some(Turn::Go));
        }
        let Some(wait) = &state.wait else {
            return Ok(None);
        };
        let changed = wait.is_about_another(flow.wanted.as_ref()) && may_be_given_up(state);
        if changed || wait.is_over(self.clock.now()) || state.asked.is_some() {
            if changed {
                state.attempts.forget();
            }
            if wait.owed {
                state.asked = Some(Asked::Renew);
            }
            state.wait = None;
            return Ok(None);
        }
        // TXT records need not wait for what the certificate waits for.
        if self.has_to_clean(flow) && !flow.record.state.phase.is_busy() {
            return self.clean(flow).await.map(Some);
        }
        Ok(Some(Turn::Rest))
    }

    fn has_to_clean(&self, flow: &Flow) -> bool {
        let now = self.clock.now();
        due::cleaning(&flow.record.state, now).is_some_and(|at| at <= now)
    }

    /// Stores the record: one arrow.
    async fn save(&self, flow: &mut Flow) -> Result<(), Trouble> {
        let state = &flow.record.state;
        let (phase, target) = (state.phase, state.target.clone());
        self.journal.reached(Point::Storing(phase), &target).await;
        self.write(flow).await?;
        flow.memo.unstored = 0;
        self.served.show(&flow.record, flow.wanted.as_ref());
        self.journal.reached(Point::Stored(phase), &target).await;
        Ok(())
    }

    /// Writes the record as it is; nobody else does. What a later leader wrote is not written over.
    pub(crate) async fn write(&self, flow: &mut Flow) -> Result<(), VaultError> {
        let state = &mut flow.record.state;
        let key = Key::Certificate(state.target.clone());
        if state.epoch > flow.epoch {
            if !self.vault.leads(flow.epoch) {
                let why = "a later leader wrote the record".to_owned();
                return Err(VaultError::NotLeader(why));
            }
            // Nobody else will, as after a backup was put back while this process ran.
            let (place, theirs, ours) = (self.vault.place(&key), state.epoch, flow.epoch);
            return Err(VaultError::Damaged(format!(
                "{place} is of a later term ({theirs}) than that of this process ({ours}), which does \
                 not write over it: restart the process, which counts on from there"
            )));
        }
        state.epoch = flow.epoch;
        let entries = flow.record.to_entries().map_err(VaultError::Unavailable)?;
        let expected = flow.version.as_ref();
        flow.version = Some(self.vault.write(&key, expected, &entries).await?);
        Ok(())
    }

    /// Stores the record in another phase.
    async fn enter(&self, flow: &mut Flow, phase: Phase) -> Result<Turn, Trouble> {
        flow.record.state.phase = phase;
        let order = flow.memo.order.take();
        flow.memo = Memo {
            order,
            fresh: true,
            transient: flow.memo.transient,
            resets: flow.memo.resets,
            unstored: flow.memo.unstored,
            ..Memo::default()
        };
        self.save(flow).await?;
        Ok(Turn::Go)
    }

    /// Asks the authority, unless it is known to be away.
    async fn ask<T>(
        &self,
        flow: &Flow,
        step: Step,
        call: impl Future<Output = Result<T, Refusal>> + Send,
    ) -> Result<T, Failure> {
        let revision = flow.revision()?;
        let directory = revision.directory.as_str();
        let away = self.standing().away_until(directory, self.clock.now());
        if let Some(until) = away {
            let mut failure = Failure::local(Class::Outage, format!("{directory} is away"));
            failure.until = Some(until);
            return Err(failure);
        }
        self.journal
            .reached(Point::Asking(step), flow.target())
            .await;
        let answer = match tokio::time::timeout(LONGEST_CALL, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::new(step, crate::ca::Cause::Deadline(LONGEST_CALL))),
        };
        self.journal
            .reached(Point::Asked(step), flow.target())
            .await;
        let answer = answer.map_err(|refusal| Failure::of(&refusal, revision.replaces.is_some()));
        if !matches!(&answer, Err(failure) if failure.class == Class::Outage) {
            self.standing().answered(directory);
        }
        answer
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, flow: &Flow, what: What) {
        let target = flow.target().clone();
        let (namespace, name) = (&target.namespace, &target.secret);
        match &what {
            What::Failed {
                class,
                detail,
                until,
            } => {
                let until = until.map(|until| until.to_string());
                tracing::warn!(
                    namespace,
                    name,
                    ?class,
                    error = detail,
                    until,
                    "certificate waits"
                );
            }
            What::Warning(text) => tracing::warn!(namespace, name, error = text, "certificate"),
            What::Issued { serial, .. } => {
                tracing::info!(namespace, name, serial, "certificate issued");
            }
            What::Ordered { issuer, .. } => {
                tracing::info!(namespace, name, issuer, "certificate ordered");
            }
            What::TakenOver { serial, .. } => {
                tracing::info!(namespace, name, serial, "certificate taken over");
            }
            What::Finalizing => tracing::debug!(namespace, name, "certificate asked for"),
        }
        // Nobody has to listen.
        drop(self.events.send(Event { target, what }));
    }
}

fn lost() -> Failure {
    Failure::local(Class::Local, "the record lost what it orders")
}

/// An issuer as it is configured now.
fn issuer<'a>(issuers: &'a Issuers, name: &str) -> Result<Named<'a>, Failure> {
    Named::find(issuers, name).map_err(|detail| Failure::local(Class::Issuer, detail))
}

/// The issuer that the revision names, as it is configured now.
fn named<'a>(issuers: &'a Issuers, revision: &Revision) -> Result<Named<'a>, Failure> {
    let found = Named {
        test: revision.test,
        ..issuer(issuers, &revision.issuer)?
    };
    if found.directory() != revision.directory && !revision.directory.is_empty() {
        let detail = format!("issuer {} now has another directory", found.name);
        return Err(Failure::local(Class::OrderGone, detail));
    }
    Ok(found)
}

/// A certificate that looks again after more than this lets others work meanwhile.
const LONGEST_HELD: Duration = Duration::from_secs(5);

/// No call takes longer, whatever the parts below promise.
const LONGEST_CALL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
