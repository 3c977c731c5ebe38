//! Names that a certificate can carry: DNS names, wildcards, addresses.
//!
//! Invariants:
//! - A [`Name`] is normalized: lower case, no final dot, ASCII; equal names are equal values.
//! - A wildcard has `*` as its whole first label and at least two labels behind it.
//! - No name is longer than DNS allows, so a record is bounded by the number of its names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One identifier of a certificate, normalized.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Name {
    /// A DNS name; a wildcard begins with `*.`.
    Dns(String),
    /// An address (RFC 8738).
    Ip(IpAddr),
}

/// Why something is not a name that a certificate can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not ASCII.
    #[error("{0:?} is not ASCII: write it in punycode (xn--…)")]
    NotAscii(String),
    /// A label or the whole is empty or too long, or a character is not of a host name.
    #[error("{0:?} is not a DNS name: labels of 1 to 63 of a-z, 0-9 and inner '-', 253 in all")]
    Malformed(String),
    /// `*` anywhere but as the whole first label.
    #[error("{0:?}: a wildcard is '*.' before a name of at least two labels")]
    Wildcard(String),
}

impl Name {
    /// Reads and normalizes a name. What parses as an address is one.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = inner.parse::<IpAddr>() {
            return Ok(Self::Ip(address.to_canonical()));
        }
        if !text.is_ascii() {
            return Err(NameError::NotAscii(text.to_owned()));
        }
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let base = match lower.strip_prefix("*.") {
            Some(base) if base.contains('.') => base,
            Some(_) => return Err(NameError::Wildcard(text.to_owned())),
            None => &lower,
        };
        if base.contains('*') {
            return Err(NameError::Wildcard(text.to_owned()));
        }
        if lower.len() > LONGEST || !base.split('.').all(is_label) {
            return Err(NameError::Malformed(text.to_owned()));
        }
        Ok(Self::Dns(lower))
    }

    /// Whether this is `*.` and a name.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.starts_with("*."))
    }

    /// The DNS name that is validated: without `*.`. `None` for an address.
    pub fn base(&self) -> Option<&str> {
        match self {
            Self::Dns(name) => Some(name.strip_prefix("*.").unwrap_or(name)),
            Self::Ip(_) => None,
        }
    }

    /// Whether a certificate with this name is good for `other`: the same, or its wildcard one
    /// label above.
    pub fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        let (Self::Dns(own), Self::Dns(theirs)) = (self, other) else {
            return false;
        };
        match (own.strip_prefix("*."), theirs.split_once('.')) {
            (Some(base), Some((first, rest))) => first != "*" && base == rest,
            _ => false,
        }
    }

    /// The server name a TLS-ALPN-01 validation asks for: the name itself, or the reverse name of
    /// an address (RFC 8738, section 6). `None` for a wildcard, which it cannot validate.
    pub fn server_name(&self) -> Option<String> {
        match self {
            Self::Dns(_) if self.is_wildcard() => None,
            Self::Dns(name) => Some(name.clone()),
            Self::Ip(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                Some(format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
            }
            Self::Ip(IpAddr::V6(address)) => {
                let octets = address.octets();
                let nibbles = octets
                    .iter()
                    .rev()
                    .map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
                Some(nibbles.collect::<String>() + "ip6.arpa")
            }
        }
    }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Ip(address) => address.fmt(formatter),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

/// Longest DNS name in text (RFC 1035, section 2.3.4, without the final dot).
const LONGEST: usize = 253;

const LONGEST_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect(text)
    }

    #[test]
    fn case_final_dot_and_brackets_do_not_make_another_name() {
        assert_eq!(name("Shop.Example.ORG."), name("shop.example.org"));
        assert_eq!(name("[2001:DB8::1]"), name("2001:db8:0::1"));
        assert_eq!(name("::ffff:192.0.2.1"), name("192.0.2.1"));
    }

    #[test]
    fn what_no_certificate_can_carry_is_refused_with_the_reason() {
        for text in ["", ".", "a..b", "-a.b", "a b", "a/b", &"a.".repeat(130)] {
            assert!(
                matches!(Name::parse(text), Err(NameError::Malformed(_))),
                "{text}"
            );
        }
        for text in ["*", "*.org", "a.*.org", "**.example.org", "*a.example.org"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        assert!(matches!(
            Name::parse("müller.de"),
            Err(NameError::NotAscii(_))
        ));
    }

    #[test]
    fn a_wildcard_covers_one_label_and_no_other_wildcard() {
        let wild = name("*.example.org");
        assert!(wild.covers(&name("a.example.org")));
        assert!(wild.covers(&wild));
        for other in [
            "example.org",
            "a.b.example.org",
            "*.b.example.org",
            "192.0.2.1",
        ] {
            assert!(!wild.covers(&name(other)), "{other}");
        }
        assert!(!name("a.example.org").covers(&wild));
    }

    #[test]
    fn an_address_is_validated_by_its_reverse_name() {
        assert_eq!(
            name("127.0.0.2").server_name().as_deref(),
            Some("2.0.0.127.in-addr.arpa")
        );
        let six = name("2001:db8::1").server_name().expect("a reverse name");
        assert!(six.starts_with("1.0.0.0.0.0"), "{six}");
        assert!(six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{six}");
        assert_eq!(name("*.example.org").server_name(), None);
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_itself(text in "\\PC{0,40}|([*a-zA-Z0-9-]{1,5}\\.){1,4}[a-z]{1,3}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(&name.to_string()), Ok(name));
            }
        }
    }
}
