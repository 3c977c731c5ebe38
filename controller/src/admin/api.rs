//! The pages of the admin server.
//!
//! Pure but for reading the state: one request head in, one page out. Nothing here changes
//! anything.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{State, certificates};
use crate::simulate::{self, Query};
use crate::source::kubernetes::contact::{Contacts, KindView};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Page {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    pub(super) fn json<T: serde::Serialize>(value: &T) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(mut body) => {
                body.push('\n');
                Self {
                    status: StatusCode::OK,
                    content_type: "application/json",
                    body,
                }
            }
            Err(error) => Self::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot be written as JSON: {error}\n"),
            ),
        }
    }
}

/// Answers a request.
pub(super) fn page(state: &State, method: &Method, path: &str, query: Option<&str>) -> Page {
    if method != Method::GET && method != Method::HEAD {
        return Page::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD: this page changes nothing\n",
        );
    }
    match path {
        "/" => Page::text(StatusCode::OK, INDEX),
        "/healthz" => health(state),
        "/readyz" => ready(state),
        "/metrics" => metrics(state),
        "/api/snapshot" => Page::json(&*state.published.load()),
        "/api/diagnostics" => Page::json(&state.reports.borrow().diagnostics),
        "/api/convergence" => convergence(state),
        "/api/explain" => explain(state, query.unwrap_or_default()),
        _ => certificates::page(&state.certificates, path).unwrap_or_else(|| {
            Page::text(
                StatusCode::NOT_FOUND,
                format!("there is no such page; there are:\n{INDEX}"),
            )
        }),
    }
}

/// Whether a page says no more than whether the process is well.
pub(super) fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Alive while the workers are, and the engine: without it no change would ever be served.
fn health(state: &State) -> Page {
    if let Some(reason) = state.health.reasons().first() {
        return Page::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n"));
    }
    if state.reports.has_changed().is_ok() {
        Page::text(StatusCode::OK, "ok\n")
    } else {
        Page::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the engine has stopped; what is published keeps serving, restart to follow changes\n",
        )
    }
}

fn ready(state: &State) -> Page {
    let reasons = state.readiness.reasons();
    if reasons.is_empty() {
        return Page::text(StatusCode::OK, "ready\n");
    }
    let mut body = String::from("not ready\n");
    for reason in reasons {
        body.push_str(reason);
        body.push('\n');
    }
    let kinds = state.contacts.as_ref().map(Contacts::view);
    for kind in kinds.into_iter().flatten().filter(|kind| !kind.synced) {
        body.push_str("the API server has not listed every ");
        body.push_str(kind.kind);
        for trouble in &kind.trouble {
            body.push_str(", ");
            body.push_str(trouble);
        }
        body.push('\n');
    }
    Page::text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn metrics(state: &State) -> Page {
    match state.metrics.render() {
        Ok(body) => Page {
            status: StatusCode::OK,
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body,
        },
        Err(_) => Page::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics cannot be rendered\n",
        ),
    }
}

/// What this replica serves and how much it has heard: equal digests mean that replicas serve the
/// same.
fn convergence(state: &State) -> Page {
    #[derive(serde::Serialize)]
    struct Convergence {
        digest: String,
        generation: u64,
        synced: bool,
        /// Served by every worker.
        ready: bool,
        kinds: Vec<KindView>,
    }
    let contacts = state.contacts.as_ref();
    let snapshot = state.published.load();
    Page::json(&Convergence {
        digest: format!("{:016x}", state.published.digest()),
        generation: snapshot.generation,
        synced: state.reports.borrow().synced,
        ready: state.readiness.reasons().is_empty(),
        kinds: contacts.map(Contacts::view).unwrap_or_default(),
    })
}

fn explain(state: &State, query: &str) -> Page {
    let mut method = "GET".to_owned();
    let mut url = None;
    let mut headers = Vec::new();
    let mut text = false;
    for (name, value) in pairs(query) {
        match name.as_str() {
            "method" => method = value,
            "url" => url = Some(value),
            "header" => headers.push(value),
            "format" if value == "text" => text = true,
            "format" if value == "json" => text = false,
            _ => {
                return bad(format!(
                    "there is no parameter `{}`; there are method, url, header and format (json or text)",
                    name.escape_debug()
                ));
            }
        }
    }
    let Some(url) = url else {
        return bad(
            "the parameter `url` is missing, for example url=http://shop.example/cart".into(),
        );
    };
    let query = match Query::new(&method, &url, headers.iter().map(String::as_str)) {
        Ok(query) => query,
        Err(message) => return bad(message),
    };
    let snapshot = state.published.load();
    let diagnostics = Arc::clone(&state.reports.borrow().diagnostics);
    let board = state.published.challenges().load();
    match simulate::explain(&snapshot, &board, &state.listeners, &diagnostics, &query) {
        Ok(explanation) if text => Page::text(StatusCode::OK, explanation.to_string()),
        Ok(explanation) => Page::json(&explanation),
        Err(message) => bad(message),
    }
}

fn bad(message: String) -> Page {
    Page::text(StatusCode::BAD_REQUEST, message + "\n")
}

/// Names and values of a query in the form of HTML forms.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Percent-encodes a value for a query.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

const INDEX: &str = "\
/healthz          whether the process is alive
/readyz           whether it takes traffic
/metrics          metrics in the text format of OpenMetrics
/api/snapshot     what is served
/api/convergence  digest of what is served, and when the API server was last heard
/api/diagnostics  what is wrong with the configuration
/api/explain      which way a request goes: ?method=GET&url=http://host/path&header=Name:value
/api/certificates what is ordered and how it stands; /NAMESPACE/SECRET is one, with /chain its chain
/api/accounts     accounts at the authorities

By POST from this machine, with a JSON body: /api/certificates/NAMESPACE/SECRET/renew, /retry, /revoke
and /import, /api/accounts/ISSUER/rotate; `gatehouse cert` and `gatehouse account` send them.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_the_way_there_and_back() {
        for text in ["http://a.example/x?y=1&z=%41 +", "Näme: välue", "%zz"] {
            assert_eq!(decode(&encode(text)), text);
        }
        let list: Vec<_> = pairs("a=1&&b&c=%3D+d").collect();
        assert_eq!(list[1], ("b".into(), String::new()));
        assert_eq!(list[2], ("c".into(), "= d".into()));
    }
}
