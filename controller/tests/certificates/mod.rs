//! Certificates beside their Secrets, and certificates by address.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse::config::{Defaults, HostOwnership, Managed};
use gatehouse::diagnostics::Code;
use gatehouse::engine::{Engine, Urgency};
use gatehouse::source::Change;
use gatehouse_gateway::model::CertKey;

use crate::two_shops;
use crate::universe::{self, Pem};

fn secured(name: &str, created: i64, secret: &str) -> Change {
    let mut ingress = universe::ingress_object(name, &format!("{name}.test"), "/", name);
    universe::created(&mut ingress, created);
    universe::add_tls(&mut ingress, &format!("{name}.test"), secret);
    universe::apply_ingress(ingress)
}

#[test]
fn what_is_kept_for_a_secret_serves_while_it_is_missing_or_broken() {
    let mut engine = two_shops();
    engine.apply(secured("cart", 1, "cart-tls"));
    engine.reconcile();
    let codes = |engine: &mut Engine| -> Vec<Code> {
        let report = engine.report();
        report
            .diagnostics
            .iter()
            .map(|finding| finding.code)
            .collect()
    };
    let served = |engine: &mut Engine| {
        let plans = engine.plans();
        let plan = plans.certificates.values().next().cloned();
        plan.map(|plan| plan.fingerprint)
    };
    assert_eq!(served(&mut engine), None);
    assert_eq!(
        engine.apply(universe::keep(
            "shop",
            "cart-tls",
            Some(Pem::good("cart.test"))
        )),
        Urgency::Structural
    );
    assert_eq!(engine.reconcile().delta.certificates.len(), 1);
    let kept = served(&mut engine);
    assert!(kept.is_some());
    assert_eq!(codes(&mut engine), [], "nothing is missing");

    engine.apply(universe::secret("shop", "cart-tls", Pem::misfit()));
    engine.reconcile();
    assert_eq!(served(&mut engine), kept);
    assert_eq!(codes(&mut engine), [Code::CertificateInvalid]);

    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    engine.reconcile();
    let own = served(&mut engine);
    assert_ne!(own, kept, "a Secret that can be used goes first");
    engine.apply(universe::delete_secret("shop", "cart-tls"));
    engine.reconcile();
    assert_eq!(served(&mut engine), kept);

    // Unless what is kept is what the Secret should hold.
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    let first = |first| universe::kept("shop", "cart-tls", Some(Pem::good("cart.test")), first);
    assert_eq!(engine.apply(first(true)), Urgency::Structural);
    engine.reconcile();
    let serving = served(&mut engine);
    engine.apply(universe::secret("shop", "cart-tls", Pem::misfit()));
    engine.reconcile();
    assert_eq!(served(&mut engine), serving);
    assert_eq!(codes(&mut engine), [], "it is mended elsewhere");
    engine.apply(universe::delete_secret("shop", "cart-tls"));
    engine.reconcile();
    assert_eq!(served(&mut engine), serving);

    // A renewal exchanges the content of the slot and no host.
    let renewed = universe::keep("shop", "cart-tls", Some(Pem::good("cart.test")));
    engine.apply(renewed.clone());
    let outcome = engine.reconcile();
    assert_eq!(
        (outcome.delta.hosts.len(), outcome.delta.certificates.len()),
        (0, 1)
    );
    assert_eq!(engine.apply(renewed), Urgency::None);
    engine.apply(universe::keep("shop", "cart-tls", None));
    engine.reconcile();
    assert_eq!(served(&mut engine), None);
}

