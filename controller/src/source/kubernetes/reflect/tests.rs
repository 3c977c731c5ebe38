//! A watch against a scripted API server, on paused time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{Full, StreamBody};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::super::access::Origin;
use super::super::contact::Contacts;
use super::*;
use crate::source::Kind;

/// What the server does with a request.
#[derive(Debug, Clone)]
enum Answer {
    /// A list, complete or with more to come.
    List(Vec<&'static str>, Option<&'static str>),
    /// A list of these objects.
    Objects(Vec<Value>),
    /// Events, then the end.
    Events(Vec<Value>),
    /// Events, then silence.
    Hanging(Vec<Value>),
    /// A refusal.
    Status(u16),
    /// No connection.
    Refused,
    /// How far history is, when only that is asked; far enough unless the script says so.
    Version(&'static str),
}

type Asked = Arc<Mutex<Vec<(Duration, String)>>>;

/// A watch, its changes, and what it asked when.
struct Play {
    changes: mpsc::Receiver<Change>,
    contacts: Contacts,
    target: Target,
    known: Known,
    asked: Asked,
    start: Instant,
}

impl Play {
    /// Runs a watch over Services; after the script, the server keeps to its last answer.
    fn start(script: &[Answer]) -> Self {
        Self::with_room(64, script)
    }

    /// The same, with room for so many changes that nobody has taken.
    fn with_room(room: usize, script: &[Answer]) -> Self {
        let (asked, start) = (Asked::default(), Instant::now());
        let script = Mutex::new(VecDeque::from(script.to_vec()));
        let log = Arc::clone(&asked);
        let server = tower::service_fn(move |request: http::Request<Body>| {
            let line = request.uri().to_string();
            let mut script = script.lock().unwrap();
            let next = script.front().unwrap().clone();
            let check = line.ends_with("limit=1");
            let answer = match next {
                Answer::Version(_) | Answer::Refused | Answer::Status(_) => next,
                _ if check => Answer::Version("1000"),
                _ => next,
            };
            if !matches!(answer, Answer::Version("1000")) && script.len() > 1 {
                script.pop_front();
            }
            log.lock().unwrap().push((start.elapsed(), line));
            async move { respond(answer) }
        });
        let target = Target::all(Kind::Service);
        let contacts = Contacts::default();
        let (sender, changes) = mpsc::channel(room);
        let known = Known::default();
        let reflector = Reflector {
            target: target.clone(),
            labels: None,
            access: Access::with_client(Client::new(server, "default"), Origin::Cluster),
            contact: contacts.open(&target),
            changes: sender,
            known: known.clone(),
            holdings: Holdings::default(),
        };
        tokio::spawn(reflector.run::<Service>());
        Self {
            changes,
            contacts,
            target,
            known,
            asked,
            start,
        }
    }

    /// The next changes, as `+name` and `-name`.
    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(match self.changes.recv().await.unwrap() {
                Change::Apply(key, _) => format!("+{}", key.name),
                Change::Delete(key) => format!("-{}", key.name),
                other => panic!("not expected: {other:?}"),
            });
        }
        list
    }

    /// When each request was made, and the request.
    fn asked(&self) -> Vec<(Duration, String)> {
        self.asked.lock().unwrap().clone()
    }

    /// The same without questions how far history is.
    fn followed(&self) -> Vec<(Duration, String)> {
        let mut asked = self.asked();
        asked.retain(|(_, line)| !line.ends_with("limit=1"));
        asked
    }
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"}})
}

fn respond(answer: Answer) -> std::io::Result<Response<BoxBody<Bytes, Infallible>>> {
    let full = |value: Value| BoxBody::new(Full::new(Bytes::from(value.to_string())));
    let lines = |events: Vec<Value>| {
        let frames = events
            .into_iter()
            .map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
        stream::iter(frames.collect::<Vec<_>>())
    };
    let mut response = Response::new(match answer {
        Answer::List(names, rest) => {
            let items: Vec<Value> = names.into_iter().map(service).collect();
            full(json!({"metadata": {"resourceVersion": "5", "continue": rest}, "items": items}))
        }
        Answer::Objects(items) => {
            full(json!({"metadata": {"resourceVersion": "5"}, "items": items}))
        }
        Answer::Events(events) => BoxBody::new(StreamBody::new(lines(events))),
        Answer::Hanging(events) => {
            BoxBody::new(StreamBody::new(lines(events).chain(stream::pending())))
        }
        Answer::Status(code) => {
            let mut response = Response::new(full(json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "message": "the reason\nand more",
            })));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            return Ok(response);
        }
        Answer::Version(version) => {
            full(json!({"metadata": {"resourceVersion": version}, "items": null}))
        }
        Answer::Refused => return Err(std::io::ErrorKind::ConnectionRefused.into()),
    });
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

