//! No private key shows up in anything that is printed, logged or served.

use std::time::Duration;

use gatehouse_acme::keeper::Command;
use gatehouse_acme::secrets::Secret;
use gatehouse_tests::acme::keys::Keys;
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::tls::Pair;
use gatehouse_tests::wait;
use serde_json::{Value, json};

use crate::customer::with;
use crate::home::Home;
use crate::stand::{Stand, request, served, target, valid, want};

/// Longer than an order takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Everything that was printed or served, by where.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.0.push((what.into(), text.into()));
    }

    /// Runs a command and keeps what it prints, whether it succeeds or not.
    fn run(&mut self, arguments: &[&str]) -> bool {
        let output = gateway::run(arguments);
        for (stream, bytes) in [("output", output.stdout), ("errors", output.stderr)] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            self.add(format!("{stream} of {arguments:?}"), text);
        }
        output.status.success()
    }

    /// Keeps every page.
    fn pages(&mut self, gateway: &Gateway) {
        for page in [
            "/metrics",
            "/api/snapshot",
            "/api/diagnostics",
            "/api/convergence",
            "/api/certificates",
            "/api/certificates/demo/web-tls",
            "/api/certificates/demo/web-tls/chain",
            "/api/accounts",
            "/api/explain?url=https://shop.example.test/",
        ] {
            let (status, body) = gateway.admin_get(page);
            assert_eq!(status, 200, "{page}: {body}");
            self.add(page, body);
        }
    }
}

fn stands(gateway: &Gateway, fits: impl Fn(&Value) -> bool) {
    let found = wait::within(PATIENCE, || {
        let (_, body) = gateway.admin_get("/api/certificates/demo/web-tls");
        let view: Value = serde_json::from_str(&body).ok()?;
        fits(&view).then_some(())
    });
    assert!(found.is_some(), "{:#?}", gateway.process.stderr.all());
}

#[test]
fn no_log_page_or_command_of_a_gateway_gives_a_key_away() {
    alone(|| {
        let pebble = Pebble::start_with(Setup {
            config: json!({"domainBlocklist": ["blocked.example.test"]}),
            ..Setup::default()
        });
        let home = Home::new(&pebble, "");
        let vault = home.vault().display().to_string();
        home.want("shop.example.test");
        let gateway = home.start_under(&[], pebble.address(), &["--log-level", "trace"]);
        let admin = gateway.admin.to_string();
        let (mut said, mut keys) = (Said::default(), Keys::default());
        let is_valid = |view: &Value| view["status"] == "valid";
        stands(&gateway, is_valid);
        said.pages(&gateway);
        let found = Keys::of(&home.vault());
        assert!(
            found.len() >= 2,
            "that of the account and that of the certificate"
        );
        let pair = Pair::new(&["shop.example.test"]);
        keys.add("the imported pair", &pair.key);
        home.scratch.write("chain.pem", &pair.certificate);
        home.scratch.write("key.pem", &pair.key);
        let chain = home.scratch.file("chain.pem").display().to_string();
        let key = home.scratch.file("key.pem").display().to_string();
        let out = home.scratch.file("out.pem").display().to_string();
        let one = "demo/web-tls";
        for command in [
            &["cert", "list", "--admin", &admin][..],
            &["cert", "list", "--certs", &vault, "--output", "json"],
            &["cert", "show", one, "--admin", &admin],
            &["cert", "show", one, "--certs", &vault, "--output", "json"],
            &["cert", "retry", one, "--admin", &admin],
            &["cert", "revoke", one, "--admin", &admin],
            &["account", "show", "--admin", &admin, "--output", "json"],
            &["account", "rotate", "main", "--admin", &admin],
            &["cert", "export", one, "--certs", &vault, "--key", &out],
            &["cert", "export", one, "--certs", &vault, "--key", &out],
            &["cert", "export", one, "--admin", &admin],
            &[
                "cert", "import", one, "--admin", &admin, "--chain", &chain, "--key", &key,
            ],
            // Files that are swapped, as happens.
            &[
                "cert", "import", one, "--admin", &admin, "--chain", &key, "--key", &chain,
            ],
            &[
                "cert", "import", one, "--certs", &vault, "--chain", &key, "--key", &key,
            ],
        ] {
            said.run(command);
        }
        stands(&gateway, is_valid);
        home.want("blocked.example.test");
        stands(&gateway, |view| view["failure"]["class"] == "spec");
        said.pages(&gateway);
        for text in gateway.process.stderr.all() {
            said.add("the log", text);
        }
        for text in gateway.process.stdout.all() {
            said.add("the access log", text);
        }
        let now = Keys::of(&home.vault());
        assert!(
            now.len() > 2,
            "with those of the next order and of the versions before"
        );
        assert!(said.0.len() > 100, "there is something to search");
        for (what, text) in &said.0 {
            for keys in [&found, &keys, &now] {
                keys.assert_not_in(what, text);
            }
        }
    });
}

#[test]
fn no_value_of_the_keeper_prints_a_key() {
    alone(|| {
        let pebble = Pebble::start();
        let stand = Stand::new(&pebble, &pebble.directory(), "");
        let _answers = stand.serve(&pebble);
        with(async || {
            let keeper = stand.keeper();
            let mut events = keeper.events();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            let asker = keeper.asker();
            let keys = Keys::of(&stand.vault());
            assert!(keys.len() >= 2);
            let kept = served(&keeper, "tls").expect("a certificate");
            let key = kept.material.key.text().expect("PEM").to_owned();
            let import = Command::Import {
                chain: kept.material.chain.clone(),
                key: Secret::new(key.clone()),
            };
            let shown = [
                format!("{keeper:#?}"),
                format!("{asker:#?}"),
                format!("{:#?}", *keeper.certificates.borrow()),
                format!("{:#?}", *keeper.reports.borrow()),
                format!("{:#?}", *keeper.board.borrow()),
                format!("{:#?}", asker.accounts()),
                format!("{import:#?}"),
                format!("{:#?}", asker.command(target("none"), Command::Retry).await),
            ];
            for text in shown {
                keys.assert_not_in("Debug", &text);
            }
            while let Ok(event) = events.try_recv() {
                keys.assert_not_in("an event", &format!("{event:#?}"));
            }
            // The search itself finds what is planted.
            assert!(keys.found_in(&key).is_some());
            let planted = key.lines().nth(2).expect("a line of the key");
            assert!(keys.found_in(&format!("error: {planted}")).is_some());
        });
    });
}
