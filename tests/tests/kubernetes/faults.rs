//! What goes wrong between the gateway and the API server costs no request, and is over soon after
//! the server is back. Each test breaks a server of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster};
use gatehouse_tests::{gateway, manifests, raw, wait};

/// How soon after the return of the server its news are served.
const SOON: Duration = Duration::from_secs(5);

const RULE: &[(&str, &str, &str)] = &[("/", "Prefix", "app")];

fn status(gateway: &Gateway, host: &str) -> u16 {
    raw::get(gateway.http, host, "/").map_or(0, |answer| answer.status)
}

/// Asks for a host again and again while `meanwhile` runs; every answer must be 200.
fn without_a_miss<T>(gateway: &Gateway, host: &str, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let mut asked = 0;
            let ended = wait::within(Duration::from_secs(300), || {
                assert_eq!(status(gateway, host), 200, "after {asked} good answers");
                asked += 1;
                over.load(Ordering::Relaxed).then_some(asked)
            });
            ended.expect("the end of it")
        });
        let result = meanwhile();
        over.store(true, Ordering::Relaxed);
        let asked = probe.join().expect("every answer is 200");
        assert!(asked > 0);
        result
    })
}

/// Applies an Ingress for a new host and waits until it is served.
fn served_soon(space: &Space<'_>, gateway: &Gateway, name: &str) {
    let host = format!("{name}.test");
    space.apply(&manifests::ingress(name, &host, RULE));
    let served = wait::within(SOON, || (status(gateway, &host) == 200).then_some(()));
    let log = || gateway.process.stderr.all().join("\n");
    assert!(
        served.is_some(),
        "{host} is not served:
{}",
        log()
    );
}

#[test]
fn an_outage_of_the_server_is_not_seen_by_clients() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let (gateway, _backend) = {
            let space = Space::new(&server, "away");
            let backend = space.backend("app");
            space.apply(&manifests::ingress("first", "first.test", RULE));
            (space.gateway(&[]), backend)
        };
        gateway.wait_status("first.test", "/", 200);
        without_a_miss(&gateway, "first.test", || {
            server.kill();
            gateway.wait_diagnostic(&["ApiUnreachable", "keeps serving"]);
            assert_eq!(gateway.admin_get("/readyz").0, 200);
            let lines = gateway.process.stderr.all().len();
            let quiet = wait::holds(Duration::from_secs(8), || {
                gateway.process.stderr.all().len() <= lines + 2
            });
            assert!(quiet, "a storm: {:#?}", gateway.process.stderr.all());
            server.restart();
            served_soon(&Space::new(&server, "away"), &gateway, "second");
        });
        wait::until("the complaint is settled", || {
            (!gateway.diagnostics().contains("ApiUnreachable")).then_some(())
        });
    });
}

#[test]
fn a_restart_of_etcd_is_not_seen_by_clients() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let (gateway, _backend) = {
            let space = Space::new(&server, "etcd");
            let backend = space.backend("app");
            space.apply(&manifests::ingress("first", "first.test", RULE));
            (space.gateway(&[]), backend)
        };
        without_a_miss(&gateway, "first.test", || {
            server.kill_etcd();
            assert!(wait::holds(Duration::from_secs(3), || {
                gateway.admin_get("/readyz").0 == 200
            }));
            server.restart_etcd();
            served_soon(&Space::new(&server, "etcd"), &gateway, "second");
        });
    });
}

#[test]
fn a_version_that_is_too_old_costs_a_list_and_no_route() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let (gateway, _backend) = {
            let space = Space::new(&server, "gone");
            let backend = space.backend("app");
            for name in ["kept", "removed"] {
                space.apply(&manifests::ingress(name, &format!("{name}.test"), RULE));
            }
            (space.gateway(&[]), backend)
        };
        gateway.wait_status("removed.test", "/", 200);
        // It sleeps, without a connection, while the history that it would need is thrown away.
        gateway.process.signal("STOP");
        server.restart();
        {
            let space = Space::new(&server, "gone");
            space.delete("ingress/removed");
            space.apply(&manifests::ingress("new", "new.test", RULE));
            for number in 0..20 {
                let name = format!("noise-{number}");
                space
                    .kubectl()
                    .run(&["create", "namespace", &name])
                    .success();
            }
        }
        server.compact();
        server.restart();
        gateway.process.signal("CONT");
        without_a_miss(&gateway, "kept.test", || {
            gateway.wait_status("new.test", "/", 200);
            gateway.wait_status("removed.test", "/", 404);
        });
        let whole = "/apis/networking.k8s.io/v1/ingresses?&limit=500";
        let lists = server.audit().into_iter().filter(|line| line.uri == whole);
        assert_eq!(lists.count(), 2, "one at the start, one for the version");
    });
}

