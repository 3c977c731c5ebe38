//! What is done with one certificate beside the keeper's loop.
//!
//! Invariants:
//! - A record that could not be stored is read again before any step is made of it: what is stored
//!   decides, not what was about to be.
//! - After that nobody outside is asked before the vault has taken the record as it is, and each time
//!   later: what cannot be stored would be asked for again and again.
//! - The loop never waits for any of it.

use jiff::{SignedDuration, Timestamp};

use crate::driver::{Driver, Flow};
use crate::events::{Event, What};
use crate::plan::{Target, Wanted};
use crate::record::Record;
use crate::schedule::later;
use crate::troubles::Kind;
use crate::vault::{Key, VaultError};

use super::intake::strange;

/// What became of a certificate that was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It rests until it is due.
    Rests,
    /// Its record has to be read again before anything else.
    Unread,
    /// Its record is gone, and nothing asks for it.
    Gone,
    /// Its record is one that this program does not understand.
    Strange,
}

impl Driver {
    /// Works on a certificate until it rests; a stale one is only read again.
    pub(super) async fn work(&self, flow: &mut Flow, stale: bool) -> End {
        if std::mem::take(&mut flow.memo.doubted) && !stale {
            // What it tells is tried again with a later look.
            drop(self.keep_stored(flow).await);
            return End::Rests;
        }
        if stale {
            flow.memo.forget();
            return self.read_again(flow).await;
        }
        if flow.memo.unstored > 0
            && flow.version.is_some()
            && let Err(error) = self.write(flow).await
        {
            let end = self.not_stored(flow, &error).await;
            flow.memo.rest_until = flow.memo.rest_until.min(Some(self.after(LONGEST_LOOK)));
            return end;
        }
        match self.run(flow).await {
            Ok(()) => {
                flow.memo.unstored = 0;
                self.complain(flow.target(), None);
                End::Rests
            }
            Err(error) => self.not_stored(flow, &error).await,
        }
    }

    /// Who lost the lead has nothing to mend, nor who was overtaken.
    fn complain_of(&self, target: &Target, error: &VaultError) {
        if matches!(error, VaultError::Unavailable(_) | VaultError::Damaged(_)) {
            self.complain(target, Some(error.to_string()));
        } else {
            tracing::warn!(namespace = target.namespace, name = target.secret, %error, "record not stored");
        }
    }

    /// Why the record of a certificate cannot be stored, or that it can.
    pub(super) fn complain(&self, target: &Target, why: Option<String>) {
        let complaints = &self.served.complaints;
        complaints.put(Kind::Write, Some(target), why);
    }

    /// The record could not be stored.
    pub(super) async fn not_stored(&self, flow: &mut Flow, error: &VaultError) -> End {
        let target = flow.target().clone();
        self.complain_of(&target, error);
        let what = What::Warning(error.to_string());
        // Nobody has to listen.
        drop(self.events.send(Event { target, what }));
        let grown = doubled(flow.memo.unstored);
        flow.memo.unstored = flow.memo.unstored.saturating_add(1);
        let end = self.read_again(flow).await;
        if end != End::Unread {
            flow.memo.rest_until = Some(self.after(grown));
        }
        end
    }

    async fn read_again(&self, flow: &mut Flow) -> End {
        let key = Key::Certificate(flow.target().clone());
        match self.vault.read(&key).await {
            Ok(Some(stored)) => match Record::from_entries(&stored.entries) {
                Ok(record) => {
                    flow.record = record;
                    flow.version = Some(stored.version);
                    flow.memo.unread = 0;
                    End::Rests
                }
                Err(why) => self.left_alone(flow, strange(&self.vault.place(&key), &why)),
            },
            // Nothing may take its place.
            Err(VaultError::Damaged(why)) => self.left_alone(flow, why),
            Ok(None) => {
                let wanted = self.wishes.borrow().get(flow.target()).cloned();
                let Some(wanted) = wanted else {
                    return End::Gone;
                };
                self.put_again(flow, &wanted).await
            }
            Err(error) => {
                tracing::debug!(%key, %error, "record not read");
                self.complain_of(flow.target(), &error);
                let grown = doubled(flow.memo.unread);
                flow.memo.unread = flow.memo.unread.saturating_add(1);
                flow.memo.rest_until = Some(self.after(grown.min(LONGEST_LOOK)));
                End::Unread
            }
        }
    }

