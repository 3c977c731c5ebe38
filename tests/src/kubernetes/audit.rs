//! The audit log of the API server: who asked for what, and what came of it.

use serde_json::Value;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// `ResponseStarted` (watches only) or `ResponseComplete`.
    pub stage: String,
    /// Name of the user, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `User-Agent` of the client.
    pub agent: String,
    /// `get`, `list`, `watch`, `patch`…
    pub verb: String,
    /// Path and query as requested.
    pub uri: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Resource with its subresource, such as `ingresses/status`. Empty for URLs outside the API.
    pub resource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name of the object, or empty.
    pub name: String,
    /// Status of the answer.
    pub status: u16,
    /// When it was received, as the log writes it.
    pub received: String,
}

/// Lines of a log. The last may be half written while the server runs: then it is left out.
pub(super) fn parse(text: &str) -> Vec<Audited> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(line).collect()
}

fn line(text: &str) -> Audited {
    let value: Value = serde_json::from_str(text).expect("a line of the audit log is JSON");
    let at = |pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let mut resource = at("/objectRef/resource");
    let part = at("/objectRef/subresource");
    if !part.is_empty() {
        resource = format!("{resource}/{part}");
    }
    let status = value
        .pointer("/responseStatus/code")
        .and_then(Value::as_u64);
    Audited {
        stage: at("/stage"),
        user: at("/user/username"),
        agent: at("/userAgent"),
        verb: at("/verb"),
        uri: at("/requestURI"),
        group: at("/objectRef/apiGroup"),
        resource,
        namespace: at("/objectRef/namespace"),
        name: at("/objectRef/name"),
        status: status.and_then(|code| code.try_into().ok()).unwrap_or(0),
        received: at("/requestReceivedTimestamp"),
    }
}
