//! From Ingresses to what they ask certificates for.
//!
//! Pure: no clock, no I/O. Invariant: one request for each tls entry with hosts and a Secret, of an
//! Ingress that asks for certificates; the order is that of the Ingresses.

use std::collections::BTreeMap;

use gatehouse_acme::plan::{Request, Target};
use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};
use k8s_openapi::jiff::Timestamp;

use crate::config::Managed;
use crate::engine::Ingresses;
use crate::source::ObjectKey;

/// The issuer whose certificates an Ingress asks for: its name, or `None` for the default one.
pub fn asked(ingress: &Ingress, managed: Managed) -> Option<Option<&str>> {
    let annotations = ingress.metadata.annotations.as_ref()?;
    if managed == Managed::No {
        return None;
    }
    let named = annotations.get(ISSUER).map(|name| name.trim());
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        return Some(Some(name));
    }
    let tracked = || {
        annotations
            .get(TRACKED)
            .is_some_and(|value| value == "true")
    };
    (managed == Managed::Tracked && tracked()).then_some(None)
}

/// What all Ingresses ask for.
pub fn requests(ingresses: &Ingresses, managed: Managed) -> Vec<Request> {
    let asking = ingresses
        .iter()
        .filter_map(|(key, ingress)| Some((key, ingress, asked(ingress, managed)?)));
    asking
        .flat_map(|(key, ingress, issuer)| {
            let spec = ingress.spec.as_ref();
            let entries = spec.and_then(|spec| spec.tls.as_deref());
            let entries = entries.unwrap_or_default().iter();
            entries.filter_map(move |entry| request(key, ingress, entry, issuer))
        })
        .collect()
}

fn request(
    key: &ObjectKey,
    ingress: &Ingress,
    entry: &IngressTLS,
    issuer: Option<&str>,
) -> Option<Request> {
    let secret = entry.secret_name.clone().filter(|name| !name.is_empty())?;
    let hosts = entry.hosts.clone().filter(|hosts| !hosts.is_empty())?;
    let created = ingress.metadata.creation_timestamp.as_ref();
    Some(Request {
        object: key.to_string(),
        since: created.map_or(Timestamp::MAX, |time| time.0),
        target: Target {
            namespace: key.namespace.to_string(),
            secret,
        },
        namespace_uid: String::new(),
        labels: BTreeMap::new(),
        hosts,
        issuer: issuer.map(str::to_owned),
        profile: None,
        key: None,
        challenges: None,
        always: false,
    })
}

/// Names the issuer.
const ISSUER: &str = "gatehouse.dev/issuer";
/// Asks for a certificate of whatever issuer is the default.
pub const TRACKED: &str = "kubernetes.io/tls-acme";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::Kind;

    fn ingresses(annotations: &str) -> Ingresses {
        let yaml = format!(
            "{{metadata: {{namespace: shop, name: web, annotations: {annotations}}}, spec: {{tls: \
             [{{hosts: [a.test, b.test], secretName: one}}, {{hosts: [c.test]}}, {{secretName: \
             two}}, {{hosts: [d.test], secretName: three}}]}}}}"
        );
        let key = ObjectKey {
            kind: Kind::Ingress,
            namespace: "shop".into(),
            name: "web".into(),
        };
        [(key, Arc::new(serde_saphyr::from_str(&yaml).unwrap()))].into()
    }

    #[test]
    fn each_tls_entry_with_hosts_and_a_secret_is_one_request() {
        let asking = ingresses("{gatehouse.dev/issuer: main}");
        let list = requests(&asking, Managed::Annotated);
        let targets: Vec<String> = list.iter().map(|r| r.target.to_string()).collect();
        assert_eq!(targets, ["shop/one", "shop/three"]);
        assert_eq!(list[0].hosts, ["a.test", "b.test"]);
        assert_eq!(list[0].issuer.as_deref(), Some("main"));
        assert_eq!(list[0].object, "Ingress/shop/web");
        assert!(requests(&asking, Managed::No).is_empty());
    }

    #[test]
    fn the_old_annotation_asks_the_default_issuer_when_it_is_tracked() {
        let old = ingresses("{kubernetes.io/tls-acme: 'true'}");
        assert!(requests(&old, Managed::Annotated).is_empty());
        let list = requests(&old, Managed::Tracked);
        assert_eq!((list.len(), &list[0].issuer), (2, &None));
        let off = ingresses("{kubernetes.io/tls-acme: 'false'}");
        assert!(requests(&off, Managed::Tracked).is_empty());
    }
}
