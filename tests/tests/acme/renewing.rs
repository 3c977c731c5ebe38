//! Renewals, and several processes with one vault.

use std::sync::Arc;

use gatehouse_acme::clock::ScaledClock;
use gatehouse_acme::events::What;
use gatehouse_acme::failure::Class;
use gatehouse_acme::keeper::{Command, Keeper};
use gatehouse_acme::record::{Phase, Record};
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Vault};
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{Allowance, On, ReplacedOnce, problem};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::customer::with;
use crate::stand::{PATIENCE, Stand, command, event, request, served, target, until, valid, want};
use crate::waits::Undated;

/// Makes the authority ask for a renewal between these moments from now on, in seconds.
fn window(pebble: &Pebble, keeper: &Keeper, secret: &str, from: i64, to: i64) {
    let chain = served(keeper, secret)
        .expect("served")
        .material
        .chain
        .clone();
    let at = |seconds| (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string();
    let leaf = chain
        .split_inclusive("-----END CERTIFICATE-----\n")
        .next()
        .expect("a leaf");
    let answer = json!({"suggestedWindow": {"start": at(from), "end": at(to)}});
    pebble.set_renewal(leaf, &answer.to_string());
}

async fn replaced(keeper: &Keeper, secret: &str, old: &str) -> String {
    let report = until(keeper, secret, |report| {
        let serial = report.serial.as_deref();
        report.phase == Phase::Valid && serial.is_some_and(|serial| serial != old)
    })
    .await;
    report.serial.clone().expect("a serial")
}

/// Lets the keeper of this record ask for the window now, as it will in hours.
async fn ask_now(vault: &MemoryVault, secret: &str) {
    let key = Key::Certificate(target(secret));
    let stored = vault.read(&key).await.expect("read").expect("there");
    let mut record = Record::from_entries(&stored.entries).expect("a record");
    if let Some(current) = &mut record.state.current {
        current.ari.next_check = Some(Timestamp::now());
    }
    let entries = record.to_entries().expect("entries");
    vault
        .write(&key, Some(&stored.version), &entries)
        .await
        .expect("written");
}

#[test]
fn case_28_a_renewal_follows_the_window_of_the_authority_and_names_what_it_replaces_once() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(ReplacedOnce::default());
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let vault = MemoryVault::new();
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let first = valid(&keeper, "tls").await;
            window(&pebble, &keeper, "tls", 2, 4);
            drop(keeper);
            ask_now(&vault, "tls").await;
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let begun = Timestamp::now();
            let second = replaced(&keeper, "tls", &first).await;
            assert!(Timestamp::now().duration_since(begun) >= SignedDuration::from_secs(1));
            assert_eq!(pebble.issued(), [first, second]);
            let orders = proxy.journal().into_iter();
            let orders: Vec<bool> = orders
                .filter(|seen| seen.endpoint == Endpoint::NewOrder)
                .map(|seen| seen.payload["replaces"].is_string())
                .collect();
            assert_eq!(orders, [false, true]);
        });
    });
}

/// Revokes the certificate as soon as nothing else is done with it.
async fn revoked(keeper: &Keeper, secret: &str, reason: u8) {
    let revoke = Command::Revoke { reason };
    command(keeper, secret, revoke).await.expect("revoked");
}

#[test]
fn case_31_a_revoked_certificate_is_replaced_at_once_and_served_until_then() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "      reuseKey: true\n");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let first = valid(&keeper, "tls").await;
            let key = |keeper: &Keeper| {
                let certificate = served(keeper, "tls").expect("served");
                certificate.material.key.expose().to_vec()
            };
            let old = key(&keeper);
            revoked(&keeper, "tls", 1).await;
            assert_eq!(key(&keeper), old);
            replaced(&keeper, "tls", &first).await;
            assert_eq!(pebble.status_of(&first)["Status"], "Revoked");
            assert_eq!(pebble.issued().len(), 2);
            assert_ne!(key(&keeper), old, "whatever the issuer says of keys");
        });
    });
}

