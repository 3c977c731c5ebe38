//! `Strict-Transport-Security` (RFC 6797).
//!
//! Invariants: sent on TLS connections only (RFC 6797, section 7.2, and ingress-nginx, whatever
//! `X-Forwarded-Proto` says); it replaces the field of the endpoint.

use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

use super::BrokenPolicy;

/// Adds the field to responses on TLS connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hsts {
    #[serde(serialize_with = "as_text")]
    value: HeaderValue,
}

impl Hsts {
    pub(super) fn new(value: &str) -> Result<Self, BrokenPolicy> {
        HeaderValue::from_str(value)
            .map(|value| Self { value })
            .map_err(|_| BrokenPolicy)
    }

    pub(super) fn on_response(&self, tls: bool, headers: &mut HeaderMap) {
        if tls {
            // HeaderMap::insert removes every value the endpoint sent.
            headers.insert(header::STRICT_TRANSPORT_SECURITY, self.value.clone());
        }
    }
}

fn as_text<S: serde::Serializer>(value: &HeaderValue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&String::from_utf8_lossy(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_field_of_the_endpoint_on_tls_and_leaves_it_on_plain_connections() {
        let hsts = Hsts::new("max-age=31536000; includeSubDomains").unwrap();
        let mut headers = HeaderMap::new();
        headers.append("strict-transport-security", "max-age=1".parse().unwrap());
        headers.append("strict-transport-security", "max-age=2".parse().unwrap());

        hsts.on_response(false, &mut headers);
        assert_eq!(
            headers.get_all("strict-transport-security").iter().count(),
            2
        );

        hsts.on_response(true, &mut headers);
        let values: Vec<_> = headers
            .get_all("strict-transport-security")
            .iter()
            .collect();
        assert_eq!(values, ["max-age=31536000; includeSubDomains"]);
    }
}
