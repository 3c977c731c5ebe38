//! Incremental work equals a full rebuild, whatever happens in whatever order; and it is little.
//!
//! After every round the plans, the diagnostics and the recorded reads of the engine equal those of
//! an engine that computes everything from the same world, and the sum of all deltas equals the
//! plans.

mod certificates;
mod universe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gatehouse::config::{Base, Defaults, HostOwnership};
use gatehouse::diagnostics::Code;
use gatehouse::engine::{Engine, Outcome, Urgency, Work};
use gatehouse::source::{Absence, Change};
use gatehouse_gateway::model::{
    ActionPlan, CertKey, CertificatePlan, ClusterKey, ClusterPlan, Delta, HostPattern, HostPlan,
    RefuseReason,
};
use k8s_openapi::api::networking::v1::IngressStatus;
use proptest::prelude::*;

use universe::{Event, Pem, Restricted, event};

/// What a publisher would hold: the sum of all deltas.
#[derive(Default)]
struct Sum {
    hosts: BTreeMap<HostPattern, Arc<HostPlan>>,
    clusters: BTreeMap<ClusterKey, Arc<ClusterPlan>>,
    certificates: BTreeMap<CertKey, Arc<CertificatePlan>>,
    default_certificate: Option<CertKey>,
    addresses: BTreeMap<IpAddr, CertKey>,
}

impl Sum {
    fn add(&mut self, delta: Delta) {
        for (key, plan) in delta.hosts {
            put(&mut self.hosts, key.host, plan);
        }
        for (key, plan) in delta.clusters {
            put(&mut self.clusters, key, plan);
        }
        for (key, plan) in delta.certificates {
            put(&mut self.certificates, key, plan);
        }
        for (address, slot) in delta.addresses {
            put(&mut self.addresses, address, slot);
        }
        if let Some(slot) = delta.default_certificate {
            self.default_certificate = slot;
        }
    }

    /// A delta never says what is known already.
    fn put_is_news<K: Ord, V: PartialEq>(
        map: &BTreeMap<K, Arc<V>>,
        key: &K,
        plan: Option<&Arc<V>>,
    ) -> bool {
        map.get(key) != plan
    }

