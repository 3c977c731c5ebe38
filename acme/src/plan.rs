//! From what objects ask for to the certificates that are wanted.
//!
//! Pure: no clock, no I/O, no logging; the output is sorted, so equal requests give equal plans.
//!
//! Invariants:
//! - One certificate per target; of several requests for one target the oldest decides.
//! - Names are normalized, sorted, without duplicates and without one that a wildcard covers.
//! - What is not allowed is not wanted: whatever is in [`Plan::wanted`] may be ordered.
//! - A name that belongs to another namespace is not wanted; whose it is, the request says.
//! - What there is decides only whether a wildcard certificate makes another one needless.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ca::ChallengeKind;
use crate::issuers::{IssuerSpec, Issuers, KeyKind};
use crate::leaf;
use crate::names::Name;
use crate::stock::Stocks;

mod cover;

/// Where a certificate goes: a Secret, or in a directory what stands for one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.secret)
    }
}

/// One object's wish for one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The object, as people know it: `Ingress shop/web`.
    pub object: String,
    /// When it was created: the oldest wins, of equally old ones the greater name of the object.
    pub since: Timestamp,
    /// Where the certificate goes.
    pub target: Target,
    /// Identity of the namespace, so that a new one of the same name inherits no key.
    pub namespace_uid: String,
    /// Labels of the namespace.
    pub labels: BTreeMap<String, String>,
    /// Hosts as written.
    pub hosts: Vec<String>,
    /// Those that belong to another namespace, each with a sentence that says to which.
    pub elsewhere: BTreeMap<Name, String>,
    /// Issuer by name; the default one if absent.
    pub issuer: Option<String>,
    /// Profile instead of the issuer's.
    pub profile: Option<String>,
    /// Kind of key instead of the issuer's.
    pub key: Option<KeyKind>,
    /// Challenges instead of the issuer's.
    pub challenges: Option<Vec<ChallengeKind>>,
    /// Order even if a wildcard certificate of the namespace covers all hosts.
    pub always: bool,
}

impl Request {
    /// A wish for these hosts that is older than all others and says nothing else.
    pub fn new(object: String, target: Target, hosts: Vec<String>) -> Self {
        Self {
            object,
            since: Timestamp::UNIX_EPOCH,
            target,
            namespace_uid: String::new(),
            labels: BTreeMap::new(),
            hosts,
            elsewhere: BTreeMap::new(),
            issuer: None,
            profile: None,
            key: None,
            challenges: None,
            always: false,
        }
    }
}

/// A certificate that is wanted and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Where it goes.
    pub target: Target,
    /// Identity of its namespace.
    pub namespace_uid: String,
    /// Its names.
    pub names: Vec<Name>,
    /// Its issuer by name.
    pub issuer: String,
    /// Its profile, if one is asked for.
    pub profile: Option<String>,
    /// Kind of its key.
    pub key: KeyKind,
    /// Challenges in the order of preference.
    pub challenges: Vec<ChallengeKind>,
}

impl Wanted {
    /// Whether the namespace of this identity is another one than that of the wish, under the same
    /// name: another tenant, who inherits nothing. Where identities are not known nobody is.
    pub fn is_of_another(&self, namespace_uid: &str) -> bool {
        is_another(&self.namespace_uid, namespace_uid)
    }

    /// Equal for equal certificates: names, issuer, profile and kind of key. The order of challenges
    /// does not make another certificate.
    pub fn hash(&self) -> String {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        let text = format!(
            "{}|{}|{}|{:?}",
            names.join(","),
            self.issuer,
            self.profile.as_deref().unwrap_or_default(),
            self.key
        );
        leaf::fingerprint(text.as_bytes())
    }
}

/// Whether two identities of a namespace are of different tenants. One that is not known is nobody's.
pub(crate) fn is_another(one: &str, other: &str) -> bool {
    !one.is_empty() && !other.is_empty() && one != other
}

/// Something that a user can mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Who asked.
    pub object: String,
    /// For what.
    pub target: Target,
    /// Which rule.
    pub code: Code,
    /// What is wrong and what to do.
    pub message: String,
}

/// The rules of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Two objects want different certificates in one Secret.
    ConflictingTls,
    /// `allow` does not name it, or another namespace was first.
    NotAllowed,
    /// There is no such issuer, or none is named and there is no default.
    UnknownIssuer,
    /// A host that no certificate can carry; the others are ordered.
    BadName,
    /// No host is left that a certificate can carry.
    NoName,
    /// More names than the profile takes.
    TooManyNames,
    /// No challenge can prove one of the names.
    NoChallenge,
    /// Not ordered: a wildcard certificate of the namespace that is valid, or on its way, covers all hosts.
    Covered,
    /// Ordered, but another certificate of the namespace is for the same hosts, and older.
    Doubled,
}

