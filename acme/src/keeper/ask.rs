//! How people ask a keeper: what there is to ask, and where.
//!
//! Invariants: whoever asks gets an answer, also when the keeper has ended; who only looks asks nobody.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::accounts::AccountReport;
use crate::accounts::sheets::{self, Sheets};
use crate::issuers::Issuers;
use crate::plan::{Finding, Target};
use crate::secrets::Secret;
use crate::served::{Certificates, Reports};
use crate::troubles::Troubles;

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A renewal now; `force` even if the same names were issued four times this week.
    Renew {
        /// Even near the limit of the authority.
        force: bool,
    },
    /// To end a wait.
    Retry,
    /// To revoke the current certificate for a reason of RFC 5280, and to replace it.
    Revoke {
        /// The reason.
        reason: u8,
    },
    /// To serve a certificate that somebody else ordered, and to renew it from now on.
    Import {
        /// Leaf first, as PEM.
        chain: String,
        /// Its key, as PEM.
        key: Secret,
    },
}

/// One question or command, and where its answer goes.
pub(crate) enum Ask {
    /// A command for one certificate.
    Certificate(Target, Command, Reply),
    /// Another key for the account of an issuer.
    Rotate(String, Reply),
}

/// Where an answer goes; the error is a sentence.
pub(crate) type Reply = oneshot::Sender<Result<String, String>>;

/// Where people ask a running keeper, from any thread. It outlives the keeper, and then says so.
#[derive(Debug, Clone)]
pub struct Asker {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) epoch: watch::Receiver<Option<u64>>,
    pub(super) issuers: watch::Receiver<Arc<Issuers>>,
    pub(super) sheets: watch::Receiver<Sheets>,
    /// How each certificate stands.
    pub reports: watch::Receiver<Arc<Reports>>,
    /// What is wrong with the vault.
    pub troubles: watch::Receiver<Arc<Troubles>>,
    /// What users can mend.
    pub findings: watch::Receiver<Arc<Vec<Finding>>>,
    /// Certificates to serve.
    pub certificates: watch::Receiver<Arc<Certificates>>,
}

impl Asker {
    /// Whether this process orders.
    pub fn leads(&self) -> bool {
        self.epoch.borrow().is_some()
    }

    /// Asks for something; the answer is a sentence.
    pub async fn command(&self, target: Target, command: Command) -> Result<String, String> {
        self.ask("certificate", |reply| {
            Ask::Certificate(target, command, reply)
        })
        .await
    }

    /// How the accounts of all issuers stand.
    pub fn accounts(&self) -> Result<Vec<AccountReport>, String> {
        let issuers = self.issuers.borrow().clone();
        let known = self.sheets.borrow().clone();
        sheets::reports(&issuers, &known)
    }

    /// Gives the account of an issuer another key; the answer is a sentence.
    pub async fn rotate(&self, issuer: String) -> Result<String, String> {
        self.ask("account", |reply| Ask::Rotate(issuer, reply))
            .await
    }

    /// `about` is what to look at if no answer comes.
    async fn ask(&self, about: &str, ask: impl FnOnce(Reply) -> Ask) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send(ask(reply)).await;
        sent.map_err(|_| "the certificate keeper has ended".to_owned())?;
        answer.await.unwrap_or_else(|_| {
            Err(format!(
                "it is not known whether this was done: the certificate keeper has ended, or this \
                 replica leads no longer; look at the {about}"
            ))
        })
    }
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate(target, command, _) => {
                write!(formatter, "Certificate({target}, {command:?})")
            }
            Self::Rotate(issuer, _) => write!(formatter, "Rotate({issuer})"),
        }
    }
}
