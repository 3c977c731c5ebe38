//! Nothing is going on: what has to begin, what has to be asked, what has to go.
//!
//! Invariants:
//! - A plan is stored with its key and CSR, and only after the target could be written and there is
//!   an account.
//! - A window is asked for only about the current certificate, and stored with it.
//! - While our clock and the authority's differ, nothing is planned.

use jiff::{SignedDuration, Timestamp};

use super::due::asks;
use super::fail::is_the_directorys;
use super::{Driver, Flow, Trouble, Turn, issuer};
use crate::accounts::Named;
use crate::ca::{Ca, Directory, Refusal, RenewalWindow, Step};
use crate::clock::SKEW;
use crate::events::What;
use crate::failure::{Class, Failure, Scope};
use crate::issuers::{Issuers, KeyKind};
use crate::leaf;
use crate::plan::Wanted;
use crate::record::{Ari, Asked, Current, Need, Next, Phase, Revision};
use crate::schedule::{
    Reason, Span, Window, between, earlier, later, next_check, next_check_after_failure, next_look,
};
use crate::secrets::Secret;

impl Driver {
    /// `Empty` and `Valid`.
    pub(super) async fn rest(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        // Before anything that takes time: nobody else's certificate waits for that.
        let wanted = flow.wanted.clone();
        if let Some(wanted) = &wanted {
            self.check_tenant(flow, wanted).await?;
        }
        let Some(wanted) = wanted else {
            if flow.kept {
                return self.keep(flow).await;
            }
            let state = &mut flow.record.state;
            state.until = Some(later(self.clock.now(), self.tombstone));
            state.asked = None;
            return self.enter(flow, Phase::Tombstone).await;
        };
        self.adopt(flow, &wanted).await?;
        let now = self.clock.now();
        if let Some(need) = need(flow, &wanted, now) {
            return match self.take_from_target(flow, &wanted, need).await? {
                Some(turn) => Ok(turn),
                None => self.begin(flow, &wanted, need).await,
            };
        }
        // What a person asked for needed no order: whatever fails from here on is no try of theirs.
        flow.record.state.asked = None;
        flow.record.state.attempts.commanded = false;
        // After what is wanted: a provider that is away holds no certificate.
        if self.has_to_clean(flow) {
            return self.clean(flow).await;
        }
        let due = |current: &Current| asks(current, now).is_some_and(|check| check <= now);
        if flow.record.state.current.as_ref().is_some_and(due) {
            return self.check_window(flow).await;
        }
        Ok(Turn::Rest)
    }

    /// Asked for and refused: nothing is ordered, and nothing is thrown away for what may be a slip.
    async fn keep(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        if flow.record.state.asked.take().is_some() {
            self.save(flow).await?;
        }
        Ok(Turn::Rest)
    }

    /// A namespace of the same name is another tenant: it inherits no certificate. Where namespaces
    /// are not looked at, nobody knows, and nothing is thrown away for that.
    pub(super) async fn check_tenant(
        &self,
        flow: &mut Flow,
        wanted: &Wanted,
    ) -> Result<(), Trouble> {
        if self.take_away(flow, wanted) {
            self.save(flow).await?;
        }
        Ok(())
    }

    /// The same without a write; whether there is something to write.
    pub(super) fn take_away(&self, flow: &mut Flow, wanted: &Wanted) -> bool {
        let record = &mut flow.record;
        let (known, now) = (&record.state.namespace_uid, &wanted.namespace_uid);
        if now.is_empty() || known == now {
            return false;
        }
        let mut taken = None;
        if wanted.is_of_another(known) {
            taken = record.current.take();
            record.previous = None;
            record.state.current = None;
            self.served.hide(&wanted.target);
        }
        record.state.namespace_uid.clone_from(now);
        if let Some(taken) = taken {
            let serial = leaf::serial_of(&taken.chain).unwrap_or_default();
            let text = format!(
                "certificate {serial} was ordered for another namespace of the same name, which was \
                 removed: it is dropped, and one for the namespace that there is now is ordered"
            );
            self.tell(flow, What::Warning(text));
        }
        true
    }

