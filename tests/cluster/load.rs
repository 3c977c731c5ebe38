//! Clients at a steady rate, and a ledger of what became of every request.
//!
//! A request counts as answered when its answer is complete, has status 200 and is that of this very
//! request. Nothing is sent twice: what a browser would try again counts as failed here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gatehouse_tests::http2::Session;
use gatehouse_tests::raw::{self, Client, Failure};
use gatehouse_tests::websocket;
use tokio::time::Instant;

use crate::site::HOST;

/// Ways to use a gateway.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// GET on a connection that is kept.
    Kept,
    /// GET on a connection of its own.
    Fresh,
    /// GET on an HTTP/2 connection that is kept until the server says GOAWAY.
    Http2,
    /// POST of 64 KiB that comes back, on a connection that is kept.
    Post,
    /// POST whose body takes six seconds.
    Upload,
    /// A websocket of ten seconds with a message every half second.
    Tunnel,
}

/// Clients of each habit, and how long each waits between two requests.
const CLIENTS: &[(Habit, usize, Duration)] = &[
    (Habit::Kept, 12, Duration::from_millis(50)),
    (Habit::Fresh, 4, Duration::from_millis(50)),
    (Habit::Http2, 4, Duration::from_millis(50)),
    (Habit::Post, 2, Duration::from_millis(100)),
    (Habit::Upload, 2, Duration::from_millis(500)),
    (Habit::Tunnel, 4, Duration::from_millis(500)),
];

/// What became of the requests.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Requests, uploads and tunnels in all.
    pub(crate) sent: u64,
    /// Connections they took.
    connections: u64,
    /// The longest that an ordinary request took.
    slowest: Duration,
    /// What failed, with its time since the start.
    pub(crate) failed: Vec<(Duration, String)>,
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} failed of {}, {} connections, slowest {} ms",
            self.failed.len(),
            self.sent,
            self.connections,
            self.slowest.as_millis()
        )
    }
}

/// Clients that run until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// Starts them; they take turns on the addresses.
    pub(crate) fn start(addresses: &[SocketAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let mut clients = Vec::new();
        for &(habit, count, pause) in CLIENTS {
            for number in 0..count {
                let mut user = User {
                    address: addresses[(clients.len() + number) % addresses.len()],
                    name: format!("{habit:?}-{number}"),
                    connection: None,
                    session: None,
                    begun,
                    ledger: Ledger::default(),
                };
                let stop = Arc::clone(&stop);
                clients.push(std::thread::spawn(move || {
                    let mut next = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        user.turn(habit);
                        next += pause;
                        // Who fell behind does not hurry.
                        next = next.max(Instant::now());
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    user.ledger
                }));
            }
        }
        Self { stop, clients }
    }

    /// Lets everybody finish, and adds up.
    pub(crate) fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Ledger::default();
        for client in self.clients {
            let ledger = client.join().expect("a client");
            sum.sent += ledger.sent;
            sum.connections += ledger.connections;
            sum.slowest = sum.slowest.max(ledger.slowest);
            sum.failed.extend(ledger.failed);
        }
        sum.failed.sort();
        sum
    }
}

/// One client.
struct User {
    address: SocketAddr,
    name: String,
    connection: Option<Client>,
    session: Option<Session>,
    begun: Instant,
    ledger: Ledger,
}

impl User {
    fn turn(&mut self, habit: Habit) {
        self.ledger.sent += 1;
        let id = format!("/{}/{}", self.name, self.ledger.sent);
        let begun = Instant::now();
        let kept = self.connection.is_some() || self.session.is_some();
        let outcome = match habit {
            Habit::Kept => self.get(&id, true),
            Habit::Fresh => self.get(&id, false),
            Habit::Http2 => self.multiplexed(&id),
            Habit::Post => self.post(&id),
            Habit::Upload => self.upload(&id),
            Habit::Tunnel => self.tunnel(&id),
        };
        let took = begun.elapsed();
        if !matches!(habit, Habit::Upload | Habit::Tunnel) {
            self.ledger.slowest = self.ledger.slowest.max(took);
        }
        if let Err(what) = outcome {
            (self.connection, self.session) = (None, None);
            let which = if kept {
                "kept connection"
            } else {
                "new connection"
            };
            let took = took.as_secs_f32();
            let line = format!("{id} on a {which} after {took:.2} s: {what}");
            self.ledger.failed.push((self.begun.elapsed(), line));
        }
    }

