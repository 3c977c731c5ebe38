//! A small universe of objects, in which random events meet each other often.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use gatehouse::config::{Defaults, HostOwnership};
use gatehouse::source::{Absence, Change, Cover, Kept, Kind, Object, ObjectKey};
use gatehouse::translate::object_ref;
use gatehouse_gateway::model::ObjectRef;
use k8s_openapi::api::core::v1::{
    ConfigMap, EndpointAddress, EndpointPort as LegacyPort, EndpointSubset, Endpoints, Secret,
    Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressClass, IngressClassSpec,
    IngressRule, IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A change of the world.
    Change(Box<Change>),
    /// Other defaults.
    Defaults(Arc<Defaults>),
    /// The endpoints are computed ahead of the rest.
    Endpoints,
    /// It is that late.
    Time(Timestamp),
}

/// A chain and a key, as PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pem {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pem {
    /// A new pair for a name.
    #[expect(clippy::unwrap_used, reason = "only tests call it")]
    pub(crate) fn good(name: &str) -> Self {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Self {
            chain: pair.cert.pem(),
            key: pair.signing_key.serialize_pem(),
        }
    }

    /// A certificate with the key of another.
    pub(crate) fn misfit() -> Self {
        Self {
            key: Self::good("x.test").key,
            ..Self::good("x.test")
        }
    }
}

fn pems() -> &'static [Pem] {
    static PEMS: OnceLock<Vec<Pem>> = OnceLock::new();
    PEMS.get_or_init(|| {
        let nonsense = Pem {
            chain: "nonsense".into(),
            key: "nonsense".into(),
        };
        vec![
            Pem::good("x.test"),
            Pem::good("*.test"),
            Pem::good("192.0.2.1"),
            Pem::good("x.test"),
            Pem::misfit(),
            nonsense,
        ]
    })
}

fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

pub(crate) fn class(name: &str, ours: bool, default: bool) -> Change {
    let controller = if ours {
        "gatehouse.dev/ingress-controller"
    } else {
        "other.test/x"
    };
    let mut metadata = metadata("", name);
    if default {
        let mark = "ingressclass.kubernetes.io/is-default-class";
        metadata.annotations = Some([(mark.to_owned(), "true".to_owned())].into());
    }
    let class = IngressClass {
        metadata,
        spec: Some(IngressClassSpec {
            controller: Some(controller.to_owned()),
            ..IngressClassSpec::default()
        }),
    };
    Change::Apply(
        key(Kind::IngressClass, "", name),
        Object::IngressClass(Arc::new(class)),
    )
}

pub(crate) fn service_object(namespace: &str, name: &str, port: i32) -> Service {
    Service {
        metadata: metadata(namespace, name),
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn apply_service(service: Service) -> Change {
    let name = key(
        Kind::Service,
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default(),
    );
    Change::Apply(name, Object::Service(Arc::new(service)))
}

pub(crate) fn service(namespace: &str, name: &str, port: i32) -> Change {
    apply_service(service_object(namespace, name, port))
}

pub(crate) fn slice(namespace: &str, name: &str, service: &str, addresses: &[&str]) -> Change {
    slice_of(namespace, name, service, addresses, None)
}

fn slice_of(
    namespace: &str,
    name: &str,
    service: &str,
    addresses: &[&str],
    conditions: Option<EndpointConditions>,
) -> Change {
    let mut metadata = metadata(namespace, name);
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
    let slice = EndpointSlice {
        metadata,
        address_type: "IPv4".into(),
        endpoints: vec![Endpoint {
            addresses: addresses.iter().map(|&address| address.into()).collect(),
            conditions,
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            ..EndpointPort::default()
        }]),
    };
    let name = key(Kind::EndpointSlice, namespace, name);
    Change::Apply(name, Object::EndpointSlice(Arc::new(slice)))
}

fn endpoints(namespace: &str, service: &str, address: &str) -> Change {
    let endpoints = Endpoints {
        metadata: metadata(namespace, service),
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![EndpointAddress {
                ip: address.into(),
                ..EndpointAddress::default()
            }]),
            ports: Some(vec![LegacyPort {
                name: Some("http".into()),
                port: 8080,
                ..LegacyPort::default()
            }]),
            ..EndpointSubset::default()
        }]),
    };
    let name = key(Kind::Endpoints, namespace, service);
    Change::Apply(name, Object::Endpoints(Arc::new(endpoints)))
}

