//! The life of an endpoint: ready, terminating, gone.

use std::time::Duration;

use gatehouse_tests::backend::{Backend, Request, Step};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{Space, cluster, endpoint};
use gatehouse_tests::raw::Client;
use gatehouse_tests::{backend, manifests, raw, wait, websocket};
use serde_json::json;

/// A slice of one endpoint; conditions as JSON.
fn slice(space: &Space<'_>, name: &str, backend: &Backend, conditions: &str) {
    space.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, namespace: demo, labels: {{kubernetes.io/service-name: app}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{}], conditions: {conditions}}}]\n",
        backend.address.port(),
        backend.address.ip(),
    ));
}

/// Two pods behind one host; every answer is the name of a pod, websockets are echoed.
fn pods(space: &Space<'_>) -> [Backend; 2] {
    space.apply(&manifests::service("app", &[]));
    space.apply(&manifests::ingress(
        "app",
        "app.endpoints",
        &[("/", "Prefix", "app")],
    ));
    ["one", "two"].map(|name| {
        let pod = Backend::at(endpoint(), move |request: &Request| {
            if request.header("upgrade").is_some() {
                return vec![
                    Step::Send(websocket::accepted().into_bytes()),
                    Step::EchoFrames,
                ];
            }
            backend::ok(name)
        });
        slice(space, name, &pod, "{ready: true}");
        pod
    })
}

/// Whether the next answers come from both pods, or from one of them alone.
fn answering(gateway: &Gateway) -> Vec<String> {
    let mut names: Vec<String> = (0..20)
        .map(|_| {
            let answer = raw::get(gateway.http, "app.endpoints", "/").expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.text()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn wait_answering(gateway: &Gateway, expected: &[&str]) {
    wait::until(&format!("{expected:?} answer"), || {
        (answering(gateway) == expected).then_some(())
    });
}

/// A websocket through the gateway to the pod of this name.
fn tunnel(gateway: &Gateway, pod: &Backend) -> Client {
    wait::until("a websocket leads to the pod", || {
        let before = upgrades(pod);
        let mut client = Client::plain(gateway.http);
        client.send(websocket::request("app.endpoints", "/ws"));
        assert_eq!(client.answer().expect("an answer").status, 101);
        (upgrades(pod) > before).then_some(client)
    })
}

fn upgrades(pod: &Backend) -> usize {
    let requests = pod.requests();
    requests
        .iter()
        .filter(|request| request.header("upgrade").is_some())
        .count()
}

fn echoes(client: &mut Client, text: &str) -> bool {
    client.send(websocket::masked(text)) && client.frame().is_ok_and(|frame| frame == text)
}

#[test]
fn a_terminating_endpoint_gets_nothing_new_and_its_websocket_goes_on() {
    cluster::shared(|server| {
        let space = Space::new(server, "terminating");
        let [one, two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        let mut socket = tunnel(&gateway, &one);
        assert!(echoes(&mut socket, "hello"));

        slice(
            &space,
            "one",
            &one,
            "{ready: false, serving: true, terminating: true}",
        );
        wait_answering(&gateway, &["two"]);
        one.take();
        assert_eq!(answering(&gateway), ["two"]);
        assert!(
            one.requests().is_empty(),
            "nothing new for a pod that is going"
        );
        assert!(echoes(&mut socket, "still here"));

        // All of them terminating: better than no answer, as long as they serve.
        slice(
            &space,
            "two",
            &two,
            "{ready: false, serving: true, terminating: true}",
        );
        assert!(wait::holds(Duration::from_millis(500), || {
            raw::get(gateway.http, "app.endpoints", "/").is_ok_and(|answer| answer.status == 200)
        }));
        slice(
            &space,
            "one",
            &one,
            "{ready: false, serving: false, terminating: true}",
        );
        slice(
            &space,
            "two",
            &two,
            "{ready: false, serving: false, terminating: true}",
        );
        gateway.wait_status("app.endpoints", "/", 503);
    });
}

#[test]
fn an_endpoint_that_is_gone_loses_its_idle_connections_at_once() {
    cluster::shared(|server| {
        let space = Space::new(server, "gone");
        let [one, two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        assert!(
            one.open() > 0 && two.open() > 0,
            "both have idle connections"
        );

        space.delete("endpointslice/one");
        wait::until("its connections are closed", || {
            (one.open() == 0).then_some(())
        });
        assert_eq!(answering(&gateway), ["two"]);

        // The address comes back, as another pod's perhaps: on connections of its own.
        let before = one.connections();
        slice(&space, "one", &one, "{ready: true}");
        wait_answering(&gateway, &["one", "two"]);
        assert!(one.connections() > before);
    });
}

#[test]
fn a_slice_that_changes_compiles_nothing() {
    cluster::shared(|server| {
        let space = Space::new(server, "nocompile");
        let [one, _two] = pods(&space);
        let gateway = space.gateway(&[]);
        gateway.wait_status("app.endpoints", "/", 200);
        wait_answering(&gateway, &["one", "two"]);
        let compiled = || {
            let (_, text) = gateway.admin_get("/metrics");
            let line = text
                .lines()
                .find(|line| line.starts_with("gatehouse_host_compiles_total"));
            line.map(str::to_owned)
        };
        let before = compiled();
        assert!(before.is_some(), "{}", gateway.admin_get("/metrics").1);
        for round in 0..5 {
            let ready = json!({"ready": round % 2 == 1}).to_string();
            slice(&space, "one", &one, &ready);
            let expected: &[&str] = if round % 2 == 1 {
                &["one", "two"]
            } else {
                &["two"]
            };
            wait_answering(&gateway, expected);
        }
        assert_eq!(compiled(), before);
    });
}