    fn connection(&mut self) -> Result<&mut Client, String> {
        if self.connection.is_none() {
            let socket = raw::connect(self.address).map_err(|error| format!("connect: {error}"))?;
            self.ledger.connections += 1;
            self.connection = Some(Client::over(Box::new(socket)));
        }
        self.connection
            .as_mut()
            .ok_or_else(|| "no connection".to_owned())
    }

    fn get(&mut self, id: &str, keep: bool) -> Result<(), String> {
        let close = if keep { "" } else { "Connection: close\r\n" };
        let request = format!("GET {id} HTTP/1.1\r\nHost: {HOST}\r\n{close}\r\n");
        self.ask(&request, id.as_bytes())
    }

    fn multiplexed(&mut self, id: &str) -> Result<(), String> {
        let open = self.session.take().filter(Session::is_open);
        let mut session = match open {
            Some(session) => session,
            None => self.session()?,
        };
        let mut answer = session.get(HOST, id);
        // A GOAWAY that came between the look and the request: nobody has seen the request (RFC 9113,
        // section 6.8), so it is sent for the first time.
        let is_unseen = |error: &h2::Error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        };
        if answer.as_ref().is_err_and(is_unseen) {
            session = self.session()?;
            answer = session.get(HOST, id);
        }
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 || !String::from_utf8_lossy(&answer.body).contains(id) {
            return Err(format!("{answer:?}"));
        }
        self.session = Some(session);
        Ok(())
    }

    fn session(&mut self) -> Result<Session, String> {
        let socket = raw::connect(self.address).map_err(|error| format!("connect: {error}"))?;
        self.ledger.connections += 1;
        Ok(Session::over(socket, None))
    }

    fn post(&mut self, id: &str) -> Result<(), String> {
        let body = id.repeat(64 * 1024 / id.len());
        let request = format!(
            "POST {id}?mirror=1 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.ask(&request, body.as_bytes())
    }

    /// Sends a request; its answer has to hold these bytes.
    fn ask(&mut self, request: &str, wanted: &[u8]) -> Result<(), String> {
        let connection = self.connection()?;
        connection.send(request);
        self.answered(wanted)
    }

    fn answered(&mut self, wanted: &[u8]) -> Result<(), String> {
        let connection = self.connection()?;
        let answer = connection.answer().map_err(|failure| match failure {
            Failure::Truncated(text) | Failure::Timeout(text) | Failure::Malformed(text)
                if text.len() > 200 =>
            {
                "cut off in the middle".to_owned()
            }
            failure => format!("{failure:?}"),
        })?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()));
        }
        let found = answer.body.windows(wanted.len()).any(|part| part == wanted);
        if !found {
            return Err("the answer of another request".into());
        }
        let last = answer
            .header("connection")
            .is_some_and(|value| value.contains("close"));
        if last {
            self.connection = None;
        }
        Ok(())
    }

    fn upload(&mut self, id: &str) -> Result<(), String> {
        const PIECES: usize = 12;
        let piece = id.repeat(2048 / id.len());
        let length = PIECES * piece.len();
        let connection = self.connection()?;
        connection.patience = Duration::from_secs(30);
        connection.send(format!(
            "POST {id}?mirror=1 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
        ));
        for _ in 0..PIECES {
            std::thread::sleep(Duration::from_millis(500));
            connection.send(&piece);
        }
        self.answered(piece.as_bytes())
    }

    fn tunnel(&mut self, id: &str) -> Result<(), String> {
        self.connection = None;
        let connection = self.connection()?;
        connection.send(websocket::request(HOST, id));
        let answer = connection
            .answer()
            .map_err(|failure| format!("handshake: {failure:?}"))?;
        if answer.status != 101 {
            return Err(format!("handshake: status {}", answer.status));
        }
        for number in 0..20 {
            let text = format!("{number} of {id}");
            connection.send(websocket::masked(&text));
            let back = connection
                .frame()
                .map_err(|failure| format!("message {number}: {failure:?}"))?;
            if back != text {
                return Err(format!("message {number}: {back}"));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        self.connection = None;
        Ok(())
    }
}
