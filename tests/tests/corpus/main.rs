//! Replays what a real ingress-nginx answered against the real binary, request by request.
//!
//! Every difference must be listed with its reason in `tests/corpus/differences.yaml`, and every
//! listed difference must still be one.

mod case;
mod compare;
mod echo;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::manifests::Scratch;
use gatehouse_tests::tls::Pair;
use gatehouse_tests::{namespace, wait};
use serde_json::{Value, json};

use case::{Case, Exchange};
use echo::Echoes;

const GATEWAY: &str = "172.31.0.100";
const FAMILIES: &[&str] = &["paths", "hosts", "tls", "class", "headers"];

#[test]
fn recorded_answers_of_ingress_nginx_are_given_again() {
    if !namespace::enter("recorded_answers_of_ingress_nginx_are_given_again") {
        return;
    }
    namespace::add_addresses([GATEWAY.to_owned(), send::CLIENT.to_owned()]);
    namespace::add_addresses(echo::addresses());
    let echoes = Echoes::start();
    let pairs = certificates();
    let only =
        std::env::var_os("GATEHOUSE_CORPUS_ONLY").map(|only| only.to_string_lossy().into_owned());
    let mut score = Score::default();
    for group in groups(only.as_deref()) {
        Replay::start(&group, &pairs, &echoes).run(&mut score);
    }
    score.finish(only.is_none());
}

/// Cases that can share a process: same flags, same ConfigMap, not isolated.
fn groups(only: Option<&str>) -> Vec<Vec<Case>> {
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in FAMILIES.iter().flat_map(|family| case::load(family)) {
        if only.is_some_and(|only| !case.id.starts_with(only)) {
            continue;
        }
        let alone = if case.isolate { case.id.as_str() } else { "" };
        let key = format!("{:?} {:?} {alone}", case.flags, case.configmap);
        groups.entry(key).or_default().push(case);
    }
    groups.into_values().collect()
}

/// Certificates under the file names that the corpus uses.
fn certificates() -> BTreeMap<&'static str, Pair> {
    let named: [(&str, &[&str]); 5] = [
        ("site1", &["site1.tls.test", "alias.tls.test"]),
        ("site2", &["site2.tls.test"]),
        ("wild", &["*.wild.test"]),
        ("www", &["shop.test", "www.shop.test"]),
        ("any", &["any.corpus.test", "*.corpus.example"]),
    ];
    named
        .into_iter()
        .map(|(file, names)| (file, Pair::new(names)))
        .collect()
}

/// One gateway and the cases that it serves.
struct Replay<'a> {
    cases: &'a [Case],
    pairs: &'a BTreeMap<&'static str, Pair>,
    echoes: &'a Echoes,
    scratch: Scratch,
    gateway: Option<Gateway>,
    proxy_line: Option<String>,
    markers: u32,
}

impl<'a> Replay<'a> {
    fn start(
        cases: &'a [Case],
        pairs: &'a BTreeMap<&'static str, Pair>,
        echoes: &'a Echoes,
    ) -> Self {
        let configmap = &cases[0].configmap;
        let proxied = configmap
            .get("use-proxy-protocol")
            .is_some_and(|value| value == "true");
        let proxy_line =
            proxied.then(|| "PROXY TCP4 172.31.0.200 172.31.0.100 40000 80\r\n".to_owned());
        let scratch = Scratch::new();
        let mut replay = Self {
            cases,
            pairs,
            echoes,
            scratch,
            gateway: None,
            proxy_line,
            markers: 0,
        };
        replay.write_first();
        let mut extra: Vec<String> = [
            "--ingress-class=nginx",
            "--controller-class=k8s.io/ingress-nginx",
            "--configmap=ingress-nginx/gw",
            "--workers=1",
            "--drain-delay=0s",
            "--drain-timeout=0s",
        ]
        .map(str::to_owned)
        .to_vec();
        for flag in &cases[0].flags {
            let name = flag.split('=').next().unwrap_or(flag);
            extra.retain(|given| !given.starts_with(&format!("{name}=")));
            // Switches are written without a value here.
            extra.push(flag.strip_suffix("=true").unwrap_or(flag).to_owned());
        }
        let (http, https) = (format!("{GATEWAY}:80"), format!("{GATEWAY}:443"));
        let listen = [http.as_str(), https.as_str(), "127.0.0.1:0"];
        replay.gateway = Some(Gateway::start_at(replay.scratch.path(), listen, &extra));
        replay
    }

