//! Contents: none, large, slow, and in both directions at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Request, Step, ok, response};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;

const LARGE: usize = 24 << 20;
/// What may lie in the buffers of two sockets and a proxy between them.
const BUFFERED: usize = 16 << 20;

fn before(backend: SocketAddr) -> (Gateway, Scratch) {
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", &[backend])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), &[]);
    (gateway, scratch)
}

fn script(request: &Request) -> Vec<Step> {
    match request.target() {
        "/large" => vec![Step::Send(response("200 OK", &"x".repeat(LARGE)))],
        "/204" => vec![Step::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        "/304" => vec![Step::Send(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec())],
        "/trailers" => vec![Step::Send(
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n".to_vec(),
        )],
        "/bad-trailers" => vec![Step::Send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
              Content-Length: 9\r\nSet-Cookie: a=1\r\nLocation: /\r\nWWW-Authenticate: Basic\r\n\
              X-Accel-Redirect: /\r\nKeep-Alive: 1\r\nConnection: x-sum\r\nX-Sum: 7\r\n\r\n"
                .to_vec(),
        )],
        "/count" => vec![Step::ReadBody, Step::Send(response("200 OK", "counted"))],
        _ if request.method() == "HEAD" => vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n".to_vec())],
        _ => ok("ok"),
    }
}

#[test]
fn answers_without_content_have_none() {
    let backend = Backend::scripted(script);
    let (gateway, _scratch) = before(backend.address);
    let mut client = Client::plain(gateway.http);
    for (method, target, status) in [
        ("HEAD", "/", 200),
        ("GET", "/204", 204),
        ("GET", "/304", 304),
        ("GET", "/", 200),
    ] {
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"
        ));
        let answer = client.answer_to(method).expect("an answer");
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(
            client.buffer.is_empty(),
            "{method} {target}: bytes after the answer"
        );
        if method == "HEAD" {
            assert_eq!(answer.header("content-length"), Some("42"));
        }
    }
    let mut session = Session::open(gateway.http, None);
    for (method, target, status) in [
        ("HEAD", "/", 200),
        ("GET", "/204", 204),
        ("GET", "/304", 304),
    ] {
        let answer = session
            .send(method, "app.test", target, &[], b"")
            .expect("an answer");
        assert_eq!(
            (answer.status, answer.body.len()),
            (status, 0),
            "{method} {target}"
        );
    }
}

