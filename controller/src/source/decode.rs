//! Manifests: the bytes of a file become objects and complaints.
//!
//! Pure: the same bytes give the same result. One broken document harms only itself: a file is
//! split on its document markers before anything is parsed. Bounded: size of a file, depth, nodes
//! and alias expansion of a document. A complaint about a Secret never repeats a value of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Kind, Object, ObjectKey, convert};
use crate::diagnostics::{Code, Diagnostic, Severity};

/// Larger files are not read.
pub(super) const MAX_FILE: u64 = 16 << 20;

/// What a file holds.
#[derive(Debug, Default, Clone)]
pub(super) struct Decoded {
    /// Objects in the order of the file.
    pub(super) entries: Vec<Entry>,
    /// What is wrong with the rest.
    pub(super) complaints: Vec<Diagnostic>,
    /// Objects of kinds that are not read, counted by kind.
    pub(super) skipped: BTreeMap<String, usize>,
    /// Objects that are there, but do not decode.
    pub(super) broken: Vec<ObjectKey>,
    /// A document is so broken that nobody can tell which objects it holds.
    pub(super) unreadable: bool,
}

/// One object of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: ObjectKey,
    pub(super) object: Object,
}

/// Decodes a file. `file` is its name for complaints; a name that ends in `.json` holds JSON.
pub(super) fn decode(file: &str, bytes: &[u8]) -> Decoded {
    let mut reader = Reader {
        file,
        decoded: Decoded::default(),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            if std::path::Path::new(file)
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
            {
                reader.json(text);
            } else {
                reader.yaml(text);
            }
        }
        Err(error) => {
            let at = error.valid_up_to();
            reader.unreadable("", format!("not UTF-8 from byte {at} on; save it as UTF-8"));
        }
    }
    reader.decoded
}

struct Reader<'a> {
    file: &'a str,
    decoded: Decoded,
}

