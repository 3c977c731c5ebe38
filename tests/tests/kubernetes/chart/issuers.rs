//! Issuers in the values: the schema of the chart and the parser of the program know the same.

use std::collections::BTreeSet;

use gatehouse_acme::issuers::Issuers;
use gatehouse_tests::kubernetes::{Helm, chart, cluster};
use serde_json::{Map, Value, json};

use super::RELEASE;

/// One with every field, and the one that it falls back to.
const FULL: &str = "
all:
  directory: https://ca.example.org/directory
  testDirectory: https://staging.example.org/directory
  acceptTerms: true
  contact: ops@example.org
  profile: tlsserver
  key: p384
  reuseKey: true
  challenges: [dns-01, http-01]
  dns:
    - zones: [example.org]
      provider: rfc2136
      secret: dns.key
      server: '192.0.2.1:53'
      url: https://dns.example.org
      command: /bin/true
      cnames: never
      resolvers: ['192.0.2.2:53', '[2001:db8::2]:53']
      propagation: resolvers
      ttl: 30
  allow:
    - namespaces: {names: [shop], matchLabels: {team: web}}
      hosts: ['*.example.org']
  caBundle: roots
  eab: {kid: '17', secret: binding}
  preferredChain: Example Root
  fallback: [other]
  http01: published
  limits: {ordersPerMinute: 1, ordersPerThreeHours: 2, renewalsPerMinute: 3}
  insecure: false
other: {directory: https://other.example.org/directory, acceptTerms: true}
";

/// What is wrong with issuers, according to the program.
fn parsed(issuers: &Value) -> Result<(), String> {
    let read: Result<Issuers, _> = serde_json::from_value(json!({"issuers": issuers}));
    let issuers = read.map_err(|error| error.to_string())?;
    let complaints = issuers.complaints();
    complaints
        .is_empty()
        .then_some(())
        .ok_or(complaints.join("; "))
}

/// And according to the chart.
fn rendered(issuers: &Value) -> Result<(), String> {
    let secrets = ["binding", "dns.key", "roots"];
    let values = json!({"certificates": {"issuers": issuers, "secrets": secrets}});
    let finished = Helm::alone().render(RELEASE, RELEASE, &values.to_string());
    finished.ok().then_some(()).ok_or(finished.text())
}

/// The names that serde says it would have taken.
fn expected(complaint: &str) -> BTreeSet<String> {
    let (_, list) = complaint.split_once("expected").expect("what is expected");
    let names = list.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// Walks the schema beside the example.
struct Walk<'a> {
    full: &'a Value,
    seen: usize,
}

impl Walk<'_> {
    fn with(&self, at: &str, value: Value) -> Value {
        let mut changed = self.full.clone();
        *changed.pointer_mut(at).expect("a place in the example") = value;
        changed
    }

    fn visit(&mut self, at: &str, schema: &Value) {
        if let Some(items) = schema.get("items") {
            self.visit(&format!("{at}/0"), items);
        }
        if let Some(variants) = schema["enum"].as_array() {
            let known = variants.iter().filter_map(Value::as_str);
            self.same(at, json!("unknown"), known.map(str::to_owned).collect());
        }
        if let Some(properties) = schema["properties"].as_object() {
            self.fields(at, schema, properties);
            for (name, schema) in properties {
                self.visit(&format!("{at}/{name}"), schema);
            }
        }
    }

    /// Fields of an object: those that are known, those that have to be there.
    fn fields(&mut self, at: &str, schema: &Value, properties: &Map<String, Value>) {
        let there = self.full.pointer(at).and_then(Value::as_object);
        let there = there.unwrap_or_else(|| panic!("{at} is no object"));
        let names: BTreeSet<String> = properties.keys().cloned().collect();
        let shown: BTreeSet<String> = there.keys().cloned().collect();
        assert_eq!(shown, names, "the example shows every field of {at}");

        let mut more = there.clone();
        more.insert("unknown".to_owned(), json!("x"));
        self.same(at, Value::Object(more), names);

        let needed = schema["required"].as_array().into_iter().flatten();
        let needed: BTreeSet<&str> = needed.filter_map(Value::as_str).collect();
        for name in there.keys() {
            let mut less = there.clone();
            less.remove(name);
            let refused = parsed(&self.with(at, Value::Object(less)))
                .is_err_and(|why| why.contains(&format!("missing field `{name}`")));
            assert_eq!(refused, needed.contains(&**name), "{at}/{name} is needed");
        }
    }

    /// What nobody knows is refused by both, and both know the same.
    fn same(&mut self, at: &str, unknown: Value, known: BTreeSet<String>) {
        let wrong = self.with(at, unknown);
        let complaint = parsed(&wrong).expect_err(at);
        assert_eq!(expected(&complaint), known, "{at}: {complaint}");
        let said = rendered(&wrong).expect_err(at);
        assert!(
            said.contains(&format!("/certificates/issuers{at}")),
            "{said}"
        );
        self.seen += 1;
    }
}

#[test]
fn the_schema_knows_the_fields_and_words_of_issuers_that_the_program_knows() {
    cluster::alone(|| {
        let full: Value = serde_saphyr::from_str(FULL).expect("YAML");
        parsed(&full).expect("the program takes every field");
        rendered(&full).expect("the chart takes every field");

        let schema = std::fs::read_to_string(chart().join("values.schema.json"));
        let schema: Value = serde_json::from_str(&schema.expect("a schema")).expect("JSON");
        let issuer = "/properties/certificates/properties/issuers/additionalProperties";
        let mut walk = Walk {
            full: &full,
            seen: 0,
        };
        walk.visit("/all", schema.pointer(issuer).expect("an issuer"));
        assert_eq!(walk.seen, 12, "six objects and six lists of words");
    });
}

#[test]
fn issuers_that_the_program_would_refuse_are_refused_before_they_are_installed() {
    cluster::alone(|| {
        let cases: &[(&str, Value, &[&str])] = &[
            ("directory", json!("ca.example.org"), &["/all/directory"]),
            (
                "acceptTerms",
                json!(false),
                &["all.acceptTerms", "write true"],
            ),
            ("contact", json!("mailto:a@example.org"), &["/all/contact"]),
            ("challenges", json!([]), &["/all/challenges"]),
            ("limits", json!({"ordersPerMinute": 0}), &["/all/limits"]),
            (
                "dns",
                json!([{"zones": ["example.org"], "provider": "exec"}]),
                &["all.dns", "exec", "httpreq"],
            ),
            ("fallback", json!(["third"]), &["all.fallback", "third"]),
            (
                "caBundle",
                json!("elsewhere"),
                &["all", "the Secret elsewhere", "certificates.secrets"],
            ),
        ];
        for (field, value, words) in cases {
            let mut issuers: Value = serde_saphyr::from_str(FULL).expect("YAML");
            issuers["all"][*field] = value.clone();
            let said = rendered(&issuers).expect_err(field);
            for word in *words {
                assert!(said.contains(word), "{field}: {word} is missing: {said}");
            }
        }
    });
}
