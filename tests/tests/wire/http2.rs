//! Raw HTTP/2 requests: what must be refused, and what must arrive at an HTTP/1 backend and how.

use gatehouse_tests::backend::{Request, Step, ok};
use gatehouse_tests::frames::{self, Frames, Outcome, block, frame, kind};
use gatehouse_tests::http2::Session;
use gatehouse_tests::wait;

use crate::row::{World, report};

type Fields = &'static [(&'static [u8], &'static [u8])];

const M: (&[u8], &[u8]) = (b":method", b"GET");
const S: (&[u8], &[u8]) = (b":scheme", b"http");
const A: (&[u8], &[u8]) = (b":authority", b"wire.test");
const P: (&[u8], &[u8]) = (b":path", b"/");

/// Refused: a stream or connection error, or a 4xx; no backend sees a complete request.
const MALFORMED: &[(&str, &str, Fields)] = &[
    ("method-twice", "R69 8.3", &[M, M, S, A, P]),
    ("method-none", "R69 8.3.1", &[S, A, P]),
    ("path-none", "R69 8.3.1", &[M, S, A]),
    ("scheme-none", "R69 8.3.1", &[M, A, P]),
    ("path-twice", "R69 8.3", &[M, S, A, P, P]),
    (
        "pseudo-unknown",
        "R69 8.3",
        &[M, S, A, P, (b":foo", b"bar")],
    ),
    (
        "pseudo-status",
        "R69 8.3",
        &[M, S, A, P, (b":status", b"200")],
    ),
    ("pseudo-late", "R69 8.3", &[M, S, A, (b"x-a", b"1"), P]),
    ("path-empty", "R72 8.3.1", &[M, S, A, (b":path", b"")]),
    ("path-relative", "R72 8.3.1", &[M, S, A, (b":path", b"foo")]),
    ("path-star", "R72 8.3.1", &[M, S, A, (b":path", b"*")]),
    ("path-space", "8.3.1", &[M, S, A, (b":path", b"/a b")]),
    (
        "path-crlf",
        "8.2.1",
        &[M, S, A, (b":path", b"/ HTTP/1.1\r\nX: y")],
    ),
    // A fragment in `:path` is not here: it is cut off before anybody matches or forwards it.
    (
        "method-space",
        "8.3.1",
        &[(b":method", b"GET / HTTP/1.1"), S, A, P],
    ),
    (
        "method-crlf",
        "8.2.1",
        &[(b":method", b"GET\r\nX: y"), S, A, P],
    ),
    ("name-upper", "R65 8.2.1", &[M, S, A, P, (b"X-Upper", b"1")]),
    ("name-empty", "R65 8.2.1", &[M, S, A, P, (b"", b"1")]),
    ("name-space", "R65 8.2.1", &[M, S, A, P, (b"x a", b"1")]),
    ("name-colon", "R65 8.2.1", &[M, S, A, P, (b"x:a", b"1")]),
    ("value-cr", "R65 8.2.1", &[M, S, A, P, (b"x-a", b"a\rb")]),
    ("value-lf", "R65 8.2.1", &[M, S, A, P, (b"x-a", b"a\nb")]),
    ("value-nul", "R65 8.2.1", &[M, S, A, P, (b"x-a", b"a\0b")]),
    (
        "value-blank-first",
        "R65 8.2.1",
        &[M, S, A, P, (b"x-a", b" a")],
    ),
    (
        "value-blank-last",
        "R65 8.2.1",
        &[M, S, A, P, (b"x-a", b"a\t")],
    ),
    (
        "connection",
        "R66 8.2.2",
        &[M, S, A, P, (b"connection", b"x-a")],
    ),
    (
        "keep-alive",
        "R66 8.2.2",
        &[M, S, A, P, (b"keep-alive", b"5")],
    ),
    (
        "proxy-connection",
        "R66 8.2.2",
        &[M, S, A, P, (b"proxy-connection", b"x")],
    ),
    (
        "upgrade",
        "R66 8.2.2",
        &[M, S, A, P, (b"upgrade", b"websocket")],
    ),
    (
        "transfer-encoding",
        "R66 8.2.2",
        &[M, S, A, P, (b"transfer-encoding", b"chunked")],
    ),
    ("te-gzip", "R67 8.2.2", &[M, S, A, P, (b"te", b"gzip")]),
    (
        "host-twice",
        "gap 2",
        &[M, S, P, (b"host", b"wire.test"), (b"host", b"wire.test")],
    ),
    ("host-none", "gap 2", &[M, S, P]),
    ("authority-empty", "gap 2", &[M, S, (b":authority", b""), P]),
    (
        "userinfo",
        "R71 8.3.1",
        &[M, S, (b":authority", b"u:p@wire.test"), P],
    ),
    (
        "authority-slash",
        "8.3.1",
        &[M, S, (b":authority", b"wire.test/x"), P],
    ),
    (
        "authority-space",
        "8.3.1",
        &[M, S, (b":authority", b"wire test"), P],
    ),
    (
        "authority-port",
        "8.3.1",
        &[M, S, (b":authority", b"wire.test:99999"), P],
    ),
    ("scheme-ftp", "gap 8", &[M, (b":scheme", b"ftp"), A, P]),
    (
        "scheme-https-plain",
        "gap 8",
        &[M, (b":scheme", b"gopher"), A, P],
    ),
    (
        "connect",
        "R58 8.5",
        &[(b":method", b"CONNECT"), (b":authority", b"wire.test:443")],
    ),
    (
        "connect-extended",
        "8441",
        &[
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            S,
            A,
            P,
        ],
    ),
    (
        "length-two",
        "R73 8.1.1",
        &[
            M,
            S,
            A,
            P,
            (b"content-length", b"1"),
            (b"content-length", b"2"),
        ],
    ),
    (
        "length-twice",
        "R73 8.1.1",
        &[
            M,
            S,
            A,
            P,
            (b"content-length", b"0"),
            (b"content-length", b"0"),
        ],
    ),
    ("path-query", "R72 8.3.1", &[M, S, A, (b":path", b"?x")]),
    (
        "length-plus",
        "R73 8.1.1",
        &[M, S, A, P, (b"content-length", b"+0")],
    ),
    (
        "length-list",
        "R73 8.1.1",
        &[M, S, A, P, (b"content-length", b"5, 5")],
    ),
    (
        "length-big",
        "R73 8.1.1",
        &[M, S, A, P, (b"content-length", b"18446744073709551616")],
    ),
    (
        "length-ended",
        "R73 8.1.1",
        &[M, S, A, P, (b"content-length", b"5")],
    ),
    (
        "expect-other",
        "9110 10.1.1",
        &[M, S, A, P, (b"expect", b"foo")],
    ),
    ("trace", "9110 9.3.8", &[(b":method", b"TRACE"), S, A, P]),
];

