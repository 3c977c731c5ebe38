//! The access log: one line per request, in JSON or in the shape nginx users know.
//!
//! Invariants: a worker never waits for the output. Lines gather in the worker's own buffer and
//! go to one writer thread in chunks; when the output cannot keep up, whole chunks are dropped and
//! counted. What a client sent is escaped: control characters, line separators and direction marks
//! never reach the terminal (RUSTSEC-2025-0055 shows why).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
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
    pub fn to<W: Write + Send + 'static>(format: Format, mut output: W) -> std::io::Result<Self> {
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(QUEUED_CHUNKS);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                for chunk in receiver {
                    // Nobody is left to tell when standard output is closed.
                    if output
                        .write_all(&chunk)
                        .and_then(|()| output.flush())
                        .is_err()
                    {
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
                let lines = memchr::memchr_iter(b'\n', &lost).count();
                self.metrics.plain.access_log_dropped.inc_by(lines as u64);
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