pub(crate) fn secret(namespace: &str, name: &str, pem: Pem) -> Change {
    let secret = Secret {
        metadata: metadata(namespace, name),
        string_data: Some([("tls.crt".into(), pem.chain), ("tls.key".into(), pem.key)].into()),
        ..Secret::default()
    };
    Change::Apply(
        key(Kind::Secret, namespace, name),
        Object::Secret(Arc::new(secret)),
    )
}

/// What is kept for a Secret.
pub(crate) fn keep(namespace: &str, name: &str, pem: Option<Pem>) -> Change {
    kept(namespace, name, pem, false)
}

/// The same; with `first` it is served whatever is in the Secret.
pub(crate) fn kept(namespace: &str, name: &str, pem: Option<Pem>, first: bool) -> Change {
    let kept = pem.map(|pem| {
        let secret = match secret(namespace, name, pem) {
            Change::Apply(_, Object::Secret(secret)) => secret,
            _ => Arc::default(),
        };
        Kept { secret, first }
    });
    Change::Keep(key(Kind::Secret, namespace, name), kept)
}

/// Another Secret is served for this one; with `first` whatever is in it.
pub(crate) fn cover(namespace: &str, name: &str, by: Option<(&str, bool)>) -> Change {
    let cover = by.map(|(secret, first)| Cover {
        secret: secret.into(),
        first,
    });
    Change::Cover(key(Kind::Secret, namespace, name), cover)
}

pub(crate) fn config_map(namespace: &str, name: &str, data: &[(&str, &str)]) -> Change {
    let pairs = data.iter().map(|&(key, value)| (key.into(), value.into()));
    let map = ConfigMap {
        metadata: metadata(namespace, name),
        data: Some(pairs.collect()),
        ..ConfigMap::default()
    };
    Change::Apply(
        key(Kind::ConfigMap, namespace, name),
        Object::ConfigMap(Arc::new(map)),
    )
}

pub(crate) fn delete_secret(namespace: &str, name: &str) -> Change {
    Change::Delete(key(Kind::Secret, namespace, name))
}

fn backend(service: &str) -> IngressBackend {
    IngressBackend {
        service: Some(IngressServiceBackend {
            name: service.to_owned(),
            port: Some(ServiceBackendPort {
                name: Some("http".into()),
                number: None,
            }),
        }),
        resource: None,
    }
}

fn rule(host: &str, path: &str, kind: &str, service: &str) -> IngressRule {
    IngressRule {
        host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        http: Some(HTTPIngressRuleValue {
            paths: vec![HTTPIngressPath {
                path: Some(path.to_owned()),
                path_type: kind.to_owned(),
                backend: backend(service),
            }],
        }),
    }
}

pub(crate) fn ingress_object(name: &str, host: &str, path: &str, service: &str) -> Ingress {
    Ingress {
        metadata: metadata("shop", name),
        spec: Some(IngressSpec {
            ingress_class_name: Some("gatehouse".into()),
            rules: Some(vec![rule(host, path, "Prefix", service)]),
            ..IngressSpec::default()
        }),
        status: None,
    }
}

pub(crate) fn created(ingress: &mut Ingress, second: i64) {
    let time = Timestamp::from_second(second).ok().map(Time);
    ingress.metadata.creation_timestamp = time;
}

pub(crate) fn add_tls(ingress: &mut Ingress, host: &str, secret: &str) {
    let spec = ingress.spec.get_or_insert_default();
    spec.tls.get_or_insert_default().push(IngressTLS {
        hosts: Some(vec![host.to_owned()]),
        secret_name: Some(secret.to_owned()),
    });
}

pub(crate) fn apply_ingress(ingress: Ingress) -> Change {
    let name = key(
        Kind::Ingress,
        ingress.metadata.namespace.as_deref().unwrap_or_default(),
        ingress.metadata.name.as_deref().unwrap_or_default(),
    );
    Change::Apply(name, Object::Ingress(Arc::new(ingress)))
}

pub(crate) fn ingress(name: &str, host: &str, path: &str, service: &str) -> Change {
    apply_ingress(ingress_object(name, host, path, service))
}

/// The Ingresses that carry an annotation that closes the door.
#[derive(Default)]
pub(crate) struct Restricted {
    /// All of them.
    pub(crate) objects: BTreeSet<ObjectRef>,
    /// Those that close the whole host within their namespace.
    pub(crate) hosts: BTreeSet<ObjectRef>,
}

