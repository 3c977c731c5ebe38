//! Several replicas at once: one of them leads.

use std::time::Duration;

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{Audited, Space, cluster};
use gatehouse_tests::{manifests, wait};
use tokio::time::Instant;

/// A replica that writes an address of its own, so that it shows who has written.
fn replica(space: &Space<'_>, number: usize, extra: &[&str]) -> Gateway {
    let namespace = format!("--pod-namespace={}", space.name);
    let address = format!("--publish-status-address=203.0.113.{number}");
    space.gateway(&[&[namespace.as_str(), &address], extra].concat())
}

/// Who holds the lease; empty when nobody does.
fn holder(space: &Space<'_>) -> String {
    let lease = space.kubectl().get(&space.name, "lease/gatehouse-leader");
    let holder = lease["spec"]["holderIdentity"].as_str();
    holder.unwrap_or_default().to_owned()
}

/// The address in the status of an Ingress.
fn address(space: &Space<'_>, ingress: &str) -> String {
    let object = space
        .kubectl()
        .get(&space.name, &format!("ingress/{ingress}"));
    let entry = &object["status"]["loadBalancer"]["ingress"][0]["ip"];
    entry.as_str().unwrap_or_default().to_owned()
}

fn wait_address(space: &Space<'_>, ingress: &str) -> String {
    wait::until("the status has an address", || {
        Some(address(space, ingress)).filter(|address| !address.is_empty())
    })
}

fn status_writes(log: &[Audited], namespace: &str) -> Vec<String> {
    let writes = log.iter().filter(|line| {
        line.namespace == namespace && line.resource == "ingresses/status" && line.verb == "patch"
    });
    writes.map(|line| line.name.clone()).collect()
}

fn apply(space: &Space<'_>, names: &[&str]) {
    let text: String = names
        .iter()
        .map(|name| manifests::ingress(name, &format!("{name}.test"), &[("/", "Prefix", "app")]))
        .collect();
    space.apply(&text);
}

#[test]
fn a_leader_that_is_killed_is_followed_within_twenty_seconds_and_nothing_is_written_twice() {
    cluster::shared(|server| {
        let space = Space::new(server, "killed");
        let _backend = space.backend("app");
        apply(&space, &["a", "b", "c"]);
        let mut replicas: Vec<Gateway> =
            (1..=3).map(|number| replica(&space, number, &[])).collect();
        let first = wait_address(&space, "a");
        for name in ["b", "c"] {
            assert_eq!(wait_address(&space, name), first, "one writes for all");
        }
        let before = holder(&space);
        let number: usize = first
            .rsplit('.')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("it");
        // Each replica publishes another address: a new leader shows by rewriting all of them.
        let killed = replicas.remove(number - 1);
        killed.process.signal("KILL");
        let start = Instant::now();
        let limit = Duration::from_secs(20);
        let next = wait::within(limit, || {
            Some(holder(&space)).filter(|holder| *holder != before)
        });
        let took = start.elapsed();
        assert!(next.is_some(), "no new leader in {took:?}");
        println!("a new leader {took:?} after the death of the old one");
        wait::until("the new leader writes", || {
            let all = ["a", "b", "c"].map(|name| address(&space, name));
            (all[0] != first && all.iter().all(|one| *one == all[0])).then_some(())
        });
        apply(&space, &["d"]);
        wait_address(&space, "d");
        // Traffic does not care who leads.
        for gateway in &replicas {
            gateway.wait_status("d.test", "/", 200);
        }
        let mut writes = status_writes(&server.audit(), "killed");
        writes.sort();
        assert_eq!(writes, ["a", "a", "b", "b", "c", "c", "d"]);
    });
}

#[test]
fn a_leader_that_is_stopped_is_followed_within_three_seconds() {
    cluster::shared(|server| {
        let space = Space::new(server, "stopped");
        let _backend = space.backend("app");
        apply(&space, &["a"]);
        let same = "--publish-status-address=203.0.113.99";
        let namespace = "--pod-namespace=stopped";
        // It drains for long after the signal, and must not lead meanwhile.
        let first = space.gateway(&[same, namespace, "--drain-delay=6s"]);
        wait_address(&space, "a");
        let second = space.gateway(&[same, namespace]);
        let before = holder(&space);
        assert!(!before.is_empty());
        first.process.signal("TERM");
        let start = Instant::now();
        let next = wait::within(Duration::from_secs(3), || {
            let holder = holder(&space);
            (holder != before && !holder.is_empty()).then_some(())
        });
        let took = start.elapsed();
        assert!(next.is_some(), "no new leader in {took:?}");
        println!("a new leader {took:?} after SIGTERM");
        apply(&space, &["b"]);
        wait_address(&space, "b");
        let writes = status_writes(&server.audit(), "stopped");
        assert_eq!(writes, ["a", "b"], "the new leader does not write again");

        // The last one leaves nothing behind that somebody would have to wait for.
        second.process.signal("TERM");
        wait::until("the lease is given back", || {
            holder(&space).is_empty().then_some(())
        });
    });
}
