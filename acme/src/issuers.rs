//! What an operator writes about authorities: the key `acme` of a file or of Helm values.
//!
//! Invariants:
//! - Unknown fields are refused, and every complaint names its field and what to write instead.
//! - Defaults are what the strictest public authority asks for; nothing is issued that `allow` does
//!   not name.
//! - Secrets are named here, never written here.

mod checks;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ca::ChallengeKind;
use crate::dns::SolverSpec;
use crate::listing::listed;
use crate::names::Name;

/// All issuers of an installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuers {
    /// By name.
    pub issuers: BTreeMap<String, IssuerSpec>,
    /// The one that is meant where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What an issuer without `allow` may issue.
    #[serde(default)]
    pub unlisted: Unlisted,
}

/// What an issuer without `allow` may issue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unlisted {
    /// Nothing.
    #[default]
    Deny,
    /// Everything that is asked for.
    Allow,
}

/// One authority and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerSpec {
    /// URL of the ACME directory.
    pub directory: String,
    /// A directory to prove a failed validation on first; nothing is issued from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_directory: Option<String>,
    /// Whether the operator accepts the authority's terms of service.
    #[serde(default)]
    pub accept_terms: bool,
    /// E-mail address for the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Profile of the authority, such as `tlsserver`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Kind of the certificates' keys.
    #[serde(default)]
    pub key: KeyKind,
    /// Whether a renewal keeps the key.
    #[serde(default)]
    pub reuse_key: bool,
    /// Types of challenges in the order of preference.
    #[serde(default = "default_challenges")]
    pub challenges: Vec<ChallengeKind>,
    /// Who writes TXT records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<SolverSpec>,
    /// Who may have certificates for what. Nobody, unless `unlisted` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Allow>>,
    /// Secret with the authority's own roots in `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Binding of the account to one that the authority knows otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab: Option<Eab>,
    /// Common name of the root whose chain is preferred, if the authority offers several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// Issuers to turn to when this one is away and a certificate is missing or nearly over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// Which tokens HTTP-01 is answered for.
    #[serde(default, rename = "http01")]
    pub http01: Http01,
    /// How fast to order.
    #[serde(default)]
    pub limits: Limits,
    /// Whether `http://` is accepted for a directory on this machine.
    #[serde(default)]
    pub insecure: bool,
}

/// External account binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Eab {
    /// Key identifier from the authority.
    pub kid: String,
    /// Secret with the MAC key, base64url, in `mac`.
    pub secret: String,
}

/// Hosts that some namespaces may have certificates for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Allow {
    /// Which namespaces; all, if absent.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// `example.org` is itself, `*.example.org` every name below it and the wildcard itself (also
    /// `*.localhost` and the like), `*` everything; addresses as they are, or `10.0.0.0/8`.
    pub hosts: Vec<String>,
}

/// Selects namespaces by name or label; both have to fit where both are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespaces {
    /// Names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<BTreeSet<String>>,
    /// Labels that all have to be there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// Kinds of keys for certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum KeyKind {
    #[default]
    P256,
    P384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

/// Which tokens HTTP-01 is answered for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Http01 {
    /// Every token, for hosts that are managed: a replica that starts late can answer.
    #[default]
    Stateless,
    /// Tokens on the board only.
    Published,
}

/// How fast an account orders; the defaults stay below Let's Encrypt's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Orders for new sets of names in a minute.
    pub orders_per_minute: u32,
    /// Orders for new sets of names in three hours.
    pub orders_per_three_hours: u32,
    /// Renewals in a minute.
    pub renewals_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            orders_per_minute: 20,
            orders_per_three_hours: 250,
            renewals_per_minute: 100,
        }
    }
}

fn default_challenges() -> Vec<ChallengeKind> {
    vec![
        ChallengeKind::Http01,
        ChallengeKind::TlsAlpn01,
        ChallengeKind::Dns01,
    ]
}

/// A file that holds issuers and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    acme: Issuers,
}

impl Issuers {
    /// Reads a file with the one key `acme`. Every complaint is a sentence of its own.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if text.len() > LONGEST_FILE {
            return Err(vec![format!(
                "the file is longer than {LONGEST_FILE} bytes"
            )]);
        }
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| shape::complaints(text, &error))?;
        let complaints = file.acme.complaints();
        if complaints.is_empty() {
            Ok(file.acme)
        } else {
            Err(complaints)
        }
    }

    /// What is wrong beyond the shape, sorted.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.issuers.is_empty() {
            found.push("acme.issuers is empty: name at least one authority".to_owned());
        }
        if let Some(name) = &self.default
            && !self.issuers.contains_key(name)
        {
            found.push(format!(
                "acme.default: there is no issuer {name:?}; there are {}",
                self.names()
            ));
        }
        for (name, spec) in &self.issuers {
            let at = format!("acme.issuers.{name}");
            if !is_issuer_name(name) {
                found.push(format!("{at}: a name is 1 to 40 of a-z, 0-9 and inner '-'"));
            }
            spec.complaints(&at, &mut found);
            for other in &spec.fallback {
                if other == name || !self.issuers.contains_key(other) {
                    found.push(format!(
                        "{at}.fallback: {other:?} is not another issuer; there are {}",
                        self.names()
                    ));
                }
            }
        }
        found.sort();
        found
    }

    /// The names of some, or `none`.
    pub(crate) fn names(&self) -> String {
        listed(self.issuers.keys())
    }

    /// Whether `issuer` may issue `name` for a namespace.
    pub fn allows(
        &self,
        issuer: &IssuerSpec,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        name: &Name,
    ) -> bool {
        match &issuer.allow {
            None => self.unlisted == Unlisted::Allow,
            Some(rules) => rules.iter().any(|rule| {
                rule.namespaces.selects(namespace, labels)
                    && rule
                        .hosts
                        .iter()
                        .any(|host| Pattern::parse(host).is_ok_and(|pattern| pattern.fits(name)))
            }),
        }
    }
}

