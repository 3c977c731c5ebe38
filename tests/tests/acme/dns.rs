//! DNS-01: records written where the authority looks, proven by real name servers and by the
//! authority itself.
//!
//! What cannot be reached from a test, the interfaces of Cloudflare, Amazon and acme-dns, is played by
//! a server on the spot that knows as much of them as is used.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use gatehouse_acme::ca::{ChallengeKind, OrderStatus};
use gatehouse_acme::clock::{Clock, ScaledClock, SystemClock};
use gatehouse_acme::dns::{self, DnsError, Readiness, Solver, SolverSpec, TxtRecord};
use gatehouse_acme::secrets::{Entries, Secret};
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::{Bind, Pebble, Setup, Zone};
use gatehouse_tests::backend::{self, Backend, Request};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::manifests::Scratch;
use serde_json::{Value, json};

use crate::customer::{Customer, challenges, names, with};

fn entries(pairs: &[(&str, &str)]) -> Entries {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::new(*value));
    pairs.iter().map(pair).collect()
}

fn key() -> Entries {
    entries(&[("key", Bind::KEY), ("secret", Bind::SECRET)])
}

fn solver(spec: Value, entries: &Entries) -> Arc<dyn Solver> {
    let spec: SolverSpec = serde_json::from_value(spec).expect("a spec");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    dns::solver(&spec, entries, &[], &clock).expect("a solver")
}

/// One that updates this server and asks it about everything.
fn updating(bind: &Bind) -> Arc<dyn Solver> {
    let spec = json!({"zones": ["example.test"], "provider": "rfc2136", "secret": "key",
        "server": bind.at(), "resolvers": [bind.at()]});
    solver(spec, &key())
}

async fn visible(solver: &dyn Solver, record: &TxtRecord) -> bool {
    solver.ready(record).await.expect("an answer") == Readiness::Visible
}

/// Orders these names, writes what DNS-01 wants, and tells the authority when all of it is visible.
/// The order at its end, and the records.
async fn prove(
    customer: &Customer,
    solver: &dyn Solver,
    texts: &[&str],
) -> (OrderStatus, Vec<TxtRecord>) {
    let (ca, account) = (&customer.ca, &customer.account);
    let order = customer.ordered(&names(texts)).await;
    let read = ca
        .authorizations(account, &order.url)
        .await
        .expect("authorizations");
    let mut records = Vec::new();
    for authorization in &read {
        let mut offered = authorization.challenges.iter();
        let challenge = offered
            .find(|each| each.kind == ChallengeKind::Dns01)
            .expect("offered");
        let domain = authorization.name.base().expect("a DNS name");
        let value = account.key.dns_value(&challenge.token);
        let record = solver.locate(domain, &value).await.expect("a place");
        solver.present(&record).await.expect("written");
        records.push(record);
    }
    for record in &records {
        while !visible(solver, record).await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let wanted = challenges(&read, ChallengeKind::Dns01);
    ca.answer(account, &order.url, &wanted)
        .await
        .expect("answered");
    let done = customer
        .until(&order.url, OrderStatus::Ready)
        .await
        .expect("an order");
    (done.status, records)
}

/// An authority that asks this server.
pub(crate) fn asking(bind: &Bind) -> Pebble {
    Pebble::start_with(Setup {
        dns: Some(bind.at()),
        ..Setup::default()
    })
}

/// `example.test`, which takes updates.
pub(crate) fn one_zone() -> Bind {
    let address = Bind::address();
    let zone = Zone {
        name: "example.test",
        servers: vec![address],
        records: "",
    };
    Bind::primary(address, &[zone])
}

#[test]
fn case_8_a_wildcard_and_its_apex_are_proven_by_two_values_of_one_name_and_both_go_again() {
    alone(|| {
        let bind = one_zone();
        let pebble = asking(&bind);
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let solver = updating(&bind);
            let texts = ["*.example.test", "example.test"];
            let (status, records) = prove(&customer, &*solver, &texts).await;
            assert_eq!(status, OrderStatus::Ready);
            assert_eq!(records[0].fqdn, "_acme-challenge.example.test");
            assert_eq!(records[0].fqdn, records[1].fqdn);
            assert_eq!(records[0].zone.as_deref(), Some("example.test"));

            // Each value goes by itself, and going twice is no error.
            for _ in 0..2 {
                solver.cleanup(&records[0]).await.expect("removed");
            }
            assert!(!visible(&*solver, &records[0]).await);
            assert!(visible(&*solver, &records[1]).await);
            solver.cleanup(&records[1]).await.expect("removed");
            assert!(!visible(&*solver, &records[1]).await);
        });
        assert_eq!(
            bind.log().matches("adding an RR").count(),
            2,
            "{}",
            bind.log()
        );
    });
}

