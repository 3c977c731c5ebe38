//! What people ask a keeper for.
//!
//! Invariants:
//! - An answer is a sentence; a refusal says what to do instead.
//! - Only who leads acts; a wish is stored before it is confirmed.

use super::{Ask, Command, Work};
use crate::accounts::{Named, NoAccount};
use crate::driver::{Flow, Memo};
use crate::import::imported;
use crate::leaf;
use crate::pace::PER_SET;
use crate::plan::Target;
use crate::record::{Asked, Phase, set_of};
use crate::schedule::between;
use crate::secrets::Secret;
use crate::vault::Key;
use jiff::SignedDuration;

impl Work {
    pub(super) async fn answer(&mut self, ask: Ask) {
        // Who asked may be gone.
        match ask {
            Ask::Certificate(target, command, reply) => {
                drop(reply.send(self.act(&target, &command).await));
            }
            Ask::Rotate(issuer, reply) => drop(reply.send(self.rotate(&issuer).await)),
        }
    }

    /// Another key for an account. Nothing may be under way: the answers of challenges hang on it.
    async fn rotate(&mut self, issuer: &str) -> Result<String, String> {
        self.leads()?;
        let issuers = self.issuers.borrow().clone();
        let named = Named::find(&issuers, issuer)?;
        if !self.running.is_empty() || self.slots.has_answers() {
            return Err(format!(
                "certificates are being ordered, and their challenges are answered with the key of \
                 the account: rotate the key of {issuer} again in a minute"
            ));
        }
        match self.driver.accounts.rotate(named).await {
            Ok(url) => Ok(format!(
                "the account {url} of issuer {issuer} has another key; the old one is worth nothing"
            )),
            Err(NoAccount::Failed(failure)) => Err(format!(
                "the key of issuer {issuer} was not changed: {}",
                failure.detail
            )),
            Err(NoAccount::Vault(error)) => Err(error.to_string()),
        }
    }

    fn leads(&self) -> Result<(), String> {
        match self.epoch {
            Some(_) => Ok(()),
            None => Err("this replica does not lead: ask the one that does".to_owned()),
        }
    }

    async fn act(&mut self, target: &Target, command: &Command) -> Result<String, String> {
        self.leads()?;
        if self.slots.is_busy(target) {
            return Err(format!("{target} is being worked on: see its report"));
        }
        if let Command::Import { chain, key } = command {
            return self.import(target, chain, key).await;
        }
        if let Command::Revoke { reason } = command {
            return self.revoke(target, *reason).await;
        }
        let now = self.now();
        let Some(flow) = self.slots.idle_mut(target) else {
            return Err(format!("there is no certificate {target}"));
        };
        let (asked, said) = match command {
            Command::Retry => (Asked::Retry, format!("{target} is tried now")),
            Command::Renew { force } => {
                let week = SignedDuration::from_hours(7 * 24);
                let issued = flow.record.state.issued.iter();
                let recent = issued.filter(|at| between(**at, now) < week).count();
                if recent + 1 >= PER_SET && !*force {
                    return Err(format!(
                        "{recent} certificates for these names this week: one more may be the last \
                         until next week; repeat with --force if it has to be"
                    ));
                }
                if recent >= PER_SET {
                    return Err(format!(
                        "{recent} certificates for these names this week: the authority refuses more"
                    ));
                }
                (Asked::Renew, format!("{target} is renewed now"))
            }
            // Answered above.
            Command::Import { .. } | Command::Revoke { .. } => {
                return Err("nothing to do".to_owned());
            }
        };
        let driver = std::sync::Arc::clone(&self.driver);
        let Some(flow) = self.slots.idle_mut(target) else {
            return Err(format!("there is no certificate {target}"));
        };
        flow.record.state.asked = Some(asked);
        flow.memo.rest_until = None;
        store(&driver, flow).await?;
        Ok(said)
    }

