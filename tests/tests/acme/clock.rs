//! A machine that starts with a clock from another decade, or from next year.

use std::time::Duration;

use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::{self, alone};
use gatehouse_tests::manifests::Scratch;
use gatehouse_tests::raw::Answer;
use gatehouse_tests::{preload, wait};

use crate::customer::with;
use crate::home::{Home, issuer, serves, wait_served};
use crate::stand::{Stand, request, valid, want};

const KEPT: &str = "kept.example.test";
const NEW: &str = "new.example.test";

/// Ten years, in seconds.
const BACK: &str = "-315360000";

/// 400 days.
const AHEAD: &str = "34560000";

#[test]
fn case_39_ten_years_back_it_serves_and_orders_when_the_clocks_agree() {
    alone(|| is_set_right(BACK));
}

#[test]
fn case_39_a_year_ahead_no_wait_outlives_the_clock_that_noted_it() {
    alone(|| is_set_right(AHEAD));
}

fn is_set_right(shifted_by: &str) {
    let pebble = Pebble::start_with(Setup::default().trusting());
    let proxy = Fault::before(&pebble);
    let home = Home::with(&pebble, &[issuer("main", &proxy.directory(), "")]);
    home.ask("kept", "main", &[KEPT], "");
    let address = cluster::address();
    let gateway = home.start(address);
    wait_served(&gateway, KEPT);
    wait::until("the record is at rest", || {
        (home.phase("kept-tls") == "Valid").then_some(())
    });
    drop(gateway);

    let scratch = Scratch::new();
    let (library, shift) = (preload::library(&scratch, "clock"), scratch.file("shift"));
    scratch.write("shift", shifted_by);
    let shifted = [("LD_PRELOAD", &*library), ("CLOCK_SHIFT", &*shift)];
    let gateway = home.start_under(&shifted, address, &[]);
    assert!(serves(&gateway, KEPT), "at once");
    home.ask("new", "main", &[NEW], "");
    // Told by the authority's own date, or by its own certificate: nothing is ordered.
    gateway.wait_diagnostic(&["CertificateNotIssued", "new-tls", "clock"]);
    assert!(serves(&gateway, KEPT));
    assert_eq!(proxy.count(Endpoint::NewOrder), 1);
    let panics = gateway.process.stderr.find("panicked");
    assert_eq!(panics, None);

    scratch.replace("shift", "0");
    let ordered = wait::within(Duration::from_secs(100), || {
        serves(&gateway, NEW).then_some(())
    });
    assert!(ordered.is_some(), "{}", gateway.diagnostics());
    assert!(serves(&gateway, KEPT));
    assert_eq!(pebble.issued().len(), 2, "the kept one was not renewed");
}

/// A cache before the directory, with an answer of long ago.
struct Kept;

impl Rule for Kept {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        for (name, value) in &mut answer.headers {
            if seen.endpoint == Endpoint::Directory && name.eq_ignore_ascii_case("date") {
                "Thu, 01 Jan 2026 00:00:00 GMT".clone_into(value);
            }
        }
    }
}

#[test]
fn a_directory_that_a_cache_has_kept_for_long_says_nothing_about_the_clocks() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        proxy.rule(Kept);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let mut wishes = vec![request("a", &["a.example.test"])];
            let keeper = stand.keeper();
            want(&keeper, wishes.clone());
            valid(&keeper, "a").await;
            // The account is known by now: the directory is all that is asked before an order.
            drop(keeper);
            let keeper = stand.keeper();
            wishes.push(request("b", &["b.example.test"]));
            want(&keeper, wishes);
            valid(&keeper, "b").await;
        });
    });
}