#[test]
fn case_9_a_cname_into_another_zone_is_followed_and_the_record_is_written_there() {
    alone(|| {
        let address = Bind::address();
        let records = "_acme-challenge.shop CNAME hop\nhop CNAME shop.proofs.test.";
        let zone = |name, records| Zone {
            name,
            servers: vec![address],
            records,
        };
        let bind = Bind::primary(
            address,
            &[zone("example.test", records), zone("proofs.test", "")],
        );
        let pebble = asking(&bind);
        with(async || {
            let customer = Customer::new(&pebble, &pebble.directory()).await;
            let solver = updating(&bind);
            let (status, records) = prove(&customer, &*solver, &["shop.example.test"]).await;
            assert_eq!(status, OrderStatus::Ready);
            assert_eq!(records[0].fqdn, "shop.proofs.test");
            assert_eq!(records[0].zone.as_deref(), Some("proofs.test"));
        });
    });
}

#[test]
fn case_10_a_name_server_that_lags_is_waited_for_and_the_first_validation_succeeds() {
    alone(|| {
        let (first, second) = (Bind::address(), Bind::address());
        let zone = Zone {
            name: "example.test",
            servers: vec![first, second],
            records: "",
        };
        let primary = Bind::primary(first, &[zone]);
        let late = Bind::late(second, first, "example.test");
        // The authority asks the one that lags.
        let pebble = asking(&late);
        let proxy = Fault::before(&pebble);
        with(async || {
            let customer = Customer::new(&pebble, &proxy.directory()).await;
            let solver = updating(&primary);
            // Not to begin before the first copy is there.
            let probe = solver
                .locate("probe.example.test", "v")
                .await
                .expect("a place");
            solver.present(&probe).await.expect("written");
            while !visible(&*solver, &probe).await {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            let fresh = solver
                .locate("fresh.example.test", "v")
                .await
                .expect("a place");
            solver.present(&fresh).await.expect("written");
            let Readiness::Missing(why) = solver.ready(&fresh).await.expect("an answer") else {
                panic!("the second server copies every few seconds only");
            };
            assert!(why.contains(&second.to_string()), "{why}");

            let (status, _) = prove(&customer, &*solver, &["shop.example.test"]).await;
            assert_eq!(status, OrderStatus::Ready);
        });
        assert_eq!(proxy.count(Endpoint::Challenge), 1);
    });
}

#[test]
fn case_11_a_provider_that_is_away_or_refuses_says_so_before_the_authority_is_told() {
    alone(|| {
        let mut bind = one_zone();
        with(async || {
            let spec = |resolvers: &[SocketAddr]| {
                json!({"zones": ["example.test"], "provider": "rfc2136", "secret": "key",
                    "server": bind.at(), "resolvers": resolvers})
            };
            let here = [bind.at()];
            let good = solver(spec(&here), &key());
            let record = good.locate("example.test", "v").await.expect("a place");

            let other = "b3RoZXItc2VjcmV0LW9mLXRoZS1zYW1lLWxlbmd0aA==";
            for (name, secret, word) in [
                (Bind::KEY, other, "wrong secret"),
                ("stranger", Bind::SECRET, "does not know"),
            ] {
                let wrong = solver(spec(&here), &entries(&[("key", name), ("secret", secret)]));
                let error = wrong.present(&record).await.expect_err("refused");
                assert!(matches!(error, DnsError::Configuration(_)), "{error}");
                assert!(error.to_string().contains(word), "{error}");
            }
            let apart = {
                let spec: SolverSpec = serde_json::from_value(spec(&here)).expect("a spec");
                let late = jiff::Timestamp::now() + std::time::Duration::from_secs(3600);
                let clock: Arc<dyn Clock> = Arc::new(ScaledClock::new(late, 1));
                dns::solver(&spec, &key(), &[], &clock).expect("a solver")
            };
            let error = apart.present(&record).await.expect_err("refused");
            assert!(error.to_string().contains("clocks"), "{error}");

            let elsewhere = TxtRecord {
                fqdn: "a.other.test".into(),
                zone: Some("other.test".into()),
                value: "v".into(),
            };
            let error = good.present(&elsewhere).await.expect_err("refused");
            assert!(error.to_string().contains("no primary"), "{error}");
        });
        bind.kill();
        with(async || {
            let solver = updating(&bind);
            let error = solver
                .locate("example.test", "v")
                .await
                .expect_err("nobody there");
            assert!(matches!(error, DnsError::Temporary(_)), "{error}");
            let record = TxtRecord {
                fqdn: "_acme-challenge.example.test".into(),
                zone: Some("example.test".into()),
                value: "v".into(),
            };
            let error = solver.present(&record).await.expect_err("nobody there");
            assert!(matches!(error, DnsError::Temporary(_)), "{error}");
        });
    });
}

#[test]
fn a_circle_of_cnames_is_told_and_a_name_in_no_zone_too() {
    alone(|| {
        let address = Bind::address();
        let zone = Zone {
            name: "example.test",
            servers: vec![address],
            records: "_acme-challenge.a CNAME _acme-challenge.b\n_acme-challenge.b CNAME _acme-challenge.a",
        };
        let bind = Bind::primary(address, &[zone]);
        with(async || {
            let solver = updating(&bind);
            let circle = solver
                .locate("a.example.test", "v")
                .await
                .expect_err("a circle");
            assert!(circle.to_string().contains("circle"), "{circle}");
            let nowhere = solver
                .locate("example.org", "v")
                .await
                .expect_err("no zone");
            assert!(nowhere.to_string().contains("in no zone"), "{nowhere}");
        });
    });
}

#[test]
fn case_13_httpreq_and_exec_are_called_once_each_as_lego_calls_them() {
    alone(|| {
        let bind = one_zone();
        let lego = Backend::plain();
        let scratch = Scratch::new();
        let log = scratch.file("calls");
        scratch.write(
            "hook.sh",
            format!(
                "#!/bin/sh\n[ \"$2\" = _acme-challenge.bad.example.test. ] && echo no such zone >&2 && exit 3\n\
                 echo \"$# $1 $2 $3 $TOKEN $(ulimit -Sn)\" >> {}\n",
                log.display()
            ),
        );
        let hook = scratch.file("hook.sh");
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&hook, mode).expect("executable");
        }
        with(async || {
            let base =
                json!({"zones": ["example.test"], "resolvers": [bind.at()], "propagation": "none"});
            let made = |more: Value, entries: &Entries| {
                let mut spec = base.clone();
                for (key, value) in more.as_object().expect("an object") {
                    spec[key] = value.clone();
                }
                solver(spec, entries)
            };
            let url = format!("http://{}/", lego.address);
            let basic = entries(&[("username", "u"), ("password", "p\n")]);
            let http = made(json!({"provider": "httpreq", "url": url}), &basic);
            let exec = made(
                json!({"provider": "exec", "command": hook}),
                &entries(&[("TOKEN", "t")]),
            );
            for solver in [&http, &exec] {
                let record = solver
                    .locate("shop.example.test", "value")
                    .await
                    .expect("a place");
                solver.present(&record).await.expect("written");
                assert!(visible(&**solver, &record).await);
                solver.cleanup(&record).await.expect("removed");
            }
            let bad = exec
                .locate("bad.example.test", "value")
                .await
                .expect("a place");
            let error = exec.present(&bad).await.expect_err("it said no");
            assert!(error.to_string().contains("no such zone"), "{error}");
            let gone = scratch.file("gone.sh");
            let gone = made(
                json!({"provider": "exec", "command": gone}),
                &Entries::new(),
            );
            let error = gone.present(&bad).await.expect_err("there is none");
            assert!(matches!(error, DnsError::Configuration(_)), "{error:?}");
            assert!(error.to_string().contains("does not start"), "{error}");
        });
        let calls = std::fs::read_to_string(&log).expect("calls");
        let fqdn = "_acme-challenge.shop.example.test.";
        assert_eq!(
            calls,
            format!("3 present {fqdn} value t 1024\n3 cleanup {fqdn} value t 1024\n"),
            "and not under the limit on open files that a gateway takes"
        );
        let requests = lego.requests();
        let targets: Vec<&str> = requests.iter().map(Request::target).collect();
        assert_eq!(targets, ["/present", "/cleanup"]);
        for request in &requests {
            assert_eq!(request.header("authorization"), Some("Basic dTpw"));
            let body: Value = serde_json::from_slice(&request.body()).expect("JSON");
            assert_eq!(body, json!({"fqdn": fqdn, "value": "value"}));
        }
    });
}

