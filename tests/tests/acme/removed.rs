//! Records that somebody removes behind the back of the keeper.

use std::sync::Arc;

use gatehouse_acme::keeper::Command;
use gatehouse_acme::record::Record;
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Vault};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, request, served, target, valid, want};

#[test]
fn a_record_that_was_removed_is_stored_again_with_its_certificate_and_not_ordered_anew() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let vault = MemoryVault::new();
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let key = Key::Certificate(target("tls"));
            let before = served(&keeper, "tls").expect("served");
            let mut changes = vault.changes();
            let stored = vault.read(&key).await.expect("read").expect("there");
            vault.remove(&key, &stored.version).await.expect("removed");
            // Whatever is written next finds out.
            let renew = Command::Renew { force: true };
            while let Err(busy) = keeper.command(target("tls"), renew.clone()).await {
                assert!(busy.contains("worked on"), "{busy}");
                tokio::task::yield_now().await;
            }
            let again = async {
                loop {
                    if let Some(stored) = vault.read(&key).await.expect("read") {
                        return Record::from_entries(&stored.entries).expect("a record");
                    }
                    changes.changed().await.expect("a vault");
                }
            };
            let record = tokio::time::timeout(PATIENCE, again)
                .await
                .expect("in time");
            assert_eq!(record.current.as_ref(), Some(&before.material));
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}
