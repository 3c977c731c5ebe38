//! What people ask a keeper for.
//!
//! Invariants:
//! - An answer is a sentence; a refusal says what to do instead.
//! - Only who leads acts; a wish is stored before it is confirmed.
//! - What waits for a vault or an authority is done beside the loop, with the certificate taken out of
//!   its slot; the answer is given when it is back.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::again::{End, said};
use super::{Ask, Command, Reply, Work};
use crate::accounts::{Named, NoAccount, Turn};
use crate::driver::{Driver, Flow, Memo, Tried, due, has_revoked, may_be_given_up, stays};
use crate::failure::Class;
use crate::import::{fits, imported};
use crate::leaf;
use crate::pace::PER_SET;
use crate::plan::Target;
use crate::record::{Asked, MOST_REVOCATIONS, Phase, Record, Revocation, State};
use crate::schedule::{between, later};
use crate::secrets::Secret;
use crate::vault::VaultError;

/// A command that has ended.
pub(super) struct Done {
    /// The certificate that it was about, to be put back.
    pub(super) flow: Option<(Flow, End)>,
    /// Who asked.
    pub(super) reply: Reply,
    /// What they are told.
    pub(super) answer: Result<String, String>,
}

/// Why a command was not obeyed.
enum Refused {
    /// A sentence.
    Said(String),
    /// The record could not be stored.
    NotStored(VaultError),
    /// An answer that matters more than that the record could not be stored after it.
    SaidAndNotStored(Result<String, String>, VaultError),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Said(why)
    }
}

impl From<VaultError> for Refused {
    fn from(error: VaultError) -> Self {
        Self::NotStored(error)
    }
}

impl Work {
    pub(super) fn answer(&mut self, ask: Ask) {
        let (begun, reply) = match ask {
            Ask::Certificate(target, command, reply) => match self.take(&target, &command) {
                Ok(flow) => return self.obey(flow, command, reply),
                Err(why) => (why, reply),
            },
            Ask::Rotate(issuer, reply) => match self.reserve(&issuer) {
                Ok(turn) => return self.rotate(issuer, turn, reply),
                Err(why) => (why, reply),
            },
        };
        // Who asked may be gone.
        drop(reply.send(Err(begun)));
    }

    /// A command has ended.
    pub(super) fn conclude(&mut self, done: Done) {
        if let Some((flow, end)) = done.flow {
            self.put_back(flow, end);
        }
        drop(done.reply.send(done.answer));
    }

    fn leads(&self) -> Result<u64, String> {
        let why = || match &*self.driver.vault.trouble().borrow() {
            Some(why) => format!("no replica leads: {why}"),
            None => "this replica does not lead: ask the one that does".to_owned(),
        };
        let epoch = self.epoch.ok_or_else(why)?;
        if self.errands.len() >= MOST {
            return Err(format!("{MOST} commands are under way: again in a moment"));
        }
        Ok(epoch)
    }

    /// Takes the certificate that a command is about out of its slot.
    fn take(&mut self, target: &Target, command: &Command) -> Result<Flow, String> {
        let epoch = self.leads()?;
        if let Some(mut flow) = self.slots.take(target)? {
            self.driver.look_up(&mut flow);
            return Ok(flow);
        }
        if !matches!(command, Command::Import { .. }) {
            return Err(if self.driver.refused.borrow().contains_key(target) {
                format!(
                    "{target} is asked for and refused, and there is no certificate yet: `gatehouse cert \
                     show {target}` says why"
                )
            } else {
                format!(
                    "there is no certificate {target}: `gatehouse cert list` names those that are"
                )
            });
        }
        self.slots.occupy(target);
        let wanted = self.wishes.borrow().get(target).cloned();
        Ok(Flow {
            record: Record::empty(State::new(target, epoch)),
            version: None,
            wanted,
            kept: false,
            epoch,
            memo: Memo::default(),
        })
    }