fn refused(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(code) => matches!(code, 400..=499 | 501),
        Outcome::Reset(_) | Outcome::Goaway(_) | Outcome::Closed => true,
        Outcome::Silent => false,
    }
}

fn incomplete(world: &World) -> bool {
    let clean = || world.seen().iter().all(|(_, request)| !request.complete);
    wait::holds(std::time::Duration::from_millis(25), clean)
}

#[test]
fn malformed_http2_requests_are_refused() {
    let world = World::start(&[], &[]);
    let mut failed = Vec::new();
    for (id, rule, fields) in MALFORMED {
        world.take();
        let outcome = Frames::open(world.gateway.http)
            .headers(1, fields, true)
            .outcome(1);
        if !refused(outcome) {
            failed.push(format!("{id} ({rule}): {outcome:?}"));
        } else if !incomplete(&world) {
            failed.push(format!("{id} ({rule}): a backend saw {:?}", world.take()));
        }
    }
    report("malformed HTTP/2", MALFORMED.len(), &failed);
}

#[test]
fn content_that_does_not_fit_its_length_is_refused_on_http2() {
    let world = World::start(&[], &[]);
    let post: (&[u8], &[u8]) = (b":method", b"POST");
    let long: (&[u8], &[u8]) = (b"content-length", b"5");
    let mut failed = Vec::new();
    for (id, content, end) in [
        ("short", b"abc".as_slice(), true),
        ("long", b"abcdefg", true),
        ("long-open", b"abcdefg", false),
    ] {
        world.take();
        let mut frames = Frames::open(world.gateway.http);
        frames
            .headers(1, &[post, S, A, P, long], false)
            .data(1, content, end);
        let outcome = frames.outcome(1);
        if !refused(outcome) || !incomplete(&world) {
            failed.push(format!(
                "{id}: {outcome:?}, a backend saw {:?}",
                world.take()
            ));
        }
    }
    report("HTTP/2 content", 3, &failed);
    // Content that comes when the request looks complete already.
    for (length, first) in [(b"0", b"".as_slice()), (b"3", b"abc")] {
        world.take();
        let mut frames = Frames::open(world.gateway.http);
        let length: (&[u8], &[u8]) = (b"content-length", length);
        frames
            .headers(1, &[post, S, A, P, length], false)
            .data(1, first, false);
        assert!(incomplete(&world), "{length:?}: {:?}", world.take());
        frames.data(1, b"x", true);
        assert!(refused(frames.outcome(1)) && incomplete(&world));
    }
}

