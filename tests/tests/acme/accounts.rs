//! Accounts: registration, external binding, another key, the end of one.

use gatehouse_acme::ca::{AccountKey, ExternalAccount};
use gatehouse_acme::secrets::Secret;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use serde_json::json;

use crate::customer::{Customer, connect, names, registration, with};

#[test]
fn the_same_key_has_the_same_account_however_often_it_registers() {
    alone(|| {
        let pebble = Pebble::start();
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let (ca, _) = connect(&pebble, &pebble.directory());
            let again = ca.register(&registration(&customer.account.key)).await;
            assert_eq!(again.expect("the account").url, customer.account.url);
            let other = AccountKey::generate().expect("a key");
            let other = ca
                .register(&registration(&other))
                .await
                .expect("another account");
            assert_ne!(other.url, customer.account.url);
        });
    });
}

#[test]
fn an_authority_that_is_away_can_be_named_and_is_asked_when_it_is_back() {
    alone(|| {
        let mut pebble = Pebble::start();
        pebble.kill();
        with(async || {
            let (ca, exchanges) = connect(&pebble, &pebble.directory());
            let refused = ca.directory().await.expect_err("nobody is there");
            assert_eq!(refused.status(), None, "{refused}");
            pebble.restart();
            let directory = ca.directory().await.expect("a directory");
            assert!(directory.renewal_info);
            let seen = exchanges.lock().expect("sink").len();
            assert_eq!(seen, 2, "every request is reported, the refused one, too");
        });
    });
}

#[test]
fn case_22_an_external_account_right_missing_of_a_wrong_kid_and_of_a_wrong_mac() {
    const MAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    alone(|| {
        let pebble = Pebble::start_with(Setup {
            config: json!({
                "externalAccountBindingRequired": true,
                "externalAccountMACKeys": {"kid-1": MAC},
            }),
            ..Setup::default()
        });
        let mac = {
            use base64::Engine as _;
            base64::prelude::BASE64_URL_SAFE_NO_PAD
                .decode(MAC)
                .expect("base64url")
        };
        let bound = |kid: &str, mac: &[u8]| ExternalAccount {
            kid: kid.to_owned(),
            mac: Secret::new(mac),
        };
        with(async || {
            let (ca, _) = connect(&pebble, &pebble.directory());
            assert!(
                ca.directory()
                    .await
                    .expect("a directory")
                    .external_account_required
            );
            let key = AccountKey::generate().expect("a key");
            let mut request = registration(&key);
            for (external, kind, word) in [
                (None, "externalAccountRequired", "externalAccountBinding"),
                (Some(bound("kid-2", &mac)), "unauthorized", "kid"),
                (
                    Some(bound("kid-1", b"not the key")),
                    "unauthorized",
                    "verif",
                ),
            ] {
                request.external = external;
                let refused = ca.register(&request).await.expect_err("no account");
                let problem = refused.problem().expect("the authority's words");
                assert_eq!(problem.kind, kind, "{refused}");
                assert!(problem.detail.contains(word), "{refused}");
            }
            // The key is not burnt by any of it, and the binding can be repeated.
            request.external = Some(bound("kid-1", &mac));
            let account = ca.register(&request).await.expect("an account");
            let again = ca.register(&request).await.expect("the same account");
            assert_eq!(account.url, again.url);
        });
    });
}

#[test]
fn an_account_gets_the_key_that_was_stored_before_and_the_old_one_is_worth_nothing() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let next = AccountKey::generate().expect("a key");
            let changed = customer.ca.change_key(&customer.account, &next).await;
            let changed = changed.expect("changed");
            assert_eq!(changed.url, customer.account.url);
            assert_eq!(changed.key.thumbprint(), next.thumbprint());
            let order = names(&["a.example.test"]);
            let refused = customer.ca.new_order(&customer.account, &order).await;
            refused.expect_err("the old key is refused");
            customer
                .ca
                .new_order(&changed, &order)
                .await
                .expect("an order by the new key");
            // After a crash in between, asking with the stored key tells which one is right.
            let found = customer.ca.register(&registration(&next)).await;
            assert_eq!(found.expect("the account").url, changed.url);
        });
    });
}

#[test]
fn case_57_a_deactivated_account_is_refused_with_the_words_of_the_authority() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let ended = customer.ca.deactivate(&customer.account).await;
            ended.expect("deactivated");
            let order = names(&["a.example.test"]);
            let refused = customer.ca.new_order(&customer.account, &order).await;
            let refused = refused.expect_err("no order");
            assert!(refused.is("unauthorized"), "{refused}");
            assert_eq!(proxy.count(Endpoint::NewOrder), 1, "and nobody asked twice");
            let again = customer
                .ca
                .register(&registration(&customer.account.key))
                .await;
            let again = again.expect_err("no account");
            assert!(again.is("unauthorized"), "{again}");
        });
    });
}

#[test]
fn case_56_an_authority_that_forgot_everything_takes_the_same_key_again() {
    alone(|| {
        let mut pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let mut customer = Customer::new(&pebble, &pebble.directory()).await;
            let order = names(&["a.example.test"]);
            customer.issue(&order).await.expect("a certificate");
            assert_eq!(pebble.issued().len(), 1);
            pebble.restart();
            // The first request may go out on a connection that ended with the old process.
            let refused = loop {
                let refused = customer.ca.new_order(&customer.account, &order).await;
                let refused = refused.expect_err("nobody knows the account");
                if refused.status().is_some() {
                    break refused;
                }
            };
            assert!(refused.is("accountDoesNotExist"), "{refused}");
            let account = customer
                .ca
                .register(&registration(&customer.account.key))
                .await;
            customer.account = account.expect("an account");
            customer.issue(&order).await.expect("a certificate");
            assert_eq!(pebble.issued().len(), 2);
        });
    });
}
