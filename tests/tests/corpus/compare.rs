//! What counts as equal.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::case::{Answer, Upstream};

/// `(field, text)` of every difference.
pub(crate) fn differences(expected: &Answer, got: &Answer) -> Vec<(String, String)> {
    let mut found = Found(Vec::new());
    // The wording of a refused connection is not the peer's contract.
    found.field("error", expected.error.is_some(), got.error.is_some());
    if expected.error.is_some() || got.error.is_some() {
        found.explain(got.error.as_deref());
        return found.0;
    }
    found.field("status", expected.status, got.status);
    found.field("body_kind", kind(expected), kind(got));
    found.field("cert", expected.cert.as_ref(), got.cert.as_ref());
    found.field("tries", &expected.tries, &got.tries);
    found.headers("header", &expected.headers, &got.headers);
    match (&expected.upstream, &got.upstream) {
        (Some(expected), Some(got)) => found.upstream(expected, got),
        (expected, got) => {
            let name = |seen: &Option<Upstream>| seen.as_ref().map(|seen| seen.backend.clone());
            found.field("upstream", name(expected), name(got));
        }
    }
    found.0
}

/// Our own short texts equal the peer's error pages, whatever they say.
fn kind(answer: &Answer) -> Option<&str> {
    answer
        .body_kind
        .as_deref()
        .map(|kind| if kind == "empty" { "page" } else { kind })
}

struct Found(Vec<(String, String)>);

impl Found {
    fn field<T: PartialEq + Debug>(&mut self, name: &str, expected: T, got: T) {
        if expected != got {
            self.0.push((
                name.to_owned(),
                format!("expected {expected:?}, got {got:?}"),
            ));
        }
    }

    fn explain(&mut self, error: Option<&str>) {
        if let (Some((_, text)), Some(error)) = (self.0.last_mut(), error) {
            text.push_str(&format!(" ({error})"));
        }
    }

    fn upstream(&mut self, expected: &Upstream, got: &Upstream) {
        self.field("upstream.backend", &expected.backend, &got.backend);
        self.field("upstream.method", &expected.method, &got.method);
        self.field("upstream.target", &expected.target, &got.target);
        self.field("upstream.host", &expected.host, &got.host);
        self.field("upstream.version", &expected.version, &got.version);
        self.headers("upstream header", &expected.headers, &got.headers);
    }

    fn headers(
        &mut self,
        what: &str,
        expected: &BTreeMap<String, Vec<String>>,
        got: &BTreeMap<String, Vec<String>>,
    ) {
        let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
        for name in names {
            let shape = |values: Option<&Vec<String>>| {
                values.map(|values| values.iter().map(|value| shape(value)).collect::<Vec<_>>())
            };
            self.field(
                &format!("{what} {name}"),
                shape(expected.get(name)),
                shape(got.get(name)),
            );
        }
    }
}

/// Request ids are compared by their form only.
fn shape(value: &str) -> String {
    let id = value.len() == 32
        && value
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if id {
        "<hex32>".to_owned()
    } else {
        value.to_owned()
    }
}