    fn all_news(&self, delta: &Delta) -> bool {
        delta
            .hosts
            .iter()
            .all(|(key, plan)| Self::put_is_news(&self.hosts, &key.host, plan.as_ref()))
            && delta
                .clusters
                .iter()
                .all(|(key, plan)| Self::put_is_news(&self.clusters, key, plan.as_ref()))
            && delta
                .certificates
                .iter()
                .all(|(key, plan)| Self::put_is_news(&self.certificates, key, plan.as_ref()))
            && delta
                .addresses
                .iter()
                .all(|(address, slot)| self.addresses.get(address) != slot.as_ref())
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn incremental_work_equals_a_full_rebuild(
        rounds in prop::collection::vec(prop::collection::vec(event(), 1..8), 1..16),
        synced_before in 0_usize..3,
        listed_before in 0_usize..4,
    ) {
        let mut engine = Engine::new(Arc::default(), Arc::default());
        let mut sum = Sum::default();
        let mut restricted = Restricted::default();
        let mut ownership = Defaults::default().host_ownership;
        let mut all_closed = false;
        for (number, events) in rounds.into_iter().enumerate() {
            if number == listed_before {
                engine.apply(Change::Listed);
            }
            if number == synced_before {
                engine.apply(Change::Synced);
            }
            for event in events {
                match event {
                    Event::Change(change) => {
                        restricted.note(&change);
                        engine.apply(*change);
                    }
                    Event::Time(now) => engine.tell_time(now),
                    Event::Defaults(defaults) => {
                        ownership = defaults.host_ownership;
                        all_closed = defaults.closed;
                        engine.set_defaults(defaults, Arc::default());
                    }
                    Event::Endpoints => {
                        let outcome = engine.reconcile_endpoints();
                        prop_assert_eq!(outcome.work.hosts, 0);
                        prop_assert_eq!(outcome.work.fragments, 0);
                        prop_assert!(outcome.delta.hosts.is_empty());
                        prop_assert!(sum.all_news(&outcome.delta));
                        sum.add(outcome.delta);
                    }
                }
            }
            let outcome = engine.reconcile();
            if number < synced_before {
                prop_assert!(outcome.delta.is_empty());
                continue;
            }
            prop_assert!(sum.all_news(&outcome.delta));
            sum.add(outcome.delta);

            let plans = engine.plans();
            prop_assert_eq!(&plans, &engine.rebuild().plans());
            prop_assert_eq!(&plans.hosts, &sum.hosts);
            prop_assert_eq!(&plans.clusters, &sum.clusters);
            prop_assert_eq!(&plans.certificates, &sum.certificates);
            prop_assert_eq!(&plans.default_certificate, &sum.default_certificate);
            prop_assert_eq!(&plans.addresses, &sum.addresses);
            // Nothing published points at something missing.
            let slots = plans.hosts.values().filter_map(|plan| plan.tls.as_ref()?.certificate.as_ref());
            for slot in slots.chain(&plans.default_certificate).chain(plans.addresses.values()) {
                prop_assert!(plans.certificates.contains_key(slot));
            }
            let refused = ActionPlan::Refuse(RefuseReason::BrokenPolicy);
            for plan in plans.hosts.values() {
                if ownership == HostOwnership::Enforce {
                    let namespaces: BTreeSet<&Arc<str>> = plan.routes.iter()
                        .map(|route| &route.key.origin.namespace)
                        .chain(plan.tls.iter().map(|tls| &tls.origin.namespace))
                        .collect();
                    prop_assert!(namespaces.len() <= 1, "{:?} is served for {namespaces:?}", plan.host);
                }
                let origins = plan.routes.iter().map(|route| &route.key.origin);
                let whole: Vec<_> = origins.filter(|o| restricted.hosts.contains(o)).collect();
                for route in &plan.routes {
                    let origin = &route.key.origin;
                    // Nobody gets past a restriction that cannot be applied, and nobody takes
                    // down what another namespace has.
                    let own = restricted.objects.contains(origin);
                    if all_closed || own || whole.iter().any(|one| one.namespace == origin.namespace) {
                        prop_assert_eq!(&route.action, &refused);
                    } else if !restricted.in_namespace(&origin.namespace) {
                        prop_assert_ne!(&route.action, &refused);
                    }
                    if let ActionPlan::Forward(split) = &route.action {
                        let planned = |c: &ClusterKey| plans.clusters.contains_key(c);
                        prop_assert!(split.iter().all(|share| planned(&share.cluster)));
                    }
                }
            }

            let again = engine.reconcile();
            prop_assert!(again.delta.is_empty());
            prop_assert_eq!(again.work, Work::default());
        }
    }
}

/// A world with two Ingresses, each with a host and a Service of its own.
fn two_shops() -> Engine {
    let mut engine = Engine::new(Arc::default(), Arc::default());
    engine.apply(universe::class("gatehouse", true, false));
    for name in ["cart", "pay"] {
        engine.apply(universe::service("shop", name, 80));
        engine.apply(universe::slice("shop", name, name, &["10.0.0.1"]));
        engine.apply(universe::ingress(name, &format!("{name}.test"), "/", name));
    }
    engine.apply(Change::Synced);
    let outcome = engine.reconcile();
    // Two hosts and the catch-all, which always answers.
    assert_eq!(outcome.delta.hosts.len(), 3);
    assert_eq!(outcome.delta.clusters.len(), 2);
    engine
}

fn counts(outcome: &Outcome) -> (usize, usize, Work) {
    let delta = &outcome.delta;
    (delta.hosts.len(), delta.clusters.len(), outcome.work)
}

#[test]
fn one_slice_event_plans_one_cluster_and_nothing_else() {
    let mut engine = two_shops();
    let change = universe::slice("shop", "cart", "cart", &["10.0.0.2"]);
    assert_eq!(engine.apply(change), Urgency::Endpoints);
    let work = Work {
        clusters: 1,
        ..Work::default()
    };
    assert_eq!(counts(&engine.reconcile_endpoints()), (0, 1, work));
    assert!(!engine.is_dirty());
    assert_eq!(counts(&engine.reconcile()), (0, 0, Work::default()));
}

#[test]
fn one_edited_ingress_merges_its_host_only() {
    let mut engine = two_shops();
    let change = universe::ingress("cart", "cart.test", "/new", "cart");
    assert_eq!(engine.apply(change), Urgency::Structural);
    let work = Work {
        fragments: 1,
        hosts: 1,
        clusters: 0,
    };
    assert_eq!(counts(&engine.reconcile()), (1, 0, work));
}

#[test]
fn an_update_that_changes_nothing_gives_an_empty_delta() {
    let mut engine = two_shops();
    let same = universe::ingress("cart", "cart.test", "/", "cart");
    assert_eq!(engine.apply(same), Urgency::None);
    assert!(engine.reconcile().delta.is_empty());
    assert_eq!(
        engine.apply(universe::service("shop", "nobody", 80)),
        Urgency::None
    );

    // Another object, the same meaning: translated, and cut off there.
    let mut relabelled = universe::ingress_object("cart", "cart.test", "/", "cart");
    relabelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    engine.apply(universe::apply_ingress(relabelled));
    let work = Work {
        fragments: 1,
        ..Work::default()
    };
    assert_eq!(counts(&engine.reconcile()), (0, 0, work));
}

#[test]
fn a_service_and_a_class_that_appear_late_are_noticed() {
    let mut engine = Engine::new(Arc::default(), Arc::default());
    engine.apply(universe::ingress("cart", "cart.test", "/", "cart"));
    engine.apply(Change::Synced);
    assert_eq!(engine.reconcile().delta.hosts.len(), 1, "the catch-all");
    let urgency = engine.apply(universe::class("gatehouse", true, false));
    assert_eq!(urgency, Urgency::Structural);
    assert_eq!(engine.reconcile().delta.hosts.len(), 1);
    assert!(engine.plans().clusters.is_empty());
    engine.apply(universe::service("shop", "cart", 80));
    assert_eq!(engine.reconcile().delta.clusters.len(), 1);
}

#[test]
fn a_broken_certificate_update_keeps_the_last_good_pair() {
    let mut engine = two_shops();
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    let mut secure = universe::ingress_object("cart", "cart.test", "/", "cart");
    universe::add_tls(&mut secure, "cart.test", "cart-tls");
    engine.apply(universe::apply_ingress(secure));
    let outcome = engine.reconcile();
    assert_eq!(outcome.delta.certificates.len(), 1);
    let good = engine.plans().certificates;

    engine.apply(universe::secret("shop", "cart-tls", Pem::misfit()));
    let outcome = engine.reconcile();
    assert!(outcome.delta.is_empty(), "nothing that serves has changed");
    assert_eq!(engine.plans().certificates, good);
    let codes: Vec<Code> = engine.plans().diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::CertificateInvalid, Code::LastGoodServed]);

    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    let outcome = engine.reconcile();
    assert!(
        outcome.delta.hosts.is_empty(),
        "a rotation swaps the slot only"
    );
    assert_eq!(outcome.delta.certificates.len(), 1);
    assert!(engine.plans().diagnostics.is_empty());

    engine.apply(universe::delete_secret("shop", "cart-tls"));
    engine.reconcile();
    let plans = engine.plans();
    assert!(plans.certificates.is_empty());
    let codes: Vec<Code> = plans.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::SecretMissing]);
}

