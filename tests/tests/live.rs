//! Manifests are edited, added, broken and repaired while requests, TLS handshakes and websockets
//! run: not one of them may fail, and every change must really have been applied.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Step, ok};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, find};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::{wait, websocket};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;

/// How long the changes go on.
const TIME: Duration = Duration::from_secs(10);
/// Requests per second below which the load would prove nothing. A debug binary on a busy machine
/// is slow; a release build (`GATEHOUSE_BIN`, `--release`) has to carry the full load.
const RATE: f64 = if cfg!(debug_assertions) {
    500.0
} else {
    2_000.0
};
const KEPT: u64 = 36;
const WEBSOCKETS: usize = 100;

/// What the load did.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicU64,
    handshakes: AtomicU64,
    frames: AtomicU64,
    tunnels: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, what: &str, error: impl std::fmt::Display) {
        let mut failures = self.failures.lock().expect("failures");
        if failures.len() < 50 {
            failures.push(format!("{what}: {error}"));
        }
    }
}

fn request(host: &str) -> Vec<u8> {
    format!("GET /load HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// One exchange; the answer must be a 200 with a length.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
) -> Result<(), String> {
    let run = async {
        stream
            .write_all(request)
            .await
            .map_err(|error| error.to_string())?;
        let mut buffer = Vec::with_capacity(1024);
        loop {
            if stream
                .read_buf(&mut buffer)
                .await
                .map_err(|error| error.to_string())?
                == 0
            {
                return Err(format!("closed after {}", raw::escaped(&buffer)));
            }
            let Some(head) = find(&buffer, b"\r\n\r\n") else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200 ") {
                return Err(format!("answer {}", raw::escaped(&buffer)));
            }
            let length = text
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let length: usize = length.ok_or_else(|| format!("no length in {text}"))?;
            if buffer.len() >= head + 4 + length {
                return Ok(());
            }
        }
    };
    timeout(Duration::from_secs(10), run)
        .await
        .unwrap_or_else(|_| Err("no answer in 10 s".into()))
}

/// Requests at a fixed pace over one connection.
async fn keep_alive(address: SocketAddr, host: &'static str, tally: Arc<Tally>) {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return tally.fail("connect", error),
    };
    stream.set_nodelay(true).ok();
    let mut pace = interval(Duration::from_millis(12));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let request = request(host);
    while tally.going() {
        pace.tick().await;
        match exchange(&mut stream, &request).await {
            Ok(()) => tally.requests.fetch_add(1, Ordering::Relaxed),
            Err(error) => return tally.fail(&format!("keep-alive to {host}"), error),
        };
    }
}

/// A new connection for every request.
async fn fresh(address: SocketAddr, host: &'static str, tally: Arc<Tally>) {
    let mut pace = interval(Duration::from_millis(10));
    let request = request(host);
    while tally.going() {
        pace.tick().await;
        let result = match TcpStream::connect(address).await {
            Ok(mut stream) => exchange(&mut stream, &request).await,
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => tally.requests.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tally.fail(&format!("new connection to {host}"), error);
                0
            }
        };
    }
}

/// A TLS handshake and a few requests, again and again, while the certificate changes.
async fn secure(address: SocketAddr, tally: Arc<Tally>) {
    let handshake = Handshake::new("tls.test");
    let request = request("tls.test");
    let mut pace = interval(Duration::from_millis(50));
    while tally.going() {
        pace.tick().await;
        let run = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(handshake.config());
            let stream = connector.connect(handshake.server_name(), stream).await;
            let mut stream = stream.map_err(|error| error.to_string())?;
            for _ in 0..3 {
                exchange(&mut stream, &request).await?;
                tally.requests.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        };
        match run.await {
            Ok(()) => tally.handshakes.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tally.fail("TLS", error);
                0
            }
        };
    }
}