    fn write_first(&mut self) {
        let base = case::standard();
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"},
            "spec": {"controller": "k8s.io/ingress-nginx"},
        });
        let mut data = self.cases[0].configmap.clone();
        // The peer trusts everybody unless told otherwise, we trust nobody: say what it means.
        let trusting = [
            "use-forwarded-headers",
            "use-proxy-protocol",
            "enable-real-ip",
        ];
        if trusting.iter().any(|key| data.contains_key(*key)) {
            data.entry("proxy-real-ip-cidr".into())
                .or_insert("0.0.0.0/0".into());
        }
        let settings = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "gw", "namespace": "ingress-nginx"}, "data": data,
        });
        for object in base.iter().chain([&class, &settings]) {
            self.apply(object, 0);
        }
        for case in self.cases {
            for object in &case.objects {
                self.apply(object, 10);
            }
            for (index, objects) in case.later.iter().enumerate() {
                for object in objects {
                    self.apply(object, 12 + 2 * index);
                }
            }
        }
    }

    /// One file per object. Second of creation as given: the peer had a real API server.
    fn apply(&self, object: &Value, second: usize) {
        let mut object = object.clone();
        object["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
        let mut text = serde_json::to_string_pretty(&object).expect("JSON");
        for (name, pair) in self.pairs {
            for (ending, pem) in [("crt", &pair.certificate), ("key", &pair.key)] {
                text = text.replace(
                    &format!("${{b64:{name}.{ending}}}"),
                    &case::base64(pem.as_bytes()),
                );
            }
        }
        self.scratch.replace(&case::file_name(&object), text);
    }

    fn run(mut self, score: &mut Score) {
        for case in self.cases {
            self.exchange(&case.id, &case.exchanges, score);
        }
        let steps = self
            .cases
            .iter()
            .map(|case| case.then.len())
            .max()
            .unwrap_or(0);
        for index in 0..steps {
            for case in self.cases {
                let Some(step) = case.then.get(index) else {
                    continue;
                };
                for object in &step.delete {
                    std::fs::remove_file(self.scratch.file(&case::file_name(object))).ok();
                }
                for object in &step.apply {
                    self.apply(object, 30 + index);
                }
            }
            self.wait_marker();
            for case in self.cases {
                if let Some(step) = case.then.get(index) {
                    self.exchange(&format!("{}/{index}", case.id), &step.exchanges, score);
                }
            }
        }
    }

    /// Waits until everything written so far is served: a fresh route, written last, answers.
    fn wait_marker(&mut self) {
        self.markers += 1;
        let host = format!("m{}.marker.corpus.test", self.markers);
        let marker = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "corpus-marker", "namespace": "corpus"},
            "spec": {"ingressClassName": "nginx", "rules": [{"host": host, "http": {"paths": [
                {"path": "/marker", "pathType": "Prefix", "backend": {"service": {"name": "marker", "port": {"number": 80}}}},
            ]}}]},
        });
        self.apply(&marker, 50);
        let request = case::Request {
            host: Some(host),
            target: "/marker".into(),
            proxy_line: self.proxy_line.clone(),
            ..case::Request::default()
        };
        wait::until("the marker route is served", || {
            let answer = send::send(&request, self.echoes);
            (answer.status == Some(200)).then_some(())
        });
    }

    fn exchange(&self, place: &str, exchanges: &[Exchange], score: &mut Score) {
        for (index, exchange) in exchanges.iter().enumerate() {
            let got = send::send(&exchange.request, self.echoes);
            let place = format!("{place}#{index}");
            score.note(place, compare::differences(&exchange.answer, &got));
        }
    }
}

/// What was equal and what was not.
#[derive(Default)]
struct Score {
    requests: usize,
    equal: usize,
    /// `(place, field)` to what was expected and what came.
    found: BTreeMap<(String, String), String>,
}

impl Score {
    fn note(&mut self, place: String, differences: Vec<(String, String)>) {
        self.requests += 1;
        if differences.is_empty() {
            self.equal += 1;
        }
        for (field, text) in differences {
            self.found.insert((place.clone(), field), text);
        }
    }

    fn finish(self, all: bool) {
        let listed = case::differences();
        let mut report = String::new();
        for ((place, field), text) in &self.found {
            if !listed.contains_key(&(place.clone(), field.clone())) {
                writeln!(report, "not listed: {place} {field}: {text}").expect("write to a string");
            }
        }
        for (place, field) in listed.keys() {
            if all && !self.found.contains_key(&(place.clone(), field.clone())) {
                writeln!(report, "listed, but equal: {place} {field}").expect("write to a string");
            }
        }
        let deliberate = self.found.keys().filter(|key| listed.contains_key(*key));
        let places: BTreeSet<&str> = deliberate.map(|(place, _)| place.as_str()).collect();
        println!(
            "{} requests, {} equal, {} deliberate differences",
            self.requests,
            self.equal,
            places.len()
        );
        assert!(
            report.is_empty(),
            "the corpus and differences.yaml disagree:\n{report}"
        );
        assert!(
            !all || self.requests >= 146,
            "cases were lost: {} requests",
            self.requests
        );
    }
}
