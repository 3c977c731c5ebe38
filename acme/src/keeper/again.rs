//! What is done with one certificate beside the keeper's loop.
//!
//! Invariants:
//! - A record that could not be stored is read again before any step is made of it: what is stored
//!   decides, not what was about to be.
//! - The loop never waits for any of it.

use jiff::Timestamp;

use crate::driver::{Driver, Flow, Memo};
use crate::events::{Event, What};
use crate::plan::Wanted;
use crate::record::Record;
use crate::schedule::later;
use crate::vault::{Key, VaultError};

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
        if stale {
            flow.memo = Memo::default();
            return self.read_again(flow).await;
        }
        match self.run(flow).await {
            Ok(()) => End::Rests,
            Err(error) => self.not_stored(flow, &error).await,
        }
    }

    /// The record could not be stored.
    pub(super) async fn not_stored(&self, flow: &mut Flow, error: &VaultError) -> End {
        let target = flow.target().clone();
        tracing::warn!(namespace = target.namespace, name = target.secret, %error, "record not stored");
        let what = What::Warning(error.to_string());
        // Nobody has to listen.
        drop(self.events.send(Event { target, what }));
        let end = self.read_again(flow).await;
        flow.memo.rest_until = Some(self.soon());
        end
    }

    async fn read_again(&self, flow: &mut Flow) -> End {
        let key = Key::Certificate(flow.target().clone());
        match self.vault.read(&key).await {
            Ok(Some(stored)) => match Record::from_entries(&stored.entries) {
                Ok(record) => {
                    flow.record = record;
                    flow.version = Some(stored.version);
                    End::Rests
                }
                Err(why) => strange(&key, &why),
            },
            Ok(None) => {
                let wanted = self.wishes.borrow().get(flow.target()).cloned();
                let Some(wanted) = wanted else {
                    return End::Gone;
                };
                self.put_again(flow, &wanted).await
            }
            Err(error) => {
                tracing::warn!(%key, %error, "record not read");
                flow.memo.rest_until = Some(self.soon());
                End::Unread
            }
        }
    }

    /// The record is gone although its certificate is wanted: somebody removed it. A certificate that
    /// is still in memory is stored again, so that it is not ordered anew.
    async fn put_again(&self, flow: &mut Flow, wanted: &Wanted) -> End {
        flow.version = None;
        if flow.record.current.is_none() {
            flow.record = Record::new(wanted, flow.epoch);
            return End::Rests;
        }
        flow.record.drop_revision();
        match self.write(flow).await {
            Ok(()) => End::Rests,
            Err(error) => {
                let key = Key::Certificate(flow.target().clone());
                tracing::warn!(%key, %error, "record not stored again");
                flow.memo.rest_until = Some(self.soon());
                End::Unread
            }
        }
    }

    fn soon(&self) -> Timestamp {
        later(self.clock.now(), AGAIN)
    }
}

/// From now on nothing is done with the record, and only the log has the reason.
fn strange(key: &Key, why: &str) -> End {
    tracing::error!(%key, error = why, "a record is left alone: run a newer program, or move it away");
    End::Strange
}

/// After a record could not be stored or read.
const AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);