/// What to have, and what is wrong with the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sorted by target.
    pub wanted: Vec<Wanted>,
    /// What is asked for and must not be ordered now, with the identity of its namespace: what there is
    /// of it is kept.
    pub refused: BTreeMap<Target, String>,
    /// Which certificate of the same namespace is served where another one is asked for.
    pub covers: BTreeMap<Target, Target>,
    /// What was looked at of what there is; the plan is another one only if that changes,
    pub weighed: BTreeSet<Target>,
    /// or at this time.
    pub again: Option<Timestamp>,
    /// Sorted.
    pub findings: Vec<Finding>,
}

/// Plans all requests, by what there is now.
pub fn plan(issuers: &Issuers, requests: &[Request], there: (&Stocks, Timestamp)) -> Plan {
    let mut planner = Planner {
        issuers,
        findings: Vec::new(),
    };
    let mut by_age: Vec<&Request> = requests.iter().collect();
    by_age.sort_by_key(|each| rank(each));
    let mut chosen: BTreeMap<&Target, (&Request, Wanted)> = BTreeMap::new();
    for request in by_age {
        let Some(wanted) = planner.wanted(request) else {
            continue;
        };
        match chosen.entry(&request.target) {
            Entry::Vacant(vacant) => {
                vacant.insert((request, wanted));
            }
            Entry::Occupied(first) => planner.compare(first.get(), request, &wanted),
        }
    }
    let cover = planner.cover(&chosen, there);
    chosen.retain(|target, _| !cover.left_out.contains(*target));
    planner.doubled(&chosen);
    let refused = requests
        .iter()
        .filter(|request| !chosen.contains_key(&request.target));
    let refused = refused.map(|request| (request.target.clone(), request.namespace_uid.clone()));
    let refused = refused.collect();
    let mut findings = planner.findings;
    findings.sort();
    findings.dedup();
    let wanted = chosen.into_values().map(|(_, wanted)| wanted).collect();
    Plan {
        wanted,
        refused,
        covers: cover.by,
        weighed: cover.weighed,
        again: cover.again,
        findings,
    }
}

struct Planner<'a> {
    issuers: &'a Issuers,
    findings: Vec<Finding>,
}

impl<'a> Planner<'a> {
    fn find(&mut self, request: &Request, code: Code, message: String) {
        self.findings.push(Finding {
            object: request.object.clone(),
            target: request.target.clone(),
            code,
            message,
        });
    }

    fn wanted(&mut self, request: &'a Request) -> Option<Wanted> {
        let (name, spec) = self.issuer(request)?;
        let names = self.names(request);
        if names.is_empty() {
            let message = "none of its hosts can be in a certificate, so nothing is ordered: correct the \
                           hosts of this entry";
            self.find(request, Code::NoName, message.to_owned());
            return None;
        }
        if let Some(refused) = self.refused(request, name, spec, &names) {
            self.find(request, Code::NotAllowed, refused);
            return None;
        }
        let profile = request.profile.clone().or_else(|| spec.profile.clone());
        let most = most_names(profile.as_deref());
        if names.len() > most {
            let profile = profile.as_deref().unwrap_or("classic");
            let message = format!(
                "{} names in one certificate, but profile {profile:?} takes {most}: spread them \
                 over several Secrets",
                names.len()
            );
            self.find(request, Code::TooManyNames, message);
            return None;
        }
        let challenges = request
            .challenges
            .clone()
            .unwrap_or_else(|| spec.challenges.clone());
        if let Some(name) = names.iter().find(|name| !provable(name, &challenges, spec)) {
            let message = format!(
                "no challenge can prove {name}: a wildcard needs dns-01 with a solver for its \
                 zone in the issuer's dns, an address http-01 or tls-alpn-01"
            );
            self.find(request, Code::NoChallenge, message);
            return None;
        }
        Some(Wanted {
            target: request.target.clone(),
            namespace_uid: request.namespace_uid.clone(),
            names,
            issuer: name.to_owned(),
            profile,
            key: request.key.unwrap_or(spec.key),
            challenges,
        })
    }

    fn issuer(&mut self, request: &'a Request) -> Option<(&'a str, &'a IssuerSpec)> {
        let issuers = self.issuers;
        let Some(name) = request.issuer.as_ref().or(issuers.default.as_ref()) else {
            let message = "no issuer is named and acme.default is not set: name one".to_owned();
            self.find(request, Code::UnknownIssuer, message);
            return None;
        };
        let found = issuers.issuers.get_key_value(name);
        if found.is_none() {
            let message = format!("no issuer {name:?}; there are {}", issuers.names());
            self.find(request, Code::UnknownIssuer, message);
        }
        found.map(|(name, spec)| (name.as_str(), spec))
    }

