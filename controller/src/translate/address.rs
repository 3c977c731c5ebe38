//! Addresses that certificates are for: what a client gets that names no host.
//!
//! A certificate of an Ingress that holds an address serves clients that have reached this address
//! and send no server name. Invariant: the oldest object has an address, and whoever else claims it
//! is told; what the default certificate holds it keeps.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_gateway::model::{CertKey, ObjectRef};

use super::Age;
use crate::diagnostics::{Code, Diagnostic, Severity};

/// What one object contributes to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFragment {
    /// The address.
    pub address: IpAddr,
    /// The certificate that is for it.
    pub certificate: CertKey,
    /// The object.
    pub origin: ObjectRef,
    /// Its age.
    pub age: Age,
    /// Where the object names the certificate.
    pub field: Arc<str>,
}

/// The certificate of an address, of claims by age, the oldest first.
pub fn merge(claims: &[Arc<AddressFragment>]) -> (Option<CertKey>, Vec<Diagnostic>) {
    let Some((first, others)) = claims.split_first() else {
        return (None, Vec::new());
    };
    let losers = others
        .iter()
        .filter(|claim| claim.certificate != first.certificate);
    let mut list: Vec<_> = losers
        .map(|claim| {
            let message = format!(
                "clients that name no host and have reached {} are served the certificate of {}, \
                 which {}: this one is not used for them",
                claim.address,
                first.origin,
                first.age.lead_over(&claim.age),
            );
            let object = claim.origin.to_string().into();
            let (warning, code) = (Severity::Warning, Code::TlsConflict);
            Diagnostic::new(warning, &object, &*claim.field, code, message)
        })
        .collect();
    list.sort_unstable();
    (Some(first.certificate.clone()), list)
}
