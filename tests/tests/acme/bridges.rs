//! Bridges to other DNS clients, driven through a whole order and through a crash in it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use gatehouse_acme::clock::SystemClock;
use gatehouse_acme::journal::{Point, Silent};
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::{Bind, Pebble, Setup};
use gatehouse_tests::backend::{Backend, Request};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::manifests::Scratch;

use crate::customer::with;
use crate::dns::one_zone;
use crate::kills::Killer;
use crate::stand::{PATIENCE, Stand, request, valid, want};

/// What a bridge was told, in order: `present value` and `cleanup value`.
trait Told {
    fn told(&self) -> Vec<String>;
}

/// A program that writes down how it is called.
struct Hook(Scratch);

impl Hook {
    fn new() -> Self {
        let scratch = Scratch::new();
        let log = scratch.file("calls");
        let script = format!("#!/bin/sh\necho \"$1 $3\" >> {}\n", log.display());
        scratch.write("hook.sh", script);
        scratch.write("calls", "");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(scratch.file("hook.sh"), mode).expect("executable");
        Self(scratch)
    }

    fn program(&self) -> String {
        self.0.file("hook.sh").display().to_string()
    }
}

impl Told for Hook {
    fn told(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.0.file("calls")).expect("calls");
        calls.lines().map(str::to_owned).collect()
    }
}

impl Told for Backend {
    fn told(&self) -> Vec<String> {
        let requests = self.requests().into_iter();
        let call = |request: Request| {
            // Nothing as long as its body is on the way.
            let body: serde_json::Value = serde_json::from_slice(&request.body()).ok()?;
            let what = request.target().trim_start_matches('/').to_owned();
            Some(format!("{what} {}", body["value"].as_str()?))
        };
        requests.filter_map(call).collect()
    }
}

/// Orders with this bridge, dies at a point, is started again and finishes; what the bridge was told.
async fn through(pebble: &Pebble, bind: &Bind, bridge: &str, told: &dyn Told, at: (Point, usize)) {
    let more = format!(
        "      challenges: [dns-01]\n      dns: [{{zones: [example.test], propagation: none, \
         resolvers: ['{}'], {bridge}}}]\n",
        bind.at()
    );
    let mut stand = Stand::new(pebble, &pebble.directory(), &more);
    stand.solvers = gatehouse_acme::dns::solvers(Vec::new(), Arc::new(SystemClock));
    let killer = Arc::new(Killer::new(at));
    stand.journal = Arc::<Killer>::clone(&killer);
    let wish = || vec![request("tls", &["shop.example.test"])];
    let keeper = stand.keeper();
    want(&keeper, wish());
    killer.struck(&keeper).await;
    drop(keeper);
    stand.journal = Arc::new(Silent);
    let keeper = stand.keeper();
    want(&keeper, wish());
    valid(&keeper, "tls").await;
    let cleaned = async {
        while !told
            .told()
            .last()
            .is_some_and(|last| last.starts_with("cleanup"))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, cleaned)
        .await
        .expect("tidied up");

    let calls = told.told();
    let presented: Vec<&String> = calls
        .iter()
        .filter(|call| call.starts_with("present"))
        .collect();
    // Written, and not yet noted: nobody can know, and the same value twice is one.
    let expected = if at.0 == Point::Written { 2 } else { 1 };
    assert_eq!(presented.len(), expected, "{}: {calls:?}", at.0);
    assert!(
        presented.iter().all(|call| *call == presented[0]),
        "{calls:?}"
    );
    assert_eq!(
        calls.len(),
        expected + 1,
        "{}: cleanup once, {calls:?}",
        at.0
    );
    assert_eq!(calls[expected], calls[0].replace("present", "cleanup"));
}

#[test]
fn case_13_bridges_are_called_once_each_after_a_crash_too() {
    alone(|| {
        let bind = one_zone();
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            // Before and after the record is there, in the validation, before it is removed.
            for at in [
                (Point::Writing, 1),
                (Point::Written, 1),
                (Point::Stored(Phase::Validating), 1),
                (Point::Storing(Phase::Delivering), 1),
                (Point::Writing, 2),
            ] {
                let hook = Hook::new();
                assert!(Path::new(&hook.program()).is_file());
                let exec = format!("provider: exec, command: {}", hook.program());
                through(&pebble, &bind, &exec, &hook, at).await;
                let lego = Backend::plain();
                let httpreq = format!("provider: httpreq, url: 'http://{}/'", lego.address);
                through(&pebble, &bind, &httpreq, &lego, at).await;
            }
        });
        assert_eq!(pebble.issued().len(), 10);
    });
}