#[test]
fn acme_dns_is_written_where_the_cname_leads_and_nowhere_else() {
    alone(|| {
        let address = Bind::address();
        let zone = Zone {
            name: "example.test",
            servers: vec![address],
            records: "_acme-challenge.good CNAME d420.auth\n_acme-challenge.bad CNAME other.auth",
        };
        let bind = Bind::primary(address, &[zone]);
        let server = Backend::plain();
        with(async || {
            let spec = json!({"zones": ["example.test"], "provider": "acme-dns", "resolvers": [bind.at()],
                "url": format!("http://{}", server.address)});
            let account = [
                ("username", "u"),
                ("password", "p"),
                ("subdomain", "d420"),
                ("fulldomain", "d420.auth.example.test"),
            ];
            let solver = solver(spec, &entries(&account));
            let value = "v".repeat(43);
            let record = solver
                .locate("good.example.test", &value)
                .await
                .expect("a place");
            // An answer that is no JSON is told.
            let error = solver.present(&record).await.expect_err("not acme-dns");
            assert!(matches!(error, DnsError::Temporary(_)), "{error}");
            let error = solver
                .locate("bad.example.test", &value)
                .await
                .expect_err("elsewhere");
            let remedy = "_acme-challenge.bad.example.test. CNAME d420.auth.example.test.";
            assert!(error.to_string().contains(remedy), "{error}");
            solver.cleanup(&record).await.expect("nothing to do");
        });
        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].target(), "/update");
        assert_eq!(requests[0].header("x-api-user"), Some("u"));
        assert_eq!(requests[0].header("x-api-key"), Some("p"));
        let body: Value = serde_json::from_slice(&requests[0].body()).expect("JSON");
        assert_eq!(body, json!({"subdomain": "d420", "txt": "v".repeat(43)}));
    });
}

