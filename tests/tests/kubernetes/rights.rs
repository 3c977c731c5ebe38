//! The rights that `gatehouse generate rbac` prints are enough, and none beyond them is used: the
//! audit log of the API server tells.

use std::collections::BTreeSet;

use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{manifests, wait};

/// Applies what is printed with these flags; the kubeconfig of the account.
pub(crate) fn account(server: &ApiServer, name: &str, flags: &[&str]) -> std::path::PathBuf {
    let namespace = format!("--namespace={name}");
    let arguments = [&["generate", "rbac", &namespace], flags].concat();
    let printed = gateway::run(arguments);
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).expect("text");
    server.kubectl().apply(&printed);
    server.service_account(name, "gatehouse")
}

/// What the account asked for: verb, resource, where; each once. Nothing may have been refused.
pub(crate) fn asked(server: &ApiServer, name: &str) -> BTreeSet<String> {
    let user = format!("system:serviceaccount:{name}:gatehouse");
    server
        .audit()
        .into_iter()
        .filter(|line| line.user == user)
        .map(|line| {
            // That a Lease or an Event is not there yet, or that another replica was faster, is
            // an answer.
            assert!(
                line.status < 400 || [404, 409].contains(&line.status),
                "{line:?}"
            );
            let place = match line.namespace.as_str() {
                "" => "the cluster",
                namespace => namespace,
            };
            format!("{} {} in {place} {}", line.verb, line.resource, line.name)
        })
        .collect()
}

pub(crate) fn start(kubeconfig: &std::path::Path, space: &Space<'_>, flags: &[&str]) -> Gateway {
    let any = "127.0.0.1:0";
    let controller = format!("--controller-class={}", space.controller);
    let class = format!("--ingress-class={}", space.name);
    let flags = [&[controller.as_str(), class.as_str()], flags].concat();
    Gateway::start_in_cluster(kubeconfig, [any, any, any], &flags)
}

fn deploy(space: &Space<'_>, host: &str) -> gatehouse_tests::backend::Backend {
    let pair = Pair::new(&[host]);
    let backend = space.backend("app");
    let tls = manifests::tls(host, "pair");
    space.apply(&manifests::secret("pair", &pair.certificate, &pair.key));
    space.apply(&manifests::ingress_with(
        "x",
        host,
        &tls,
        &[("/", "Prefix", "app")],
    ));
    backend
}

#[test]
fn the_cluster_is_read_with_the_printed_rights_and_no_others() {
    cluster::alone(|| {
        let server = ApiServer::start();
        let space = Space::new(&server, "shop");
        let _backend = deploy(&space, "shop.test");
        // A Secret that nobody refers to, in a namespace without any Ingress.
        server
            .kubectl()
            .apply("{apiVersion: v1, kind: Namespace, metadata: {name: vault}}");
        let kubeconfig = account(&server, "own", &["--configmap=own/settings"]);
        let own = "--pod-namespace=own";
        let gateway = start(&kubeconfig, &space, &["--configmap=own/settings", own]);
        let secured = Handshake::new("shop.test")
            .connect(gateway.https)
            .expect("a handshake");
        assert_eq!(secured.common_name(), "shop.test");
        gateway.wait_diagnostic(&["ConfigMap/own/settings"]);
        assert!(!gateway.diagnostics().contains("Forbidden"));

        let mut expected: BTreeSet<String> =
            ["ingresses", "ingressclasses", "services", "endpointslices"]
                .iter()
                .flat_map(|resource| {
                    ["list", "watch"].map(|verb| format!("{verb} {resource} in the cluster "))
                })
                .collect();
        for verb in ["list", "watch"] {
            expected.insert(format!("{verb} secrets in shop "));
            expected.insert(format!("{verb} configmaps in own settings"));
        }
        let reads = || -> BTreeSet<String> {
            asked(&server, "own")
                .into_iter()
                .filter(|line| line.starts_with("list") || line.starts_with("watch"))
                .collect()
        };
        // A gateway is ready once it has listed; its watches begin, and are logged, right after.
        wait::within(wait::PATIENCE, || {
            reads().is_superset(&expected).then_some(())
        });
        assert_eq!(reads(), expected);
        let types = server.audit();
        let secrets = types
            .iter()
            .filter(|line| line.resource == "secrets" && line.user.contains("own:gatehouse"));
        for line in secrets {
            assert!(
                line.uri.contains("type%3Dkubernetes.io%2Ftls"),
                "{}",
                line.uri
            );
        }
    });
}