#[test]
fn a_certificate_for_other_names_is_not_served() {
    let mut engine = two_shops();
    engine.apply(universe::secret("shop", "tls", Pem::good("*.cart.test")));
    let mut secure = universe::ingress_object("cart", "www.cart.test", "/", "cart");
    // Not listed literally, found because it covers the host.
    universe::add_tls(&mut secure, "*.cart.test", "tls");
    engine.apply(universe::apply_ingress(secure.clone()));
    engine.reconcile();
    assert_eq!(engine.plans().certificates.len(), 1);

    engine.apply(universe::secret("shop", "tls", Pem::good("other.test")));
    engine.reconcile();
    let plans = engine.plans();
    assert!(plans.certificates.is_empty());
    let host = plans.hosts.get(&HostPattern::Exact("www.cart.test".into()));
    let tls = host.and_then(|plan| plan.tls.as_ref());
    assert_eq!(
        tls.map(|tls| &tls.certificate),
        Some(&None),
        "still redirects to https"
    );
    let codes: Vec<Code> = plans.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::CertificateNameMismatch]);
}

#[test]
fn a_restriction_in_the_configmap_closes_every_route_until_it_is_removed() {
    let base = Base::new(Defaults::default(), Some(("shop".into(), "gw".into())));
    let mut engine = Engine::with_base(&base);
    let settings = |value| universe::config_map("shop", "gw", &[("block-cidrs", value)]);
    engine.apply(settings(""));
    engine.apply(universe::class("gatehouse", true, false));
    engine.apply(universe::service("shop", "cart", 80));
    engine.apply(universe::ingress("cart", "cart.test", "/a", "cart"));
    engine.apply(Change::Synced);
    engine.reconcile();
    let open = engine.plans();

    assert_eq!(engine.apply(settings("192.0.2.0/24")), Urgency::Structural);
    let outcome = engine.reconcile();
    assert!(outcome.delta.clusters.is_empty(), "connections are kept");
    let closed = engine.plans();
    assert_eq!(closed, engine.rebuild().plans());
    let mut routes = closed.hosts.values().flat_map(|plan| &plan.routes);
    assert!(routes.all(|route| route.action == ActionPlan::Refuse(RefuseReason::BrokenPolicy)));
    assert_eq!(
        closed.hosts.len(),
        2,
        "the host and the catch-all, which keep their routes"
    );
    let codes: Vec<Code> = closed.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::SettingRefused, Code::EndpointsMissing]);

    engine.apply(settings(""));
    engine.reconcile();
    assert_eq!(engine.plans(), open);
}

