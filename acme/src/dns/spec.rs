//! What an operator writes to have TXT records written: one entry of `dns` of an issuer.
//!
//! Invariants:
//! - Unknown fields are refused: a misspelled one must not be a setting that silently does nothing.
//! - Credentials are in the named secret, never here.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize};

/// One way to write records, and the zones it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SolverSpec {
    /// Zones it writes to; the longest that contains a name wins.
    #[serde(deserialize_with = "zones")]
    pub zones: Vec<String>,
    /// Which provider.
    pub provider: Provider,
    /// Secret with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Address and port of the server that takes updates (`rfc2136`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// Where the provider is reached: `httpreq` and `acme-dns` need it, the others know theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Program to run (`exec`), with its whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Whether CNAMEs are followed to the place to write.
    #[serde(default)]
    pub cnames: Cnames,
    /// Whom to ask about CNAMEs and zones, instead of the system's resolvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolvers: Option<Vec<SocketAddr>>,
    /// Who must have the record before the authority is told.
    #[serde(default)]
    pub propagation: Propagation,
    /// Time to live of the records, in seconds, where the provider takes one.
    #[serde(default = "minute")]
    pub ttl: u32,
}

/// As names are compared: lower case, without a final dot.
fn zones<'a, D: Deserializer<'a>>(input: D) -> Result<Vec<String>, D::Error> {
    let mut zones = Vec::<String>::deserialize(input)?;
    for zone in &mut zones {
        *zone = zone.strip_suffix('.').unwrap_or(zone).to_ascii_lowercase();
    }
    Ok(zones)
}

fn minute() -> u32 {
    60
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// A server that takes signed updates. Entries: `key`, `secret` (base64), perhaps `algorithm`.
    Rfc2136,
    /// A program, called as lego calls one. Every entry becomes a variable of its environment.
    Exec,
    /// A server that speaks lego's protocol. Entries, if it wants them: `username`, `password`.
    Httpreq,
    /// An acme-dns server. Entries: `username`, `password`, `subdomain`, `fulldomain`.
    AcmeDns,
    /// Cloudflare. Entry: `api-token`, with the right to edit DNS of the zone.
    Cloudflare,
    /// Amazon Route 53. Entries: `access-key-id`, `secret-access-key`, perhaps `session-token`.
    Route53,
}

impl fmt::Display for Provider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rfc2136 => "rfc2136",
            Self::Exec => "exec",
            Self::Httpreq => "httpreq",
            Self::AcmeDns => "acme-dns",
            Self::Cloudflare => "cloudflare",
            Self::Route53 => "route53",
        })
    }
}

/// Whether CNAMEs are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cnames {
    #[default]
    Follow,
    Never,
}

/// Who must have the record before the authority is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Propagation {
    /// Every name server of the zone.
    #[default]
    Authoritative,
    /// The resolvers: where the name servers cannot be reached from here.
    Resolvers,
    /// Nobody: the provider answers when all is done.
    None,
}

impl SolverSpec {
    /// Length of the longest zone that contains `domain`, if any does.
    pub fn fits(&self, domain: &str) -> Option<usize> {
        let inside = |zone: &&String| {
            domain
                .strip_suffix(zone.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.zones.iter().filter(inside).map(String::len).max()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_zone_that_contains_the_name_counts() {
        let spec = json!({"zones": ["example.org", "dev.example.org"], "provider": "rfc2136"});
        let spec: SolverSpec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(spec.fits("a.dev.example.org"), Some(15));
        assert_eq!(spec.fits("example.org"), Some(11));
        assert_eq!(spec.fits("badexample.org"), None);
        assert_eq!(spec.ttl, 60);
    }

    #[test]
    fn every_provider_is_written_as_it_is_shown_and_no_other_is_known() {
        for name in [
            "rfc2136",
            "exec",
            "httpreq",
            "acme-dns",
            "cloudflare",
            "route53",
        ] {
            let provider: Provider = serde_json::from_value(json!(name)).expect("known");
            assert_eq!(provider.to_string(), name);
        }
        let unknown = json!({"zones": [], "provider": "godaddy"});
        let error = serde_json::from_value::<SolverSpec>(unknown).expect_err("unknown");
        assert!(error.to_string().contains("cloudflare"), "{error}");
    }
}