    /// An imported certificate that is good for what is wanted needs no order: it is renewed in time.
    async fn adopt(&self, flow: &mut Flow, wanted: &Wanted) -> Result<(), Trouble> {
        let state = &mut flow.record.state;
        let Some(current) = &mut state.current else {
            return Ok(());
        };
        if !current.is_imported() || !current.covers(&wanted.names) {
            return Ok(());
        }
        let issuers = self.issuers.borrow().clone();
        let directory = &issuer(&issuers, &wanted.issuer)?.spec.directory;
        current.spec_hash = wanted.hash();
        current.issuer.clone_from(&wanted.issuer);
        current.directory.clone_from(directory);
        current.ari.next_check = Some(self.clock.now());
        self.save(flow).await
    }

    /// Plans at the directory that is to be asked.
    async fn begin(&self, flow: &mut Flow, wanted: &Wanted, need: Need) -> Result<Turn, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let named = self.choose(flow, wanted, &issuers)?;
        match self.plan(flow, wanted, need, named).await {
            Err(Trouble::Failed(failure)) if named.test && is_the_directorys(failure.class) => {
                self.without_rehearsal(flow, &failure).await
            }
            planned => planned,
        }
    }

    /// Everything that has to be true before an order, then the plan.
    async fn plan(
        &self,
        flow: &mut Flow,
        wanted: &Wanted,
        need: Need,
        named: Named<'_>,
    ) -> Result<Turn, Trouble> {
        let now = self.clock.now();
        if let Some(until) = self.standing().away_until(named.directory(), now) {
            let mut failure =
                Failure::local(Class::Outage, format!("{} is away", named.directory()));
            failure.until = Some(until);
            return Err(failure.into());
        }
        let place = (named.name, named.directory());
        let limited = self.standing().limited_until(place, &wanted.names, now);
        if let Some((until, scope)) = limited {
            if named.test {
                return Err(Failure::local(Class::Limited, "a limit of it holds").into());
            }
            return self.forbidden(flow, until, scope).await;
        }
        let preflight = self.projector.preflight(&wanted.target);
        if let Err(why) = within(preflight).await {
            let detail = format!("Secret {} cannot be written: {why}", wanted.target);
            return Err(Failure::local(Class::Storage, detail).into());
        }
        let (authority, account) = match self.accounts.account(named).await {
            Ok(found) => found,
            Err(error) => {
                let trouble = Trouble::from(error);
                return Err(self.with_directory(trouble, named, now));
            }
        };
        let directory = authority.directory().await;
        let directory = directory.map_err(|refusal| self.refused(&refusal, named, now))?;
        if self.check_clock(authority.as_ref()).is_err() {
            // What was read may be a kept answer, or from before the machine slept.
            let looked = authority.look().await;
            looked.map_err(|refusal| self.refused(&refusal, named, now))?;
            self.check_clock(authority.as_ref())?;
        }
        check_profile(wanted, named, &directory)?;
        let key = self.key(flow, wanted.key, named.spec.reuse_key).await?;
        let csr = leaf::csr(&key, &wanted.names).map_err(|why| Failure::local(Class::Spec, why))?;
        let state = &mut flow.record.state;
        let replaces = state.current.as_ref().filter(|current| {
            directory.renewal_info
                && current.account == account.url
                && !current.ari.refused
                && current.life.not_after > now
                && current.names.iter().any(|name| wanted.names.contains(name))
        });
        state.revision = Some(Revision {
            spec_hash: wanted.hash(),
            names: wanted.names.clone(),
            issuer: named.name.to_owned(),
            directory: named.directory().to_owned(),
            test: named.test,
            account: account.url,
            profile: wanted.profile.clone(),
            key: wanted.key,
            kinds: wanted.challenges.clone(),
            need,
            replaces: replaces
                .filter(|_| !named.test)
                .map(|current| current.life.cert_id.clone()),
            order: None,
            planned_at: now,
            ordered_at: None,
            presented_at: None,
            gone: 0,
        });
        state.rev += 1;
        state.asked = None;
        state.wait = None;
        flow.record.next = Some(Next { key, csr });
        flow.record.rejected = None;
        self.enter(flow, Phase::Planned).await
    }

    /// The issuer that is wanted, its test directory after a failed validation, or a fallback while
    /// it has been away for long and a certificate is missing or nearly over.
    pub(super) fn choose<'a>(
        &self,
        flow: &Flow,
        wanted: &Wanted,
        issuers: &'a Issuers,
    ) -> Result<Named<'a>, Failure> {
        let first = issuer(issuers, &wanted.issuer)?;
        let spec = first.spec;
        let state = &flow.record.state;
        let now = self.clock.now();
        let urgent = state
            .current
            .as_ref()
            .is_none_or(|current| current.life.is_ending(now));
        let standing = self.standing();
        if urgent && standing.away_for(&spec.directory, now) >= FALLBACK_AFTER {
            for other in &spec.fallback {
                let other = issuer(issuers, other)?;
                if standing.away_until(other.directory(), now).is_none() {
                    return Ok(other);
                }
            }
        }
        let attempts = &state.attempts;
        let test = spec.test_directory.is_some()
            && attempts.class == Some(Class::Validation)
            && attempts.n > 0
            && !attempts.rehearsed;
        Ok(Named { test, ..first })
    }

    /// An outage met before there is a revision opens the circuit of the directory that was asked, and a
    /// limit holds for all who ask it.
    fn with_directory(&self, trouble: Trouble, named: Named<'_>, now: Timestamp) -> Trouble {
        match trouble {
            Trouble::Failed(mut failure) if failure.class == Class::Outage => {
                failure.until = Some(self.standing().outage(named.directory(), &failure, now));
                failure.into()
            }
            Trouble::Failed(failure) if failure.class == Class::Limited => {
                let (place, since) = ((named.name, named.directory()), Some(now));
                if let Some(until) = failure.wait(1, now, None, "") {
                    let span = Span { since, until };
                    self.standing().limit(place, Scope::Account, &[], span);
                }
                failure.into()
            }
            // The wait is stored with the account.
            Trouble::Failed(mut failure) if failure.class == Class::Issuer => {
                failure.retry_after = failure.retry_after.or(Some(SignedDuration::ZERO));
                failure.into()
            }
            other => other,
        }
    }

    fn refused(&self, refusal: &Refusal, named: Named<'_>, now: Timestamp) -> Trouble {
        let failure = Failure::of(refusal, false);
        self.with_directory(failure.into(), named, now)
    }

    /// A wrong clock must not start a wave of renewals.
    fn check_clock(&self, authority: &dyn Ca) -> Result<(), Failure> {
        let Some((date, read)) = authority.date() else {
            return Ok(());
        };
        let age = SignedDuration::try_from(read.elapsed()).unwrap_or_default();
        let theirs = later(date, age);
        let apart = between(theirs, self.clock.now()).abs();
        if apart <= SKEW {
            return Ok(());
        }
        let mut failure = Failure::local(
            Class::Local,
            format!(
                "the clock of this machine and the authority's differ by {} min: nothing is \
                 ordered until they agree",
                apart.as_mins()
            ),
        );
        failure.retry_after = Some(SignedDuration::from_mins(5));
        Err(failure)
    }

    async fn key(&self, flow: &Flow, kind: KeyKind, reuse: bool) -> Result<Secret, Failure> {
        let state = &flow.record.state;
        // A key that was revoked may be known to others.
        let same = state
            .current
            .as_ref()
            .is_some_and(|current| current.key == kind && !current.revoked);
        if let (true, true, Some(current)) = (reuse, same, &flow.record.current) {
            return Ok(current.key.clone());
        }
        let made = tokio::task::spawn_blocking(move || leaf::generate(kind)).await;
        made.unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|why| Failure::local(Class::Local, why))
    }

    /// Asks when the current certificate should be renewed.
    async fn check_window(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let now = self.clock.now();
        let Some(current) = flow.record.state.current.clone() else {
            return Ok(Turn::Rest);
        };
        let answer = self.ask_window(flow, &current).await;
        let mut warning = None;
        if let Some(stored) = &mut flow.record.state.current {
            match answer {
                Ok(Heard::Window(window)) => {
                    stored.ari.failures = 0;
                    stored.ari.next_check = Some(next_check(now, window.retry_after));
                    let sensible = Window::new(window.start, window.end);
                    warning = unusual(stored.ari.window, sensible, window.explanation.as_deref());
                    stored.ari.window = sensible;
                    stored.ari.url = window.explanation;
                }
                Ok(Heard::NotOffered) => {
                    stored.ari = without_window(&stored.ari, Some(next_look(now)));
                }
                Ok(Heard::Unknown) => stored.ari = without_window(&stored.ari, None),
                Err(trouble) => {
                    stored.ari.failures = stored.ari.failures.saturating_add(1);
                    let pause = pause(&trouble, now);
                    let next = next_check_after_failure(now, stored.ari.failures, pause);
                    stored.ari.next_check = Some(next);
                }
            }
            let (renew_at, reason) = stored.life.renewal(stored.ari.window);
            stored.renew_at = renew_at;
            stored.renew_reason = reason;
            // Nobody asks about what is over, or has no identifier.
            if stored.life.not_after <= now || stored.life.cert_id.starts_with('.') {
                stored.ari.next_check = None;
            }
        }
        if let Some(text) = warning {
            self.tell(flow, What::Warning(text));
        }
        self.save(flow).await?;
        Ok(Turn::Go)
    }

    /// The answer. Nobody is asked if the issuer is gone or has another directory by now.
    async fn ask_window(&self, flow: &Flow, current: &Current) -> Result<Heard, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let Ok(named) = Named::find(&issuers, &current.issuer) else {
            return Ok(Heard::NotOffered);
        };
        if named.directory() != current.directory || current.life.cert_id.starts_with('.') {
            return Ok(Heard::NotOffered);
        }
        let now = self.clock.now();
        let (place, windows) = (named.directory(), windows_of(named.directory()));
        let away = [place, &windows].map(|place| self.standing().away_until(place, now));
        if let Some(until) = away.into_iter().flatten().max() {
            let mut failure = Failure::local(Class::Outage, "away");
            failure.until = Some(until);
            return Err(failure.into());
        }
        let asked = self.accounts.account(named).await;
        let (authority, account) =
            asked.map_err(|error| self.with_directory(error.into(), named, now))?;
        let directory = authority.directory().await;
        let directory = directory.map_err(|refusal| self.refused(&refusal, named, now))?;
        if !directory.renewal_info {
            return Ok(Heard::NotOffered);
        }
        let point = crate::journal::Point::Asking(Step::RenewalInfo);
        self.journal.reached(point, flow.target()).await;
        let window = authority
            .renewal_info(&account, &current.life.cert_id)
            .await;
        let mut standing = self.standing();
        let refusal = match window {
            Ok(window) => {
                standing.answered(&windows);
                return Ok(Heard::Window(window));
            }
            Err(refusal) => refusal,
        };
        // Who gave a window before has issued it; and without a problem it may be an edge that answers.
        let foreign = current.is_taken_over() && current.ari.window.is_none();
        if foreign && refusal.problem().is_some() && refusal.status() == Some(404) {
            standing.answered(&windows);
            return Ok(Heard::Unknown);
        }
        let mut failure = Failure::of(&refusal, false);
        // Else it is about this certificate, and others may have a window.
        if refusal
            .status()
            .is_none_or(|status| status == 429 || status >= 500)
        {
            failure.until = Some(standing.outage(&windows, &failure, now));
        }
        Err(failure.into())
    }

    /// `Tombstone`: revived if asked for again, removed when it is over.
    pub(super) async fn tombstone(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        if flow.wanted.is_some() || flow.kept {
            flow.record.state.until = None;
            let phase = flow.record.rest_phase();
            return self.enter(flow, phase).await;
        }
        // Nothing can be renewed or tried for nobody.
        if flow.record.state.asked.take().is_some() {
            self.save(flow).await?;
        }
        if self.has_to_clean(flow) {
            return self.clean(flow).await;
        }
        let over = flow
            .record
            .state
            .until
            .is_none_or(|until| until <= self.clock.now());
        let over = over && flow.record.state.revocations.is_empty();
        if let (true, Some(version)) = (over, flow.version.clone()) {
            for leftover in &flow.record.state.cleanup {
                let fqdn = &leftover.record.fqdn;
                let text = format!("TXT record {fqdn} stays: remove it by hand");
                self.tell(flow, What::Warning(text));
            }
            let key = crate::vault::Key::Certificate(flow.target().clone());
            self.vault.remove(&key, &version).await?;
            flow.version = None;
            self.served.hide(flow.target());
        }
        Ok(Turn::Rest)
    }
}