/// One websocket that must live to the end.
async fn tunnel(address: SocketAddr, number: usize, tally: Arc<Tally>) {
    let run = async {
        let mut stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        let head = websocket::request("stable.test", "/ws");
        stream
            .write_all(head.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut buffer = Vec::new();
        while find(&buffer, b"\r\n\r\n").is_none() {
            let read = timeout(Duration::from_secs(10), stream.read_buf(&mut buffer)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return Err(format!("no handshake: {read:?} {}", raw::escaped(&buffer)));
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 101") {
            return Err(format!("handshake: {}", raw::escaped(&buffer)));
        }
        tally.tunnels.fetch_add(1, Ordering::Relaxed);
        let mut pace = interval(Duration::from_millis(250));
        let mut count = 0_u32;
        buffer.clear();
        while tally.going() {
            pace.tick().await;
            count += 1;
            let text = format!("{number}-{count}");
            stream
                .write_all(&websocket::masked(&text))
                .await
                .map_err(|error| error.to_string())?;
            let echoed = loop {
                if let Some((echoed, used)) = websocket::unmasked(&buffer) {
                    buffer.drain(..used);
                    break echoed;
                }
                let read = timeout(Duration::from_secs(10), stream.read_buf(&mut buffer)).await;
                if !matches!(read, Ok(Ok(1..))) {
                    return Err(format!("frame {count}: {read:?}"));
                }
            };
            if echoed != text {
                return Err(format!("frame {count}: {echoed:?}"));
            }
            tally.frames.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    if let Err(error) = run.await {
        tally.fail(&format!("websocket {number}"), error);
    }
}

/// The manifests, and how they are changed.
struct Changes<'a> {
    scratch: &'a Scratch,
    gateway: &'a Gateway,
    a: SocketAddr,
    b: SocketAddr,
    applied: u64,
}

impl Changes<'_> {
    fn write_first(scratch: &Scratch, a: SocketAddr, b: SocketAddr) {
        let pair = Pair::new(&["round0.test", "tls.test"]);
        scratch.write("class.yaml", manifests::class());
        scratch.write(
            "services.yaml",
            manifests::service("a", &[a]) + &manifests::service("b", &[b]),
        );
        scratch.write(
            "stable.yaml",
            manifests::ingress("stable", "stable.test", &[("/", "Prefix", "a")]),
        );
        scratch.write(
            "edited.yaml",
            manifests::ingress("edited", "edited.test", &[("/", "Prefix", "a")]),
        );
        let tls = manifests::tls("tls.test", "tls");
        scratch.write(
            "tls.yaml",
            manifests::ingress_with("tls", "tls.test", &tls, &[("/", "Prefix", "a")]),
        );
        scratch.write(
            "secret.yaml",
            manifests::secret("tls", &pair.certificate, &pair.key),
        );
    }

    fn served(&mut self, host: &str, text: &str) {
        wait::until(&format!("{host} is answered by {text}"), || {
            let answer = raw::get(self.gateway.http, host, "/").ok()?;
            (answer.status == 200 && answer.text() == text).then_some(())
        });
        self.applied += 1;
    }

    fn gone(&mut self, host: &str) {
        self.gateway.wait_status(host, "/", 404);
        self.applied += 1;
    }

    fn round(&mut self, round: u64) {
        let rule = |service| [("/", "Prefix", service)];
        // Edited in place, then by rename.
        self.scratch.write(
            "edited.yaml",
            manifests::ingress("edited", "edited.test", &rule("b")),
        );
        self.served("edited.test", "b");
        self.scratch.replace(
            "edited.yaml",
            manifests::ingress("edited", "edited.test", &rule("a")),
        );
        self.served("edited.test", "a");
        // Added; written in two halves.
        let host = format!("added{round}.test");
        let text = manifests::ingress("added", &host, &rule("b"));
        let half = text.len() / 2;
        self.scratch.write("added.yaml", &text[..half]);
        let seen = self.gateway.generation();
        self.scratch.write("added.yaml", &text);
        self.served(&host, "b");
        assert!(self.gateway.generation() >= seen);
        // Broken: the last good version serves on. Repaired again.
        self.scratch.write(
            "stable.yaml",
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: [",
        );
        self.gateway.wait_diagnostic(&["stable.yaml"]);
        self.served("stable.test", "a");
        self.scratch.replace(
            "stable.yaml",
            manifests::ingress("stable", "stable.test", &rule("a")),
        );
        let clean = || (!self.gateway.diagnostics().contains("stable.yaml")).then_some(());
        wait::until("the diagnostic is gone", clean);
        self.served("stable.test", "a");
        // Endpoints come and go.
        let both = manifests::service("a", &[self.a]) + &manifests::service("b", &[self.a, self.b]);
        self.scratch.replace("services.yaml", both);
        self.scratch.replace(
            "services.yaml",
            manifests::service("a", &[self.a]) + &manifests::service("b", &[self.b]),
        );
        // Removed.
        self.scratch.remove("added.yaml");
        self.gone(&host);
        self.mounted(round);
        self.rotate(round);
    }

    /// The swap of `..data` with which the kubelet updates a mounted ConfigMap.
    fn mounted(&mut self, round: u64) {
        let mount = self.scratch.file("mounted");
        std::fs::create_dir_all(&mount).expect("a folder");
        let version = format!("..v{round}");
        let folder = mount.join(&version);
        std::fs::create_dir(&folder).expect("a folder");
        let host = format!("mounted{round}.test");
        let text = manifests::ingress("mounted", &host, &[("/", "Prefix", "b")]);
        std::fs::write(folder.join("mounted.yaml"), text).expect("a manifest");
        let fresh = mount.join("..data_tmp");
        symlink(&version, &fresh).expect("a link");
        std::fs::rename(&fresh, mount.join("..data")).expect("a swap");
        let link = mount.join("mounted.yaml");
        if !link.is_symlink() {
            symlink("..data/mounted.yaml", link).expect("a link");
        }
        self.served(&host, "b");
        if round > 1 {
            self.gone(&format!("mounted{}.test", round - 1));
            std::fs::remove_dir_all(mount.join(format!("..v{}", round - 1)))
                .expect("the old version");
        }
    }

    fn rotate(&mut self, round: u64) {
        let name = format!("round{round}.test");
        let pair = Pair::new(&[&name, "tls.test"]);
        self.scratch.replace(
            "secret.yaml",
            manifests::secret("tls", &pair.certificate, &pair.key),
        );
        wait::until("the new certificate is served", || {
            let served = Handshake::new("tls.test")
                .connect(self.gateway.https)
                .expect("TLS handshake");
            (served.common_name() == name).then_some(())
        });
        self.applied += 1;
    }
}

#[test]
fn changes_under_load_lose_nothing() {
    let named = |name: &'static str| {
        Backend::scripted(move |request| match request.target() {
            "/ws" => vec![
                Step::Send(websocket::accepted().into_bytes()),
                Step::EchoFrames,
            ],
            _ => ok(name),
        })
    };
    let (a, b) = (named("a"), named("b"));
    let scratch = Scratch::new();
    Changes::write_first(&scratch, a.address, b.address);
    let gateway = Gateway::start(scratch.path(), &["--access-log=off"]);
    let first = gateway.generation();
    let tally = Arc::new(Tally::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    for number in 0..WEBSOCKETS {
        runtime.spawn(tunnel(gateway.http, number, Arc::clone(&tally)));
    }
    wait::until("all websockets are open", || {
        let open = tally.tunnels.load(Ordering::Relaxed) == WEBSOCKETS as u64;
        (open || !tally.failures.lock().expect("failures").is_empty()).then_some(())
    });
    let start = Instant::now();
    for number in 0..KEPT {
        let host = if number % 3 == 0 {
            "edited.test"
        } else {
            "stable.test"
        };
        runtime.spawn(keep_alive(gateway.http, host, Arc::clone(&tally)));
    }
    for host in ["edited.test", "stable.test"] {
        runtime.spawn(fresh(gateway.http, host, Arc::clone(&tally)));
    }
    runtime.spawn(secure(gateway.https, Arc::clone(&tally)));

    let mut changes = Changes {
        scratch: &scratch,
        gateway: &gateway,
        a: a.address,
        b: b.address,
        applied: 0,
    };
    let mut rounds = 0;
    while start.elapsed() < TIME {
        rounds += 1;
        changes.round(rounds);
    }
    let seconds = start.elapsed().as_secs_f64();
    let requests = tally.requests.load(Ordering::Relaxed);
    tally.stop.store(true, Ordering::Relaxed);
    runtime.shutdown_timeout(Duration::from_secs(5));

    let failures = tally.failures.lock().expect("failures");
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let rate = requests as f64 / seconds;
    println!(
        "{requests} requests ({rate:.0}/s), {} handshakes, {} frames on {WEBSOCKETS} websockets, {} changes in {rounds} rounds, {} failures",
        tally.handshakes.load(Ordering::Relaxed),
        tally.frames.load(Ordering::Relaxed),
        changes.applied,
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(rate >= RATE, "only {rate:.0} requests per second");
    assert!(rounds >= 2, "only {rounds} rounds of changes");
    assert!(
        gateway.generation() >= first + 5 * rounds,
        "changes were published"
    );
    let frames = tally.frames.load(Ordering::Relaxed);
    assert!(frames >= WEBSOCKETS as u64 * 20, "only {frames} frames");
}
