//! Reads along with the HTTP/1 parser, to see what the parser hides.
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, cuts fragments off targets and
//! accepts bare line feeds, all before a service sees the request. The scan follows the framing of
//! a connection byte by byte, finds every head and says what was odd about it.
//!
//! Invariants: one [`HeadFacts`] per head, in order. The scan holds at most one unfinished line.
//! It never decides anything; when it loses track it says so, and the connection ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// What the scan saw of one request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not a state"
)]
pub(super) struct HeadFacts {
    /// Both `Content-Length` and `Transfer-Encoding`, or several lengths: whoever comes after us
    /// may see another end of the message (RFC 9112, section 6.3).
    pub framing_conflict: bool,
    /// A line of the head ended in a bare line feed.
    pub bare_lf: bool,
    /// The request line did not end within any sensible length; the parser saw a part of it.
    pub too_long: bool,
    /// The target has a fragment, which is never sent by an honest client.
    pub fragment: bool,
    /// When its first byte came.
    pub started: Instant,
}

impl HeadFacts {
    fn begin() -> Self {
        Self {
            framing_conflict: false,
            bare_lf: false,
            too_long: false,
            fragment: false,
            started: Instant::now(),
        }
    }
}

/// Heads that were read and not yet served, shared between the scan and the service.
///
/// Both ends live on one thread; the lock is never contended. It is there because hyper wants a
/// stream that can be upgraded to be `Send`.
#[derive(Debug, Clone, Default)]
pub(super) struct Heads(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<VecDeque<HeadFacts>>,
    raw: AtomicBool,
}

impl Heads {
    /// Facts about the request that is being served now; each head is taken once.
    pub(super) fn take(&self) -> Option<HeadFacts> {
        self.queue().pop_front()
    }

    /// From now on the connection carries something else than HTTP.
    pub(super) fn end_of_http(&self) {
        self.0.raw.store(true, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<HeadFacts>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where in the message stream the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Between two messages.
    Between,
    /// Inside a head that began at this moment.
    Head(Instant),
    /// Inside a body.
    Body,
    /// Not HTTP any more, or not to be followed.
    Beyond,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct HeadScan {
    longest_line: usize,
    longest_field: usize,
    state: State,
    line: Vec<u8>,
    head: HeadFacts,
    length: Option<u64>,
    chunked: bool,
    heads: Heads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the request line.
    Start,
    /// After the request line.
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    /// The line end after the data of a chunk.
    ChunkEnd,
    /// Trailer fields; bytes seen so far.
    Trailer(usize),
    Lost,
}

/// The stream broke a bound that the parser does not have, or left its framing where the parser
/// does not notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    /// Bytes of the last piece that are still in order.
    pub(super) sound: usize,
    /// What the parser is shown in place of the rest.
    pub(super) instead: Instead,
    /// It is in the content of a request, not in a head.
    pub(super) in_content: bool,
}

/// How the parser learns of the break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instead {
    /// Nothing but an error.
    Error,
    /// The same: what comes is not HTTP at all, and gets no answer in HTTP.
    Foreign,
    /// The end of a head. The target is longer than any that is served, and hyper would answer
    /// 431 to it before anybody could answer 414 (RFC 9112, section 3).
    EndOfHead,
}

/// The line that was being read is where it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BadLine {
    instead: Instead,
    /// Bytes of the line that the parser may see.
    shown: usize,
}

impl From<Instead> for BadLine {
    fn from(instead: Instead) -> Self {
        Self { instead, shown: 0 }
    }
}

impl HeadScan {
    /// A scan at the start of a connection, and the other end of its queue.
    pub(super) fn new(longest_target: usize) -> (Self, Heads) {
        let heads = Heads::default();
        let scan = Self {
            longest_line: longest_target.saturating_add(REST_OF_LINE),
            longest_field: HEAD_LINE,
            state: State::Start,
            line: Vec::new(),
            head: HeadFacts::begin(),
            length: None,
            chunked: false,
            heads: heads.clone(),
        };
        (scan, heads)
    }

    /// Follows every head that the parser takes, when it takes heads of up to this many bytes.
    pub(super) fn following(mut self, longest_head: usize) -> Self {
        self.longest_field = HEAD_LINE.max(longest_head);
        self
    }