#[test]
fn cloudflare_keeps_other_values_and_is_changed_once_however_often_it_is_told() {
    alone(|| {
        let bind = one_zone();
        let kept: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let records = Arc::clone(&kept);
        // Records by id, as much of the interface as is used.
        let server = Backend::scripted(move |request| {
            let mut records = records.lock().expect("records");
            let target = request.target().to_owned();
            let (path, _) = target.split_once('?').unwrap_or((&target, ""));
            let result = match (request.method(), path) {
                ("GET", "/zones") => json!([{"id": "z1", "name": "example.test"}]),
                ("GET", "/zones/z1/dns_records") => records
                    .iter()
                    .map(|(id, content)| json!({"id": id, "content": content}))
                    .collect(),
                ("POST", _) => {
                    let count = records.len();
                    let id = format!("r{count}");
                    records.insert(id.clone(), format!("\"value{count}\""));
                    json!({"id": id})
                }
                ("DELETE", path) => {
                    let id = path.rsplit('/').next().expect("an id");
                    json!({"id": records.remove(id).map(|_| id)})
                }
                _ => Value::Null,
            };
            backend::ok(&json!({"success": true, "result": result}).to_string())
        });
        with(async || {
            let spec = json!({"zones": ["example.test"], "provider": "cloudflare",
                "resolvers": [bind.at()], "url": format!("http://{}", server.address)});
            let solver = solver(spec, &entries(&[("api-token", "secret-token")]));
            let mut written = Vec::new();
            for value in ["value0", "value1"] {
                let record = solver.locate("example.test", value).await.expect("a place");
                for _ in 0..2 {
                    solver.present(&record).await.expect("written");
                }
                written.push(record);
            }
            assert_eq!(kept.lock().expect("records").len(), 2);
            for _ in 0..2 {
                solver.cleanup(&written[0]).await.expect("removed");
            }
            let left: Vec<String> = kept.lock().expect("records").values().cloned().collect();
            assert_eq!(left, ["\"value1\""]);
        });
        let requests = server.requests();
        let count = |method| {
            requests
                .iter()
                .filter(|each| each.method() == method)
                .count()
        };
        assert_eq!((count("POST"), count("DELETE")), (2, 1));
        let posted = requests
            .iter()
            .find(|each| each.method() == "POST")
            .expect("one");
        let body: Value = serde_json::from_slice(&posted.body()).expect("JSON");
        let name = "_acme-challenge.example.test";
        let expected = json!({"type": "TXT", "name": name, "content": "\"value0\"", "ttl": 60});
        assert_eq!(body, expected);
        let token = Some("Bearer secret-token");
        assert!(
            requests
                .iter()
                .all(|each| each.header("authorization") == token)
        );
    });
}

