//! From Ingresses to what they ask certificates for.
//!
//! Pure: no clock, no I/O. Invariant: one request for each tls entry with hosts and a Secret, of an
//! Ingress that asks for certificates; the order is that of the Ingresses.

use std::collections::BTreeMap;

use gatehouse_acme::names::Name;
use gatehouse_acme::plan::{Request, Target};
use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};
use k8s_openapi::jiff::Timestamp;

use super::owners::Owners;
use super::settings;
use crate::config::Managed;
use crate::engine::{Ingresses, Namespaces};
use crate::source::ObjectKey;
use crate::translate::Age;

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

/// What is known of the namespaces.
#[derive(Debug, Clone, Copy)]
pub enum Tenants<'a> {
    /// All of them and who they are: of one that is not there, nothing is asked.
    Known(&'a Namespaces),
    /// Labels of some; a directory does not say who they are.
    Labelled(&'a Namespaces),
    /// Nothing.
    Unknown,
}

impl Tenants<'_> {
    /// Identity and labels of a namespace; `None` when it is not there.
    fn of(&self, name: &str) -> Option<(String, BTreeMap<String, String>)> {
        let (namespaces, known) = match self {
            Self::Known(namespaces) => (*namespaces, true),
            Self::Labelled(namespaces) => (*namespaces, false),
            Self::Unknown => return Some(Default::default()),
        };
        match namespaces.get(name).map(|namespace| &namespace.metadata) {
            Some(metadata) => {
                let uid = metadata.uid.clone().filter(|_| known);
                let labels = metadata.labels.clone();
                Some((uid.unwrap_or_default(), labels.unwrap_or_default()))
            }
            None => (!known).then(Default::default),
        }
    }
}

/// What all Ingresses ask for, and what of it belongs to somebody else.
pub fn requests(
    ingresses: &Ingresses,
    tenants: &Tenants<'_>,
    (managed, disable_catch_all): (Managed, bool),
) -> Vec<Request> {
    let owners = Owners::of(ingresses, disable_catch_all);
    let asking = ingresses
        .iter()
        .filter_map(|(key, ingress)| Some((key, ingress, asked(ingress, managed)?)));
    asking
        .flat_map(|(key, ingress, issuer)| {
            let spec = ingress.spec.as_ref();
            let entries = spec.and_then(|spec| spec.tls.as_deref());
            let entries = entries.unwrap_or_default().iter();
            let (tenant, owners) = (tenants.of(&key.namespace), &owners);
            let age = Age::of(&ingress.metadata);
            entries.filter_map(move |entry| {
                let (uid, labels) = tenant.as_ref()?;
                let request = request(key, ingress, entry, issuer)?;
                Some(Request {
                    namespace_uid: uid.clone(),
                    labels: labels.clone(),
                    elsewhere: elsewhere(&request, &age, owners),
                    ..request
                })
            })
        })
        .collect()
}

/// The hosts of a request that belong to another namespace.
fn elsewhere(request: &Request, age: &Age, owners: &Owners<'_>) -> BTreeMap<Name, String> {
    let names = request
        .hosts
        .iter()
        .filter_map(|host| Name::parse(host).ok());
    names
        .filter_map(|name| {
            let whose = owners.stranger((&request.target.namespace, age), &name)?;
            Some((name, whose))
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
    let target = Target {
        namespace: key.namespace.to_string(),
        secret,
    };
    let mut request = Request {
        since: created.map_or(Timestamp::MAX, |time| time.0),
        issuer: issuer.map(str::to_owned),
        ..Request::new(key.to_string(), target, hosts)
    };
    settings::apply(ingress.metadata.annotations.as_ref(), &mut request);
    Some(request)
}

/// Names the issuer.
pub(super) const ISSUER: &str = "gatehouse.dev/issuer";
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
        let list = requests(&asking, &Tenants::Unknown, (Managed::Annotated, false));
        let targets: Vec<String> = list.iter().map(|r| r.target.to_string()).collect();
        assert_eq!(targets, ["shop/one", "shop/three"]);
        assert_eq!(list[0].hosts, ["a.test", "b.test"]);
        assert_eq!(list[0].issuer.as_deref(), Some("main"));
        assert_eq!(list[0].object, "Ingress/shop/web");
        assert!(requests(&asking, &Tenants::Unknown, (Managed::No, false)).is_empty());
    }

    #[test]
    fn the_old_annotation_asks_the_default_issuer_when_it_is_tracked() {
        let old = ingresses("{kubernetes.io/tls-acme: 'true'}");
        assert!(requests(&old, &Tenants::Unknown, (Managed::Annotated, false)).is_empty());
        let list = requests(&old, &Tenants::Unknown, (Managed::Tracked, false));
        assert_eq!((list.len(), &list[0].issuer), (2, &None));
        let off = ingresses("{kubernetes.io/tls-acme: 'false'}");
        assert!(requests(&off, &Tenants::Unknown, (Managed::Tracked, false)).is_empty());
    }

    #[test]
    fn a_request_says_who_its_namespace_is_and_there_is_none_of_an_unknown_one() {
        let asking = ingresses("{gatehouse.dev/issuer: main}");
        let yaml = "{metadata: {name: shop, uid: one, labels: {team: web}}}";
        let shop = Arc::new(serde_saphyr::from_str(yaml).unwrap());
        let namespaces: Namespaces = [("shop".into(), shop)].into();
        let ask = |tenants| requests(&asking, &tenants, (Managed::Annotated, false));
        let known = ask(Tenants::Known(&namespaces));
        assert_eq!((known.len(), known[0].namespace_uid.as_str()), (2, "one"));
        assert_eq!(known[0].labels["team"], "web");
        let labelled = ask(Tenants::Labelled(&namespaces));
        assert_eq!(labelled[0].namespace_uid, "");
        assert_eq!(labelled[0].labels["team"], "web");
        let nobody = Namespaces::new();
        assert!(ask(Tenants::Known(&nobody)).is_empty());
        assert_eq!(ask(Tenants::Labelled(&nobody)).len(), 2);
    }
}
