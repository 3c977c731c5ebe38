//! dns-persist-01: a record that stays proves the name, and what it lacks is told.

use std::sync::Arc;

use gatehouse_acme::dns::persist::{Lookup, Persist};
use gatehouse_acme::failure::Class;
use gatehouse_acme::keeper::Keeper;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::{Bind, Pebble, Setup, Zone};
use gatehouse_tests::kubernetes::cluster::alone;
use jiff::Timestamp;
use serde_json::json;

use crate::customer::with;
use crate::stand::{Stand, request, until, valid, want};

const NAME: &str = "shop.example.test";
const CA: &str = "pebble.example";

/// A zone with these values at the place of the standing record.
fn zone(values: &[String]) -> Bind {
    let address = Bind::address();
    let lines = values.iter().map(|value| {
        let value = value.replace(';', "\\;");
        format!("_validation-persist.shop TXT \"{value}\"\n")
    });
    let records = lines.collect::<Vec<_>>().concat();
    let zone = Zone {
        name: "example.test",
        servers: vec![address],
        records: &records,
    };
    Bind::primary(address, &[zone])
}

/// What is told of the certificate that waits.
async fn refused(keeper: &Keeper, word: &str) -> String {
    let report = until(keeper, "tls", |report| report.waiting.is_some()).await;
    assert_eq!(report.waiting, Some(Class::Local), "{report:?}");
    let detail = report.detail.clone().unwrap_or_default();
    assert!(detail.contains(word), "{detail}");
    detail
}

#[test]
fn case_12_a_standing_record_is_enough_and_what_it_lacks_is_told_before_the_authority_is() {
    alone(|| {
        // The authority asks its own server, which the test fills; we are told of other zones.
        let pebble = Pebble::start_with(Setup {
            config: json!({"caaIdentities": [CA]}),
            ..Setup::default()
        });
        let proxy = Fault::before(&pebble);
        with(async || {
            let more = "      challenges: [dns-persist-01]\n";
            let mut stand = Stand::new(&pebble, &proxy.directory(), more);
            let reads =
                |bind: &Bind| -> Arc<dyn Persist> { Arc::new(Lookup::new(vec![bind.at()])) };
            let wish = || vec![request("tls", &[NAME])];

            // Nothing there, then a record without an account: both are told with the right line.
            let mut told = String::new();
            for (value, word) in [(None, "no record"), (Some(CA), "lacks accounturi")] {
                let values: Vec<String> = value.iter().map(ToString::to_string).collect();
                let bind = zone(&values);
                stand.persist = reads(&bind);
                let keeper = stand.keeper();
                want(&keeper, wish());
                told = refused(&keeper, word).await;
                drop(keeper);
                forget(&stand);
            }
            let (_, line) = told.split_once("write \"").expect("what to write");
            let (line, _) = line.split_once('"').expect("its end");
            assert!(
                line.starts_with(&format!("{CA}; accounturi=https://")),
                "{line}"
            );

            let past = format!("{line}; persistUntil={}", Timestamp::now().as_second() - 60);
            let bind = zone(&[past]);
            stand.persist = reads(&bind);
            let keeper = stand.keeper();
            want(&keeper, wish());
            refused(&keeper, "persistUntil").await;
            drop(keeper);
            assert_eq!(
                proxy.count(Endpoint::Challenge),
                0,
                "the authority was not told"
            );

            forget(&stand);

            // The line as it was told, in our DNS and in the authority's.
            let bind = zone(&[line.to_owned()]);
            let host = format!("_validation-persist.{NAME}.");
            pebble.name("set-txt", &json!({"host": host, "value": line}));
            stand.persist = reads(&bind);
            let keeper = stand.keeper();
            want(&keeper, wish());
            let serial = valid(&keeper, "tls").await;
            assert_eq!(pebble.issued(), [serial]);
            assert_eq!(proxy.count(Endpoint::Challenge), 1);
        });
    });
}

/// Forgets what a certificate waits for, but not the account.
fn forget(stand: &Stand) {
    std::fs::remove_dir_all(stand.vault().join("certs")).expect("removed");
}