fn all(names: &[&'static str]) -> Answer {
    Answer::List(names.to_vec(), None)
}

fn hanging() -> Answer {
    Answer::Hanging(Vec::new())
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages_and_its_changes_follow() {
    let mut play = Play::start(&[
        Answer::List(vec!["a"], Some("next page")),
        all(&["b"]),
        Answer::Hanging(vec![
            json!({"type": "ADDED", "object": service("c")}),
            json!({"type": "DELETED", "object": service("a")}),
            json!({"type": "DELETED", "object": service("never-seen")}),
            json!({"type": "BOOKMARK", "object": {
                "kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
            }}),
        ]),
        hanging(),
    ]);
    assert_eq!(play.next(4).await, ["+a", "+b", "+c", "-a"]);
    sleep(Duration::from_secs(60)).await;
    let asked = play.followed();
    assert!(asked[0].1.contains("limit=500"), "{asked:?}");
    assert!(asked[1].1.contains("continue=next+page"), "{asked:?}");
    assert!(asked[2].1.contains("resourceVersion=5"), "{asked:?}");
    assert!(asked[2].1.contains("allowWatchBookmarks=true"), "{asked:?}");
    assert!(
        asked[3].1.contains("resourceVersion=9"),
        "the bookmark counts: {asked:?}"
    );
    assert!(play.contacts.settled(&play.target, true));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_costs_a_list_and_only_what_is_missing_goes() {
    let gone = json!({"type": "ERROR", "object": {"code": 410, "message": "too old"}});
    let mut play = Play::start(&[
        all(&["a", "b", "c"]),
        Answer::Events(vec![gone]),
        all(&["b", "c", "d"]),
        hanging(),
    ]);
    assert_eq!(play.next(3).await, ["+a", "+b", "+c"]);
    assert_eq!(play.next(4).await, ["+b", "+c", "+d", "-a"]);
    assert!(play.start.elapsed() < Duration::from_secs(1));
    assert!(play.contacts.complaints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_believed_only_the_second_time() {
    let mut play = Play::start(&[all(&["a", "b"]), Answer::Status(410), all(&[]), hanging()]);
    play.next(2).await;
    sleep(Duration::from_secs(5)).await;
    let complaints = play.contacts.complaints();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].message.contains("lacks 2 of 2"));
    assert!(
        play.changes.try_recv().is_err(),
        "nothing is taken away yet"
    );

    // The second list is empty, too: the script ends with silence, so it is this one.
    let mut play = Play::start(&[
        all(&["a", "b"]),
        Answer::Status(410),
        all(&[]),
        all(&[]),
        hanging(),
    ]);
    play.next(2).await;
    let mut gone = play.next(2).await;
    gone.sort();
    assert_eq!(gone, ["-a", "-b"]);
    assert!(play.start.elapsed() >= CONFIRM);

    // The second list has everything again.
    let mut play = Play::start(&[
        all(&["a", "b"]),
        Answer::Status(410),
        all(&[]),
        all(&["a", "b"]),
        Answer::Hanging(vec![json!({"type": "ADDED", "object": service("c")})]),
    ]);
    play.next(2).await;
    assert_eq!(play.next(3).await, ["+a", "+b", "+c"]);
    assert!(play.contacts.complaints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_history_that_was_set_back_costs_a_list() {
    let mut play = Play::start(&[
        all(&["a", "b"]),
        Answer::Events(Vec::new()),
        Answer::Version("4"),
        all(&["b", "c"]),
        hanging(),
    ]);
    assert_eq!(play.next(2).await, ["+a", "+b"]);
    assert_eq!(play.next(3).await, ["+b", "+c", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_what_was_heard_is_not_obeyed() {
    let at = |name: &str, version: &str| {
        let mut object = service(name);
        object["metadata"]["resourceVersion"] = json!(version);
        object
    };
    let mut play = Play::start(&[
        all(&["a"]),
        Answer::Events(vec![
            json!({"type": "DELETED", "object": at("a", "20")}),
            json!({"type": "ADDED", "object": at("b", "21")}),
            // A proxy repeats itself.
            json!({"type": "ADDED", "object": at("a", "12")}),
            json!({"type": "DELETED", "object": at("b", "9")}),
            json!({"type": "BOOKMARK", "object": {
                "kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "8"},
            }}),
            json!({"type": "MODIFIED", "object": at("b", "22")}),
        ]),
        hanging(),
    ]);
    assert_eq!(play.next(4).await, ["+a", "-a", "+b", "+b"]);
    sleep(Duration::from_secs(2)).await;
    assert!(play.changes.try_recv().is_err());
    let asked = play.followed();
    assert!(asked[2].1.contains("resourceVersion=22"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_keeps_its_last_version_and_harms_no_other() {
    let strange = |name: &str| {
        let mut object = service(name);
        object["spec"] = json!({"ports": "many"});
        object
    };
    let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
    let about = |play: &Play| {
        let complaints = play.contacts.complaints();
        let objects = complaints
            .iter()
            .map(|complaint| complaint.object.to_string());
        objects.collect::<Vec<_>>()
    };
    let mut play = Play::start(&[
        Answer::Objects(vec![service("a"), strange("b"), service("c")]),
        Answer::Events(vec![
            event("MODIFIED", strange("a")),
            event("ADDED", service("d")),
            event("ERROR", json!({"code": 410, "message": "too old"})),
        ]),
        Answer::Objects(vec![strange("a"), strange("b"), service("c"), service("d")]),
        Answer::Hanging(vec![
            event("MODIFIED", service("a")),
            event("DELETED", strange("b")),
        ]),
    ]);
    assert_eq!(play.next(3).await, ["+a", "+c", "+d"]);
    assert_eq!(about(&play), ["Service/shop/a", "Service/shop/b"]);
    assert!(play.contacts.settled(&play.target, true));
    // What is listed anew takes nothing away.
    assert_eq!(play.next(3).await, ["+c", "+d", "+a"]);
    sleep(Duration::from_secs(1)).await;
    assert!(play.changes.try_recv().is_err());
    assert_eq!(about(&play), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_known_until_it_is_sent_that_it_is_gone() {
    let gone = json!({"type": "DELETED", "object": service("a")});
    let mut play = Play::with_room(1, &[all(&["a"]), Answer::Hanging(vec![gone])]);
    // Nobody takes the first change, so the second waits. Ended there, the watch leaves behind
    // what has to be taken back.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(play.known.keys().len(), 1);
    assert_eq!(play.next(2).await, ["+a", "-a"]);
    assert!(play.known.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn watches_that_get_through_and_fail_again_do_not_spur_each_other() {
    const STORM: usize = 1_000;
    let (asked, contacts) = (Arc::new(AtomicUsize::new(0)), Contacts::default());
    let count = Arc::clone(&asked);
    let server = tower::service_fn(move |request: http::Request<Body>| {
        let broken = json!({"type": "ERROR", "object": {"code": 500, "message": "broken"}});
        let answer = match count.fetch_add(1, Ordering::Relaxed) {
            STORM.. => Answer::Refused,
            _ if request.uri().to_string().contains("watch=true") => Answer::Events(vec![broken]),
            _ => all(&["a"]),
        };
        async move { respond(answer) }
    });
    let client = Client::new(server, "default");
    let (sender, mut changes) = mpsc::channel(64);
    tokio::spawn(async move { while changes.recv().await.is_some() {} });
    for namespace in ["one", "two", "three"] {
        let target = Target::within(Kind::Service, &namespace.into());
        let reflector = Reflector {
            target: target.clone(),
            labels: None,
            access: Access::with_client(client.clone(), Origin::Cluster),
            contact: contacts.open(&target),
            changes: sender.clone(),
            known: Known::default(),
            holdings: Holdings::default(),
        };
        tokio::spawn(reflector.run::<Service>());
    }
    sleep(Duration::from_secs(60)).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!((20..200).contains(&asked), "{asked} in a minute");
}

#[test]
fn doubtful_is_the_greater_part() {
    assert!(is_doubtful(1, 1));
    assert!(is_doubtful(10_000, 10_000));
    assert!(is_doubtful(51, 100));
    assert!(is_doubtful(2, 3));
    assert!(!is_doubtful(0, 0));
    assert!(!is_doubtful(1, 2));
    assert!(!is_doubtful(51, 10_000));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_makes_by_itself_says_nothing_about_the_rest() {
    let own = || {
        let mut object = service("kubernetes");
        object["metadata"]["namespace"] = json!("default");
        object
    };
    let mut play = Play::start(&[
        Answer::Objects(vec![own(), service("a")]),
        Answer::Status(410),
        Answer::Objects(vec![own()]),
        hanging(),
    ]);
    assert_eq!(play.next(3).await, ["+kubernetes", "+a", "+kubernetes"]);
    sleep(Duration::from_secs(5)).await;
    let complaints = play.contacts.complaints();
    assert!(complaints[0].message.contains("lacks 1 of 1"));
    assert!(play.changes.try_recv().is_err(), "nothing is taken away");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_made_anew() {
    let play = Play::start(&[all(&["a"]), hanging()]);
    sleep(Duration::from_secs(300)).await;
    let asked = play.followed();
    for pair in asked[1..].windows(2) {
        let pause = pair[1].0.checked_sub(pair[0].0).unwrap();
        assert!(pause <= Duration::from_secs(65), "{asked:?}");
    }
    assert!((5..=7).contains(&asked.len()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_asked_every_two_seconds_and_takes_nothing_away() {
    let mut play = Play::start(&[all(&["a"]), Answer::Refused]);
    assert_eq!(play.next(1).await, ["+a"]);
    sleep(Duration::from_secs(600)).await;
    assert!(play.changes.try_recv().is_err());
    let asked = play.asked();
    assert!((300..=620).contains(&asked.len()), "{}", asked.len());
    assert!(
        asked[1..]
            .iter()
            .all(|(_, line)| !line.contains("limit=500")),
        "no list is needed as long as the version may be good"
    );
    let complaints = play.contacts.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert_eq!(&*complaints[0].object, "Kubernetes API");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_pressed_less_and_less() {
    let play = Play::start(&[Answer::Status(429)]);
    sleep(Duration::from_secs(600)).await;
    let asked = play.asked();
    assert!((25..=60).contains(&asked.len()), "{}", asked.len());
    assert!(!play.contacts.settled(&play.target, false));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_forbidden_is_not_waited_for_unless_it_is_needed() {
    let mut script = vec![Answer::Status(403); 8];
    script.extend([all(&["a"]), hanging()]);
    let play = Play::start(&script);
    sleep(Duration::from_secs(4)).await;
    assert!(!play.contacts.settled(&play.target, false), "it may pass");
    sleep(Duration::from_secs(9)).await;
    assert!(play.contacts.settled(&play.target, false));
    assert!(!play.contacts.settled(&play.target, true));
    let complaints = play.contacts.complaints();
    assert_eq!(&*complaints[0].object, "services");
    assert!(complaints[0].message.contains("generate rbac"));
    assert!(!complaints[0].message.contains('\n'));
    // It is asked again, and all is well.
    sleep(Duration::from_secs(30)).await;
    assert!(play.contacts.settled(&play.target, true));
    assert!(play.contacts.complaints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_of_five_megabytes_is_one_like_others() {
    let mut huge = service("huge");
    let text = "x".repeat(5 << 20);
    huge["metadata"]["annotations"] = json!({"text": text});
    let mut play = Play::start(&[
        all(&["a"]),
        Answer::Hanging(vec![
            json!({"type": "ADDED", "object": huge}),
            json!({"type": "ADDED", "object": service("b")}),
        ]),
    ]);
    assert_eq!(play.next(3).await, ["+a", "+huge", "+b"]);
}
