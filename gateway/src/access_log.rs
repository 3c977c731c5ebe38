//! The access log: one line per request, in JSON or in the shape nginx users know.
//!
//! Invariants: a worker never waits for the output. Lines gather in the worker's own buffer and
//! go to one writer thread in chunks; when the output cannot keep up, whole chunks are dropped and
//! counted. An output that fails, as a full disk does, costs the lines of that time and no others;
//! only a reader that has gone away ends the log. What a client sent is escaped: control characters, line separators and direction marks
//! never reach the terminal (RUSTSEC-2025-0055 shows why).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::{HeaderValue, Method, Version};
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::error::Reason;
use crate::metrics::Metrics;

/// Shape of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// nginx's combined format, then the facts that ingress users look for.
    Nginx,
}

/// The access log of the process; workers write through a [`WorkerLog`] each.
#[derive(Debug, Clone)]
pub struct AccessLog {
    output: Option<(Format, SyncSender<Vec<u8>>)>,
}

impl AccessLog {
    /// No access log.
    pub fn off() -> Self {
        Self { output: None }
    }

    /// Lines of this format, written by a thread of their own until the last handle is gone.
    pub fn to<W: Write + Send + 'static>(
        format: Format,
        output: W,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(QUEUED_CHUNKS);
        let mut pen = Pen::new(output, Arc::clone(metrics));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                for chunk in receiver {
                    if pen.write(&chunk).is_break() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            output: Some((format, sender)),
        })
    }

    /// The handle of one worker.
    pub fn worker(&self, metrics: Arc<Metrics>) -> Rc<WorkerLog> {
        Rc::new(WorkerLog {
            output: self.output.clone(),
            buffer: RefCell::new(Vec::new()),
            metrics,
        })
    }
}

/// The thread's end of the log.
struct Pen<W> {
    output: W,
    metrics: Arc<Metrics>,
    /// A line was begun and could not be finished.
    torn: bool,
    /// It was told that lines are lost, and not yet that they are written again.
    failing: bool,
    told: Option<Instant>,
}

impl<W: Write> Pen<W> {
    fn new(output: W, metrics: Arc<Metrics>) -> Self {
        Self {
            output,
            metrics,
            torn: false,
            failing: false,
            told: None,
        }
    }

    /// Writes what can be written. Break: nobody reads it any more.
    fn write(&mut self, chunk: &[u8]) -> ControlFlow<()> {
        let torn = if self.torn { &b"\n"[..] } else { &[] };
        let written = self.put(torn).map_err(|(error, _)| (error, chunk));
        match written.and_then(|()| self.put(chunk)) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::warn!("the access log can be written again");
            }
            Ok(()) => {}
            Err((error, lost)) => {
                self.metrics.plain.access_log_dropped.inc_by(lines(lost));
                if error.kind() == io::ErrorKind::BrokenPipe {
                    tracing::warn!("nobody reads the access log any more: it ends here");
                    return ControlFlow::Break(());
                }
                let rested = |told: Instant| told.elapsed() >= TELL_AGAIN;
                if !self.failing && self.told.is_none_or(rested) {
                    self.failing = true;
                    self.told = Some(Instant::now());
                    tracing::warn!(%error, "the access log cannot be written: lines are lost until it can");
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// An error comes with what was not written.
    fn put<'a>(&mut self, mut bytes: &'a [u8]) -> Result<(), (io::Error, &'a [u8])> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), bytes)),
                Ok(count) => {
                    let (written, rest) = bytes.split_at(count.min(bytes.len()));
                    self.torn = written.last() != Some(&b'\n');
                    bytes = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe that somebody has made non-blocking is full; workers do not wait for us.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(AFTER_FULL);
                }
                Err(error) => return Err((error, bytes)),
            }
        }
        self.output.flush().map_err(|error| (error, bytes))
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// A worker's end of the log.
#[derive(Debug)]
pub struct WorkerLog {
    output: Option<(Format, SyncSender<Vec<u8>>)>,
    buffer: RefCell<Vec<u8>>,
    metrics: Arc<Metrics>,
}

impl WorkerLog {
    /// Whether anybody reads: details of a request need not be kept otherwise.
    pub fn enabled(&self) -> bool {
        self.output.is_some()
    }

