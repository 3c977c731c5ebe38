//! Certificates: which one an Ingress wants for a host, and what is wrong with it.
//!
//! Selection as in ingress-nginx: the first tls entry that lists the host literally; else the first
//! entry whose certificate covers the host (this is how a wildcard certificate serves its hosts);
//! else the default certificate. A certificate that does not cover the host is replaced by the
//! default one. Where Gatehouse orders a wildcard certificate instead of one for the Secret of an entry,
//! that is the certificate of the entry. The choice has no influence on the redirect to https: a tls section is enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};

use gatehouse_gateway::model::{CertKey, CertificatePlan, HostPattern, HostTls, ObjectRef};

use super::Age;
use super::address::AddressFragment;
use crate::diagnostics::{Code, Diagnostic, Remarks, Severity};
use crate::source::Absence;
use crate::world::{Lookup, Pair};

/// The tls section of one Ingress, its Secrets read.
pub struct TlsSection<'a> {
    origin: &'a ObjectRef,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    index: usize,
    tls: &'a IngressTLS,
    /// It names a Secret about which something is known.
    names_secret: bool,
    certificate: Option<Arc<CertificatePlan>>,
    /// Gatehouse ordered it itself.
    ordered: bool,
}

impl<'a> TlsSection<'a> {
    /// Reads the section of an object of which certificates are ordered, or not; `None` when there
    /// is none.
    pub fn read(
        (ingress, origin, awaited): (&'a Ingress, &'a ObjectRef, bool),
        lookup: &Lookup<'_>,
        remarks: &mut Remarks,
    ) -> Option<Self> {
        let tls = ingress.spec.as_ref()?.tls.as_ref()?;
        if tls.is_empty() {
            return None;
        }
        let mut entries = Vec::with_capacity(tls.len());
        for (index, tls) in tls.iter().enumerate() {
            let own = tls.secret_name.as_deref().filter(|name| !name.is_empty());
            let serving = own.map(|name| lookup.serving(&origin.namespace, name));
            let name = serving.as_deref();
            let mut unknown = false;
            let certificate = name.and_then(|name| {
                let field = format!("spec.tls[{index}].secretName");
                let found = certificate(&origin.namespace, name, lookup, remarks);
                unknown = matches!(found, Found::Absent(None));
                found.or_absent(name, |code, message| {
                    if awaited && hosted(tls) && code == Code::SecretMissing {
                        let message = format!(
                            "the certificate of Secret `{name}` has not been issued yet; the \
                             default certificate is served meanwhile"
                        );
                        remarks.info(field, Code::CertificatePending, message);
                    } else {
                        remarks.error(field, code, message);
                    }
                })
            });
            if awaited && let Some((lacks, why)) = lacks(tls, certificate.is_some()) {
                let message = format!(
                    "this Ingress asks for certificates, and {why}, so none is ordered for the entry: \
                     name both, or take the annotation off"
                );
                let field = format!("spec.tls[{index}].{lacks}");
                remarks.warning(field, Code::CertificateEntryIncomplete, message);
            }
            if let Some(name) = own.filter(|own| name == Some(own))
                && awaited
                && lookup.shadows(&origin.namespace, name)
            {
                let message = format!(
                    "Secret `{name}` is served, and not the certificate that is ordered for it: remove \
                     the Secret, or the annotation that asks for the certificate"
                );
                let field = format!("spec.tls[{index}].secretName");
                remarks.warning(field, Code::CertificateShadowed, message);
            }
            let kept = name.and_then(|name| lookup.kept(&origin.namespace, name));
            entries.push(Entry {
                index,
                tls,
                ordered: kept.is_some() && kept == certificate,
                names_secret: name.is_some() && !unknown,
                certificate,
            });
        }
        Some(Self { origin, entries })
    }

    /// The certificate for a host of the Ingress.
    pub fn select(&self, host: &HostPattern, remarks: &mut Remarks) -> HostTls {
        let name = host.to_string();
        let listed = self.entries.iter().find(|entry| entry.lists(&name));
        let certificate = match listed {
            Some(entry) => entry.certificate_for(&name, remarks),
            None => self.covering(&name, remarks),
        };
        HostTls {
            certificate,
            origin: self.origin.clone(),
        }
    }

    /// The addresses that its certificates hold; of several for one address the first. Whoever writes
    /// a Secret can write any address into it: where nobody may take what others have, only those
    /// count that an authority has proven.
    pub fn addresses(&self, age: &Age, ordered_only: bool) -> Vec<Arc<AddressFragment>> {
        let mut found = BTreeMap::new();
        for entry in &self.entries {
            let Some(certificate) = &entry.certificate else {
                continue;
            };
            if ordered_only && !entry.ordered {
                continue;
            }
            for &address in certificate.addresses.iter().take(ADDRESSES) {
                found.entry(address).or_insert_with(|| {
                    Arc::new(AddressFragment {
                        address,
                        certificate: certificate.key.clone(),
                        origin: self.origin.clone(),
                        age: age.clone(),
                        field: format!("spec.tls[{}].secretName", entry.index).into(),
                    })
                });
            }
        }
        found.into_values().collect()
    }