impl IssuerSpec {
    fn complaints(&self, at: &str, found: &mut Vec<String>) {
        let directories = [
            ("directory", Some(&self.directory)),
            ("testDirectory", self.test_directory.as_ref()),
        ];
        for (field, url) in directories {
            let Some(url) = url else { continue };
            if let Err(why) = checks::directory(url, self.insecure) {
                found.push(format!("{at}.{field}: {why}"));
            }
        }
        if !self.accept_terms {
            found.push(format!(
                "{at}.acceptTerms: read the authority's terms of service and write true"
            ));
        }
        if let Some(contact) = &self.contact
            && let Err(why) = checks::contact(contact)
        {
            found.push(format!("{at}.contact: {why}"));
        }
        let secrets = [
            ("caBundle", self.ca_bundle.as_ref()),
            ("eab.secret", self.eab.as_ref().map(|eab| &eab.secret)),
        ];
        for (field, name) in secrets {
            if let Some(Err(why)) = name.map(|name| checks::secret(name)) {
                found.push(format!("{at}.{field}: {why}"));
            }
        }
        for (number, solver) in self.dns.iter().enumerate() {
            checks::solver(&format!("{at}.dns[{number}]"), solver, found);
        }
        if self.challenges.is_empty() {
            found.push(format!(
                "{at}.challenges is empty: leave it out for the default"
            ));
        }
        let dns_only = self
            .challenges
            .iter()
            .all(|kind| *kind == ChallengeKind::Dns01);
        if dns_only && self.dns.is_empty() && !self.challenges.is_empty() {
            found.push(format!(
                "{at}.challenges names dns-01 alone: say in {at}.dns who writes the records"
            ));
        }
        let limits = self.limits;
        if limits.orders_per_minute == 0
            || limits.orders_per_three_hours == 0
            || limits.renewals_per_minute == 0
        {
            found.push(format!(
                "{at}.limits: 0 would stop all orders; write at least 1"
            ));
        }
        for rule in self.allow.iter().flatten() {
            for host in &rule.hosts {
                if let Err(why) = Pattern::parse(host) {
                    found.push(format!("{at}.allow: {why}"));
                }
            }
        }
    }
}

impl Namespaces {
    fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self
            .names
            .as_ref()
            .is_none_or(|names| names.contains(namespace));
        let labelled = self
            .match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        named && labelled
    }
}

fn is_issuer_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Hosts of a rule.
enum Pattern {
    /// `*`.
    Everything,
    /// Addresses that begin with these bits.
    Network(std::net::IpAddr, u32),
    /// Every name below, and the wildcard of it.
    Below(String),
    /// Itself.
    One(Name),
}

impl Pattern {
    /// The error is a sentence.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        if let Some((base, bits)) = network(text) {
            return Ok(Self::Network(base, bits));
        }
        let single = text
            .strip_prefix("*.")
            .map(|rest| rest.strip_suffix('.').unwrap_or(rest).to_ascii_lowercase())
            .filter(|label| !label.contains('.'));
        if let Some(label) = single {
            if SPECIAL.contains(&label.as_str()) {
                return Ok(Self::Below(label));
            }
            return Err(format!(
                "{text:?} would be a whole top-level domain: write *.name.{label}, or * for \
                 everything; one label is enough below {} only",
                SPECIAL.join(", ")
            ));
        }
        match Name::parse(text) {
            Ok(Name::Dns(name)) => Ok(match name.strip_prefix("*.") {
                Some(base) => Self::Below(base.to_owned()),
                None => Self::One(Name::Dns(name)),
            }),
            Ok(name) => Ok(Self::One(name)),
            Err(error) => Err(format!(
                "{text:?} is no pattern ({error}); write a name, *.name, *, an address or \
                 address/bits"
            )),
        }
    }

    fn fits(&self, name: &Name) -> bool {
        match (self, name) {
            (Self::Everything, _) => true,
            (Self::Network(base, bits), Name::Ip(address)) => within(*base, *bits, *address),
            (Self::Below(base), Name::Dns(asked)) => match asked.strip_prefix("*.") {
                // The wildcard of `base` itself is what `*.base` names.
                Some(rest) if rest == base => true,
                rest => rest
                    .unwrap_or(asked)
                    .strip_suffix(base.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            },
            (Self::One(allowed), _) => allowed == name,
            (Self::Network(..) | Self::Below(_), _) => false,
        }
    }
}

fn network(host: &str) -> Option<(std::net::IpAddr, u32)> {
    let (address, bits) = host.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((address, bits))
}

fn within(base: std::net::IpAddr, bits: u32, address: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (base, address) {
        (V4(base), V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (V6(base), V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

/// Top-level domains that nobody can register (RFC 6761, RFC 6762, `internal`): names below them are
/// the operator's own.
const SPECIAL: [&str; 5] = ["example", "internal", "local", "localhost", "test"];

/// Far more than any installation writes.
const LONGEST_FILE: usize = 1 << 20;

#[cfg(test)]
mod tests;
