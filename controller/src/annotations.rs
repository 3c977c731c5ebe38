//! Annotations that are meant for a gateway, and what becomes of them.
//!
//! No policy can be set by annotation yet. Most annotations then cost comfort, and a warning says
//! so. Those that restrict access close the door instead: without them a route would be open that
//! its owner believes to be closed.
//!
//! Invariants:
//! - Pure, and the only list of annotations: translation, the reference page and the tests read it.
//! - Exact names come before families; a name of a family that is not listed closes the door too,
//!   so that a misspelt `auth-…` does not open it.
//! - A value that says "off" restricts nothing.

/// Prefixes of annotations that are meant for a gateway; both have the same names.
pub const PREFIXES: [&str; 2] = ["nginx.ingress.kubernetes.io/", "gatehouse.dev/"];

/// One row of the list: an annotation, or a family of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// Which names it is about.
    pub name: Name,
    /// What becomes of it.
    pub effect: Effect,
    /// What it asks for; continues "annotation … ".
    pub asks: &'static str,
}

/// Which names a row is about, without the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Is(&'static str),
    /// All that begin so.
    Begins(&'static str),
    /// All that end so.
    Ends(&'static str),
}

/// What becomes of an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It restricts access, so everything that the Ingress owns is refused unless the value is off.
    Refused {
        /// Values that restrict nothing.
        off: Off,
        /// ingress-nginx applies it to the whole host, also to routes of other Ingresses.
        whole_host: bool,
    },
    /// A detail that restricts nothing by itself: no effect.
    Ignored,
}

/// Values that say "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The empty value.
    Empty,
    /// The empty value, or one of these words.
    Words(&'static [&'static str]),
    /// The empty value, or a list that has all of these.
    Everybody(&'static [&'static str]),
}

/// What becomes of one annotation of an Ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its value asks for nothing, and nothing is what it gets.
    Off,
    /// It has no effect.
    Ignored,
    /// The door is closed because of this row.
    Refused(&'static Annotation),
}

/// Judges an annotation; `None` when it is not meant for a gateway.
pub fn judge(name: &str, value: &str) -> Option<Verdict> {
    let name = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let row = ANNOTATIONS.iter().find(|row| row.name.fits(name));
    Some(match row {
        Some(row) => match row.effect {
            Effect::Refused { off, .. } if off.is(value.trim()) => Verdict::Off,
            Effect::Refused { .. } => Verdict::Refused(row),
            Effect::Ignored => Verdict::Ignored,
        },
        None => Verdict::Ignored,
    })
}

impl Annotation {
    /// Whether it closes the door for the whole host, as far as the namespace goes.
    pub fn restricts_whole_host(&self) -> bool {
        matches!(
            self.effect,
            Effect::Refused {
                whole_host: true,
                ..
            }
        )
    }
}

impl Name {
    /// Whether the row is about this name.
    pub fn fits(self, name: &str) -> bool {
        match self {
            Self::Is(known) => name == known,
            Self::Begins(begin) => name.starts_with(begin),
            Self::Ends(end) => name.ends_with(end),
        }
    }
}

impl Off {
    /// What Go's `ParseBool`, and so ingress-nginx, takes for false. Anything else was meant to be on.
    pub const FALSE: Self = Self::Words(&["0", "f", "F", "false", "False", "FALSE"]);

    /// Whether this value, without space around it, says so.
    pub fn is(self, value: &str) -> bool {
        value.is_empty()
            || match self {
                Self::Empty => false,
                Self::Words(words) => words.contains(&value),
                Self::Everybody(all) => all
                    .iter()
                    .all(|one| value.split(',').any(|item| item.trim() == *one)),
            }
    }
}

const fn row(name: Name, off: Off, asks: &'static str) -> Annotation {
    Annotation {
        name,
        effect: Effect::Refused {
            off,
            whole_host: false,
        },
        asks,
    }
}

const fn host_row(name: Name, off: Off, asks: &'static str) -> Annotation {
    Annotation {
        name,
        effect: Effect::Refused {
            off,
            whole_host: true,
        },
        asks,
    }
}

const fn detail(name: &'static str, asks: &'static str) -> Annotation {
    Annotation {
        name: Name::Is(name),
        effect: Effect::Ignored,
        asks,
    }
}

const USERS: &str = "asks for a user and a password";
const SERVICE: &str = "asks an authentication service";
const SERVICE_DETAIL: &str = "says how the authentication service is asked";
const CERTIFICATES: &str = "asks for client certificates";
const CERTIFICATES_DETAIL: &str = "says how client certificates are treated";
const ADDRESSES: &str = "restricts client addresses";
const FIREWALL: &str = "asks for a web application firewall";
const SNIPPET: &str = "holds nginx configuration, which may restrict access,";

