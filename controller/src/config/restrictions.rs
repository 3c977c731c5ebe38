//! Keys of the ConfigMap that restrict access for every route, as ingress-nginx has them.
//!
//! None of them can be applied yet. What the annotations do for one Ingress, these ask for all of
//! them: so they close the door of every route, until they are removed.
//!
//! Invariants: exact names come before families, and no name here is a setting.

use crate::annotations::{Name, Off};

/// One row: a key, or a family of them.
#[derive(Debug, Clone, Copy)]
pub struct Restriction {
    /// Which keys it is about.
    pub name: Name,
    /// Values that restrict nothing; `None`: a detail that never restricts anything by itself.
    pub off: Option<Off>,
    /// What it asks for; continues "`key` … ".
    pub asks: &'static str,
}

impl Restriction {
    /// The row of a key.
    pub fn of(key: &str) -> Option<&'static Self> {
        RESTRICTIONS.iter().find(|row| row.name.fits(key))
    }

    /// Whether this value asks for a restriction.
    pub fn is_asked(&self, value: &str) -> bool {
        self.off.is_some_and(|off| !off.is(value.trim()))
    }
}

const fn row(name: Name, off: Off, asks: &'static str) -> Restriction {
    Restriction {
        name,
        off: Some(off),
        asks,
    }
}

const fn detail(name: &'static str) -> Restriction {
    Restriction {
        name: Name::Is(name),
        off: None,
        asks: "says how the authentication service of all routes is asked",
    }
}

const ADDRESSES: &str = "restricts client addresses";
const CLIENTS: &str = "refuses some clients";
const FIREWALL: &str = "asks for a web application firewall";

/// Every such key.
pub const RESTRICTIONS: &[Restriction] = &[
    row(Name::Is("denylist-source-range"), Off::Empty, ADDRESSES),
    row(
        Name::Ends("-source-range"),
        Off::Everybody(&["0.0.0.0/0", "::/0"]),
        ADDRESSES,
    ),
    row(Name::Is("block-cidrs"), Off::Empty, ADDRESSES),
    row(Name::Begins("block-"), Off::Empty, CLIENTS),
    row(
        Name::Is("global-auth-url"),
        Off::Empty,
        "asks an authentication service about every request",
    ),
    detail("global-auth-method"),
    detail("global-auth-signin"),
    detail("global-auth-signin-redirect-param"),
    detail("global-auth-response-headers"),
    detail("global-auth-request-redirect"),
    detail("global-auth-cache-key"),
    detail("global-auth-cache-duration"),
    detail("global-auth-always-set-cookie"),
    row(Name::Is("enable-modsecurity"), Off::FALSE, FIREWALL),
    row(
        Name::Is("enable-owasp-modsecurity-crs"),
        Off::FALSE,
        FIREWALL,
    ),
    row(Name::Begins("modsecurity-"), Off::Empty, FIREWALL),
    row(
        Name::Ends("-snippet"),
        Off::Empty,
        "holds nginx configuration, which may restrict access,",
    ),
    // No key of ingress-nginx: a misspelt one, or an annotation in the wrong place. It was meant to
    // keep somebody out.
    row(
        Name::Begins("global-auth-"),
        Off::Empty,
        "is unknown and looks like authentication",
    ),
    row(
        Name::Begins("auth-"),
        Off::Empty,
        "is unknown and looks like authentication",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;
    use crate::config::settings::WITHOUT_MEANING;

    fn closes(key: &str, value: &str) -> bool {
        Restriction::of(key).is_some_and(|row| row.is_asked(value))
    }

    #[test]
    fn a_key_that_restricts_closes_unless_its_value_is_off() {
        for (key, value) in [
            ("whitelist-source-range", "10.0.0.0/8"),
            ("allowlist-source-range", "nonsense"),
            ("denylist-source-range", "0.0.0.0/0,::/0"),
            ("block-cidrs", "192.0.2.0/24"),
            ("block-user-agents", "~*bot"),
            ("block-referers", "evil.example"),
            ("global-auth-url", "http://auth.test/"),
            ("global-auth-ulr", "http://auth.test/"),
            ("global-auth-snippet", "deny all;"),
            ("auth-tls-secret", "shop/ca"),
            ("enable-modsecurity", "true"),
            ("enable-owasp-modsecurity-crs", "yes"),
            ("modsecurity-snippet", "SecRuleEngine On"),
            ("main-snippet", "deny all;"),
            ("http-snippet", "deny all;"),
            ("server-snippet", "deny all;"),
            ("location-snippet", "deny all;"),
        ] {
            assert!(closes(key, value), "{key}: {value}");
            assert!(!closes(key, " "), "{key} is empty");
        }
        for (key, value) in [
            ("whitelist-source-range", "::/0, 0.0.0.0/0"),
            ("enable-modsecurity", "false"),
            ("global-auth-method", "POST"),
            ("nginx-status-ipv4-whitelist", "127.0.0.1"),
            ("proxy-real-ip-cidr", "10.0.0.0/8"),
            ("worker-processes", "4"),
        ] {
            assert!(!closes(key, value), "{key}: {value}");
        }
    }

    #[test]
    fn no_row_is_hidden_and_none_is_a_setting() {
        for (index, row) in RESTRICTIONS.iter().enumerate() {
            let (Name::Is(name) | Name::Begins(name) | Name::Ends(name)) = row.name;
            let first = RESTRICTIONS.iter().position(|row| row.name.fits(name));
            assert_eq!(first, Some(index), "{name}");
        }
        let names = SETTINGS.iter().map(|setting| setting.name);
        for name in names.chain(WITHOUT_MEANING.iter().copied()) {
            assert!(Restriction::of(name).is_none(), "{name}");
        }
    }
}
