//! Which namespace may have a certificate for a name.
//!
//! Pure: no clock, no I/O. Decided over all Ingresses that are ours, whether they ask for certificates
//! or not, in every mode of `--host-ownership`: a key that was handed out cannot be taken back.
//!
//! Invariants:
//! - [`Age`] is the one order, as in `translate::merge`: who is served a host first owns it.
//! - A name has one owner at most; a wildcard is owned only by who owns it and, of the claims to names
//!   that it is good for, has the oldest.
//! - A tls entry alone takes nothing from whoever has rules for the host: it is not served.

use std::collections::BTreeMap;

use gatehouse_acme::names::Name;
use k8s_openapi::api::networking::v1::Ingress;

use super::settings;
use crate::engine::Ingresses;
use crate::source::ObjectKey;
use crate::translate::{Age, form, ingress};

/// Who claims which names.
#[derive(Debug, Default)]
pub(super) struct Owners<'a> {
    names: BTreeMap<Name, Claims<'a>>,
    /// By a domain, the names one label below it that a wildcard is good for.
    below: BTreeMap<String, Vec<Name>>,
}

/// The oldest claims to one name.
#[derive(Debug, Default)]
struct Claims<'a> {
    /// By a rule for it: routing's owner of the host.
    ruled: Option<Claim<'a>>,
    /// By a tls entry of an Ingress whose wildcard rule serves the host.
    served: Option<Claim<'a>>,
    /// By any tls entry.
    listed: Option<Claim<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    age: Age,
    object: &'a ObjectKey,
}

impl<'a> Owners<'a> {
    /// Of all Ingresses that are ours; those that `--disable-catch-all` leaves out have no rules.
    pub(super) fn of(ingresses: &'a Ingresses, disable_catch_all: bool) -> Self {
        let mut owners = Self::default();
        for (object, ingress) in ingresses {
            owners.claim(object, ingress, disable_catch_all);
        }
        for name in owners.names.keys().filter(|name| !name.is_wildcard()) {
            if let Name::Dns(text) = name
                && let Some((_, domain)) = text.split_once('.')
            {
                let below = owners.below.entry(domain.to_owned()).or_default();
                below.push(name.clone());
            }
        }
        owners
    }

    fn claim(&mut self, object: &'a ObjectKey, ingress: &Ingress, disable_catch_all: bool) {
        let Some(spec) = &ingress.spec else { return };
        let claim = Claim {
            age: Age::of(&ingress.metadata),
            object,
        };
        let left_out = ingress::is_left_out(spec, disable_catch_all);
        let rules = spec.rules.iter().flatten().filter(|_| !left_out);
        let hosts = rules.filter_map(|rule| form::host_of(rule, "").ok());
        let ruled: Vec<Name> = hosts
            .filter_map(|host| Name::parse(&host.to_string()).ok())
            .collect();
        for name in &ruled {
            let claims = self.names.entry(name.clone()).or_default();
            keep_oldest(&mut claims.ruled, &claim);
        }
        let entries = spec.tls.iter().flatten();
        let hosts = entries.flat_map(|entry| entry.hosts.iter().flatten());
        let hosts = hosts.filter_map(|host| Name::parse(host).ok());
        let addresses = settings::addresses(ingress.metadata.annotations.as_ref());
        for name in hosts.chain(
            addresses
                .into_iter()
                .map(|address| Name::Ip(address.to_canonical())),
        ) {
            let served = ruled.iter().any(|rule| rule.covers(&name));
            let claims = self.names.entry(name).or_default();
            keep_oldest(&mut claims.listed, &claim);
            if served {
                keep_oldest(&mut claims.served, &claim);
            }
        }
    }

    /// Why an Ingress of this namespace and age may not have a certificate for a name: it is another's.
    pub(super) fn stranger(&self, (namespace, age): (&str, &Age), name: &Name) -> Option<String> {
        let claims = self.names.get(name)?;
        if let Some(owner) = claims.owners().find(|claim| !claim.is_of(namespace)) {
            return Some(format!("{name} {}", owner.whose(age)));
        }
        let domain = name.base().filter(|_| name.is_wildcard())?;
        let own = claims.oldest_of(namespace).map_or(age, |claim| &claim.age);
        let below = self.below.get(domain)?.iter();
        let theirs = below.filter_map(|single| {
            let mut owners = self.names.get(single)?.owners();
            let owner = owners.find(|claim| !claim.is_of(namespace))?;
            // Who comes later takes a name from below a wildcard, and not the wildcard.
            (owner.age < *own).then_some((owner, single))
        });
        let (owner, single) = theirs.min()?;
        Some(format!(
            "{name} would be good for {single}, which {}",
            owner.whose(age)
        ))
    }
}

impl<'a> Claims<'a> {
    /// Whoever is not all of these is a stranger.
    fn owners(&self) -> impl Iterator<Item = &Claim<'a>> {
        let older = |served: &&Claim<'_>| self.ruled.as_ref().is_none_or(|ruled| **served < *ruled);
        let served = self.served.as_ref().filter(older);
        let first = self.ruled.as_ref().or(self.listed.as_ref());
        first.into_iter().chain(served)
    }

    fn oldest_of(&self, namespace: &str) -> Option<&Claim<'a>> {
        let all = [&self.ruled, &self.served, &self.listed];
        let own = all.into_iter().flatten();
        own.filter(|claim| claim.is_of(namespace)).min()
    }
}

impl Claim<'_> {
    fn is_of(&self, namespace: &str) -> bool {
        *self.object.namespace == *namespace
    }

    /// Continues a name; said to an object of this age.
    fn whose(&self, age: &Age) -> String {
        let lead = if self.age < *age {
            self.age.lead_over(age)
        } else {
            "has a rule for it"
        };
        let (namespace, object) = (&self.object.namespace, self.object);
        format!(
            "belongs to namespace {namespace}, whose {object} {lead}: use another host, or agree with \
             the owner"
        )
    }
}

fn keep_oldest<'a>(kept: &mut Option<Claim<'a>>, claim: &Claim<'a>) {
    if kept.as_ref().is_none_or(|kept| claim < kept) {
        *kept = Some(claim.clone());
    }
}

#[cfg(test)]
mod tests;