impl Reader<'_> {
    fn yaml(&mut self, text: &str) {
        for (position, (line, document)) in documents(text).into_iter().enumerate() {
            let place = format!("document {}", position + 1);
            match serde_saphyr::from_str_with_options::<Value>(document, yaml_options()) {
                Ok(value) => self.document(&place, value),
                Err(error) => {
                    let at = error
                        .location()
                        .map(|location| line as u64 + location.line())
                        .map_or_else(String::new, |line| format!(" near line {line}"));
                    let why = reason(&error);
                    self.unreadable(&place, format!("not valid YAML{at}: {why}; correct it"));
                }
            }
        }
    }

    /// One value or several behind each other.
    fn json(&mut self, text: &str) {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        for (position, value) in stream.enumerate() {
            let place = format!("document {}", position + 1);
            match value {
                Ok(value) => self.document(&place, value),
                Err(error) => {
                    self.unreadable(&place, format!("not valid JSON: {error}; correct it"));
                    return;
                }
            }
        }
    }

    fn document(&mut self, place: &str, value: Value) {
        match value {
            Value::Null => {}
            Value::Object(object) => self.object(place, object),
            other => {
                let form = match other {
                    Value::Array(_) => "a list",
                    _ => "a single value",
                };
                self.decoded.unreadable = true;
                self.complain(
                    place,
                    Code::ObjectInvalid,
                    format!("{form} where an object with apiVersion and kind belongs; use kind: List to hold several objects"),
                );
            }
        }
    }

    fn object(&mut self, place: &str, mut object: Map<String, Value>) {
        let kind = text(&object, "kind").to_owned();
        let version = text(&object, "apiVersion").to_owned();
        if kind.is_empty() || version.is_empty() {
            let field = if kind.is_empty() {
                "kind"
            } else {
                "apiVersion"
            };
            self.decoded.unreadable = true;
            self.complain(
                place,
                Code::ObjectInvalid,
                format!(
                    "`{field}` is missing; every object needs apiVersion, kind and metadata.name"
                ),
            );
            return;
        }
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(Value::Array(items)) = object.remove("items")
        {
            for (position, item) in items.into_iter().enumerate() {
                let place = format!("{place} items[{position}]");
                match item {
                    Value::Object(mut item) => {
                        // The items of a typed list need not repeat their kind.
                        if !item_kind.is_empty() {
                            item.entry("kind").or_insert_with(|| item_kind.into());
                            item.entry("apiVersion")
                                .or_insert_with(|| version.as_str().into());
                        }
                        self.object(&place, item);
                    }
                    other => self.document(&place, other),
                }
            }
            return;
        }
        match convert::recognise(&version, &kind) {
            Some(form) => self.known(place, form, object),
            None => *self.decoded.skipped.entry(kind).or_default() += 1,
        }
    }

    fn known(&mut self, place: &str, form: convert::Form, mut object: Map<String, Value>) {
        let Some(key) = self.identity(place, form.kind, &mut object) else {
            self.decoded.unreadable = true;
            return;
        };
        if let Some(new) = form.replaced_by {
            let message = format!(
                "{} {place}: `{}` is no longer served by Kubernetes and was converted; write `{new}`",
                self.file,
                text(&object, "apiVersion"),
            );
            self.decoded.complaints.push(Diagnostic::new(
                Severity::Warning,
                &key.to_string().into(),
                "apiVersion",
                Code::ApiVersionOld,
                message,
            ));
            convert::modernise(form.kind, new, &mut object);
        }
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        match typed(form.kind, &Value::Object(object)) {
            Ok((object, unknown)) => {
                self.unknown(place, &key, &unknown);
                if unknown.is_empty() || key.kind != Kind::Ingress {
                    self.decoded.entries.push(Entry { key, object });
                } else {
                    self.decoded.broken.push(key);
                }
            }
            Err(Wrong { field, why }) => {
                let path = field.split('[').next().unwrap_or_default();
                let message = format!(
                    "{} {place}: {why}; correct it (`kubectl explain {}{}{path}` tells the form)",
                    self.file,
                    key.kind.as_str().to_lowercase(),
                    if path.is_empty() { "" } else { "." },
                );
                self.decoded.complaints.push(Diagnostic::new(
                    Severity::Error,
                    &key.to_string().into(),
                    field,
                    Code::ObjectInvalid,
                    message,
                ));
                self.decoded.broken.push(key);
            }
        }
    }

    /// Says which fields do not exist. An Ingress with one is not taken, as `kubectl apply` does not
    /// take it: the field was meant to do something, to restrict access maybe. Other kinds grow
    /// fields that this version does not know.
    fn unknown(&mut self, place: &str, key: &ObjectKey, fields: &[String]) {
        for field in fields.iter().take(UNKNOWN) {
            let (severity, then) = match key.kind {
                Kind::Ingress => (Severity::Error, "so the object is not taken"),
                _ => (Severity::Warning, "so it has no effect"),
            };
            let message = format!(
                "{} {place}: there is no such field, {then}; correct its name (`kubectl explain {}` \
                 tells them)",
                self.file,
                key.kind.as_str().to_lowercase(),
            );
            self.decoded.complaints.push(Diagnostic::new(
                severity,
                &key.to_string().into(),
                field.as_str(),
                Code::FieldUnknown,
                message,
            ));
        }
    }

    /// The key of the object; its namespace is filled in when it is missing.
    fn identity(
        &mut self,
        place: &str,
        kind: Kind,
        object: &mut Map<String, Value>,
    ) -> Option<ObjectKey> {
        let metadata = object
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(metadata) = metadata else {
            let message = format!(
                "{} whose `metadata` is no object; give it a name there",
                kind.as_str()
            );
            self.complain(place, Code::ObjectInvalid, message);
            return None;
        };
        let name = text(metadata, "name").to_owned();
        if name.is_empty() {
            let message = format!(
                "{} without a name; set `metadata.name` to a text",
                kind.as_str()
            );
            self.complain(place, Code::ObjectInvalid, message);
            return None;
        }
        let namespace = match (cluster_scoped(kind), text(metadata, "namespace")) {
            (true, _) => String::new(),
            (false, "") => {
                metadata.insert("namespace".into(), "default".into());
                "default".to_owned()
            }
            (false, namespace) => namespace.to_owned(),
        };
        let usable = |text: &str| text.len() <= 253 && !text.contains(['/', '\0', '\n']);
        if !usable(&name) || !usable(&namespace) {
            let message = format!(
                "{} `{}` has no valid name or namespace; use lower-case letters, digits, `-` and `.`",
                kind.as_str(),
                name.escape_debug()
            );
            self.complain(place, Code::ObjectInvalid, message);
            return None;
        }
        Some(ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    fn unreadable(&mut self, place: &str, message: String) {
        self.decoded.unreadable = true;
        self.complain(place, Code::FileUnreadable, message);
    }

    fn complain(&mut self, place: &str, code: Code, message: String) {
        self.decoded.complaints.push(Diagnostic::new(
            Severity::Error,
            &self.file.into(),
            place,
            code,
            message,
        ));
    }
}

/// Why an object does not decode, and where.
struct Wrong {
    field: String,
    why: String,
}

/// The object, and which fields of it are unknown.
fn typed(kind: Kind, value: &Value) -> Result<(Object, Vec<String>), Wrong> {
    match kind {
        Kind::Ingress => strict::<Ingress>(value).map(with(Object::Ingress)),
        Kind::IngressClass => strict(value).map(with(Object::IngressClass)),
        Kind::Service => strict(value).map(with(Object::Service)),
        Kind::EndpointSlice => strict(value).map(with(Object::EndpointSlice)),
        Kind::Endpoints => strict(value).map(with(Object::Endpoints)),
        Kind::ConfigMap => strict(value).map(with(Object::ConfigMap)),
        Kind::Namespace => strict(value).map(with(Object::Namespace)),
        Kind::Secret => {
            let value = convert::secret(value.clone());
            let secret = strict(&value).map(with(Object::Secret));
            secret.map_err(|wrong| Wrong {
                // The message of the decoder may quote the value.
                why: "the value has the wrong type or is not base64".into(),
                field: entry_of(wrong.field),
            })
        }
    }
}

/// The field of a Secret without what is below its entry: a key there may be part of the value.
fn entry_of(mut field: String) -> String {
    let end = if field.starts_with("data[") {
        field.find(']').map(|bracket| bracket + 1)
    } else {
        field.match_indices(['.', '[']).nth(1).map(|(at, _)| at)
    };
    field.truncate(end.unwrap_or(field.len()));
    field
}

fn with<T>(
    wrap: fn(Arc<T>) -> Object,
) -> impl FnOnce((Arc<T>, Vec<String>)) -> (Object, Vec<String>) {
    move |(object, unknown)| (wrap(object), unknown)
}

fn strict<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(Arc<T>, Vec<String>), Wrong> {
    match T::deserialize(value) {
        Ok(object) => {
            let mut unknown = Vec::new();
            // Decoders skip what they do not know: it is what the object does not have.
            let known = serde_json::to_value(&object).unwrap_or(Value::Null);
            lost(value, &known, &mut String::new(), &mut unknown);
            Ok((Arc::new(object), unknown))
        }
        Err(error) => Err(Wrong {
            field: locate::<T>(value),
            why: error.to_string(),
        }),
    }
}

/// Notes the paths of fields that are in `written` and not in `known`.
fn lost(written: &Value, known: &Value, path: &mut String, unknown: &mut Vec<String>) {
    let length = path.len();
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            for (name, child) in written.iter().filter(|(_, child)| !child.is_null()) {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                match known.get(name) {
                    Some(known) => lost(child, known, path, unknown),
                    None => unknown.push(path.escape_debug().to_string()),
                }
                path.truncate(length);
            }
        }
        (Value::Array(written), Value::Array(known)) => {
            for (index, (child, known)) in written.iter().zip(known).enumerate() {
                let _ = write!(path, "[{index}]");
                lost(child, known, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Unknown fields of one object that are told.
const UNKNOWN: usize = 10;

/// The path of the field that does not decode. The decoders do not tell, but they complain about
/// nothing that is missing: so each step looks for the child that is wrong when it stands alone.
fn locate<T: DeserializeOwned>(value: &Value) -> String {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut current = value;
    while let Some((step, child)) = children(current).find(|(step, child)| {
        let alone = steps
            .iter()
            .chain(std::iter::once(step))
            .rev()
            .fold((*child).clone(), |inner, step| step.around(inner));
        T::deserialize(&alone).is_err()
    }) {
        steps.push(step);
        current = child;
    }
    let mut path = String::new();
    for step in &steps {
        step.write(&mut path);
    }
    path
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Step<'_> {
    fn around(&self, inner: Value) -> Value {
        match self {
            Self::Key(key) => Value::Object(Map::from_iter([((*key).to_owned(), inner)])),
            Self::Index(_) => Value::Array(vec![inner]),
        }
    }

    fn write(&self, path: &mut String) {
        use std::fmt::Write;
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Key(key) if key.contains(['.', '/']) => write!(path, "[{key}]"),
            Self::Key(key) if path.is_empty() => write!(path, "{key}"),
            Self::Key(key) => write!(path, ".{key}"),
            Self::Index(index) => write!(path, "[{index}]"),
        };
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = (Step<'_>, &Value)> + '_> {
    match value {
        Value::Object(map) => Box::new(map.iter().map(|(key, child)| (Step::Key(key), child))),
        Value::Array(list) => Box::new(
            list.iter()
                .enumerate()
                .map(|(index, child)| (Step::Index(index), child)),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

fn cluster_scoped(kind: Kind) -> bool {
    matches!(kind, Kind::IngressClass | Kind::Namespace)
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// What the parser says, without where: it counts within the document. Nor does it help to read
/// how a program could let it pass.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let mut why = text.lines().next().unwrap_or_default().to_owned();
    if let Some(location) = error.location() {
        let place = format!(" at line {}, column {}", location.line(), location.column());
        why = why.replace(&place, "");
    }
    let what = why.split_once(", set ").map_or(&*why, |(what, _)| what);
    what.trim_end_matches('.').to_owned()
}

/// Splits on document markers, with the number of lines in front of each document. A marker is
/// one wherever it stands at the start of a line, even within a block scalar (YAML 1.2, 9.1.2).
/// Documents without content are left out.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut start_line = 0;
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let next = offset + line.len();
        if marker(line, "---") || marker(line, "...") {
            documents.push((start_line, start, offset));
            // What follows `---` on its line belongs to the document.
            let inline = line.get(3..).is_some_and(|rest| !rest.trim().is_empty());
            start = if inline { offset + 3 } else { next };
            start_line = if inline { number } else { number + 1 };
        }
        offset = next;
    }
    documents.push((start_line, start, text.len()));
    documents
        .into_iter()
        .filter_map(|(line, from, to)| Some((line, text.get(from..to)?)))
        .filter(|(_, document)| document.lines().any(has_content))
        .collect()
}

fn marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Comments, directives and blank lines are no content.
fn has_content(line: &str) -> bool {
    let trimmed = line.trim();
    !(trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%'))
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
        budget: serde_saphyr::budget! {
            // A list of 10,000 Ingresses in one document has about half a million nodes.
            max_events: 8_000_000,
            max_nodes: 4_000_000,
            max_depth: 64,
            max_buffered_comment_events: 100_000,
        },
    }
}

#[cfg(test)]
mod tests;
