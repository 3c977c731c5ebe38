//! Looks for private keys in what the API server shows to people who may not read Secrets.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::KeyPair;
use serde_json::Value;

use super::Kubectl;
use crate::acme::keys::Keys;

/// What a gateway writes or is told about, Events and statuses above all.
const KINDS: &str = "secrets,events,ingresses,leases,configmaps,services";

/// The first object of these namespaces, other than a Secret, that gives a private key away: one of their
/// Secrets or any other.
pub fn leak(kubectl: &Kubectl, namespaces: &[&str]) -> Option<String> {
    let mut keys = Keys::default();
    let mut shown = Vec::new();
    for namespace in namespaces {
        let list = ["--namespace", namespace, "get", KINDS, "--output=json"];
        let list: Value =
            serde_json::from_str(&kubectl.run(&list).success()).expect("a list of objects");
        for object in list["items"].as_array().expect("objects") {
            let kind = object["kind"].as_str().unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let name = format!("{kind} {namespace}/{name}");
            if kind == "Secret" {
                for (entry, key) in private(object) {
                    keys.add(&format!("{name} {entry}"), &key);
                }
            } else {
                shown.push((name, object.to_string()));
            }
        }
    }
    shown.into_iter().find_map(|(name, text)| {
        let found = keys.found_in(&text)?;
        Some(format!("{name} gives away {found}:\n{text}"))
    })
}

/// Private keys of a Secret. What only looks like one is none: tests damage them.
fn private(secret: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let entries = secret["data"].as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| {
        let bytes = BASE64_STANDARD.decode(value.as_str()?).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        KeyPair::from_pem(&text)
            .is_ok()
            .then(|| (name.clone(), text))
    })
}
