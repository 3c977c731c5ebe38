//! Bridges to other DNS clients, driven through a whole order and through a crash in it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gatehouse_acme::Answer;
use gatehouse_acme::clock::SystemClock;
use gatehouse_acme::journal::{Journal, Point, Silent};
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Phase;
use gatehouse_tests::acme::{Bind, Pebble, Setup};
use gatehouse_tests::backend::Backend;
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::manifests::Scratch;
use tokio::sync::Notify;

use crate::customer::with;
use crate::dns::one_zone;
use crate::stand::{PATIENCE, Stand, request, valid, want};

/// Lets a flow die when it reaches a point for the nth time.
struct Fall {
    at: Point,
    left: Mutex<usize>,
    fell: Notify,
}

impl Journal for Fall {
    fn reached<'a>(&'a self, point: Point, _: &'a Target) -> Answer<'a, ()> {
        let mut left = self.left.lock().expect("a count");
        if point != self.at {
            return Box::pin(std::future::ready(()));
        }
        *left -= 1;
        if *left > 0 {
            return Box::pin(std::future::ready(()));
        }
        self.fell.notify_one();
        Box::pin(std::future::pending())
    }
}

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
        let call = |request: gatehouse_tests::backend::Request| {
            let body: serde_json::Value =
                serde_json::from_slice(&request.body()).expect("JSON of lego");
            let what = request.target().trim_start_matches('/').to_owned();
            format!("{what} {}", body["value"].as_str().unwrap_or_default())
        };
        requests.map(call).collect()
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
    let fall = Arc::new(Fall {
        at: at.0,
        left: Mutex::new(at.1),
        fell: Notify::new(),
    });
    stand.journal = Arc::<Fall>::clone(&fall);
    let wish = || vec![request("tls", &["shop.example.test"])];
    let keeper = stand.keeper();
    want(&keeper, wish());
    let fell = tokio::time::timeout(PATIENCE, fall.fell.notified()).await;
    fell.unwrap_or_else(|_| panic!("{} is reached", at.0));
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
