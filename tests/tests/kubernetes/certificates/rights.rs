//! What it takes to order certificates: the rights that are printed, no more and no less.

use gatehouse_tests::acme::fault::Endpoint;
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster, leak};
use gatehouse_tests::tls::Pair;
use gatehouse_tests::{manifests, wait};

use super::{Stand, wait_serves};
use crate::privilege::Installation;

const HOST: &str = "bought.example.test";

/// What every replica is started with, and where the authority comes to.
fn flags(stand: &Stand<'_>) -> Vec<String> {
    let at = |port| format!("{}:{port}", stand.pebble.address());
    let mut flags = stand.flags();
    flags.push(format!("--http-listen={}", at(Pebble::HTTP)));
    flags.push(format!("--https-listen={}", at(Pebble::TLS)));
    flags.push("--acme-keep-unwanted=1s".to_owned());
    flags
}

fn start(installation: &Installation<'_>, stand: &Stand<'_>) -> Gateway {
    let flags = flags(stand);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    installation.start(&flags)
}

/// Everything that certificates make a replica read or write.
fn use_all(server: &ApiServer, name: &str, shared: &[&str]) {
    let installation = Installation::with(server, name, shared, &["--acme"]);
    let stand = Stand::new(server, name);
    stand.want("bought", HOST);
    let gateway = start(&installation, &stand);
    stand.wait_secret("bought");
    wait_serves(&gateway, HOST);
    stand.space.delete("secret/bought");
    stand.wait_secret("bought");
    stand.space.delete("ingress/bought");
    wait::until("the record is removed", || {
        let asked = installation.asked().into_iter();
        let mut asked = asked.filter(|line| line.verb == "delete" && line.resource == "secrets");
        asked.next()
    });
    drop(gateway);
    let more = flags(&stand);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    installation.use_all(&more);
    installation.compare();
    // Nobody else's Secrets are written.
    for line in installation.asked() {
        let write = line.resource == "secrets" && !["list", "watch"].contains(&line.verb.as_str());
        let ours = line.namespace == installation.own;
        assert!(!write || ours || line.name == "bought", "{line:?}");
    }
}

#[test]
fn in_a_cluster_every_right_is_used_and_none_is_missing() {
    cluster::shared(|server| {
        let shared = ["--publish-status-address=203.0.113.9"];
        use_all(server, "acme-rights", &shared);
    });
}

#[test]
fn in_namespaces_every_right_is_used_and_none_reaches_further() {
    cluster::shared(|server| {
        let shared = [
            "--publish-status-address=203.0.113.9",
            "--watch-namespace=acme-roles",
        ];
        use_all(server, "acme-roles", &shared);
    });
}

#[test]
fn case_42_a_right_that_is_missing_blocks_before_any_order() {
    cluster::shared(|server| {
        let shared = ["--publish-status-address=203.0.113.9"];
        let other = "--acme-namespace=acme-denied-own";
        let installation = Installation::with(server, "acme-denied", &shared, &["--acme", other]);
        let stand = Stand::new(server, "acme-denied");
        stand.want("bought", HOST);
        let gateway = start(&installation, &stand);
        gateway.wait_diagnostic(&[
            "CertificateSecretNotWritable",
            "bought",
            "generate rbac --acme",
        ]);
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 0);
        installation.grant(&["--acme", "--acme-namespace=acme-denied"]);
        wait_serves(&gateway, HOST);
        stand.wait_secret("bought");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

/// What may be done, and what not: verb, resource, in the namespace of the gateway or in another.
const TABLE: &[(&str, &str, bool, &str)] = &[
    ("get", "secrets", true, "yes"),
    ("delete", "secrets", true, "yes"),
    ("patch", "secrets", false, "yes"),
    ("create", "secrets", false, "yes"),
    ("get", "secrets", false, "no"),
    ("update", "secrets", false, "no"),
    ("delete", "secrets", false, "no"),
    ("list", "namespaces", false, "yes"),
    ("update", "namespaces", false, "no"),
];

#[test]
fn the_account_can_do_no_more_than_the_table_says() {
    cluster::shared(|server| {
        let installation = Installation::with(server, "acme-table", &[], &["--acme"]);
        let kubeconfig = server.service_account(&installation.own, "gatehouse");
        let account = server.kubectl().with(kubeconfig);
        for (verb, resource, own, expected) in TABLE {
            let namespace = if *own {
                &installation.own
            } else {
                "acme-table"
            };
            let flags = ["auth", "can-i", verb, resource, "-n", namespace];
            let answer = account.run(&flags).stdout();
            assert_eq!(answer.trim(), *expected, "{verb} {resource} in {namespace}");
        }
    });
}

#[test]
fn what_a_cluster_cannot_do_is_refused_with_a_sentence() {
    cluster::shared(|server| {
        let exec = "      dns: [{zones: [example.test], provider: exec, command: /bin/true}]\n\
                    \x20     allow: [{hosts: ['*.example.test']}]\n";
        let labels = "      allow: [{namespaces: {matchLabels: {a: b}}, hosts: ['*']}]\n";
        let cases: [(&str, &[&str], &[&str]); 3] = [
            (exec, &[], &["acme.issuers.main.dns", "exec", "httpreq"]),
            (
                labels,
                &["--watch-namespace=shop"],
                &["acme.issuers.main.allow", "--watch-namespace", "names"],
            ),
            (
                super::ALLOW,
                &["--leader-election=false"],
                &["--leader-election=false", "only one replica"],
            ),
        ];
        for (number, (issuer, more, words)) in cases.iter().enumerate() {
            let name = format!("acme-refused-{number}");
            let stand = Stand::with(server, &name, Setup::default(), issuer);
            let kubeconfig = format!("--kubeconfig={}", server.admin().display());
            let mut arguments = vec!["run".to_owned(), kubeconfig];
            arguments.extend(stand.flags());
            arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
            let output = gateway::run(&arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            for word in *words {
                assert!(said.contains(word), "{word} is missing in: {said}");
            }
        }
    });
}

/// What looks after every test of certificates does see something.
#[test]
fn a_key_that_stands_outside_of_a_secret_is_found() {
    cluster::shared(|server| {
        let space = Space::new(server, "leaks");
        let pair = Pair::new(&["shop.example.test"]);
        space.apply(&manifests::secret("shop", &pair.certificate, &pair.key));
        let rules = [("/", "Prefix", "app")];
        space.apply(&manifests::ingress("shop", "shop.example.test", &rules));
        let look = || leak(&space.kubectl(), &["leaks"]);
        assert_eq!(look(), None);
        // A line in the middle of it, as a message might quote one.
        let line = pair.key.lines().nth(2).expect("a second line");
        let note = format!("gatehouse.dev/note=it begins with {line}");
        space
            .kubectl()
            .run(&["-n", "leaks", "annotate", "ingress/shop", &note])
            .success();
        let found = look().expect("it is seen");
        assert!(
            found.starts_with("Ingress leaks/shop gives away"),
            "{found}"
        );
    });
}
