//! Orders, from the first request to the downloaded chain.

use gatehouse_acme::ca::{
    AccountKey, AuthorizationStatus, Cause, ChallengeKind, OrderStatus, Step,
};
use gatehouse_acme::leaf::serial_of;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{
    AlternatesGone, On, ReplacedByOwner, ReplacedOnce, ReusedOrders, SilentFailure, SlowFinalize,
    problem,
};
use gatehouse_tests::acme::{Pebble, Setup, Version};
use gatehouse_tests::kubernetes::cluster::alone;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize};
use x509_parser::pem::Pem;

use crate::customer::{Customer, challenges, connect, names, registration, with};

fn leaf(pem: &str) -> Pem {
    let block = Pem::iter_from_buffer(pem.as_bytes()).next();
    block.expect("a certificate").expect("PEM")
}

#[test]
fn a_certificate_takes_six_requests_beside_the_polls_and_no_nonce_of_its_own() {
    alone(|| {
        let pebble = Pebble::start();
        pebble.lead("shop.example.test", pebble.address());
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let _answering = customer.answers_http(&pebble);
            let before = customer.exchanges().len();
            let order = names(&["shop.example.test"]);
            let chain = customer.issue(&order).await.expect("a certificate");
            assert_eq!(pebble.issued().len(), 1);
            assert_eq!(serial_of(&chain.pem).as_ref(), pebble.issued().first());

            // Reads of an order that is not there yet are the authority's pace, not ours.
            let exchanges = customer.exchanges();
            let ours = exchanges[before..].iter();
            let ours: Vec<Step> = ours.map(|exchange| exchange.step).collect();
            let needed = ours.iter().filter(|step| **step != Step::Order).count();
            assert_eq!(needed, 6, "{ours:?}");
            assert_eq!(proxy.count(Endpoint::Nonce), 1, "for the registration");
            assert_eq!(proxy.count(Endpoint::Finalize), 1);
            assert_eq!(proxy.count(Endpoint::Directory), 1);
        });
    });
}

#[test]
fn case_18_half_of_all_nonces_are_rejected_and_fifty_certificates_are_issued() {
    alone(|| {
        let setup = Setup::default().trusting();
        let pebble = Pebble::start_with(setup.with("PEBBLE_WFE_NONCEREJECT", 50));
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            for number in 0..50 {
                let order = names(&[&format!("host{number}.example.test")]);
                customer.issue(&order).await.expect("a certificate");
            }
            assert_eq!(pebble.issued().len(), 50);
            let rejected = customer.exchanges();
            let rejected = rejected
                .iter()
                .filter(|exchange| exchange.problem.as_deref() == Some("badNonce"));
            assert!(rejected.count() > 100, "half of them were");
        });
    });
}

#[test]
fn case_19_valid_authorizations_are_left_alone_and_the_result_is_the_same() {
    alone(|| {
        for (reuse, answered) in [(0, 2), (100, 1)] {
            let setup = Setup::default().trusting();
            let pebble = Pebble::start_with(setup.with("PEBBLE_AUTHZREUSE", reuse));
            let proxy = Fault::before(&pebble);
            with(async || {
                let customer = Customer::new(&pebble, &proxy.directory()).await;
                for _ in 0..2 {
                    let order = names(&["shop.example.test"]);
                    customer.issue(&order).await.expect("a certificate");
                }
            });
            assert_eq!(pebble.issued().len(), 2);
            assert_eq!(proxy.count(Endpoint::Challenge), answered, "at {reuse} %");
        }
    });
}

#[test]
fn a_hundred_names_are_one_order() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let texts: Vec<String> = (0..100).map(|n| format!("h{n}.example.test")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            customer.issue(&names(&texts)).await.expect("a certificate");
        });
        assert_eq!(proxy.count(Endpoint::Challenge), 100);
        assert_eq!(
            proxy.count(Endpoint::Authorization),
            200,
            "before and at the answer"
        );
    });
}

