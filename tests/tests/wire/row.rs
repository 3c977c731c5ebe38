//! A row of a table, and how it is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gatehouse_tests::backend::{Backend, Request, Step, ok};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw::{self, Answer, Client, Failure, escaped, find};
use gatehouse_tests::wait;
use serde::Deserialize;

/// Time in which a request that must not be forwarded would have been.
const QUIET: Duration = Duration::from_millis(25);

/// One row: what is sent, and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) rule: String,
    /// Bytes of the client, one character each. Default: a GET of `/row/<id>`.
    #[serde(default)]
    pub(crate) send: String,
    /// Parts of `send` that are long: `{name}` is replaced by the text, that often.
    #[serde(default)]
    pub(crate) repeat: BTreeMap<String, (String, usize)>,
    /// Bytes of the backend, when it is asked for `/row/<id>`.
    pub(crate) answer: Option<String>,
    /// What the backend does next: `keep` (default), `close` or `reset`.
    #[serde(default)]
    pub(crate) then: String,
    pub(crate) expect: Expect,
}

/// What must come of a row. With status 200 alone, exactly one complete request reaches a backend.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    /// The answer has one of these status codes.
    status: Vec<u16>,
    /// There is no complete answer: `cut` in the middle, or `none` at all.
    answer: String,
    /// The connection is closed after the answer.
    closes: bool,
    /// The connection serves another request afterwards.
    stays: bool,
    /// `nothing`, `incomplete` (no complete request), `any`, or who gets it; default `main`.
    backend: String,
    /// Request line at the backend.
    line: Option<String>,
    /// Fields at the backend, values joined with a bar.
    has: BTreeMap<String, String>,
    /// Fields that the backend does not see.
    lacks: Vec<String>,
    /// Content at the backend, without framing.
    body: Option<String>,
    /// Bytes that are nowhere in what a backend sees.
    absent: Vec<String>,
    /// Fields of the answer, values joined with a bar.
    answer_has: BTreeMap<String, String>,
    /// Fields that the answer has, whatever their value.
    answer_names: Vec<String>,
    /// Fields that the answer does not have.
    answer_lacks: Vec<String>,
    /// Content of the answer.
    answer_body: Option<String>,
    /// Interim answers, in order.
    interim: Option<Vec<u16>>,
    /// The client closes its half after sending.
    half_close: bool,
    /// Method, where it matters for reading the answer.
    method: String,
}

/// Rows of a table.
pub(crate) fn load(table: &str) -> Vec<Row> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("wire/{table}.yaml"));
    let text = std::fs::read_to_string(&path).expect("a table");
    let rows: Vec<Row> =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows.len(), "ids are unique in {table}");
    rows
}

/// Prints every failure, then fails if there is one.
pub(crate) fn report(table: &str, rows: usize, failed: &[String]) {
    println!("{table}: {} of {rows} rows pass", rows - failed.len());
    assert!(
        failed.is_empty(),
        "{table}: {} of {rows} rows fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Characters to bytes, one each.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    text.chars()
        .map(|letter| u8::try_from(u32::from(letter)).expect("a byte"))
        .collect()
}

/// The gateway and the backends of the tables.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    backends: [(&'static str, Backend); 3],
    _scratch: Scratch,
}

impl World {
    /// `wire.test` goes to `main`, its `/secret` to `secret`, `other.test` to `other`.
    pub(crate) fn start(rows: &[Row], flags: &[&str]) -> Self {
        let scripts: BTreeMap<String, Vec<Step>> = rows
            .iter()
            .filter_map(|row| Some((format!("/row/{}", row.id), row.steps()?)))
            .collect();
        Self::scripted(flags, move |request| {
            scripts
                .get(request.target())
                .cloned()
                .unwrap_or_else(|| ok("ok"))
        })
    }

    /// The same with any script for the backends.
    pub(crate) fn scripted(
        flags: &[&str],
        script: impl Fn(&Request) -> Vec<Step> + Clone + Send + Sync + 'static,
    ) -> Self {
        let backends =
            ["main", "secret", "other"].map(|name| (name, Backend::scripted(script.clone())));
        let scratch = Scratch::new();
        let mut text = manifests::class();
        for (name, backend) in &backends {
            text.push_str(&manifests::service(name, &[backend.address]));
        }
        let rules = [("/", "Prefix", "main"), ("/secret", "Prefix", "secret")];
        text.push_str(&manifests::ingress("wire", "wire.test", &rules));
        text.push_str(&manifests::ingress(
            "other",
            "other.test",
            &[("/", "Prefix", "other")],
        ));
        scratch.write("all.yaml", text);
        let gateway = Gateway::start(scratch.path(), flags);
        Self {
            gateway,
            backends,
            _scratch: scratch,
        }
    }

