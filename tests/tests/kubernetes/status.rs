//! What stands in the status of an Ingress, and when.

use std::time::Duration;

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster};
use gatehouse_tests::{manifests, raw, wait};
use serde_json::{Value, json};

use crate::rights;

/// The entries in the status of an Ingress.
fn entries(space: &Space<'_>, ingress: &str) -> Value {
    let object = space
        .kubectl()
        .get(&space.name, &format!("ingress/{ingress}"));
    object["status"]["loadBalancer"]["ingress"].clone()
}

fn wait_entries(space: &Space<'_>, ingress: &str, expected: &Value) {
    let mut last = Value::Null;
    wait::within(wait::PATIENCE, || {
        last = entries(space, ingress);
        (last == *expected).then_some(())
    })
    .unwrap_or_else(|| panic!("{ingress} has {last} instead of {expected}"));
}

fn gateway(space: &Space<'_>, extra: &[&str]) -> Gateway {
    let namespace = format!("--pod-namespace={}", space.name);
    space.gateway(&[&[namespace.as_str()], extra].concat())
}

fn ingress(name: &str) -> String {
    manifests::ingress(name, &format!("{name}.test"), &[("/", "Prefix", "app")])
}

fn status_writes(server: &ApiServer, namespace: &str) -> usize {
    let log = server.audit();
    let writes = log
        .iter()
        .filter(|line| line.namespace == namespace && line.resource == "ingresses/status");
    writes.filter(|line| line.verb != "get").count()
}

#[test]
fn addresses_that_were_told_are_written_once_and_kubectl_shows_them() {
    cluster::shared(|server| {
        let space = Space::new(server, "told");
        let _backend = space.backend("app");
        space.apply(&ingress("a"));
        let foreign =
            ingress("foreign").replace("ingressClassName: gatehouse", "ingressClassName: nobody");
        space.apply(&foreign);
        let flags = ["--publish-status-address=203.0.113.7,lb.example.com"];
        let gateway = gateway(&space, &flags);
        let both = json!([{"ip": "203.0.113.7"}, {"hostname": "lb.example.com"}]);
        wait_entries(&space, "a", &both);
        let table = space
            .kubectl()
            .run(&["-n", "told", "get", "ingress", "a"])
            .success();
        for word in ["told", "a.test", "203.0.113.7,lb.example.com"] {
            assert!(table.contains(word), "{word} is missing in {table}");
        }
        // Edits of the object are no reason to write again; foreign fields and labels stay.
        for number in 0..5 {
            let label = json!({"metadata": {"annotations": {"example.com/n": number.to_string()}}});
            space.kubectl().patch("told", "ingress/a", &label);
        }
        space.apply(&ingress("b"));
        wait_entries(&space, "b", &both);
        assert_eq!(
            status_writes(server, "told"),
            2,
            "once for each Ingress of ours"
        );
        assert_eq!(entries(&space, "foreign"), Value::Null);

        // An object that is deleted and made again is written again.
        space.delete("ingress/b");
        space.apply(&ingress("b"));
        wait_entries(&space, "b", &both);
        drop(gateway);
        wait_entries(&space, "b", &both);
    });
}

#[test]
fn the_addresses_of_the_service_in_front_are_followed() {
    cluster::shared(|server| {
        let space = Space::new(server, "front");
        let _backend = space.backend("app");
        space.apply(&ingress("a"));
        // Another controller was here before: its address stays until there is one of ours.
        let old = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        space.kubectl().patch_status("front", "ingress/a", &old);
        let gateway = gateway(&space, &["--publish-service=front/front"]);
        gateway.wait_status("a.test", "/", 200);
        gateway.wait_diagnostic(&["StatusAddressMissing", "front/front (--publish-service)"]);
        space.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: demo}\n\
             spec: {type: LoadBalancer, ports: [{port: 80}]}\n",
        );
        wait::until("the Service is found", || {
            (!gateway.diagnostics().contains("StatusAddressMissing")).then_some(())
        });
        let stays = wait::holds(Duration::from_secs(3), || {
            entries(&space, "a") == json!([{"ip": "192.0.2.1"}])
        });
        assert!(
            stays,
            "an address was taken away while there is none of ours"
        );
        let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}]}}});
        space
            .kubectl()
            .patch_status("front", "service/front", &given);
        wait_entries(&space, "a", &json!([{"ip": "203.0.113.8"}]));
        assert_eq!(
            status_writes(server, "front"),
            2,
            "the one of the test and ours"
        );
    });
}

