//! The backends of the corpus: every address is an instance, and behaviour is asked for in the
//! query.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Request, Step};
use gatehouse_tests::websocket;

use crate::case::Upstream;

/// Last number of the address, and the name of the backend.
const INSTANCES: &[(u8, &str)] = &[
    (11, "a"),
    (12, "a"),
    (13, "a"),
    (21, "b"),
    (31, "c"),
    (41, "canary"),
    (42, "canary2"),
    (51, "auth"),
    (61, "tls"),
    (71, "grpc"),
    (81, "errors"),
    (91, "mirror"),
    (92, "old"),
    (93, "new"),
    (94, "solo"),
];

/// Addresses of all instances.
pub(crate) fn addresses() -> impl Iterator<Item = String> {
    INSTANCES
        .iter()
        .map(|(number, _)| format!("172.31.0.{number}"))
}

/// All instances, and one list of what reached any of them.
pub(crate) struct Echoes {
    hits: Arc<Mutex<Vec<Upstream>>>,
    _backends: Vec<Backend>,
}

impl Echoes {
    pub(crate) fn start() -> Self {
        let hits = Arc::new(Mutex::new(Vec::new()));
        let start = |(number, name): &(u8, &str)| {
            let address: SocketAddr = format!("172.31.0.{number}:8080").parse().expect("address");
            let (instance, hits) = (format!("{name}-{number}"), Arc::clone(&hits));
            Backend::at(address, move |request| {
                hits.lock().expect("hits").push(seen(&instance, request));
                answer(&instance, request)
            })
        };
        let backends = INSTANCES.iter().map(start).collect();
        Self {
            hits,
            _backends: backends,
        }
    }

    /// What was reached since the last call, in order.
    pub(crate) fn take(&self) -> Vec<Upstream> {
        std::mem::take(&mut *self.hits.lock().expect("hits"))
    }
}

fn seen(instance: &str, request: &Request) -> Upstream {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &request.headers {
        let name = name.to_lowercase();
        if name != "host" && !name.starts_with("x-echo-") {
            headers.entry(name).or_default().push(value.clone());
        }
    }
    let version = request.line.rsplit(' ').next().unwrap_or_default();
    Upstream {
        backend: instance.to_owned(),
        method: request.method().to_owned(),
        target: request.target().to_owned(),
        host: request.header("host").unwrap_or_default().to_owned(),
        headers,
        version: (version != "HTTP/1.1").then(|| version.to_owned()),
    }
}

fn answer(instance: &str, request: &Request) -> Vec<Step> {
    let query = request
        .target()
        .split_once('?')
        .map_or("", |(_, query)| query);
    let mut steps = vec![Step::ReadBody];
    if request
        .header("upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
    {
        steps.extend([
            Step::Send(websocket::accepted().into_bytes()),
            Step::EchoFrames,
        ]);
        return steps;
    }
    let mut status = "200".to_owned();
    let mut body = format!("{{\"backend\": \"{instance}\"}}");
    let mut extra = String::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "status" => status = value,
            "size" => body = "z".repeat(value.parse().unwrap_or(0)),
            "drop" => return vec![Step::Reset],
            "delay" => steps.push(Step::Pause(Duration::from_secs_f64(
                value.parse().unwrap_or(0.0),
            ))),
            "header" => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                extra.push_str(&format!("{name}: {}\r\n", value.trim()));
            }
            _ => {}
        }
    }
    if matches!(status.as_str(), "204" | "304") {
        body.clear();
    }
    if !extra.to_lowercase().contains("content-type:") {
        extra.push_str("Content-Type: application/json\r\n");
    }
    let close = request
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let mut text = format!(
        "HTTP/1.1 {status} Echo\r\nContent-Length: {}\r\n{extra}",
        body.len()
    );
    if close {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    if request.method() != "HEAD" {
        text.push_str(&body);
    }
    steps.push(Step::Send(text.into_bytes()));
    if close {
        steps.push(Step::Close);
    }
    steps
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
