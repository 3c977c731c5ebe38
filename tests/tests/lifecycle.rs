//! Start and end: ready means serving, and nothing that was accepted is lost on the way out.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Step, ok, response};
use gatehouse_tests::frames::{Frames, kind};
use gatehouse_tests::gateway::{self, Gateway, Process};
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client, Failure};
use gatehouse_tests::{wait, websocket};
use tokio::time::Instant;

const SLOW: Duration = Duration::from_millis(1_500);

fn backend() -> Backend {
    Backend::scripted(|request| match request.target() {
        "/slow" => vec![
            Step::ReadBody,
            Step::Pause(SLOW),
            Step::Send(response("200 OK", "slow")),
        ],
        "/ws" => vec![
            Step::Send(websocket::accepted().into_bytes()),
            Step::EchoFrames,
        ],
        _ => ok("ok"),
    })
}

fn start(backend: &Backend, flags: &[&str]) -> (Gateway, Scratch) {
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), flags);
    (gateway, scratch)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n")
}

#[test]
fn a_stderr_that_nobody_reads_any_more_ends_nothing() {
    let backend = backend();
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let any = ["127.0.0.1:0"; 3];
    let level = ["--log-level".to_owned(), "trace".to_owned()];
    let mut child = Command::new(gateway::binary())
        .args(Gateway::arguments(scratch.path(), any, &level))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
    let ready = lines
        .find_map(|line| line.ok().filter(|line| line.starts_with("gatehouse ready")))
        .expect("a ready line");
    drop(lines);

    let address = ready
        .split([' ', ','])
        .skip_while(|word| *word != "http")
        .nth(1);
    let address = address.and_then(|word| word.parse().ok()).expect(&ready);
    for _ in 0..8 {
        let answer = raw::get(address, "app.test", "/").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status()
        .expect("sh starts");
    assert!(killed.success());
    let ended = wait::within(wait::PATIENCE, || child.try_wait().expect("its state"));
    if ended.is_none() {
        child.kill().ok();
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[test]
fn ready_means_that_every_route_is_served() {
    let backend = backend();
    let scratch = Scratch::new();
    let mut text = manifests::class() + &manifests::service("app", &[backend.address]);
    for number in 0..500 {
        text.push_str(&manifests::ingress(
            &format!("i{number}"),
            &format!("h{number}.test"),
            &[("/", "Prefix", "app")],
        ));
    }
    scratch.write("all.yaml", text);
    let gateway = Gateway::start(scratch.path(), &[]);
    // Many connections, so that every worker gets some; not one of them may come too early.
    for number in 0..40 {
        let host = format!("h{}.test", 12 * number);
        let answer = raw::get(gateway.http, &host, "/").expect("an answer");
        assert_eq!(answer.status, 200, "{host} right after the ready line");
    }
    assert_eq!(gateway.admin_get("/readyz").0, 200);
    assert_eq!(gateway.admin_get("/healthz").0, 200);
    assert!(gateway.generation() >= 1);
}

#[test]
fn an_empty_directory_is_ready_and_answers_404() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(scratch.path(), &[]);
    assert_eq!(
        raw::get(gateway.http, "any.test", "/")
            .expect("an answer")
            .status,
        404
    );
    assert_eq!(gateway.admin_get("/readyz").0, 200);
}

#[test]
fn a_drain_loses_nothing() {
    let backend = backend();
    let (mut gateway, _scratch) = start(&backend, &["--drain-delay=1s", "--drain-timeout=10s"]);
    let mut long = Client::plain(gateway.http);
    long.send(get("/slow"));
    let mut tunnel = Client::plain(gateway.http);
    tunnel.send(websocket::request("app.test", "/ws"));
    assert_eq!(tunnel.answer().map(|answer| answer.status), Ok(101));
    let mut idle = Client::plain(gateway.http);
    idle.send(get("/"));
    assert_eq!(idle.answer().map(|answer| answer.status), Ok(200));
    wait::until("the long request is under way", || {
        (backend.requests().len() >= 3).then_some(())
    });

    let asked = Instant::now();
    gateway.process.signal("TERM");
    wait::until("readiness is off", || {
        (gateway.admin_get("/readyz").0 == 503).then_some(())
    });
    assert!(
        asked.elapsed() < Duration::from_millis(900),
        "readiness goes off at once"
    );
    let answer = raw::get(gateway.http, "app.test", "/").expect("served during the delay");
    assert_eq!(
        answer.status, 200,
        "new connections during the delay are served"
    );
    idle.send(get("/"));
    assert_eq!(
        idle.answer().map(|answer| answer.status),
        Ok(200),
        "an idle connection is not cut at once"
    );
    assert_eq!(
        long.answer().map(|answer| answer.text()),
        Ok("slow".into()),
        "a request under way finishes"
    );
    tunnel.send(websocket::masked("still here"));
    assert_eq!(tunnel.frame(), Ok("still here".into()), "a tunnel lives on");
    let refused = || raw::connect(gateway.http).is_err().then_some(());
    wait::until("the listener is closed", refused);
    tunnel.send(websocket::masked("bye"));
    assert_eq!(
        tunnel.frame(),
        Ok("bye".into()),
        "a tunnel outlives the listener"
    );
    drop((tunnel, idle, long));
    let status = gateway
        .process
        .wait_end(Duration::from_secs(8))
        .expect("it ends when all is done");
    assert!(
        status.success(),
        "exit status {status}: {:#?}",
        gateway.process.stderr.all()
    );
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "it does not wait for the deadline in vain"
    );
}

#[test]
fn balancers_and_clients_are_told_of_a_drain_before_the_listener_closes() {
    let backend = backend();
    let flags = ["--drain-delay=2s", "--drain-timeout=10s"];
    let (mut gateway, _scratch) = start(&backend, &flags);
    let health = |address| raw::get(address, "balancer", "/healthz").map(|answer| answer.status);
    assert_eq!(health(gateway.http), Ok(200));
    let mut kept = Client::plain(gateway.http);
    let mut served = || {
        kept.send(get("/"));
        let answer = kept.answer().expect("an answer");
        assert_eq!(answer.status, 200);
        answer.header("connection").map(str::to_owned)
    };
    assert_eq!(served(), None);

    gateway.process.signal("TERM");
    wait::until("the health check fails", || {
        (health(gateway.http) == Ok(503)).then_some(())
    });
    assert_eq!(served(), None, "connections are not in a hurry yet");
    wait::until("clients are asked to come back elsewhere", || {
        (served().as_deref() == Some("close")).then_some(())
    });
    raw::connect(gateway.http).expect("the listener is still open");
    drop(kept);
    let ended = gateway.process.wait_end(Duration::from_secs(8));
    assert!(ended.expect("it ends").success());
}

#[test]
fn a_tunnel_that_never_ends_is_cut_at_the_deadline() {
    let backend = backend();
    let (mut gateway, _scratch) = start(&backend, &["--drain-delay=0s", "--drain-timeout=1s"]);
    let mut tunnel = Client::plain(gateway.http);
    tunnel.send(websocket::request("app.test", "/ws"));
    assert_eq!(tunnel.answer().map(|answer| answer.status), Ok(101));
    gateway.process.signal("TERM");
    let status = gateway
        .process
        .wait_end(Duration::from_secs(6))
        .expect("it ends at its deadline");
    assert!(status.success(), "exit status {status}");
    assert_eq!(tunnel.frame(), Err(Failure::Closed));
}

#[test]
fn a_keep_alive_connection_is_told_to_close() {
    let backend = backend();
    let (mut gateway, _scratch) = start(&backend, &["--drain-delay=0s", "--drain-timeout=10s"]);
    let mut slow = Client::plain(gateway.http);
    slow.send(get("/slow"));
    wait::until("the request is under way", || {
        (!backend.requests().is_empty()).then_some(())
    });
    gateway.process.signal("TERM");
    let answer = slow.answer().expect("an answer");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert!(slow.closes_within(Duration::from_secs(3)));
    let status = gateway
        .process
        .wait_end(Duration::from_secs(6))
        .expect("the end");
    assert!(status.success(), "exit status {status}");
}

#[test]
fn http2_clients_get_a_goaway_and_their_answers() {
    let backend = backend();
    let (mut gateway, _scratch) = start(&backend, &["--drain-delay=0s", "--drain-timeout=10s"]);
    let mut frames = Frames::open(gateway.http);
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"app.test"),
        (b":path", b"/slow"),
    ];
    frames.headers(1, &fields, true);
    wait::until("the request is under way", || {
        (!backend.requests().is_empty()).then_some(())
    });
    gateway.process.signal("TERM");
    let (mut goaway, mut answered) = (false, false);
    while !(goaway && answered) {
        let (kind, _, stream, _) = frames.read().expect("a GOAWAY and an answer");
        goaway |= kind == kind::GOAWAY;
        answered |= kind == kind::HEADERS && stream == 1;
    }
    let status = gateway
        .process
        .wait_end(Duration::from_secs(6))
        .expect("the end");
    assert!(status.success(), "exit status {status}");
}

