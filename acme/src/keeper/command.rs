//! What people ask a keeper for.
//!
//! Invariants:
//! - An answer is a sentence; a refusal says what to do instead.
//! - Only who leads acts; a wish is stored before it is confirmed.

use super::{Ask, Command, Work};
use crate::accounts::{Named, NoAccount};
use crate::driver::Flow;
use crate::leaf;
use crate::pace::PER_SET;
use crate::plan::Target;
use crate::record::Asked;
use crate::schedule::between;
use crate::vault::Key;
use jiff::SignedDuration;

impl Work {
    pub(super) async fn answer(&mut self, ask: Ask) {
        let answer = self.act(&ask.target, &ask.command).await;
        // Who asked may be gone.
        drop(ask.reply.send(answer));
    }

    async fn act(&mut self, target: &Target, command: &Command) -> Result<String, String> {
        if self.epoch.is_none() {
            return Err("this replica does not lead: ask the one that does".to_owned());
        }
        if self.slots.is_busy(target) {
            return Err(format!("{target} is being worked on: see its report"));
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
            Command::Revoke { reason } => {
                let serial = self.revoke(target, *reason).await?;
                (
                    Asked::Renew,
                    format!("{serial} is revoked; {target} is replaced now"),
                )
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

    async fn revoke(&mut self, target: &Target, reason: u8) -> Result<String, String> {
        let driver = std::sync::Arc::clone(&self.driver);
        let issuers = self.issuers.borrow().clone();
        let none = || format!("{target} has no certificate to revoke");
        let flow = self.slots.idle_mut(target).ok_or_else(none)?;
        let state = flow.record.state.current.as_ref().ok_or_else(none)?;
        let material = flow.record.current.as_ref().ok_or_else(none)?;
        let named = Named::find(&issuers, &state.issuer)?;
        let der = leaf::leaf_der(&material.chain).ok_or_else(none)?;
        let (authority, account) = match driver.accounts.account(named).await {
            Ok(found) => found,
            Err(NoAccount::Failed(failure)) => return Err(failure.detail),
            Err(NoAccount::Vault(error)) => return Err(error.to_string()),
        };
        match authority.revoke(&account, &der, reason).await {
            Ok(()) => {}
            Err(refusal) if refusal.is("alreadyRevoked") => {}
            Err(refusal) => return Err(refusal.sentence()),
        }
        Ok(leaf::serial_of(&material.chain).unwrap_or_default())
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
