//! Runs every example: its manifests with the real binary, its backends, and every request of its
//! `requests.yaml`. The format is told in `examples/README.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gatehouse_tests::gateway::{self, Echo, Gateway};
use gatehouse_tests::http2::Session;
use gatehouse_tests::manifests::Scratch;
use gatehouse_tests::raw::Client;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::websocket;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
struct Requests {
    requests: Vec<Exchange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    about: String,
    request: Request,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    version: String,
    method: Option<String>,
    host: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    websocket: Option<Vec<String>>,
    grpc: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    status: u16,
    location: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body_contains: Option<String>,
    certificate: Option<String>,
    messages: Option<Vec<String>>,
    #[serde(default)]
    trailers: BTreeMap<String, String>,
    upstream: Option<Upstream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upstream {
    service: Option<String>,
    target: Option<String>,
    host: Option<String>,
    version: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// What came back, whatever the protocol.
#[derive(Debug, Default)]
struct Got {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    trailers: BTreeMap<String, String>,
    names: Vec<String>,
    messages: Vec<String>,
}

#[test]
fn every_example_answers_as_it_says() {
    let root = gateway::workspace().join("examples");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .expect("the folder examples/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "there are examples");
    let mut wrong = Vec::new();
    for folder in &folders {
        assert!(
            folder.join("requests.yaml").exists(),
            "{} has no requests.yaml",
            folder.display()
        );
        assert!(
            folder.join("README.md").exists(),
            "{} has no README.md",
            folder.display()
        );
        wrong.extend(play(folder));
    }
    assert!(
        wrong.is_empty(),
        "examples and gateway disagree:\n{}",
        wrong.join("\n")
    );
}

fn play(folder: &Path) -> Vec<String> {
    let scratch = Scratch::new();
    let mut echoes = Vec::new();
    for file in std::fs::read_dir(folder)
        .expect("an example")
        .map(|entry| entry.expect("an entry").path())
    {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if file.extension().is_some_and(|ending| ending == "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a text file");
        scratch.write(&name, with_backends(&text, &mut echoes));
    }
    let gateway = Gateway::start(scratch.path(), &[]);
    let text = std::fs::read_to_string(folder.join("requests.yaml")).expect("requests.yaml");
    let requests: Requests = serde_saphyr::from_str(&text)
        .unwrap_or_else(|error| panic!("{}/requests.yaml: {error}", folder.display()));
    assert!(!requests.requests.is_empty());
    let mut wrong = Vec::new();
    for exchange in &requests.requests {
        let got = send(&gateway, &exchange.request);
        for text in exchange.expect.differences(&got, &exchange.request) {
            wrong.push(format!("{} ({}): {text}", folder.display(), exchange.about));
        }
    }
    wrong
}

/// Gives every EndpointSlice a backend of its own: ports of examples are fixed so that they can be
/// run by hand, ports of tests are not.
fn with_backends(text: &str, echoes: &mut Vec<Echo>) -> String {
    let mut documents = Vec::new();
    for document in text.split("\n---") {
        let mut document = document.to_owned();
        if document.contains("kind: EndpointSlice") {
            let label = document
                .split("kubernetes.io/service-name:")
                .nth(1)
                .unwrap_or_default();
            let name = label
                .split(['\n', '}', ','])
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            let lines: Vec<String> = document
                .lines()
                .map(|line| line_with_backend(line, &name, echoes))
                .collect();
            document = lines.join("\n");
        }
        documents.push(document);
    }
    documents.join("\n---")
}

fn line_with_backend(line: &str, name: &str, echoes: &mut Vec<Echo>) -> String {
    let Some((before, rest)) = line.split_once("port: ") else {
        return line.to_owned();
    };
    let digits = rest.chars().take_while(char::is_ascii_digit).count();
    if digits == 0 {
        return line.to_owned();
    }
    let echo = Echo::start(name);
    let text = format!("{before}port: {}{}", echo.address.port(), &rest[digits..]);
    echoes.push(echo);
    text
}

fn send(gateway: &Gateway, request: &Request) -> Got {
    let tls = request.scheme == "https";
    let address = if tls { gateway.https } else { gateway.http };
    if let Some(text) = &request.grpc {
        return send_grpc(
            Session::open(address, tls.then(|| Handshake::h2(&request.host)).as_ref()),
            request,
            text,
        );
    }
    if request.version == "2" {
        let handshake = tls.then(|| Handshake::h2(&request.host));
        return send_http2(
            Session::open(address, handshake.as_ref()),
            request,
            &[],
            request.body.as_bytes(),
        );
    }
    if !tls {
        return send_http1(Client::plain(address), request);
    }
    let secured = Handshake::new(&request.host)
        .connect(address)
        .expect("TLS handshake");
    let names = secured.names();
    Got {
        names,
        ..send_http1(secured.client(), request)
    }
}

fn send_http1(mut client: Client, request: &Request) -> Got {
    let method = request.method.as_deref().unwrap_or("GET");
    let mut text = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\n",
        request.path, request.host
    );
    if request.websocket.is_some() {
        text = websocket::request(&request.host, &request.path)
            .trim_end_matches("\r\n")
            .to_owned()
            + "\r\n";
    }
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
    }
    client.send(format!("{text}\r\n{}", request.body));
    let answer = client
        .answer_to(method)
        .unwrap_or_else(|failure| panic!("{request:?}: {failure:?}"));
    let lower = |fields: &[(String, String)]| {
        fields
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.clone()))
            .collect()
    };
    let mut got = Got {
        status: answer.status,
        headers: lower(&answer.headers),
        trailers: lower(&answer.trailers),
        body: answer.body,
        ..Got::default()
    };
    for message in request
        .websocket
        .iter()
        .flatten()
        .take_while(|_| got.status == 101)
    {
        client.send(websocket::masked(message));
        got.messages.push(
            client
                .frame()
                .unwrap_or_else(|failure| panic!("{request:?}: {failure:?}")),
        );
    }
    got
}