    /// Appends one line. Must run inside the worker's `LocalSet`.
    pub fn write(self: &Rc<Self>, line: &Line<'_>) {
        let Some((format, _)) = &self.output else {
            return;
        };
        let (first, full) = {
            let mut buffer = self.buffer.borrow_mut();
            let first = buffer.is_empty();
            match format {
                Format::Json => line.json(&mut buffer),
                Format::Nginx => line.nginx(&mut buffer),
            }
            (first, buffer.len() >= CHUNK)
        };
        if full {
            self.flush();
        } else if first {
            let log = Rc::clone(self);
            tokio::task::spawn_local(async move {
                sleep(FLUSH_AFTER).await;
                log.flush();
            });
        }
    }

    /// Hands what is buffered to the writer.
    pub fn flush(&self) {
        let Some((_, sender)) = &self.output else {
            return;
        };
        let chunk = std::mem::take(&mut *self.buffer.borrow_mut());
        if chunk.is_empty() {
            return;
        }
        match sender.try_send(chunk) {
            Ok(()) => {}
            Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) => {
                self.metrics.plain.access_log_dropped.inc_by(lines(&lost));
            }
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What one line tells.
#[derive(Debug)]
pub struct Line<'a> {
    /// When the request began.
    pub started: Instant,
    /// Listener name.
    pub listener: &'a str,
    /// Client address, after trust has been applied.
    pub client: std::net::IpAddr,
    /// Method, unless the request could not be parsed.
    pub method: Option<&'a Method>,
    /// `Host` as sent.
    pub host: Option<&'a HeaderValue>,
    /// Raw request target.
    pub target: Option<&'a str>,
    /// HTTP version.
    pub version: Option<Version>,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Status sent, or 499.
    pub status: u16,
    /// Why the gateway answered itself, or cut the answer short.
    pub reason: Option<Reason>,
    /// Request body bytes received.
    pub received: u64,
    /// Response body bytes sent.
    pub sent: u64,
    /// From the request head to the end of the answer.
    pub duration: Duration,
    /// Object the route came from, such as `Ingress/ns/name`.
    pub route: Option<&'a str>,
    /// Endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    /// Tries made.
    pub tries: u32,
    /// From sending to the response head, last try.
    pub upstream_time: Option<Duration>,
    /// `X-Request-ID` sent to the endpoint.
    pub request_id: Option<&'a HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<&'a HeaderValue>,
    /// `Referer`.
    pub referer: Option<&'a HeaderValue>,
}

impl Line<'_> {
    fn json(&self, out: &mut Vec<u8>) {
        let mut line = String::with_capacity(512);
        line.push_str("{\"time\":\"");
        let _ = write!(line, "{:.3}", clock::timestamp(self.started));
        line.push('"');
        text(&mut line, "listener", self.listener);
        let _ = write!(line, ",\"client\":\"{}\"", self.client);
        if let Some(method) = self.method {
            text(&mut line, "method", method.as_str());
        }
        bytes(&mut line, "host", self.host);
        if let Some(target) = self.target {
            text(&mut line, "target", target);
        }
        if let Some(version) = self.version {
            text(&mut line, "protocol", protocol(version));
        }
        let _ = write!(line, ",\"tls\":{},\"status\":{}", self.tls, self.status);
        if let Some(reason) = self.reason {
            text(&mut line, "reason", reason.code());
        }
        let _ = write!(
            line,
            ",\"received\":{},\"sent\":{},\"duration_ms\":{:.3}",
            self.received,
            self.sent,
            self.duration.as_secs_f64() * 1e3
        );
        if let Some(route) = self.route {
            text(&mut line, "route", route);
        }
        if let Some(endpoint) = self.endpoint {
            let _ = write!(
                line,
                ",\"endpoint\":\"{endpoint}\",\"tries\":{}",
                self.tries
            );
        }
        if let Some(time) = self.upstream_time {
            let _ = write!(line, ",\"upstream_ms\":{:.3}", time.as_secs_f64() * 1e3);
        }
        bytes(&mut line, "request_id", self.request_id);
        bytes(&mut line, "user_agent", self.user_agent);
        bytes(&mut line, "referer", self.referer);
        line.push_str("}\n");
        out.extend_from_slice(line.as_bytes());
    }

