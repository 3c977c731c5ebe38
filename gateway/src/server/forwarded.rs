//! Whom to believe about the client: the connection, or what a trusted peer says.
//!
//! Invariant: without a trusted peer nothing of what the request says about its origin counts.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::wire::canonical_host;
use crate::model::Settings;

/// What the gateway knows about the client and says to the endpoint.
#[derive(Debug)]
pub(super) struct Forwarded {
    /// The client.
    pub client: IpAddr,
    /// Whether the client sees https.
    pub https: bool,
    /// Port the client believes it reached.
    pub port: u16,
    /// Host from a trusted `X-Forwarded-Host`.
    pub host: Option<HeaderValue>,
    /// Whether forwarded fields of this peer are believed.
    pub trusted: bool,
}

impl Forwarded {
    /// Starts from what the connection shows, and believes a trusted peer's fields.
    pub(super) fn of(
        headers: &HeaderMap,
        settings: &Settings,
        peer: IpAddr,
        mut seen: Self,
    ) -> Self {
        let trust = &settings.trust;
        if !contains(&trust.forwarded_from, peer) {
            return seen;
        }
        seen.trusted = true;
        if let Some(client) = last_untrusted(headers, &trust.address_header, &trust.forwarded_from)
        {
            seen.client = client;
        }
        if !trust.all_fields {
            return seen;
        }
        match first(headers, &X_FORWARDED_PROTO) {
            Some("https" | "wss") => seen.https = true,
            Some("http" | "ws") => seen.https = false,
            _ => {}
        }
        if let Some(port) = first(headers, &X_FORWARDED_PORT).and_then(|port| port.parse().ok()) {
            seen.port = port;
        }
        seen.host = first(headers, &X_FORWARDED_HOST)
            .filter(|host| canonical_host(host.as_bytes()).is_some())
            .and_then(|host| HeaderValue::from_str(host).ok());
        seen
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The address list is read from its end, past every hop that is trusted itself.
fn last_untrusted(headers: &HeaderMap, name: &HeaderName, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut client = None;
    for value in headers.get_all(name).iter().rev() {
        for hop in value.to_str().ok()?.rsplit(',') {
            let Some(address) = hop_address(hop.trim()) else {
                return client;
            };
            client = Some(address);
            if !contains(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn hop_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .or_else(|_| {
            text.parse::<std::net::SocketAddr>()
                .map(|address| address.ip())
        })
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.split(',').next().unwrap_or(value).trim())
}

pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