impl Restricted {
    pub(crate) fn note(&mut self, change: &Change) {
        let (Change::Apply(key, _) | Change::Delete(key)) = change else {
            return;
        };
        let carries = |names: &[(&str, &str)]| match change {
            Change::Apply(_, Object::Ingress(ingress)) => {
                let all = ingress.metadata.annotations.iter().flatten();
                all.into_iter()
                    .any(|(name, _)| names.iter().any(|(known, _)| known == name))
            }
            _ => false,
        };
        let [own, host] = [&RESTRICTIONS[..], &HOST_RESTRICTIONS[..]].map(carries);
        let origin = object_ref(key);
        for (set, is_in) in [(&mut self.objects, own || host), (&mut self.hosts, host)] {
            if is_in {
                set.insert(origin.clone());
            } else {
                set.remove(&origin);
            }
        }
    }

    /// Whether somebody in the namespace may have closed what it has.
    pub(crate) fn in_namespace(&self, namespace: &str) -> bool {
        self.hosts.iter().any(|one| *one.namespace == *namespace)
    }
}

const NAMESPACES: [&str; 2] = ["shop", "team"];
const INGRESSES: [&str; 4] = ["a", "b", "c", "d"];
const HOSTS: [&str; 5] = ["x.test", "y.test", "*.test", "", "bad..host"];
const PATHS: [&str; 5] = ["/", "/a", "/a/", "/b", "bad"];
const KINDS: [&str; 3] = ["Exact", "Prefix", "ImplementationSpecific"];
const SERVICES: [&str; 3] = ["s", "t", "u"];
const SECRETS: [&str; 2] = ["one", "two"];
const CLASSES: [&str; 2] = ["gatehouse", "other"];
/// Before, shortly before and after the end of the certificates made here.
const TIMES: [&str; 3] = [
    "2026-01-01T00:00:00Z",
    "4095-12-31T00:00:00Z",
    "4100-01-01T00:00:00Z",
];
const RESTRICTIONS: [(&str, &str); 2] = [
    ("nginx.ingress.kubernetes.io/auth-url", "http://auth.test/"),
    ("gatehouse.dev/configuration-snippet", "deny all;"),
];
const HOST_RESTRICTIONS: [(&str, &str); 2] = [
    ("nginx.ingress.kubernetes.io/auth-tls-secret", "shop/ca"),
    ("gatehouse.dev/server-snippet", "deny all;"),
];
const HARMLESS: [(&str, &str); 2] = [
    ("nginx.ingress.kubernetes.io/enable-modsecurity", "false"),
    ("nginx.ingress.kubernetes.io/limit-rps", "5"),
];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "127.0.0.1"];

fn one(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of)
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(of, 0..=of.len())
}

fn random_ingress() -> impl Strategy<Value = Change> {
    let rules = (one(&HOSTS), one(&PATHS), one(&KINDS), one(&SERVICES));
    let all = [RESTRICTIONS, HOST_RESTRICTIONS, HARMLESS].concat();
    let annotation = prop::option::weighted(0.3, prop::sample::select(all));
    let class = prop::option::weighted(0.9, one(&["gatehouse", "gatehouse", "other", "absent"]));
    (
        (one(&NAMESPACES), one(&INGRESSES), 0_i64..3, annotation),
        class,
        prop::collection::vec(rules, 0..4),
        prop::option::weighted(0.3, one(&SERVICES)),
        prop::collection::vec((one(&HOSTS), one(&SECRETS)), 0..2),
    )
        .prop_map(
            |((namespace, name, created, annotation), class, rules, fallback, tls)| {
                let mut metadata = metadata(namespace, name);
                metadata.annotations =
                    annotation.map(|(name, value)| [(name.to_owned(), value.to_owned())].into());
                let rules = rules.into_iter().map(|(h, p, k, s)| rule(h, p, k, s));
                let mut ingress = Ingress {
                    metadata,
                    spec: Some(IngressSpec {
                        ingress_class_name: class.map(str::to_owned),
                        rules: Some(rules.collect()),
                        default_backend: fallback.map(backend),
                        tls: None,
                    }),
                    status: None,
                };
                self::created(&mut ingress, created);
                for (host, secret) in tls {
                    add_tls(&mut ingress, host, secret);
                }
                apply_ingress(ingress)
            },
        )
}

