//! What a request asks the echo to do: `?status=503&delay_ms=20`, or the same names as fields,
//! `X-Echo-Status: 503`. The query wins.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The wishes of one request. What it does not name, or names wrongly, is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// `status`: status of the answer.
    pub(super) status: StatusCode,
    /// `delay_ms`: wait before the answer's head.
    pub(super) delay: Duration,
    /// `size`: a body of so many bytes instead of the report.
    pub(super) size: Option<u64>,
    /// `chunks`: send the body in so many pieces.
    pub(super) chunks: Option<u64>,
    /// `chunk_ms`: wait before each piece.
    pub(super) chunk_pause: Duration,
    /// `header=Name:Value`, repeatable: fields of the answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// `trailer=Name:Value`, repeatable: fields after the body.
    pub(super) trailers: Vec<(HeaderName, HeaderValue)>,
    /// `mirror=1`: the answer's body is the request's, streamed.
    pub(super) mirror: bool,
    /// `report=1`: the first message of a websocket is the report of its handshake.
    pub(super) report: bool,
    /// `drop=1`: close the connection instead of answering.
    pub(super) drop: bool,
}

impl Wish {
    pub(super) fn of(query: Option<&str>, headers: &HeaderMap) -> Self {
        let mut wish = Self::default();
        for (name, value) in headers {
            if let (Some(name), Ok(value)) = (name.as_str().strip_prefix("x-echo-"), value.to_str())
            {
                wish.set(&name.replace('-', "_"), value);
            }
        }
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
            wish.set(name, &decode(value));
        }
        wish
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = value.parse::<u64>().ok();
        match name {
            "status" => {
                if let Ok(status) = value.parse() {
                    self.status = status;
                }
            }
            "delay_ms" => self.delay = number.map_or(self.delay, Duration::from_millis),
            "size" => self.size = number.or(self.size),
            "chunks" => self.chunks = number.or(self.chunks),
            "chunk_ms" => {
                self.chunk_pause = number.map_or(self.chunk_pause, Duration::from_millis);
            }
            "header" => self.headers.extend(field(value)),
            "trailer" => self.trailers.extend(field(value)),
            "mirror" => self.mirror = value == "1",
            "report" => self.report = value == "1",
            "drop" => self.drop = value == "1",
            _ => {}
        }
    }

    /// Whether the body must be sent by a task, piece by piece.
    pub(super) fn streams(&self) -> bool {
        self.chunks.is_some() || !self.chunk_pause.is_zero() || !self.trailers.is_empty()
    }
}

fn field(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

/// Percent-decodes; a broken escape stays as it is. `+` is no blank: a value may hold one.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, tail @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high * 16 + low, tail)),
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((first, after));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_wins_over_fields_and_nonsense_changes_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert("x-echo-status", HeaderValue::from_static("503"));
        headers.insert("x-echo-delay-ms", HeaderValue::from_static("7"));
        let wish = Wish::of(Some("status=418&size=many&mirror"), &headers);
        assert_eq!(wish.status.as_u16(), 418);
        assert_eq!(wish.delay, Duration::from_millis(7));
        assert_eq!(wish.size, None);
        assert!(wish.mirror);
    }

    #[test]
    fn fields_are_decoded_and_broken_ones_left_out() {
        let wish = Wish::of(
            Some("header=X-A:%20b%2Fc%zz&header=broken&trailer=X%3A%0a"),
            &HeaderMap::new(),
        );
        assert_eq!(
            wish.headers,
            [("x-a".parse().unwrap(), HeaderValue::from_static("b/c%zz"))]
        );
        assert_eq!(
            wish.trailers,
            [("x".parse().unwrap(), HeaderValue::from_static(""))]
        );
    }
}
