//! Header fields on their way through, in both directions.
//!
//! Invariants: fields named by `Connection` go first, so a client cannot make the gateway drop
//! the fields that the gateway itself sets afterwards (Traefik CVE-2024-45410). What a client says
//! about addresses, schemes and hosts is removed before the truth is written, unless its peer is
//! trusted. Message framing never passes: it is made anew from the body.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE,
};

use super::forwarded::{Forwarded, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO};
use super::survey::{Survey, list};
use crate::model::{Settings, is_framing};

/// Removes the fields that `Connection` names, and `Connection` itself (RFC 9110, section 7.6.1).
/// `Host` and the framing stay: they are written anew anyway.
fn remove_connection_fields(headers: &mut HeaderMap) {
    let Entry::Occupied(entry) = headers.entry(CONNECTION) else {
        return;
    };
    let mut values = entry.iter();
    if values
        .next()
        .is_some_and(|value| value == "keep-alive" || value == "close")
        && values.next().is_none()
    {
        entry.remove();
        return;
    }
    let values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
    for token in values.iter().flat_map(list) {
        if !matches!(
            token.to_ascii_lowercase().as_str(),
            "host" | "content-length"
        ) {
            headers.remove(token);
        }
    }
}

/// What the request to the endpoint is made of.
pub(super) struct Outgoing<'a> {
    pub survey: &'a Survey,
    pub forwarded: &'a Forwarded,
    /// Host for the endpoint.
    pub host: HeaderValue,
    /// The client's address.
    pub address: HeaderValue,
    /// Port the client believes it reached.
    pub port: HeaderValue,
    /// TCP peer, appended to `X-Forwarded-For` if configured.
    pub peer: IpAddr,
    /// Exact length of the body, `None` when unknown.
    pub length: Option<u64>,
    pub http2_upstream: bool,
    pub websocket: bool,
    pub fresh_id: [u8; 32],
}