#[test]
fn a_challenge_that_was_answered_before_a_crash_is_not_answered_again() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let order = customer
                .order(&names(&["shop.example.test"]))
                .await
                .expect("an order");
            // Another process, which knows the URL of the order and the key, and nothing else.
            let (ca, _) = connect(&pebble, &proxy.directory());
            let account = ca.register(&registration(&customer.account.key)).await;
            let account = account.expect("the account");
            customer
                .until(&order.url, OrderStatus::Ready)
                .await
                .expect("ready");
            let read = ca
                .authorizations(&account, &order.url)
                .await
                .expect("authorizations");
            assert_eq!(read[0].status, AuthorizationStatus::Valid);
            let wanted = challenges(&read, ChallengeKind::Http01);
            ca.answer(&account, &order.url, &wanted)
                .await
                .expect("nothing to do");
            assert_eq!(proxy.count(Endpoint::Challenge), 1);
        });
    });
}

#[test]
fn a_failed_validation_says_why_even_where_the_order_does_not() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(SilentFailure);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            // Nobody answers where the name leads.
            let order = customer
                .order(&names(&["shop.example.test"]))
                .await
                .expect("an order");
            let failed = customer
                .until(&order.url, OrderStatus::Ready)
                .await
                .expect("an order");
            assert_eq!(failed.status, OrderStatus::Invalid);
            assert_eq!(failed.error, None);
            let read = customer
                .ca
                .authorizations(&customer.account, &order.url)
                .await;
            let read = read.expect("authorizations");
            assert_eq!(read[0].status, AuthorizationStatus::Invalid);
            let why = read[0]
                .challenges
                .iter()
                .find_map(|challenge| challenge.error.as_ref());
            assert_eq!(why.expect("a reason").kind, "connection");
        });
        assert_eq!(pebble.issued().len(), 0);
    });
}

#[test]
fn a_blocked_name_among_good_ones_is_named() {
    alone(|| {
        let pebble = Pebble::start();
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let order = names(&["a.example.test", "x.blocked-domain.example"]);
            let refused = customer.ca.new_order(&customer.account, &order).await;
            let refused = refused.expect_err("no order");
            assert!(refused.is("rejectedIdentifier"), "{refused}");
            assert!(
                refused.to_string().contains("x.blocked-domain.example"),
                "{refused}"
            );
        });
    });
}

#[test]
fn case_52_processing_and_a_certificate_that_comes_late_cost_no_second_order() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(SlowFinalize { answers: 5 });
        let gone = problem(404, "malformed", "no such certificate");
        proxy.rule(On::these(&[Endpoint::Certificate], gone).times(2));
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let order = names(&["shop.example.test"]);
            let url = customer.order(&order).await.expect("an order").url;
            customer
                .until(&url, OrderStatus::Ready)
                .await
                .expect("ready");
            let key = KeyPair::generate().expect("a key");
            let csr = crate::customer::request(&key, &["shop.example.test"]);
            let ca = &customer.ca;
            let late = ca
                .finalize(&customer.account, &url, &csr)
                .await
                .expect("an order");
            assert_eq!(late.status, OrderStatus::Processing);
            assert_eq!(late.retry_after, Some(std::time::Duration::from_secs(3)));
            // Asking again for the same is refused and harmless.
            let again = ca.finalize(&customer.account, &url, &csr).await;
            assert!(again.expect_err("not ready").is("orderNotReady"));
            customer
                .until(&url, OrderStatus::Valid)
                .await
                .expect("valid");
            for _ in 0..2 {
                let missing = ca.certificate(&customer.account, &url).await;
                assert_eq!(missing.expect_err("not yet").status(), Some(404));
            }
            let chain = ca
                .certificate(&customer.account, &url)
                .await
                .expect("a chain");
            assert!(chain.pem.contains("BEGIN CERTIFICATE"));
        });
        assert_eq!(proxy.count(Endpoint::NewOrder), 1);
        assert_eq!(pebble.issued().len(), 1);
    });
}

#[test]
fn case_53_other_chains_are_offered_and_one_that_is_gone_leaves_the_first() {
    alone(|| {
        let setup = Setup::default()
            .trusting()
            .with("PEBBLE_ALTERNATE_ROOTS", 2);
        let pebble = Pebble::start_with(setup);
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let order = names(&["shop.example.test"]);
            let chain = customer.issue(&order).await.expect("a certificate");
            assert_eq!(chain.alternates.len(), 2);
            let other = customer
                .ca
                .alternate(&customer.account, &chain.alternates[0])
                .await;
            let other = other.expect("another chain");
            assert_eq!(
                leaf(&other).contents,
                leaf(&chain.pem).contents,
                "of the same leaf"
            );
            assert_ne!(other, chain.pem);
            proxy.rule(AlternatesGone);
            let gone = customer
                .ca
                .alternate(&customer.account, &chain.alternates[1])
                .await;
            assert_eq!(gone.expect_err("gone").status(), Some(404));
        });
    });
}