    /// What the backends saw, removed from their logs.
    pub(crate) fn take(&self) -> Vec<(&'static str, Request)> {
        self.each(Backend::take)
    }

    /// What the backends saw.
    pub(crate) fn seen(&self) -> Vec<(&'static str, Request)> {
        self.each(Backend::requests)
    }

    /// Backend of this name.
    pub(crate) fn backend(&self, name: &str) -> &Backend {
        let found = self.backends.iter().find(|(known, _)| *known == name);
        &found.expect("a backend of this name").1
    }

    fn each(&self, read: impl Fn(&Backend) -> Vec<Request>) -> Vec<(&'static str, Request)> {
        let tagged = |(name, backend): &(&'static str, Backend)| {
            let name = *name;
            read(backend)
                .into_iter()
                .map(move |request| (name, request))
                .collect::<Vec<_>>()
        };
        self.backends.iter().flat_map(tagged).collect()
    }
}

impl Row {
    /// Runs the row; `None` when everything is as expected.
    pub(crate) fn run(&self, world: &World) -> Option<String> {
        world.take();
        let sent = self.request();
        let mut client = Client::plain(world.gateway.http);
        client.send(&sent);
        if self.expect.half_close {
            client.finish();
        }
        let answer = client.answer_to(&self.expect.method);
        let mut wrong = self.expect.upstream(world);
        wrong.extend(self.expect.answer(&answer, &mut client));
        if self.answer.is_some() {
            // Whatever a backend sent: the next client gets its own answer.
            let clean =
                raw::get(world.gateway.http, "wire.test", "/clean").map(|answer| answer.text());
            if clean.as_deref() != Ok("ok") {
                wrong.push(format!("the next request got {clean:?}"));
            }
        }
        if wrong.is_empty() {
            return None;
        }
        let got = match &answer {
            Ok(answer) => format!(
                "{} {:?} {}",
                answer.line,
                answer.headers,
                escaped(&answer.body)
            ),
            Err(failure) => format!("{failure:?}"),
        };
        let upstream = self.answer.as_deref().map_or_else(String::new, |answer| {
            format!("\n    upstream {} {}", escaped(&bytes(answer)), self.then)
        });
        Some(format!(
            "{} ({}): {}\n    sent {}{upstream}\n    got  {got}",
            self.id,
            self.rule,
            wrong.join("; "),
            escaped(&sent)
        ))
    }

    fn request(&self) -> Vec<u8> {
        if self.send.is_empty() {
            let method = if self.expect.method.is_empty() {
                "GET"
            } else {
                &self.expect.method
            };
            return format!(
                "{method} /row/{} HTTP/1.1\r\nHost: wire.test\r\n\r\n",
                self.id
            )
            .into_bytes();
        }
        self.filled(&self.send)
    }

    /// Bytes of a text with its long parts.
    fn filled(&self, text: &str) -> Vec<u8> {
        let mut text = text.to_owned();
        for (name, (part, times)) in &self.repeat {
            // A hash in the part counts up: names of fields must differ.
            let long: String = (0..*times)
                .map(|number| part.replace('#', &number.to_string()))
                .collect();
            text = text.replace(&format!("{{{name}}}"), &long);
        }
        bytes(&text)
    }

    fn steps(&self) -> Option<Vec<Step>> {
        let mut steps = vec![
            Step::ReadBody,
            Step::Send(self.filled(self.answer.as_deref()?)),
        ];
        match self.then.as_str() {
            "" | "keep" => {}
            "close" => steps.push(Step::Close),
            "reset" => steps.push(Step::Reset),
            other => panic!("{}: then: {other}", self.id),
        }
        Some(steps)
    }
}