#[test]
fn with_namespaces_roles_are_enough() {
    cluster::shared(|server| {
        let space = Space::new(server, "roles");
        let _backend = deploy(&space, "roles.test");
        let pair = Pair::new(&["default.test"]);
        let certificate = manifests::secret("default", &pair.certificate, &pair.key);
        let flags = [
            "--watch-namespace=roles",
            "--default-ssl-certificate=roles-own/default",
        ];
        let kubeconfig = account(server, "roles-own", &flags);
        server
            .kubectl()
            .apply_in("roles-own", &certificate.replace(", namespace: demo", ""));
        let [watched, certificate] = flags;
        let own = "--pod-namespace=roles-own";
        let gateway = start(&kubeconfig, &space, &[watched, certificate, own]);
        gateway.wait_status("roles.test", "/", 308);
        for (host, name) in [
            ("roles.test", "roles.test"),
            ("unknown.test", "default.test"),
        ] {
            let secured = Handshake::new(host)
                .connect(gateway.https)
                .expect("a handshake");
            assert_eq!(secured.common_name(), name);
        }
        assert!(!gateway.diagnostics().contains("Forbidden"));
        for line in asked(server, "roles-own") {
            assert!(!line.contains("the cluster"), "{line}");
        }

        // What the account may not do.
        let account = server.kubectl().with(kubeconfig);
        for (verb, resource) in [
            ("get", "secrets"),
            ("list", "pods"),
            ("delete", "ingresses"),
            ("update", "services"),
            ("list", "ingressclasses"),
        ] {
            let flags = ["auth", "can-i", verb, resource, "-n", "roles"];
            assert_eq!(
                account.run(&flags).stdout().trim(),
                "no",
                "{verb} {resource}"
            );
        }
        let may = ["auth", "can-i", "watch", "secrets", "-n", "roles"];
        assert_eq!(account.run(&may).stdout().trim(), "yes");
    });
}

#[test]
fn what_is_written_needs_the_printed_rights_and_no_others() {
    cluster::shared(|server| {
        let space = Space::new(server, "written");
        space.apply(&manifests::ingress(
            "x",
            "written.test",
            &[("/", "Prefix", "missing")],
        ));
        let told = "--publish-status-address=203.0.113.7";
        let kubeconfig = account(server, "writer", &[told]);
        let gateway = start(&kubeconfig, &space, &[told, "--pod-namespace=writer"]);
        gateway.wait_status("written.test", "/", 503);
        let writes = || -> BTreeSet<String> {
            let all = asked(server, "writer").into_iter();
            all.filter(|line| !line.starts_with("list") && !line.starts_with("watch"))
                .collect()
        };
        let expected = [
            "create events in written",
            "create leases in writer",
            "get leases in writer",
            "patch ingresses/status in written",
            "update leases in writer",
        ];
        let mut last = BTreeSet::new();
        wait::within(wait::PATIENCE, || {
            last = writes();
            let found = |wanted: &str| last.iter().any(|line| line.starts_with(wanted));
            expected.iter().all(|wanted| found(wanted)).then_some(())
        })
        .unwrap_or_else(|| panic!("{last:#?}"));
        for line in &last {
            assert!(
                expected.iter().any(|allowed| line.starts_with(allowed)),
                "{line}"
            );
        }
    });
}

#[test]
fn what_may_not_be_written_is_told_until_the_right_is_there() {
    cluster::shared(|server| {
        let space = Space::new(server, "denied");
        space.apply(&manifests::ingress(
            "x",
            "denied.test",
            &[("/", "Prefix", "missing")],
        ));
        let told = "--publish-status-address=203.0.113.7";
        let (unelected, own) = ("--leader-election=false", "--pod-namespace=denied-own");
        let without = ["--update-status=false", unelected];
        let kubeconfig = account(server, "denied-own", &without);
        let writer = start(&kubeconfig, &space, &[told, unelected, own]);
        let status = "ingresses.networking.k8s.io/status";
        writer.wait_diagnostic(&[
            "RequestForbidden",
            status,
            "refuses to patch it in namespace `denied`",
            "generate rbac",
        ]);
        let shown = format!("gatehouse_api_refused{{resource=\"{status}\"}} 1\n");
        assert!(writer.admin_get("/metrics").1.contains(&shown));
        let mut candidate = start(&kubeconfig, &space, &[told, own]);
        candidate.wait_diagnostic(&[
            "RequestForbidden",
            "leases.coordination.k8s.io",
            "in namespace `denied-own`",
            "generate rbac",
        ]);

        account(server, "denied-own", &[told]);
        for gateway in [&writer, &candidate] {
            wait::within(2 * wait::PATIENCE, || {
                let told = gateway.diagnostics();
                (!told.contains("RequestForbidden")).then_some(())
            })
            .unwrap_or_else(|| panic!("{}", gateway.diagnostics()));
        }
        candidate.process.line("is in reach again");
        assert!(!writer.admin_get("/metrics").1.contains(&shown));
    });
}
