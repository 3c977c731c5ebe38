//! Certificates as the control plane hands them over: parsed, checked against their key.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use serde::Serialize;

/// Stable identity of a certificate slot, such as `namespace/secret`. The content of a slot can be
/// swapped while connections live.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CertKey(pub Arc<str>);

impl fmt::Display for CertKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Content of a slot. Made only by [`crate::tls::parse_pair`], so a plan always holds a key that
/// fits its certificate. Never prints key material.
#[derive(Clone, Serialize)]
pub struct CertificatePlan {
    /// Slot.
    pub key: CertKey,
    /// DNS names of the certificate, lower case, wildcards as `*.suffix`.
    pub names: Vec<Box<str>>,
    /// Addresses of the certificate, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Begin of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the chain and the public key: equal fingerprints are equal plans.
    #[serde(serialize_with = "as_hex")]
    pub fingerprint: [u8; 32],
    /// Chain and signing key for rustls.
    #[serde(skip)]
    pub certified: Arc<CertifiedKey>,
}

impl PartialEq for CertificatePlan {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.fingerprint == other.fingerprint
    }
}

impl Eq for CertificatePlan {}

impl Hash for CertificatePlan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for CertificatePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificatePlan")
            .field("key", &self.key)
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn as_hex<S: serde::Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    use fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_str(&text)
}
