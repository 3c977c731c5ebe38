//! What would be ordered, without ordering it: the plan of what manifests ask for, where there is no
//! certificate yet.
//!
//! Invariants: it is the plan of a process on its own, made by the same functions; nothing here asks an
//! authority or opens what certificates are kept in.

use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::plan::plan;
use gatehouse_acme::served::Reports;
use gatehouse_acme::stock::Stocks;
use k8s_openapi::jiff::Timestamp;

use super::findings::{self, Askers};
use super::follow::Surroundings;
use super::issuers_of;
use super::request::{Tenants, requests};
use crate::config::flags::SelectionArgs;
use crate::config::{IssuerArgs, Managed};
use crate::diagnostics::Diagnostic;
use crate::engine::Report;

/// From whom certificates would be ordered.
#[derive(Debug)]
pub struct Outlook {
    issuers: Issuers,
    /// Which Ingresses ask, and whether those with a default backend are left out.
    managed: (Managed, bool),
}

impl Outlook {
    /// Reads the file that the flags name, if they name one; the error is a sentence.
    pub fn read(args: &IssuerArgs, selection: &SelectionArgs) -> Result<Option<Self>, String> {
        let Some(file) = &args.acme else {
            return Ok(None);
        };
        Ok(Some(Self {
            issuers: issuers_of(file, Surroundings::Alone)?,
            managed: (args.managed(), selection.disable_catch_all),
        }))
    }

    /// What there would be to say of the certificates that the Ingresses of a report ask for.
    pub fn findings(&self, report: &Report, now: Timestamp) -> Vec<Diagnostic> {
        let tenants = Tenants::Labelled(&report.namespaces);
        let asking = requests(&report.owned, &tenants, self.managed);
        let planned = plan(&self.issuers, &asking, (&Stocks::new(), now));
        let askers = Askers::new(&planned.findings, &asking);
        findings::diagnostics(&planned.findings, &Reports::default(), &askers, now)
    }
}
