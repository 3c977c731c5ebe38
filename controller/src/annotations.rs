//! Annotations that are meant for a gateway, and what becomes of them.
//!
//! No policy can be set by annotation yet. Most annotations then cost comfort, or the route is
//! served in another way than meant, and a warning says in which. Those that restrict access close
//! the door instead: without them a route would be open that its owner believes to be closed.
//!
//! Invariants:
//! - Pure, and the only list of annotations: translation, the reference page and the tests read it.
//! - Exact names come before families; a name of a family that is not listed closes the door too,
//!   so that a misspelt `auth-…` does not open it.
//! - A value that says "off" restricts nothing, and nothing is said about it.

mod table;

use crate::diagnostics::suggest;

pub use table::ANNOTATIONS;

/// Prefixes of annotations that are meant for a gateway; both have the same names.
pub const PREFIXES: [&str; 2] = ["nginx.ingress.kubernetes.io/", OWN];
/// The prefix of annotations that are ours alone.
const OWN: &str = "gatehouse.dev/";

/// One row of the list: an annotation, or a family of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// Which names it is about.
    pub name: Name,
    /// What becomes of it.
    pub effect: Effect,
    /// Values with which it asks for nothing.
    pub off: Off,
    /// What a restriction asks for; of the others, what is different without them.
    pub about: &'static str,
    /// What to do.
    pub remedy: &'static str,
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
        /// ingress-nginx applies it to the whole host, also to routes of other Ingresses.
        whole_host: bool,
    },
    /// No effect, and something is different without it.
    Ignored,
    /// No effect, and nothing that matters is different without it.
    Needless,
    /// It asks for certificates; no effect where no authority is configured.
    Certificates,
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
    /// Nobody knows it; perhaps this one was meant.
    Unknown(Option<&'static str>),
    /// It exists under the prefix `gatehouse.dev/` only.
    Foreign,
    /// The effect of this row.
    Known(&'static Annotation),
}

/// Judges an annotation; `None` when it is not meant for a gateway.
pub fn judge(name: &str, value: &str) -> Option<Verdict> {
    let (prefix, name) = PREFIXES
        .iter()
        .find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)))?;
    let row = ANNOTATIONS.iter().find(|row| row.name.fits(name));
    Some(match row {
        // ingress-nginx has no such annotation, and nobody reads it under that name.
        Some(row) if row.effect == Effect::Certificates && *prefix != OWN => Verdict::Foreign,
        Some(row) if row.off.is(value.trim()) => Verdict::Off,
        Some(row) => Verdict::Known(row),
        None => Verdict::Unknown(suggest(name, exact_names())),
    })
}

fn exact_names() -> impl Iterator<Item = &'static str> {
    ANNOTATIONS.iter().filter_map(|row| match row.name {
        Name::Is(name) => Some(name),
        Name::Begins(_) | Name::Ends(_) => None,
    })
}

impl Annotation {
    /// What becomes of the annotation of this name, and what to do.
    pub fn sentence(&self, name: &str) -> String {
        let Self { about, remedy, .. } = self;
        match self.effect {
            Effect::Refused { whole_host } => {
                let others = if whole_host {
                    ", and so does what other Ingresses of the namespace have on its hosts (those \
                     of other namespaces stay open)"
                } else {
                    ""
                };
                format!(
                    "annotation `{name}` {about} and is not supported, so everything of this \
                     Ingress answers 503{others}: {remedy}"
                )
            }
            Effect::Ignored => format!(
                "annotation `{name}` is not supported in this version, so it has no effect: \
                 {about}; {remedy}"
            ),
            Effect::Certificates => {
                format!("annotation `{name}` has no effect: {about}; {remedy}")
            }
            Effect::Needless => {
                format!("annotation `{name}` has no meaning here: {about}; {remedy}")
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn closes(name: &str, value: &str) -> bool {
        let verdict = judge(&format!("{}{name}", PREFIXES[0]), value);
        assert_eq!(verdict, judge(&format!("{}{name}", PREFIXES[1]), value));
        let Some(Verdict::Known(row)) = verdict else {
            return false;
        };
        matches!(row.effect, Effect::Refused { .. })
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

    #[test]
    fn every_annotation_that_is_not_applied_says_what_differs_and_what_to_do() {
        for (name, value, says) in [
            ("rewrite-target", "/$1", "the path as the client sent it"),
            ("use-regex", "true", "compared literally"),
            ("app-root", "/app", "`/` is not redirected"),
            ("backend-protocol", "HTTPS", "`appProtocol`"),
            ("canary-weight", "10", "ordinary"),
            (
                "proxy-body-size",
                "8m",
                "`proxy-body-size` of the ConfigMap",
            ),
            ("ssl-redirect", "false", "redirected to https"),
            ("affinity", "cookie", "`sessionAffinity: ClientIP`"),
            ("enable-cors", "true", "preflight"),
            ("client-body-buffer-size", "8k", "no meaning here"),
        ] {
            let Some(Verdict::Known(row)) = judge(&format!("{}{name}", PREFIXES[0]), value) else {
                panic!("{name} is not known");
            };
            let sentence = row.sentence(name);
            assert!(sentence.contains(says), "{sentence}");
            assert!(!matches!(row.effect, Effect::Refused { .. }), "{name}");
        }
        for row in ANNOTATIONS {
            assert!(!row.about.is_empty() && !row.remedy.is_empty(), "{row:?}");
            assert!(!row.sentence("x").ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn what_is_the_same_without_the_annotation_is_not_told() {
        for (name, value) in [
            ("ssl-redirect", "true"),
            ("use-regex", "false"),
            ("backend-protocol", "HTTP"),
            ("canary", "false"),
            ("proxy-buffering", "off"),
            ("rewrite-target", ""),
        ] {
            let verdict = judge(&format!("{}{name}", PREFIXES[0]), value);
            assert_eq!(verdict, Some(Verdict::Off), "{name}: {value}");
        }
    }

    #[test]
    fn a_misspelt_annotation_is_answered_with_the_nearest_one() {
        let judged = |name| judge(&format!("{}{name}", PREFIXES[0]), "x");
        let near = Some(Verdict::Unknown(Some("rewrite-target")));
        assert_eq!(judged("rewrite-taget"), near);
        assert_eq!(
            judged("something-else-entirely"),
            Some(Verdict::Unknown(None))
        );
        assert_eq!(judged("issuer"), Some(Verdict::Foreign));
    }
}
