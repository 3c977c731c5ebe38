//! What is done to the cluster, and what a client may lose by it.

use std::net::SocketAddr;
use std::time::Duration;

use gatehouse_tests::{raw, wait};
use serde_json::Value;

use crate::balancer;
use crate::load::{Ledger, Load};
use crate::say::line;
use crate::site::{self, OURS, PODS, Site};

/// Values of every installation: the image that lies on the nodes.
const IMAGE: &str = "image: {tag: e2e, pullPolicy: Never}";
const NODE_PORT: &str = "service: {nodePorts: {http: 30080, https: 30443}}";
const EDGE: &str = "mode: daemonset\npod: {nodeSelector: {node-role/edge: 'true'}}";
/// What makes new pods: a flag that changes nothing for requests.
const ANOTHER: &str = "workers: 2";

/// All of them; whether nothing was lost that must not be.
pub(crate) fn run(site: &Site, full: bool, mode: &str) -> bool {
    let rolls = std::env::var_os("ROLLS").and_then(|text| text.to_str()?.parse().ok());
    let rolls = rolls.unwrap_or(if full { 20 } else { 2 });
    site.backends(false);
    let mut course = Course {
        site,
        rolls,
        fine: true,
        report: Vec::new(),
    };
    if mode != "daemonset" {
        course.deployment(full);
    }
    if mode != "deployment" {
        course.daemonset(full);
    }
    line("in all:");
    for entry in &course.report {
        line(&format!("  {entry}"));
    }
    course.fine
}

struct Course<'a> {
    site: &'a Site,
    rolls: usize,
    fine: bool,
    report: Vec<String>,
}