    fn obey(&mut self, mut flow: Flow, command: Command, reply: Reply) {
        let driver = Arc::clone(&self.driver);
        let target = flow.target().clone();
        let task = self.errands.spawn(async move {
            let obeyed = match driver.keep_stored(&mut flow).await {
                Ok(()) => driver.obey(&mut flow, command).await,
                Err(error) => Err(said(&error).into()),
            };
            let (answer, end) = match obeyed {
                Ok(said) => {
                    driver.complain(flow.target(), None);
                    (Ok(said), End::Rests)
                }
                Err(Refused::Said(why)) => (Err(why), End::Rests),
                Err(Refused::NotStored(error)) => {
                    let end = driver.not_stored(&mut flow, &error).await;
                    (Err(said(&error)), end)
                }
                Err(Refused::SaidAndNotStored(answer, error)) => {
                    let end = driver.not_stored(&mut flow, &error).await;
                    (answer, end)
                }
            };
            Done {
                flow: Some((flow, end)),
                reply,
                answer,
            }
        });
        self.held.insert(task.id(), target);
    }

    /// The account of an issuer for oneself. Nothing may be under way: the answers of challenges hang
    /// on its key. What begins from now on waits for the new one.
    fn reserve(&self, issuer: &str) -> Result<Turn, String> {
        self.leads()?;
        let issuers = self.issuers.borrow().clone();
        if !issuers.issuers.contains_key(issuer) {
            return Err(format!(
                "there is no issuer {issuer:?}; there are {}",
                issuers.names()
            ));
        }
        let idle = self.running.is_empty() && self.errands.is_empty() && !self.slots.has_answers();
        let turn = self.driver.accounts.reserve(issuer).filter(|_| idle);
        turn.ok_or_else(|| {
            format!(
                "certificates are being ordered, and their challenges are answered with the key of \
                 the account: rotate the key of {issuer} again in a minute"
            )
        })
    }

    /// Another key for an account.
    fn rotate(&mut self, issuer: String, turn: Turn, reply: Reply) {
        let driver = Arc::clone(&self.driver);
        let issuers = self.issuers.borrow().clone();
        self.errands.spawn(async move {
            let rotated = match Named::find(&issuers, &issuer) {
                Ok(named) => driver.accounts.rotate(named, turn).await,
                Err(why) => Err(NoAccount::Vault(VaultError::Unavailable(why))),
            };
            let answer = match rotated {
                Ok(url) => Ok(format!(
                    "the account {url} of issuer {issuer} has another key; the old one is worth nothing"
                )),
                Err(NoAccount::Failed(failure)) if driver.accounts.is_rotating(&issuer) => {
                    Err(format!(
                        "it is not known whether the account of issuer {issuer} has another key, the \
                         next order or another `gatehouse account rotate` finds out: {}",
                        failure.detail
                    ))
                }
                Err(NoAccount::Failed(failure)) => Err(format!(
                    "the key of issuer {issuer} was not changed: {}",
                    failure.detail
                )),
                Err(NoAccount::Vault(error)) => Err(error.to_string()),
            };
            Done {
                flow: None,
                reply,
                answer,
            }
        });
    }
}

impl Driver {
    async fn obey(&self, flow: &mut Flow, command: Command) -> Result<String, Refused> {
        match command {
            Command::Retry
                if !flow.record.state.revocations.is_empty() && flow.wanted.is_none() =>
            {
                self.hurry(flow);
                flow.memo.rest_until = None;
                self.write(flow).await?;
                let target = flow.target();
                Ok(format!(
                    "the revocation that is owed of {target} is tried now"
                ))
            }
            Command::Retry | Command::Renew { .. } if flow.wanted.is_none() => {
                let target = flow.target();
                Err(if flow.kept {
                    format!("{target} is asked for and refused, so nothing is ordered: `gatehouse cert show {target}` says why")
                } else {
                    format!("nothing asks for {target}, so nothing is ordered")
                }
                .into())
            }
            Command::Retry => {
                if let Some(why) = self.has_nothing_to_retry(flow) {
                    return Err(why.into());
                }
                let pardoned = self.pardon(flow).await;
                self.ask_for(flow, Asked::Retry).await?;
                Ok(format!("{} is tried now{pardoned}", flow.target()))
            }
            Command::Renew { force } => {
                let recent = self.issued_this_week(flow).len();
                if recent + 1 >= PER_SET && !force {
                    let why = format!(
                        "{recent} certificates for these names this week: one more may be the last \
                         until next week; repeat with --force if it has to be"
                    );
                    return Err(why.into());
                }
                if recent >= PER_SET {
                    let why = format!(
                        "{recent} certificates for these names this week: the authority refuses more"
                    );
                    return Err(why.into());
                }
                self.ask_for(flow, Asked::Renew).await?;
                Ok(format!("{} is renewed now", flow.target()))
            }
            Command::Revoke { reason } => self.revoke(flow, reason).await,
            Command::Import { chain, key } => self.import(flow, &chain, &key).await,
        }
    }