#[test]
fn an_empty_list_is_not_believed_before_a_second_one() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let (gateway, _backend) = {
            let space = Space::new(&server, "empty");
            let backend = space.backend("app");
            for number in 0..3 {
                let name = format!("host-{number}");
                space.apply(&manifests::ingress(&name, &format!("{name}.test"), RULE));
            }
            (space.gateway(&[]), backend)
        };
        gateway.wait_status("host-1.test", "/", 200);
        gateway.process.signal("STOP");
        server.restart();
        let kubectl = server.kubectl();
        kubectl
            .run(&["-n", "empty", "delete", "ingress", "--all"])
            .success();
        server.compact();
        server.restart();
        gateway.process.signal("CONT");
        without_a_miss(&gateway, "host-1.test", || {
            gateway.wait_diagnostic(&["DeletionHeld", "3 of 3"]);
        });
        gateway.wait_status("host-1.test", "/", 404);
        assert!(
            gateway.process.stderr.find("DeletionHeld").is_some(),
            "it was said"
        );
    });
}

#[test]
fn an_etcd_that_lost_everything_takes_no_route_away_while_it_is_restored() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let deploy = |server: &ApiServer, backend: Option<std::net::SocketAddr>| {
            let space = Space::new(server, "lost");
            let backend = backend.map_or_else(|| Err(space.backend("app")), Ok);
            let address = backend
                .as_ref()
                .map_or_else(|made| made.address, |old| *old);
            // At once: what stays away for longer than the guard waits is believed to be gone.
            let mut text = manifests::service("app", &[address]);
            for number in 0..3 {
                let name = format!("host-{number}");
                text.push_str(&manifests::ingress(&name, &format!("{name}.test"), RULE));
            }
            space.apply(&text);
            (space.gateway(&[]), backend.err())
        };
        let (gateway, backend) = deploy(&server, None);
        let address = backend.as_ref().map(|backend| backend.address);
        gateway.wait_status("host-1.test", "/", 200);
        without_a_miss(&gateway, "host-1.test", || {
            server.lose_everything();
            // The API server has made a Service of its own before anybody could list.
            for kind in ["ingresses", "services", "endpointslices"] {
                gateway.wait_diagnostic(&["DeletionHeld", kind]);
            }
            // A backup is played back.
            let (restored, _) = deploy(&server, address);
            wait::until("nothing is held any longer", || {
                (!gateway.diagnostics().contains("DeletionHeld")).then_some(())
            });
            let digest = |gateway: &Gateway| {
                let (_, body) = gateway.admin_get("/api/convergence");
                let view: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                view["digest"].clone()
            };
            wait::until("both serve the same", || {
                (digest(&gateway) == digest(&restored)).then_some(())
            });
        });
    });
}

#[test]
fn a_server_that_falls_silent_is_noticed() {
    cluster::alone(|| {
        let server = ApiServer::start();
        let space = Space::new(&server, "silent");
        let _backend = space.backend("app");
        space.apply(&manifests::ingress("first", "first.test", RULE));
        let gateway = space.gateway(&[]);
        without_a_miss(&gateway, "first.test", || {
            server.pause();
            let limit = Duration::from_secs(90);
            let noticed = wait::within(limit, || {
                gateway
                    .diagnostics()
                    .contains("ApiUnreachable")
                    .then_some(())
            });
            assert!(
                noticed.is_some(),
                "{}",
                gateway.admin_get("/api/convergence").1
            );
            server.resume();
            wait::until("the server is itself again", || {
                server
                    .kubectl()
                    .run(&["get", "namespaces", "--request-timeout=1s"])
                    .ok()
                    .then_some(())
            });
            served_soon(&space, &gateway, "second");
        });
    });
}

