//! Orders past the point of return.

use super::*;
use crate::keeper::Command;

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_away_after_finalize_costs_neither_key_nor_order() {
    let stand = Stand::new("      caBundle: roots\n");
    stand.secrets.put("roots", "ca.crt", "roots");
    let secrets = Arc::clone(&stand.secrets);
    stand.ca.play(move |step, _| {
        if step == Step::Finalize {
            secrets.remove("roots");
        }
        None
    });
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let report = until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    assert_eq!(report.phase, Phase::Issued);
    stand.secrets.put("roots", "ca.crt", "roots");
    let days = Duration::from_secs(2 * 86_400);
    until(&keeper, ("tls", days), |report| {
        report.phase == Phase::Valid
    })
    .await;
    assert_eq!(stand.ca.count(Step::NewOrder), 1);
    assert_eq!(stand.ca.count(Step::Finalize), 1);
    assert_eq!(stand.ca.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_edge_says_while_an_order_is_read_after_finalize_costs_it_nothing() {
    for kind in ["blocked", "rejectedIdentifier", "userActionRequired"] {
        let stand = Stand::new("");
        stand.ca.mute.store(true, Ordering::SeqCst);
        stand.ca.play(move |step, ca| {
            let polled = step == Step::Order && ca.count(Step::Finalize) > 0;
            (polled && ca.count(Step::Order) < 6).then(|| said(403, kind, "who are you?"))
        });
        let keeper = stand.keeper();
        want(&keeper, vec![request("tls", &["a.example.org"])]);
        let days = Duration::from_secs(8 * 86_400);
        until(&keeper, ("tls", days), |report| {
            assert!(
                report.phase != Phase::Empty || report.failures == 0,
                "{report:?}"
            );
            report.phase == Phase::Valid
        })
        .await;
        assert!(
            stand.ca.count(Step::Order) >= 6,
            "it was refused for a while"
        );
        assert_eq!(stand.ca.count(Step::NewOrder), 1, "{kind}");
        assert_eq!(stand.ca.issued(), 1, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_stays_ready_after_a_refusal_is_given_up_with_the_reason() {
    let stand = Stand::new("");
    stand
        .ca
        .play(|step, _| (step == Step::Finalize).then(|| said(400, "badCSR", "a weak key")));
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let report = until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    assert_eq!(
        (report.phase, report.waiting),
        (Phase::Empty, Some(Class::Spec))
    );
    let detail = report.detail.as_deref().unwrap_or_default();
    assert!(detail.contains("a weak key"), "{detail}");
    assert!(stand.stored("tls").await.next.is_none());
}

/// An order whose certificate has a name too many.
async fn refused(stand: &Stand) -> crate::keeper::Keeper {
    *stand.ca.adds.lock().expect("a name") = Some("more.example.org".to_owned());
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let report = until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    assert_eq!(
        (report.phase, report.waiting),
        (Phase::Issued, Some(Class::BadCertificate))
    );
    keeper
}

#[tokio::test(start_paused = true)]
async fn another_wish_gives_up_an_order_whose_certificate_is_refused() {
    let stand = Stand::new("");
    let keeper = refused(&stand).await;
    // As the authority makes it.
    let both = ["a.example.org", "more.example.org"];
    *stand.ca.adds.lock().expect("a name") = None;
    want(&keeper, vec![request("tls", &both)]);
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.last_names(), both);
    assert_eq!(stand.ca.count(Step::NewOrder), 2);
}

#[tokio::test(start_paused = true)]
async fn nobodys_wish_gives_up_an_order_whose_certificate_is_refused() {
    let stand = Stand::new("");
    let keeper = refused(&stand).await;
    want(&keeper, vec![]);
    until(&keeper, ("tls", SOON), |report| {
        report.phase == Phase::Tombstone
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_person_renews_or_imports_instead_of_a_certificate_that_is_refused() {
    let stand = Stand::new("");
    let keeper = refused(&stand).await;
    // Tried once more, it is the same.
    command(&keeper, Command::Retry).await.expect("asked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
    assert_eq!(
        (report.phase, stand.ca.count(Step::NewOrder)),
        (Phase::Issued, 1)
    );
    *stand.ca.adds.lock().expect("a name") = None;
    command(&keeper, Command::Renew { force: false })
        .await
        .expect("asked");
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.count(Step::NewOrder), 2);

    let stand = Stand::new("");
    let keeper = refused(&stand).await;
    let pair = rcgen::generate_simple_self_signed(["a.example.org".to_owned()]).expect("a pair");
    let import = Command::Import {
        chain: pair.cert.pem(),
        key: crate::secrets::Secret::new(pair.signing_key.serialize_pem()),
    };
    command(&keeper, import).await.expect("imported");
    valid(&keeper, "tls").await;
    assert_eq!(stand.ca.count(Step::NewOrder), 1);
}

#[tokio::test(start_paused = true)]
async fn roots_that_are_not_there_are_told_with_issuer_field_and_secret() {
    for (bundle, why) in [
        (None, "make it with the entry ca.crt"),
        (Some(&b"no root"[..]), "no certificate in the CA bundle"),
        // Never as if no bundle was named.
        (Some(&[0xff, 0xfe][..]), "it is no text"),
    ] {
        let stand = Stand::new("      caBundle: roots\n");
        if let Some(bundle) = bundle {
            stand.secrets.put("roots", "ca.crt", bundle);
        }
        let keeper = stand.keeper();
        want(&keeper, vec![request("tls", &["a.example.org"])]);
        let report = until(&keeper, ("tls", SOON), |report| report.waiting.is_some()).await;
        let said = report.detail.clone().unwrap_or_default();
        for part in ["issuer main: caBundle: ", "secret roots", why] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(stand.ca.count(Step::Directory), 0);
    }
}
