//! What a large authority checks when it takes an order, and how its orders behave afterwards.

use std::collections::HashMap;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};
use x509_parser::extensions::ParsedExtension;

use super::{edit, names, problem};
use crate::acme::fault::{Endpoint, Rule, Seen, Verdict};
use crate::raw::Answer;

/// Orders seen so far: URL and newest content.
#[derive(Default)]
struct Orders(HashMap<String, Value>);

impl Orders {
    fn note(&mut self, seen: &Seen, answer: &Answer) {
        let url = match seen.endpoint {
            Endpoint::NewOrder | Endpoint::Finalize => answer.header("location").map(str::to_owned),
            Endpoint::Order => self
                .0
                .keys()
                .find(|url| url.ends_with(&seen.target))
                .cloned(),
            _ => None,
        };
        let content: Option<Value> = serde_json::from_slice(&answer.body).ok();
        if let (Some(url), Some(content)) = (url, content)
            && content["status"].is_string()
        {
            self.0.insert(url, content);
        }
    }

    fn open(&self, url: &str, states: &[&str]) -> Option<&Value> {
        let order = self.0.get(url)?;
        states
            .contains(&order["status"].as_str().unwrap_or_default())
            .then_some(order)
    }
}

/// (a) The same account, names and profile get the same order back as long as it is open.
#[derive(Default)]
pub struct ReusedOrders {
    orders: Orders,
    known: HashMap<(String, Vec<String>, String), String>,
}

impl ReusedOrders {
    fn key(seen: &Seen) -> (String, Vec<String>, String) {
        let profile = seen.payload["profile"].as_str().unwrap_or_default();
        (
            seen.account.clone(),
            names(&seen.payload),
            profile.to_owned(),
        )
    }
}

impl Rule for ReusedOrders {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint != Endpoint::NewOrder {
            return Verdict::Pass;
        }
        let url = self.known.get(&Self::key(seen));
        let open = url.and_then(|url| Some((url, self.orders.open(url, &["pending", "ready"])?)));
        let Some((url, order)) = open else {
            return Verdict::Pass;
        };
        let mut same = super::answer(201, "application/json", order.to_string());
        same.headers.push(("Location".into(), url.clone()));
        Verdict::Answer(same)
    }

    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        self.orders.note(seen, answer);
        if let (Endpoint::NewOrder, Some(url)) = (seen.endpoint, answer.header("location")) {
            self.known.insert(Self::key(seen), url.to_owned());
        }
    }
}

/// (b) A certificate is replaced by one order: the second is refused as soon as the first lives,
/// and before anybody looks for an order to use again.
#[derive(Default)]
pub struct ReplacedOnce {
    orders: Orders,
    /// URL of the order by identifier of the replaced certificate.
    by: HashMap<String, String>,
}

impl Rule for ReplacedOnce {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let alive = ["pending", "ready", "processing", "valid"];
        let replaces = seen.payload["replaces"].as_str().unwrap_or_default();
        let order = self.by.get(replaces);
        let taken = order.is_some_and(|url| self.orders.open(url, &alive).is_some());
        if seen.endpoint == Endpoint::NewOrder && taken {
            let text = "another order replaces this certificate already";
            return Verdict::Answer(problem(409, "alreadyReplaced", text));
        }
        Verdict::Pass
    }

    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        self.orders.note(seen, answer);
        let replaces = seen.payload["replaces"].as_str();
        if let (Some(replaces), Some(url)) = (replaces, answer.header("location")) {
            self.by.insert(replaces.to_owned(), url.to_owned());
        }
    }
}

/// (c) Only the account that a certificate was issued to replaces it.
#[derive(Default)]
pub struct ReplacedByOwner(HashMap<String, String>);

impl Rule for ReplacedByOwner {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let replaces = seen.payload["replaces"].as_str().unwrap_or_default();
        let owner = self.0.get(replaces);
        if seen.endpoint == Endpoint::NewOrder && owner.is_some_and(|owner| *owner != seen.account)
        {
            let text = "the account did not issue the certificate to be replaced";
            return Verdict::Answer(problem(403, "unauthorized", text));
        }
        Verdict::Pass
    }

    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Certificate
            && let Some(id) = certificate_id(&answer.text())
        {
            self.0.insert(id, seen.account.clone());
        }
    }
}

/// Identifier of the first certificate in a PEM text, as `replaces` names it (RFC 9773).
pub fn certificate_id(pem: &str) -> Option<String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    let key = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(issuer) => issuer.key_identifier.as_ref(),
            _ => None,
        }
    })?;
    let serial = certificate.tbs_certificate.raw_serial();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!("{}.{}", encode(key.0), encode(serial)))
}

/// (d) A failed order does not say why; its authorizations do.
pub struct SilentFailure;

impl Rule for SilentFailure {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if matches!(seen.endpoint, Endpoint::Order | Endpoint::Finalize) {
            edit(answer, |order| {
                if let Some(order) = order.as_object_mut() {
                    order.remove("error");
                }
            });
        }
    }
}

/// (e) A name beside a wildcard that covers it.
pub struct NoOverlap;

impl Rule for NoOverlap {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let names = names(&seen.payload);
        let covered = names.iter().find(|name| {
            let parent = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
            !name.starts_with("*.") && parent.is_some_and(|wild| names.contains(&wild))
        });
        match covered {
            Some(name) if seen.endpoint == Endpoint::NewOrder => {
                let text = format!("{name} is redundant beside the wildcard of the same order");
                Verdict::Answer(problem(400, "malformed", &text))
            }
            _ => Verdict::Pass,
        }
    }
}

/// (f) More names than the profile allows.
pub struct NameCount(pub HashMap<String, usize>);

impl Rule for NameCount {
    fn before(&mut self, seen: &Seen) -> Verdict {
        let profile = seen.payload["profile"].as_str().unwrap_or_default();
        let (most, count) = (self.0.get(profile), names(&seen.payload).len());
        match most {
            Some(most) if seen.endpoint == Endpoint::NewOrder && count > *most => {
                let text = format!("{count} identifiers, but the profile allows {most}");
                Verdict::Answer(problem(400, "malformed", &text))
            }
            _ => Verdict::Pass,
        }
    }
}

/// (i) Finalize answers before the certificate is there; so do the next few reads of the order.
pub struct SlowFinalize {
    /// How many answers say "processing", that of finalize included.
    pub answers: usize,
}

impl Rule for SlowFinalize {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        let order = matches!(seen.endpoint, Endpoint::Order | Endpoint::Finalize);
        let content: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let late = ["processing", "valid"].contains(&content["status"].as_str().unwrap_or(""));
        if !order || !late || self.answers == 0 {
            return;
        }
        self.answers -= 1;
        edit(answer, |order| {
            order["status"] = json!("processing");
            if let Some(order) = order.as_object_mut() {
                order.remove("certificate");
            }
        });
        answer
            .headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("retry-after"));
        answer.headers.push(("Retry-After".into(), "3".into()));
    }
}