#[test]
fn a_namespace_made_anew_while_nobody_leads_gets_a_certificate_of_its_own() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let first = valid(&keeper, "tls").await;
            let old = served(&keeper, "tls").expect("served");
            drop(keeper);

            let keeper = stand.keeper();
            let mut wish = request("tls", &["a.example.test"]);
            wish.namespace_uid = "uid-of-another".to_owned();
            want(&keeper, vec![wish]);
            replaced(&keeper, "tls", &first).await;
            let new = served(&keeper, "tls").expect("served");
            assert_eq!(new.namespace_uid, "uid-of-another");
            assert_ne!(new.material.key, old.material.key);
            assert_eq!(pebble.issued().len(), 2);
        });
    });
}

#[test]
fn a_refused_replacement_is_ordered_without_it_at_once() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let refused = problem(409, "alreadyReplaced", "a replacement exists");
            proxy.rule(On::these(&[Endpoint::NewOrder], refused).times(1));
            crate::issuing::renew(&keeper, "tls").await;
            let orders = proxy.journal().into_iter();
            let orders: Vec<bool> = orders
                .filter(|seen| seen.endpoint == Endpoint::NewOrder)
                .map(|seen| seen.payload["replaces"].is_string())
                .collect();
            assert_eq!(orders, [false, true, false]);
        });
    });
}

#[test]
fn case_25_three_processes_that_start_at_once_are_twenty_orders_and_one_account() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let _server = stand.serve(&pebble);
            let keepers = [stand.keeper(), stand.keeper(), stand.keeper()];
            let names: Vec<String> = (0..20).map(|n| format!("h{n}")).collect();
            let wish = |name: &String| request(name, &[&format!("{name}.example.test")]);
            for keeper in &keepers {
                want(keeper, names.iter().map(wish).collect());
            }
            // Whoever leads, all of them serve.
            for keeper in &keepers {
                let mut certificates = keeper.certificates.clone();
                let all = certificates.wait_for(|all| all.len() == names.len());
                let all = tokio::time::timeout(PATIENCE, all).await.expect("in time");
                assert_eq!(all.expect("certificates").len(), 20);
            }
            assert_eq!(pebble.issued().len(), 20);
            assert_eq!(proxy.count(Endpoint::NewOrder), 20);
            assert_eq!(proxy.count(Endpoint::NewAccount), 1);
        });
    });
}

#[test]
fn case_26_the_next_leader_continues_the_same_order() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let first = stand.keeper();
            let second = stand.keeper();
            let wish = || vec![request("tls", &["a.example.test"])];
            proxy.rule(On::silent(&[Endpoint::Challenge]));
            want(&first, wish());
            want(&second, wish());
            until(&first, "tls", |report| report.phase == Phase::Validating).await;
            proxy.heal();
            let _server = stand.serve(&pebble);
            let begun = tokio::time::Instant::now();
            drop(first);
            valid(&second, "tls").await;
            assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
            assert_eq!(proxy.count(Endpoint::NewOrder), 1, "the same order");
            assert_eq!(pebble.issued().len(), 1);
        });
    });
}

#[test]
fn case_57_a_deactivated_account_is_the_issuers_trouble_once() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let refused = || problem(403, "unauthorized", "account is deactivated");
            proxy.rule(On::these(&[Endpoint::NewOrder], refused()));
            proxy.rule(On::these(&[Endpoint::NewAccount], refused()).after(1));
            let keeper = stand.keeper();
            let mut events = keeper.events();
            want(&keeper, vec![request("a", &["a.example.test"])]);
            let failed = |what: &What| {
                matches!(
                    what,
                    What::Failed {
                        class: Class::Issuer,
                        ..
                    }
                )
            };
            event(&mut events, failed).await;
            let both = vec![
                request("a", &["a.example.test"]),
                request("b", &["b.example.test"]),
            ];
            want(&keeper, both);
            let report = until(&keeper, "b", |report| report.waiting.is_some()).await;
            assert_eq!(report.waiting, Some(Class::Issuer));
            let detail = report.detail.as_deref().unwrap_or_default();
            assert!(detail.contains("deactivated"), "{detail}");
            assert_eq!(proxy.count(Endpoint::NewOrder), 1, "nobody asks again");
        });
    });
}

