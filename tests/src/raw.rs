//! An HTTP/1 client that sends exactly the bytes it is given and judges the answer strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client waits for an answer unless told otherwise.
pub const ANSWER: Duration = Duration::from_secs(10);

/// A byte stream: TCP, or TLS over it.
pub trait Wire: Read + Write + Send {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

/// Why there is no complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Closed, with or without a reset, before the first byte.
    Closed,
    /// Closed in the middle; what had come so far.
    Truncated(String),
    /// Nothing more came in time; what had come so far.
    Timeout(String),
    /// Not an HTTP/1 answer.
    Malformed(String),
}

/// A complete answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status line, without its end.
    pub line: String,
    /// Status code.
    pub status: u16,
    /// Fields in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// Content without its framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Status codes of the interim answers before it.
    pub interim: Vec<u16>,
}

impl Answer {
    /// First value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Content as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON expected: {self:?}"))
    }
}

/// One connection.
pub struct Client {
    wire: Box<dyn Wire>,
    /// Bytes that came and were not used yet.
    pub buffer: Vec<u8>,
    /// How long to wait for an answer.
    pub patience: Duration,
}

impl Client {
    /// Connects in plain text.
    pub fn plain(address: SocketAddr) -> Self {
        Self::over(Box::new(connect(address).expect("connect to the gateway")))
    }

    /// Uses a connected stream.
    pub fn over(wire: Box<dyn Wire>) -> Self {
        Self {
            wire,
            buffer: Vec::new(),
            patience: ANSWER,
        }
    }

    /// Sends bytes. A peer that closed already is no error: its answer is what matters.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire
            .write_all(bytes.as_ref())
            .and_then(|()| self.wire.flush())
            .is_ok()
    }

    /// Closes our half.
    pub fn finish(&mut self) {
        self.wire.socket().shutdown(Shutdown::Write).ok();
    }

    /// Reads a complete answer to a request that was not HEAD.
    pub fn answer(&mut self) -> Result<Answer, Failure> {
        self.answer_to("GET")
    }

    /// Reads a complete answer to a request with this method.
    pub fn answer_to(&mut self, method: &str) -> Result<Answer, Failure> {
        let end = Instant::now() + self.patience;
        let mut answer = self.head(end)?;
        let mut interim = Vec::new();
        while answer.status < 200 && answer.status != 101 {
            interim.push(answer.status);
            answer = self.head(end)?;
        }
        answer.interim = interim;
        let empty = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
        if !empty {
            self.body(&mut answer, end)?;
        }
        Ok(answer)
    }

    /// Reads exactly this many bytes.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        let end = Instant::now() + self.patience;
        while self.buffer.len() < count {
            if !self.more(end)? {
                return Err(self.cut());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads one short text frame of a WebSocket.
    pub fn frame(&mut self) -> Result<String, Failure> {
        let end = Instant::now() + self.patience;
        loop {
            if let Some((text, used)) = crate::websocket::unmasked(&self.buffer) {
                self.buffer.drain(..used);
                return Ok(text);
            }
            if !self.more(end)? {
                return Err(self.cut());
            }
        }
    }

    /// Whether the peer closes within this time; what it sends before is kept in the buffer.
    pub fn closes_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match self.more(end) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Reads once. False: the peer closed.
    fn more(&mut self, end: Instant) -> Result<bool, Failure> {
        let left = end
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        self.wire.socket().set_read_timeout(Some(left)).ok();
        let mut chunk = [0; 16 * 1024];
        match self.wire.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Failure::Timeout(escaped(&self.buffer)))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Ok(false),
        }
    }

    fn cut(&self) -> Failure {
        if self.buffer.is_empty() {
            Failure::Closed
        } else {
            Failure::Truncated(escaped(&self.buffer))
        }
    }

    fn head(&mut self, end: Instant) -> Result<Answer, Failure> {
        let length = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if !self.more(end)? {
                return Err(self.cut());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..length + 4).collect();
        let text = String::from_utf8_lossy(&head[..length]).into_owned();
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let status = line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| Failure::Malformed(text.clone()))?;
        let headers = fields(lines).ok_or_else(|| Failure::Malformed(text.clone()))?;
        Ok(Answer {
            line,
            status,
            headers,
            ..Answer::default()
        })
    }

    fn body(&mut self, answer: &mut Answer, end: Instant) -> Result<(), Failure> {
        let codings = answer.all("transfer-encoding").join(",");
        let length = answer.header("content-length").map(str::to_owned);
        if !codings.is_empty() {
            if codings != "chunked" || length.is_some() {
                return Err(Failure::Malformed(format!("{:?}", answer.headers)));
            }
            return self.chunks(answer, end);
        }
        let Some(length) = length else {
            while self.more(end)? {}
            answer.body = std::mem::take(&mut self.buffer);
            return Ok(());
        };
        let length: usize = length.parse().map_err(|_| Failure::Malformed(length))?;
        while self.buffer.len() < length {
            if !self.more(end)? {
                return Err(Failure::Truncated(escaped(&self.buffer)));
            }
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(())
    }

    fn chunks(&mut self, answer: &mut Answer, end: Instant) -> Result<(), Failure> {
        loop {
            let line = self.text_line(end)?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| Failure::Malformed(line))?;
            if size == 0 {
                break;
            }
            while self.buffer.len() < size + 2 {
                if !self.more(end)? {
                    return Err(Failure::Truncated(escaped(&self.buffer)));
                }
            }
            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
        let mut lines = Vec::new();
        loop {
            let line = self.text_line(end)?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let trailers = fields(lines.iter().map(String::as_str));
        answer.trailers = trailers.ok_or_else(|| Failure::Malformed(format!("{lines:?}")))?;
        Ok(())
    }

    fn text_line(&mut self, end: Instant) -> Result<String, Failure> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more(end)? {
                return Err(Failure::Truncated(escaped(&self.buffer)));
            }
        }
    }
}

/// Connects over TCP, without delay.
pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(socket)
}

/// Connects from a given source address.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    // The standard library cannot bind before connecting; tokio can.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(address).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One GET on a connection of its own. For polling: a refused connection is an error, not a panic.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Result<Answer, Failure> {
    let socket = connect(address).map_err(|_| Failure::Closed)?;
    let mut client = Client::over(Box::new(socket));
    client.send(format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    ));
    client.answer()
}

/// Bytes as readable text.
pub fn escaped(bytes: &[u8]) -> String {
    let shown = bytes.len().min(400);
    let text = bytes[..shown].escape_ascii().to_string();
    if shown < bytes.len() {
        format!("{text}… ({} bytes)", bytes.len())
    } else {
        text
    }
}

/// Position of a needle.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<(String, String)>> {
    lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let clean =
                !name.is_empty() && !name.contains([' ', '\t']) && !line.contains(['\r', '\n']);
            clean.then(|| (name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}
