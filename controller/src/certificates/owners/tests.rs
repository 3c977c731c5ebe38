//! Ingresses in, owners out; at the end whole plans, in which no name has two namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::plan::{Code, Plan, plan};
use gatehouse_acme::stock::Stocks;
use k8s_openapi::api::networking::v1::IngressBackend;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;
use crate::certificates::request::{Tenants, requests};
use crate::config::Managed;
use crate::source::Kind;

/// An Ingress `namespace/name` that was created in a year.
#[derive(Debug)]
struct Object {
    year: u16,
    namespace: &'static str,
    name: &'static str,
    rules: Vec<&'static str>,
    tls: Vec<&'static str>,
    asks: bool,
}

fn object(
    year: u16,
    namespace: &'static str,
    rules: &[&'static str],
    tls: &[&'static str],
) -> Object {
    Object {
        year,
        namespace,
        name: "web",
        rules: rules.to_vec(),
        tls: tls.to_vec(),
        asks: true,
    }
}

fn silent(object: Object) -> Object {
    Object {
        asks: false,
        ..object
    }
}

fn ingresses(objects: &[Object]) -> Ingresses {
    let entry = |object: &Object| {
        let quoted = |hosts: &[&str]| hosts.iter().map(|h| format!("'{h}'")).collect::<Vec<_>>();
        let rules = object
            .rules
            .iter()
            .map(|host| format!("{{host: '{host}'}}"));
        let (namespace, name) = (object.namespace, object.name);
        let issuer = if object.asks {
            ", annotations: {gatehouse.dev/issuer: main}"
        } else {
            ""
        };
        let yaml = format!(
            "{{metadata: {{namespace: {namespace}, name: {name}, creationTimestamp: \
             '{}-01-01T00:00:00Z'{issuer}}}, spec: {{rules: [{}], tls: [{{hosts: [{}], secretName: \
             {name}-tls}}]}}}}",
            object.year,
            rules.collect::<Vec<_>>().join(", "),
            quoted(&object.tls).join(", ")
        );
        let key = ObjectKey {
            kind: Kind::Ingress,
            namespace: namespace.into(),
            name: name.into(),
        };
        (
            key,
            Arc::new(serde_saphyr::from_str(&yaml).expect("an Ingress")),
        )
    };
    objects.iter().map(entry).collect()
}

fn planned(objects: &[Object]) -> Plan {
    let issuers = "{acme: {issuers: {main: {directory: 'https://ca.test/dir', acceptTerms: true, dns: \
                   [{zones: [test], provider: exec, command: /bin/true}], challenges: [http-01, dns-01], allow: [{hosts: \
                   ['*']}]}}}}";
    let issuers = Issuers::parse(issuers).expect("issuers");
    let managed = (Managed::Annotated, false);
    plan(
        &issuers,
        &requests(&ingresses(objects), &Tenants::Unknown, managed),
        (&Stocks::new(), k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    )
}

fn stranger(owners: &Owners<'_>, namespace: &str, name: &Name) -> bool {
    let age = Age::of(&ObjectMeta::default());
    owners.stranger((namespace, &age), name).is_some()
}

/// The targets that are ordered for.
fn ordered(objects: &[Object]) -> Vec<String> {
    let plan = planned(objects);
    for finding in &plan.findings {
        assert_eq!(finding.code, Code::NotAllowed, "{finding:?}");
    }
    let targets = plan.wanted.iter().map(|wanted| wanted.target.to_string());
    targets.collect()
}

#[test]
fn a_host_of_an_older_ingress_that_asks_for_nothing_is_not_ordered_for_others() {
    let host = &["imp.test"];
    let victim = || silent(object(2020, "victim", host, host));
    for evil in [&["other.test"], host] {
        let evil = object(2026, "evil", evil, host);
        let plan = planned(&[victim(), evil]);
        assert_eq!(plan.wanted, []);
        let said = &plan.findings[0];
        assert_eq!(said.code, Code::NotAllowed);
        let whose = "imp.test belongs to namespace victim, whose Ingress/victim/web is older";
        assert!(said.message.contains(whose), "{said:?}");
    }
    // However it is written, and whatever else the certificate is for.
    let evil = object(2026, "evil", &[], &["mine.test", "IMP.Test."]);
    assert_eq!(ordered(&[victim(), evil]), [""; 0]);
    // Also when the older one has no tls section, or nothing else.
    let plain = silent(object(2020, "victim", host, &[]));
    assert_eq!(ordered(&[plain, object(2026, "evil", &[], host)]), [""; 0]);
    let listed = silent(object(2020, "victim", &[], host));
    assert_eq!(ordered(&[listed, object(2026, "evil", &[], host)]), [""; 0]);
    // The younger one takes nothing from the older one, nor from its own namespace.
    let older = object(2020, "shop", host, host);
    assert_eq!(
        ordered(&[object(2026, "evil", host, host), older]),
        ["shop/web-tls"]
    );
    let mut second = object(2026, "victim", host, host);
    second.name = "second";
    assert_eq!(ordered(&[victim(), second]), ["victim/second-tls"]);
}

#[test]
fn of_equally_old_ingresses_the_one_that_routing_takes_has_the_host() {
    let host = &["a.test"];
    let both = [object(2020, "a", host, host), object(2020, "z", host, host)];
    assert_eq!(ordered(&both), ["z/web-tls"]);
}

#[test]
fn who_only_lists_a_host_takes_it_from_nobody_who_is_served() {
    let host = &["a.test"];
    let listed = || object(2020, "evil", &["other.test"], host);
    let served = object(2026, "shop", host, host);
    assert_eq!(ordered(&[listed(), served]), ["shop/web-tls"]);
    assert_eq!(ordered(&[listed()]), ["evil/web-tls"], "nobody else has it");
    // Served by the older one through its wildcard until the younger one came: neither.
    let host = &["a.sub.test"];
    let older = object(2020, "victim", &["*.sub.test"], host);
    assert_eq!(ordered(&[older, object(2026, "evil", host, host)]), [""; 0]);
}

#[test]
fn an_address_that_an_annotation_asks_for_has_one_namespace_too() {
    let host = |object: Object| {
        let mut all = ingresses(&[object]);
        for ingress in all.values_mut() {
            let annotations = &mut Arc::make_mut(ingress).metadata.annotations;
            let value = "::ffff:192.0.2.1".to_owned();
            annotations
                .get_or_insert_default()
                .insert("gatehouse.dev/tls-ip-sans".to_owned(), value);
        }
        all
    };
    let mut all = host(object(2020, "shop", &[], &["a.test"]));
    all.extend(host(object(2026, "evil", &[], &["b.test"])));
    let owners = Owners::of(&all, false);
    let address = Name::parse("192.0.2.1").unwrap();
    assert!(stranger(&owners, "evil", &address));
    assert!(!stranger(&owners, "shop", &address));
}

#[test]
fn an_ingress_that_is_left_out_owns_no_host_of_its_rules() {
    let host = &["a.test"];
    let mut all = ingresses(&[
        object(2020, "old", host, host),
        object(2026, "shop", host, host),
    ]);
    let name = Name::parse("a.test").unwrap();
    assert!(stranger(&Owners::of(&all, false), "shop", &name));
    for (key, ingress) in &mut all {
        if &*key.namespace == "old" {
            let spec = Arc::make_mut(ingress).spec.as_mut().unwrap();
            spec.default_backend = Some(IngressBackend::default());
        }
    }
    assert!(stranger(&Owners::of(&all, false), "shop", &name));
    assert!(!stranger(&Owners::of(&all, true), "shop", &name));
    assert!(stranger(&Owners::of(&all, true), "old", &name));
}

#[test]
fn a_wildcard_is_not_ordered_over_a_host_that_somebody_else_had_before() {
    let (host, wild) = (&["shop.a.test"], &["*.a.test"]);
    let shop = |year| silent(object(year, "shop", host, host));
    let evil = || object(2023, "evil", wild, wild);
    let plan = planned(&[shop(2020), evil()]);
    assert_eq!(plan.wanted, []);
    let said = &plan.findings[0].message;
    assert!(
        said.contains("*.a.test would be good for shop.a.test, which belongs to namespace shop"),
        "{said}"
    );
    // Whoever takes a name from below a wildcard later leaves the wildcard where it is.
    assert_eq!(ordered(&[shop(2026), evil()]), ["evil/web-tls"]);
    // A wildcard is good for one label, and not for the domain itself.
    let deeper = silent(object(2020, "shop", &["b.shop.a.test", "a.test"], &[]));
    assert_eq!(ordered(&[deeper, evil()]), ["evil/web-tls"]);
    let own = silent(object(2020, "evil", host, host));
    let mut young = evil();
    young.name = "wild";
    assert_eq!(ordered(&[own, young]), ["evil/wild-tls"]);
}

fn some_object() -> impl Strategy<Value = Object> {
    let host = || {
        let hosts = prop::sample::select(vec!["a.x.test", "b.x.test", "*.x.test", "A.X.test"]);
        prop::collection::vec(hosts, 0..3)
    };
    let namespace = prop::sample::select(vec!["shop", "evil"]);
    let name = prop::sample::select(vec!["one", "two"]);
    (
        2020..2023u16,
        namespace,
        name,
        host(),
        host(),
        any::<bool>(),
    )
        .prop_map(|(year, namespace, name, rules, tls, asks)| Object {
            year,
            namespace,
            name,
            rules,
            tls,
            asks,
        })
}

proptest! {
    #[test]
    fn no_name_has_certificates_of_two_namespaces_and_none_is_routed_elsewhere(
        objects in prop::collection::vec(some_object(), 0..6),
    ) {
        let all = ingresses(&objects);
        let mut routed: BTreeMap<Name, (Age, &str)> = BTreeMap::new();
        for (key, ingress) in &all {
            let claim = (Age::of(&ingress.metadata), &*key.namespace);
            for rule in ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten()) {
                let name = Name::parse(rule.host.as_deref().unwrap_or_default()).unwrap();
                let first = routed.entry(name).or_insert_with(|| claim.clone());
                *first = first.clone().min(claim.clone());
            }
        }
        let mut owner = BTreeMap::new();
        for wanted in &planned(&objects).wanted {
            for name in &wanted.names {
                let namespace = wanted.target.namespace.as_str();
                let first = owner.entry(name.clone()).or_insert(namespace.to_owned());
                prop_assert_eq!(first.as_str(), namespace);
                if let Some((_, routed)) = routed.get(name) {
                    prop_assert_eq!(*routed, namespace);
                }
            }
        }
    }
}
