//! `gatehouse cert` and `gatehouse account` against a gateway that orders from a real authority.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{On, rate_limited};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::{Answer, Client};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::wait;
use serde_json::{Value, json};

use crate::home::{Home, issuer, serves};

pub(crate) const HOST: &str = "shop.example.test";

/// Longer than an order takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Runs a command to its end: whether it succeeded, and what it printed.
fn run(arguments: &[&str]) -> (bool, String) {
    let output = gateway::run(arguments);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

/// The same at a gateway.
fn ask(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let admin = gateway.admin.to_string();
    run(&[arguments, &["--admin", &admin]].concat())
}

/// What a command says that has to succeed.
fn said(gateway: &Gateway, arguments: &[&str]) -> String {
    let (good, text) = ask(gateway, arguments);
    assert!(
        good,
        "{arguments:?}: {text}\n{:#?}",
        gateway.process.stderr.all()
    );
    text
}

/// `cert show` as JSON, once it fits.
pub(crate) fn shown(gateway: &Gateway, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = wait::within(PATIENCE, || {
        let (status, body) = gateway.admin_get("/api/certificates/demo/web-tls");
        last = serde_json::from_str(&body).unwrap_or(json!({"status": status, "body": body}));
        fits(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("{last:#}\n{:#?}", gateway.process.stderr.all()))
}

pub(crate) fn valid(gateway: &Gateway) -> Value {
    shown(gateway, |view| view["status"] == "valid")
}

/// A command that may meet the certificate while it is looked after for another reason.
pub(crate) fn insist(gateway: &Gateway, arguments: &[&str]) -> String {
    let done = wait::within(PATIENCE, || {
        let (good, text) = ask(gateway, arguments);
        let busy = ["worked on", "in a minute"];
        let busy = busy.iter().any(|busy| text.contains(busy));
        assert!(good || busy, "{arguments:?}: {text}");
        good.then_some(text)
    });
    done.expect("it is done in the end")
}

/// One that is over already says so, too.
pub(crate) fn renewed(gateway: &Gateway, before: &Value) -> Value {
    shown(gateway, |view| {
        view["status"] == "valid" && view["serial"] != before["serial"]
    })
}

#[test]
fn a_certificate_is_listed_shown_renewed_revoked_and_written() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      contact: ops@example.test\n");
        home.want(HOST);
        let gateway = home.start(pebble.address());
        let first = valid(&gateway);
        let text = said(&gateway, &["cert", "list"]);
        for part in ["CERTIFICATE", "demo/web-tls", "valid", "main", HOST] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = said(&gateway, &["cert", "show", "demo/web-tls"]);
        let serial = first["serial"].as_str().expect("a serial").to_owned();
        for part in [
            HOST,
            "issuer main",
            &serial,
            "is served until",
            "It is renewed",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = said(
            &gateway,
            &["cert", "show", "demo/web-tls", "--output", "json"],
        );
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["serial"], first["serial"]);
        assert_eq!(json["names"], json!([HOST]));

        let text = insist(&gateway, &["cert", "renew", "demo/web-tls"]);
        assert!(text.contains("renewed now"), "{text}");
        let second = renewed(&gateway, &first);
        let text = insist(
            &gateway,
            &["cert", "revoke", "demo/web-tls", "--reason=superseded"],
        );
        let serial = second["serial"].as_str().expect("a serial").to_owned();
        assert!(text.contains(&serial), "{text}");
        renewed(&gateway, &second);
        assert_eq!(pebble.status_of(&serial)["Status"], "Revoked");
        assert_eq!(pebble.issued().len(), 3);

        let text = said(&gateway, &["cert", "export", "demo/web-tls"]);
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
        let text = said(&gateway, &["account", "show"]);
        for part in [
            "issuer main",
            "/my-account/",
            "thumbprint",
            "ops@example.test",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let before = text;
        let text = insist(&gateway, &["account", "rotate", "main"]);
        assert!(text.contains("another key"), "{text}");
        assert_ne!(said(&gateway, &["account", "show"]), before);
        // With the new key, too.
        let before = valid(&gateway);
        insist(&gateway, &["cert", "renew", "demo/web-tls"]);
        renewed(&gateway, &before);

        let (good, text) = ask(&gateway, &["cert", "retry", "demo/none"]);
        assert!(
            !good && text.contains("there is no certificate demo/none"),
            "{text}"
        );
        let (good, text) = ask(&gateway, &["account", "rotate", "other"]);
        assert!(
            !good && text.contains("there is no issuer \"other\"; there are main"),
            "{text}"
        );
    });
}

#[test]
fn a_key_is_written_from_the_directory_into_a_file_of_its_owner_only() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        home.want(HOST);
        let gateway = home.start(pebble.address());
        valid(&gateway);
        let vault = home.vault().display().to_string();
        let chain = home.scratch.file("chain.pem").display().to_string();
        let key = home.scratch.file("key.pem").display().to_string();
        let export = [
            "cert",
            "export",
            "demo/web-tls",
            "--certs",
            &vault,
            "--chain",
            &chain,
            "--key",
            &key,
        ];
        let (good, text) = run(&export);
        assert!(good, "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
        let mode = std::fs::metadata(&key)
            .expect("the key")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let (good, text) = run(&export);
        assert!(
            !good && text.contains("exists") && text.contains("--key"),
            "{text}"
        );
        // Nobody means a file of this name.
        let nowhere = [&export[..5], &["--key", "-"]].concat();
        let (good, text) = run(&nowhere);
        assert!(!good && text.contains("name a file"), "{text}");
        // The gateway itself hands none out.
        let (good, text) = ask(&gateway, &["cert", "export", "demo/web-tls", "--key", &key]);
        assert!(!good && text.contains("--certs"), "{text}");
    });
}