#[test]
fn route_53_sets_keep_other_values_and_the_last_one_takes_the_set_with_it() {
    alone(|| {
        let bind = one_zone();
        let values: Arc<Mutex<Vec<String>>> = Arc::new(Mutex::new(vec!["\"other\"".into()]));
        let set = Arc::clone(&values);
        // One record set, as much of the interface as is used.
        let server = Backend::scripted(move |request| {
            let set = set.lock().expect("values");
            let zones = "<HostedZones><HostedZone><Id>/hostedzone/P</Id><Name>example.test.</Name>\
                 <Config><PrivateZone>true</PrivateZone></Config></HostedZone><HostedZone>\
                 <Id>/hostedzone/Z1</Id><Name>example.test.</Name><Config><PrivateZone>false\
                 </PrivateZone></Config></HostedZone></HostedZones>";
            if request.method() == "GET" && request.target().contains("hostedzonesbyname") {
                return backend::ok(zones);
            }
            let records: Vec<String> = set
                .iter()
                .map(|value| format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>"))
                .collect();
            let records = records.concat();
            let text = format!(
                "<ResourceRecordSets><ResourceRecordSet><Name>_acme-challenge.example.test.</Name>\
                 <Type>TXT</Type><TTL>300</TTL><ResourceRecords>{records}</ResourceRecords>\
                 </ResourceRecordSet></ResourceRecordSets>"
            );
            backend::ok(&text)
        });
        let sent = |at: usize| {
            let requests = server.requests();
            let mut posted = requests.iter().filter(|each| each.method() == "POST");
            let request = posted.nth(at).expect("a change").clone();
            assert_eq!(request.target(), "/2013-04-01/hostedzone/Z1/rrset");
            let signed = request.header("authorization").expect("signed");
            assert!(
                signed.contains("/us-east-1/route53/aws4_request"),
                "{signed}"
            );
            assert!(signed.contains("SignedHeaders=host;x-amz-date"), "{signed}");
            String::from_utf8(request.body()).expect("text")
        };
        let has = |text: &str, value: &str| text.contains(&format!("<Value>\"{value}\"</Value>"));
        with(async || {
            let spec = json!({"zones": ["example.test"], "provider": "route53",
                "resolvers": [bind.at()], "url": format!("http://{}", server.address)});
            let keys = entries(&[("access-key-id", "AKID"), ("secret-access-key", "s")]);
            let solver = solver(spec, &keys);
            let record = solver
                .locate("example.test", "ours")
                .await
                .expect("a place");
            solver.present(&record).await.expect("written");
            let added = sent(0);
            assert!(added.contains("<Action>UPSERT</Action>"), "{added}");
            assert!(has(&added, "ours") && has(&added, "other"), "{added}");

            *values.lock().expect("values") = vec!["\"other\"".into(), "\"ours\"".into()];
            solver.present(&record).await.expect("there already");
            solver.cleanup(&record).await.expect("removed");
            let removed = sent(1);
            assert!(removed.contains("<Action>UPSERT</Action>"), "{removed}");
            assert!(
                !has(&removed, "ours") && has(&removed, "other"),
                "{removed}"
            );

            *values.lock().expect("values") = vec!["\"ours\"".into()];
            solver.cleanup(&record).await.expect("removed");
            let last = sent(2);
            // With its own TTL, not that of the settings: it would not be the set that is there.
            let delete =
                last.contains("<Action>DELETE</Action>") && last.contains("<TTL>300</TTL>");
            assert!(delete && has(&last, "ours"), "{last}");

            *values.lock().expect("values") = vec!["\"other\"".into()];
            solver.cleanup(&record).await.expect("gone already");
            let requests = server.requests();
            assert_eq!(
                requests
                    .iter()
                    .filter(|each| each.method() == "POST")
                    .count(),
                3
            );
        });
    });
}