#[test]
fn case_62_leaves_of_p256_p384_and_rsa_are_issued_for_the_key_that_asked() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            for key in [
                KeyPair::generate(),
                KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
                KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            ] {
                let key = key.expect("a key");
                let chain = customer
                    .issue_for(&names(&["shop.example.test"]), &key)
                    .await;
                let block = leaf(&chain.expect("a certificate").pem);
                let parsed = block.parse_x509().expect("X.509");
                assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
            }
        });
        assert_eq!(pebble.issued().len(), 3);
    });
}

#[test]
fn the_profile_that_is_asked_for_decides_and_an_unknown_one_is_refused() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let directory = customer.ca.directory().await.expect("a directory");
            let known: Vec<&str> = directory
                .profiles
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(known, ["classic", "shortlived"]);
            for (profile, days) in [("classic", 90), ("shortlived", 6)] {
                let mut order = names(&["shop.example.test"]);
                order.profile = Some(profile.to_owned());
                let chain = customer.issue(&order).await.expect("a certificate");
                let block = leaf(&chain.pem);
                let validity = block.parse_x509().expect("X.509").validity().clone();
                let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
                assert!(
                    (seconds - days * 86_400).abs() < 3_600,
                    "{profile}: {seconds} s"
                );
            }
            let mut order = names(&["shop.example.test"]);
            order.profile = Some("eternal".to_owned());
            let refused = customer.ca.new_order(&customer.account, &order).await;
            assert!(refused.expect_err("no order").is("invalidProfile"));
        });
    });
}

#[test]
fn the_same_names_get_the_same_open_order_where_the_authority_does_that() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(ReusedOrders::default());
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let order = names(&["a.example.test"]);
            let first = customer.ordered(&order).await;
            let second = customer.ordered(&order).await;
            assert_eq!(first.url, second.url);
            let other = names(&["b.example.test"]);
            let other = customer.ordered(&other).await;
            assert_ne!(first.url, other.url);
        });
    });
}

#[test]
fn a_certificate_is_replaced_once_and_by_its_own_account_only() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(ReplacedOnce::default());
        proxy.rule(ReplacedByOwner::default());
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let mut order = names(&["shop.example.test"]);
            let chain = customer.issue(&order).await.expect("a certificate");
            let id = gatehouse_tests::acme::rules::certificate_id(&chain.pem);
            order.replaces = id;
            let stranger = AccountKey::generate().expect("a key");
            let stranger = customer.ca.register(&registration(&stranger)).await;
            let refused = customer
                .ca
                .new_order(&stranger.expect("an account"), &order)
                .await;
            assert_eq!(refused.expect_err("not theirs").status(), Some(403));
            customer.ordered(&order).await;
            let second = customer.ca.new_order(&customer.account, &order).await;
            let second = second.expect_err("taken");
            assert!(second.is("alreadyReplaced"), "{second}");
            assert_eq!(second.status(), Some(409));
        });
    });
}

#[test]
fn a_certificate_is_revoked_once() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let chain = customer.issue(&names(&["shop.example.test"])).await;
            let der = leaf(&chain.expect("a certificate").pem).contents;
            let revoked = customer.ca.revoke(&customer.account, &der, 4).await;
            revoked.expect("revoked");
            let status = pebble.status_of(&pebble.issued()[0]);
            assert_eq!(status["Status"], "Revoked", "{status}");
            let again = customer.ca.revoke(&customer.account, &der, 4).await;
            assert!(again.expect_err("once").is("alreadyRevoked"));
        });
    });
}

#[test]
fn case_33_an_old_authority_issues_and_says_what_it_does_not_offer() {
    alone(|| {
        let pebble = Pebble::start_with(Setup {
            version: Version::Old,
            ..Setup::default().trusting()
        });
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let directory = customer.ca.directory().await.expect("a directory");
            assert!(!directory.renewal_info && directory.profiles.is_empty());
            customer
                .issue(&names(&["shop.example.test"]))
                .await
                .expect("a certificate");
            let refused = customer.ca.renewal_info(&customer.account, "a.b").await;
            let refused = refused.expect_err("not offered");
            assert!(matches!(refused.cause, Cause::Local(_)), "{refused}");
        });
        assert_eq!(pebble.issued().len(), 1);
    });
}
