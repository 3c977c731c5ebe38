//! What is not ordered, ordered elsewhere, or not taken: wildcards, too many names, an authority that
//! is away or delivers something else.

use std::sync::Arc;

use gatehouse_acme::clock::{Clock, ScaledClock};
use gatehouse_acme::events::What;
use gatehouse_acme::failure::Class;
use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::keeper::{Command, Keeper};
use gatehouse_acme::plan::Code;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Seen};
use gatehouse_tests::acme::rules::{On, Replaced, edge_unavailable};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};

use crate::customer::with;
use crate::dns::{asking, one_zone};
use crate::stand::{Stand, command, event, request, served, until, valid, want};
use crate::waits::Undated;

/// The codes of what users are told.
async fn told(keeper: &Keeper) -> Vec<Code> {
    let mut findings = keeper.findings.clone();
    let some = findings.wait_for(|found| !found.is_empty()).await;
    let some = some.expect("findings");
    some.iter().map(|each| each.code).collect()
}

/// Names of every order that was made, sorted within it.
fn ordered(proxy: &Fault) -> Vec<Vec<String>> {
    let journal = proxy.journal().into_iter();
    let orders = journal.filter(|seen| seen.endpoint == Endpoint::NewOrder);
    let names = |seen: Seen| {
        let identifiers = seen.payload["identifiers"].as_array().cloned();
        let names = identifiers.unwrap_or_default().into_iter();
        let name = |each: serde_json::Value| each["value"].as_str().map(str::to_owned);
        let mut names: Vec<String> = names.filter_map(name).collect();
        names.sort();
        names
    };
    orders.map(names).collect()
}

#[test]
fn case_15_a_wildcard_that_covers_a_host_is_the_only_order() {
    alone(|| {
        let bind = one_zone();
        let pebble = asking(&bind);
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::updating(&pebble, &proxy.directory(), &bind, "");
            let keeper = stand.keeper();
            let both = vec![
                request("one", &["shop.example.test"]),
                request("all", &["*.example.test"]),
            ];
            want(&keeper, both);
            valid(&keeper, "all").await;
            assert_eq!(told(&keeper).await, [Code::Covered]);
            // Another host of another depth is not covered, and shows that the rest was looked at.
            let more = vec![
                request("all", &["*.example.test"]),
                request("one", &["shop.example.test"]),
                request("deep", &["a.shop.example.test"]),
            ];
            want(&keeper, more);
            valid(&keeper, "deep").await;
            assert_eq!(
                ordered(&proxy),
                [["*.example.test"], ["a.shop.example.test"]]
            );
            assert_eq!(pebble.issued().len(), 2);
            assert!(served(&keeper, "one").is_none());
        });
    });
}

#[test]
fn case_16_a_name_that_a_wildcard_covers_is_left_out_of_the_one_order() {
    alone(|| {
        let bind = one_zone();
        let pebble = asking(&bind);
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::updating(&pebble, &proxy.directory(), &bind, "");
            let keeper = stand.keeper();
            let hosts = ["www.example.test", "*.example.test", "example.test"];
            want(&keeper, vec![request("tls", &hosts)]);
            let serial = valid(&keeper, "tls").await;
            assert_eq!(ordered(&proxy), [["*.example.test", "example.test"]]);
            assert_eq!(pebble.issued(), [serial]);
        });
    });
}

#[test]
fn case_17_too_many_names_are_told_with_their_number_and_nobody_is_asked() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            let names = |count: usize| -> Vec<String> {
                (0..count).map(|n| format!("h{n}.example.test")).collect()
            };
            let wish = |secret: &str, names: &[String], profile: Option<&str>| {
                let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
                let mut wish = request(secret, &hosts);
                wish.profile = profile.map(str::to_owned);
                wish
            };
            let many = wish("many", &names(101), None);
            let short = wish("short", &names(26), Some("tlsserver"));
            want(&keeper, vec![many, short]);
            assert_eq!(told(&keeper).await, [Code::TooManyNames; 2]);
            let findings = keeper.findings.borrow().clone();
            let said: String = findings.iter().map(|each| each.message.as_str()).collect();
            for number in ["101", "100", "26", "25"] {
                assert!(said.contains(number), "{said}");
            }
            assert_eq!(proxy.journal().len(), 0, "nobody was asked");
            // One fewer is an order.
            want(&keeper, vec![wish("many", &names(100), None)]);
            valid(&keeper, "many").await;
            assert_eq!(ordered(&proxy)[0].len(), 100);
        });
    });
}

/// A certificate of nobody: another key, and signed by itself.
fn strange() -> String {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["a.example.test".to_owned()]).expect("names");
    params.self_signed(&key).expect("a certificate").pem()
}

/// The first certificate of a chain.
fn leaf(chain: &str) -> &str {
    let mut each = chain.split_inclusive("-----END CERTIFICATE-----\n");
    each.next().expect("a leaf")
}