#[test]
fn framing_errors_of_http2_end_the_connection() {
    let world = World::start(&[], &[]);
    let head = block(&[M, S, A, P]);
    let open = frames::END_HEADERS;
    let cases: [(&str, Vec<u8>); 8] = [
        ("even stream", frame(kind::HEADERS, open | 1, 2, &head)),
        ("stream 0", frame(kind::HEADERS, open | 1, 0, &head)),
        ("data on an idle stream", frame(kind::DATA, 1, 1, b"abc")),
        ("bad block", frame(kind::HEADERS, open | 1, 1, &[0xff; 8])),
        (
            "continuation of nothing",
            frame(kind::CONTINUATION, open, 1, &head),
        ),
        (
            "settings of five bytes",
            frame(kind::SETTINGS, 0, 0, b"12345"),
        ),
        ("ping of seven bytes", frame(kind::PING, 0, 0, b"1234567")),
        (
            "a frame above the limit",
            frame(kind::DATA, 0, 1, &vec![0; 20_000]),
        ),
    ];
    let mut failed = Vec::new();
    for (id, bytes) in &cases {
        let outcome = Frames::open(world.gateway.http).send(bytes).outcome(1);
        if !matches!(
            outcome,
            Outcome::Goaway(1..) | Outcome::Closed | Outcome::Reset(_)
        ) {
            failed.push(format!("{id}: {outcome:?}"));
        }
    }
    report("HTTP/2 framing", cases.len(), &failed);
}

#[test]
fn unknown_frames_and_settings_are_ignored() {
    let world = World::start(&[], &[]);
    let mut frames = Frames::open(world.gateway.http);
    frames.send(frame(0x42, 0xff, 0, b"whatever")).send(frame(
        kind::SETTINGS,
        0,
        0,
        &[0x7f, 0x42, 0, 0, 0, 1],
    ));
    assert_eq!(
        frames.headers(1, &[M, S, A, P], true).outcome(1),
        Outcome::Status(200),
        "R76"
    );
}

/// Sends one good request and gives what the backend saw.
fn arrives(world: &World, fields: &[(&[u8], &[u8])], content: Option<&[u8]>) -> Request {
    world.take();
    let mut frames = Frames::open(world.gateway.http);
    frames.headers(1, fields, content.is_none());
    if let Some(content) = content {
        frames.data(1, content, true);
    }
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    let request = wait::until("the backend read it all", || {
        world
            .seen()
            .into_iter()
            .find(|(_, request)| request.complete)
    });
    request.1
}

#[test]
fn the_host_of_http2_is_its_authority() {
    let world = World::start(&[], &[]);
    let host: (&[u8], &[u8]) = (b"host", b"other.test");
    // A Host that differs: refused, or replaced, but never what the backend of :authority sees.
    world.take();
    let outcome = Frames::open(world.gateway.http)
        .headers(1, &[M, S, A, P, host], true)
        .outcome(1);
    match outcome {
        Outcome::Status(200) => {
            let (at, request) = world.take().pop().expect("a request");
            assert_eq!(
                (at, request.all("host")),
                ("main", vec!["wire.test"]),
                "R70"
            );
        }
        other => assert!(refused(other), "R70: {other:?}"),
    }
    let request = arrives(&world, &[M, S, A, P], None);
    assert_eq!(
        request.all("host"),
        ["wire.test"],
        "gap 3: never the address of the endpoint"
    );
    let request = arrives(&world, &[M, S, P, (b"host", b"wire.test")], None);
    assert_eq!(
        request.all("host"),
        ["wire.test"],
        "Host without :authority"
    );
}

