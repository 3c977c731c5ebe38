//! From cert-manager to Gatehouse: what lies in its Secrets is taken over without an order.

use std::time::Duration;

use gatehouse_tests::acme::fault::{Endpoint, Seen};
use gatehouse_tests::acme::keys::Keys;
use gatehouse_tests::documents::{blocks, commands, section};
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::cluster;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::cert_manager::{CertManager, Issued};
use super::{Stand, wait_serves, wish};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Certificate and key of a Secret.
fn data(secret: &Value) -> [String; 2] {
    ["tls.crt", "tls.key"].map(|entry| secret["data"][entry].as_str().unwrap_or("").to_owned())
}

fn is_ours(secret: &Value) -> bool {
    secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "gatehouse"
}

/// The certificate that is served for a host.
fn served(gateway: &Gateway, host: &str) -> Option<Vec<u8>> {
    let shown = Handshake::new(host).connect(gateway.https).ok()?;
    Some(shown.certificate().to_vec())
}

/// What a certificate is in PEM, without line ends.
fn body(pem: &str) -> String {
    let lines = pem.lines().skip(1);
    lines.take_while(|line| !line.starts_with('-')).collect()
}

fn serves(gateway: &Gateway, host: &str, issued: &Issued) -> bool {
    use base64::Engine as _;
    let engine = base64::prelude::BASE64_STANDARD;
    served(gateway, host).is_some_and(|der| engine.encode(der) == body(&issued.chain))
}

/// Runs the one line of the documents in which these words stand, in the namespace of the test and with
/// its issuer; of a command in a command the inner one. Returns what it printed.
fn documented(stand: &Stand<'_>, words: &str) -> String {
    let text = section("docs/certificates.md", "## Moving from cert-manager");
    let lines = blocks(&text, "sh");
    let lines = lines.iter().flat_map(|block| commands(block));
    let lines: Vec<String> = lines.filter(|line| line.contains(words)).collect();
    let [line] = lines.as_slice() else {
        panic!("not one line with {words}: {lines:?}");
    };
    let own = format!("-n {}", stand.space.name);
    let line = line.replace("-n shop", &own);
    let line = line.replace(
        "gatehouse.dev/issuer=letsencrypt",
        "gatehouse.dev/issuer=main",
    );
    let inner = line
        .split_once("$(")
        .and_then(|(_, inner)| inner.split_once(')'));
    let line = inner
        .map_or(line.as_str(), |(inner, _)| inner)
        .replace('\'', "");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "kubectl");
    stand.space.kubectl().run(&words[1..]).success()
}

/// An Ingress as it is while cert-manager orders for it.
fn ingress(stand: &Stand<'_>, name: &str, host: &str) {
    let ours = "gatehouse.dev/issuer: main";
    let theirs = "cert-manager.io/cluster-issuer: letsencrypt-prod";
    let text = wish(name, host);
    assert!(text.contains(ours), "{text}");
    stand.space.apply(&text.replace(ours, theirs));
}

/// Everything that takes over what there is.
fn move_over(stand: &Stand<'_>) {
    documented(stand, "gatehouse.dev/adopt=true");
    documented(stand, "gatehouse.dev/issuer=letsencrypt");
}

fn wait_ours(stand: &Stand<'_>, secret: &str) -> Value {
    wait::until("it is ours", || stand.secret(secret).filter(is_ours))
}