/// Two pods of the gateway on two nodes, as far as the API server knows.
fn nodes_and_pods(space: &Space<'_>) {
    let kubectl = space.kubectl();
    for (number, pod) in [(1, "gatehouse-0"), (2, "gatehouse-1")] {
        let node = format!("{}-{number}", space.name);
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n---\n\
             apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: default, namespace: {}}}\n",
            space.name
        ));
        kubectl.patch_status(
            "default",
            &format!("node/{node}"),
            &json!({"status": {"addresses": [
                {"type": "InternalIP", "address": format!("10.1.0.{number}")},
                {"type": "ExternalIP", "address": format!("198.51.100.{number}")}]}}),
        );
        space.apply(&format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {pod}, namespace: demo, labels: {{app: gatehouse, pod-template-hash: h{number}}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: x, image: x}}]}}\n"
        ));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        kubectl.patch_status(&space.name, &format!("pod/{pod}"), &ready);
    }
}

#[test]
fn without_flags_the_nodes_of_the_pods_are_published_and_taken_out_by_the_last_replica() {
    cluster::shared(|server| {
        let space = Space::new(server, "nodes");
        let _backend = space.backend("app");
        nodes_and_pods(&space);
        space.apply(&ingress("a"));
        let clearing = "--update-status-on-shutdown";
        // With no more rights than `generate rbac` gives.
        let kubeconfig = rights::account(server, "nodes", &[clearing]);
        let replica = |pod: &str, extra: &[&str]| {
            let flags = [&["--pod-namespace=nodes", clearing, pod], extra].concat();
            rights::start(&kubeconfig, &space, &flags)
        };
        let first = replica("--pod-name=gatehouse-0", &[]);
        let external = json!([{"ip": "198.51.100.1"}, {"ip": "198.51.100.2"}]);
        wait_entries(&space, "a", &external);

        // There is another pod: what is published stays.
        drop(first);
        assert_eq!(entries(&space, "a"), external);
        space
            .kubectl()
            .run(&["-n", "nodes", "delete", "pod", "gatehouse-0", "--force"])
            .success();
        let internal = "--report-node-internal-ip-address";
        let last = replica("--pod-name=gatehouse-1", &[internal]);
        wait_entries(&space, "a", &json!([{"ip": "10.1.0.2"}]));
        drop(last);
        wait_entries(&space, "a", &Value::Null);
        // Nothing was refused.
        rights::asked(server, "nodes");
    });
}

#[test]
fn status_can_be_left_alone() {
    cluster::shared(|server| {
        let space = Space::new(server, "alone");
        let _backend = space.backend("app");
        space.apply(&ingress("a"));
        let flags = [
            "--publish-status-address=203.0.113.7",
            "--update-status=false",
        ];
        let gateway = gateway(&space, &flags);
        gateway.wait_status("a.test", "/", 200);
        let untouched = wait::holds(Duration::from_secs(2), || {
            entries(&space, "a") == Value::Null
        });
        assert!(untouched);
        assert_eq!(status_writes(server, "alone"), 0);
    });
}

#[test]
fn an_etcd_that_is_away_delays_the_status_and_nothing_else() {
    const COUNT: usize = 300;
    cluster::alone(|| {
        let server = ApiServer::start();
        let space = Space::new(&server, "away");
        let _backend = space.backend("app");
        let all: String = (0..COUNT)
            .map(|number| ingress(&format!("i{number}")))
            .collect();
        space.apply(&all);
        let mut gateway = gateway(&space, &["--publish-status-address=203.0.113.7"]);
        let written = || {
            let log = server.audit();
            let good = log.iter().filter(|line| {
                line.resource == "ingresses/status" && line.verb == "patch" && line.status == 200
            });
            good.count()
        };
        wait::until("the first is written", || (written() > 0).then_some(()));
        server.pause_etcd();
        gateway.process.line("cannot be written now");
        assert!(written() < COUNT, "nothing was left to write");
        assert!(wait::holds(Duration::from_secs(2), || {
            raw::get(gateway.http, "i7.test", "/").is_ok_and(|answer| answer.status == 200)
        }));
        server.resume_etcd();
        let limit = Duration::from_secs(90);
        let all = wait::within(limit, || {
            let list = space.kubectl().get("away", "ingress");
            let items = list["items"].as_array()?;
            let done = items.iter().all(|item| {
                item["status"]["loadBalancer"]["ingress"] == json!([{"ip": "203.0.113.7"}])
            });
            done.then_some(items.len())
        });
        assert_eq!(all, Some(COUNT));
        assert_eq!(gateway.process.ended(), None);
    });
}