/// An authority that names no pause: it is asked again as soon as we ask at all, so that what is measured is
/// this side.
fn unhurried() -> Pebble {
    let config = json!({"retryAfter": {"authz": 0, "order": 0}});
    let setup = Setup {
        config,
        ..Setup::default()
    };
    Pebble::start_with(setup.trusting())
}

#[test]
fn case_50_a_thousand_hosts_are_issued_by_eight_flows_at_most_with_twelve_requests_each() {
    alone(|| {
        let pebble = unhurried();
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let most = thousand(&stand).await;
            let requests = proxy.journal().len();
            println!("{requests} requests, {most} at once");
            assert!(most <= 8, "{most} at once");
            assert!(requests <= 12 * HOSTS, "{requests}");
            assert_eq!(proxy.count(Endpoint::NewOrder), HOSTS);
            assert_eq!(proxy.count(Endpoint::Finalize), HOSTS);
            assert_eq!(pebble.issued().len(), HOSTS);
        });
    });
}

#[test]
fn a_thousand_hosts_are_issued_as_fast_as_the_authority_lets_its_accounts_order() {
    alone(|| {
        let pebble = unhurried();
        let proxy = Fault::before(&pebble);
        with(async || {
            let mut stand = Stand::new(&pebble, &proxy.directory(), "");
            stand.clock = Arc::new(ScaledClock::new(Timestamp::now(), 1_000));
            proxy.rule(Undated);
            let hour = SignedDuration::from_hours(1);
            proxy.rule(Allowance::new(300, hour, Arc::clone(&stand.clock)));
            let begun = stand.clock.now();
            let most = thousand(&stand).await;
            let took = stand.clock.now().duration_since(begun);
            let refused = proxy.count(Endpoint::NewOrder) - HOSTS;
            println!("{took:#} of the clock, {refused} orders refused, {most} at once");
            assert!(most <= 8, "{most} at once");
            // Who was on the way when the limit was met has met it, too; nobody else asks before it is
            // over, and that is three times.
            assert!((1..=3 * 8).contains(&refused), "{refused} refused");
            assert!(took >= hour * 3, "{took:#}");
            assert_eq!(proxy.count(Endpoint::Finalize), HOSTS);
            assert_eq!(pebble.issued().len(), HOSTS);
        });
    });
}

/// Wants a thousand certificates at once and waits for them; how many were busy at once, at most.
async fn thousand(stand: &Stand) -> usize {
    let keeper = stand.keeper_on(Arc::new(MemoryVault::new()));
    let names: Vec<String> = (0..HOSTS).map(|n| format!("h{n}")).collect();
    let wish = |name: &String| request(name, &[&format!("{name}.example.test")]);
    let begun = tokio::time::Instant::now();
    want(&keeper, names.iter().map(wish).collect());
    let mut certificates = keeper.certificates.clone();
    let mut reports = keeper.reports.clone();
    let mut most = 0;
    let all = async {
        while certificates.borrow_and_update().len() < HOSTS {
            let busy = reports.borrow_and_update();
            let open = busy.values();
            let open = open.filter(|each| each.phase.is_busy() && each.waiting.is_none());
            most = most.max(open.count());
            drop(busy);
            certificates.changed().await.expect("certificates");
        }
    };
    // Against one that hangs: it takes a minute on a machine that does nothing else.
    let all = tokio::time::timeout(std::time::Duration::from_secs(900), all).await;
    if all.is_err() {
        let reports = keeper.reports.borrow();
        let late = reports.values().filter(|each| each.phase != Phase::Valid);
        let late: Vec<_> = late.take(3).collect();
        panic!("not a thousand certificates in time: {late:#?}");
    }
    println!("{HOSTS} certificates in {:?}", begun.elapsed());
    most
}

const HOSTS: usize = 1_000;