    /// Says so if a certificate is as it should be, and nothing of it failed.
    fn has_nothing_to_retry(&self, flow: &Flow) -> Option<String> {
        let state = &flow.record.state;
        let now = self.clock.now();
        let owes = !state.cleanup.is_empty() || !state.revocations.is_empty();
        let waits = state.wait.is_some() || flow.memo.unstored > 0 || owes;
        let due = due(&flow.record, (flow.wanted.as_ref(), flow.kept), now);
        if state.phase != Phase::Valid || waits || due.is_some_and(|at| at <= now) {
            return None;
        }
        let renewal = state.current.as_ref()?.renew_at;
        let target = flow.target();
        Some(format!(
            "{target} is valid and is renewed at {renewal:.0}, so there is nothing to try again: `gatehouse \
             cert renew {target}` replaces it now"
        ))
    }

    /// Ends the wait of the account that a certificate depends on; what to say of that.
    async fn pardon(&self, flow: &Flow) -> String {
        let issuers = self.issuers.borrow().clone();
        let state = &flow.record.state;
        let wanted = flow.wanted.as_ref().map(|wanted| &*wanted.issuer);
        let found = match &state.revision {
            Some(revision) => Named::find(&issuers, &revision.issuer).map(|named| Named {
                test: revision.test,
                ..named
            }),
            None => Named::find(&issuers, wanted.unwrap_or_default()),
        };
        let Ok(named) = found else {
            return String::new();
        };
        match self.accounts.pardon(named).await {
            Ok(Some(refused)) => format!(
                ", and with it once more the account of issuer {}, which was refused: {refused}; other \
                 certificates of {0} that wait for it are tried in a day, or with `gatehouse cert retry`",
                named.name
            ),
            Ok(None) => String::new(),
            // Whatever that is, the attempt itself will meet it and tell.
            Err(error) => {
                tracing::warn!(issuer = named.name, %error, "the wait of an account was not ended");
                String::new()
            }
        }
    }

    /// When certificates for the names that are wanted were issued, as the authority counts them.
    fn issued_this_week(&self, flow: &Flow) -> Vec<Timestamp> {
        let (state, now) = (&flow.record.state, self.clock.now());
        let mut issued = match (&flow.wanted, &state.current) {
            (Some(wanted), _) => state.issued_for(&wanted.issuer, &wanted.names),
            (None, Some(current)) => state.issued_for(&current.issuer, &current.names),
            (None, None) => Vec::new(),
        };
        issued.retain(|at| *at <= now && between(*at, now) < WEEK);
        issued
    }

    async fn ask_for(&self, flow: &mut Flow, asked: Asked) -> Result<(), Refused> {
        if flow.wanted.is_none() && flow.record.state.phase == Phase::Tombstone {
            let target = flow.target();
            return Err(format!(
                "nothing asks for {target}, so it is kept for a while and then removed: let an Ingress \
                 ask for it"
            )
            .into());
        }
        let issuers = self.issuers.borrow().clone();
        let directory = flow.authority(&issuers);
        self.standing().ask_now(directory, self.clock.now());
        flow.record.state.asked = Some(asked);
        flow.record.state.attempts.commanded = true;
        if asked == Asked::Retry {
            let left = flow.record.state.cleanup.iter_mut();
            left.for_each(|leftover| leftover.next = None);
            self.hurry(flow);
        }
        flow.memo.rest_until = None;
        Ok(self.write(flow).await?)
    }

    /// Whoever asks for another try means what is to be revoked as well.
    fn hurry(&self, flow: &mut Flow) {
        let now = self.clock.now();
        for owed in &mut flow.record.state.revocations {
            owed.next = None;
            self.standing().ask_now(&owed.directory, now);
        }
    }

