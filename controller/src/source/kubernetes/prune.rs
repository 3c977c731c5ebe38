//! Objects as the world keeps them: what nobody reads is cut off before it is kept.
//!
//! Invariants: two versions of an object that differ only in what is cut off are equal, so a
//! change of their version, their field managers or their status concerns nobody; identity, age
//! and everything that translation reads stay.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::super::{Kind, Object};

/// A kind that the source reads.
pub(super) trait Pruned: DeserializeOwned + Clone + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// Its metadata.
    fn metadata(&mut self) -> &mut ObjectMeta;
    /// Cuts off what nobody reads below the metadata.
    fn cut(&mut self) {}
    /// As an object of the world.
    fn object(self) -> Object;

    /// Cuts off everything that nobody reads.
    fn prune(&mut self) {
        let metadata = self.metadata();
        *metadata = ObjectMeta {
            name: metadata.name.take(),
            namespace: metadata.namespace.take(),
            uid: metadata.uid.take(),
            creation_timestamp: metadata.creation_timestamp.take(),
            labels: metadata.labels.take(),
            annotations: metadata.annotations.take(),
            ..ObjectMeta::default()
        };
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(LAST_APPLIED);
            if annotations.is_empty() {
                metadata.annotations = None;
            }
        }
        self.cut();
    }
}

macro_rules! pruned {
    ($($kind:ident $(|$object:ident| $cut:expr)?;)+) => {
        $(impl Pruned for $kind {
            const KIND: Kind = Kind::$kind;

            fn metadata(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }

            $(fn cut(&mut self) {
                let $object = self;
                $cut;
            })?

            fn object(self) -> Object {
                Object::$kind(Arc::new(self))
            }
        })+
    };
}

pruned! {
    // Its status stays: whoever writes it must know what is there.
    Ingress |ingress| {
        ingress.metadata.labels = None;
        if let Some(spec) = &mut ingress.spec {
            fit(spec);
        }
    };
    IngressClass |class| class.metadata.labels = None;
    Service |service| {
        service.metadata.labels = None;
        service.status = None;
        if let Some(spec) = &mut service.spec {
            spec.selector = None;
        }
    };
    EndpointSlice |slice| {
        slice.metadata.annotations = None;
        if let Some(labels) = &mut slice.metadata.labels {
            labels.retain(|name, _| name == SERVICE_NAME);
        }
        for endpoint in &mut slice.endpoints {
            endpoint.target_ref = None;
            endpoint.deprecated_topology = None;
            endpoint.hostname = None;
        }
    };
    Endpoints |endpoints| {
        endpoints.metadata.labels = None;
        endpoints.metadata.annotations = None;
    };
    Secret |secret| {
        secret.metadata.labels = None;
        secret.metadata.annotations = None;
    };
    ConfigMap |map| {
        map.metadata.labels = None;
        map.metadata.annotations = None;
        map.binary_data = None;
    };
    Namespace |namespace| {
        namespace.metadata.annotations = None;
        namespace.spec = None;
        namespace.status = None;
    };
}

/// The decoder makes room for four of everything.
fn fit(spec: &mut IngressSpec) {
    if let Some(rules) = &mut spec.rules {
        rules.shrink_to_fit();
        for http in rules.iter_mut().filter_map(|rule| rule.http.as_mut()) {
            http.paths.shrink_to_fit();
        }
    }
    if let Some(tls) = &mut spec.tls {
        tls.shrink_to_fit();
        for hosts in tls.iter_mut().filter_map(|entry| entry.hosts.as_mut()) {
            hosts.shrink_to_fit();
        }
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned<T: Pruned>(yaml: &str) -> T {
        let mut object: T = serde_saphyr::from_str(yaml).unwrap();
        object.prune();
        object
    }

    #[test]
    fn a_new_version_with_the_same_meaning_is_an_equal_object() {
        let before: Service = pruned(
            "{metadata: {name: cart, namespace: shop, resourceVersion: '1', generation: 1, \
             creationTimestamp: '2024-01-01T00:00:00Z', annotations: {a: b}}, \
             spec: {ports: [{port: 80}]}}",
        );
        let after: Service = pruned(
            "{metadata: {name: cart, namespace: shop, resourceVersion: '2', generation: 2, \
             creationTimestamp: '2024-01-01T00:00:00Z', \
             annotations: {a: b, kubectl.kubernetes.io/last-applied-configuration: '{}'}, \
             managedFields: [{manager: kubectl}], ownerReferences: [], finalizers: [x]}, \
             spec: {ports: [{port: 80}], selector: {app: cart}}, status: {loadBalancer: {}}}",
        );
        assert_eq!(before, after);
        assert!(after.metadata.creation_timestamp.is_some());
    }

    #[test]
    fn a_slice_keeps_its_service_and_its_endpoints() {
        let slice: EndpointSlice = pruned(
            "{metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart, \
             app: cart}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], \
             conditions: {ready: false, terminating: true}, targetRef: {kind: Pod, name: p}}]}",
        );
        let labels = slice.metadata.labels.unwrap();
        assert_eq!(labels.len(), 1);
        assert_eq!(labels["kubernetes.io/service-name"], "cart");
        let endpoint = &slice.endpoints[0];
        assert_eq!(
            endpoint.conditions.as_ref().unwrap().terminating,
            Some(true)
        );
        assert!(endpoint.target_ref.is_none());
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"metadata": {"name": "a", "creationTimestamp": null, "labels": null},
                "addressType": "IPv4", "endpoints": null, "ports": null}"#,
        )
        .unwrap();
        assert!(slice.endpoints.is_empty());
        let endpoints: Endpoints =
            serde_json::from_str(r#"{"metadata": {"name": "a"}, "subsets": null}"#).unwrap();
        assert!(endpoints.subsets.unwrap_or_default().is_empty());
        let ingress: Ingress = serde_json::from_str(
            r#"{"metadata": {"name": "a"}, "spec": {"rules": [{"http": {"paths": null}}], "tls": null},
                "status": {"loadBalancer": {}}, "later": {"version": 7}}"#,
        )
        .unwrap();
        assert_eq!(ingress.spec.unwrap().rules.unwrap().len(), 1);
    }
}
