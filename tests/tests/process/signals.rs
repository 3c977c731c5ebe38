//! Signals: which of them end the process, how, and which do not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Step, ok};
use gatehouse_tests::gateway::{Echo, Gateway};
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Client, Failure};
use gatehouse_tests::{wait, websocket};

use super::served_by;

fn backend() -> Backend {
    Backend::scripted(|request| match request.target() {
        "/ws" => vec![
            Step::Send(websocket::accepted().into_bytes()),
            Step::EchoFrames,
        ],
        _ => ok("ok"),
    })
}

fn tunnel(gateway: &Gateway) -> Client {
    let mut tunnel = Client::plain(gateway.http);
    tunnel.send(websocket::request("app.test", "/ws"));
    assert_eq!(tunnel.answer().map(|answer| answer.status), Ok(101));
    tunnel
}

fn says(tunnel: &mut Client, text: &str) {
    tunnel.send(websocket::masked(text));
    assert_eq!(tunnel.frame().as_deref(), Ok(text));
}

fn closed(gateway: &Gateway) {
    wait::until("the listener is closed", || {
        raw::connect(gateway.http).is_err().then_some(())
    });
}

#[test]
fn signals_without_a_meaning_say_so_and_end_nothing() {
    let backend = backend();
    let scratch = served_by(&backend);
    let mut gateway = Gateway::start(scratch.path(), &[]);
    let mut tunnel = tunnel(&gateway);
    for (signal, why) in [
        ("HUP", "nothing to reload"),
        ("USR1", "nothing to reopen"),
        ("USR2", "not used"),
    ] {
        gateway.process.signal(signal);
        let line = gateway.process.line(why);
        assert!(line.contains(&format!("SIG{signal}")), "{line}");
        says(&mut tunnel, signal);
        assert_eq!(gateway.admin_get("/readyz").0, 200, "after SIG{signal}");
    }
}

#[test]
fn quit_drains_as_terminate_does() {
    let backend = backend();
    let scratch = served_by(&backend);
    let mut gateway = Gateway::start(scratch.path(), &["--drain-timeout=20s"]);
    let mut tunnel = tunnel(&gateway);
    gateway.process.signal("QUIT");
    closed(&gateway);
    // Nor does any of these cut the drain short.
    for signal in ["HUP", "USR1", "USR2"] {
        gateway.process.signal(signal);
    }
    says(&mut tunnel, "still here");
    drop(tunnel);
    let status = gateway.process.wait_end(Duration::from_secs(10));
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}: {:#?}",
        gateway.process.stderr.all()
    );
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("QUIT", 131)] {
        let backend = backend();
        let scratch = served_by(&backend);
        let mut gateway = Gateway::start(scratch.path(), &["--drain-timeout=300s"]);
        let mut tunnel = tunnel(&gateway);
        gateway.process.signal("TERM");
        closed(&gateway);
        says(&mut tunnel, "still here");
        gateway.process.signal(signal);
        let status = gateway.process.wait_end(Duration::from_secs(10));
        let ended = status.and_then(|status| status.code());
        assert_eq!(ended, Some(code), "SIG{signal}");
        assert_eq!(tunnel.frame(), Err(Failure::Closed));
    }
}

#[test]
fn a_grpc_stream_that_is_open_at_the_drain_gets_the_rest_and_its_trailers() {
    let echo = Echo::start("echo");
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service_with("app", "kubernetes.io/h2c", &[echo.address])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    let mut gateway = Gateway::start(scratch.path(), &["--drain-timeout=20s"]);
    let mut session = Session::open(gateway.http, None);
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut stream = session.begin("app.test", "/echo.Echo/Chat", &fields);
    stream.say(b"\0\0\0\0\x05hello").expect("the first message");
    gateway.process.signal("TERM");
    closed(&gateway);
    let answer = stream.finish(b"\0\0\0\0\x03bye").expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, b"\0\0\0\0\x05hello\0\0\0\0\x03bye");
    let status = answer.trailers.get("grpc-status");
    assert_eq!(
        status.map(http::HeaderValue::as_bytes),
        Some(b"0".as_slice())
    );
    let status = gateway.process.wait_end(Duration::from_secs(10));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn a_drain_under_load_answers_every_request_that_was_taken() {
    let backend = backend();
    let scratch = served_by(&backend);
    let flags = ["--drain-delay=200ms", "--drain-timeout=20s"];
    let mut gateway = Gateway::start(scratch.path(), &flags);
    let mut tunnel = tunnel(&gateway);
    let (served, draining) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = gateway.http;
    let outcomes: Vec<Failure> = std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| requests(address, &served, &draining)))
            .collect();
        wait::until("there is a load", || {
            (served.load(Ordering::Relaxed) > 200).then_some(())
        });
        draining.store(true, Ordering::Relaxed);
        gateway.process.signal("TERM");
        load.into_iter()
            .filter_map(|client| client.join().expect("a client"))
            .collect()
    });
    let served = served.into_inner();
    assert_eq!(outcomes, [], "after {served} answers");
    says(&mut tunnel, "bye");
    drop(tunnel);
    let status = gateway.process.wait_end(Duration::from_secs(10));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    // The log has a line for every request that was taken; whoever was refused at the end is not in it.
    let log = wait::until("the log is complete", || {
        let stdout = &gateway.process.stdout;
        stdout.complete().then(|| stdout.all())
    });
    let taken = |line: &&String| line.contains("\"method\":\"GET\"") && !line.contains(":101");
    let (answered, lost): (Vec<&String>, Vec<&String>) = log
        .iter()
        .filter(taken)
        .partition(|line| line.contains("\"status\":200"));
    assert_eq!((answered.len(), lost), (served, vec![]));
}

/// One connection for each request, until the gateway takes no more of them; what went wrong, if
/// anything did.
fn requests(
    address: std::net::SocketAddr,
    served: &AtomicUsize,
    draining: &AtomicBool,
) -> Option<Failure> {
    loop {
        let Ok(socket) = raw::connect(address) else {
            // Closed for good: that is for balancers to know.
            return (!draining.load(Ordering::Relaxed)).then_some(Failure::Closed);
        };
        let mut client = Client::over(Box::new(socket));
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        match client.answer() {
            Ok(answer) if answer.status == 200 => served.fetch_add(1, Ordering::Relaxed),
            Ok(answer) => return Some(Failure::Malformed(answer.line)),
            // The system completes handshakes for a listener until the moment it is closed.
            Err(Failure::Closed) if raw::connect(address).is_err() => return None,
            Err(failure) => return Some(failure),
        };
    }
}