#[test]
fn what_is_imported_before_the_first_start_is_served_without_an_order() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        let pair = Pair::new(&[HOST]);
        home.scratch.write("chain.pem", &pair.certificate);
        home.scratch.write("key.pem", &pair.key);
        let vault = home.vault().display().to_string();
        let chain = home.scratch.file("chain.pem").display().to_string();
        let key = home.scratch.file("key.pem").display().to_string();
        let import = [
            "cert",
            "import",
            "demo/web-tls",
            "--chain",
            &chain,
            "--key",
            &key,
        ];
        let offline = [&import[..], &["--certs", &vault]].concat();
        // A path that nobody made is a mistake rather than a wish.
        let (good, text) = run(&offline);
        assert!(!good && text.contains("there is no vault"), "{text}");
        assert!(text.contains("mkdir"), "{text}");
        assert!(!home.vault().exists(), "nothing was made");
        let manifests = home.scratch.file("").display().to_string();
        let (good, text) = run(&[&import[..], &["--certs", &manifests]].concat());
        assert!(!good && text.contains("there is no vault"), "{text}");
        std::fs::create_dir(home.vault()).expect("a directory");
        let (good, text) = run(&offline);
        assert!(good, "{text}");
        home.want(HOST);
        let gateway = home.start(pebble.address());
        wait::until("it is served", || serves(&gateway, HOST).then_some(()));
        assert_eq!(valid(&gateway)["issuer"], "main");
        // Looking needs no lock, writing does.
        let (good, text) = run(&["cert", "list", "--certs", &vault]);
        assert!(good && text.contains(HOST), "{text}");
        let (good, text) = run(&offline);
        assert!(!good && text.contains("--admin"), "{text}");
        // What Traefik keeps, too, and at a gateway that works.
        let other = Pair::new(&[HOST, "www.example.test"]);
        let [chain, key] =
            [&other.certificate, &other.key].map(|text| BASE64_STANDARD.encode(text));
        let kept = json!({"le": {"Certificates": [{"certificate": chain, "key": key}]}});
        home.scratch.write("acme.json", kept.to_string());
        let file = home.scratch.file("acme.json").display().to_string();
        let import = [
            "cert",
            "import",
            "demo/web-tls",
            "--acme-json",
            &file,
            "--host",
            HOST,
        ];
        let text = insist(&gateway, &import);
        assert!(text.contains("imported"), "{text}");
        wait::until("the other one is served", || {
            let shown = Handshake::new(HOST).connect(gateway.https).ok()?;
            (shown.names().len() == 2).then_some(())
        });
        assert!(pebble.issued().is_empty(), "nothing was ordered");
    });
}