    fn names(&mut self, request: &Request) -> Vec<Name> {
        let mut names = BTreeSet::new();
        for host in &request.hosts {
            match Name::parse(host) {
                Ok(name) => {
                    names.insert(name);
                }
                Err(error) => self.find(request, Code::BadName, error.to_string()),
            }
        }
        let covered = |name: &&Name| {
            names
                .iter()
                .any(|other| other != *name && other.covers(name))
        };
        names
            .iter()
            .filter(|name| !covered(name))
            .cloned()
            .collect()
    }

    fn refused(
        &self,
        request: &Request,
        issuer: &str,
        spec: &IssuerSpec,
        names: &[Name],
    ) -> Option<String> {
        let namespace = request.target.namespace.as_str();
        names.iter().find_map(|name| {
            if !self.issuers.allows(spec, namespace, &request.labels, name) {
                return Some(format!(
                    "namespace {namespace} may not have {name} from issuer {issuer}: the operator \
                     adds it to acme.issuers.{issuer}.allow"
                ));
            }
            request.elsewhere.get(name).cloned()
        })
    }

    fn compare(&mut self, (first, kept): &(&Request, Wanted), request: &Request, wanted: &Wanted) {
        if kept == wanted {
            return;
        }
        let what = if kept.names == wanted.names {
            "other settings"
        } else {
            "other hosts"
        };
        let message = format!(
            "{} {}, and wants {what} in Secret {}: use another secretName, or write the same hosts and \
             settings",
            first.object,
            lead(first, request),
            request.target.secret
        );
        self.find(request, Code::ConflictingTls, message);
    }

    /// Says which certificates are for nothing but hosts that older ones of their namespace have.
    fn doubled(&mut self, chosen: &BTreeMap<&Target, (&Request, Wanted)>) {
        let mut by_age: Vec<&(&Request, Wanted)> = chosen.values().collect();
        by_age.sort_by_key(|(request, _)| rank(request));
        let mut first: BTreeMap<(&str, &Name), &Request> = BTreeMap::new();
        for (request, wanted) in by_age {
            let mut older: Vec<&Request> = Vec::new();
            for name in &wanted.names {
                let known = first.entry((&request.target.namespace, name));
                match known {
                    Entry::Vacant(vacant) => {
                        vacant.insert(request);
                    }
                    Entry::Occupied(known) => older.push(known.get()),
                }
            }
            let other = older.first().filter(|_| older.len() == wanted.names.len());
            if let Some(other) = other.filter(|_| !request.always) {
                let message = format!(
                    "Secret {} of {}, which goes first, is for the same hosts and is served, so this \
                     certificate is ordered and not served: name the same Secret in both, or say \
                     gatehouse.dev/tls-always if something else uses it",
                    other.target.secret, other.object
                );
                self.find(request, Code::Doubled, message);
            }
        }
    }
}

/// The order of precedence, as of routing: of equally old objects the greater name goes first.
fn rank(request: &Request) -> impl Ord + use<'_> {
    let name = Reverse(&request.object);
    (request.since, name, &request.target, &request.hosts)
}

/// Why one request goes before another; continues the name of its object.
fn lead(first: &Request, other: &Request) -> &'static str {
    if first.since < other.since {
        "is older"
    } else if first.object != other.object {
        "is as old and has the greater name"
    } else {
        "has an entry that goes first"
    }
}

/// Whether one of the challenges can prove the name.
fn provable(name: &Name, challenges: &[ChallengeKind], spec: &IssuerSpec) -> bool {
    challenges.iter().any(|kind| can_prove(*kind, name, spec))
}

/// Whether a challenge of this type can prove the name with this issuer's solvers.
pub fn can_prove(kind: ChallengeKind, name: &Name, spec: &IssuerSpec) -> bool {
    match (kind, name.base()) {
        (ChallengeKind::Http01 | ChallengeKind::TlsAlpn01, _) => !name.is_wildcard(),
        (ChallengeKind::Dns01, Some(domain)) => {
            spec.dns.iter().any(|solver| solver.fits(domain).is_some())
        }
        (ChallengeKind::DnsPersist01, Some(_)) => true,
        (ChallengeKind::Dns01 | ChallengeKind::DnsPersist01, None) => false,
    }
}

/// Names in one certificate: Let's Encrypt's limits, which profiles elsewhere do not exceed either.
fn most_names(profile: Option<&str>) -> usize {
    match profile {
        Some("tlsserver" | "shortlived") => 25,
        _ => 100,
    }
}

#[cfg(test)]
mod tests;