fn ask(gateway: &Gateway, arguments: &[&str]) -> String {
    let admin = gateway.admin.to_string();
    let output = gateway::run([arguments, &["--admin", &admin]].concat());
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Until nothing is going on with any of them.
fn wait_valid(gateway: &Gateway, certificates: usize) -> String {
    wait::until("all of them are valid", || {
        let list = ask(gateway, &["cert", "list"]);
        let valid = list.lines().filter(|line| line.contains(" valid ")).count();
        (valid == certificates).then_some(list)
    })
}

fn orders(stand: &Stand<'_>) -> Vec<Seen> {
    let mut journal = stand.journal();
    journal.retain(|seen| seen.endpoint == Endpoint::NewOrder);
    journal
}

#[test]
fn secrets_of_cert_manager_are_taken_over_by_one_line_and_only_what_is_unusable_is_ordered() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-moving");
        let other = CertManager::new();
        let names = ["one", "two", "three", "four", "five"];
        let mut before = Vec::new();
        for name in names {
            let host = format!("{name}.example.test");
            // The last one is for another host than its Ingress has by now.
            let own = if name == "five" {
                "old.example.test"
            } else {
                &host
            };
            let issued = other.issue(own, DAY * 10, DAY * 80);
            issued.write(&stand.space, name);
            let secret = stand.secret(name).expect("the Secret");
            before.push((name, host, issued, secret));
        }
        for (name, host, ..) in &before {
            ingress(&stand, name, host);
        }
        let gateway = stand.replica();
        for (_, host, issued, _) in &before[..4] {
            wait::until("what is in its Secret is served", || {
                serves(&gateway, host, issued).then_some(())
            });
        }
        move_over(&stand);
        for (name, host, issued, secret) in &before[..4] {
            let now = wait_ours(&stand, name);
            assert_eq!(data(&now), data(secret), "{name}");
            assert!(serves(&gateway, host, issued), "{host}");
            gateway.wait_diagnostic(&["CertificateTakenOver", name, host]);
            // What cert-manager needs to take it back is still there.
            let annotations = &now["metadata"]["annotations"];
            assert_eq!(
                annotations["cert-manager.io/issuer-name"],
                "letsencrypt-prod"
            );
            assert_eq!(annotations["gatehouse.dev/issuer"], "main");
        }
        gateway.wait_diagnostic(&["CertificateNotTakenOver", "five", "old.example.test"]);
        wait::until("the owner of the Ingress is told", || {
            let events = documented(&stand, "reason=CertificateNotTakenOver");
            (events.contains("ingress/five") && events.lines().count() == 2).then_some(())
        });
        let (name, host, _, secret) = &before[4];
        wait_serves(&gateway, host);
        assert_ne!(data(&wait_ours(&stand, name)), data(secret));
        let list = wait_valid(&gateway, 5);
        println!("{list}");
        let theirs = documented(&stand, "delete certificates");
        let mut theirs: Vec<&str> = theirs.split_whitespace().collect();
        theirs.sort_unstable();
        assert_eq!(theirs, ["five", "four", "one", "three", "two"]);
        let shown = ask(&gateway, &["cert", "show", "acme-moving/one"]);
        assert!(shown.contains("taken over"), "{shown}");

        let ordered = orders(&stand);
        assert_eq!(ordered.len(), 1, "{ordered:?}");
        let wanted = json!([{"type": "dns", "value": host}]);
        assert_eq!(ordered[0].payload["identifiers"], wanted);
        assert_eq!(stand.pebble.issued().len(), 1);
        let mut keys = Keys::default();
        for (name, _, issued, _) in &before {
            keys.add(name, &issued.key);
        }
        let said = gateway.process.stderr.all().join("\n");
        keys.assert_not_in("the log", &said);
        keys.assert_not_in("a page", &gateway.diagnostics());

        // Another start knows all of it.
        drop(gateway);
        let gateway = stand.replica();
        for (_, host, issued, _) in &before[..4] {
            assert!(serves(&gateway, host, issued), "{host}");
        }
        wait_valid(&gateway, 5);
        assert_eq!(orders(&stand).len(), 1);
    });
}

#[test]
fn what_was_taken_over_is_renewed_when_its_moment_comes() {
    cluster::shared(|server| {
        let (stand, host) = (Stand::new(server, "acme-moved"), "shop.example.test");
        let gateway = stand.replica();
        wait::until("it leads", || {
            let (_, metrics) = gateway.admin_get("/metrics");
            metrics.contains("gatehouse_acme_leader 1").then_some(())
        });
        let other = CertManager::new();
        // Renewed after half of it, so in a minute and a half.
        let second = SignedDuration::from_secs(1);
        let issued = other.issue(host, second * 30, second * 210);
        issued.write(&stand.space, "shop");
        ingress(&stand, "shop", host);
        move_over(&stand);
        wait_ours(&stand, "shop");
        wait::until("what was taken over is served", || {
            serves(&gateway, host, &issued).then_some(())
        });
        assert_eq!(orders(&stand).len(), 0);
        let before = stand.secret("shop").expect("the Secret");
        let renewed = wait::within(Duration::from_secs(180), || {
            stand
                .secret("shop")
                .filter(|now| data(now) != data(&before))
        });
        assert!(is_ours(&renewed.expect("it is renewed")));
        wait_serves(&gateway, host);
        let ordered = orders(&stand);
        assert_eq!(ordered.len(), 1);
        // Another account ordered it: the authority would refuse to have it replaced by ours.
        assert_eq!(ordered[0].payload["replaces"], Value::Null);
        let annotations = &stand.secret("shop").expect("it")["metadata"]["annotations"];
        assert!(annotations["gatehouse.dev/serial"].is_string());
    });
}