#[test]
fn what_stands_in_the_way_is_said_with_the_words_of_the_authority_and_the_next_attempt() {
    alone(|| {
        let pebble = Pebble::start_with(Setup {
            config: json!({"domainBlocklist": ["blocked.example.test"]}),
            ..Setup::default()
        });
        let proxy = Fault::before(&pebble);
        let home = Home::with(
            &pebble,
            &[issuer(
                "main",
                &proxy.directory(),
                "      challenges: [http-01]\n",
            )],
        );
        // Nobody listens there.
        pebble.lead(HOST, [127, 0, 0, 99].into());
        home.want(HOST);
        let gateway = home.start(pebble.address());
        let view = shown(&gateway, |view| view["status"] == "waiting");
        assert_eq!(view["failure"]["class"], "validation");
        assert!(view["failure"]["nextAttempt"].is_string(), "{view:#}");
        let text = said(&gateway, &["cert", "show", "demo/web-tls"]);
        for part in [
            "There is no certificate yet",
            "could not validate",
            "connection",
            "It is tried again",
            "(in ",
            "gatehouse cert retry demo/web-tls",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        gateway.wait_diagnostic(&["CertificateNotIssued", "web-tls", "connection"]);
        let (_, metrics) = gateway.admin_get("/metrics");
        let waiting = "gatehouse_certificate_waiting{certificate=\"demo/web-tls\",issuer=\"main\",\
                       class=\"validation\"} 1";
        assert!(metrics.contains(waiting), "{metrics}");
        // Mended, and not waited for.
        pebble.name("clear-a", &json!({"host": HOST}));
        insist(&gateway, &["cert", "retry", "demo/web-tls"]);
        valid(&gateway);
        gateway.wait_diagnostic(&["CertificateIssued", "web-tls", HOST]);

        home.want("blocked.example.test");
        let view = shown(&gateway, |view| view["failure"]["class"] == "spec");
        assert!(view["failure"]["nextAttempt"].is_null(), "{view:#}");
        let text = said(&gateway, &["cert", "show", "demo/web-tls"]);
        for part in [
            "will never issue",
            "blocked.example.test",
            "when something has changed",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        gateway.wait_diagnostic(&["CertificateBlocked", "blocked.example.test"]);

        let limit = rate_limited("certificates", 3_600, "2999-01-01 00:00:00 UTC");
        proxy.rule(On::these(&[Endpoint::NewOrder], limit));
        home.want("limited.example.test");
        let view = shown(&gateway, |view| view["failure"]["class"] == "limited");
        assert!(view["failure"]["nextAttempt"].is_string(), "{view:#}");
        gateway.wait_diagnostic(&["CertificateLimited", "too many certificates"]);
        let (_, metrics) = gateway.admin_get("/metrics");
        let limited = "gatehouse_acme_limited_until_seconds{issuer=\"main\",scope=\"account\"} ";
        assert!(metrics.contains(limited), "{metrics}");
        assert!(metrics.contains("problem=\"rateLimited\""), "{metrics}");

        // What may not be asked for is shown as well, though nothing is kept of it.
        home.want("shop.other.test");
        let view = shown(&gateway, |view| view["remarks"][0].is_object());
        let remark = view["remarks"][0]["message"].as_str().expect("words");
        assert!(remark.contains("acme.issuers.main.allow"), "{view:#}");
        home.keeps_quiet(&gateway);
    });
}

fn post(gateway: &Gateway, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut client = Client::plain(gateway.admin);
    let mut request = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    client.send(request + "\r\n" + body);
    client.answer().expect("an answer")
}

#[test]
fn commands_come_from_this_machine_and_from_no_web_page() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        let gateway = home.start_under(&[], pebble.address(), &["--admin-listen", "0.0.0.0:0"]);
        let (local, json) = (("Host", "localhost"), ("Content-Type", "application/json"));
        let path = "/api/certificates/demo/web-tls/renew";
        let origin = ("Origin", "http://localhost:3000");
        let plain = ("Content-Type", "text/plain");
        let long = "x".repeat(300 << 10);
        for (fields, body, status) in [
            (&[local, json][..], "{}", 409),
            (&[local, json], "{\"forse\": true}", 400),
            (&[local, json], "nonsense", 400),
            (&[local, json], &long, 413),
            (&[local, plain], "{}", 415),
            (&[local], "{}", 415),
            (&[local, json, origin], "{}", 403),
            (&[local, json, ("X-Forwarded-For", "192.0.2.1")], "{}", 403),
            (&[("Host", "rebound.example"), json], "{}", 421),
        ] {
            let answer = post(&gateway, path, fields, body);
            assert_eq!(answer.status, status, "{fields:?}: {}", answer.text());
            assert!(answer.text().len() > 20, "it says why: {}", answer.text());
        }
        let reason = post(
            &gateway,
            "/api/certificates/demo/web-tls/revoke",
            &[local, json],
            "{\"reason\": 2}",
        );
        assert_eq!(reason.status, 400, "{}", reason.text());
        // A key in a body that is refused is not repeated.
        let key = Pair::new(&["a.test"]).key.replace('\n', "\\n");
        let body = format!("{{\"chain\": \"x\", \"key\": \"{key}\", \"more\": 1}}");
        let path = "/api/certificates/demo/web-tls/import";
        let answer = post(&gateway, path, &[local, json], &body);
        assert_eq!(answer.status, 400);
        assert!(!answer.text().contains("PRIVATE KEY"), "{}", answer.text());
        let body = format!("{{\"chain\": \"x\", \"key\": \"{key}\"}}");
        let answer = post(&gateway, path, &[local, json], &body);
        assert_eq!(answer.status, 409);
        assert!(!answer.text().contains("PRIVATE KEY"), "{}", answer.text());

        // Somebody who connects from elsewhere may look, and no more.
        let mut away = gateway.admin;
        away.set_ip([10, 99, 0, 77].into());
        let away = Gateway {
            admin: away,
            ..gateway
        };
        let answer = post(
            &away,
            "/api/certificates/demo/web-tls/renew",
            &[json, ("Host", "10.99.0.77")],
            "{}",
        );
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("kubectl exec"), "{}", answer.text());
        assert_eq!(away.admin_get("/api/certificates").0, 200);
        assert_eq!(away.admin_get("/api/accounts").0, 200);
    });
}