impl Course<'_> {
    fn deployment(&mut self, full: bool) {
        line("Deployment with 3 replicas behind a NodePort: helm install, helm test");
        let values = format!("{IMAGE}\n{NODE_PORT}");
        self.site.install(OURS, &values);
        let addresses = self
            .site
            .nodes
            .each_ref()
            .map(|node| at(&node.address, 30080));
        for address in addresses {
            site::serves(address);
        }
        self.rolls("Deployment", &addresses, "deployment/gatehouse");
        if full {
            self.node_drained(&addresses);
            self.killed(&addresses);
            self.rude(&addresses);
            self.upgraded("Deployment", &addresses, "deployment/gatehouse", &values);
            self.mode_changed(&addresses, &values);
            return;
        }
        self.site.uninstall(OURS);
    }

    fn daemonset(&mut self, full: bool) {
        line("DaemonSet on ports of two nodes, behind a balancer: helm install, helm test");
        let values = format!("{IMAGE}\n{EDGE}");
        self.site.install(OURS, &values);
        let nodes = self.site.nodes.each_ref().map(|node| at(&node.address, 80));
        for address in nodes {
            site::serves(address);
        }
        let balancer = balancer::start(&nodes);
        self.rolls("DaemonSet", &[balancer], "daemonset/gatehouse");
        if full {
            self.upgraded("DaemonSet", &[balancer], "daemonset/gatehouse", &values);
        }
        self.site.uninstall(OURS);
        if full {
            self.host_network();
        }
    }

    /// On the network of the node: the kubelet and `helm test` come to the admin port by loopback, and
    /// nobody comes from elsewhere.
    fn host_network(&mut self) {
        line("DaemonSet on the network of the nodes: helm install, helm test");
        let values = format!("{IMAGE}\n{EDGE}\ndaemonset: {{hostNetwork: true}}");
        self.site.install(OURS, &values);
        for node in &self.site.nodes {
            site::serves(at(&node.address, 8080));
            let admin = raw::get(at(&node.address, 9091), "node", "/healthz");
            assert!(admin.is_err(), "the admin port is open: {admin:?}");
        }
        self.report
            .push("DaemonSet on the network of the nodes: serves".to_owned());
        self.site.uninstall(OURS);
    }

    /// `helm upgrade` and `helm rollback`, each with new pods.
    fn upgraded(&mut self, mode: &str, addresses: &[SocketAddr], workload: &str, values: &str) {
        let name = format!("{mode}: helm upgrade and helm rollback");
        self.case(&name, addresses, |site| {
            let generation = || site.kubectl.get(OURS, workload)["metadata"]["generation"].as_u64();
            let before = generation();
            site.upgrade(OURS, &format!("{values}\n{ANOTHER}"), &[]);
            site.rolled_out(OURS, workload);
            site.roll_back(OURS);
            site.rolled_out(OURS, workload);
            assert_eq!(
                generation(),
                before.map(|number| number + 2),
                "new pods twice"
            );
        });
    }

    /// From a Deployment to a `DaemonSet` as docs/operations/high-availability.md says: a second
    /// release beside the first, of the same class and with the same leader.
    fn mode_changed(&mut self, addresses: &[SocketAddr], first: &str) {
        let second = |class: &str| {
            format!(
                "{IMAGE}\n{EDGE}\ningressClass: {{create: {class}}}\nleaderElection: {{id: gatehouse-leader}}"
            )
        };
        self.case(
            "another mode: a second release beside the first",
            addresses,
            |site| site.install("edge", &second("false")),
        );
        let nodes = self.site.nodes.each_ref().map(|node| at(&node.address, 80));
        for address in nodes {
            site::serves(address);
        }
        let balancer = balancer::start(&nodes);
        self.case(
            "another mode: the first release goes",
            &[balancer],
            |site| {
                let edge = "daemonset/edge-gatehouse";
                let generation = || site.kubectl.get(OURS, edge)["metadata"]["generation"].as_u64();
                let before = generation();
                let class = "ingressclass/gatehouse";
                let keep = ["annotate", class, "helm.sh/resource-policy=keep"];
                site.kubectl.run(&keep).success();
                site.upgrade(
                    OURS,
                    &format!("{first}\ningressClass: {{create: false}}"),
                    &[],
                );
                site.uninstall(OURS);
                site.upgrade("edge", &second("true"), &["--take-ownership"]);
                let forget = ["annotate", class, "helm.sh/resource-policy-"];
                site.kubectl.run(&forget).success();
                assert_eq!(generation(), before, "no new pods");
            },
        );
        self.site.uninstall("edge");
    }

    fn rolls(&mut self, mode: &str, addresses: &[SocketAddr], workload: &str) {
        let rolls = self.rolls;
        self.case(
            &format!("{mode}: {rolls} restarts of the gateway"),
            addresses,
            |site| {
                for number in 1..=rolls {
                    site.restart(OURS, workload);
                    line(&format!("  {number} of {rolls}"));
                }
            },
        );
        self.case(
            &format!("{mode}: {rolls} restarts of the backends"),
            addresses,
            |site| {
                for number in 1..=rolls {
                    site.restart("app", "deployment/app");
                    line(&format!("  {number} of {rolls}"));
                }
            },
        );
    }

    fn node_drained(&mut self, addresses: &[SocketAddr; 2]) {
        // Clients come by the other node, as they would when a balancer knows of the drain.
        self.case("a node drained and taken back", &addresses[..1], |site| {
            let flags = [
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--timeout=300s",
            ];
            site.kubectl
                .run(&[&["drain", "node2"], &flags[..]].concat())
                .success();
            site.kubectl.run(&["uncordon", "node2"]).success();
            site.restart(OURS, "deployment/gatehouse");
        });
    }

    /// The leader, without warning: what it was serving is lost, and nothing else.
    fn killed(&mut self, addresses: &[SocketAddr; 2]) {
        let name = "the leader killed with SIGKILL";
        let ledger = self.under_load(name, addresses, |site| {
            let lease = site.kubectl.get(OURS, "lease/gatehouse-leader");
            let holder = lease["spec"]["holderIdentity"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let pods = site.pods(OURS, PODS);
            let leader = pods.iter().find(|pod| {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                holder.starts_with(name)
            });
            let leader = leader.unwrap_or_else(|| panic!("no pod for the leader {holder}"));
            let restarts =
                |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
            let container = &leader["status"]["containerStatuses"][0]["containerID"];
            let node = site
                .nodes
                .iter()
                .find(|node| leader["spec"]["nodeName"] == *node.name);
            let process = node
                .expect("its node")
                .process(container.as_str().expect("a container"));
            let killed = std::process::Command::new("kill")
                .args(["-KILL", &process])
                .status();
            assert!(killed.expect("kill starts").success());
            let pod = format!(
                "pod/{}",
                leader["metadata"]["name"].as_str().unwrap_or_default()
            );
            wait::within(6 * wait::PATIENCE, || {
                let now = site.kubectl.get(OURS, &pod);
                let ready = now["status"]["containerStatuses"][0]["ready"] == true;
                (ready && restarts(&now) > restarts(leader)).then_some(())
            })
            .expect("the pod comes back");
            wait::within(6 * wait::PATIENCE, || {
                let lease = site.kubectl.get(OURS, "lease/gatehouse-leader");
                (lease["spec"]["holderIdentity"] != holder.as_str()).then_some(())
            })
            .expect("another leader");
        });
        // What was on its way through it, and what came before the cluster had noticed: the count is
        // the result. Nothing may fail for longer than that.
        let soon = |failure: &(Duration, String)| failure.0 < Duration::from_secs(10);
        self.fine &= ledger.failed.iter().all(soon);
    }

    fn rude(&mut self, addresses: &[SocketAddr; 2]) {
        line("backends that end at once when they are told to");
        self.site.backends(true);
        // What such a backend was answering is lost; the gateway can only not make it worse.
        self.under_load(
            "2 restarts of backends without manners",
            addresses,
            |site| {
                for _ in 0..2 {
                    site.restart("app", "deployment/app");
                }
            },
        );
        self.site.backends(false);
    }

    /// Nothing may fail.
    fn case(&mut self, name: &str, addresses: &[SocketAddr], act: impl FnOnce(&Site)) {
        let ledger = self.under_load(name, addresses, act);
        self.fine &= ledger.failed.is_empty();
    }

    fn under_load(
        &mut self,
        name: &str,
        addresses: &[SocketAddr],
        act: impl FnOnce(&Site),
    ) -> Ledger {
        line(name);
        let load = Load::start(addresses);
        act(self.site);
        // What the last change broke shows a little later.
        let ended = || {
            let pods = self.site.pods(OURS, PODS);
            let leaving = pods
                .iter()
                .any(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
            (!leaving).then_some(())
        };
        wait::within(6 * wait::PATIENCE, ended).expect("replaced pods end");
        let ledger = load.stop();
        line(&format!("{name}: {ledger}"));
        for (since, failure) in ledger.failed.iter().take(20) {
            line(&format!("    {:7.2} s {failure}", since.as_secs_f32()));
        }
        self.report.push(format!("{name}: {ledger}"));
        ledger
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}
