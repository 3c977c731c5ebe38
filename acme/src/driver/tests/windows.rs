//! When a certificate is to be renewed, as its authority says.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::ca::{Cause, RenewalWindow};
use crate::keeper::{Command, Keeper};
use crate::record::Ari;

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate of somebody else's authority, with all that it is asked about by.
fn import(host: &str) -> Command {
    let authority = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([host.to_owned()]).expect("names");
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, &issuer).expect("a certificate");
    Command::Import {
        chain: leaf.pem(),
        key: crate::secrets::Secret::new(key.serialize_pem()),
    }
}

/// An authority that offers windows, and a wish whose certificate was taken over.
async fn taken_over(stand: &Stand) -> Keeper {
    stand.ca.windows.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    let imported = command(&keeper, import("a.example.org")).await;
    imported.expect("imported");
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    keeper
}

/// What is stored of the windows of the certificate.
async fn ari(stand: &Stand) -> Ari {
    let current = stand.stored("tls").await.state.current;
    current.expect("a certificate").ari
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_does_not_know_what_was_taken_over_is_asked_about_it_once() {
    let stand = Stand::new("");
    // Away, it says nothing of that.
    let silence = |step, _: &double::Authority| (step == Step::RenewalInfo).then(double::silence);
    stand.ca.play(silence);
    let keeper = taken_over(&stand).await;
    tokio::time::sleep(DAY).await;
    let asked = || stand.ca.count(Step::RenewalInfo);
    assert!(asked() > 2);
    stand.ca.heal();
    tokio::time::sleep(DAY).await;
    assert_eq!(ari(&stand).await.failures, 0);
    let known = asked();
    tokio::time::sleep(7 * DAY).await;
    assert_eq!(asked(), known);
    // Of its own one it may know more tomorrow.
    let renew = Command::Renew { force: false };
    command(&keeper, renew).await.expect("asked");
    tokio::time::sleep(7 * DAY).await;
    assert!(asked() > known + 7, "{} {known}", asked());
    assert!(ari(&stand).await.failures > 7);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_what_was_taken_over_stays_and_is_asked_for_though_it_is_unknown_for_once() {
    let stand = Stand::new("");
    let start = stand.clock.now() + SignedDuration::from_hours(24 * 300);
    *stand.ca.window.lock().expect("a window") = Some(RenewalWindow {
        start,
        end: start + SignedDuration::from_hours(24),
        explanation: None,
        retry_after: None,
    });
    let _keeper = taken_over(&stand).await;
    tokio::time::sleep(DAY).await;
    let known = ari(&stand).await.window.expect("a window");
    let unknown = || said(404, "malformed", "no such certificate");
    stand
        .ca
        .play(move |step, _| (step == Step::RenewalInfo).then(unknown));
    tokio::time::sleep(DAY).await;
    let missed = ari(&stand).await;
    assert_eq!(missed.window, Some(known));
    assert!(missed.failures > 0 && missed.next_check.is_some());
    stand.ca.heal();
    let asked = stand.ca.count(Step::RenewalInfo);
    tokio::time::sleep(DAY).await;
    assert!(stand.ca.count(Step::RenewalInfo) > asked);
    let found = ari(&stand).await;
    assert_eq!((found.window, found.failures), (Some(known), 0));
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_finds_no_page_does_not_say_that_an_authority_knows_no_window() {
    let stand = Stand::new("");
    let page = || Cause::Answer(404, "text/html".to_owned());
    stand
        .ca
        .play(move |step, _| (step == Step::RenewalInfo).then(page));
    let _keeper = taken_over(&stand).await;
    tokio::time::sleep(DAY).await;
    assert!(stand.ca.count(Step::RenewalInfo) > 2);
    let ari = ari(&stand).await;
    assert!(ari.failures > 2 && ari.next_check.is_some());
}