fn random_service() -> impl Strategy<Value = Change> {
    (one(&NAMESPACES), one(&SERVICES), 0..5).prop_map(|(namespace, name, variant)| {
        let mut service = service_object(namespace, name, 80);
        let spec = service.spec.get_or_insert_default();
        match variant {
            0 => {
                spec.type_ = Some("ExternalName".into());
                spec.external_name = Some("api.example".into());
            }
            1 => spec.ports = None,
            2 => {
                for port in spec.ports.iter_mut().flatten() {
                    port.port = 81;
                    port.app_protocol = Some("odd".into());
                }
            }
            3 => spec.session_affinity = Some("ClientIP".into()),
            _ => {}
        }
        apply_service(service)
    })
}

fn random_slice() -> impl Strategy<Value = Change> {
    let states = prop::option::of((any::<bool>(), any::<bool>()));
    (
        one(&NAMESPACES),
        one(&["p", "q"]),
        one(&SERVICES),
        some(&ADDRESSES),
        states,
    )
        .prop_map(|(namespace, name, service, addresses, states)| {
            let conditions = states.map(|(ready, terminating)| EndpointConditions {
                ready: Some(ready),
                serving: Some(true),
                terminating: Some(terminating),
            });
            slice_of(namespace, name, service, &addresses, conditions)
        })
}

fn random_absence() -> impl Strategy<Value = Change> {
    let why = prop::sample::select(&[Absence::Missing, Absence::Refused, Absence::LeftOut][..]);
    let secret = (one(&NAMESPACES), one(&SECRETS))
        .prop_map(|(namespace, name)| key(Kind::Secret, namespace, name));
    prop::collection::btree_map(secret, why, 0..4).prop_map(Change::Absent)
}

fn random_delete() -> impl Strategy<Value = Change> {
    let kinds = [
        (Kind::Ingress, &INGRESSES[..]),
        (Kind::Service, &SERVICES[..]),
        (Kind::EndpointSlice, &["p", "q"][..]),
        (Kind::Endpoints, &SERVICES[..]),
        (Kind::Secret, &SECRETS[..]),
        (Kind::IngressClass, &CLASSES[..]),
    ];
    let choice = prop::sample::select(kinds.to_vec());
    (choice, one(&NAMESPACES), any::<prop::sample::Index>()).prop_map(
        |((kind, names), namespace, index)| {
            let namespace = if kind == Kind::IngressClass {
                ""
            } else {
                namespace
            };
            Change::Delete(key(kind, namespace, index.get::<&str>(names)))
        },
    )
}

fn random_defaults() -> impl Strategy<Value = Event> {
    let ownership = prop::sample::select(vec![
        HostOwnership::Off,
        HostOwnership::Warn,
        HostOwnership::Enforce,
    ]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, ownership, prop::bool::weighted(0.3)).prop_map(
        |((backend, certificate, catch_all, without_class), host_ownership, closed)| {
            let mut defaults = Defaults {
                default_backend: backend.then(|| ("shop".into(), "s".into())),
                default_certificate: certificate.then(|| ("shop".into(), "one".into())),
                disable_catch_all: catch_all,
                host_ownership,
                closed,
                ..Defaults::default()
            };
            defaults.classes.without_class = without_class;
            Event::Defaults(Arc::new(defaults))
        },
    )
}

/// Any event.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    let change = prop_oneof![
        6 => random_ingress(),
        4 => random_service(),
        4 => random_slice(),
        1 => (one(&NAMESPACES), one(&SERVICES), one(&ADDRESSES))
            .prop_map(|(namespace, service, address)| endpoints(namespace, service, address)),
        3 => (one(&NAMESPACES), one(&SECRETS), any::<prop::sample::Index>())
            .prop_map(|(namespace, name, index)| secret(namespace, name, index.get(pems()).clone())),
        2 => (
            one(&NAMESPACES),
            one(&SECRETS),
            prop::option::of(any::<prop::sample::Index>()),
            any::<bool>(),
        )
            .prop_map(|(namespace, name, index, first)| {
                kept(namespace, name, index.map(|index| index.get(pems()).clone()), first)
            }),
        2 => (one(&CLASSES), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(name, ours, default)| class(name, ours, default)),
        1 => some(&ADDRESSES).prop_map(|addresses| Change::Resolved {
            name: "api.example".into(),
            addresses: addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()).collect(),
        }),
        4 => random_delete(),
        1 => random_absence(),
    ];
    prop_oneof![
        20 => change.prop_map(|change| Event::Change(Box::new(change))),
        2 => random_defaults(),
        2 => Just(Event::Endpoints),
        2 => one(&TIMES).prop_map(|time| Event::Time(time.parse().unwrap_or_default())),
    ]
}
