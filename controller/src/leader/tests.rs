//! Elections at an API server made of a map, with a clock that the tests move.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::source::kubernetes::contact::Contacts;

/// How the server behaves to one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Up,
    /// Answers 503 to everything.
    Down,
    /// Answers 403 to everything that writes.
    Denied,
    /// Answers nothing.
    Hung,
    /// Does what it is asked, and the answer is lost.
    Mute,
}

#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    writes: Mutex<Vec<String>>,
}

impl Server {
    fn lease(&self) -> MutexGuard<'_, Option<Value>> {
        self.lease.lock().unwrap()
    }

    fn holder(&self) -> String {
        let lease = self.lease();
        let holder = lease.as_ref().map(|lease| &lease["spec"]["holderIdentity"]);
        holder
            .and_then(Value::as_str)
            .unwrap_or("nobody")
            .to_owned()
    }

    fn answer(&self, method: &Method, sent: &[u8]) -> (StatusCode, Value) {
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": reason, "message": reason, "code": code});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        let mut lease = self.lease();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        if *method == Method::GET {
            return match &*lease {
                Some(lease) => (StatusCode::OK, lease.clone()),
                None => failure(404, "NotFound"),
            };
        }
        let mut new: Value = serde_json::from_slice(sent).unwrap();
        match &*lease {
            Some(_) if *method == Method::POST => return failure(409, "AlreadyExists"),
            Some(old) if version(old) != version(&new) => return failure(409, "Conflict"),
            None if *method == Method::PUT => return failure(404, "NotFound"),
            _ => {}
        }
        let mut writes = self.writes.lock().unwrap();
        writes.push(new["spec"]["holderIdentity"].as_str().unwrap().to_owned());
        new["metadata"]["resourceVersion"] = json!(writes.len().to_string());
        *lease = Some(new.clone());
        (StatusCode::OK, new)
    }
}