#[test]
fn a_host_is_served_the_certificate_that_covers_the_one_it_names() {
    let mut engine = two_shops();
    engine.apply(secured("cart", 1, "cart-tls"));
    let served = |engine: &mut Engine| {
        engine.reconcile();
        let plans = engine.plans();
        let slots = plans.certificates.keys().map(|slot| slot.0.to_string());
        slots.collect::<Vec<String>>()
    };
    engine.apply(universe::cover("shop", "cart-tls", Some(("wild", false))));
    assert_eq!(served(&mut engine), [""; 0], "it is not there yet");
    let wild = universe::keep("shop", "wild", Some(Pem::good("cart.test")));
    assert_eq!(engine.apply(wild), Urgency::Structural);
    assert_eq!(served(&mut engine), ["shop/wild"]);
    assert_eq!(engine.report().diagnostics.len(), 0, "nothing is missing");
    // What somebody wrote goes first, unless it is of Gatehouse.
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    assert_eq!(served(&mut engine), ["shop/cart-tls"]);
    let first = universe::cover("shop", "cart-tls", Some(("wild", true)));
    assert_eq!(engine.apply(first.clone()), Urgency::Structural);
    assert_eq!(engine.apply(first), Urgency::None);
    assert_eq!(served(&mut engine), ["shop/wild"]);
    engine.apply(universe::keep("shop", "wild", None));
    assert_eq!(served(&mut engine), ["shop/cart-tls"]);
    // One of the same name in another namespace is none.
    let other = universe::keep("other", "wild", Some(Pem::good("cart.test")));
    assert_eq!(engine.apply(other), Urgency::None);
    assert_eq!(served(&mut engine), ["shop/cart-tls"]);
    engine.apply(universe::keep("shop", "wild", Some(Pem::good("cart.test"))));
    assert_eq!(served(&mut engine), ["shop/wild"]);
    engine.apply(universe::cover("shop", "cart-tls", None));
    assert_eq!(served(&mut engine), ["shop/cart-tls"]);
}

