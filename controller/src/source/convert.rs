//! Which API versions are read, and old forms of objects in terms of the present ones.
//!
//! Pure functions on untyped objects, before they are decoded.

use serde_json::{Map, Value};

use super::Kind;

/// A kind and version that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) kind: Kind,
    /// The version that took the place of this one.
    pub(super) replaced_by: Option<&'static str>,
}

/// The form of this version and kind, or `None` when it is not read.
pub(super) fn recognise(version: &str, kind: &str) -> Option<Form> {
    const NETWORKING: &str = "networking.k8s.io/v1";
    const DISCOVERY: &str = "discovery.k8s.io/v1";
    let (kind, replaced_by) = match (version, kind) {
        (NETWORKING, "Ingress") => (Kind::Ingress, None),
        ("networking.k8s.io/v1beta1" | "extensions/v1beta1", "Ingress") => {
            (Kind::Ingress, Some(NETWORKING))
        }
        (NETWORKING, "IngressClass") => (Kind::IngressClass, None),
        ("networking.k8s.io/v1beta1", "IngressClass") => (Kind::IngressClass, Some(NETWORKING)),
        (DISCOVERY, "EndpointSlice") => (Kind::EndpointSlice, None),
        ("discovery.k8s.io/v1beta1", "EndpointSlice") => (Kind::EndpointSlice, Some(DISCOVERY)),
        ("v1", "Service") => (Kind::Service, None),
        ("v1", "Endpoints") => (Kind::Endpoints, None),
        ("v1", "Secret") => (Kind::Secret, None),
        ("v1", "ConfigMap") => (Kind::ConfigMap, None),
        ("v1", "Namespace") => (Kind::Namespace, None),
        _ => return None,
    };
    Some(Form { kind, replaced_by })
}

/// Rewrites an object of an old version to the version `new`. What has an unexpected form is left
/// for the decoder to complain about.
pub(super) fn modernise(kind: Kind, new: &str, object: &mut Map<String, Value>) {
    object.insert("apiVersion".into(), new.into());
    if kind != Kind::Ingress {
        return;
    }
    let Some(Value::Object(spec)) = object.get_mut("spec") else {
        return;
    };
    if let Some(mut backend) = spec.remove("backend") {
        modernise_backend(&mut backend);
        spec.insert("defaultBackend".into(), backend);
    }
    let Some(Value::Array(rules)) = spec.get_mut("rules") else {
        return;
    };
    for rule in rules {
        let Some(Value::Array(paths)) = rule.pointer_mut("/http/paths") else {
            continue;
        };
        for path in paths {
            if let Some(backend) = path.get_mut("backend") {
                modernise_backend(backend);
            }
            if let Value::Object(path) = path {
                path.entry("pathType")
                    .or_insert_with(|| "ImplementationSpecific".into());
            }
        }
    }
}

/// `serviceName` and `servicePort` become `service.name` and `service.port`.
fn modernise_backend(backend: &mut Value) {
    let Value::Object(backend) = backend else {
        return;
    };
    let name = backend.remove("serviceName");
    let port = backend.remove("servicePort");
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = Map::new();
    if let Some(name) = name {
        service.insert("name".into(), name);
    }
    if let Some(port) = port {
        let field = if port.is_string() { "name" } else { "number" };
        let port = Map::from_iter([(field.to_owned(), port)]);
        service.insert("port".into(), Value::Object(port));
    }
    backend.insert("service".into(), Value::Object(service));
}

/// Folds `stringData` of a Secret into `data`, over which it wins, and removes line breaks from
/// base64, as the API server does.
pub(super) fn secret(mut object: Value) -> Value {
    let Value::Object(secret) = &mut object else {
        return object;
    };
    let strings = match secret.get_mut("stringData") {
        Some(Value::Object(_)) => secret.remove("stringData"),
        _ => None,
    };
    if secret.get("data").is_none_or(Value::is_null) {
        secret.insert("data".into(), Value::Object(Map::new()));
    }
    let Some(Value::Object(data)) = secret.get_mut("data") else {
        return object;
    };
    for value in data.values_mut() {
        if let Value::String(text) = value
            && text.contains(['\n', '\r'])
        {
            text.retain(|c| !matches!(c, '\n' | '\r'));
        }
    }
    if let Some(Value::Object(strings)) = strings {
        for (name, value) in strings {
            let value = match value {
                Value::String(text) => base64(text.as_bytes()).into(),
                // No text: left as it is for the decoder to complain about.
                other => other,
            };
            data.insert(name, value);
        }
    }
    object
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain(std::iter::repeat(&0))
            .take(3)
            .fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for position in 0..4 {
            let digit = if position <= chunk.len() {
                ALPHABET.get(word >> (18 - 6 * position) & 63)
            } else {
                None
            };
            text.push(digit.map_or('=', |digit| char::from(*digit)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_form_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn other_groups_with_the_same_kind_are_not_ours() {
        assert_eq!(recognise("config.openshift.io/v1", "Ingress"), None);
        assert_eq!(recognise("serving.knative.dev/v1", "Service"), None);
        assert!(recognise("extensions/v1beta1", "Ingress").is_some());
    }
}
