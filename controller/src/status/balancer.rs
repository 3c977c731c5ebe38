//! `status.loadBalancer` of our Ingresses.
//!
//! Invariants: written only where it differs; other fields of the status are never touched; an
//! object that was deleted and made again under the same name is not taken for the old one; an
//! object is not written more often than every [`SPACING`], so two controllers that disagree do not
//! exhaust the API server.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::address::{Address, Addresses, published};
use super::desk::{Duty, Rest, Step};
use super::news::differences;
use crate::engine::{Ingresses, Report};
use crate::leader::Clients;
use crate::source::ObjectKey;

pub(super) struct Balancer {
    clients: Clients,
    owned: Arc<Ingresses>,
    addresses: Arc<[Address]>,
    /// What was written into which version of an object. Until the next version comes, that is
    /// what its status says.
    written: HashMap<ObjectKey, (Arc<Ingress>, Arc<[Address]>)>,
}

impl Balancer {
    pub(super) fn new(clients: Clients) -> Self {
        Self {
            clients,
            owned: Arc::default(),
            addresses: Arc::default(),
            written: HashMap::default(),
        }
    }

    /// Whether the status of an object, as far as is known, is not what it should be.
    fn differs(&self, key: &ObjectKey, ingress: &Arc<Ingress>) -> bool {
        match self.written.get(key) {
            Some((version, addresses)) if Arc::ptr_eq(version, ingress) => {
                *addresses != self.addresses
            }
            _ => *published(ingress) != *self.addresses,
        }
    }
}

impl Duty for Balancer {
    type Key = ObjectKey;
    type Written = (Arc<Ingress>, Arc<[Address]>);

    fn survey(&mut self, report: &Report, addresses: &Addresses) -> Vec<ObjectKey> {
        let Some(addresses) = addresses else {
            return Vec::new();
        };
        let moved = self.addresses != *addresses;
        if Arc::ptr_eq(&self.owned, &report.owned) && !moved {
            return Vec::new();
        }
        self.addresses = Arc::clone(addresses);
        let old = std::mem::replace(&mut self.owned, Arc::clone(&report.owned));
        let mut changed = Vec::new();
        differences(
            old.iter(),
            self.owned.iter(),
            |left, right| left.0.cmp(right.0),
            |left, right| !moved && Arc::ptr_eq(left.1, right.1),
            |(key, _)| changed.push(key.clone()),
        );
        for key in &changed {
            let present = self.owned.get(key);
            let stale = |(version, _): &(Arc<Ingress>, _)| {
                present.is_none_or(|present| !Arc::ptr_eq(present, version))
            };
            if self.written.get(key).is_some_and(stale) {
                self.written.remove(key);
            }
        }
        if self.addresses.is_empty() {
            // A load balancer that has no address yet takes none away: another controller may have
            // written it, and clients may be using it.
            return Vec::new();
        }
        changed.retain(|key| {
            let present = self.owned.get(key);
            present.is_some_and(|ingress| self.differs(key, ingress))
        });
        changed
    }

    fn request(&mut self, key: &ObjectKey, _now: Instant) -> Step<Self::Written> {
        let Some(ingress) = self
            .owned
            .get(key)
            .filter(|ingress| self.differs(key, ingress))
        else {
            return Step::Nothing;
        };
        if self.addresses.is_empty() {
            return Step::Nothing;
        }
        let (ingress, addresses) = (Arc::clone(ingress), Arc::clone(&self.addresses));
        let (client, key) = ((self.clients)(), key.clone());
        Step::Send(Box::pin(async move {
            write(client, &key, &ingress, &addresses).await?;
            Ok((ingress, addresses))
        }))
    }

    fn learn(&mut self, key: &ObjectKey, written: Self::Written, _now: Instant) -> Rest {
        self.written.insert(key.clone(), written);
        Rest::For(SPACING)
    }
}

/// Writes addresses into the status of this very object.
pub(super) async fn write(
    client: Client,
    key: &ObjectKey,
    ingress: &Ingress,
    addresses: &[Address],
) -> kube::Result<()> {
    let api: Api<Ingress> = Api::namespaced(client, &key.namespace);
    let patch = patch(ingress.metadata.uid.as_deref(), addresses);
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_status(&key.name, &params, &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// The `uid` makes the API server refuse the patch for another object of the same name.
fn patch(uid: Option<&str>, addresses: &[Address]) -> Value {
    let entries: Vec<_> = addresses.iter().map(Address::entry).collect();
    let status = json!({"loadBalancer": {"ingress": entries}});
    match uid {
        Some(uid) => json!({"metadata": {"uid": uid}, "status": status}),
        None => json!({"status": status}),
    }
}

/// Who wrote it, in `metadata.managedFields`.
pub(super) const MANAGER: &str = "gatehouse";
/// Between two writes of one object.
const SPACING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;
    use crate::status::tests::{offline, scene};

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            kind: Kind::Ingress,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn addresses(texts: &[&str]) -> Arc<[Address]> {
        texts
            .iter()
            .filter_map(|text| Address::parse(text))
            .collect()
    }

    fn ingress(name: &str, address: &str) -> Arc<Ingress> {
        let status = match address {
            "" => String::new(),
            address => format!(", status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}"),
        };
        let yaml =
            format!("{{metadata: {{name: {name}, namespace: shop, uid: u-{name}}}{status}}}");
        Arc::new(serde_saphyr::from_str(&yaml).unwrap())
    }

    #[tokio::test]
    async fn only_what_differs_is_written_and_only_once_for_each_version() {
        let mut duty = Balancer::new(offline());
        let now = Instant::now();
        let report = scene(
            [
                (key("done"), ingress("done", "203.0.113.7")),
                (key("new"), ingress("new", "")),
                (key("old"), ingress("old", "192.0.2.1")),
            ],
            Vec::new(),
        );
        assert!(duty.survey(&report, &None).is_empty(), "unknown addresses");
        let ours = Some(addresses(&["203.0.113.7"]));
        assert!(
            duty.survey(&report, &Some(addresses(&[]))).is_empty(),
            "none yet"
        );
        assert_eq!(duty.survey(&report, &ours), [key("new"), key("old")]);
        assert!(
            duty.survey(&report, &ours).is_empty(),
            "nothing has changed"
        );

        let version = Arc::clone(&report.owned[&key("new")]);
        let rest = duty.learn(&key("new"), (version, ours.clone().unwrap()), now);
        assert_eq!(rest, Rest::For(SPACING));
        assert!(matches!(duty.request(&key("new"), now), Step::Nothing));
        assert!(matches!(duty.request(&key("old"), now), Step::Send(_)));

        // The watch brings the written version, and somebody else overwrites the other.
        let report = scene(
            [
                (key("new"), ingress("new", "203.0.113.7")),
                (key("old"), ingress("old", "192.0.2.9")),
            ],
            Vec::new(),
        );
        assert_eq!(duty.survey(&report, &ours), [key("old")]);
        let both = Some(addresses(&["203.0.113.7", "2001:db8::1"]));
        assert_eq!(duty.survey(&report, &both), [key("new"), key("old")]);
    }

    #[test]
    fn a_patch_names_the_object_and_the_one_field() {
        let list = addresses(&["lb.example.com", "203.0.113.7"]);
        assert_eq!(
            patch(Some("u"), &list),
            json!({"metadata": {"uid": "u"}, "status": {"loadBalancer": {"ingress":
                [{"hostname": "lb.example.com"}, {"ip": "203.0.113.7"}]}}})
        );
    }
}
