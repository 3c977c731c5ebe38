//! A crash at every step: one finalize per revision, the same key, nothing left behind.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use gatehouse_acme::Answer;
use gatehouse_acme::ca::Step;
use gatehouse_acme::journal::{Journal, Point, Silent};
use gatehouse_acme::keeper::Keeper;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Record;
use gatehouse_acme::vault::directory::DirectoryVault;
use gatehouse_acme::vault::{Key, Vault};
use gatehouse_tests::acme::Pebble;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::kubernetes::cluster::alone;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::customer::with;
use crate::stand::{Answers, PATIENCE, Stand, request, target, valid, want};

/// Writes down every step.
#[derive(Default)]
struct Recorder(Mutex<Vec<Point>>);

impl Recorder {
    /// Every step by its point and how often it had been reached; of polls the first alone, for
    /// nobody knows how many there are.
    fn steps(&self) -> Vec<(Point, usize)> {
        let mut counts: HashMap<Point, usize> = HashMap::new();
        let points = self.0.lock().expect("steps").clone().into_iter();
        let counted = points.map(|point| {
            let count = counts.entry(point).or_default();
            *count += 1;
            (point, *count)
        });
        let polls = [Point::Asking(Step::Order), Point::Asked(Step::Order)];
        let certain = |(point, count): &(Point, usize)| *count == 1 || !polls.contains(point);
        counted.filter(certain).collect()
    }
}

impl Journal for Recorder {
    fn reached<'a>(&'a self, point: Point, _: &'a Target) -> Answer<'a, ()> {
        self.0.lock().expect("steps").push(point);
        Box::pin(std::future::ready(()))
    }
}

/// Lets a flow die when it reaches a point for the nth time: it never returns from there.
pub(crate) struct Killer {
    at: Point,
    left: Mutex<usize>,
    hit: Notify,
}

impl Killer {
    pub(crate) fn new((at, nth): (Point, usize)) -> Self {
        Self {
            at,
            left: Mutex::new(nth),
            hit: Notify::new(),
        }
    }

    /// Waits until it has struck.
    pub(crate) async fn struck(&self, keeper: &Keeper) {
        let died = tokio::time::timeout(PATIENCE, self.hit.notified()).await;
        let stands = || {
            keeper
                .reports
                .borrow()
                .values()
                .cloned()
                .collect::<Vec<_>>()
        };
        died.unwrap_or_else(|_| panic!("{} is not reached: {:#?}", self.at, stands()));
    }
}

impl Journal for Killer {
    fn reached<'a>(&'a self, point: Point, _: &'a Target) -> Answer<'a, ()> {
        let mut left = self.left.lock().expect("count");
        *left -= usize::from(point == self.at && *left > 0);
        if point != self.at || *left > 0 {
            return Box::pin(std::future::ready(()));
        }
        self.hit.notify_one();
        Box::pin(std::future::pending())
    }
}

/// The key that the record would finalize with, as it is on the disk.
async fn next_key(stand: &Stand, secret: &str) -> Option<Vec<u8>> {
    let vault = DirectoryVault::open(stand.vault()).expect("a vault");
    let stored = vault
        .read(&Key::Certificate(target(secret)))
        .await
        .expect("read")?;
    let record = Record::from_entries(&stored.entries).expect("a record");
    Some(record.next?.key.expose().to_vec())
}

/// Point, key in the record after the crash, key that is served, serial number.
type Outcome = (Point, Option<Vec<u8>>, Vec<u8>, String);

/// Dies at step `at`, is started again, and issues; says which key was in the record meanwhile, and
/// which one is served.
async fn killed_once(mut stand: Stand, secret: String, at: (Point, usize)) -> Outcome {
    let killer = Arc::new(Killer::new(at));
    stand.journal = Arc::<Killer>::clone(&killer);
    let host = format!("{secret}.example.test");
    let wish = || vec![request(&secret, &[&host])];
    let keeper = stand.keeper();
    want(&keeper, wish());
    killer.struck(&keeper).await;
    drop(keeper);
    // The lock of the directory is free as soon as the last write on its thread has ended.
    let meanwhile = next_key(&stand, &secret).await;
    stand.journal = Arc::new(Silent);
    let keeper = stand.keeper();
    want(&keeper, wish());
    let serial = valid(&keeper, &secret).await;
    assert!(
        keeper.board.borrow().entries.is_empty(),
        "{} leaves something behind",
        at.0
    );
    let served = crate::stand::served(&keeper, &secret).expect("served");
    let key = served.material.key.expose().to_vec();
    (at.0, meanwhile, key, serial)
}

#[test]
fn a_crash_at_every_step_five_times_costs_neither_a_certificate_nor_a_key() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        with(async || {
            let answers = Answers::default();
            let _server = answers.serve(&pebble);
            let fresh = || Stand::new(&pebble, &proxy.directory(), "").answering(&answers);

            let recorder = Arc::new(Recorder::default());
            let mut stand = fresh();
            stand.journal = Arc::<Recorder>::clone(&recorder);
            let keeper = stand.keeper();
            want(&keeper, vec![request("first", &["first.example.test"])]);
            valid(&keeper, "first").await;
            drop(keeper);
            let steps = recorder.steps();
            assert!(steps.len() >= 24, "{steps:?}");

            let (finalized, issued) = (proxy.count(Endpoint::Finalize), pebble.issued().len());
            let mut serials = BTreeSet::new();
            let mut running = JoinSet::new();
            let mut check = |(at, meanwhile, served, serial): Outcome| {
                if let Some(key) = meanwhile {
                    assert!(key == served, "another key after a crash at {at}");
                }
                assert!(serials.insert(serial), "one certificate for two");
            };
            for crash in 0..steps.len() * TIMES {
                if running.len() >= AT_ONCE
                    && let Some(done) = running.join_next().await
                {
                    check(done.expect("no panic"));
                }
                let at = steps[crash % steps.len()];
                running.spawn(killed_once(fresh(), format!("s{crash}"), at));
            }
            running.join_all().await.into_iter().for_each(&mut check);
            let crashes = steps.len() * TIMES;
            assert_eq!(serials.len(), crashes);
            assert_eq!(
                pebble.issued().len() - issued,
                crashes,
                "no certificate too many"
            );
            assert_eq!(
                proxy.count(Endpoint::Finalize) - finalized,
                crashes,
                "one finalize each"
            );
        });
    });
}

/// Crashes at each step.
const TIMES: usize = 5;

/// Crashes under way at once.
const AT_ONCE: usize = 16;
