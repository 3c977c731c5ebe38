//! Challenges that are published, for whoever answers them: every replica.
//!
//! Invariants:
//! - No private key travels: HTTP-01 needs a thumbprint, TLS-ALPN-01 a digest.
//! - A token is of the characters that RFC 8555 allows before anybody echoes it.
//! - The leader alone writes; what it published is stored before the authority is told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::ca::ChallengeKind;
use crate::issuers::{Http01, Issuers};
use crate::names::Name;
use crate::plan::Target;
use crate::secrets::{Entries, Secret};
use crate::vault::{Key, Vault, VaultError, Version};

/// What is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Board {
    /// Challenges, by certificate.
    pub entries: Vec<Posted>,
    /// Thumbprints of accounts, and which tokens they answer, by issuer.
    pub accounts: BTreeMap<String, Thumbprint>,
}

/// How an account answers HTTP-01.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thumbprint {
    /// What follows the dot.
    pub thumbprint: String,
    /// Which tokens.
    pub answers: Http01,
}

/// One published challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Posted {
    /// Certificate that it is for.
    pub target: Target,
    /// Name that it proves.
    pub name: Name,
    /// `http-01` or `tls-alpn-01`.
    #[serde(rename = "type")]
    pub kind: ChallengeKind,
    /// The token, for HTTP-01.
    pub token: String,
    /// Body of the answer to HTTP-01; hexadecimal digest for TLS-ALPN-01.
    pub answer: String,
}

impl Board {
    /// Digest for a server name of a TLS-ALPN-01 handshake.
    pub fn tls_digest(&self, server_name: &str) -> Option<[u8; 32]> {
        let asked = server_name.to_ascii_lowercase();
        let entry = self.entries.iter().find(|entry| {
            entry.kind == ChallengeKind::TlsAlpn01
                && entry.name.server_name().as_deref() == Some(&asked)
        })?;
        from_hex(&entry.answer)
    }
}

/// Digest as text.
pub(crate) fn to_hex(digest: &[u8; 32]) -> String {
    digest
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing into a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// The leader's pen: changes the board, stores it, shows it.
pub(crate) struct Pen {
    vault: Arc<dyn Vault>,
    shown: watch::Sender<Arc<Board>>,
    read: Mutex<Read>,
}

/// Whether the stored board was read, and which version there was.
enum Read {
    No,
    Yes(Option<Version>),
}

impl Pen {
    pub(crate) fn new(vault: Arc<dyn Vault>, shown: watch::Sender<Arc<Board>>) -> Self {
        Self {
            vault,
            shown,
            read: Mutex::new(Read::No),
        }
    }

    /// The board as it is stored.
    pub(crate) fn shown(&self) -> Arc<Board> {
        self.shown.borrow().clone()
    }

    /// Forgets what was read: another one may have written.
    pub(crate) async fn forget(&self) {
        *self.read.lock().await = Read::No;
    }

    /// Replaces the entries of one certificate.
    pub(crate) async fn post(
        &self,
        target: &Target,
        entries: Vec<Posted>,
    ) -> Result<(), VaultError> {
        self.change(|board| {
            board.entries.retain(|entry| entry.target != *target);
            board.entries.extend(entries);
        })
        .await
    }

    /// Makes an account's thumbprint known.
    pub(crate) async fn introduce(
        &self,
        issuer: &str,
        account: Thumbprint,
    ) -> Result<(), VaultError> {
        self.change(|board| {
            board.accounts.insert(issuer.to_owned(), account);
        })
        .await
    }

    /// Answers for accounts as their issuers say now.
    pub(crate) async fn answer_as(&self, issuers: &Issuers) -> Result<(), VaultError> {
        self.change(|board| {
            for (name, account) in &mut board.accounts {
                if let Some(spec) = issuers.issuers.get(name) {
                    account.answers = spec.http01;
                }
            }
        })
        .await
    }

    /// Drops what belongs to nobody: certificates that no longer publish, issuers that are gone.
    pub(crate) async fn retain(
        &self,
        publishes: impl Fn(&Target) -> bool + Send + Sync,
        known: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<(), VaultError> {
        self.change(|board| {
            board.entries.retain(|entry| publishes(&entry.target));
            board.accounts.retain(|issuer, _| known(issuer));
        })
        .await
    }

    async fn change(&self, change: impl FnOnce(&mut Board) + Send) -> Result<(), VaultError> {
        // The order of writes is the order of this lock; it is tokio's, so it may be held meanwhile.
        let mut known = self.read.lock().await;
        let version = match std::mem::replace(&mut *known, Read::No) {
            Read::Yes(version) => version,
            Read::No => self.vault.read(&Key::Board).await?.map(|stored| {
                if let Some(board) = read(&stored.entries) {
                    self.shown.send_replace(Arc::new(board));
                }
                stored.version
            }),
        };
        let mut board = Board::clone(&self.shown.borrow());
        change(&mut board);
        if board == **self.shown.borrow() {
            *known = Read::Yes(version);
            return Ok(());
        }
        let text = serde_json::to_vec(&board)
            .map_err(|error| VaultError::Unavailable(error.to_string()))?;
        let entries = Entries::from([(FILE.to_owned(), Secret::new(text))]);
        let written = self
            .vault
            .write(&Key::Board, version.as_ref(), &entries)
            .await?;
        *known = Read::Yes(Some(written));
        self.shown.send_replace(Arc::new(board));
        Ok(())
    }
}

/// A stored board.
pub fn read(entries: &Entries) -> Option<Board> {
    serde_json::from_slice(entries.get(FILE)?.expose()).ok()
}

const FILE: &str = "board.json";

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abcdefghijklmnop";

    fn posted(kind: ChallengeKind, name: &str, answer: &str) -> Posted {
        Posted {
            target: Target {
                namespace: "shop".into(),
                secret: "tls".into(),
            },
            name: Name::parse(name).expect("a name"),
            kind,
            token: TOKEN.into(),
            answer: answer.into(),
        }
    }

    #[test]
    fn a_handshake_is_answered_by_server_name_also_of_an_address() {
        let mut board = Board::default();
        let digest = [7; 32];
        board.entries.push(posted(
            ChallengeKind::TlsAlpn01,
            "127.0.0.2",
            &to_hex(&digest),
        ));
        assert_eq!(board.tls_digest("2.0.0.127.IN-ADDR.ARPA"), Some(digest));
        assert_eq!(board.tls_digest("127.0.0.2"), None);
    }

    #[tokio::test]
    async fn what_is_shown_is_stored_and_what_does_not_change_is_not_written() {
        let vault = crate::vault::memory::MemoryVault::new();
        let shown = watch::Sender::new(Arc::new(Board::default()));
        let pen = Pen::new(Arc::new(vault.clone()), shown.clone());
        let target = posted(ChallengeKind::Http01, "a.example.org", "body").target;
        let entries = || vec![posted(ChallengeKind::Http01, "a.example.org", "body")];
        pen.post(&target, entries()).await.expect("stored");
        pen.post(&target, entries()).await.expect("nothing to do");
        assert_eq!(vault.writes(), 1);
        let stored = vault.read(&Key::Board).await.expect("read").expect("there");
        assert_eq!(read(&stored.entries).as_ref(), Some(&**shown.borrow()));
        pen.post(&target, vec![]).await.expect("stored");
        assert_eq!((vault.writes(), shown.borrow().entries.len()), (2, 0));
    }
}
