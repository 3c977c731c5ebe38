//! Resources of RFC 8555 and RFC 9773 as they come over the wire, and what the crate makes of them.
//!
//! Pure. What is not known here, a challenge type above all, is left out; what is missing and
//! needed makes the whole answer unusable.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::reply::WireProblem;
use super::{
    Authorization, AuthorizationStatus, Challenge, ChallengeKind, DETAIL, Directory, Order,
    OrderStatus, RenewalWindow,
};
use crate::http::shown;
use crate::names::Name;

/// Most entries of a list in the directory that are kept.
const ENTRIES: usize = 50;

/// The directory (RFC 8555, section 7.1.1); entries that are not known mean nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireDirectory {
    pub(super) new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    pub(super) revoke_cert: Option<String>,
    pub(super) key_change: Option<String>,
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    meta: WireMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireMeta {
    terms_of_service: Option<String>,
    external_account_required: bool,
    caa_identities: Vec<String>,
    profiles: BTreeMap<String, String>,
}

impl WireDirectory {
    pub(super) fn shown(&self) -> Directory {
        let short = |text: &String| shown(text, DETAIL);
        let meta = &self.meta;
        Directory {
            profiles: meta
                .profiles
                .iter()
                .take(ENTRIES)
                .map(|(name, words)| (short(name), short(words)))
                .collect(),
            renewal_info: self.renewal_info.is_some(),
            terms: meta.terms_of_service.as_ref().map(short),
            external_account_required: meta.external_account_required,
            caa_identities: meta
                .caa_identities
                .iter()
                .take(ENTRIES)
                .map(short)
                .collect(),
        }
    }
}

/// What is read of an account.
#[derive(Debug, Deserialize)]
pub(super) struct WireAccount {
    pub(super) status: String,
}

/// An order.
#[derive(Deserialize)]
pub(super) struct WireOrder {
    status: OrderStatus,
    expires: Option<Timestamp>,
    error: Option<WireProblem>,
    #[serde(default)]
    pub(super) authorizations: Vec<String>,
    pub(super) finalize: String,
    pub(super) certificate: Option<String>,
}

impl WireOrder {
    pub(super) fn order(self, url: String, retry_after: Option<Duration>) -> Order {
        Order {
            url,
            status: self.status,
            expires: self.expires,
            error: self.error.map(Into::into),
            retry_after,
        }
    }
}

/// An authorization.
#[derive(Deserialize)]
pub(super) struct WireAuthorization {
    identifier: WireIdentifier,
    status: AuthorizationStatus,
    #[serde(default)]
    wildcard: bool,
    challenges: Vec<WireChallenge>,
}

#[derive(Deserialize)]
struct WireIdentifier {
    value: String,
}

#[derive(Deserialize)]
struct WireChallenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    status: AuthorizationStatus,
    error: Option<WireProblem>,
    #[serde(rename = "issuer-domain-names", default)]
    issuers: Vec<String>,
}

impl WireAuthorization {
    /// Fails when the name is none that an order of ours can have had.
    pub(super) fn authorization(self, url: String) -> Result<Authorization, String> {
        let value = &self.identifier.value;
        let text = if self.wildcard && !value.starts_with("*.") {
            format!("*.{value}")
        } else {
            value.clone()
        };
        let name = Name::parse(&text).map_err(|error| error.to_string())?;
        let challenges = self.challenges.into_iter().filter_map(WireChallenge::known);
        Ok(Authorization {
            url,
            name,
            status: self.status,
            challenges: challenges.collect(),
        })
    }
}

impl WireChallenge {
    /// Nothing for a type that is not known, and for a token that no URL or record may carry.
    fn known(self) -> Option<Challenge> {
        let kind = match self.kind.as_str() {
            "http-01" => ChallengeKind::Http01,
            "tls-alpn-01" => ChallengeKind::TlsAlpn01,
            "dns-01" => ChallengeKind::Dns01,
            "dns-persist-01" => ChallengeKind::DnsPersist01,
            _ => return None,
        };
        if kind != ChallengeKind::DnsPersist01 && !is_token(&self.token) {
            return None;
        }
        if self.url.len() > LONGEST_URL {
            return None;
        }
        Some(Challenge {
            kind,
            url: self.url,
            token: self.token,
            status: self.status,
            error: self.error.map(Into::into),
            issuers: self
                .issuers
                .into_iter()
                .filter(|issuer| issuer.len() <= LONGEST_DOMAIN)
                .take(ISSUERS)
                .collect(),
        })
    }
}