    /// Takes a certificate over that somebody else ordered.
    async fn import(&self, flow: &mut Flow, chain: &str, key: &Secret) -> Result<String, Refused> {
        let target = flow.target().clone();
        let mut fresh = imported(&target, chain, key, (self.clock.now(), flow.epoch))?;
        let current = fresh.state.current.as_ref();
        let not_after = current.map(|current| current.life.not_after);
        if let (Some(wish), Some(current)) = (&flow.wanted, current) {
            fits(current, wish)?;
        }
        // What is only not delivered yet may be the mistake that this one mends.
        let before = flow.record.state.phase;
        if before.is_awaited() && !may_be_given_up(&flow.record.state) {
            return Err(format!("a certificate for {target} is just being issued").into());
        }
        let uid = &flow.record.state.namespace_uid;
        fresh.state.namespace_uid.clone_from(uid);
        fresh.take_place_of(&flow.record);
        // Also takes what is left of an order from the board.
        if flow.wanted.is_some() || before.is_busy() {
            fresh.state.phase = Phase::Delivering;
        }
        let before = std::mem::replace(&mut flow.record, fresh);
        flow.memo.rest_until = None;
        if let Err(why) = self.write(flow).await {
            flow.record = before;
            return Err(why.into());
        }
        let until =
            not_after.map_or_else(String::new, |end| format!(", which is good until {end}"));
        Ok(match &flow.wanted {
            Some(wish) => format!(
                "{target} has the imported certificate{until}; issuer {} renews it in time",
                wish.issuer
            ),
            None => format!(
                "{target} keeps the imported certificate{until}; nothing asks for it yet, so it is \
                 removed after a while unless an Ingress does"
            ),
        })
    }

    async fn revoke(&self, flow: &mut Flow, reason: u8) -> Result<String, Refused> {
        let target = flow.target().clone();
        let issuers = self.issuers.borrow().clone();
        let none = || Refused::Said(format!("{target} has no certificate to revoke"));
        let state = flow.record.state.current.as_ref().ok_or_else(none)?;
        let material = flow.record.current.as_ref().ok_or_else(none)?;
        if state.issuer.is_empty() {
            return Err(format!(
                "{target} was imported and has no issuer here that could revoke it: revoke it with what \
                 ordered it"
            )
            .into());
        }
        let named = Named::find(&issuers, &state.issuer)?;
        let der = leaf::leaf_der(&material.chain).ok_or_else(none)?;
        let serial = leaf::serial_of(&material.chain).unwrap_or_default();
        let late = self.replaceable(flow).err();
        if let Some(why) = &late
            && reason != KEY_COMPROMISE
        {
            return Err(format!(
                "{why}, so {target} would be served revoked until then: revoke it later; a key that \
                 others know is revoked at once with --reason key-compromise"
            )
            .into());
        }
        match self.accounts.account(named).await {
            Err(NoAccount::Failed(failure)) if !passes(failure.class) => {
                return Err(failure.detail.into());
            }
            Err(NoAccount::Vault(error)) => return Err(error.to_string().into()),
            Ok(_) | Err(NoAccount::Failed(_)) => {}
        }
        let owed = Revocation {
            issuer: named.name.to_owned(),
            directory: named.directory().to_owned(),
            serial,
            certificate: Revocation::encoded(&der),
            reason,
            not_after: state.life.not_after,
            tries: 0,
            since: None,
            next: None,
            detail: None,
        };
        let before = flow.record.state.clone();
        note(flow, owed.clone())?;
        // Stored first: whatever happens now, it is asked for until there is an answer, and replaced.
        if let Err(why) = self.write(flow).await {
            flow.record.state = before;
            return Err(why.into());
        }
        let tried = self.try_to_revoke(flow, &owed, true).await;
        let answer = self.tried_to_revoke(flow, owed, tried, late);
        match self.write(flow).await {
            Ok(()) => answer.map_err(Refused::Said),
            Err(error) => {
                let answer = answer.map_err(|why| {
                    format!(
                        "{why}; it may be replaced and asked for all the same, because its record was \
                         not stored: {error}"
                    )
                });
                Err(Refused::SaidAndNotStored(answer, error))
            }
        }
    }