#[test]
fn case_54_a_chain_of_another_key_or_to_nobody_is_refused_and_the_old_one_stays() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let mut stand = Stand::new(&pebble, &proxy.directory(), "");
            stand.clock = Arc::new(ScaledClock::new(Timestamp::now(), 1_000));
            proxy.rule(Undated);
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let mut serial = valid(&keeper, "tls").await;
            let another_key = Replaced::by(|_| strange());
            let to_nobody = Replaced::by(|chain| format!("{}{}", leaf(chain), strange()));
            for (wrong, word) in [
                (another_key, "for another key"),
                (to_nobody, "does not fit"),
            ] {
                proxy.rule(wrong);
                let old = served(&keeper, "tls").expect("served");
                let mut events = keeper.events();
                let renew = Command::Renew { force: true };
                command(&keeper, "tls", renew).await.expect("begun");
                let alarm = event(&mut events, |what| matches!(what, What::Failed { .. })).await;
                let What::Failed {
                    class,
                    detail,
                    until: next,
                } = alarm.what
                else {
                    panic!("a failure");
                };
                assert_eq!(class, Class::BadCertificate, "{detail}");
                assert!(detail.contains(word), "{detail}");
                let wait = next.expect("again").duration_since(stand.clock.now());
                assert!(wait > SignedDuration::from_mins(30), "{wait}");
                assert_eq!(served(&keeper, "tls"), Some(old), "the old one stays");
                let orders = proxy.count(Endpoint::NewOrder);
                proxy.heal();
                proxy.rule(Undated);
                // What is delivered an hour later is taken, and is not ordered again.
                let report = until(&keeper, "tls", |report| {
                    report.phase == Phase::Valid && report.serial.as_deref() != Some(&serial)
                })
                .await;
                serial = report.serial.clone().expect("a serial");
                assert_eq!(proxy.count(Endpoint::NewOrder), orders);
            }
            assert_eq!(pebble.issued().len(), 3);
        });
    });
}

/// Two authorities, the second of which is turned to when the first one is away.
fn in_order(first: &str, second: &str) -> Issuers {
    let one = |name: &str, directory: &str, bundle: &str, more: &str| {
        format!(
            "    {name}:\n      directory: {directory}\n      acceptTerms: true\n      \
             caBundle: {bundle}\n{more}"
        )
    };
    let text = format!(
        "acme:\n  issuers:\n{}{}  default: main\n  unlisted: allow\n",
        one("main", first, "roots", "      fallback: [second]\n"),
        one("second", second, "others", ""),
    );
    Issuers::parse(&text).expect("issuers")
}

#[test]
fn case_61_the_second_authority_is_asked_after_an_hour_and_a_renewal_returns_to_the_first() {
    alone(|| {
        let first = Pebble::start_with(Setup::default().trusting());
        let second = Pebble::start_with(Setup::default().trusting());
        let proxies = [Fault::before(&first), Fault::before(&second)];
        with(async || {
            let mut stand = Stand::new(&first, &proxies[0].directory(), "");
            stand.secret("others", "ca.crt", &second.bundle());
            let both = in_order(&proxies[0].directory(), &proxies[1].directory());
            stand.issuers.send_replace(Arc::new(both));
            let clock = Arc::new(ScaledClock::new(Timestamp::now(), 1_000));
            stand.clock = Arc::<ScaledClock>::clone(&clock);
            for proxy in &proxies {
                proxy.rule(Undated);
            }
            let keeper = stand.keeper();
            let good = || request("good", &["good.example.test"]);
            want(&keeper, vec![good()]);
            let kept = valid(&keeper, "good").await;

            proxies[0].rule(On::everything(edge_unavailable(60)));
            let missing = || request("missing", &["missing.example.test"]);
            let begun = clock.now();
            // One that is good for long waits for the first authority, though it needs another.
            let more = || request("good", &["good.example.test", "more.example.test"]);
            want(&keeper, vec![more(), missing()]);
            let serial = valid(&keeper, "missing").await;
            let took = clock.now().duration_since(begun);
            assert!(took >= SignedDuration::from_hours(1), "{took}");
            assert_eq!(second.issued(), [serial.as_str()]);
            assert_eq!(ordered(&proxies[1]), [["missing.example.test"]]);
            let report = until(&keeper, "good", |report| report.waiting.is_some()).await;
            assert_eq!(report.waiting, Some(Class::Outage));
            assert_eq!(report.serial.as_deref(), Some(kept.as_str()));

            proxies[0].heal();
            proxies[0].rule(Undated);
            until(&keeper, "good", |report| {
                report.phase == Phase::Valid && report.serial.as_deref() != Some(&kept)
            })
            .await;
            crate::issuing::renew(&keeper, "missing").await;
            assert_eq!(
                second.issued().len(),
                1,
                "the second one is not asked again"
            );
            let last = proxies[0].journal().into_iter().rev();
            let mut orders = last.filter(|seen| seen.endpoint == Endpoint::NewOrder);
            let order = orders.next().expect("an order");
            assert!(order.payload["replaces"].is_null(), "{}", order.payload);
            let names = order.payload["identifiers"].to_string();
            assert!(names.contains("missing.example.test"), "{names}");
        });
    });
}