    /// Where the connection is after all bytes seen so far.
    pub(super) fn position(&self) -> Position {
        match self.state {
            State::Start if self.line.is_empty() => Position::Between,
            State::Start | State::Fields => Position::Head(self.head.started),
            State::Lost => Position::Beyond,
            _ => Position::Body,
        }
    }

    /// Whether the client may be in the middle of sending something that nobody will read.
    pub(super) fn unfinished(&self) -> bool {
        let http = !self.heads.0.raw.load(Ordering::Relaxed);
        http && self.position() != Position::Between
    }

    /// Takes the next bytes of the connection. An error means that a chunk extension or a trailer
    /// has grown beyond all reason, or that a trailer line ends in a bare line feed (the parser
    /// reads on, others see the end of the message).
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        let length = bytes.len();
        if self.heads.0.raw.load(Ordering::Relaxed) {
            self.state = State::Lost;
        }
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Lost => return Ok(()),
                State::Body(left) => self.skip(bytes, left, State::Body, State::Start),
                State::ChunkData(left) => self.skip(bytes, left, State::ChunkData, State::ChunkEnd),
                _ => {
                    let sound = length - bytes.len();
                    let in_content = self.position() == Position::Body;
                    self.take_line(bytes).map_err(|broken| Broken {
                        sound: sound + broken.shown,
                        instead: broken.instead,
                        in_content,
                    })?
                }
            };
        }
        Ok(())
    }

    fn skip<'a>(
        &mut self,
        bytes: &'a [u8],
        left: u64,
        more: fn(u64) -> State,
        done: State,
    ) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 { done } else { more(left) };
        bytes.get(here..).unwrap_or_default()
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], BadLine> {
        if self.state == State::Start && self.line.is_empty() {
            self.head.started = Instant::now();
        }
        let end = memchr::memchr(b'\n', bytes);
        let here = end.unwrap_or(bytes.len());
        if self.state == State::Start
            && self.line.len() + here > self.longest_line
            && here > END_OF_HEAD.len()
        {
            let shown = self.longest_line.saturating_sub(self.line.len());
            self.head.too_long = true;
            self.end_of_head();
            self.state = State::Lost;
            return Err(BadLine {
                instead: Instead::EndOfHead,
                shown: shown.min(here - END_OF_HEAD.len()),
            });
        }
        let Some(end) = end else {
            let bound = match self.state {
                State::ChunkSize => CHUNK_LINE,
                State::ChunkEnd => 2,
                State::Trailer(_) => TRAILER,
                _ => self.longest_field,
            };
            if self.line.len() + bytes.len() > bound {
                return self.lose();
            }
            self.line.extend_from_slice(bytes);
            return Ok(&[]);
        };
        let (line, rest) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..));
        if self.line.is_empty() {
            self.line_done(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.line_done(&whole)?;
            whole.clear();
            self.line = whole;
        }
        Ok(rest.unwrap_or_default())
    }

    /// In a head the parser has bounds of its own and answers; elsewhere it has none.
    fn lose<T: Default>(&mut self) -> Result<T, BadLine> {
        let in_head = matches!(self.state, State::Start | State::Fields);
        self.state = State::Lost;
        self.line = Vec::new();
        if in_head {
            Ok(T::default())
        } else {
            Err(Instead::Error.into())
        }
    }

    fn line_done(&mut self, raw: &[u8]) -> Result<(), BadLine> {
        let line = raw.strip_suffix(b"\r").unwrap_or(raw);
        let bare = line.len() == raw.len();
        match self.state {
            // Empty lines before a request are skipped (RFC 9112, section 2.2).
            State::Start if line.is_empty() => {}
            State::Start if is_foreign(line) => {
                self.state = State::Lost;
                return Err(Instead::Foreign.into());
            }
            State::Start => {
                self.head.bare_lf = bare;
                self.head.fragment = memchr::memchr(b'#', line).is_some();
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => {
                self.head.bare_lf |= bare;
                self.end_of_head();
            }
            State::Fields => {
                self.head.bare_lf |= bare;
                self.field(line);
            }
            State::ChunkSize => return self.chunk_size(line),
            State::ChunkEnd => self.state = State::ChunkSize,
            State::Trailer(_) if bare => return self.lose(),
            State::Trailer(_) if line.is_empty() => self.state = State::Start,
            State::Trailer(seen) => {
                let seen = seen + raw.len() + 1;
                if seen > TRAILER {
                    return self.lose();
                }
                self.state = State::Trailer(seen);
            }
            State::Body(_) | State::ChunkData(_) | State::Lost => {}
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) {
        // Nearly all fields are neither: the first letter tells.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return;
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            self.head.framing_conflict |= self.chunked || length.is_none();
            self.head.framing_conflict |= self.length.is_some() && self.length != length;
            self.length = length.or(self.length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.framing_conflict |= self.length.is_some();
            self.chunked = true;
        }
    }

    fn end_of_head(&mut self) {
        self.state = if self.head.framing_conflict {
            // The answer is 400 and the end of the connection; nothing after it is followed.
            State::Lost
        } else if self.chunked {
            State::ChunkSize
        } else {
            match self.length {
                Some(length) if length > 0 => State::Body(length),
                _ => State::Start,
            }
        };
        self.heads.queue().push_back(self.head);
        self.head = HeadFacts {
            framing_conflict: false,
            bare_lf: false,
            too_long: false,
            fragment: false,
            ..self.head
        };
        self.length = None;
        self.chunked = false;
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), BadLine> {
        if line.len() > CHUNK_LINE {
            return self.lose();
        }
        if line
            .iter()
            .any(|byte| byte.is_ascii_control() && *byte != b'\t')
        {
            // Extensions go no further than here, but others end the line at such a byte.
            return self.lose();
        }
        let digits = line
            .split(|&byte| byte == b';')
            .next()
            .unwrap_or(line)
            .trim_ascii();
        let size = std::str::from_utf8(digits)
            .ok()
            .map(|text| u64::from_str_radix(text, 16));
        self.state = match size {
            Some(Ok(0)) => State::Trailer(0),
            Some(Ok(size)) => State::ChunkData(size),
            // The parser refuses it too.
            _ => State::Lost,
        };
        Ok(())
    }
}

/// Whether a first line has nothing of a request line: three words, no path and no version. A
/// client with such a line would take an answer for noise (RFC 9113, section 3.4, on a preface
/// that is none).
fn is_foreign(line: &[u8]) -> bool {
    let mut words = 0;
    for word in line.split(|byte| *byte == b' ') {
        words += 1;
        let plain = !word.is_empty() && word.iter().all(u8::is_ascii_alphabetic);
        if !plain || word.eq_ignore_ascii_case(b"http") {
            return false;
        }
    }
    words == 3
}

/// What ends a head that was cut short.
pub(super) const END_OF_HEAD: &[u8] = b" HTTP/1.1\r\n\r\n";
/// Method, version and blanks of a request line.
const REST_OF_LINE: usize = 1024;
/// Longest line of a head that is kept, unless whole heads may be longer. Beyond it the parser
/// answers 431.
const HEAD_LINE: usize = 64 * 1024;
/// Longest chunk-size line, extensions included.
const CHUNK_LINE: usize = 1024;
/// Longest trailer section.
const TRAILER: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(heads: &Heads) -> Vec<(bool, bool, bool)> {
        std::iter::from_fn(|| heads.take())
            .map(|head| (head.framing_conflict, head.bare_lf, head.fragment))
            .collect()
    }

    /// Every way of cutting the stream in three must give the same facts.
    fn scan(stream: &[u8]) -> (Vec<(bool, bool, bool)>, bool) {
        let run = |parts: &[&[u8]]| {
            let (mut scan, heads) = HeadScan::new(16 * 1024);
            let fed: Result<Vec<()>, _> = parts.iter().map(|part| scan.feed(part)).collect();
            (
                facts(&heads),
                fed.is_err(),
                scan.position() == Position::Between,
            )
        };
        let whole = run(&[stream]);
        let step = stream.len() / 40 + 1;
        for first in (0..=stream.len()).step_by(step) {
            for second in (first..=stream.len()).step_by(step) {
                let parts = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(run(&parts), whole, "{first} {second}");
            }
        }
        (whole.0, whole.1)
    }

    #[test]
    fn pipelined_requests_with_bodies_of_every_kind_are_told_apart() {
        let stream = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\
            POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nGET /no HTTP/1.1\r\n\r\n\
            POST /c HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n\
            5;x=\"y\"\r\nGET /\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n\
            GET /a#b HTTP/1.1\nHost: a\r\n\r\n";
        let plain = (false, false, false);
        assert_eq!(scan(stream).0, [plain, plain, plain, (false, true, true)]);
    }

    #[test]
    fn two_framings_or_two_lengths_are_a_conflict_in_any_order() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "TRANSFER-ENCODING: x\r\ncontent-length: nonsense",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +x",
        ] {
            let stream = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /");
            assert_eq!(
                scan(stream.as_bytes()).0,
                [(true, false, false)],
                "{fields}"
            );
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_refused() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let extension = format!("{head}1;{}", "x".repeat(CHUNK_LINE + 1));
        assert!(scan(extension.as_bytes()).1);
        let trailer = format!("{head}0\r\n{}", "X-A: 1\r\n".repeat(TRAILER / 8 + 1));
        assert!(scan(trailer.as_bytes()).1);
        for line in ["X: 1\n\r\n", "\n"] {
            assert!(scan(format!("{head}0\r\n{line}").as_bytes()).1, "{line:?}");
        }
        let (mut scan_of_parts, _) = HeadScan::new(16 * 1024);
        let broken = scan_of_parts.feed(format!("{head}0\r\nX: 1\n").as_bytes());
        let sound = head.len() + 3;
        let instead = Instead::Error;
        let broken = broken.map_err(|broken| (broken.sound, broken.instead));
        assert_eq!(broken, Err((sound, instead)));
        let fair = format!("{head}0\r\n{}\r\n", "X-A: 1\r\n".repeat(100));
        assert!(!scan(fair.as_bytes()).1);
    }

    #[test]
    fn a_request_line_without_end_is_cut_short_and_said_to_be() {
        let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
        for piece in [line.len(), 5000, 700] {
            let (mut scan, heads) = HeadScan::new(4096);
            let mut shown = 0;
            let broken = line.as_bytes().chunks(piece).find_map(|bytes| {
                let broken = scan.feed(bytes).err();
                shown += broken.map_or(bytes.len(), |broken| broken.sound);
                broken
            });
            assert_eq!(
                broken.map(|broken| broken.instead),
                Some(Instead::EndOfHead)
            );
            assert!((4096..=5120).contains(&shown), "{shown}");
            assert!(heads.take().is_some_and(|head| head.too_long));
        }
        let (mut scan, heads) = HeadScan::new(16 * 1024);
        assert_eq!(scan.feed(line.as_bytes()), Ok(()));
        assert!(heads.take().is_some_and(|head| !head.too_long));
    }

    #[test]
    fn a_field_as_long_as_a_head_may_be_is_followed() {
        let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(200_000));
        for (longest, known) in [(32 * 1024, false), (1 << 20, true)] {
            let (scan, heads) = HeadScan::new(16 * 1024);
            let mut scan = scan.following(longest);
            for piece in head.as_bytes().chunks(9000) {
                scan.feed(piece).unwrap();
            }
            assert_eq!(heads.take().is_some(), known, "{longest}");
        }
    }

    #[test]
    fn other_protocols_and_control_bytes_in_extensions_are_refused() {
        let (mut foreign, _) = HeadScan::new(16 * 1024);
        let broken = foreign.feed(b"INVALID CONNECTION PREFACE\r\n\r\n");
        assert!(
            broken.is_err_and(|broken| broken.instead == Instead::Foreign && broken.sound == 0)
        );
        for request in [
            "GET / HTTP/1.1\r\n",
            "GET /\r\n",
            "GET a HTTP\r\n",
            "GET x http/1.1\r\n",
        ] {
            let (mut scan, _) = HeadScan::new(16 * 1024);
            assert_eq!(scan.feed(request.as_bytes()), Ok(()), "{request}");
        }
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(scan(format!("{head}1;a\0b\r\nx\r\n0\r\n\r\n").as_bytes()).1);
        assert!(!scan(format!("{head}1;a=\"\t\"\r\nx\r\n0\r\n\r\n").as_bytes()).1);
    }

    #[test]
    fn the_position_follows_the_stream() {
        let (mut scan, heads) = HeadScan::new(16 * 1024);
        assert_eq!(scan.position(), Position::Between);
        scan.feed(b"P").unwrap();
        assert!(matches!(scan.position(), Position::Head(_)));
        scan.feed(b"OST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
            .unwrap();
        assert_eq!(scan.position(), Position::Body);
        scan.feed(b"abc").unwrap();
        assert_eq!(scan.position(), Position::Between);
        heads.end_of_http();
        scan.feed(b"\x81\x05hello").unwrap();
        assert_eq!(scan.position(), Position::Beyond);
    }
}
