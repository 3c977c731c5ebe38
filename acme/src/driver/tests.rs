//! Steps that go wrong, before an authority in memory and with time that stands still.

mod ahead;
mod asked;
mod changed;
mod damaged;
#[expect(
    clippy::result_large_err,
    reason = "a refusal is made once per request to an authority: not worth a box"
)]
mod double;
mod fallback;
mod kept;
mod leftovers;
mod limited;
mod parts;
mod removed;
mod revoked;
mod rounds;
mod stuck;
mod windows;

use std::sync::atomic::Ordering;

use super::*;
use double::{SOON, Stand, command, renewed, request, said, until, valid, want};

#[tokio::test(start_paused = true)]
async fn an_order_that_nothing_happens_to_gives_a_certificate_and_its_renewal() {
    let stand = Stand::new("");
    let keeper = stand.keeper();
    want(&keeper, vec![request("tls", &["a.example.org"])]);
    let first = valid(&keeper, "tls").await;
    assert_eq!(stand.ca.issued(), 1);
    let days = Duration::from_secs(65 * 86_400);
    renewed(&keeper, ("tls", days), &first).await;
    assert_eq!(stand.ca.issued(), 2);
}