#[test]
fn a_default_backend_without_endpoints_answers_404() {
    use gatehouse_gateway::model::ActionPlan;
    let mut engine = two_shops();
    let defaults = Defaults {
        default_backend: Some(("shop".into(), "fallback".into())),
        ..Defaults::default()
    };
    engine.set_defaults(Arc::new(defaults), Arc::default());
    engine.apply(universe::service("shop", "fallback", 80));
    engine.reconcile();
    let any = |engine: &mut Engine| {
        let plan = engine.plans().hosts.get(&HostPattern::Any).cloned();
        plan.and_then(|plan| plan.routes.first().map(|route| route.action.clone()))
    };
    assert_eq!(any(&mut engine), Some(ActionPlan::NotFound));

    engine.apply(universe::slice("shop", "fb", "fallback", &["10.0.0.9"]));
    assert!(engine.reconcile_endpoints().delta.hosts.is_empty());
    assert!(engine.is_dirty(), "its hosts wait for the next round");
    engine.reconcile();
    assert!(matches!(any(&mut engine), Some(ActionPlan::Forward(_))));
}

#[test]
fn the_list_of_what_is_ours_changes_with_its_objects_only() {
    let mut engine = two_shops();
    let before = engine.report().owned;
    assert_eq!(before.len(), 2);
    engine.apply(universe::slice("shop", "cart", "cart", &["10.0.0.2"]));
    engine.reconcile_endpoints();
    assert!(Arc::ptr_eq(&before, &engine.report().owned));

    // Somebody writes the status: the new version is reported, and nothing is served anew.
    let revision = engine.revision();
    let mut written = universe::ingress_object("cart", "cart.test", "/", "cart");
    written.status = Some(IngressStatus::default());
    engine.apply(universe::apply_ingress(written));
    let work = Work {
        fragments: 1,
        ..Work::default()
    };
    assert_eq!(counts(&engine.reconcile()), (0, 0, work));
    assert!(engine.revision() > revision);
    let after = engine.report().owned;
    assert_eq!(
        after
            .values()
            .filter(|object| object.status.is_some())
            .count(),
        1
    );
    assert!(before.values().all(|object| object.status.is_none()));

    engine.apply(universe::class("gatehouse", false, false));
    engine.reconcile();
    assert!(
        engine.report().owned.is_empty(),
        "of another controller now"
    );
}