/// One replica, and what can happen to it.
struct Replica {
    leadership: Leadership,
    line: Arc<Mutex<Line>>,
    contacts: Contacts,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(server: &Arc<Server>, identity: &str) -> Self {
        let line = Arc::new(Mutex::new(Line::Up));
        let (server, known) = (Arc::clone(server), Arc::clone(&line));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, line) = (Arc::clone(&server), *known.lock().unwrap());
            async move {
                let (head, body) = request.into_parts();
                let sent = body.collect().await?.to_bytes();
                let (status, value) = match line {
                    Line::Down => (StatusCode::SERVICE_UNAVAILABLE, json!({"code": 503})),
                    Line::Denied if head.method != Method::GET => {
                        let why =
                            r#"leases is forbidden: User "a" cannot update resource "leases""#;
                        let status = json!({"kind": "Status", "apiVersion": "v1",
                            "status": "Failure", "reason": "Forbidden", "message": why, "code": 403});
                        (StatusCode::FORBIDDEN, status)
                    }
                    Line::Up | Line::Denied => server.answer(&head.method, &sent),
                    Line::Hung => std::future::pending().await,
                    Line::Mute => {
                        server.answer(&head.method, &sent);
                        std::future::pending().await
                    }
                };
                let body = Body::from(serde_json::to_vec(&value).unwrap());
                let response = Response::builder().status(status).body(body).unwrap();
                Ok::<_, kube::Error>(response)
            }
        });
        let candidate = Candidate {
            identity: identity.into(),
            namespace: "gatehouse".into(),
            lease: "gatehouse-leader".into(),
        };
        let (stop, stopped) = oneshot::channel();
        let client = Client::new(service, "gatehouse");
        let contacts = Contacts::default();
        let refusals = contacts.refusals().clone();
        let clients: Clients = Arc::new(move || client.clone());
        let (leadership, election) = stand(clients, candidate, refusals, stopped);
        Self {
            leadership,
            line,
            contacts,
            stop: Some(stop),
            task: tokio::spawn(election),
        }
    }

    fn set(&self, line: Line) {
        *self.line.lock().unwrap() = line;
    }

    fn leads(&self) -> bool {
        self.leadership.epoch().is_some()
    }

    /// Dies without a word.
    fn kill(self) {
        self.task.abort();
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap();
    }

    /// Waits until it leads; how long that took.
    async fn wins(&mut self) -> Duration {
        let start = Instant::now();
        let won = timeout(Duration::from_secs(90), self.leadership.changed(None)).await;
        assert!(won.unwrap().is_some());
        start.elapsed()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn one_of_three_leads_and_goes_on_leading() {
    let server = Arc::default();
    let replicas = ["a", "b", "c"].map(|name| Replica::start(&server, name));
    sleep(SECOND).await;
    let first = server.holder();
    for _ in 0..600 {
        sleep(SECOND).await;
        let leaders = replicas.iter().filter(|replica| replica.leads()).count();
        assert_eq!(leaders, 1);
    }
    assert_eq!(server.holder(), first);
    let writes = server.writes.lock().unwrap().clone();
    assert!(writes.iter().all(|holder| *holder == first), "{writes:?}");
    assert!(
        writes.len() <= 302,
        "a renewal every two seconds: {}",
        writes.len()
    );
    for replica in replicas {
        replica.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_within_twenty_seconds_and_one_that_leaves_within_three() {
    let server = Arc::default();
    let first = Replica::start(&server, "a");
    sleep(SECOND).await;
    assert!(first.leads());
    let mut second = Replica::start(&server, "b");
    sleep(30 * SECOND).await;
    assert!(!second.leads());
    first.kill();
    let took = second.wins().await;
    assert!(took > 12 * SECOND && took <= 18 * SECOND, "{took:?}");
    assert_eq!(second.leadership.epoch(), Some(1));

    let mut third = Replica::start(&server, "c");
    sleep(5 * SECOND).await;
    let (took, ()) = tokio::join!(third.wins(), second.stop());
    assert!(took <= 3 * SECOND, "{took:?}");
    assert_eq!(
        third.leadership.epoch(),
        Some(2),
        "a new term, a new number"
    );
    third.stop().await;
    assert_eq!(server.holder(), "", "given back");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_may_begin() {
    for line in [Line::Down, Line::Hung, Line::Mute] {
        let server = Arc::default();
        let first = Replica::start(&server, "a");
        sleep(SECOND).await;
        let mut second = Replica::start(&server, "b");
        sleep(30 * SECOND).await;
        first.set(line);
        let mut both = 0;
        let mut stopped = None;
        for step in 0..300 {
            sleep(SECOND / 10).await;
            both += u32::from(first.leads() && second.leads());
            if !first.leads() && stopped.is_none() {
                stopped = Some(step);
            }
        }
        assert_eq!(both, 0, "{line:?}");
        assert!(
            stopped.is_some_and(|step| step <= 105),
            "{line:?} {stopped:?}"
        );
        assert!(second.leads(), "{line:?}");
        // Back again, it follows.
        first.set(Line::Up);
        sleep(30 * SECOND).await;
        assert!(second.leads() && !first.leads(), "{line:?}");
        second.leadership.changed(None).await;
        first.kill();
        second.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_costs_no_leadership() {
    let server: Arc<Server> = Arc::default();
    let first = Replica::start(&server, "a");
    sleep(SECOND).await;
    first.set(Line::Mute);
    let before = server.writes.lock().unwrap().len();
    while server.writes.lock().unwrap().len() == before {
        sleep(SECOND / 10).await;
    }
    first.set(Line::Up);
    for _ in 0..300 {
        sleep(SECOND / 10).await;
        assert!(first.leads());
    }
    first.kill();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_does_not_believe_in_itself() {
    let server = Arc::default();
    let first = Replica::start(&server, "a");
    sleep(SECOND).await;
    assert!(first.leads());
    // The clock goes on and nobody runs.
    advance(RENEW_WITHIN).await;
    assert!(!first.leads());
    first.kill();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_or_nonsense_is_taken_in_bounded_time() {
    let server: Arc<Server> = Arc::default();
    *server.lease() = Some(
        json!({"metadata": {"name": "gatehouse-leader", "resourceVersion": "x"},
        "spec": {"holderIdentity": "elsewhere", "leaseDurationSeconds": 2_000_000_000,
            "renewTime": "2999-01-01T00:00:00.000000Z"}}),
    );
    let mut first = Replica::start(&server, "a");
    let took = first.wins().await;
    assert!(took >= 59 * SECOND && took <= 63 * SECOND, "{took:?}");
    *server.lease() = None;
    sleep(10 * SECOND).await;
    assert!(first.leads());
    assert_eq!(server.holder(), "a");
    first.kill();
}

#[tokio::test]
async fn without_an_election_everybody_leads() {
    let mut alone = Leadership::unquestioned();
    assert_eq!(alone.epoch(), Some(0));
    let news = timeout(Duration::from_millis(1), alone.changed(Some(0))).await;
    assert!(news.is_err());
}

#[test]
fn a_lease_that_was_made_anew_counts_on() {
    let lease = |made: &str, transitions: i32| {
        let text = format!(
            "{{metadata: {{name: a, creationTimestamp: '{made}'}}, spec: {{leaseTransitions: \
             {transitions}}}}}"
        );
        epoch(&serde_saphyr::from_str(&text).unwrap())
    };
    let old = lease("2026-01-01T00:00:00Z", 900_000);
    assert!(old < lease("2026-01-01T00:00:00Z", 900_001));
    assert!(old < lease("2026-01-01T00:00:01Z", 0));
    assert!(lease("2026-01-01T00:00:00Z", i32::MAX) < lease("2026-01-01T00:00:01Z", 0));
    assert!(
        lease("2200-01-01T00:00:00Z", 0) < 1 << 53,
        "a number of JSON"
    );
}

thread_local! {
    /// What this thread, and so its test, has logged.
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to the lines of whichever thread logs.
struct Lines;

impl Lines {
    /// For all threads: what is logged by one alone is lost when another was there first.
    fn follow() {
        tracing_subscriber::fmt()
            .with_writer(|| Self)
            .with_ansi(false)
            .try_init()
            .ok();
    }

    /// How often something was said.
    fn count(words: &str) -> usize {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines).matches(words).count())
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_says_once_that_the_lease_is_out_of_reach_and_once_that_it_is_back() {
    Lines::follow();
    let said = Lines::count;
    let server = Arc::default();
    let leader = Replica::start(&server, "a");
    sleep(SECOND).await;
    let follower = Replica::start(&server, "b");
    sleep(10 * SECOND).await;
    assert_eq!(said("in reach again"), 0, "nothing was wrong");
    for times in 1..=2 {
        follower.set(Line::Down);
        sleep(60 * SECOND).await;
        assert_eq!(said("cannot be read or written"), times);
        assert_eq!(said("in reach again"), times - 1);
        follower.set(Line::Up);
        sleep(60 * SECOND).await;
        assert_eq!(said("cannot be read or written"), times);
        assert_eq!(said("in reach again"), times);
    }
    assert!(leader.leads());
    leader.kill();
    follower.kill();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_may_not_be_written_is_told_until_it_may() {
    Lines::follow();
    let server = Arc::default();
    let first = Replica::start(&server, "a");
    sleep(SECOND).await;
    first.set(Line::Denied);
    sleep(600 * SECOND).await;
    assert!(!first.leads());
    let told = first.contacts.complaints();
    assert_eq!(told.len(), 1);
    for word in [
        "RequestForbidden",
        "leases.coordination.k8s.io",
        "create, get or update",
        "in namespace `gatehouse`",
        "generate rbac",
    ] {
        let text = told[0].to_string();
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
    assert_eq!(Lines::count("cannot be read or written"), 1);
    first.set(Line::Up);
    sleep(20 * SECOND).await;
    assert!(first.leads());
    assert_eq!(first.contacts.complaints(), []);
    first.kill();
}
