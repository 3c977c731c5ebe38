//! When a certificate is to be renewed, as its authority says.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::keeper::Command;

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

#[tokio::test(start_paused = true)]
async fn an_authority_that_does_not_know_what_was_taken_over_is_asked_about_it_once() {
    let stand = Stand::new("");
    stand.ca.windows.store(true, Ordering::SeqCst);
    let keeper = stand.keeper();
    let imported = command(&keeper, import("a.example.org")).await;
    imported.expect("imported");
    // Away, it says nothing of that.
    let silence = |step, _: &double::Authority| (step == Step::RenewalInfo).then(double::silence);
    stand.ca.play(silence);
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    tokio::time::sleep(DAY).await;
    let asked = || stand.ca.count(Step::RenewalInfo);
    assert!(asked() > 2);
    stand.ca.heal();
    tokio::time::sleep(DAY).await;
    let ari = async || {
        let current = stand.stored("tls").await.state.current;
        current.expect("a certificate").ari
    };
    assert_eq!(ari().await.failures, 0);
    let known = asked();
    tokio::time::sleep(7 * DAY).await;
    assert_eq!(asked(), known);
    // Of its own one it may know more tomorrow.
    let renew = Command::Renew { force: false };
    command(&keeper, renew).await.expect("asked");
    tokio::time::sleep(7 * DAY).await;
    assert!(asked() > known + 7, "{} {known}", asked());
    assert!(ari().await.failures > 7);
}