#[test]
fn large_contents_pass_both_ways() {
    let backend = Backend::scripted(script);
    let (gateway, _scratch) = before(backend.address);
    let mut client = Client::plain(gateway.http);
    client.patience = Duration::from_secs(60);
    client.send("GET /large HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.answer().map(|answer| answer.body.len()), Ok(LARGE));
    client.send(format!(
        "POST /count HTTP/1.1\r\nHost: app.test\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    client.send(vec![b'y'; LARGE]);
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    client.send("POST /count HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..LARGE >> 20 {
        client.send(format!("{:x}\r\n", 1 << 20));
        client.send(vec![b'z'; 1 << 20]);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().map(|answer| answer.status), Ok(200));
    let mut session = Session::open(gateway.http, None);
    assert_eq!(
        session
            .get("app.test", "/large")
            .expect("an answer")
            .body
            .len(),
        LARGE
    );
    let answer = session
        .send("POST", "app.test", "/count", &[], &vec![b'w'; LARGE])
        .expect("an answer");
    assert_eq!(answer.status, 200);
    let sizes: Vec<usize> = backend
        .requests()
        .iter()
        .filter(|r| r.target() == "/count")
        .map(|r| r.body().len())
        .collect();
    assert_eq!(sizes, [LARGE; 3], "every byte arrived");
}

#[test]
fn trailers_of_a_backend_reach_those_who_ask() {
    let backend = Backend::scripted(script);
    let (gateway, _scratch) = before(backend.address);
    let mut session = Session::open(gateway.http, None);
    let answer = session
        .send("GET", "app.test", "/trailers", &[("te", "trailers")], b"")
        .expect("an answer");
    assert_eq!(answer.body, b"ok");
    assert_eq!(
        answer
            .trailers
            .get("x-sum")
            .map(http::HeaderValue::as_bytes),
        Some(b"7".as_slice())
    );
}

#[test]
fn trailers_of_a_backend_say_nothing_about_framing_routing_or_authentication() {
    let backend = Backend::scripted(script);
    let (gateway, _scratch) = before(backend.address);
    let mut session = Session::open(gateway.http, None);
    let answer = session
        .send(
            "GET",
            "app.test",
            "/bad-trailers",
            &[("te", "trailers")],
            b"",
        )
        .expect("an answer");
    assert_eq!(answer.body, b"ok");
    let names: Vec<&str> = answer
        .trailers
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    assert_eq!(names, ["x-sum"]);
}

#[test]
fn a_backend_that_does_not_read_slows_the_client_down() {
    let backend = Backend::scripted(|_| vec![Step::Pause(Duration::from_secs(20))]);
    let (gateway, _scratch) = before(backend.address);
    let mut socket = raw::connect(gateway.http).expect("connect");
    socket
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout");
    socket
        .write_all(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000000\r\n\r\n")
        .expect("a head");
    assert!(
        fill(&mut socket) < BUFFERED,
        "the gateway takes what nobody reads"
    );
}

#[test]
fn a_client_that_does_not_read_slows_the_backend_down() {
    let sent = Arc::new(AtomicUsize::new(usize::MAX));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let count = Arc::clone(&sent);
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        assert!(socket.read(&mut head).expect("a request") > 0);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .expect("a head");
        socket
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        count.store(fill(&mut socket), Ordering::SeqCst);
    });
    let (gateway, _scratch) = before(address);
    let mut client = raw::connect(gateway.http).expect("connect");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
        .expect("a request");
    let stalled = || Some(sent.load(Ordering::SeqCst)).filter(|bytes| *bytes != usize::MAX);
    let bytes = wait::until("the backend cannot send any more", stalled);
    assert!(
        bytes < BUFFERED,
        "{bytes} bytes were taken for a client that does not read"
    );
}

/// Writes until nothing more is taken for a second; gives the number of bytes.
fn fill(socket: &mut TcpStream) -> usize {
    let chunk = vec![b'x'; 64 << 10];
    let mut sent = 0;
    loop {
        match socket.write(&chunk) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return sent,
        }
        if sent > 4 * BUFFERED {
            return sent;
        }
    }
}

#[test]
fn content_arrives_as_it_is_sent_and_not_at_its_end() {
    let backend = Backend::scripted(|_| {
        vec![
            Step::Send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec(),
            ),
            Step::Drain,
        ]
    });
    let (gateway, _scratch) = before(backend.address);
    let mut client = Client::plain(gateway.http);
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let arrived = wait::within(Duration::from_secs(5), || {
        client.closes_within(Duration::from_millis(20));
        raw::find(&client.buffer, b"first").map(|_| ())
    });
    assert!(
        arrived.is_some(),
        "the first chunk waits for the last: {}",
        raw::escaped(&client.buffer)
    );
}

#[test]
fn a_content_above_the_limit_is_refused() {
    let backend = Backend::scripted(script);
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), &["--set", "proxy-body-size=1k"]);
    let mut client = Client::plain(gateway.http);
    client.send(format!(
        "POST /count HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1024\r\n\r\n{}",
        "a".repeat(1024)
    ));
    assert_eq!(
        client.answer().map(|answer| answer.status),
        Ok(200),
        "exact to the byte"
    );
    client.send(format!(
        "POST /count HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1025\r\n\r\n{}",
        "a".repeat(1025)
    ));
    assert_eq!(client.answer().map(|answer| answer.status), Ok(413));
    let mut client = Client::plain(gateway.http);
    let chunk = format!("401\r\n{}\r\n0\r\n\r\n", "a".repeat(1025));
    client.send(format!(
        "POST /count HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
    ));
    assert_eq!(
        client.answer().map(|answer| answer.status),
        Ok(413),
        "chunks are counted"
    );
}

#[test]
fn an_answer_of_the_gateway_itself_to_head_has_fields_and_no_content() {
    let world = crate::World::start(&[]);
    let secure = Handshake::h2("app.test");
    let plain = Session::open(world.gateway.http, None);
    let secure = Session::open(world.gateway.https, Some(&secure));
    for mut session in [plain, secure] {
        for round in 0..2 {
            let answer = session.send("HEAD", "other.test", "/", &[], b"");
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.body.len()), (404, 0), "{round}");
            assert_eq!(answer.header("content-length"), Some("25"));
        }
        assert_eq!(session.get("app.test", "/").expect("an answer").status, 200);
    }
}