    /// Notes what came of a revocation, and says it. If its answer was lost it may have been done, so the
    /// certificate is replaced as if it was.
    fn tried_to_revoke(
        &self,
        flow: &mut Flow,
        mut owed: Revocation,
        tried: Tried,
        late: Option<String>,
    ) -> Result<String, String> {
        let target = flow.target().clone();
        let serial = owed.serial.clone();
        let all = &mut flow.record.state.revocations;
        all.retain(|other| other.certificate != owed.certificate);
        flow.memo.rest_until = None;
        let failure = match tried {
            Tried::Done => {
                has_revoked(flow, &serial);
                return Ok(match late {
                    _ if flow.wanted.is_none() => {
                        format!("{serial} is revoked; {}", not_replaced(flow))
                    }
                    Some(why) => format!(
                        "{serial} is revoked; {target} is replaced later, and served revoked until then: \
                         {why}"
                    ),
                    None => format!("{serial} is revoked; {target} is replaced now"),
                });
            }
            Tried::Refused(why) => {
                stays(flow, &owed);
                return Err(why);
            }
            Tried::Owed(failure) => failure,
        };
        self.owe(&mut owed, &failure);
        let next = owed.next.unwrap_or(owed.not_after);
        let end = owed.not_after;
        flow.record.state.revocations.push(owed);
        let then = match late {
            _ if flow.wanted.is_none() => not_replaced(flow),
            Some(why) => format!("{target} is replaced later either way: {why}"),
            None => format!("{target} is replaced now either way"),
        };
        let known = match failure.class {
            Class::Outage | Class::Transient => {
                format!("it is not known whether it is revoked: {}", failure.detail)
            }
            _ => format!("it is not revoked yet: {}", failure.detail),
        };
        Err(format!(
            "{known}; the authority is asked again at {next:.0}, and then until it answers or {serial} \
             ends at {end:.0}; {then}"
        ))
    }

    /// Whether another certificate would come now; the error says what forbids it, and until when.
    fn replaceable(&self, flow: &Flow) -> Result<(), String> {
        let Some(wanted) = &flow.wanted else {
            return Ok(());
        };
        let now = self.clock.now();
        let issued = self.issued_this_week(flow);
        let recent = issued.len();
        if recent >= PER_SET {
            let first = issued.iter().rev().nth(PER_SET - 1);
            let end = first.map_or(now, |first| later(*first, WEEK));
            return Err(format!(
                "{recent} certificates for these names this week: the authority refuses more before \
                 {end:.0}"
            ));
        }
        let issuers = self.issuers.borrow().clone();
        let named = Named::find(&issuers, &wanted.issuer);
        let directory = named.map_or("", Named::directory);
        let mut standing = self.standing();
        match standing.limited_until((&wanted.issuer, directory), &wanted.names, now) {
            Some((end, _)) => Err(format!("a limit of the authority holds until {end:.0}")),
            None => Ok(()),
        }
    }
}

/// Notes that the current certificate is to be revoked, and replaced for that. What was asked before of
/// the same one counts no longer.
fn note(flow: &mut Flow, owed: Revocation) -> Result<(), String> {
    let state = &mut flow.record.state;
    let all = &mut state.revocations;
    all.retain(|other| other.certificate != owed.certificate);
    if all.len() >= MOST_REVOCATIONS {
        return Err(format!(
            "{MOST_REVOCATIONS} revocations of {0} wait for an answer already: `gatehouse cert show {0}` \
             says why; revoke it when that is mended",
            state.target
        ));
    }
    all.push(owed);
    if let Some(current) = &mut state.current {
        current.revoked = true;
    }
    Ok(())
}

/// Why nothing comes in place of a certificate that nobody may have.
fn not_replaced(flow: &Flow) -> String {
    let target = flow.target();
    if flow.kept {
        format!(
            "{target} is asked for and refused, so it is not replaced: `gatehouse cert show {target}` says why"
        )
    } else {
        format!("nothing asks for {target}, so it is not replaced")
    }
}

/// Whether what stands in the way is over by itself.
fn passes(class: Class) -> bool {
    matches!(class, Class::Outage | Class::Transient | Class::Limited)
}

/// The reason for which a certificate is revoked at any price (RFC 5280, section 5.3.1).
const KEY_COMPROMISE: u8 = 1;

const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Commands at once.
const MOST: usize = 8;
