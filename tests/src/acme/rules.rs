//! What Let's Encrypt does and Pebble does not, one rule each: the executable form of what a client
//! has to expect. A test adds the rules it is about to a [`Fault`].
//!
//! [`Fault`]: super::fault::Fault

mod edge;
mod kills;
mod orders;
mod renewal;
mod replies;

use serde_json::{Value, json};

use crate::raw::Answer;

pub use edge::{Allowance, On, edge_unavailable, internal_error, paused, rate_limited};
pub use kills::{Kills, Moment, Side};
pub use orders::{
    NameCount, NoOverlap, ReplacedByOwner, ReplacedOnce, ReusedOrders, SilentFailure, SlowFinalize,
    certificate_id,
};
pub use renewal::{AlternatesGone, DirectoryExtra, ShortWindow};
pub use replies::Replaced;

/// An answer with this status, content type and content.
pub fn answer(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        line: format!("HTTP/1.1 {status} Status"),
        status,
        headers: vec![("Content-Type".into(), kind.into())],
        body: body.into(),
        ..Answer::default()
    }
}

/// A problem document of ACME.
pub fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let body = json!({
        "type": format!("urn:ietf:params:acme:error:{kind}"),
        "detail": detail,
        "status": status,
    });
    answer(status, "application/problem+json", body.to_string())
}

/// The same with more fields.
pub fn with(mut answer: Answer, fields: &[(&str, &str)]) -> Answer {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    answer.headers.extend(fields);
    answer
}

/// Changes the JSON of an answer; anything else is left as it is.
fn edit(answer: &mut Answer, change: impl FnOnce(&mut Value)) {
    if let Ok(mut value) = serde_json::from_slice(&answer.body) {
        change(&mut value);
        answer.body = value.to_string().into_bytes();
    }
}

/// Names of the identifiers in an order, sorted.
fn names(payload: &Value) -> Vec<String> {
    let identifiers = payload["identifiers"].as_array().into_iter().flatten();
    let name = |identifier: &Value| identifier["value"].as_str().map(str::to_owned);
    let mut names: Vec<String> = identifiers.filter_map(name).collect();
    names.sort();
    names
}
