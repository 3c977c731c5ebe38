//! Where the admin server asks about certificates: the keeper, once there is one.
//!
//! Invariant: no private key is handed out here.

use std::sync::{Arc, OnceLock};

use gatehouse_acme::accounts::AccountReport;
use gatehouse_acme::keeper::{Asker, Command};
use gatehouse_acme::plan::Target;
use tokio::sync::watch;

use super::view::{View, remark, views};
use crate::engine::Report;

/// Empty until certificates are ordered, and for ever where none are.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<OnceLock<Open>>);

/// Who knows something of certificates.
#[derive(Debug)]
struct Open {
    asker: Asker,
    /// What the engine reports.
    engine: watch::Receiver<Arc<Report>>,
}

impl Counter {
    /// From now on this keeper is asked, and the engine what it serves.
    pub fn open(&self, asker: Asker, engine: watch::Receiver<Arc<Report>>) {
        // There is one keeper in the life of a process.
        self.0.set(Open { asker, engine }).ok();
    }

    /// Whether somebody orders here.
    pub fn is_open(&self) -> bool {
        self.0.get().is_some()
    }

    /// All certificates.
    pub fn views(&self) -> Option<Vec<View>> {
        let Open { asker, engine } = self.0.get()?;
        let (reports, findings) = (
            asker.reports.borrow().clone(),
            asker.findings.borrow().clone(),
        );
        let troubles = asker.troubles.borrow().clone();
        let mut views = views(&reports, &findings, &troubles);
        let said = Arc::clone(&engine.borrow().diagnostics);
        remark(&mut views, &said);
        Some(views)
    }

    /// One certificate.
    pub fn view(&self, target: &Target) -> Option<View> {
        let same = |view: &View| view.namespace == target.namespace && view.secret == target.secret;
        self.views()?.into_iter().find(same)
    }

    /// Its chain, as PEM.
    pub fn chain(&self, target: &Target) -> Option<String> {
        let certificates = self.0.get()?.asker.certificates.borrow().clone();
        Some(certificates.get(target)?.material.chain.clone())
    }

    /// All accounts; the error is a sentence.
    pub fn accounts(&self) -> Result<Vec<AccountReport>, String> {
        self.asker()?.accounts()
    }

    /// Does what a person asks for; both answers are sentences.
    pub async fn command(&self, target: Target, command: Command) -> Result<String, String> {
        self.asker()?.command(target, command).await
    }

    /// Another key for the account of an issuer; both answers are sentences.
    pub async fn rotate(&self, issuer: String) -> Result<String, String> {
        self.asker()?.rotate(issuer).await
    }

    fn asker(&self) -> Result<&Asker, String> {
        let open = self.0.get();
        open.map(|open| &open.asker)
            .ok_or_else(|| CLOSED.to_owned())
    }
}

/// What is said where nobody orders.
pub const CLOSED: &str = "no certificates are ordered here: start with --acme and --certs";
