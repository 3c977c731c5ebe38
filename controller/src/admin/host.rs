//! Whom a request to the admin server means.
//!
//! A server on loopback is out of reach for a web page, unless the page's own name is made to
//! resolve to 127.0.0.1 (DNS rebinding): then the browser lets it read everything. Its requests
//! still carry that name.
//!
//! On other addresses every name is answered, because Prometheus and kubelets use names of their
//! choice; whoever listens there has decided who can connect. The gateway itself can, and it goes
//! where Services lead: one that names a replica and its admin port would publish the pages.
//!
//! Invariants: on loopback only names that nobody else can own are answered; nothing but health is
//! answered to what a gateway has passed on.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Uri};

/// Whether every name that the request gives is an address, `localhost` or below it. No name at
/// all is fine: browsers always send one.
pub(super) fn is_ours(uri: &Uri, headers: &HeaderMap) -> bool {
    let target = uri.authority().is_none_or(local);
    target
        && headers.get_all(HOST).iter().all(|value| {
            value.is_empty()
                || Authority::try_from(value.as_bytes()).is_ok_and(|authority| local(&authority))
        })
}

fn local(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    name.rsplit('.')
        .next()
        .is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

/// The field that tells that a gateway has passed this on: one of those that it writes into every
/// request, whatever a route says. The API server's proxy and the sidecars of meshes, through which
/// scrapers come, write others.
pub(super) fn passed_on(headers: &HeaderMap) -> Option<&'static str> {
    ["x-real-ip", "x-scheme", "x-forwarded-scheme"]
        .into_iter()
        .find(|name| headers.contains_key(*name))
}

/// The field that tells of any proxy, a gateway or not. One beside us comes from this machine, where commands
/// are taken from, with requests of anybody.
pub(super) fn behind_a_proxy(headers: &HeaderMap) -> Option<&HeaderName> {
    headers.keys().find(|name| {
        let name = name.as_str();
        matches!(name, "forwarded" | "via" | "x-real-ip")
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-envoy-")
    })
}

/// What a request to a name is told.
pub(super) const REMEDY: &str = "the name of this request may belong to a web page: commands, and everything on loopback, are \
     answered to addresses, localhost and *.localhost only; use http://127.0.0.1 with the same \
     port\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        is_ours(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_names_that_nobody_can_own_are_ours() {
        let ours = [
            "localhost",
            "LOCALHOST:9091",
            "localhost.:1",
            "admin.localhost",
            "127.0.0.1:9091",
            "10.0.0.1",
            "[::1]:9091",
            "",
        ];
        for host in ours {
            assert!(asked("/", host), "{host}");
        }
        let foreign = [
            "rebound.example:9091",
            "localhost.example",
            "notlocalhost",
            "127.0.0.1.example",
            "127.0.0.1@rebound.example",
            "a b",
        ];
        for host in foreign {
            assert!(!asked("/", host), "{host}");
        }
        assert!(!asked("http://rebound.example/", "localhost"));
        assert!(is_ours(&"/".parse().unwrap(), &HeaderMap::new()));
    }
}
