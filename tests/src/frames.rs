//! Raw HTTP/2 frames, for what no well-behaved client sends.

use std::net::SocketAddr;

use crate::raw::Client;

/// Frame types.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// `RST_STREAM`.
    pub const RESET: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM` of DATA and HEADERS, ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literal fields, not indexed, not Huffman coded.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name);
        string(&mut bytes, value);
    }
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    // RFC 7541, section 5.1: a prefix of seven bits, then groups of seven.
    if text.len() < 127 {
        bytes.push(u8::try_from(text.len()).expect("short"));
    } else {
        bytes.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).expect("seven bits") | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).expect("seven bits"));
    }
    bytes.extend_from_slice(text);
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// GOAWAY with this code.
    Goaway(u32),
    /// The connection was closed.
    Closed,
    /// Nothing came in time.
    Silent,
}

/// One connection, after the preface and empty SETTINGS.
pub struct Frames {
    client: Client,
}

impl Frames {
    /// Connects with prior knowledge.
    pub fn open(address: SocketAddr) -> Self {
        Self::over(Client::plain(address))
    }

    /// Uses a connection that is ready, such as TLS with ALPN `h2`.
    pub fn over(mut client: Client) -> Self {
        client.send(PREFACE);
        client.send(frame(kind::SETTINGS, 0, 0, b""));
        Self { client }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.client.send(bytes);
        self
    }

    /// Sends a complete HEADERS frame.
    pub fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) -> &mut Self {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(frame(kind::HEADERS, flags, stream, &block(fields)))
    }

    /// Sends a DATA frame.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> &mut Self {
        self.send(frame(
            kind::DATA,
            if end { END_STREAM } else { 0 },
            stream,
            bytes,
        ))
    }

    /// The connection below.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The next frame that is not SETTINGS, PING or `WINDOW_UPDATE`: `(kind, flags, stream, payload)`.
    pub fn read(&mut self) -> Result<(u8, u8, u32, Vec<u8>), Outcome> {
        loop {
            let head = self.client.exactly(9).map_err(ended)?;
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let payload = self.client.exactly(length).map_err(ended)?;
            let (kind, flags) = (head[3], head[4]);
            match kind {
                kind::SETTINGS if flags & 1 == 0 => {
                    self.send(frame(kind::SETTINGS, 1, 0, b""));
                }
                kind::PING if flags & 1 == 0 => {
                    self.send(frame(kind::PING, 1, 0, &payload));
                }
                kind::SETTINGS | kind::PING | 8 => {}
                _ => return Ok((kind, flags, stream, payload)),
            }
        }
    }

    /// Reads until the fate of a stream is known. Interim answers are skipped.
    pub fn outcome(&mut self, wanted: u32) -> Outcome {
        loop {
            let (kind, _, stream, payload) = match self.read() {
                Ok(frame) => frame,
                Err(outcome) => return outcome,
            };
            match kind {
                kind::HEADERS if stream == wanted => match status(&payload) {
                    100..=199 => {}
                    status => return Outcome::Status(status),
                },
                kind::RESET if stream == wanted => return Outcome::Reset(number(&payload, 0)),
                // Code 0 with the stream in its range is only an announcement.
                kind::GOAWAY if number(&payload, 4) != 0 || number(&payload, 0) < wanted => {
                    return Outcome::Goaway(number(&payload, 4));
                }
                _ => {}
            }
        }
    }
}

fn ended(failure: crate::raw::Failure) -> Outcome {
    match failure {
        crate::raw::Failure::Timeout(_) => Outcome::Silent,
        _ => Outcome::Closed,
    }
}

fn number(payload: &[u8], at: usize) -> u32 {
    let bytes = payload
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_be_bytes)
}

/// Status of a header block. It is always its first field; only the forms that an encoder may use
/// for three digits are known here.
fn status(block: &[u8]) -> u16 {
    let mut at = 0;
    // Skip updates of the table size.
    while block.get(at).is_some_and(|byte| byte & 0xe0 == 0x20) {
        at += if block[at] & 0x1f == 0x1f { 2 } else { 1 };
    }
    let first = block.get(at).copied().unwrap_or(0);
    if let 0x88..=0x8e = first {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)];
    }
    let Some(&length) = block.get(at + 1) else {
        return 0;
    };
    let end = at + 2 + usize::from(length & 0x7f);
    let value = block.get(at + 2..end).unwrap_or_default();
    let text = if length & 0x80 == 0 {
        String::from_utf8_lossy(value).into_owned()
    } else {
        digits(value)
    };
    text.parse().unwrap_or(0)
}

/// Huffman coded digits (RFC 7541, appendix B): `0` to `2` have five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let bits: String = bytes
        .iter()
        .fold(String::new(), |bits, byte| bits + &format!("{byte:08b}"));
    let mut rest = bits.as_str();
    let mut text = String::new();
    while text.len() < 3 {
        let five = rest
            .get(..5)
            .and_then(|five| u8::from_str_radix(five, 2).ok());
        let six = rest
            .get(..6)
            .and_then(|six| u8::from_str_radix(six, 2).ok());
        match (five, six) {
            (Some(digit @ 0..=2), _) => {
                text.push(char::from(b'0' + digit));
                rest = &rest[5..];
            }
            (_, Some(code @ 0x19..=0x1f)) => {
                text.push(char::from(b'3' + code - 0x19));
                rest = &rest[6..];
            }
            _ => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_status_is_read() {
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(
            status(&[0x3f, 0x01, 0x8c]),
            400,
            "after an update of the table size"
        );
        assert_eq!(status(&[0x20, 0x8d]), 404);
        assert_eq!(status(b"\x48\x03421"), 421);
        // The example of RFC 7541, section C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
    }
}
