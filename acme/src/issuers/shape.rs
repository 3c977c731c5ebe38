//! Which field of a file has the wrong shape, for whoever wrote it.
//!
//! A parser says what it met and what it wanted. People need the field and what to write: each field is
//! tried on its own, so all mistakes are told at once.
//!
//! Pure. Invariant: a file that was refused has at least one sentence.

use serde_json::{Map, Value, json};

use super::{Allow, IssuerSpec, Issuers};

/// Sentences about a text that was not accepted for this reason.
pub(super) fn complaints(text: &str, refused: &serde_saphyr::Error) -> Vec<String> {
    let line = refused.location().map_or_else(String::new, |location| {
        format!(" (line {}, column {})", location.line(), location.column())
    });
    let words = refused.without_snippet().to_string();
    let Ok(file) = serde_saphyr::from_str::<Value>(text) else {
        return vec![format!("{}{line}", unread(&words))];
    };
    let found = blamed(&file);
    if found.is_empty() {
        return vec![format!("{words}{line}; see the documentation of issuers")];
    }
    found
}

/// What is wrong with a text that is no YAML, or has a key twice.
fn unread(words: &str) -> String {
    let head = words.lines().next().unwrap_or_default();
    match head.split_once("duplicate mapping key") {
        Some((_, rest)) => {
            let key = rest
                .trim_start_matches(':')
                .split(',')
                .next()
                .unwrap_or_default();
            format!("{} stands there twice: keep one of them", key.trim())
        }
        // The parser names a function of its own here.
        None if head.contains("multiple YAML documents") => {
            "there is more than one document in it: keep one, and no `---` behind it".to_owned()
        }
        None => format!("it is no YAML: {head}; mend it there"),
    }
}

fn blamed(file: &Value) -> Vec<String> {
    let Value::Object(whole) = file else {
        return vec!["write one key, acme, and everything below it".to_owned()];
    };
    let mut found = Vec::new();
    for key in whole.keys().filter(|key| *key != "acme") {
        found.push(format!("{key}: there is no such field; write acme alone"));
    }
    let acme = match whole.get("acme") {
        Some(Value::Object(acme)) => acme,
        Some(_) => return vec!["acme: write issuers and their fields below it".to_owned()],
        None => {
            found.push("acme is missing: write the issuers below it".to_owned());
            return found;
        }
    };
    for (field, value) in acme.iter().filter(|(field, _)| *field != "issuers") {
        let alone = json!({"issuers": {}, field: value});
        if let Err(error) = serde_json::from_value::<Issuers>(alone) {
            found.push(said(&format!("acme.{field}"), &error.to_string()));
        }
    }
    match acme.get("issuers") {
        Some(Value::Object(issuers)) => {
            for (name, issuer) in issuers {
                of_issuer(&format!("acme.issuers.{name}"), issuer, &mut found);
            }
        }
        _ => {
            found
                .push("acme.issuers: write a name and the fields of an issuer below it".to_owned());
        }
    }
    found.sort();
    found
}

fn of_issuer(at: &str, issuer: &Value, found: &mut Vec<String>) {
    let Value::Object(fields) = issuer else {
        found.push(format!("{at}: write the fields of an issuer below it"));
        return;
    };
    if !fields.contains_key("directory") {
        found.push(format!(
            "{at}.directory is missing: write the URL of the authority"
        ));
    }
    for (field, value) in fields {
        if field == "allow"
            && let Value::Array(rules) = value
        {
            for (number, rule) in rules.iter().enumerate() {
                of_rule(&format!("{at}.allow[{number}]"), rule, found);
            }
            continue;
        }
        let mut alone = Map::new();
        alone.insert("directory".to_owned(), json!("https://ca.test"));
        alone.insert(field.clone(), value.clone());
        if let Err(error) = serde_json::from_value::<IssuerSpec>(Value::Object(alone)) {
            found.push(said(&format!("{at}.{field}"), &error.to_string()));
        }
    }
}

fn of_rule(at: &str, rule: &Value, found: &mut Vec<String>) {
    let Value::Object(fields) = rule else {
        found.push(format!(
            "{at}: write hosts below it, and namespaces if it is for some alone"
        ));
        return;
    };
    if !fields.contains_key("hosts") {
        found.push(format!(
            "{at}.hosts is missing: write a list, such as [\"*.example.org\"]"
        ));
    }
    for (field, value) in fields {
        let at = format!("{at}.{field}");
        // A list would be read as the fields in their order.
        if field == "namespaces" && !value.is_object() {
            found.push(format!("{at}: {SELECTION}"));
            continue;
        }
        let mut alone = Map::new();
        alone.insert("hosts".to_owned(), json!([]));
        alone.insert(field.clone(), value.clone());
        if let Err(error) = serde_json::from_value::<Allow>(Value::Object(alone)) {
            let said = said(&at, &error.to_string());
            found.push(if field == "namespaces" {
                format!("{said}; {SELECTION}")
            } else {
                said
            });
        }
    }
}

/// The shape of what selects namespaces.
const SELECTION: &str =
    "write {names: [one, two]}, {matchLabels: {team: web}}, or both; leave it out for all";

/// The words of the parser about one field, and what to write.
fn said(at: &str, words: &str) -> String {
    let wants = |wanted: &str| words.contains(&format!("expected {wanted}"));
    let remedy = if words.contains("unknown field") {
        "leave it out or correct it"
    } else if wants("a boolean") {
        "write true or false, without quotes"
    } else if wants("a sequence") {
        "write a list, such as [one, two]"
    } else if wants("u32") {
        "write a whole number, 0 to 4294967295"
    } else if wants("a string") {
        "write a text, in quotes if it looks like a number"
    } else if wants("struct") || wants("a map") {
        "write its fields below it"
    } else {
        "write one of those"
    };
    format!("{at}: {words}; {remedy}")
}