/// The namespace, account and rights of a gateway.
fn account(server: &ApiServer) -> std::path::PathBuf {
    let printed = gateway::run(["generate", "rbac"]);
    server
        .kubectl()
        .apply(&String::from_utf8(printed.stdout).expect("text"));
    server.service_account("gatehouse", "gatehouse")
}

fn start(kubeconfig: &std::path::Path, space: &Space<'_>) -> Gateway {
    let any = "127.0.0.1:0";
    let controller = format!("--controller-class={}", space.controller);
    Gateway::start_in_cluster(kubeconfig, [any, any, any], &[&controller])
}

#[test]
fn a_token_that_is_no_longer_good_is_read_again() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let kubeconfig = account(&server);
        let (gateway, _backend) = {
            let space = Space::new(&server, "token");
            let backend = space.backend("app");
            space.apply(&manifests::ingress("first", "first.test", RULE));
            (start(&kubeconfig, &space), backend)
        };
        without_a_miss(&gateway, "first.test", || {
            // A new account of the same name: tokens of the old one are worth nothing.
            server
                .kubectl()
                .delete("gatehouse", "serviceaccount/gatehouse");
            server.kubectl().apply(
                "{apiVersion: v1, kind: ServiceAccount, metadata: {name: gatehouse, namespace: gatehouse}}",
            );
            server.restart();
            gateway.wait_diagnostic(&["ApiUnauthorized"]);
            server.renew_token("gatehouse", "gatehouse");
            wait::until("the new token is used", || {
                (!gateway.diagnostics().contains("ApiUnauthorized")).then_some(())
            });
            served_soon(&Space::new(&server, "token"), &gateway, "second");
        });
    });
}

#[test]
fn one_resource_that_is_forbidden_harms_only_itself() {
    cluster::alone(|| {
        let server = ApiServer::start();
        let printed = gateway::run(["generate", "rbac"]);
        let printed = String::from_utf8(printed.stdout).expect("text");
        let without = printed.replace("resources: [ingressclasses]", "resources: [nothing]");
        assert_ne!(printed, without);
        server.kubectl().apply(&without);
        let kubeconfig = server.service_account("gatehouse", "gatehouse");
        let space = Space::new(&server, "forbidden");
        let _backend = space.backend("app");
        space.apply(&manifests::ingress("named", "named.test", RULE));
        let old = manifests::ingress("old", "old.test", RULE)
            .replace("  ingressClassName: gatehouse\n", "")
            .replace(
                "namespace: demo}",
                "namespace: demo, annotations: {kubernetes.io/ingress.class: gatehouse}}",
            );
        space.apply(&old);
        let gateway = start(&kubeconfig, &space);
        gateway.wait_diagnostic(&["KindForbidden", "ingressclasses", "generate rbac"]);
        assert_eq!(status(&gateway, "old.test"), 200);
        assert_eq!(status(&gateway, "named.test"), 404);
        without_a_miss(&gateway, "old.test", || {
            server.kubectl().apply(&printed);
            let limit = Duration::from_secs(40);
            let served = wait::within(limit, || {
                (status(&gateway, "named.test") == 200).then_some(())
            });
            assert!(served.is_some(), "{}", gateway.diagnostics());
        });
    });
}

#[test]
fn without_a_server_it_waits_and_is_ready_when_there_is_one() {
    cluster::alone(|| {
        let mut server = ApiServer::start();
        let space = Space::new(&server, "late");
        let _backend = space.backend("app");
        space.apply(&manifests::ingress("first", "first.test", RULE));
        let (kubeconfig, controller) = (server.admin(), space.controller);
        server.kill();
        std::thread::scope(|scope| {
            let gateway = scope.spawn(|| {
                let any = "127.0.0.1:0";
                let controller = format!("--controller-class={controller}");
                Gateway::start_in_cluster(&kubeconfig, [any, any, any], &[&controller])
            });
            assert!(
                wait::holds(Duration::from_secs(2), || !gateway.is_finished()),
                "not ready"
            );
            server.restart();
            let gateway = gateway.join().expect("it becomes ready");
            assert_eq!(status(&gateway, "first.test"), 200, "at the first moment");
        });
    });
}
