//! Parts of the vault that nobody can read any more.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::keeper::Command;
use crate::troubles::Kind;
use crate::vault::memory::away;

#[tokio::test(start_paused = true)]
async fn a_board_that_nobody_can_read_is_told_of_each_certificate_that_needs_it() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    stand.vault.set_damaged(&Key::Board, true);
    let both = ["tls", "other"].map(|secret| request(secret, &[&format!("{secret}.example.org")]));
    want(&keeper, both.to_vec());
    let mut troubles = keeper.troubles.clone();
    let told = troubles.wait_for(|all| {
        let of = |secret| {
            all.iter().any(|trouble| {
                trouble.kind == Kind::Write
                    && trouble.target == Some(double::target(secret))
                    && trouble.why.contains("board")
            })
        };
        of("tls") && of("other")
    });
    let told = tokio::time::timeout(SOON, told).await;
    drop(told.expect("in time").expect("a keeper"));
    stand.vault.set_damaged(&Key::Board, false);
    let hour = Duration::from_secs(3_600);
    for secret in ["tls", "other"] {
        until(&keeper, (secret, hour), |report| {
            report.phase == Phase::Valid && report.waiting.is_none()
        })
        .await;
    }
    assert!(keeper.troubles.borrow().is_empty());
}

/// A certificate from elsewhere.
fn import() -> Command {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["b.example.org".to_owned()];
    let params = rcgen::CertificateParams::new(names).expect("names");
    Command::Import {
        chain: params.self_signed(&key).expect("a certificate").pem(),
        key: crate::secrets::Secret::new(key.serialize_pem()),
    }
}

/// Waits until something is wrong with the vault, or nothing.
async fn troubled(keeper: &crate::keeper::Keeper, wrong: bool) {
    let mut troubles = keeper.troubles.clone();
    let told = troubles.wait_for(|all| all.is_empty() != wrong);
    let told = tokio::time::timeout(SOON, told).await;
    drop(told.expect("in time").expect("a keeper"));
}

#[tokio::test(start_paused = true)]
async fn that_a_command_could_not_be_stored_is_told_until_the_vault_can_be_written_again() {
    let full = Arc::new(AtomicBool::new(false));
    let stand = Stand::new("");
    let refuses = Arc::clone(&full);
    let vault = stand.vault.guarded(move |_, written| {
        if written.is_some() && refuses.load(Ordering::SeqCst) {
            return Err(away());
        }
        Ok(())
    });
    let stand = Stand { vault, ..stand };
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    valid(&keeper, "tls").await;
    full.store(true, Ordering::SeqCst);
    let renew = Command::Renew { force: false };
    command(&keeper, renew).await.expect_err("no room");
    troubled(&keeper, true).await;
    // Nothing is stored of this one, so nothing is left to try again.
    let nobody = double::target("nobody");
    let imported = keeper.command(nobody, import()).await;
    imported.expect_err("no room");
    full.store(false, Ordering::SeqCst);
    troubled(&keeper, false).await;
    assert_eq!(stand.ca.count(Step::NewOrder), 1, "it was refused");
    let writes = stand.vault.writes();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(stand.vault.writes(), writes, "it rests");
}
