//! What an Ingress says about its certificates beside who issues them.
//!
//! Pure. Invariant: a value that means nothing sets nothing, and the issuer's setting holds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gatehouse_acme::ca::ChallengeKind;
use gatehouse_acme::issuers::KeyKind;
use gatehouse_acme::plan::Request;

/// What one annotation sets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    Profile(String),
    Key(KeyKind),
    Challenges(Vec<ChallengeKind>),
    Addresses(Vec<IpAddr>),
    Always(bool),
}

/// Sets in a request what the annotations say.
pub fn apply(annotations: Option<&BTreeMap<String, String>>, request: &mut Request) {
    for (name, value) in annotations.into_iter().flatten() {
        let Some(Ok(setting)) = read(name, value) else {
            continue;
        };
        match setting {
            Setting::Profile(profile) => request.profile = Some(profile),
            Setting::Key(key) => request.key = Some(key),
            Setting::Challenges(kinds) => request.challenges = Some(kinds),
            Setting::Always(always) => request.always = always,
            Setting::Addresses(list) => {
                request.hosts.extend(list.iter().map(ToString::to_string));
            }
        }
    }
}

/// The addresses that certificates of an Ingress have beside its hosts.
pub fn addresses(annotations: Option<&BTreeMap<String, String>>) -> Vec<IpAddr> {
    let settings = annotations.into_iter().flatten();
    let settings = settings.filter_map(|(name, value)| read(name, value)?.ok());
    settings
        .flat_map(|setting| match setting {
            Setting::Addresses(list) => list,
            _ => Vec::new(),
        })
        .collect()
}

/// What is wrong with an annotation; `None` if it sets something, or is about something else.
pub fn complaint(name: &str, value: &str) -> Option<String> {
    let why = read(name, value)?.err()?;
    Some(format!(
        "annotation `{name}`: {why}; until then the setting of the issuer holds"
    ))
}

/// `None` if the annotation is none of these, or empty. The error is the remedy.
fn read(name: &str, value: &str) -> Option<Result<Setting, String>> {
    let (name, value) = (name.strip_prefix(PREFIX)?, value.trim());
    if value.is_empty() {
        return None;
    }
    Some(match name {
        "tls-profile" => profile(value).map(Setting::Profile),
        "tls-key" => one_of(&KEYS, value).map(Setting::Key),
        "tls-challenges" => list(value, |item| one_of(&CHALLENGES, item)).map(Setting::Challenges),
        "tls-ip-sans" => list(value, address).map(Setting::Addresses),
        "tls-always" => one_of(&[("true", true), ("false", false)], value).map(Setting::Always),
        _ => return None,
    })
}

fn profile(value: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if value.len() <= 64 && value.bytes().all(known) {
        Ok(value.to_owned())
    } else {
        Err("write the name of a profile, such as tlsserver".to_owned())
    }
}

fn one_of<T: Copy>(known: &[(&str, T)], value: &str) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| *name == value);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let shown: String = value.chars().take(LONGEST).collect();
        format!("{shown:?} is none of {}", names.join(", "))
    })
}

fn address(value: &str) -> Result<IpAddr, String> {
    value.parse().map_err(|_| {
        let shown: String = value.chars().take(LONGEST).collect();
        format!("{shown:?} is no address; write for example 192.0.2.1 or 2001:db8::1")
    })
}

/// Items between commas, each once.
fn list<T: PartialEq>(
    value: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut items = Vec::new();
    for item in value.split(',').map(str::trim) {
        let item = read(item)?;
        if items.contains(&item) {
            return Err("write each once".to_owned());
        }
        items.push(item);
        if items.len() > MOST {
            return Err(format!("write at most {MOST}"));
        }
    }
    Ok(items)
}

const KEYS: [(&str, KeyKind); 5] = [
    ("p256", KeyKind::P256),
    ("p384", KeyKind::P384),
    ("rsa2048", KeyKind::Rsa2048),
    ("rsa3072", KeyKind::Rsa3072),
    ("rsa4096", KeyKind::Rsa4096),
];

const CHALLENGES: [(&str, ChallengeKind); 4] = [
    ("http-01", ChallengeKind::Http01),
    ("tls-alpn-01", ChallengeKind::TlsAlpn01),
    ("dns-01", ChallengeKind::Dns01),
    ("dns-persist-01", ChallengeKind::DnsPersist01),
];

const PREFIX: &str = "gatehouse.dev/";

/// Letters of a value that are repeated.
const LONGEST: usize = 60;

/// Items of a list.
const MOST: usize = 25;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Option<Result<Setting, String>> {
        read(&format!("{PREFIX}{name}"), value)
    }

    #[test]
    fn every_setting_is_read_and_a_mistake_says_what_there_is() {
        use ChallengeKind::{Http01, TlsAlpn01};
        let cases = [
            (
                "tls-profile",
                "shortlived",
                Setting::Profile("shortlived".into()),
            ),
            ("tls-key", "rsa2048", Setting::Key(KeyKind::Rsa2048)),
            (
                "tls-challenges",
                "tls-alpn-01, http-01",
                Setting::Challenges(vec![TlsAlpn01, Http01]),
            ),
            (
                "tls-ip-sans",
                "192.0.2.1",
                Setting::Addresses(vec![[192, 0, 2, 1].into()]),
            ),
            ("tls-always", "true", Setting::Always(true)),
        ];
        for (name, value, setting) in cases {
            assert_eq!(of(name, value), Some(Ok(setting)), "{name}");
            assert_eq!(of(name, " "), None, "{name}");
        }
        for (name, value, remedy) in [
            ("tls-key", "rsa1024", "rsa2048"),
            ("tls-challenges", "http-01,http-01", "each once"),
            ("tls-challenges", "http", "tls-alpn-01"),
            ("tls-ip-sans", "shop", "2001:db8::1"),
            ("tls-profile", "a b", "tlsserver"),
            ("tls-always", "yes", "true, false"),
        ] {
            let said = complaint(&format!("{PREFIX}{name}"), value).unwrap_or_default();
            assert!(
                said.contains(remedy) && said.contains(name),
                "{name}: {said}"
            );
        }
        assert_eq!(complaint("gatehouse.dev/issuer", "x"), None);
        assert_eq!(complaint("nginx.ingress.kubernetes.io/tls-key", "x"), None);
    }

    #[test]
    fn every_setting_is_in_the_list_of_annotations() {
        for name in [
            "tls-profile",
            "tls-key",
            "tls-challenges",
            "tls-ip-sans",
            "tls-always",
        ] {
            let verdict = crate::annotations::judge(&format!("{PREFIX}{name}"), "x");
            assert!(
                matches!(verdict, Some(crate::annotations::Verdict::Known(_))),
                "{name}"
            );
            assert!(of(name, "!").is_some_and(|read| read.is_err()), "{name}");
        }
    }
}