fn send_http2(mut session: Session, request: &Request, extra: &[(&str, &str)], body: &[u8]) -> Got {
    let method = request
        .method
        .as_deref()
        .unwrap_or(if request.grpc.is_some() {
            "POST"
        } else {
            "GET"
        });
    let own: Vec<(String, &str)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.as_str()))
        .collect();
    let mut headers: Vec<(&str, &str)> = own
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    headers.extend(extra);
    let answer = session
        .send(method, &request.host, &request.path, &headers, body)
        .unwrap_or_else(|error| panic!("{request:?}: {error}"));
    let text = |fields: &http::HeaderMap| {
        let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        };
        fields.iter().map(pair).collect()
    };
    Got {
        status: answer.status,
        headers: text(&answer.headers),
        trailers: text(&answer.trailers),
        body: answer.body,
        names: session.names.clone(),
        ..Got::default()
    }
}

fn send_grpc(session: Session, request: &Request, text: &str) -> Got {
    let body = grpc_frame(text);
    send_http2(
        session,
        request,
        &[("content-type", "application/grpc"), ("te", "trailers")],
        &body,
    )
}

fn grpc_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(
        u32::try_from(text.len())
            .expect("a short message")
            .to_be_bytes(),
    );
    frame.extend_from_slice(text.as_bytes());
    frame
}

impl Expect {
    fn differences(&self, got: &Got, request: &Request) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, expected: &str, got: Option<&str>| {
            if got != Some(expected) {
                wrong.push(format!("{what}: expected {expected:?}, got {got:?}"));
            }
        };
        same(
            "status",
            &self.status.to_string(),
            Some(&got.status.to_string()),
        );
        let header = |name: &str| got.headers.get(&name.to_lowercase()).map(String::as_str);
        if let Some(location) = &self.location {
            same("location", location, header("location"));
        }
        for (name, value) in &self.headers {
            same(name, value, header(name));
        }
        for (name, value) in &self.trailers {
            same(
                name,
                value,
                got.trailers
                    .get(&name.to_lowercase())
                    .or(got.headers.get(&name.to_lowercase()))
                    .map(String::as_str),
            );
        }
        if let Some(name) = &self.certificate {
            let found = got.names.iter().find(|known| *known == name);
            same("certificate", name, found.map(String::as_str));
        }
        if let Some(messages) = &self.messages {
            same(
                "messages",
                &format!("{messages:?}"),
                Some(&format!("{:?}", got.messages)),
            );
        }
        if let Some(upstream) = &self.upstream {
            wrong.extend(upstream.differences(got));
        }
        let body = String::from_utf8_lossy(&got.body);
        if self
            .body_contains
            .as_ref()
            .is_some_and(|text| !body.contains(text))
        {
            wrong.push(format!(
                "content {body:?} does not contain {:?}",
                self.body_contains
            ));
        }
        if request
            .grpc
            .as_ref()
            .is_some_and(|text| self.status == 200 && grpc_frame(text) != got.body)
        {
            wrong.push(format!("the message came back as {body:?}"));
        }
        wrong
    }
}

impl Upstream {
    fn differences(&self, got: &Got) -> Vec<String> {
        let mut wrong = Vec::new();
        let report: Value = serde_json::from_slice(&got.body).unwrap_or(Value::Null);
        let named = got.headers.get("x-echo-instance").map(String::as_str);
        let fields = [
            ("target", &self.target, report["target"].as_str()),
            ("host", &self.host, report["host"].as_str()),
            ("version", &self.version, report["version"].as_str()),
            (
                "service",
                &self.service,
                report["instance"].as_str().or(named),
            ),
        ];
        for (what, expected, got) in fields {
            if expected.is_some() && expected.as_deref() != got {
                wrong.push(format!(
                    "upstream {what}: expected {expected:?}, got {got:?}"
                ));
            }
        }
        let pairs = report["headers"].as_array().cloned().unwrap_or_default();
        for (name, value) in &self.headers {
            let found = pairs.iter().find(|pair| {
                pair[0]
                    .as_str()
                    .is_some_and(|known| known.eq_ignore_ascii_case(name))
            });
            if found.and_then(|pair| pair[1].as_str()) != Some(value) {
                wrong.push(format!(
                    "upstream {name}: expected {value:?}, got {found:?}"
                ));
            }
        }
        wrong
    }
}