#[test]
fn the_sockets_are_free_after_the_end() {
    let backend = backend();
    let (mut gateway, scratch) = start(&backend, &[]);
    let mut session = Session::open(gateway.http, None);
    assert_eq!(session.get("app.test", "/").expect("an answer").status, 200);
    gateway.process.signal("TERM");
    gateway
        .process
        .wait_end(Duration::from_secs(8))
        .expect("the end");
    let http = gateway.http.to_string();
    let again = Gateway::start_at(scratch.path(), [&http, "127.0.0.1:0", "127.0.0.1:0"], &[]);
    assert_eq!(
        raw::get(again.http, "app.test", "/")
            .expect("an answer")
            .status,
        200
    );
}

#[test]
fn load_balancers_get_their_health_check_and_users_keep_their_paths() {
    let backend = backend();
    let (gateway, scratch) = start(&backend, &[]);
    let status = |host: &str, path: &str| {
        let answer = raw::get(gateway.http, host, path).expect("an answer");
        answer.status
    };
    assert_eq!(status("192.0.2.1", "/healthz"), 200);
    assert_eq!(status("192.0.2.1", "/healthz/x"), 404);
    assert!(backend.requests().is_empty());
    assert_eq!(status("app.test", "/healthz"), 200);
    assert_eq!(backend.take().len(), 1, "a host that is served keeps it");
    scratch.write(
        "catch-all.yaml",
        manifests::ingress("rest", "", &[("/", "Prefix", "app")]),
    );
    gateway.wait_status("192.0.2.1", "/", 200);
    backend.take();
    assert_eq!(status("192.0.2.1", "/healthz"), 200);
    assert_eq!(backend.take().len(), 1, "and so does a catch-all");
}

#[test]
fn an_address_that_is_taken_is_named_with_the_remedy() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for position in 0..3 {
        let mut listen = ["127.0.0.1:0"; 3];
        listen[position] = &address;
        let flag = ["--http-listen", "--https-listen", "--admin-listen"][position];
        let mut process = Process::start(Gateway::arguments(scratch.path(), listen, &[]));
        let status = process
            .wait_end(Duration::from_secs(20))
            .expect("it gives up");
        assert!(!status.success(), "{flag}");
        let text = process.stderr.all().join("\n");
        assert!(
            text.contains(&address) && text.contains(flag),
            "{flag} {address} are named: {text}"
        );
        assert!(
            !text.contains("panicked") && !text.contains("gatehouse ready"),
            "{text}"
        );
    }
}
