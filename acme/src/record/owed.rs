//! Revocations that a person asked for and no authority has answered yet.
//!
//! Invariants: all times are wall times in UTC, written by us; no key is part of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::schedule::Span;

/// One of them. The certificate itself is part of it: what is served is another one soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Issuer whose account asks for it.
    pub issuer: String,
    /// URL of its directory.
    pub directory: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The certificate, DER as base64url.
    pub certificate: String,
    /// The reason, of RFC 5280.
    pub reason: u8,
    /// End of its life: nobody revokes what has ended.
    pub not_after: Timestamp,
    /// How often the authority was asked.
    #[serde(default)]
    pub tries: u32,
    /// When it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it is asked again; at once, if that is not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// What came of the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Revocation {
    /// The certificate as it is kept here.
    pub(crate) fn encoded(der: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(der)
    }

    /// The certificate, DER.
    pub(crate) fn der(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.certificate).ok()
    }

    /// When there is something to do about it.
    pub(crate) fn due(&self, now: Timestamp) -> Timestamp {
        let since = self.since;
        let next = self.next.map(|until| Span { since, until });
        let next = next.filter(|span| span.holds(now));
        next.map_or(now, |span| span.until).min(self.not_after)
    }
}

/// Revocations of one record that may be owed at once: more certificates are not issued for one set of
/// names in two weeks.
pub(crate) const MOST_REVOCATIONS: usize = 10;