fn saw(expected: &str, all: &[(&'static str, Request)]) -> Vec<String> {
    let seen: Vec<String> = all
        .iter()
        .map(|(at, request)| {
            let content = escaped(&request.content);
            format!(
                "{at}: {} [{content}] complete={}",
                escaped(&request.head),
                request.complete
            )
        })
        .collect();
    vec![format!("backends should see {expected} but saw {seen:?}")]
}

impl Expect {
    fn upstream(&self, world: &World) -> Vec<String> {
        match self.backend.as_str() {
            "nothing" => {
                let quiet = wait::holds(QUIET, || world.seen().is_empty());
                return if quiet {
                    Vec::new()
                } else {
                    saw("nothing", &world.take())
                };
            }
            "incomplete" => {
                let clean = || world.seen().iter().all(|(_, request)| !request.complete);
                let clean = wait::holds(QUIET, clean);
                return if clean {
                    Vec::new()
                } else {
                    saw("no complete request", &world.take())
                };
            }
            "any" => {
                return world
                    .take()
                    .iter()
                    .flat_map(|(_, request)| self.absent(request))
                    .collect();
            }
            "" if self.status != [200] => return Vec::new(),
            _ => {}
        }
        let arrived = || {
            world
                .seen()
                .into_iter()
                .find(|(_, request)| request.complete)
        };
        let Some((at, request)) = wait::within(Duration::from_secs(2), arrived) else {
            return saw("one complete request", &world.take());
        };
        let all = world.take();
        if all.len() != 1 {
            return saw("exactly one request", &all);
        }
        let wanted = if self.backend.is_empty() {
            "main"
        } else {
            &self.backend
        };
        let mut wrong = self.request(&request);
        if wanted != at {
            wrong.push(format!("reached backend {at} instead of {wanted}"));
        }
        wrong
    }

    fn request(&self, request: &Request) -> Vec<String> {
        let mut wrong = self.absent(request);
        if let Some(line) = self.line.as_ref().filter(|line| **line != request.line) {
            wrong.push(format!(
                "request line {:?} instead of {line:?}",
                request.line
            ));
        }
        for (name, value) in &self.has {
            let got = request.all(name).join("|");
            if got != *value {
                wrong.push(format!("backend sees {name}: {got:?} instead of {value:?}"));
            }
        }
        for name in &self.lacks {
            if let Some(value) = request.header(name) {
                wrong.push(format!("backend sees {name}: {value:?}"));
            }
        }
        if let Some(body) = self
            .body
            .as_ref()
            .filter(|body| bytes(body) != request.body())
        {
            wrong.push(format!(
                "backend reads {} instead of {body:?}",
                escaped(&request.body())
            ));
        }
        wrong
    }

    fn absent(&self, request: &Request) -> Vec<String> {
        let all = [request.head.as_slice(), &request.content].concat();
        let found = self
            .absent
            .iter()
            .filter(|text| find(&all, &bytes(text)).is_some());
        found
            .map(|text| format!("backend sees the bytes {text:?}"))
            .collect()
    }

    fn answer(&self, answer: &Result<Answer, Failure>, client: &mut Client) -> Vec<String> {
        let answer = match (self.answer.as_str(), answer) {
            ("", Ok(answer)) => answer,
            ("", Err(_)) if self.status.is_empty() => return Vec::new(),
            ("", Err(failure)) => return vec![format!("no answer: {failure:?}")],
            ("cut", Err(Failure::Truncated(_))) | ("none", Err(Failure::Closed)) => {
                return Vec::new();
            }
            (wanted, got) => return vec![format!("the answer should be {wanted}, but is {got:?}")],
        };
        let mut wrong = self.fields(answer);
        if !self.status.is_empty() && !self.status.contains(&answer.status) {
            wrong.push(format!(
                "status {} instead of {:?}",
                answer.status, self.status
            ));
        }
        if let Some(text) = self
            .answer_body
            .as_ref()
            .filter(|text| bytes(text) != answer.body)
        {
            wrong.push(format!(
                "content {} instead of {text:?}",
                escaped(&answer.body)
            ));
        }
        if let Some(codes) = self
            .interim
            .as_ref()
            .filter(|codes| **codes != answer.interim)
        {
            wrong.push(format!("interim {:?} instead of {codes:?}", answer.interim));
        }
        if self.closes && !client.closes_within(Duration::from_secs(3)) {
            wrong.push("the connection stays open".into());
        } else if self.closes && !client.buffer.is_empty() {
            wrong.push(format!(
                "more after the answer: {}",
                escaped(&client.buffer)
            ));
        }
        if self.stays {
            client.send("GET /again HTTP/1.1\r\nHost: other.test\r\n\r\n");
            let again = client.answer().map(|answer| answer.text());
            if again.as_deref() != Ok("ok") {
                wrong.push(format!("the connection is of no more use: {again:?}"));
            }
        }
        wrong
    }

    fn fields(&self, answer: &Answer) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, value) in &self.answer_has {
            let got = answer.all(name).join("|");
            if got != *value {
                wrong.push(format!("answer has {name}: {got:?} instead of {value:?}"));
            }
        }
        for name in &self.answer_lacks {
            if let Some(value) = answer.header(name) {
                wrong.push(format!("answer has {name}: {value:?}"));
            }
        }
        let missing = self
            .answer_names
            .iter()
            .filter(|name| answer.header(name).is_none());
        wrong.extend(missing.map(|name| format!("answer has no {name}")));
        wrong
    }
}
