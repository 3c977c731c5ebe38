//! The wall clock is set under a running gateway: only what it writes shows another time.

use std::time::Duration;

use gatehouse_tests::kubernetes::{Space, cluster};
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::{gateway, preload, wait};
use serde_json::Value;

use crate::load::Load;

const RULE: &[(&str, &str, &str)] = &[("/", "Prefix", "app")];

/// Longer than a lease is good for, and than a leader is certain of itself.
const LEASE: Duration = Duration::from_secs(18);

/// Time to a change that is served.
const SOON: Duration = Duration::from_secs(5);

fn lease(space: &Space<'_>) -> Value {
    space.kubectl().get(&space.name, "lease/gatehouse-leader")["spec"].clone()
}

/// The day on which the leader believes to have renewed its lease.
fn day(lease: &Value) -> String {
    let time = lease["renewTime"].as_str().unwrap_or_default();
    time.chars().take(10).collect()
}

#[test]
fn a_wall_clock_that_jumps_moves_neither_the_lease_nor_the_traffic() {
    cluster::shared(|server| {
        let space = Space::new(server, "clock");
        let _backend = space.backend("app");
        space.apply(&manifests::ingress("first", "first.clock", RULE));
        let scratch = Scratch::new();
        let (library, shift) = (preload::library(&scratch, "clock"), scratch.file("shift"));
        scratch.write("shift", "0");
        let shifted = [("LD_PRELOAD", &*library), ("CLOCK_SHIFT", &*shift)];
        let gateway = space.gateway_under(&shifted, &[]);
        let before = wait::until("the only replica leads", || {
            Some(lease(&space)).filter(|lease| !day(lease).is_empty())
        });
        // The other one has the clock of the machine, and waits to lead.
        let other = space.gateway(&[]);
        let load = Load::start(gateway.http, "first.clock");
        let mut today = day(&before);
        for (name, jump) in [
            ("ahead", "86400"),
            ("back", "-172800"),
            ("years", "315360000"),
        ] {
            scratch.replace("shift", jump);
            let shown = wait::until("the leader renews with another date", || {
                let now = lease(&space);
                (day(&now) != today).then(|| day(&now))
            });
            println!("{jump} s: {today} became {shown}");
            today = shown;
            let host = format!("{name}.clock");
            space.apply(&manifests::ingress(name, &host, RULE));
            let served = wait::within(SOON, || {
                let served = |gateway: &gateway::Gateway| {
                    gatehouse_tests::raw::get(gateway.http, &host, "/")
                        .is_ok_and(|answer| answer.status == 200)
                };
                (served(&gateway) && served(&other)).then_some(())
            });
            assert!(
                served.is_some(),
                "{host} after {jump} s: {:#?}",
                gateway.process.stderr.all()
            );
            let stays = wait::holds(LEASE, || {
                let now = lease(&space);
                let same = |field: &str| now[field] == before[field];
                same("holderIdentity") && same("leaseTransitions")
            });
            assert!(stays, "after {jump} s: {} became {}", before, lease(&space));
            assert_eq!(gateway.admin_get("/readyz").0, 200, "after {jump} s");
        }
        assert!(gateway.process.stderr.find("leads no longer").is_none());
        load.unharmed(10);
    });
}
