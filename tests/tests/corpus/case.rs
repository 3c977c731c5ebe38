//! The data of the corpus, as types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One case: objects, and what was answered.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) isolate: bool,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    #[serde(default)]
    pub(crate) configmap: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) objects: Vec<Value>,
    #[serde(default)]
    pub(crate) later: Vec<Vec<Value>>,
    #[serde(default)]
    pub(crate) exchanges: Vec<Exchange>,
    #[serde(default)]
    pub(crate) then: Vec<Step>,
}

/// A later change and what was answered then.
#[derive(Debug, Deserialize)]
pub(crate) struct Step {
    #[serde(default)]
    pub(crate) delete: Vec<Value>,
    #[serde(default)]
    pub(crate) apply: Vec<Value>,
    #[serde(default)]
    pub(crate) exchanges: Vec<Exchange>,
}

/// A request and its recorded answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) answer: Answer,
}

/// What to send.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) scheme: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) http: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) websocket: Option<String>,
    pub(crate) proxy_line: Option<String>,
}

/// What came back.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) body_kind: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) upstream: Option<Upstream>,
    #[serde(default)]
    pub(crate) tries: Vec<String>,
}

/// What the last backend saw.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    pub(crate) backend: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) version: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Places: case id, step, request number.
    at: Vec<String>,
    fields: Vec<String>,
    reason: String,
}

/// Cases of a family.
pub(crate) fn load(family: &str) -> Vec<Case> {
    read(&format!("{family}.yaml"))
}

/// Objects that every case may use.
pub(crate) fn standard() -> Vec<Value> {
    read("standard.yaml")
}

/// `(place, field)` to the reason why it differs on purpose.
pub(crate) fn differences() -> BTreeMap<(String, String), String> {
    let mut all = BTreeMap::new();
    for entry in read::<Vec<Difference>>("differences.yaml") {
        assert!(
            entry.reason.len() > 10,
            "a difference needs a reason: {entry:?}"
        );
        for place in &entry.at {
            for field in &entry.fields {
                let old = all.insert((place.clone(), field.clone()), entry.reason.clone());
                assert!(old.is_none(), "listed twice: {place} {field}");
            }
        }
    }
    all
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("a file of the corpus");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// File name of an object: one object, one file.
pub(crate) fn file_name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_lowercase();
    let metadata = &object["metadata"];
    format!(
        "{}_{}_{}.json",
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4_usize {
            let index = word >> (18 - 6 * place) & 63;
            let letter = LETTERS[usize::try_from(index).expect("six bits")];
            text.push(if place <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}