/// Rewrites the fields of a request in place.
pub(super) fn to_endpoint(headers: &mut HeaderMap, settings: &Settings, out: Outgoing<'_>) {
    let survey = out.survey;
    let claim = |name| survey.claims.then(|| headers.get(name).cloned()).flatten();
    let original_for = survey
        .claims
        .then(|| all_lines(headers, &settings.trust.address_header))
        .flatten();
    let original_host = claim(&X_FORWARDED_HOST);
    let forwarded_for = forwarded_for(headers, settings, &out);
    if survey.connection {
        remove_connection_fields(headers);
    }
    for name in &survey.remove {
        headers.remove(name);
    }
    if survey.upgrade {
        headers.remove(UPGRADE);
    }
    if survey.expects {
        headers.remove(EXPECT);
    }
    if survey.te {
        headers.remove(TE);
    }
    if survey.chunked {
        headers.remove(TRANSFER_ENCODING);
    }
    if survey.cookies > 1 && !out.http2_upstream {
        join_cookies(headers);
    }
    headers.reserve(FIELDS_ADDED);
    frame(headers, &out);
    if headers.get(HOST) != Some(&out.host) {
        headers.insert(HOST, out.host.clone());
    }
    if !(survey.request_id && keeps_id(headers, settings))
        && let Ok(id) = HeaderValue::from_bytes(&out.fresh_id)
    {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(
        X_FORWARDED_FOR,
        forwarded_for.unwrap_or_else(|| out.address.clone()),
    );
    headers.insert(X_REAL_IP, out.address);
    let scheme = HeaderValue::from_static(if out.forwarded.https { "https" } else { "http" });
    headers.insert(X_FORWARDED_HOST, out.host);
    headers.insert(X_FORWARDED_PORT, out.port);
    headers.insert(X_FORWARDED_PROTO, scheme.clone());
    headers.insert(X_FORWARDED_SCHEME, scheme.clone());
    headers.insert(X_SCHEME, scheme);
    if let Some(original) = original_for {
        headers.insert(X_ORIGINAL_FORWARDED_FOR, original);
    }
    if let Some(original) = original_host {
        headers.insert(X_ORIGINAL_FORWARDED_HOST, original);
    }
    for (name, value) in &settings.headers.add_to_request {
        // The controller refuses these; they must not pass even if a plan has one.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) && name != HOST
            && !is_framing(&name)
        {
            headers.insert(name, value);
        }
    }
    if out.websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    } else if out.http2_upstream && survey.te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// All lines of a list as one (RFC 9110, section 5.3).
fn all_lines(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(first.clone());
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// The list to send when it is to be extended instead of replaced.
fn forwarded_for(
    headers: &HeaderMap,
    settings: &Settings,
    out: &Outgoing<'_>,
) -> Option<HeaderValue> {
    if !settings.trust.append || !out.forwarded.trusted {
        return None;
    }
    let mut list = String::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        list.push_str(value.to_str().ok()?);
        list.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = write!(list, "{}", out.peer.to_canonical());
    HeaderValue::from_str(&list).ok()
}

/// One framing, from what the body really is. A body of unknown length says so itself: hyper's
/// client would drop the body of a GET otherwise.
fn frame(headers: &mut HeaderMap, out: &Outgoing<'_>) {
    if let Some(length) = out.length {
        if length > 0 || out.survey.length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        return;
    }
    headers.remove(CONTENT_LENGTH);
    if !out.http2_upstream {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// RFC 9113, section 8.2.3.
fn join_cookies(headers: &mut HeaderMap) {
    let mut joined = Vec::new();
    for value in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

fn keeps_id(headers: &HeaderMap, settings: &Settings) -> bool {
    settings.headers.keep_request_id
        && headers
            .get(&X_REQUEST_ID)
            .is_some_and(|id| !id.is_empty() && id.len() <= LONGEST_ID)
}

/// Removes from an answer what concerns only the hop to the endpoint, and what nginx would have
/// consumed itself: `Server`, and the `X-Accel-*` instructions, which we do not obey.
pub(super) fn to_client(headers: &mut HeaderMap, upgraded: bool) {
    remove_connection_fields(headers);
    headers.remove(http::header::SERVER);
    let consumed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ends_here(name.as_str(), upgraded))
        .cloned()
        .collect();
    for name in consumed {
        headers.remove(name);
    }
}

pub(super) fn ends_here(name: &str, upgraded: bool) -> bool {
    match name {
        "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "x-pad" => true,
        "upgrade" => !upgraded,
        _ => name.starts_with("x-accel-"),
    }
}

/// 32 hex digits of a fresh request id.
pub(super) fn hex_id(high: u64, low: u64) -> [u8; 32] {
    let value = u128::from(high) << 64 | u128::from(low);
    std::array::from_fn(|at| {
        let digit = (value >> (124 - 4 * at)) & 0xf;
        HEX.get(usize::try_from(digit).unwrap_or(0))
            .copied()
            .unwrap_or(b'0')
    })
}

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Fields that a request gains on its way, at most in the usual case.
const FIELDS_ADDED: usize = 12;
/// Longest request id that is taken over from a client.
const LONGEST_ID: usize = 128;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const X_ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The id of a request, for endpoints and for the access log.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use std::sync::Arc;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn rewrite(map: HeaderMap, settings: &Settings, length: Option<u64>) -> HeaderMap {
        rewrite_from(map, settings, length, false)
    }

    fn rewrite_from(
        mut map: HeaderMap,
        settings: &Settings,
        length: Option<u64>,
        http2: bool,
    ) -> HeaderMap {
        let survey = Survey::of(&map, settings, http2).unwrap();
        let peer = IpAddr::from([192, 0, 2, 9]);
        let seen = Forwarded {
            client: peer,
            https: false,
            port: 80,
            host: None,
            trusted: false,
        };
        let forwarded = Forwarded::of(&map, settings, peer, seen);
        let out = Outgoing {
            survey: &survey,
            forwarded: &forwarded,
            host: HeaderValue::from_static("h.test"),
            address: HeaderValue::from_str(&forwarded.client.to_string()).unwrap(),
            port: HeaderValue::from(forwarded.port),
            peer,
            length,
            http2_upstream: false,
            websocket: false,
            fresh_id: hex_id(1, 2),
        };
        to_endpoint(&mut map, settings, out);
        map
    }

    #[test]
    fn a_stranger_cannot_choose_its_address_nor_remove_ours() {
        let map = rewrite(
            headers(&[
                ("connection", "x-forwarded-for, X-Secret, close"),
                ("x-secret", "1"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-prefix", "/admin"),
                ("x-original-url", "/admin"),
                ("x_forwarded_for", "10.0.0.1"),
                ("forwarded", "for=10.0.0.1"),
                ("ssl-client-verify", "SUCCESS"),
                ("proxy", "http://evil/"),
                ("te", "trailers"),
                ("upgrade", "h2c"),
            ]),
            &Settings::default(),
            Some(0),
        );
        assert_eq!(map["x-forwarded-for"], "192.0.2.9");
        assert_eq!(map["x-real-ip"], "192.0.2.9");
        assert_eq!(map["x-original-forwarded-for"], "10.0.0.1");
        for gone in [
            "connection",
            "x-secret",
            "x-forwarded-prefix",
            "x-original-url",
            "x_forwarded_for",
            "forwarded",
            "ssl-client-verify",
            "proxy",
            "te",
            "upgrade",
        ] {
            assert!(!map.contains_key(gone), "{gone}");
        }
        assert_eq!(map["x-request-id"].len(), 32);
    }

    #[test]
    fn a_trusted_peer_is_believed_hop_by_hop() {
        let mut settings = Settings::default();
        settings.trust.forwarded_from = vec![
            "192.0.2.0/24".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap(),
        ];
        let map = rewrite(
            headers(&[
                ("x-forwarded-for", "1.1.1.1, 3.3.3.3, 10.1.1.1"),
                ("x-forwarded-proto", "https, http"),
                ("x-forwarded-port", "8443"),
            ]),
            &settings,
            Some(0),
        );
        assert_eq!(map["x-real-ip"], "3.3.3.3");
        assert_eq!(map["x-forwarded-for"], "3.3.3.3");
        assert_eq!(map["x-forwarded-proto"], "https");
        assert_eq!(map["x-forwarded-port"], "8443");
        settings.trust.append = true;
        let map = rewrite(
            headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2")]),
            &settings,
            Some(0),
        );
        assert_eq!(map["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 192.0.2.9");
    }

    #[test]
    fn every_line_of_what_was_claimed_is_told() {
        let lines = ["10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.4"].map(|v| ("x-forwarded-for", v));
        let map = rewrite(headers(&lines), &Settings::default(), Some(0));
        assert_eq!(map["x-forwarded-for"], "192.0.2.9");
        assert_eq!(
            map["x-original-forwarded-for"],
            "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4"
        );
    }

    #[test]
    fn framing_is_made_from_the_body() {
        let map = rewrite(
            headers(&[("content-length", "005")]),
            &Settings::default(),
            Some(5),
        );
        assert_eq!(map["content-length"], "5");
        let map = rewrite(
            headers(&[("transfer-encoding", "Chunked")]),
            &Settings::default(),
            None,
        );
        assert_eq!(map["transfer-encoding"], "chunked");
        for odd in [
            "identity, chunked",
            "gzip, chunked",
            "chunked, chunked",
            ",chunked",
            "gzip",
        ] {
            let survey = Survey::of(
                &headers(&[("transfer-encoding", odd)]),
                &Settings::default(),
                false,
            );
            assert_eq!(survey.unwrap_err(), Reason::UnknownCoding, "{odd}");
        }
        let twice = headers(&[
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ]);
        assert!(Survey::of(&twice, &Settings::default(), false).is_err());
    }

    #[test]
    fn cookies_of_http2_become_one_line_and_configured_fields_are_added() {
        let mut settings = Settings::default();
        settings.headers.add_to_request = vec![(Arc::from("X-Static"), Arc::from("one"))];
        let sent = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("x-static", "client")]);
        let map = rewrite_from(sent.clone(), &settings, Some(0), true);
        assert_eq!(map.get_all("cookie").iter().count(), 1);
        assert_eq!(map["cookie"], "a=1; b=2");
        assert_eq!(map["x-static"], "one");
        assert_eq!(
            rewrite(sent, &settings, Some(0))
                .get_all("cookie")
                .iter()
                .count(),
            2
        );
    }

    #[test]
    fn no_plan_adds_framing_and_no_address_field_hides_it() {
        let mut settings = Settings::default();
        let names = [
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "Expect",
            "TE",
            "Trailer",
            "Keep-Alive",
            "Proxy-Connection",
            "Host",
        ];
        settings.headers.add_to_request = names
            .iter()
            .map(|name| (Arc::from(*name), Arc::from("5")))
            .collect();
        let map = rewrite(headers(&[("x-kept", "1")]), &settings, Some(0));
        assert_eq!(map["host"], "h.test");
        for name in names.iter().filter(|name| **name != "Host") {
            assert!(!map.contains_key(*name), "{name}");
        }
        let sent = [("connection", "close, x-hop"), ("x-hop", "1"), ("te", "x")];
        for field in ["connection", "te"] {
            settings.trust.address_header = HeaderName::from_static(field);
            let map = rewrite(headers(&sent), &settings, Some(0));
            for gone in ["connection", "x-hop", "te"] {
                assert!(!map.contains_key(gone), "{gone} with {field}");
            }
        }
    }

    #[test]
    fn answers_lose_what_belongs_to_the_hop() {
        let mut map = headers(&[
            ("connection", "close, x-internal"),
            ("x-internal", "1"),
            ("keep-alive", "timeout=5"),
            ("server", "backend"),
            ("x-accel-redirect", "/secret"),
            ("x-kept", "1"),
        ]);
        to_client(&mut map, false);
        assert_eq!(
            map.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }

    #[test]
    fn ids_are_thirty_two_hex_digits() {
        assert_eq!(
            &hex_id(0x0123_4567_89ab_cdef, 0xf),
            b"0123456789abcdef000000000000000f"
        );
    }
}