    /// Until somebody mends the record or removes it.
    fn left_alone(&self, flow: &Flow, why: String) -> End {
        self.complain(flow.target(), None);
        let complaints = &self.served.complaints;
        complaints.put(Kind::Read, Some(flow.target()), Some(why));
        End::Strange
    }

    /// The record is gone although its certificate is wanted: somebody removed it. What is still in memory
    /// is stored again, so that nothing is ordered anew: the certificate, and an order past the point of
    /// return with its key.
    async fn put_again(&self, flow: &mut Flow, wanted: &Wanted) -> End {
        flow.version = None;
        let record = &mut flow.record;
        let brings = record.state.phase.is_past_return() && record.state.revision.is_some();
        if !brings && record.current.is_none() {
            let mut fresh = Record::new(wanted, flow.epoch);
            fresh.take_place_of(record);
            *record = fresh;
            return End::Rests;
        }
        if !brings {
            record.drop_revision();
        }
        match self.write(flow).await {
            Ok(()) => End::Rests,
            Err(error) => {
                let key = Key::Certificate(flow.target().clone());
                tracing::debug!(%key, %error, "record not stored again");
                self.complain_of(flow.target(), &error);
                flow.memo.rest_until = Some(self.after(AGAIN));
                End::Unread
            }
        }
    }

    /// The record of a certificate that is wanted, or kept, and gone is stored again as it is here, with an order that
    /// is under way; what else became of it is met by the next write.
    pub(super) async fn keep_stored(&self, flow: &mut Flow) -> Result<(), VaultError> {
        let key = Key::Certificate(flow.target().clone());
        let wanted = self.wishes.borrow().contains_key(flow.target());
        if !(wanted || flow.kept) || !flow.is_stored() || !self.vault.leads(flow.epoch) {
            return Ok(());
        }
        match self.vault.read(&key).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.complain(flow.target(), None);
                return Ok(());
            }
            Err(error) => {
                self.complain_of(flow.target(), &error);
                return Ok(());
            }
        }
        let version = flow.version.take();
        if let Err(error) = self.write(flow).await {
            flow.version = version;
            self.complain_of(flow.target(), &error);
            return Err(error);
        }
        self.complain(flow.target(), None);
        let place = self.vault.place(&key);
        let text = format!(
            "its record {place} was removed or damaged while this process runs; it is stored again, so that \
             nothing is ordered anew: `gatehouse cert renew` replaces the certificate"
        );
        self.tell(flow, What::Warning(text));
        Ok(())
    }

    fn after(&self, pause: SignedDuration) -> Timestamp {
        later(self.clock.now(), pause)
    }
}

/// Why a command was not obeyed, for who gave it.
pub(super) fn said(error: &VaultError) -> String {
    match error {
        VaultError::Conflict(_) => {
            format!("{error} meanwhile, and was read again: ask once more")
        }
        _ => error.to_string(),
    }
}

/// The pause after `times` failures before this one.
fn doubled(times: u32) -> SignedDuration {
    AGAIN * 2_i32.pow(times.min(MOST_DOUBLED))
}

/// After a record could not be stored or read; twice as long each time, up to 17 minutes.
const AGAIN: SignedDuration = SignedDuration::from_secs(2);
const MOST_DOUBLED: u32 = 9;

/// After the vault did not even take what it has: nobody outside is asked for that.
const LONGEST_LOOK: SignedDuration = SignedDuration::from_secs(60);