#[test]
fn endpoints_that_come_with_the_end_of_the_start_are_not_overtaken_by_older_ones() {
    let mut engine = Engine::new(Arc::default(), Arc::default());
    engine.apply(universe::class("gatehouse", true, false));
    engine.apply(universe::service("shop", "cart", 80));
    engine.apply(universe::ingress("cart", "cart.test", "/", "cart"));
    engine.apply(Change::Listed);
    engine.reconcile();
    engine.apply(Change::Synced);
    engine.apply(universe::slice("shop", "cart", "cart", &["10.0.0.1"]));
    let mut sum = Sum::default();
    sum.add(engine.reconcile_endpoints().delta);
    sum.add(engine.reconcile().delta);
    assert_eq!(sum.clusters, engine.plans().clusters);
    assert_eq!(sum.clusters.len(), 1);
}

#[test]
fn a_secret_is_called_missing_only_when_it_was_looked_for() {
    let mut engine = Engine::new(Arc::default(), Arc::default());
    engine.apply(universe::class("gatehouse", true, false));
    engine.apply(universe::service("shop", "cart", 80));
    engine.apply(universe::slice("shop", "cart", "cart", &["10.0.0.1"]));
    engine.apply(Change::Listed);
    engine.apply(Change::Synced);
    engine.reconcile();
    let mut secure = universe::ingress_object("cart", "cart.test", "/", "cart");
    universe::add_tls(&mut secure, "other.test", "cart-tls");
    engine.apply(universe::apply_ingress(secure));
    engine.reconcile();
    let codes = |engine: &mut Engine| {
        let report = engine.report();
        report
            .diagnostics
            .iter()
            .map(|d| d.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(codes(&mut engine), [], "its watch has only been asked for");

    let wanted = engine.report().wanted.first().cloned().expect("the Secret");
    for (absence, code) in [
        (Absence::Missing, Code::SecretMissing),
        (Absence::Refused, Code::SecretUnread),
        (Absence::LeftOut, Code::SecretUnread),
    ] {
        let absent = Change::Absent([(wanted.clone(), absence)].into());
        assert_eq!(engine.apply(absent.clone()), Urgency::Structural);
        assert_eq!(engine.apply(absent), Urgency::None, "said already");
        engine.reconcile();
        let expected = [Code::CertificateNameMismatch, code];
        assert_eq!(codes(&mut engine), expected);
    }
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    engine.reconcile();
    assert_eq!(codes(&mut engine), []);
}

#[test]
fn what_is_wanted_is_told_before_anything_is_published() {
    let mut engine = Engine::new(Arc::default(), Arc::default());
    engine.apply(universe::class("gatehouse", true, false));
    engine.apply(universe::service("shop", "cart", 80));
    let mut secure = universe::ingress_object("cart", "cart.test", "/", "cart");
    universe::add_tls(&mut secure, "cart.test", "cart-tls");
    engine.apply(universe::apply_ingress(secure));
    assert!(!engine.report().surveyed);
    assert_eq!(engine.apply(Change::Listed), Urgency::Structural);
    assert!(engine.reconcile().delta.is_empty());

    let report = engine.report();
    assert!(report.surveyed && !report.synced);
    let wanted: Vec<String> = report.wanted.iter().map(ToString::to_string).collect();
    // A Service without a slice may have Endpoints of old.
    assert_eq!(wanted, ["Endpoints/shop/cart", "Secret/shop/cart-tls"]);
    assert!(
        report.diagnostics.is_empty(),
        "they may only not be here yet"
    );

    engine.apply(universe::slice("shop", "cart", "cart", &["10.0.0.1"]));
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    engine.apply(Change::Synced);
    let delta = engine.reconcile().delta;
    assert_eq!(delta.certificates.len(), 1);
    assert_eq!(delta.hosts.len(), 2, "each host once");
    assert_eq!(delta.clusters.len(), 1, "with its endpoints only");
    assert_eq!(engine.report().wanted.len(), 1);
    assert!(engine.report().diagnostics.is_empty());
}
