//! A backend that keeps every byte it receives and answers from a script.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::raw::find;

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes that often.
    Repeat(Vec<u8>, usize),
    /// Read the content of the request to its end.
    ReadBody,
    /// Wait. For faults that are made of time, not for synchronising.
    Pause(Duration),
    /// Close with FIN.
    Close,
    /// Close with RST, as far as the standard library can: unread bytes make the kernel send it.
    Reset,
    /// Echo short WebSocket frames until the peer closes.
    EchoFrames,
    /// Read and keep whatever comes until the peer closes.
    Drain,
}

/// A request as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Number of the connection it came on.
    pub connection: u64,
    /// Request line.
    pub line: String,
    /// Fields in order.
    pub headers: Vec<(String, String)>,
    /// The head, byte by byte.
    pub head: Vec<u8>,
    /// Content as sent, with its framing.
    pub content: Vec<u8>,
    /// The content came to its proper end, or there was none.
    pub complete: bool,
    /// Address that the connection was made to.
    pub local: Option<SocketAddr>,
}

impl Request {
    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// First value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// Method.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Raw target.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// Content without chunk framing.
    pub fn body(&self) -> Vec<u8> {
        if self.header("transfer-encoding").is_none() {
            return self.content.clone();
        }
        let mut body = Vec::new();
        let mut rest = self.content.as_slice();
        while let Some(at) = find(rest, b"\r\n") {
            let text = String::from_utf8_lossy(&rest[..at]).into_owned();
            let size =
                usize::from_str_radix(text.split(';').next().unwrap_or_default(), 16).unwrap_or(0);
            let Some(data) = rest.get(at + 2..at + 2 + size) else {
                break;
            };
            if size == 0 {
                break;
            }
            body.extend_from_slice(data);
            rest = rest.get(at + 4 + size..).unwrap_or_default();
        }
        body
    }
}

type Script = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

/// A listening backend. It ends with the test process.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Backend {
    /// Answers 200 with a short body to everything.
    pub fn plain() -> Self {
        Self::scripted(|_| ok("ok"))
    }

    /// Answers from a script, on loopback.
    pub fn scripted(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().expect("loopback"), script)
    }

    /// Answers from a script, on a given address.
    pub fn at(
        address: SocketAddr,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("bind a backend");
        let address = listener.local_addr().expect("address of a backend");
        let log = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicU64::new(0));
        let open = Arc::new(AtomicU64::new(0));
        let script: Arc<Script> = Arc::new(script);
        let (sink, count, now) = (
            Arc::clone(&log),
            Arc::clone(&connections),
            Arc::clone(&open),
        );
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { continue };
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let peer = Peer {
                    socket,
                    connection,
                    buffer: Vec::new(),
                };
                let (script, sink) = (Arc::clone(&script), Arc::clone(&sink));
                now.fetch_add(1, Ordering::SeqCst);
                let now = Arc::clone(&now);
                std::thread::spawn(move || {
                    peer.serve(&*script, &sink);
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            log,
            connections,
            open,
        }
    }

    /// Every request so far. Those whose content is still on its way are not complete.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("log").clone()
    }

    /// The requests so far, removed from the log.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().expect("log"))
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }
}

/// Script of a 200 with a text.
pub fn ok(text: &str) -> Vec<Step> {
    vec![Step::ReadBody, Step::Send(response("200 OK", text))]
}

/// Bytes of a complete answer with a length.
pub fn response(status: &str, text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

struct Peer {
    socket: TcpStream,
    connection: u64,
    buffer: Vec<u8>,
}

impl Peer {
    fn serve(mut self, script: &Script, log: &Mutex<Vec<Request>>) {
        self.socket.set_nodelay(true).ok();
        while let Some(mut request) = self.head() {
            let framed = request.header("transfer-encoding").is_some()
                || request
                    .header("content-length")
                    .is_some_and(|length| length != "0");
            request.complete = !framed;
            let at = {
                let mut log = log.lock().expect("log");
                log.push(request.clone());
                log.len() - 1
            };
            let mut pending = framed;
            for step in script(&request) {
                if matches!(step, Step::ReadBody) && pending {
                    pending = false;
                    request.complete = self.content(&mut request);
                    // The log may have been taken in between: then this request is history.
                    let mut log = log.lock().expect("log");
                    if let Some(kept) = log.get_mut(at).filter(|kept| kept.head == request.head) {
                        kept.clone_from(&request);
                    }
                    drop(log);
                    if !request.complete {
                        return;
                    }
                } else if !self.step(step) {
                    return;
                }
            }
            if pending {
                return;
            }
        }
    }

    fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Send(bytes) => self.socket.write_all(&bytes).is_ok(),
            Step::Repeat(bytes, times) => (0..times).all(|_| self.socket.write_all(&bytes).is_ok()),
            Step::ReadBody => true,
            Step::Pause(time) => {
                std::thread::sleep(time);
                true
            }
            Step::Close => {
                self.socket.shutdown(Shutdown::Write).ok();
                while self.more() {
                    self.buffer.clear();
                }
                false
            }
            Step::Reset => {
                self.socket.shutdown(Shutdown::Both).ok();
                false
            }
            Step::EchoFrames => loop {
                while let Some((frame, used)) = crate::websocket::echo(&self.buffer) {
                    self.buffer.drain(..used);
                    if self.socket.write_all(&frame).is_err() {
                        return false;
                    }
                }
                if !self.more() {
                    return false;
                }
            },
            Step::Drain => {
                while self.more() {}
                false
            }
        }
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            _ => false,
        }
    }

    fn head(&mut self) -> Option<Request> {
        let length = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..length).collect();
        let text = head
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let local = self.socket.local_addr().ok();
        Some(Request {
            connection: self.connection,
            line,
            headers,
            head,
            local,
            ..Request::default()
        })
    }

    /// Reads the content; true when it came to its end.
    fn content(&mut self, request: &mut Request) -> bool {
        let chunked = request.header("transfer-encoding").is_some();
        let length = request
            .header("content-length")
            .and_then(|length| length.parse::<usize>().ok());
        loop {
            let size = if chunked {
                chunked_length(&self.buffer)
            } else {
                length
            };
            match size {
                Some(size) if size <= self.buffer.len() => {
                    request.content = self.buffer.drain(..size).collect();
                    return true;
                }
                _ if self.more() => {}
                _ => {
                    request.content = std::mem::take(&mut self.buffer);
                    return false;
                }
            }
        }
    }
}

/// Length of a complete chunked content at the start of these bytes.
fn chunked_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}