/// Letters of a domain name (RFC 1035, section 3.1), as text.
const LONGEST_DOMAIN: usize = 253;

/// Names that an authority has for itself; they are stored with the certificate.
const ISSUERS: usize = 10;

/// URLs of an authority are stored with the certificate, a hundred of them, and that has a bound.
pub(super) const LONGEST_URL: usize = 2_048;

/// RFC 8555, section 8: base64url, at least 128 bits; the bound is ours.
fn is_token(text: &str) -> bool {
    (16..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// When to renew (RFC 9773, section 4.2).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireRenewal {
    suggested_window: WireWindow,
    #[serde(rename = "explanationURL")]
    explanation: Option<String>,
}

#[derive(Deserialize)]
struct WireWindow {
    start: Timestamp,
    end: Timestamp,
}

impl WireRenewal {
    pub(super) fn window(self, retry_after: Option<Duration>) -> RenewalWindow {
        RenewalWindow {
            start: self.suggested_window.start,
            end: self.suggested_window.end,
            explanation: self.explanation.map(|text| shown(&text, DETAIL)),
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(text: &str) -> Authorization {
        let wire: WireAuthorization = serde_json::from_str(text).expect("JSON");
        wire.authorization("u".into()).expect("an authorization")
    }

    #[test]
    fn a_challenge_of_an_unknown_type_or_with_a_strange_token_is_left_out() {
        let read = authorization(
            r#"{"identifier":{"type":"dns","value":"a.example"},"status":"pending","wildcard":true,"challenges":[
                {"type":"email-reply-00","url":"1","token":"abcdefghijklmnop","status":"pending"},
                {"type":"http-01","url":"2","token":"../../etc/passwd","status":"pending"},
                {"type":"dns-persist-01","url":"3","status":"pending","issuer-domain-names":["ca.example"]},
                {"type":"dns-01","url":"4","token":"abcdefghijklmnop","status":"invalid",
                 "error":{"type":"urn:ietf:params:acme:error:dns","detail":"no record"}}]}"#,
        );
        assert_eq!(read.name, Name::Dns("*.a.example".into()));
        let kinds: Vec<ChallengeKind> = read.challenges.iter().map(|each| each.kind).collect();
        assert_eq!(kinds, [ChallengeKind::DnsPersist01, ChallengeKind::Dns01]);
        assert_eq!(read.challenges[0].issuers, ["ca.example"]);
        let error = read.challenges[1].error.as_ref().expect("an error");
        assert_eq!(
            (error.kind.as_str(), error.detail.as_str()),
            ("dns", "no record")
        );
    }

    #[test]
    fn what_is_too_long_to_be_stored_is_not_kept() {
        let text = r#"{"identifier":{"type":"dns","value":"a.example"},"status":"pending","challenges":[
            {"type":"dns-persist-01","url":"1","status":"pending","issuer-domain-names":["LONG","ca.example"]},
            {"type":"dns-persist-01","url":"LONG","status":"pending"}]}"#;
        let read = authorization(&text.replace("LONG", &"l".repeat(300_000)));
        assert_eq!(read.challenges.len(), 1);
        assert_eq!(read.challenges[0].issuers, ["ca.example"]);
    }

    #[test]
    fn entries_of_the_directory_that_are_not_known_mean_nothing() {
        let wire: WireDirectory = serde_json::from_str(
            r#"{"newNonce":"n","newAccount":"a","newOrder":"o","x7":"https://what",
                "meta":{"profiles":{"short":"6 days"},"caaIdentities":["ca.example"],"website":1}}"#,
        )
        .expect("JSON");
        let shown = wire.shown();
        assert_eq!(shown.profiles, [("short".to_owned(), "6 days".to_owned())]);
        assert_eq!(shown.caa_identities, ["ca.example"]);
        assert!(!shown.renewal_info && !shown.external_account_required);
    }
}
