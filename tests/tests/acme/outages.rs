//! An authority, or the edge before it, that is not well: each call says so, whole and in time.

use std::sync::Arc;
use std::time::Duration;

use gatehouse_acme::ca::{Cause, Refusal, Step};
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{
    DirectoryExtra, NameCount, NoOverlap, On, ShortWindow, answer, edge_unavailable,
    internal_error, paused, problem, rate_limited, with as fields,
};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;

use crate::customer::{Customer, names, with};

/// One refusal of every call that an order needs.
async fn refusals(customer: &Customer, order: &str) -> Vec<Refusal> {
    let (ca, account) = (&customer.ca, &customer.account);
    let wanted = names(&["b.example.test"]);
    let challenge = ["https://none.example".to_owned()];
    vec![
        ca.new_order(account, &wanted).await.expect_err("refused"),
        ca.order(account, order).await.expect_err("refused"),
        ca.authorizations(account, order)
            .await
            .expect_err("refused"),
        ca.answer(account, order, &challenge)
            .await
            .expect_err("refused"),
        ca.finalize(account, order, b"csr")
            .await
            .expect_err("refused"),
        ca.certificate(account, order).await.expect_err("refused"),
        ca.renewal_info(account, "a.b").await.expect_err("refused"),
        ca.revoke(account, b"der", 0).await.expect_err("refused"),
    ]
}

#[test]
fn case_35_the_page_of_an_edge_is_an_outage_with_its_retry_after_at_every_endpoint() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let order = customer.ordered(&names(&["a.example.test"])).await.url;
            proxy.rule(On::everything(edge_unavailable(90)));
            for refused in refusals(&customer, &order).await {
                assert!(
                    matches!(&refused.cause, Cause::Answer(503, page) if page.contains("<html>"))
                );
                assert_eq!(
                    refused.retry_after,
                    Some(Duration::from_secs(90)),
                    "{refused}"
                );
            }
            let asked = proxy.journal().len();
            proxy.heal();
            customer
                .ca
                .order(&customer.account, &order)
                .await
                .expect("well again");
            assert!(proxy.journal().len() > asked);
        });
    });
}

#[test]
fn a_fault_of_the_authority_and_its_limits_come_with_words_times_and_links() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let only = |reply| On::these(&[Endpoint::NewOrder], reply).times(1);
            proxy.rule(only(internal_error()));
            proxy.rule(only(rate_limited(
                "new orders",
                3600,
                "2026-11-27 09:00:00 UTC",
            )));
            proxy.rule(only(paused("a.example.test")));
            let order = names(&["a.example.test"]);
            let mut refused = Vec::new();
            for _ in 0..3 {
                let said = customer.ca.new_order(&customer.account, &order).await;
                refused.push(said.expect_err("refused"));
            }
            assert!(refused[0].is("serverInternal"));
            assert_eq!(refused[0].retry_after, Some(Duration::from_secs(60)));
            assert!(refused[1].is("rateLimited"));
            assert_eq!(refused[1].retry_after, Some(Duration::from_secs(3600)));
            assert_eq!(
                refused[1].help.as_deref(),
                Some("https://ca.example/limits")
            );
            assert!(refused[1].to_string().contains("2026-11-27 09:00:00 UTC"));
            assert!(
                refused[2]
                    .to_string()
                    .contains("https://ca.example/unpause")
            );
        });
    });
}

#[test]
fn rules_about_names_are_told_in_the_words_of_the_authority() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        proxy.rule(DirectoryExtra);
        proxy.rule(NoOverlap);
        proxy.rule(NameCount([("shortlived".to_owned(), 2)].into()));
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let overlap = names(&["*.example.test", "a.example.test"]);
            let said = customer.ca.new_order(&customer.account, &overlap).await;
            assert!(said.expect_err("refused").to_string().contains("redundant"));
            let mut many = names(&["a.example.test", "b.example.test", "c.example.test"]);
            many.profile = Some("shortlived".to_owned());
            let said = customer.ca.new_order(&customer.account, &many).await;
            assert!(said.expect_err("refused").to_string().contains("allows 2"));
            many.names.pop();
            customer.ordered(&many).await;
        });
    });
}

#[test]
fn case_37_an_authority_that_accepts_and_never_answers_meets_the_deadline() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            proxy.rule(On::silent(&[Endpoint::NewOrder]));
            let (ca, account) = (Arc::clone(&customer.ca), customer.account.clone());
            let call = tokio::spawn(async move {
                let order = names(&["a.example.test"]);
                ca.new_order(&account, &order).await
            });
            while proxy.count(Endpoint::NewOrder) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The request is out: from here on only time can pass.
            tokio::time::pause();
            let refused = call.await.expect("no panic").expect_err("no answer");
            assert_eq!(refused.cause, Cause::Deadline(Duration::from_secs(30)));
            assert_eq!(refused.step, Step::NewOrder);
            tokio::time::resume();
            proxy.heal();
            let order = names(&["a.example.test"]);
            customer.ordered(&order).await;
            assert_eq!(
                proxy.count(Endpoint::NewOrder),
                2,
                "and nothing was sent again"
            );
        });
    });
}

#[test]
fn case_30_renewal_windows_of_every_kind_come_through_or_are_refused_with_the_reason() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let chain = customer
                .issue(&names(&["shop.example.test"]))
                .await
                .expect("a chain");
            let id = gatehouse_tests::acme::rules::certificate_id(&chain.pem).expect("an id");
            let ask = || customer.ca.renewal_info(&customer.account, &id);

            let real = ask().await.expect("a window");
            assert!(
                real.start < real.end && real.retry_after.is_some(),
                "{real:?}"
            );

            pebble.set_renewal(&chain.pem, "{garbage");
            assert!(matches!(
                ask().await.expect_err("garbage").cause,
                Cause::Answer(200, _)
            ));

            proxy.rule(ShortWindow {
                start: "2026-11-27T10:00:00Z".into(),
                end: "2026-11-27T09:00:00Z".into(),
            });
            pebble.set_renewal(
                &chain.pem,
                r#"{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"2026-01-01T00:00:00Z"},
                    "explanationURL":"https://ca.example/why"}"#,
            );
            let backwards = ask().await.expect("as it came");
            assert!(backwards.end < backwards.start, "the schedule judges it");
            assert_eq!(
                backwards.explanation.as_deref(),
                Some("https://ca.example/why")
            );
            proxy.heal();

            let window = r#"{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}"#;
            let json = || answer(200, "application/json", window);
            for (wait, seconds) in [("1", 1), ("2592000", 2_592_000)] {
                proxy.rule(
                    On::these(
                        &[Endpoint::Renewal],
                        fields(json(), &[("Retry-After", wait)]),
                    )
                    .times(1),
                );
                let window = ask().await.expect("a window");
                assert_eq!(window.retry_after, Some(Duration::from_secs(seconds)));
            }
            proxy.rule(On::these(&[Endpoint::Renewal], json()).times(1));
            assert_eq!(ask().await.expect("a window").retry_after, None);
            for status in [404, 500] {
                let reply = problem(status, "malformed", "no");
                proxy.rule(On::these(&[Endpoint::Renewal], reply).times(1));
                assert_eq!(ask().await.expect_err("refused").status(), Some(status));
            }
        });
    });
}
