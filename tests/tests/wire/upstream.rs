//! Sequences that need a particular backend: connections that must not be shared, tries that must
//! not be made, answers that come too early.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gatehouse_tests::backend::{Backend, Step, ok, response};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client, Failure};
use gatehouse_tests::websocket;

use crate::row::World;

const GET: &str = "GET / HTTP/1.1\r\nHost: wire.test\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = World::scripted(&[], |request| ok(request.target()));
    let mut client = Client::plain(world.gateway.http);
    let all: String = (0..50)
        .map(|number| GET.replace("/ ", &format!("/{number} ")))
        .collect();
    client.send(all);
    for number in 0..50 {
        assert_eq!(
            client.answer().map(|answer| answer.text()),
            Ok(format!("/{number}")),
            "R31"
        );
    }
}

#[test]
fn an_answer_before_the_end_of_the_request_is_delivered_and_its_connection_not_used_again() {
    let early = || vec![Step::Send(response("403 Forbidden", "early")), Step::Drain];
    let world = World::scripted(&["--workers=1"], move |request| match request.method() {
        "POST" => early(),
        _ => ok("ok"),
    });
    let mut client = Client::plain(world.gateway.http);
    let body = "a".repeat(1 << 20);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: wire.test\r\nContent-Length: {}\r\n\r\n",
        2 << 20
    ));
    client.send(body);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(403), "T02");
    let mut next = Client::plain(world.gateway.http);
    next.send(GET);
    assert_eq!(next.answer().map(|answer| answer.text()), Ok("ok".into()));
    let seen = world.take();
    let connection = |method: &str| {
        seen.iter()
            .find(|(_, request)| request.method() == method)
            .map(|(_, r)| r.connection)
    };
    assert_ne!(
        connection("POST"),
        connection("GET"),
        "T02: the connection was poisoned"
    );
}

