//! Parts of the vault that nobody can read any more.

use super::*;
use crate::troubles::Kind;

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
