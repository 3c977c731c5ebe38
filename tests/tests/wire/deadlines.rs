//! Every stall has its deadline. The limits are set short; a row passes when the connection ends
//! after its limit and before it was plainly forgotten.

use std::time::Duration;

use gatehouse_tests::backend::{Request, Step, ok};
use gatehouse_tests::frames::{Frames, Outcome, PREFACE};
use gatehouse_tests::raw::{self, Client, Failure};
use gatehouse_tests::{raw::Answer, websocket};
use tokio::time::Instant;

use crate::row::World;

/// Each limit in the tests; long enough that a busy machine does not reach it by itself.
const LIMIT: Duration = Duration::from_millis(700);
/// What is still in time.
const LATE: Duration = Duration::from_secs(8);

const FLAGS: &[&str] = &[
    "--set",
    "tls-handshake-timeout=700ms",
    "--set",
    "client-first-byte-timeout=700ms",
    "--set",
    "client-header-timeout=700ms",
    "--set",
    "keep-alive=700ms",
    "--set",
    "http2-idle-timeout=700ms",
    "--set",
    "client-body-timeout=700ms",
    "--set",
    "response-write-timeout=700ms",
    "--set",
    "upstream-response-timeout=700ms",
    "--set",
    "upstream-body-timeout=700ms",
    "--set",
    "tunnel-idle-timeout=700ms",
];

fn script(request: &Request) -> Vec<Step> {
    match request.target() {
        "/silent" => vec![Step::ReadBody, Step::Drain],
        "/drip" => vec![Step::Send(b"HTTP/1.1 200 OK\r\nX-A".to_vec()), Step::Drain],
        "/stall" => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec();
            vec![Step::Send(head), Step::Drain]
        }
        "/ws" => vec![
            Step::Send(websocket::accepted().into_bytes()),
            Step::EchoFrames,
        ],
        "/big" => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20);
            vec![
                Step::Send(head.into_bytes()),
                Step::Repeat(vec![b'x'; 1 << 20], 64),
                Step::Drain,
            ]
        }
        _ => ok("ok"),
    }
}

fn world() -> World {
    World::scripted(FLAGS, script)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: wire.test\r\n\r\n")
}

/// Waits for the end of a connection; gives what came before, and how long it took.
fn ends(mut client: Client) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    assert!(
        client.closes_within(LATE),
        "open for {LATE:?}, got {}",
        raw::escaped(&client.buffer)
    );
    let took = start.elapsed();
    assert!(
        took >= LIMIT / 2,
        "closed after {took:?} already, got {}",
        raw::escaped(&client.buffer)
    );
    (std::mem::take(&mut client.buffer), took)
}

#[test]
fn a_client_that_stays_silent_is_closed() {
    let world = world();
    for port in [world.gateway.http, world.gateway.https] {
        ends(Client::plain(port));
    }
}

#[test]
fn a_client_that_stops_in_the_head_is_closed() {
    let world = world();
    for sent in [
        "P",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: wire.test\r\nX-A: ",
    ] {
        let mut client = Client::plain(world.gateway.http);
        client.send(sent);
        let (got, _) = ends(client);
        assert!(
            got.is_empty() || got.starts_with(b"HTTP/1.1 408"),
            "{}",
            raw::escaped(&got)
        );
    }
}

#[test]
fn a_head_that_drips_is_closed_all_the_same() {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send("GET / HTTP/1.1\r\nHost: wire.test\r\n");
    let start = Instant::now();
    // A byte now and then is no progress: the head as a whole has its time.
    while !client.closes_within(Duration::from_millis(100)) {
        assert!(start.elapsed() < LATE, "dripped for {LATE:?}");
        client.send("X");
    }
    assert!(start.elapsed() >= LIMIT / 2);
}

#[test]
fn half_a_client_hello_is_closed() {
    let world = world();
    let mut client = Client::plain(world.gateway.https);
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    ends(client);
}

#[test]
fn half_an_http2_preface_is_closed() {
    let world = world();
    for length in [1, 10, PREFACE.len() - 1, PREFACE.len()] {
        let mut client = Client::plain(world.gateway.http);
        client.send(&PREFACE[..length]);
        ends(client);
    }
}

#[test]
fn an_idle_http2_connection_is_closed() {
    let world = world();
    let mut frames = Frames::open(world.gateway.http);
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"wire.test"),
        (b":path", b"/"),
    ];
    assert_eq!(
        frames.headers(1, &fields, true).outcome(1),
        Outcome::Status(200)
    );
    assert!(
        frames.client().closes_within(LATE),
        "an idle HTTP/2 connection stays open"
    );
}

#[test]
fn an_idle_keep_alive_connection_is_closed() {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send(get("/"));
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    let (got, _) = ends(client);
    assert!(
        got.is_empty() || got.starts_with(b"HTTP/1.1 408"),
        "{}",
        raw::escaped(&got)
    );
}

fn answered(target: &str, send: &str, status: u16) -> Answer {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send(if send.is_empty() {
        get(target)
    } else {
        send.to_owned()
    });
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, status);
    answer
}

#[test]
fn content_that_stops_is_a_408() {
    answered(
        "/",
        "POST / HTTP/1.1\r\nHost: wire.test\r\nContent-Length: 10\r\n\r\nabc",
        408,
    );
    answered(
        "/",
        "POST / HTTP/1.1\r\nHost: wire.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        408,
    );
}

#[test]
fn a_backend_that_does_not_answer_is_a_504() {
    answered("/silent", "", 504);
    answered("/drip", "", 504);
}

#[test]
fn a_backend_that_stops_in_its_content_is_cut_visibly() {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send(get("/stall"));
    let answer = client.answer();
    assert!(matches!(answer, Err(Failure::Truncated(_))), "{answer:?}");
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send(get("/big"));
    let main = world.backend("main");
    gatehouse_tests::wait::until("the backend was asked", || {
        (!main.requests().is_empty()).then_some(())
    });
    // Not reading is the stall. When it has been given up, what is left in the buffers ends early.
    gatehouse_tests::wait::until("the connection is given up", || {
        let (_, metrics) = world.gateway.admin_get("/metrics");
        let closed = |line| line == "gatehouse_connections_active 0";
        metrics.lines().any(closed).then_some(())
    });
    // An answer of its whole length would have been kept for a client that did not read.
    let answer = client.answer().map(|answer| answer.body.len());
    assert!(matches!(answer, Err(Failure::Truncated(_))), "{answer:?}");
}

#[test]
fn a_tunnel_without_a_byte_is_closed() {
    let world = world();
    let mut client = Client::plain(world.gateway.http);
    client.send(websocket::request("wire.test", "/ws"));
    assert_eq!(client.answer().map(|answer| answer.status), Ok(101));
    client.send(websocket::masked("hello"));
    assert_eq!(client.frame(), Ok("hello".into()));
    ends(client);
}