#[test]
fn an_answer_that_breaks_off_is_delivered_as_far_as_it_came() {
    let endings = [
        ("length", "Content-Length: 50\r\n\r\nhello"),
        ("chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ];
    let world = World::scripted(&[], move |request| {
        match endings
            .iter()
            .find(|(name, _)| request.target() == format!("/{name}"))
        {
            Some((_, rest)) => vec![
                Step::Send(format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes()),
                Step::Close,
            ],
            None => ok("ok"),
        }
    });
    for round in 0..50 {
        for (name, _) in endings {
            let mut socket = raw::connect(world.gateway.http).expect("connect");
            let request = GET.replace("/ ", &format!("/{name} "));
            let patience = Some(raw::ANSWER);
            socket.set_read_timeout(patience).expect("a timeout");
            socket.write_all(request.as_bytes()).expect("sent");
            let mut got = Vec::new();
            socket.read_to_end(&mut got).expect("an end");
            let got = String::from_utf8_lossy(&got);
            assert!(
                got.starts_with("HTTP/1.1 200 ") && got.contains("hello"),
                "{name}, round {round}: {got:?}"
            );
            assert!(
                !got.ends_with("0\r\n\r\n"),
                "{name}, round {round}: {got:?}"
            );
        }
    }
}

#[test]
fn one_field_may_be_as_long_as_a_head() {
    let world = World::start(&[], &["--set=max-header-size=1m"]);
    let mut client = Client::plain(world.gateway.http);
    let long = format!("Host: wire.test\r\nX-Long: {}\r\n", "a".repeat(200_000));
    client.send(GET.replace("Host: wire.test\r\n", &long));
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    // Over the limit it is 431, and not a question of framing.
    client.send(GET.replace(
        "Host: wire.test\r\n",
        &format!("{long}X-More: {}\r\n", "a".repeat(1 << 20)),
    ));
    assert_eq!(client.answer().map(|answer| answer.status), Ok(431));
}

#[test]
fn a_post_that_was_sent_is_never_sent_again() {
    let world = World::scripted(&[], |request| match request.method() {
        "POST" => vec![Step::ReadBody, Step::Reset],
        _ => ok("ok"),
    });
    // Warm the pool: a pooled connection is the tempting one to retry on.
    let mut client = Client::plain(world.gateway.http);
    client.send(GET);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    world.take();
    client.send("POST / HTTP/1.1\r\nHost: wire.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().map(|answer| answer.status), Ok(502), "R59");
    assert_eq!(world.take().len(), 1, "R59: exactly one try");
}

#[test]
fn a_get_is_tried_twice_at_most() {
    let world = World::scripted(&[], |_| vec![Step::Reset]);
    let mut client = Client::plain(world.gateway.http);
    client.send(GET);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(502));
    let tries = world.take().len();
    assert!((1..=2).contains(&tries), "R60: {tries} tries");
}

#[test]
fn a_get_on_a_pooled_connection_that_died_is_tried_again() {
    let world = World::scripted(&["--workers=1"], |request| {
        let mut steps = ok("ok");
        // Closed right after the answer, without having said so.
        if request.target() == "/closing" {
            steps.push(Step::Close);
        }
        steps
    });
    let mut client = Client::plain(world.gateway.http);
    for round in 0..200 {
        for target in ["/closing", "/"] {
            client.send(GET.replace("/ ", &format!("{target} ")));
            assert_eq!(
                client.answer().map(|answer| answer.status),
                Ok(200),
                "round {round}"
            );
        }
    }
}

#[test]
fn an_upgrade_has_a_connection_of_its_own() {
    let world = World::scripted(&["--workers=1"], |request| {
        match request.header("upgrade") {
            Some(_) => vec![Step::Send(response("200 OK", "no"))],
            None => ok("ok"),
        }
    });
    let mut client = Client::plain(world.gateway.http);
    client.send(GET);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    let mut upgrade = Client::plain(world.gateway.http);
    // Bytes sent early belong to the tunnel: with no tunnel they are the next request, or an error,
    // but never bytes on a connection that others use.
    upgrade.send(websocket::request("wire.test", "/ws"));
    assert_eq!(
        upgrade.answer().map(|answer| answer.status),
        Ok(200),
        "R49: declined"
    );
    client.send(GET);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    let seen = world.take();
    let connections: Vec<u64> = seen.iter().map(|(_, request)| request.connection).collect();
    assert_eq!(connections.len(), 3);
    assert_ne!(
        connections[1], connections[0],
        "T06: the upgrade used a pooled connection"
    );
    assert_ne!(
        connections[2], connections[1],
        "T06: the upgrade's connection was pooled"
    );
}

#[test]
fn early_bytes_are_held_until_the_tunnel_stands() {
    let world = World::scripted(&[], |_| {
        vec![
            Step::Send(websocket::accepted().into_bytes()),
            Step::EchoFrames,
        ]
    });
    let mut client = Client::plain(world.gateway.http);
    let mut bytes = websocket::request("wire.test", "/ws").into_bytes();
    bytes.extend(websocket::masked("early"));
    client.send(bytes);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(101));
    assert_eq!(client.frame(), Ok("early".into()), "R49");
    let head = world.take().pop().expect("a request").1;
    assert_eq!(head.header("upgrade"), Some("websocket"));
}

#[test]
fn early_bytes_of_a_declined_upgrade_reach_no_backend_as_a_request() {
    let world = World::scripted(&[], |_| vec![Step::Send(response("403 Forbidden", "no"))]);
    let mut client = Client::plain(world.gateway.http);
    client.send(
        websocket::request("wire.test", "/ws")
            + "GET /smuggled HTTP/1.1\r\nHost: wire.test\r\n\r\n",
    );
    assert_eq!(client.answer().map(|answer| answer.status), Ok(403));
    let second = client.answer().map(|answer| answer.status);
    assert!(
        matches!(second, Ok(403) | Err(Failure::Closed)),
        "{second:?}"
    );
    let upgrades = world.take();
    let smuggled: Vec<_> = upgrades
        .iter()
        .filter(|(_, r)| r.target() == "/smuggled")
        .collect();
    if let (Some((_, one)), Some((_, first))) = (smuggled.first(), upgrades.first()) {
        assert_ne!(
            one.connection, first.connection,
            "CVE-2026-0033 of Pingora: passed on before a 101"
        );
    }
}

#[test]
fn an_expectation_is_answered_by_the_backend_first() {
    let world = World::scripted(&[], |request| match request.target() {
        "/refuse" => vec![
            Step::Send(response("417 Expectation Failed", "no")),
            Step::Close,
        ],
        _ => ok("ok"),
    });
    let head = "POST /TARGET HTTP/1.1\r\nHost: wire.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut client = Client::plain(world.gateway.http);
    client.send(head.replace("TARGET", "refuse"));
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, 417, "R34");
    let mut client = Client::plain(world.gateway.http);
    client.send(head.replace("TARGET", "accept"));
    let interim = client.exactly("HTTP/1.1 100 Continue\r\n\r\n".len());
    assert_eq!(
        interim,
        Ok(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        "a client that waits is told to go on"
    );
    client.send("hello");
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
}

#[test]
fn two_clients_never_get_each_others_answers() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let world = World::scripted(&["--workers=1"], move |request| {
        let mut bytes = response("200 OK", request.target());
        // Every third answer is followed by one that nobody asked for.
        if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            bytes.extend(response("200 OK", "poison"));
        }
        vec![Step::Send(bytes)]
    });
    let mut clients: Vec<Client> = (0..4).map(|_| Client::plain(world.gateway.http)).collect();
    for round in 0..300 {
        for (number, client) in clients.iter_mut().enumerate() {
            let target = format!("/{number}-{round}");
            client.send(GET.replace("/ ", &format!("{target} ")));
            assert_eq!(
                client.answer().map(|answer| answer.text()),
                Ok(target),
                "T07"
            );
        }
    }
    assert!(count.load(Ordering::Relaxed) >= 1_200);
}

#[test]
fn a_backend_that_nobody_listens_on_is_a_502() {
    let gone = Backend::plain().address;
    let scratch = Scratch::new();
    // A port that was free a moment ago and belongs to no listener of this test.
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("a free port");
    assert_ne!(free, gone);
    let text = manifests::class()
        + &manifests::service("gone", &[free])
        + &manifests::service("none", &[])
        + &manifests::ingress(
            "gone",
            "gone.test",
            &[("/", "Prefix", "gone"), ("/none", "Prefix", "none")],
        );
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), &[]);
    gateway.wait_status("gone.test", "/", 502);
    gateway.wait_status("gone.test", "/none", 503);
    gateway.wait_status("nobody.test", "/", 404);
}
