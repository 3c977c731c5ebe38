//! The few bytes of WebSocket (RFC 6455) that a test needs: short text frames and the handshake.

/// Client key of the handshake.
pub const KEY: &str = "Y29ycHVzY29ycHVzY29ycA==";
/// What a server must answer to [`KEY`].
pub const ACCEPT: &str = "csIDGYm4dkocOFudz3M1Gm5o5aw=";

/// Request head of an HTTP/1.1 handshake.
pub fn request(host: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// Answer head of a server that accepts [`KEY`].
pub fn accepted() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// A masked text frame with a zero mask. At most 125 bytes.
pub fn masked(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short frame");
    assert!(length < 126, "a short frame");
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Payload of the first frame from a server and the bytes it took, once it is complete.
pub fn unmasked(bytes: &[u8]) -> Option<(String, usize)> {
    let length = usize::from(*bytes.get(1)? & 0x7f);
    let payload = bytes.get(2..2 + length)?;
    Some((String::from_utf8_lossy(payload).into_owned(), 2 + length))
}

/// Turns a client frame into the server frame that echoes it, once it is complete.
pub fn echo(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let length = usize::from(*bytes.get(1)? & 0x7f);
    let mask = bytes.get(2..6)?;
    let payload = bytes.get(6..6 + length)?;
    let mut frame = vec![bytes[0], bytes[1] & 0x7f];
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    Some((frame, 6 + length))
}
