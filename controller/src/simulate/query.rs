//! The request that is asked about.

use std::net::IpAddr;

use gatehouse_gateway::server::wire;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

/// A request to explain.
#[derive(Debug, Clone)]
pub struct Query {
    pub(super) method: Method,
    pub(super) uri: Uri,
    headers: HeaderMap,
}

impl Query {
    /// Reads method, URL and `Name: value` fields; the error is a sentence.
    pub fn new<'a>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("`{method}` is no HTTP method; write for example GET"))?;
        let bad = || {
            format!("`{url}` is no URL of a request; write for example http://shop.example/cart")
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(bad());
        }
        let mut fields = HeaderMap::new();
        for line in headers {
            let parsed = line.split_once(':').and_then(|(name, value)| {
                let name: HeaderName = name.trim().parse().ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let (name, value) = parsed.ok_or_else(|| {
                format!("`{line}` is no header field; write for example 'Host: shop.example'")
            })?;
            fields.append(name, value);
        }
        Ok(Self {
            method,
            uri,
            headers: fields,
        })
    }

    pub(super) fn https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The server name that a client sends in its handshake: the URL's, whatever `Host` says.
    pub(super) fn name_of_connection(&self) -> Option<String> {
        let host = self.uri.host().filter(|_| self.https())?;
        let canonical = wire::canonical_host(host.as_bytes())?.canonical.to_string();
        // Clients send no name for an address.
        canonical
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_err()
            .then_some(canonical)
    }

    /// The host as a client would send it: `Host` wins over the URL, as with `curl -H`.
    pub(super) fn host(&self) -> &[u8] {
        match self.headers.get(header::HOST) {
            Some(host) => host.as_bytes(),
            None => self
                .uri
                .authority()
                .map_or(&[], |authority| authority.as_str().as_bytes()),
        }
    }
}