    fn nginx(&self, out: &mut Vec<u8>) {
        let mut line = String::with_capacity(384);
        let time = clock::timestamp(self.started).strftime("%d/%b/%Y:%H:%M:%S +0000");
        let _ = write!(line, "{} - - [{time}] \"", self.client);
        match (self.method, self.target) {
            (Some(method), Some(target)) => {
                let _ = write!(line, "{method} ");
                escape(&mut line, target);
                let _ = write!(line, " {}", self.version.map_or("-", protocol));
            }
            _ => line.push('-'),
        }
        let _ = write!(line, "\" {} {} \"", self.status, self.sent);
        dash(&mut line, self.referer);
        line.push_str("\" \"");
        dash(&mut line, self.user_agent);
        let _ = write!(
            line,
            "\" {} {:.3} [",
            self.received,
            self.duration.as_secs_f64()
        );
        line.push_str(self.route.unwrap_or("-"));
        line.push_str("] [");
        line.push_str(self.reason.map_or("-", Reason::code));
        match (self.endpoint, self.upstream_time) {
            (Some(endpoint), Some(time)) => {
                let _ = write!(line, "] {endpoint} {:.3} ", time.as_secs_f64());
            }
            (Some(endpoint), None) => {
                let _ = write!(line, "] {endpoint} - ");
            }
            _ => line.push_str("] - - "),
        }
        dash(&mut line, self.request_id);
        line.push(' ');
        dash(&mut line, self.host);
        line.push('\n');
        out.extend_from_slice(line.as_bytes());
    }
}

fn text(line: &mut String, name: &str, value: &str) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":\"");
    escape(line, value);
    line.push('"');
}

fn bytes(line: &mut String, name: &str, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        text(line, name, &String::from_utf8_lossy(value.as_bytes()));
    }
}

fn dash(line: &mut String, value: Option<&HeaderValue>) {
    match value {
        Some(value) => escape(line, &String::from_utf8_lossy(value.as_bytes())),
        None => line.push('-'),
    }
}