/// What an authority says about the renewal of a certificate.
enum Heard {
    Window(RenewalWindow),
    /// It cannot be asked; whether it can is looked at again.
    NotOffered,
    /// It does not know the certificate, which another authority issued: it is not asked again.
    Unknown,
}

/// What is left without a window.
fn without_window(before: &Ari, next_check: Option<Timestamp>) -> Ari {
    Ari {
        next_check,
        refused: before.refused,
        ..Ari::default()
    }
}

fn need(flow: &Flow, wanted: &Wanted, now: Timestamp) -> Option<Need> {
    let state = &flow.record.state;
    let (Some(current), Some(_)) = (&state.current, &flow.record.current) else {
        return Some(Need::New);
    };
    if current.spec_hash != wanted.hash() {
        return Some(Need::Changed);
    }
    if state.asked == Some(Asked::Renew) || current.revoked {
        return Some(Need::Asked);
    }
    (current.renew_at <= now).then_some(Need::Renewal(current.renew_reason))
}

fn check_profile(wanted: &Wanted, named: Named<'_>, directory: &Directory) -> Result<(), Failure> {
    let Some(profile) = &wanted.profile else {
        return Ok(());
    };
    if directory.profiles.iter().any(|(name, _)| name == profile) {
        return Ok(());
    }
    let offered: Vec<&str> = directory
        .profiles
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let offered = if offered.is_empty() {
        "no profiles".to_owned()
    } else {
        offered.join(", ")
    };
    let detail = format!(
        "issuer {} offers no profile {profile:?}; it offers {offered}",
        named.name
    );
    Err(Failure::local(Class::Spec, detail))
}

