//! A conversation with a certificate authority (RFC 8555), as the driver needs it.
//!
//! One [`Ca`] speaks to one directory and holds no state that matters: whatever a restart needs is
//! in the record, so every call names the account and the URL it is about.
//!
//! Invariants:
//! - Every call ends within its deadline; a wait that the authority asks for is the caller's.
//! - A call is one step: it never polls, sleeps or tries again, except for a rejected nonce.
//! - What the authority said reaches the caller whole: status, problem, Retry-After, Date, help.
//! - Texts of the authority are bounded before they are kept or shown.

pub mod account;
#[expect(
    clippy::result_large_err,
    reason = "a refusal is made once per request to an authority: not worth a box"
)]
mod calls;
mod client;
mod jws;
#[expect(
    clippy::result_large_err,
    reason = "a refusal is made once per request to an authority: not worth a box"
)]
mod reply;
mod wire;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Answer;
use crate::names::Name;
use crate::secrets::Secret;

pub use account::{Account, AccountKey, ExternalAccount, Registration};
pub use calls::connect;
pub use client::Observer;

/// One authority: one directory URL.
pub trait Ca: Send + Sync {
    /// What the directory says about itself. Asked anew when older than a day or after an outage.
    fn directory(&self) -> Answer<'_, Result<Directory, Refusal>>;

    /// Registers the key, or finds the account that it already has: the same key gives the same
    /// account URL, so this may be repeated after any crash.
    fn register<'a>(&'a self, request: &'a Registration) -> Answer<'a, Result<Account, Refusal>>;

    /// Creates an order.
    fn new_order<'a>(
        &'a self,
        account: &'a Account,
        request: &'a NewOrder,
    ) -> Answer<'a, Result<Order, Refusal>>;

    /// Reads an order.
    fn order<'a>(
        &'a self,
        account: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<Order, Refusal>>;

    /// Reads all authorizations of an order.
    fn authorizations<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>>;

    /// Tells the authority to validate the challenges with these URLs. Those that are no longer
    /// pending are left alone, so this may be repeated. Returns the authorizations as read.
    fn answer<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
        challenges: &'a [String],
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>>;

    /// Asks for the certificate of a DER-encoded CSR. The one call that creates something.
    fn finalize<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
        csr: &'a [u8],
    ) -> Answer<'a, Result<Order, Refusal>>;

    /// Downloads the chain of a valid order.
    fn certificate<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
    ) -> Answer<'a, Result<Chain, Refusal>>;

    /// Downloads one of [`Chain::alternates`].
    fn alternate<'a>(
        &'a self,
        account: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<String, Refusal>>;

    /// When the authority wants the certificate replaced (RFC 9773).
    fn renewal_info<'a>(
        &'a self,
        account: &'a Account,
        certificate: &'a str,
    ) -> Answer<'a, Result<RenewalWindow, Refusal>>;

    /// Revokes a certificate (DER) for a reason of RFC 5280, section 5.3.1.
    fn revoke<'a>(
        &'a self,
        account: &'a Account,
        certificate: &'a [u8],
        reason: u8,
    ) -> Answer<'a, Result<(), Refusal>>;

    /// Gives the account another key, which is stored before this is asked. If no answer comes, either
    /// key may be the right one: [`Ca::register`] with each tells.
    fn change_key<'a>(
        &'a self,
        account: &'a Account,
        next: &'a AccountKey,
    ) -> Answer<'a, Result<Account, Refusal>>;

    /// Ends the account for good: no order of it, old or new, is worked on afterwards.
    fn deactivate<'a>(&'a self, account: &'a Account) -> Answer<'a, Result<(), Refusal>>;

    /// Makes [`Ca::date`] one that no cache has kept; asks only if the newest is not of this minute.
    fn look(&self) -> Answer<'_, Result<(), Refusal>>;

    /// The `Date` of the newest answer, and when it came; also of a refusal.
    fn date(&self) -> Option<(Timestamp, Instant)>;
}

/// Where an authority is and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// URL of the directory.
    pub directory: String,
    /// Roots to believe instead of the system's, as PEM.
    pub roots: Option<String>,
}

/// One request and its answer, for metrics. Sent for every request, refused or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What was asked.
    pub step: Step,
    /// Status of the answer, if one came.
    pub status: Option<u16>,
    /// Short name of the problem, such as `rateLimited`.
    pub problem: Option<String>,
    /// From the first byte sent to the last byte read.
    pub elapsed: Duration,
    /// `Date` of the answer.
    pub date: Option<Timestamp>,
}

/// What a request to an authority was for. A bounded set: it labels metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "each is the resource of RFC 8555 or RFC 9773 with that name"
)]
pub enum Step {
    Directory,
    Nonce,
    Account,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    Revoke,
    KeyChange,
}

/// What a directory offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// Names of the profiles, with the authority's words about each.
    pub profiles: Vec<(String, String)>,
    /// Whether renewal windows are offered.
    pub renewal_info: bool,
    /// Terms of service.
    pub terms: Option<String>,
    /// Whether an account needs an external binding.
    pub external_account_required: bool,
    /// Names to be used in CAA records.
    pub caa_identities: Vec<String>,
}

/// What is ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewOrder {
    /// Normalized, sorted, without one that a wildcard covers.
    pub names: Vec<Name>,
    /// Profile, if one is asked for.
    pub profile: Option<String>,
    /// Identifier of the certificate that this one replaces (RFC 9773).
    pub replaces: Option<String>,
}