    fn covering(&self, host: &str, remarks: &mut Remarks) -> Option<CertKey> {
        let mut certificates = self.entries.iter().filter_map(|e| e.certificate.as_ref());
        let found = certificates.find(|certificate| certificate.covers(host));
        if found.is_none() && self.entries.iter().any(|entry| entry.names_secret) {
            remarks.warning(
                "spec.tls",
                Code::CertificateNameMismatch,
                format!(
                    "no tls entry lists host `{host}` and no certificate of this Ingress covers \
                     it, so the default certificate is served"
                ),
            );
        }
        found.map(|certificate| certificate.key.clone())
    }
}

fn hosted(entry: &IngressTLS) -> bool {
    entry.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty())
}

/// What an entry lacks to be one certificate; without hosts a Secret that is there may be meant.
fn lacks(entry: &IngressTLS, there: bool) -> Option<(&'static str, &'static str)> {
    let named = entry
        .secret_name
        .as_ref()
        .is_some_and(|name| !name.is_empty());
    match (named, hosted(entry)) {
        (false, _) => Some(("secretName", "this tls entry names no Secret")),
        (true, false) if !there => Some(("hosts", "this tls entry names no host")),
        (true, _) => None,
    }
}

/// Addresses of one certificate; authorities sign no more names than that.
const ADDRESSES: usize = 100;

impl Entry<'_> {
    fn lists(&self, host: &str) -> bool {
        let hosts = self.tls.hosts.as_deref().unwrap_or_default();
        hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host))
    }

    fn certificate_for(&self, host: &str, remarks: &mut Remarks) -> Option<CertKey> {
        let certificate = self.certificate.as_ref()?;
        if certificate.covers(host) {
            return Some(certificate.key.clone());
        }
        let names = certificate.names.join(", ");
        remarks.warning(
            format!("spec.tls[{}].secretName", self.index),
            Code::CertificateNameMismatch,
            format!(
                "the certificate in Secret `{}` is for {names}, not for host `{host}`, so the \
                 default certificate is served",
                certificate.key
            ),
        );
        None
    }
}

/// What became of a Secret that somebody named.
pub enum Found {
    /// A usable certificate.
    Certificate(Arc<CertificatePlan>),
    /// There is no such Secret here, and why; `None` while nobody has looked.
    Absent(Option<Absence>),
    /// It is unusable, and that has been said.
    Broken,
}

impl Found {
    /// The certificate, and for a Secret that is not there a sentence about it.
    pub fn or_absent(
        self,
        name: &str,
        say: impl FnOnce(Code, String),
    ) -> Option<Arc<CertificatePlan>> {
        let why = match self {
            Self::Certificate(plan) => return Some(plan),
            // Nothing is wrong as long as nobody has looked.
            Self::Broken | Self::Absent(None) => return None,
            Self::Absent(Some(why)) => why,
        };
        match why {
            Absence::Missing => say(
                Code::SecretMissing,
                format!(
                    "Secret `{name}` does not exist in this namespace, so the default certificate \
                     is served: create it, with tls.crt and tls.key"
                ),
            ),
            Absence::Refused => say(
                Code::SecretUnread,
                format!(
                    "Secret `{name}` may not be read, so the default certificate is served: grant \
                     what `gatehouse generate rbac` prints"
                ),
            ),
            Absence::LeftOut => say(
                Code::SecretUnread,
                format!(
                    "Secret `{name}` is not read because too many are asked for that do not exist \
                     or are not of type kubernetes.io/tls, so the default certificate is served: \
                     give it that type"
                ),
            ),
        }
        None
    }
}

/// Reads the certificate of a Secret. What is wrong with a Secret is said about the Secret: however
/// many objects use it, it is one finding.
pub fn certificate(
    namespace: &Arc<str>,
    name: &str,
    lookup: &Lookup<'_>,
    remarks: &mut Remarks,
) -> Found {
    let Some(pair) = lookup.pair(namespace, name) else {
        return Found::Absent(lookup.absence(namespace, name));
    };
    let object: Arc<str> = format!("Secret/{namespace}/{name}").into();
    let invalid = |why: &str, then: &str| {
        Diagnostic::new(
            Severity::Error,
            &object,
            "data",
            Code::CertificateInvalid,
            format!("the Secret holds no usable certificate: {why}; {then}"),
        )
    };
    match pair {
        Pair::Good(plan) => Found::Certificate(plan),
        Pair::LastGood(plan, why) => {
            let kept = Diagnostic::new(
                Severity::Warning,
                &object,
                "data",
                Code::LastGoodServed,
                "the last good certificate of this Secret keeps serving until it is repaired",
            );
            remarks.extend([invalid(&why, "its last good one keeps serving"), kept]);
            Found::Certificate(plan)
        }
        Pair::Kept(plan, why) => {
            let then = "the certificate that Gatehouse keeps for it is served";
            remarks.extend([invalid(&why, then)]);
            Found::Certificate(plan)
        }
        Pair::Broken(why) => {
            remarks.extend([invalid(&why, "the default certificate is served instead")]);
            Found::Broken
        }
    }
}
