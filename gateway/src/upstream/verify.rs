//! Whether the head of an answer may be passed on.
//!
//! Pure. An answer that could be read in two ways is refused, the rest leaves here with one
//! framing only. hyper has refused malformed syntax before; what it lets through and we do not
//! was measured: see the tests.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::error::{ProxyError, Reason};

/// Refuses an answer that could be read in two ways, and makes the rest unambiguous
/// (RFC 9112, section 6.3). hyper has read it already, so this only has to agree with hyper.
pub(crate) fn check_head(
    status: StatusCode,
    headers: &mut HeaderMap,
    http1: bool,
) -> Result<(), ProxyError> {
    let refuse = |reason| Err(ProxyError::fatal(reason));
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return refuse(Reason::UpstreamUpgrade);
    }
    if !(200..600).contains(&status.as_u16()) {
        return refuse(Reason::UpstreamProtocol);
    }
    if http1 && let Some(coding) = headers.get(TRANSFER_ENCODING) {
        let plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            && headers.get_all(TRANSFER_ENCODING).iter().count() == 1;
        if !plain {
            return refuse(Reason::UpstreamProtocol);
        }
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONTENT_LENGTH);
        return Ok(());
    }
    if canonical_length(headers) {
        Ok(())
    } else {
        refuse(Reason::UpstreamProtocol)
    }
}

/// Folds repeated equal lengths into one; false when they differ or are no numbers. hyper does
/// not look at them where there is no body (HEAD, 304), but the client would.
fn canonical_length(headers: &mut HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return true;
    };
    if lengths.next().is_none() && is_number(first.as_bytes()) {
        return true;
    }
    let mut single: Option<&[u8]> = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for length in value.as_bytes().split(|byte| *byte == b',') {
            let length = length.trim_ascii();
            if !is_number(length) || single.is_some_and(|single| single != length) {
                return false;
            }
            single = Some(length);
        }
    }
    let single = single.and_then(|length| HeaderValue::from_bytes(length).ok());
    match single {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, length);
            true
        }
        None => false,
    }
}

fn is_number(length: &[u8]) -> bool {
    // 19 digits always fit into 64 bits.
    (1..20).contains(&length.len()) && length.iter().all(u8::is_ascii_digit)
}

/// Whether a 101 switches to nothing but what was asked for (RFC 9110, section 7.8).
pub(crate) fn names_only(headers: &HeaderMap, wanted: &[HeaderValue]) -> bool {
    let wanted: Vec<&[u8]> = wanted.iter().flat_map(tokens).collect();
    let mut any = false;
    for token in headers.get_all(UPGRADE).iter().flat_map(tokens) {
        any = true;
        if !wanted.iter().any(|name| name.eq_ignore_ascii_case(token)) {
            return false;
        }
    }
    any
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn lengths_are_folded_or_refused() {
        for (values, expected) in [
            (&["5"][..], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5, 5"], Some("5")),
            (&["5", "6"], None),
            (&["5, 6"], None),
            (&["+5"], None),
            (&["-5"], None),
            (&[""], None),
            (&["5,"], None),
            (&["99999999999999999999"], None),
        ] {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            let folded = canonical_length(&mut map)
                .then(|| map.get(CONTENT_LENGTH).unwrap().to_str().unwrap());
            assert_eq!(folded, expected, "{values:?}");
            assert!(folded.is_none() || map.get_all(CONTENT_LENGTH).iter().count() == 1);
        }
    }

    #[test]
    fn heads_that_could_be_read_in_two_ways_are_refused() {
        let reason = |status: u16, fields: &[(&'static str, &'static str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            let checked = check_head(status, &mut headers(fields), true);
            checked.err().map(|error| error.reason)
        };
        assert_eq!(reason(200, &[]), None);
        assert_eq!(reason(599, &[]), None);
        assert_eq!(reason(600, &[]), Some(Reason::UpstreamProtocol));
        assert_eq!(reason(999, &[]), Some(Reason::UpstreamProtocol));
        assert_eq!(reason(101, &[]), Some(Reason::UpstreamUpgrade));
        assert_eq!(reason(200, &[("transfer-encoding", "Chunked")]), None);
        for coding in ["gzip", "gzip, chunked", "chunked, chunked", "identity", ""] {
            let refused = reason(200, &[("transfer-encoding", coding)]);
            assert_eq!(refused, Some(Reason::UpstreamProtocol), "{coding}");
        }
        let twice = [
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(reason(200, &twice), Some(Reason::UpstreamProtocol));

        let mut both = headers(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        assert!(check_head(StatusCode::OK, &mut both, true).is_ok());
        assert!(
            both.is_empty(),
            "the length lies, and the coding is ours to set"
        );
    }

    #[test]
    fn a_switch_names_only_what_was_asked_for() {
        let wanted = [HeaderValue::from_static("h2c, websocket")];
        let names = |value| names_only(&headers(&[("upgrade", value)]), &wanted);
        assert!(names("websocket"));
        assert!(names("WebSocket"));
        assert!(!names("foo"));
        assert!(!names("websocket, foo"));
        assert!(!names(""));
        assert!(!names_only(&HeaderMap::new(), &wanted));
    }
}
