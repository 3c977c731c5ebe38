//! A machine that loses its power while something is written, and files that are not what they were.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::{self, alone};
use gatehouse_tests::manifests::Scratch;
use gatehouse_tests::{preload, wait};

use crate::home::{Home, PATIENCE, issuer, serves, wait_served};

/// Kept all the while.
const GOOD: &str = "good.example.test";

/// An installation with a certificate.
fn installed(pebble: &Pebble, directory: &str) -> Home {
    let home = Home::with(pebble, &[issuer("main", directory, "")]);
    home.ask("good", "main", &[GOOD], "");
    let mut gateway = home.start(cluster::address());
    wait_served(&gateway, GOOD);
    until_valid(&home, "good-tls");
    gateway.process.signal("KILL");
    gateway.process.wait_end(PATIENCE).expect("it ends");
    home
}

fn until_valid(home: &Home, secret: &str) {
    let valid = || (home.phase(secret) == "Valid").then_some(());
    wait::within(PATIENCE, valid).expect("a record at rest");
}

/// Orders `host` in a process that dies at its `at`th change of the vault, then in one that does not;
/// whether the first one died before it had finished.
fn cut(home: &Home, library: &Path, at: usize, host: &str) -> bool {
    // Not after the cut: that may have hit the very file, whose version before is put back at a start.
    let before = home.entry("certs/demo/good-tls", "current.crt");
    assert!(before.is_some(), "a certificate before the cut at {at}");
    home.ask(&format!("web{at}"), "main", &[host], "");
    let secret = format!("web{at}-tls");
    let (vault, number) = (home.vault(), at.to_string());
    let variables = [
        ("LD_PRELOAD", library),
        ("CRASH_BELOW", vault.as_path()),
        ("CRASH_AT", Path::new(&number)),
    ];
    let mut dying = home.process_under(&variables);
    let died = wait::within(PATIENCE, || {
        if dying.ended().is_some() {
            return Some(true);
        }
        (home.phase(&secret) == "Valid").then_some(false)
    });
    let died = died.expect("it dies or finishes");
    drop(dying);
    let gateway = home.start(cluster::address());
    assert!(serves(&gateway, GOOD), "at once, after a cut at {at}");
    wait_served(&gateway, host);
    until_valid(home, &secret);
    assert_eq!(home.published(), 0, "nothing is left of {at}");
    assert_eq!(home.entry("certs/demo/good-tls", "current.crt"), before);
    died
}

#[test]
fn case_59_the_power_is_cut_at_every_write_and_nothing_is_lost_or_ordered_twice() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let scratch = Scratch::new();
        let library = preload::library(&scratch, "crash");
        // Each lane is an installation; together they cut at every change, until there is none left.
        let next = AtomicUsize::new(1);
        let runs = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for lane in 0..LANES {
                let (pebble, library, next, runs) = (&pebble, &library, &next, &runs);
                scope.spawn(move || {
                    let proxy = Fault::before(pebble);
                    let home = installed(pebble, &proxy.directory());
                    let mut hosts = 1;
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let host = format!("l{lane}-{at}.example.test");
                        hosts += 1;
                        if !cut(&home, library, at, &host) {
                            break;
                        }
                        runs.fetch_add(1, Ordering::Relaxed);
                    }
                    assert_eq!(proxy.count(Endpoint::Finalize), hosts, "one each");
                    let seen = proxy.journal();
                    let accounts: BTreeSet<&str> = seen
                        .iter()
                        .map(|seen| seen.account.as_str())
                        .filter(|account| !account.is_empty())
                        .collect();
                    assert_eq!(accounts.len(), 1);
                });
            }
        });
        let cuts = runs.load(Ordering::Relaxed);
        println!("the power was cut at {cuts} writes");
        assert!(cuts >= 40, "{cuts}");
    });
}

/// What is left of a file.
#[derive(Debug, Clone, Copy)]
enum Left {
    Nothing,
    Half,
    Noise,
    Gone,
}

fn damage(file: &Path, left: Left) {
    let text = std::fs::read(file).expect("a file");
    match left {
        Left::Nothing => std::fs::write(file, ""),
        Left::Half => std::fs::write(file, &text[..text.len() / 2]),
        Left::Noise => std::fs::write(file, vec![0xa5; text.len()]),
        Left::Gone => std::fs::remove_file(file),
    }
    .expect("damaged");
}

#[test]
fn case_59_damaged_files_are_mended_from_what_is_beside_them_while_the_certificate_serves() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        let home = installed(&pebble, &proxy.directory());
        let kept = home.entry("certs/demo/good-tls", "current.key");
        for (at, file) in [
            "certs/demo/good-tls/record",
            "board/record",
            "accounts/main/record",
            "epoch",
            "lock",
            "followers",
        ]
        .iter()
        .enumerate()
        {
            for left in [Left::Nothing, Left::Half, Left::Noise, Left::Gone] {
                if !home.vault().join(file).exists() {
                    continue;
                }
                damage(&home.vault().join(file), left);
                let gateway: Gateway = home.start(cluster::address());
                assert!(serves(&gateway, GOOD), "{file}, {left:?}: at once");
                // What is asked for now shows that everything else works.
                let host = format!("h{at}.example.test");
                home.ask("web", "main", &[&host], "");
                wait_served(&gateway, &host);
                until_valid(&home, "good-tls");
                let now = home.entry("certs/demo/good-tls", "current.key");
                assert_eq!(now, kept, "{file}, {left:?}: mended");
            }
        }
        let orders = proxy.journal().into_iter().filter(|seen| {
            let names = seen.payload["identifiers"].to_string();
            seen.endpoint == Endpoint::NewOrder && names.contains(GOOD)
        });
        assert_eq!(orders.count(), 1, "the good one was never ordered again");
    });
}

/// Installations whose power is cut at the same time.
const LANES: usize = 10;