    /// Takes a certificate over that somebody else ordered.
    async fn import(
        &mut self,
        target: &Target,
        chain: &str,
        key: &Secret,
    ) -> Result<String, String> {
        let (Some(epoch), now) = (self.epoch, self.now()) else {
            return Err("this replica does not lead: ask the one that does".to_owned());
        };
        let mut fresh = imported(target, chain, key, (now, epoch))?;
        let not_after = fresh
            .state
            .current
            .as_ref()
            .map(|current| current.life.not_after);
        let driver = std::sync::Arc::clone(&self.driver);
        let wishes = self.wishes.borrow().clone();
        let wish = wishes.get(target);
        if let (Some(wish), Some(current)) = (wish, &fresh.state.current)
            && !current.covers(&wish.names)
        {
            return Err(format!(
                "the certificate is for {}, and {target} is wanted for {}: import one that has all \
                 of these names",
                set_of(&current.names),
                set_of(&wish.names)
            ));
        }
        if let Some(flow) = self.slots.idle_mut(target) {
            if flow.record.state.phase.is_past_return() {
                return Err(format!("a certificate for {target} is just being issued"));
            }
            fresh
                .state
                .namespace_uid
                .clone_from(&flow.record.state.namespace_uid);
            fresh.take_place_of(&flow.record);
            if flow.wanted.is_some() {
                fresh.state.phase = Phase::Delivering;
            }
            let before = std::mem::replace(&mut flow.record, fresh);
            flow.memo.rest_until = None;
            if let Err(why) = store(&driver, flow).await {
                flow.record = before;
                return Err(why);
            }
            driver.served.show(&flow.record, flow.wanted.as_ref());
        } else {
            let mut flow = Flow {
                record: fresh,
                version: None,
                wanted: wish.cloned(),
                epoch,
                memo: Memo::default(),
            };
            store(&driver, &mut flow).await?;
            driver.served.show(&flow.record, flow.wanted.as_ref());
            self.slots.insert(flow);
        }
        let until =
            not_after.map_or_else(String::new, |end| format!(", which is good until {end}"));
        Ok(match wish {
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

    async fn revoke(&mut self, target: &Target, reason: u8) -> Result<String, String> {
        let driver = std::sync::Arc::clone(&self.driver);
        let issuers = self.issuers.borrow().clone();
        let none = || format!("{target} has no certificate to revoke");
        let flow = self.slots.idle_mut(target).ok_or_else(none)?;
        let state = flow.record.state.current.as_mut().ok_or_else(none)?;
        let material = flow.record.current.as_ref().ok_or_else(none)?;
        let named = Named::find(&issuers, &state.issuer)?;
        let der = leaf::leaf_der(&material.chain).ok_or_else(none)?;
        let serial = leaf::serial_of(&material.chain).unwrap_or_default();
        let (authority, account) = match driver.accounts.account(named).await {
            Ok(found) => found,
            Err(NoAccount::Failed(failure)) => return Err(failure.detail),
            Err(NoAccount::Vault(error)) => return Err(error.to_string()),
        };
        // Stored first: whatever happens now, it is replaced.
        state.revoked = true;
        if let Err(why) = store(&driver, flow).await {
            mark(flow, false);
            return Err(why);
        }
        match authority.revoke(&account, &der, reason).await {
            Ok(()) => {}
            Err(refusal) if refusal.is("alreadyRevoked") => {}
            Err(refusal) => {
                mark(flow, false);
                store(&driver, flow).await?;
                return Err(refusal.sentence());
            }
        }
        flow.memo.rest_until = None;
        Ok(format!("{serial} is revoked; {target} is replaced now"))
    }
}

/// Notes whether the current certificate has to be replaced because it is revoked.
fn mark(flow: &mut Flow, revoked: bool) {
    if let Some(current) = &mut flow.record.state.current {
        current.revoked = revoked;
    }
}

async fn store(driver: &crate::driver::Driver, flow: &mut Flow) -> Result<(), String> {
    let entries = flow.record.to_entries()?;
    let key = Key::Certificate(flow.target().clone());
    let version = driver
        .vault
        .write(&key, flow.version.as_ref(), &entries)
        .await;
    flow.version = Some(version.map_err(|error| error.to_string())?);
    Ok(())
}