/// Every annotation that restricts access, and the details that belong to them.
pub const ANNOTATIONS: &[Annotation] = &[
    row(Name::Is("auth-type"), Off::Empty, USERS),
    // ingress-nginx serves without a password when the type is missing; nobody means that.
    row(Name::Is("auth-secret"), Off::Empty, USERS),
    detail("auth-secret-type", "says how the passwords are stored"),
    detail("auth-realm", "names the realm of the passwords"),
    row(Name::Is("auth-url"), Off::Empty, SERVICE),
    detail("auth-method", SERVICE_DETAIL),
    detail("auth-signin", SERVICE_DETAIL),
    detail("auth-signin-redirect-param", SERVICE_DETAIL),
    detail("auth-response-headers", SERVICE_DETAIL),
    detail("auth-request-redirect", SERVICE_DETAIL),
    detail("auth-proxy-set-headers", SERVICE_DETAIL),
    detail("auth-cache-key", SERVICE_DETAIL),
    detail("auth-cache-duration", SERVICE_DETAIL),
    detail("auth-always-set-cookie", SERVICE_DETAIL),
    detail("auth-keepalive", SERVICE_DETAIL),
    detail("auth-keepalive-requests", SERVICE_DETAIL),
    detail("auth-keepalive-share-vars", SERVICE_DETAIL),
    detail("auth-keepalive-timeout", SERVICE_DETAIL),
    // Also with verification optional: the application then decides by fields that only the gateway
    // may set.
    host_row(Name::Is("auth-tls-secret"), Off::Empty, CERTIFICATES),
    host_row(
        Name::Is("auth-tls-verify-client"),
        Off::Words(&["off"]),
        CERTIFICATES,
    ),
    host_row(Name::Is("auth-tls-match-cn"), Off::Empty, CERTIFICATES),
    detail("auth-tls-verify-depth", CERTIFICATES_DETAIL),
    detail("auth-tls-error-page", CERTIFICATES_DETAIL),
    detail("auth-tls-pass-certificate-to-upstream", CERTIFICATES_DETAIL),
    row(Name::Is("denylist-source-range"), Off::Empty, ADDRESSES),
    row(
        Name::Ends("-source-range"),
        Off::Everybody(&["0.0.0.0/0", "::/0"]),
        ADDRESSES,
    ),
    detail("satisfy", "says how several restrictions are combined"),
    row(Name::Is("enable-modsecurity"), Off::FALSE, FIREWALL),
    row(Name::Is("enable-owasp-core-rules"), Off::FALSE, FIREWALL),
    row(Name::Is("modsecurity-snippet"), Off::Empty, FIREWALL),
    detail(
        "modsecurity-transaction-id",
        "names the transactions of the firewall",
    ),
    host_row(Name::Is("server-snippet"), Off::Empty, SNIPPET),
    row(Name::Ends("-snippet"), Off::Empty, SNIPPET),
    row(
        Name::Begins("auth-"),
        Off::Empty,
        "is unknown and looks like authentication",
    ),
    row(
        Name::Begins("modsecurity-"),
        Off::Empty,
        "is unknown and looks like a firewall",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn closes(name: &str, value: &str) -> bool {
        let verdict = judge(&format!("{}{name}", PREFIXES[0]), value);
        assert_eq!(verdict, judge(&format!("{}{name}", PREFIXES[1]), value));
        matches!(verdict, Some(Verdict::Refused(_)))
    }

    #[test]
    fn what_restricts_access_closes_the_door() {
        for (name, value) in [
            ("auth-type", "basic"),
            ("auth-type", "bearer"),
            ("auth-secret", "users"),
            ("auth-url", "http://auth.example/"),
            ("auth-ulr", "http://auth.example/"),
            ("auth-tls-secret", "shop/ca"),
            ("auth-tls-verify-client", "on"),
            ("auth-tls-verify-client", "optional_no_ca"),
            ("auth-tls-match-cn", "CN=a"),
            ("auth-snippet", "deny all;"),
            ("whitelist-source-range", "10.0.0.0/8"),
            ("allowlist-source-range", "0.0.0.0/0"),
            ("allowlist-source-range", "nonsense"),
            ("denylist-source-range", "0.0.0.0/0,::/0"),
            ("enable-modsecurity", "true"),
            ("enable-modsecurity", "yes"),
            ("modsecurity-snippet", "SecRuleEngine On"),
            ("configuration-snippet", "deny all;"),
            ("server-snippet", "deny all;"),
            ("stream-snippet", "deny all;"),
        ] {
            assert!(closes(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn off_details_and_comfort_do_not() {
        for (name, value) in [
            ("auth-type", ""),
            ("auth-secret", " "),
            ("auth-tls-verify-client", "off"),
            ("auth-realm", "shop"),
            ("auth-cache-duration", "yes"),
            ("allowlist-source-range", "0.0.0.0/0, ::/0"),
            ("denylist-source-range", ""),
            ("satisfy", "any"),
            ("enable-modsecurity", "false"),
            ("enable-modsecurity", "F"),
            ("configuration-snippet", "\n"),
            ("limit-rps", "5"),
            ("limit-whitelist", "10.0.0.0/8"),
            ("rewrite-target", "/"),
            ("proxy-ssl-secret", "shop/ca"),
        ] {
            assert!(!closes(name, value), "{name}: {value}");
        }
        assert_eq!(judge("example.org/auth-type", "basic"), None);
        assert_eq!(judge("kubernetes.io/ingress.class", "nginx"), None);
    }

    #[test]
    fn no_row_is_hidden_by_an_earlier_one() {
        for (index, row) in ANNOTATIONS.iter().enumerate() {
            let (Name::Is(name) | Name::Begins(name) | Name::Ends(name)) = row.name;
            let first = ANNOTATIONS.iter().position(|row| row.name.fits(name));
            assert_eq!(first, Some(index), "{name}");
        }
    }
}
