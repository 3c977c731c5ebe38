//! Challenges of certificate authorities, as the control plane hands them over.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything that certificate authorities may ask for now. Published beside the plans of hosts
/// ([`crate::challenge::Challenges`]): a challenge lives for seconds and compiles no host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChallengePlan {
    /// Who is answered any token, and with which account: the body of an HTTP-01 answer needs
    /// nothing else, so replicas need not be told about single challenges.
    pub accounts: Vec<(Identifier, Thumbprint)>,
    /// HTTP-01 challenges published one by one; they win over `accounts`.
    pub tokens: Vec<TokenPlan>,
    /// TLS-ALPN-01 challenges.
    pub handshakes: Vec<HandshakePlan>,
}

/// An HTTP-01 challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPlan {
    /// What is to be proven.
    pub identifier: Identifier,
    /// The token.
    pub token: Arc<str>,
    /// The account that asked for it.
    pub account: Thumbprint,
}

/// A TLS-ALPN-01 challenge. Each replica makes its own certificate of it: no key travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakePlan {
    /// What is to be proven.
    pub identifier: Identifier,
    /// SHA-256 of the key authorization.
    pub digest: [u8; 32],
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identifier {
    /// A DNS name, lower case, without a final dot.
    Dns(Arc<str>),
    /// An address.
    Ip(IpAddr),
}

impl Identifier {
    /// The server name that a TLS-ALPN-01 validation sends: an address as the name of its reverse
    /// lookup (RFC 8738, section 6).
    pub fn server_name(&self) -> Box<str> {
        use fmt::Write;
        let address = match self {
            Self::Dns(name) => return Box::from(&**name),
            Self::Ip(address) => address,
        };
        let mut name = String::with_capacity(73);
        // Writing to a String cannot fail.
        match address {
            IpAddr::V4(address) => {
                for octet in address.octets().iter().rev() {
                    let _ = write!(name, "{octet}.");
                }
                name.push_str("in-addr.arpa");
            }
            IpAddr::V6(address) => {
                for octet in address.octets().iter().rev() {
                    let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
                }
                name.push_str("ip6.arpa");
            }
        }
        name.into_boxed_str()
    }

    /// The identifier that a canonical host names, an IPv6 address in whatever spelling.
    pub fn of_host(host: &str) -> Self {
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        match inner.unwrap_or(host).parse() {
            Ok(address) => Self::Ip(address),
            Err(_) => Self::Dns(host.into()),
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// Thumbprint of an account key (RFC 7638), base64url.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thumbprint(pub Arc<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_for_by_the_name_of_its_reverse_lookup() {
        for (host, name) in [
            ("a.test", "a.test"),
            ("192.0.2.7", "7.2.0.192.in-addr.arpa"),
            (
                "[2001:DB8::567:89ab]",
                "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(&*Identifier::of_host(host).server_name(), name);
        }
    }

    #[test]
    fn the_spelling_of_an_address_does_not_matter() {
        let host = |text| Identifier::of_host(text);
        assert_eq!(host("[2001:db8::1]"), host("[2001:0db8:0:0::1]"));
        assert_ne!(host("1.2.3.4"), Identifier::Dns("1.2.3.4".into()));
    }
}
