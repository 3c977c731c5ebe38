//! Header fields that no setting may name.
//!
//! Pure. The gateway writes the framing of a message, its host and what it knows about the client
//! itself: a value from a setting in one of these fields would put it out of step with an endpoint
//! or tell the endpoint what is not true.

use gatehouse_gateway::model::is_framing;
use http::HeaderName;

/// Why `add-request-headers` must not add this field, as the end of a sentence; `None` when it may.
pub(super) fn not_to_add(name: &HeaderName) -> Option<&'static str> {
    if is_framing(name) {
        return Some("belongs to the framing of a message, which the gateway writes itself");
    }
    match name.as_str() {
        "host" => Some("says which host was asked for, which the gateway writes itself"),
        "forwarded" | "x-real-ip" | "x-scheme" => Some(ORIGIN),
        name if name.starts_with("x-forwarded-") || name.starts_with("x-original-forwarded-") => {
            Some(ORIGIN)
        }
        _ => None,
    }
}

/// Why `forwarded-for-header` must not be this field, as the end of a sentence; `None` when it may.
pub(super) fn not_an_address(name: &HeaderName) -> Option<&'static str> {
    let text = name.as_str();
    let addresses = matches!(
        text,
        "x-forwarded-for" | "x-original-forwarded-for" | "x-real-ip"
    );
    if addresses {
        return None;
    }
    let meant = "has another meaning and never holds the address of a client";
    if OTHER_MEANING.contains(&text)
        || ["accept", "content-", "if-", "sec-", "access-control-"]
            .iter()
            .any(|begin| text.starts_with(begin))
    {
        return Some(meant);
    }
    not_to_add(name).map(|_| meant)
}

const ORIGIN: &str = "tells endpoints about the client, which the gateway does itself";

/// Fields of requests with a meaning of their own, beside those of [`not_to_add`].
const OTHER_MEANING: &[&str] = &[
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "from",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "server",
    "set-cookie",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-request-id",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn framing_host_and_origin_are_reserved() {
        for text in [
            "Content-Length",
            "Transfer-Encoding",
            "Host",
            "Connection",
            "Upgrade",
            "Expect",
            "TE",
            "Trailer",
            "Keep-Alive",
            "Proxy-Connection",
            "Forwarded",
            "X-Real-IP",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Anything",
            "X-Original-Forwarded-For",
        ] {
            assert!(not_to_add(&name(text)).is_some(), "{text}");
        }
        for text in [
            "X-Via",
            "Authorization",
            "X-Request-Start",
            "Cookie",
            "X-Original-Site",
        ] {
            assert_eq!(not_to_add(&name(text)), None, "{text}");
        }
    }

    #[test]
    fn an_address_comes_in_a_field_for_addresses() {
        for text in [
            "Host",
            "Content-Length",
            "Content-Type",
            "Connection",
            "Authorization",
            "Cookie",
            "Forwarded",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Request-ID",
            "Accept",
            "If-None-Match",
        ] {
            assert!(not_an_address(&name(text)).is_some(), "{text}");
        }
        for text in [
            "X-Forwarded-For",
            "X-Real-IP",
            "CF-Connecting-IP",
            "True-Client-IP",
            "X-Client-Address",
        ] {
            assert_eq!(not_an_address(&name(text)), None, "{text}");
        }
    }
}