/// An order as the authority shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its URL.
    pub url: String,
    /// Where it stands.
    pub status: OrderStatus,
    /// When it expires, if the authority says.
    pub expires: Option<Timestamp>,
    /// Why it became invalid. Not every authority says it here.
    pub error: Option<Problem>,
    /// When to look again, if the authority says.
    pub retry_after: Option<Duration>,
}

/// State of an order (RFC 8555, section 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the state of RFC 8555 with that name")]
pub enum OrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// An authorization as the authority shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Its URL.
    pub url: String,
    /// The name; a wildcard with its `*.`.
    pub name: Name,
    /// Where it stands.
    pub status: AuthorizationStatus,
    /// Ways to prove control.
    pub challenges: Vec<Challenge>,
}

/// State of an authorization or of a challenge (RFC 8555, section 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the state of RFC 8555 with that name")]
pub enum AuthorizationStatus {
    Pending,
    Processing,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

/// One way to prove control of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Its type; one that is not known here is left out of the list.
    pub kind: ChallengeKind,
    /// Its URL.
    pub url: String,
    /// Token; empty for [`ChallengeKind::DnsPersist01`].
    pub token: String,
    /// Where it stands.
    pub status: AuthorizationStatus,
    /// Why it failed.
    pub error: Option<Problem>,
    /// Names of the authority that a persistent record may carry.
    pub issuers: Vec<String>,
}

/// Types of challenges that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the challenge type with that name")]
pub enum ChallengeKind {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "dns-01")]
    Dns01,
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
}

impl ChallengeKind {
    /// The type as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }
}

/// A downloaded certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Leaf first, as PEM, as it came.
    pub pem: String,
    /// URLs of other chains for the same leaf (`Link: rel="alternate"`).
    pub alternates: Vec<String>,
}

/// A renewal window as it came: it may be nonsense, which the schedule finds out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalWindow {
    /// Begin.
    pub start: Timestamp,
    /// End.
    pub end: Timestamp,
    /// Page that explains an unusual window.
    pub explanation: Option<String>,
    /// When to ask again, if the authority says.
    pub retry_after: Option<Duration>,
}

/// A problem document (RFC 7807) inside an order or a challenge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Short name of the type: `rateLimited` for `urn:ietf:params:acme:error:rateLimited`.
    pub kind: String,
    /// The authority's words, cut at [`DETAIL`] bytes.
    pub detail: String,
    /// Problems with single names.
    pub subproblems: Vec<Subproblem>,
}

/// A problem with one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subproblem {
    /// The name as the authority wrote it.
    pub name: Option<String>,
    /// Short name of the type.
    pub kind: String,
    /// The authority's words.
    pub detail: String,
}

/// A step that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step:?}: {}", self.sentence())]
pub struct Refusal {
    /// What was asked.
    pub step: Step,
    /// What came back.
    pub cause: Cause,
    /// `Retry-After`, as a time from now; a date is taken relative to `Date`.
    pub retry_after: Option<Duration>,
    /// `Date` of the answer.
    pub date: Option<Timestamp>,
    /// `Link: rel="help"`.
    pub help: Option<String>,
}

/// What came instead of success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No answer: name, connect, TLS or a broken connection. The text says which.
    Unreachable(String),
    /// Nobody who is believed here vouches for the certificate of the authority itself.
    Distrusted(String),
    /// No whole answer before the deadline.
    Deadline(Duration),
    /// An answer that is no problem document: HTML of an edge, an empty body, JSON that does not
    /// parse. Status, and what it looked like.
    Answer(u16, String),
    /// A problem document.
    Problem(u16, Problem),
    /// The request could not be made: a key that does not load, a URL that is none.
    Local(String),
}

impl Refusal {
    /// A refusal without any header.
    pub fn new(step: Step, cause: Cause) -> Self {
        Self {
            step,
            cause,
            retry_after: None,
            date: None,
            help: None,
        }
    }

    /// Status of the answer, if one came.
    pub fn status(&self) -> Option<u16> {
        match &self.cause {
            Cause::Answer(status, _) | Cause::Problem(status, _) => Some(*status),
            Cause::Unreachable(_) | Cause::Distrusted(_) | Cause::Deadline(_) | Cause::Local(_) => {
                None
            }
        }
    }

    /// The problem document, if one came.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.cause {
            Cause::Problem(_, problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the authority named this type of problem.
    pub fn is(&self, kind: &str) -> bool {
        self.problem().is_some_and(|problem| problem.kind == kind)
    }

    /// What happened, as a person reads it.
    pub fn sentence(&self) -> String {
        match &self.cause {
            Cause::Unreachable(text) | Cause::Distrusted(text) => format!("no answer: {text}"),
            Cause::Deadline(after) => format!("no answer within {} s", after.as_secs()),
            Cause::Answer(status, text) => format!("status {status} without a reason: {text}"),
            Cause::Problem(status, problem) => format!("status {status}, {problem}"),
            Cause::Local(text) => text.clone(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.detail)?;
        for each in &self.subproblems {
            let name = each.name.as_deref().unwrap_or("?");
            write!(formatter, "; {name}: {}: {}", each.kind, each.detail)?;
        }
        Ok(())
    }
}

/// What of an authority's text is kept.
pub const DETAIL: usize = 1_000;

/// Makes authorities out of endpoints; the keeper asks once per endpoint.
pub type Connect = dyn Fn(&Endpoint) -> Result<std::sync::Arc<dyn Ca>, String> + Send + Sync;

/// A leaf key in PKCS#8, DER: never printed, wiped when dropped.
pub type LeafKey = Secret;