#[test]
fn a_secret_that_serves_in_place_of_an_ordered_certificate_is_told() {
    let mut engine = two_shops();
    let defaults = Defaults {
        managed: Managed::Annotated,
        ..Defaults::default()
    };
    engine.set_defaults(Arc::new(defaults), Arc::default());
    let mut ingress = universe::ingress_object("cart", "cart.test", "/", "cart");
    universe::add_tls(&mut ingress, "cart.test", "cart-tls");
    let annotations = [("gatehouse.dev/issuer".to_owned(), "main".to_owned())];
    ingress.metadata.annotations = Some(annotations.into());
    engine.apply(universe::apply_ingress(ingress));
    let kept = universe::keep("shop", "cart-tls", Some(Pem::good("cart.test")));
    engine.apply(kept);
    let told = |engine: &mut Engine| {
        engine.reconcile();
        let report = engine.report();
        let mut list = report.diagnostics.iter();
        list.find(|finding| finding.code == Code::CertificateShadowed)
            .map(ToString::to_string)
    };
    assert_eq!(told(&mut engine), None);
    engine.apply(universe::secret("shop", "cart-tls", Pem::good("cart.test")));
    let said = told(&mut engine).expect("a finding");
    for part in [
        "Ingress/shop/cart",
        "spec.tls[0]",
        "`cart-tls` is served",
        "remove",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // One that cannot be used is no rival.
    engine.apply(universe::secret("shop", "cart-tls", Pem::misfit()));
    assert_eq!(told(&mut engine), None);
    engine.apply(universe::delete_secret("shop", "cart-tls"));
    assert_eq!(told(&mut engine), None);
    assert_eq!(
        engine.report().diagnostics,
        engine.rebuild().report().diagnostics
    );
}

#[test]
fn an_entry_that_cannot_be_ordered_for_is_told_and_not_waited_for() {
    let defaults = Defaults {
        managed: Managed::Annotated,
        ..Defaults::default()
    };
    let told = |tls: &str| {
        let mut engine = two_shops();
        engine.set_defaults(Arc::new(defaults.clone()), Arc::default());
        let mut ingress = universe::ingress_object("cart", "cart.test", "/", "cart");
        let annotations = [("gatehouse.dev/issuer".to_owned(), "main".to_owned())];
        ingress.metadata.annotations = Some(annotations.into());
        let spec = ingress.spec.as_mut().expect("a spec");
        spec.tls = serde_saphyr::from_str(tls).expect("tls entries");
        engine.apply(universe::apply_ingress(ingress));
        engine.reconcile();
        let report = engine.report();
        let mut codes: Vec<(Code, String)> = Vec::new();
        for finding in report.diagnostics.iter() {
            if matches!(
                finding.code,
                Code::CertificateEntryIncomplete | Code::CertificatePending
            ) {
                codes.push((finding.code, finding.field.to_string()));
            }
        }
        codes
    };
    let incomplete = |field: &str| vec![(Code::CertificateEntryIncomplete, field.to_owned())];
    assert_eq!(told("[]"), incomplete("spec.tls"));
    let entry = "[{hosts: [cart.test]}]";
    assert_eq!(told(entry), incomplete("spec.tls[0].secretName"));
    let entry = "[{secretName: cart-tls}]";
    assert_eq!(told(entry), incomplete("spec.tls[0].hosts"));
    let whole = told("[{hosts: [cart.test], secretName: cart-tls}]");
    assert!(
        !whole
            .iter()
            .any(|(code, _)| *code == Code::CertificateEntryIncomplete)
    );
}

#[test]
fn the_oldest_has_an_address_unless_the_default_certificate_holds_it() {
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    let mut engine = two_shops();
    for name in ["cart", "pay"] {
        let pem = Pem::good("192.0.2.1");
        engine.apply(universe::secret("shop", &format!("{name}-tls"), pem));
    }
    engine.apply(secured("cart", 2, "cart-tls"));
    engine.apply(secured("pay", 1, "pay-tls"));
    let delta = engine.reconcile().delta;
    let slot = |name: &str| CertKey(format!("shop/{name}-tls").into());
    assert_eq!(delta.addresses, [(address, Some(slot("pay")))]);
    assert_eq!(delta.certificates.len(), 1, "only what serves is published");
    let told = |engine: &mut Engine| {
        let report = engine.report();
        let told = report
            .diagnostics
            .iter()
            .find(|d| d.code == Code::TlsConflict);
        told.map(|finding| finding.object.to_string())
    };
    assert_eq!(told(&mut engine).as_deref(), Some("Ingress/shop/cart"));

    engine.apply(secured("pay", 3, "pay-tls"));
    let delta = engine.reconcile().delta;
    assert_eq!(delta.addresses, [(address, Some(slot("cart")))]);
    assert_eq!(told(&mut engine).as_deref(), Some("Ingress/shop/pay"));

    let defaults = Defaults {
        default_certificate: Some(("shop".into(), "pay-tls".into())),
        ..Defaults::default()
    };
    engine.set_defaults(Arc::new(defaults), Arc::default());
    assert_eq!(engine.reconcile().delta.addresses, [(address, None)]);
    assert_eq!(engine.plans(), engine.rebuild().plans());
}

#[test]
fn where_hosts_are_owned_only_what_an_authority_has_proven_has_an_address() {
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    let mut engine = two_shops();
    let defaults = Defaults {
        host_ownership: HostOwnership::Enforce,
        ..Defaults::default()
    };
    engine.set_defaults(Arc::new(defaults), Arc::default());
    // Whoever writes a Secret can write any address into it.
    let own = universe::secret("shop", "cart-tls", Pem::good("192.0.2.1"));
    engine.apply(own);
    engine.apply(secured("cart", 2, "cart-tls"));
    assert_eq!(engine.reconcile().delta.addresses, []);
    let kept = universe::keep("shop", "cart-tls", Some(Pem::good("192.0.2.1")));
    engine.apply(kept);
    assert_eq!(
        engine.reconcile().delta.addresses,
        [],
        "another one is served"
    );
    engine.apply(universe::delete_secret("shop", "cart-tls"));
    let slot = CertKey("shop/cart-tls".into());
    assert_eq!(engine.reconcile().delta.addresses, [(address, Some(slot))]);
    assert_eq!(engine.plans(), engine.rebuild().plans());
}
