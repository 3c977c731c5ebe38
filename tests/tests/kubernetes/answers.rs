//! What only a connection or an object can do wrong, while the API server is well: silence, pages
//! that expire, sizes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Proxy, Space, cluster};
use gatehouse_tests::{manifests, raw, wait};
use tokio::time::Instant;

use crate::load::Load;

/// Time to a change that is served.
const SOON: Duration = Duration::from_secs(5);

/// An Ingress whose host is `NAME.answers`.
fn add(space: &Space<'_>, name: &str) {
    let host = format!("{name}.answers");
    space.apply(&manifests::ingress(name, &host, &[("/", "Prefix", "app")]));
}

fn status(gateway: &Gateway, name: &str) -> u16 {
    raw::get(gateway.http, &format!("{name}.answers"), "/").map_or(0, |answer| answer.status)
}

/// Waits until a host answers so, for this long at most.
fn within(limit: Duration, gateway: &Gateway, name: &str, expected: u16) {
    let begun = Instant::now();
    let found = wait::within(limit, || (status(gateway, name) == expected).then_some(()));
    assert!(
        found.is_some(),
        "{name} answers {} instead of {expected} after {:?}; diagnostics: {}; log: {:#?}",
        status(gateway, name),
        begun.elapsed(),
        gateway.diagnostics(),
        gateway.process.stderr.all()
    );
    println!("{name}: {expected} after {:?}", begun.elapsed());
}

/// A space with a backend and two Ingresses, `stays` and `goes`.
fn filled<'a>(server: &'a ApiServer, name: &str) -> (Space<'a>, Backend) {
    let space = Space::new(server, name);
    let backend = space.backend("app");
    add(&space, "stays");
    add(&space, "goes");
    (space, backend)
}

/// Connections of which no byte and no end ever comes again.
#[test]
fn a_watch_that_falls_silent_is_noticed() {
    cluster::shared(|server| {
        let (space, _backend) = filled(server, "silent");
        let proxy = Proxy::start(server.address());
        let kubeconfig = server.admin_at(proxy.address);
        let gateway = space.gateway_with(&kubeconfig, &[]);
        gateway.wait_status("goes.answers", "/", 200);
        let load = Load::start(gateway.http, "stays.answers");
        proxy.silence();
        add(&space, "new");
        space.delete("ingress/goes");
        assert_eq!(status(&gateway, "new"), 404, "nobody has told it");
        // A watch is renewed every minute at the latest.
        within(Duration::from_secs(75), &gateway, "new", 200);
        within(SOON, &gateway, "goes", 404);
        load.unharmed(10);
    });
}

#[test]
fn a_list_whose_pages_expire_is_begun_again() {
    cluster::alone(|| {
        let server = ApiServer::start_with(ApiServer::FORGETFUL);
        let (space, _backend) = filled(&server, "pages");
        let count = 1_200;
        let mut text = String::new();
        for index in 0..count {
            let host = format!("n{index}.answers");
            text += &manifests::ingress(&format!("n{index}"), &host, &[("/", "Prefix", "app")]);
        }
        space.create(&text);

        // History is thrown away all the time: no list of several pages comes to its end.
        let storm = AtomicBool::new(true);
        let (gateway, expired) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while storm.load(Ordering::Relaxed) {
                    server.compact();
                }
            });
            let starting = scope.spawn(|| space.gateway(&[]));
            let expired = wait::within(wait::PATIENCE, || {
                let mut lines = server.audit().into_iter();
                let mut of_gateway = lines
                    .by_ref()
                    .filter(|line| line.agent.starts_with("gatehouse/"));
                of_gateway
                    .any(|line| line.uri.contains("continue=") && line.status == 410)
                    .then_some(())
            });
            storm.store(false, Ordering::Relaxed);
            (starting.join().expect("the gateway gets ready"), expired)
        });
        assert!(expired.is_some(), "no page of a list was refused with 410");
        for index in [0, 1, count / 2, count - 1] {
            within(SOON, &gateway, &format!("n{index}"), 200);
        }
        within(SOON, &gateway, "stays", 200);
    });
}

#[test]
fn what_changes_between_the_pages_of_a_list_is_served() {
    cluster::shared(|server| {
        let (space, _backend) = filled(server, "between");
        let mut text = String::new();
        for index in 0..1_200 {
            let host = format!("b{index}.answers");
            text += &manifests::ingress(&format!("b{index}"), &host, &[("/", "Prefix", "app")]);
        }
        space.create(&text);

        // While gateways list, objects of the first and of the last page come and go.
        let over = AtomicBool::new(false);
        let gateways: Vec<Gateway> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for name in ["a-first", "z-last"] {
                        add(&space, name);
                        space.delete(&format!("ingress/{name}"));
                    }
                }
            });
            // Also if a gateway does not start: the thread above must end.
            let _over = Raised(&over);
            (0..3).map(|_| space.gateway(&[])).collect()
        });
        add(&space, "z-last");
        space.delete("ingress/b1199");
        let digest = |gateway: &Gateway| {
            let (_, body) = gateway.admin_get("/api/convergence");
            let view: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            view["digest"].clone()
        };
        let fresh = space.gateway(&[]);
        for gateway in &gateways {
            within(SOON, gateway, "z-last", 200);
            within(SOON, gateway, "a-first", 404);
            within(SOON, gateway, "b1199", 404);
            let same = wait::within(SOON, || (digest(gateway) == digest(&fresh)).then_some(()));
            assert!(
                same.is_some(),
                "it serves something else than one that has just begun"
            );
        }
    });
}

#[test]
fn an_object_of_a_megabyte_is_served_and_harms_nobody() {
    cluster::shared(|server| {
        let (space, _backend) = filled(server, "large");
        let gateway = space.gateway(&[]);
        gateway.wait_status("goes.answers", "/", 200);
        let load = Load::start(gateway.http, "stays.answers");
        let rule = |index: usize| {
            format!(
                "{{\"host\":\"r{index}.answers\",\"http\":{{\"paths\":[{{\"path\":\"/{}\",\"pathType\":\"Prefix\",\
                 \"backend\":{{\"service\":{{\"name\":\"app\",\"port\":{{\"number\":80}}}}}}}}]}}}}",
                "x".repeat(300)
            )
        };
        let rules: Vec<String> = (0..2_400).map(rule).collect();
        let large = format!(
            "{{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"Ingress\",\
             \"metadata\":{{\"name\":\"large\",\"namespace\":\"{}\"}},\
             \"spec\":{{\"ingressClassName\":\"{}\",\"rules\":[{}]}}}}",
            space.name,
            space.name,
            rules.join(",")
        );
        assert!(large.len() > 1_000_000, "{} bytes", large.len());
        space.create(&large);
        let path = format!("/{}", "x".repeat(300));
        let last = format!("r{}.answers", rules.len() - 1);
        gateway.wait_status("r0.answers", &path, 200);
        gateway.wait_status(&last, &path, 200);
        add(&space, "new");
        within(SOON, &gateway, "new", 200);
        load.unharmed(10);
    });
}

/// Raises a flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