/// A Secret of cert-manager that a replica has taken over, and who wrote it.
fn moved(stand: &Stand<'_>, host: &str) -> (CertManager, Issued, Gateway) {
    let other = CertManager::new();
    let issued = other.issue(host, DAY * 10, DAY * 80);
    issued.write(&stand.space, "shop");
    ingress(stand, "shop", host);
    move_over(stand);
    let gateway = stand.replica();
    wait_ours(stand, "shop");
    wait_valid(&gateway, 1);
    (other, issued, gateway)
}

#[test]
fn cert_manager_that_still_writes_is_told_and_not_fought_with_and_may_have_it_back() {
    cluster::shared(|server| {
        let (stand, host) = (Stand::new(server, "acme-both"), "shop.example.test");
        let (other, first, gateway) = moved(&stand, host);

        // It renews because nobody has stopped it.
        let second = other.issue(host, DAY, DAY * 89);
        second.write(&stand.space, "shop");
        gateway.wait_diagnostic(&[
            "CertificateSecretContested",
            "cert-manager",
            "Certificate shop",
        ]);
        let theirs = stand.secret("shop").expect("the Secret");
        let left_alone = || {
            stand
                .secret("shop")
                .is_some_and(|now| data(&now) == data(&theirs))
        };
        assert!(wait::holds(Duration::from_secs(3), left_alone));
        assert!(serves(&gateway, host, &first), "what is kept");
        // Renewals do not wait for peace, and are served.
        let said = ask(&gateway, &["cert", "renew", "acme-both/shop"]);
        assert!(said.contains("renewed now"), "{said}");
        wait::until("the next one is served", || {
            (!serves(&gateway, host, &first)).then_some(())
        });
        wait_valid(&gateway, 1);
        assert!(!serves(&gateway, host, &second));
        assert!(wait::holds(Duration::from_secs(3), left_alone));
        gateway.wait_diagnostic(&["CertificateSecretContested", "cert-manager"]);
        assert_eq!(stand.pebble.issued().len(), 1);

        // It is stopped, and what it left is deleted.
        stand.space.delete("secret/shop");
        wait::until("it is ours again", || {
            let now = stand.secret("shop").filter(is_ours)?;
            (data(&now) != data(&theirs)).then_some(())
        });
        wait::until("nothing is contested", || {
            let said = gateway.diagnostics();
            (!said.contains("CertificateSecretContested")).then_some(())
        });
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn the_way_back_leaves_the_secrets_to_cert_manager() {
    cluster::shared(|server| {
        let (stand, host) = (Stand::new(server, "acme-back"), "shop.example.test");
        let (other, _, gateway) = moved(&stand, host);

        documented(&stand, "gatehouse.dev/issuer-");
        wait::until("nothing asks for it", || {
            let list = ask(&gateway, &["cert", "list"]);
            list.contains("unwanted").then_some(())
        });
        documented(&stand, "gatehouse.dev/adopt-");
        documented(&stand, "app.kubernetes.io/managed-by-");
        documented(&stand, "cluster-issuer=letsencrypt-prod");
        let second = other.issue(host, DAY, DAY * 89);
        second.write(&stand.space, "shop");
        wait::until("what cert-manager writes is served", || {
            serves(&gateway, host, &second).then_some(())
        });
        let theirs = stand.secret("shop").expect("the Secret");
        assert!(!is_ours(&theirs));
        assert_eq!(orders(&stand).len(), 0);
    });
}

#[test]
fn what_its_owner_writes_is_served_once_nothing_asks_for_the_certificate_also_under_our_label() {
    cluster::shared(|server| {
        let (stand, host) = (Stand::new(server, "acme-by-hand"), "shop.example.test");
        stand.want("shop", host);
        let gateway = stand.replica();
        let before = stand.wait_secret("shop");
        wait_serves(&gateway, host);
        documented(&stand, "gatehouse.dev/issuer-");
        wait::until("nothing asks for it", || {
            let list = ask(&gateway, &["cert", "list"]);
            list.contains("unwanted").then_some(())
        });
        let own = CertManager::new().issue(host, DAY, DAY * 89);
        let pair = json!({"stringData": {"tls.crt": own.chain, "tls.key": own.key}});
        let kubectl = stand.space.kubectl();
        kubectl.patch(&stand.space.name, "secret/shop", &pair);
        let after = stand.secret("shop").expect("the Secret");
        assert_ne!(data(&after), data(&before));
        assert!(is_ours(&after), "the label is still there");
        wait::until("what its owner wrote is served", || {
            serves(&gateway, host, &own).then_some(())
        });
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}