/// In place of a directory: windows may be away alone, and orders do not wait for them.
fn windows_of(directory: &str) -> String {
    format!("{directory}#windows")
}

/// For how long nobody asks for a window.
fn pause(trouble: &Trouble, now: Timestamp) -> SignedDuration {
    let Trouble::Failed(failure) = trouble else {
        return SignedDuration::ZERO;
    };
    let until = failure.until.map(|until| between(now, until));
    until.or(failure.retry_after).unwrap_or_default()
}

/// An authority that explains its window, or moves it far ahead, wants people to know.
fn unusual(old: Option<Window>, new: Option<Window>, page: Option<&str>) -> Option<String> {
    let moved = match (old, new) {
        (Some(old), Some(new)) => new.start < earlier(old.start, FAR),
        _ => false,
    };
    match (moved, page) {
        (_, Some(page)) => Some(format!("the authority asks for an early renewal: {page}")),
        (true, None) => Some("the authority moved the renewal ahead by more than a day".to_owned()),
        (false, None) => None,
    }
}

/// No part outside may hold a flow.
pub(super) async fn within<T>(call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let limit = std::time::Duration::from_secs(60);
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or_else(|_| Err("no answer within 60 s".to_owned()))
}

/// The moment of a certificate that was just stored.
pub(super) fn first_renewal(current: &mut Current, now: Timestamp) {
    let (renew_at, reason) = current.life.renewal(None);
    current.renew_at = renew_at;
    current.renew_reason = match reason {
        Reason::Backstop => Reason::Backstop,
        _ => Reason::Lifetime,
    };
    current.ari.next_check = Some(now);
}

const FALLBACK_AFTER: SignedDuration = SignedDuration::from_hours(1);
const FAR: SignedDuration = SignedDuration::from_hours(24);
