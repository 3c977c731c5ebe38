//! The layer of addresses: which certificate serves a client that names no host.

use std::collections::BTreeSet;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_gateway::model::{CertificatePlan, Delta};

use super::Engine;
use super::findings::Origin;
use crate::translate::address::{AddressFragment, merge};

impl Engine {
    /// Exchanges what an object contributes.
    pub(super) fn replace_addresses(
        &mut self,
        old: &[Arc<AddressFragment>],
        new: &[Arc<AddressFragment>],
    ) {
        if old == new {
            return;
        }
        for claim in old {
            self.dirty.addresses.insert(claim.address);
            if let Some(claims) = self.by_address.get_mut(&claim.address) {
                claims.retain(|other| other.age != claim.age);
                if claims.is_empty() {
                    self.by_address.remove(&claim.address);
                }
            }
        }
        for claim in new {
            self.dirty.addresses.insert(claim.address);
            let claims = self.by_address.entry(claim.address).or_default();
            let place = claims.partition_point(|other| other.age < claim.age);
            claims.insert(place, Arc::clone(claim));
        }
    }

    /// Notes which addresses the default certificate serves anyway.
    pub(super) fn default_serves(&mut self, plan: Option<&CertificatePlan>) {
        let new: BTreeSet<IpAddr> = plan
            .into_iter()
            .flat_map(|plan| &plan.addresses)
            .copied()
            .collect();
        let old = mem::replace(&mut self.default_addresses, new);
        let changed = old.symmetric_difference(&self.default_addresses);
        self.dirty.addresses.extend(changed);
    }

    pub(super) fn merge_addresses(&mut self, delta: &mut Delta) {
        for address in mem::take(&mut self.dirty.addresses) {
            let claims = self.by_address.get(&address);
            let claims = claims.map(Vec::as_slice).unwrap_or_default();
            let (owner, list) = merge(claims);
            self.note(Origin::Address(address), list);
            let new = owner.filter(|_| !self.default_addresses.contains(&address));
            if self.addresses.get(&address) == new.as_ref() {
                continue;
            }
            self.use_certificate(new.clone());
            let old = match &new {
                Some(slot) => self.addresses.insert(address, slot.clone()),
                None => self.addresses.remove(&address),
            };
            self.drop_certificate(old);
            delta.addresses.push((address, new));
        }
    }
}