#[test]
fn http2_requests_arrive_as_proper_http1() {
    let world = World::start(&[], &[]);
    let request = arrives(&world, &[M, S, A, P], Some(b"abc"));
    assert_eq!(
        request.body(),
        b"abc",
        "gap 4: content of a GET without a length"
    );
    let request = arrives(
        &world,
        &[M, S, A, P, (b"cookie", b"a=1"), (b"cookie", b"b=2")],
        None,
    );
    assert_eq!(request.all("cookie"), ["a=1; b=2"], "R68");
    let request = arrives(
        &world,
        &[M, S, A, P, (b"te", b"trailers"), (b"x_under", b"1")],
        None,
    );
    assert!(
        request.all("te").is_empty() || request.header("connection").is_some(),
        "R41"
    );
    assert!(
        request.all("x_under").is_empty(),
        "names with an underscore are dropped"
    );
    let named = [M, S, A, (b":path".as_slice(), b"/a%7Eb?x=%2f".as_slice())];
    assert_eq!(
        arrives(&world, &named, None).line,
        "GET /a%7Eb?x=%2f HTTP/1.1",
        "R61"
    );
    let length: (&[u8], &[u8]) = (b"content-length", b"3");
    let request = arrives(
        &world,
        &[(b":method", b"POST"), S, A, P, length],
        Some(b"abc"),
    );
    assert_eq!(
        (request.all("content-length"), request.body()),
        (vec!["3"], b"abc".to_vec())
    );
    assert!(request.header("transfer-encoding").is_none());
}

#[test]
fn pseudo_fields_in_trailers_do_no_harm() {
    let world = World::start(&[], &[]);
    let mut frames = Frames::open(world.gateway.http);
    frames
        .headers(1, &[(b":method", b"POST"), S, A, P], false)
        .data(1, b"abc", false);
    frames.headers(1, &[(b":path", b"/evil")], true);
    let outcome = frames.outcome(1);
    assert!(
        refused(outcome) || outcome == Outcome::Status(200),
        "gap 7: {outcome:?}"
    );
    let evil = |request: &Request| String::from_utf8_lossy(&request.content).contains("evil");
    assert!(!world.seen().iter().any(|(_, request)| evil(request)));
}

#[test]
fn more_fields_than_the_limit_are_refused_on_http2() {
    let world = World::start(&[], &[]);
    let names: Vec<String> = (0..200).map(|number| format!("x-{number}")).collect();
    let mut fields = vec![M, S, A, P];
    fields.extend(names.iter().map(|name| (name.as_bytes(), b"1".as_slice())));
    let outcome = Frames::open(world.gateway.http)
        .headers(1, &fields, true)
        .outcome(1);
    assert!(refused(outcome), "gap 9: {outcome:?}");
    assert!(incomplete(&world));
}

#[test]
fn streams_above_the_limit_are_refused() {
    // The backend holds every request, so that the streams stay open.
    let world = World::scripted(&[], |_| vec![Step::Drain]);
    let mut frames = Frames::open(world.gateway.http);
    for number in 0..101_u32 {
        frames.headers(2 * number + 1, &[M, S, A, P], true);
    }
    let outcome = frames.outcome(201);
    assert!(
        matches!(outcome, Outcome::Reset(7) | Outcome::Goaway(_)),
        "R77: {outcome:?}"
    );
}

#[test]
fn connection_fields_of_a_backend_do_not_reach_http2() {
    let world = World::scripted(&[], |request| {
        match request.target() {
        "/101" => vec![Step::Send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n".to_vec(),
        )],
        "/named" => vec![Step::Send(
            b"HTTP/1.1 200 OK\r\nConnection: x-i\r\nX-I: 1\r\nConnection: x-j\r\nX-J: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )],
        "/cut" => vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec()),
            Step::Close,
        ],
        _ => ok("ok"),
    }
    });
    let mut session = Session::open(world.gateway.http, None);
    let answer = session.get("wire.test", "/named").expect("an answer");
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"ok".as_slice())
    );
    for name in ["connection", "x-i", "x-j", "keep-alive"] {
        assert_eq!(answer.header(name), None, "R75: {name}");
    }
    let answer = session.get("wire.test", "/101").expect("an answer");
    assert_eq!(answer.status, 502, "R74");
    let cut = session.get("wire.test", "/cut");
    assert!(cut.is_err(), "half a body must not look whole: {cut:?}");
    assert_eq!(
        session
            .get("wire.test", "/")
            .expect("the connection goes on")
            .status,
        200
    );
}