#[test]
fn a_host_is_looked_at_without_an_order() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        home.want(HOST);
        let gateway = home.start(pebble.address());
        valid(&gateway);
        let orders = pebble.log().matches("/order-plz").count();
        let (dns, http, tls) = (
            pebble.dns().to_string(),
            Pebble::HTTP.to_string(),
            Pebble::TLS.to_string(),
        );
        let check = |host: &str, more: &[&str]| {
            let flags = [
                "cert",
                "check",
                host,
                "--resolver",
                &dns,
                "--http-port",
                &http,
                "--https-port",
                &tls,
            ];
            run(&[&flags, more].concat())
        };
        let (good, text) = check(HOST, &[]);
        assert!(good, "{text}");
        for part in [
            "leads to",
            "no CAA record",
            "answers challenges",
            "speaks TLS",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        pebble.name(
            "add-caa",
            &json!({"host": HOST, "policies": [{"tag": "issue", "value": "ca.example"}]}),
        );
        let (good, text) = check(HOST, &["--authority", "other.example"]);
        assert!(!good && text.contains("other.example may not"), "{text}");
        let (good, text) = check(HOST, &["--authority", "ca.example", "--output", "json"]);
        assert!(good, "{text}");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert!(
            json.as_array().is_some_and(|looks| looks.len() == 4),
            "{text}"
        );
        pebble.lead("away.example.test", [127, 0, 0, 99].into());
        let (good, text) = check("away.example.test", &[]);
        assert!(!good && text.contains("127.0.0.99"), "{text}");
        let (good, text) = check("*.example.test", &[]);
        assert!(good && text.contains("dns-01"), "{text}");
        assert_eq!(
            pebble.log().matches("/order-plz").count(),
            orders,
            "nothing was ordered"
        );
    });
}

#[test]
fn metrics_tell_how_certificates_and_authorities_stand() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "");
        home.want(HOST);
        let gateway = home.start(pebble.address());
        let view = valid(&gateway);
        let serial = view["serial"].as_str().expect("a serial");
        let labels = "{certificate=\"demo/web-tls\",issuer=\"main\"} ";
        let of = |name: &str| format!("gatehouse_certificate_{name}{labels}");
        let address = pebble.address();
        let ca = format!("{{ca=\"{address}\"");
        let series = [
            of("failures") + "0",
            of("revision") + "1",
            of("wanted") + "1",
            of("renew_at_seconds"),
            of("not_before_seconds"),
            format!(
                "gatehouse_certificate_serial_info{{certificate=\"demo/web-tls\",serial=\"{serial}\"}} 1"
            ),
            format!("gatehouse_acme_ca_up{ca}}} 1"),
            format!("gatehouse_acme_clock_skew_seconds{ca}}} "),
            format!(
                "gatehouse_acme_requests_total{ca},endpoint=\"finalize\",status=\"200\",problem=\"\"}} 1"
            ),
            format!("gatehouse_acme_request_duration_seconds_count{ca},endpoint=\"new-order\"}} 1"),
            "gatehouse_acme_orders_total{issuer=\"main\",result=\"ordered\"} 1".to_owned(),
            "gatehouse_acme_orders_total{issuer=\"main\",result=\"finalized\"} 1".to_owned(),
            "gatehouse_acme_orders_total{issuer=\"main\",result=\"issued\"} 1".to_owned(),
            "gatehouse_acme_leader 1".to_owned(),
        ];
        let (_, metrics) = gateway.admin_get("/metrics");
        for line in series {
            assert!(metrics.contains(&line), "{line}\n{metrics}");
        }
        assert!(
            !metrics.contains("gatehouse_certificate_waiting{"),
            "{metrics}"
        );
        // What is refused is kept, and nobody renews it.
        home.want("shop.elsewhere.test");
        let refused = |view: &Value| view["status"] == "refused";
        shown(&gateway, refused);
        let (_, metrics) = gateway.admin_get("/metrics");
        assert!(metrics.contains(&(of("wanted") + "0")), "{metrics}");
        assert!(!metrics.contains(&of("renew_at_seconds")), "{metrics}");
    });
}