/// JSON string escaping that also covers DEL, C1, line separators and direction marks, and cuts
/// what is longer than [`VALUE`] bytes.
fn escape(line: &mut String, value: &str) {
    for (at, character) in value.char_indices() {
        if at >= VALUE {
            line.push_str("...");
            return;
        }
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            ' '..='~' => line.push(character),
            '\u{a0}'.. if !is_deceptive(character) => line.push(character),
            other => {
                let mut units = [0u16; 2];
                for unit in other.encode_utf16(&mut units) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Whether a terminal would show a line with this character as another line than it is: line
/// separators, direction marks, what has no width.
pub fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// A chunk goes to the writer when it has grown to this many bytes...
const CHUNK: usize = 32 * 1024;
/// ...or is this old.
const FLUSH_AFTER: Duration = Duration::from_millis(20);
/// Chunks that may wait for a slow output: about 8 MiB.
const QUEUED_CHUNKS: usize = 256;
/// Pause before an output that was full is tried again.
const AFTER_FULL: Duration = Duration::from_millis(5);
/// How often it is told at most that lines are lost.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// Longest value written, bytes.
const VALUE: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(target: &'a str, agent: &'a HeaderValue) -> Line<'a> {
        Line {
            started: Instant::now(),
            listener: "http",
            client: [192, 0, 2, 1].into(),
            method: Some(&Method::GET),
            host: None,
            target: Some(target),
            version: Some(Version::HTTP_11),
            tls: false,
            status: 200,
            reason: None,
            received: 0,
            sent: 12,
            duration: Duration::from_micros(1500),
            route: Some("Ingress/ns/a"),
            endpoint: Some(([192, 0, 2, 7], 80).into()),
            tries: 1,
            upstream_time: Some(Duration::from_millis(1)),
            request_id: None,
            user_agent: Some(agent),
            referer: None,
        }
    }

    #[test]
    fn a_json_line_is_json_whatever_the_client_sent() {
        let agent = HeaderValue::from_bytes("\u{85}\u{202e}\"\\\t".as_bytes()).unwrap();
        let mut out = Vec::new();
        line("/a?\u{9b}31m", &agent).json(&mut out);
        let text = String::from_utf8(out).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["user_agent"], "\u{85}\u{202e}\"\\\t");
        assert_eq!(value["status"], 200);
        assert_eq!(value["endpoint"], "192.0.2.7:80");
        assert!(
            text.trim_end()
                .chars()
                .all(|c| !c.is_control() && !is_deceptive(c)),
            "{text:?}"
        );
    }

    #[test]
    fn an_nginx_line_stays_on_one_line() {
        let agent = HeaderValue::from_bytes(b"curl\xff\x1b".as_slice())
            .unwrap_or_else(|_| HeaderValue::from_bytes(b"curl\xff").unwrap());
        let mut out = Vec::new();
        line("/a\u{2028}b", &agent).nginx(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.contains("\"GET /a\\u2028b HTTP/1.1\" 200 12 "),
            "{text}"
        );
        assert!(
            text.contains("[Ingress/ns/a] [-] 192.0.2.7:80 0.001"),
            "{text}"
        );
    }

    /// Answers as the script says, `Ok` with the most bytes to take; when it is over, it takes all.
    #[derive(Default)]
    struct Output {
        script: std::collections::VecDeque<Result<usize, i32>>,
        written: Vec<u8>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = match self.script.pop_front() {
                Some(Err(code)) => return Err(io::Error::from_raw_os_error(code)),
                Some(Ok(most)) => most.min(bytes.len()),
                None => bytes.len(),
            };
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const EINTR: i32 = 4;
    const EAGAIN: i32 = 11;
    const ENOSPC: i32 = 28;
    const EPIPE: i32 = 32;

    fn pen(script: impl IntoIterator<Item = Result<usize, i32>>) -> Pen<Output> {
        let script = script.into_iter().collect();
        let output = Output {
            script,
            ..Output::default()
        };
        Pen::new(output, Metrics::new())
    }

    #[test]
    fn an_output_that_failed_is_written_to_again() {
        let mut pen = pen([Ok(6), Err(ENOSPC), Err(ENOSPC)]);
        assert!(pen.write(b"one\ntwo\nthree\n").is_continue());
        assert!(pen.failing);
        assert_eq!(pen.metrics.plain.access_log_dropped.get(), 2);
        assert!(pen.write(b"four\n").is_continue());
        assert_eq!(pen.metrics.plain.access_log_dropped.get(), 3);
        assert!(pen.write(b"five\n").is_continue());
        assert!(!pen.failing);
        assert_eq!(
            pen.output.written, b"one\ntw\nfive\n",
            "no line is glued to another"
        );
    }

    #[test]
    fn an_output_that_is_full_or_interrupted_loses_nothing() {
        let mut pen = pen([Err(EINTR), Ok(2), Err(EAGAIN), Err(EAGAIN), Ok(3)]);
        assert!(pen.write(b"one\ntwo\n").is_continue());
        assert_eq!(pen.output.written, b"one\ntwo\n");
        assert_eq!(pen.metrics.plain.access_log_dropped.get(), 0);
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_log() {
        let mut pen = pen([Ok(4), Err(EPIPE)]);
        assert!(pen.write(b"one\ntwo\n").is_break());
        assert_eq!(pen.metrics.plain.access_log_dropped.get(), 1);
    }

    #[tokio::test]
    async fn lines_that_a_dead_output_cannot_take_are_counted() {
        let (sender, receiver) = sync_channel(1);
        let metrics = Metrics::new();
        let log = WorkerLog {
            output: Some((Format::Json, sender)),
            buffer: RefCell::new(b"one\ntwo\n".to_vec()),
            metrics: Arc::clone(&metrics),
        };
        drop(receiver);
        log.flush();
        assert_eq!(metrics.plain.access_log_dropped.get(), 2);
    }
}
