//! What an answer of an authority means: success, or a [`Refusal`] with everything it said.
//!
//! Pure: an answer goes in, a value comes out.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{DATE, LINK, RETRY_AFTER};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Cause, DETAIL, Problem, Refusal, Step, Subproblem};
use crate::http::{DEADLINE, Failure, Reply, shown};

/// Longest Retry-After that is believed as it stands; what waits longer is the caller's to decide.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// How much of an answer that is no problem document is shown.
const GLIMPSE: usize = 200;

/// Most subproblems that are kept: an order has at most a hundred names.
const SUBPROBLEMS: usize = 100;

/// The answer if it is a success, else what it says.
pub(super) fn judged(step: Step, outcome: Result<Reply, Failure>) -> Result<Reply, Refusal> {
    let reply = outcome.map_err(|failure| {
        let cause = match failure {
            Failure::Unreachable(text) => Cause::Unreachable(shown(&text, DETAIL)),
            Failure::Distrusted(text) => Cause::Distrusted(shown(&text, DETAIL)),
            Failure::Deadline => Cause::Deadline(DEADLINE),
            Failure::TooLong => Cause::Answer(200, failure.to_string()),
        };
        Refusal::new(step, cause)
    })?;
    if reply.status.is_success() {
        return Ok(reply);
    }
    let status = reply.status.as_u16();
    let cause = match problem(&reply.body) {
        Some(problem) => Cause::Problem(status, problem),
        None => Cause::Answer(status, glimpse(&reply.body)),
    };
    Err(refusal(step, cause, &reply.headers))
}

/// The JSON of a success.
pub(super) fn parsed<T: DeserializeOwned>(step: Step, reply: &Reply) -> Result<T, Refusal> {
    serde_json::from_slice(&reply.body).map_err(|error| {
        let text = format!("{error} in {:?}", glimpse(&reply.body));
        refusal(
            step,
            Cause::Answer(reply.status.as_u16(), shown(&text, DETAIL)),
            &reply.headers,
        )
    })
}

/// A refusal with what the fields of the answer say.
pub(super) fn refusal(step: Step, cause: Cause, headers: &HeaderMap) -> Refusal {
    Refusal {
        step,
        cause,
        retry_after: retry_after(headers),
        date: date(headers),
        help: links(headers, "help").into_iter().next(),
    }
}

fn glimpse(body: &[u8]) -> String {
    if body.is_empty() {
        return "nothing".to_owned();
    }
    shown(&String::from_utf8_lossy(body), GLIMPSE)
}

/// A problem document as it comes over the wire.
#[derive(Deserialize)]
pub(super) struct WireProblem {
    #[serde(rename = "type")]
    kind: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    subproblems: Vec<WireSubproblem>,
}

#[derive(Deserialize)]
struct WireSubproblem {
    #[serde(rename = "type")]
    kind: Option<String>,
    detail: Option<String>,
    identifier: Option<WireIdentifier>,
}

#[derive(Deserialize)]
struct WireIdentifier {
    value: Option<String>,
}

impl From<WireProblem> for Problem {
    fn from(wire: WireProblem) -> Self {
        let subproblem = |each: WireSubproblem| Subproblem {
            name: each
                .identifier
                .and_then(|identifier| identifier.value)
                .map(|name| shown(&name, DETAIL)),
            kind: short(each.kind),
            detail: shown(&each.detail.unwrap_or_default(), DETAIL),
        };
        let subproblems = wire.subproblems.into_iter().take(SUBPROBLEMS);
        Self {
            kind: short(wire.kind),
            detail: shown(&wire.detail.unwrap_or_default(), DETAIL),
            subproblems: subproblems.map(subproblem).collect(),
        }
    }
}

/// The last part of a type: what follows `urn:ietf:params:acme:error:`.
fn short(kind: Option<String>) -> String {
    let kind = kind.unwrap_or_default();
    let end = kind.strip_prefix("urn:ietf:params:acme:error:");
    shown(end.unwrap_or(&kind), 100)
}

/// A problem document: an object with a type. Anything else, such as the page of an edge, is none.
fn problem(body: &[u8]) -> Option<Problem> {
    let wire: WireProblem = serde_json::from_slice(body).ok()?;
    wire.kind.is_some().then(|| wire.into())
}

/// `Retry-After` as a time from now. A date is taken relative to `Date`, so that our clock does not
/// matter; without one it says nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = if let Ok(seconds) = text.parse::<u64>() {
        seconds
    } else {
        let wait = http_date(text)?
            .as_second()
            .saturating_sub(date(headers)?.as_second());
        u64::try_from(wait).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// `Date`.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

/// The preferred format of RFC 9110, section 5.6.7, is one of RFC 2822.
fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}

/// Targets of links with this relation (RFC 8288).
pub(super) fn links(headers: &HeaderMap, relation: &str) -> Vec<String> {
    let values = headers.get_all(LINK).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let links = values
        .flat_map(|value| parts(value, ','))
        .filter_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let meant = parts(parameters, ';').any(|parameter| {
                let rest = parameter.trim().strip_prefix("rel=");
                rest.is_some_and(|value| {
                    let mut relations = value.trim_matches('"').split(' ');
                    relations.any(|each| each.eq_ignore_ascii_case(relation))
                })
            });
            meant.then(|| shown(target, DETAIL))
        });
    // A chain has a handful of alternates.
    links.take(10).collect()
}

/// What separators part: those in targets and in quoted texts part nothing.
fn parts(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut inside, mut escaped) = (None, false);
    value.split(move |each: char| {
        let plain = !std::mem::take(&mut escaped);
        match (inside, each) {
            (None, '<') => inside = Some('>'),
            (None, '"') => inside = Some('"'),
            (Some('"'), '\\') => escaped = plain,
            (Some(end), _) if end == each && plain => inside = None,
            _ => {}
        }
        inside.is_none() && each == separator
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    fn reply(status: u16, fields: &[(&'static str, &str)], body: &str) -> Reply {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn refused(reply: Reply) -> Refusal {
        judged(Step::NewOrder, Ok(reply)).expect_err("a refusal")
    }

    #[test]
    fn a_problem_document_reaches_the_caller_whole() {
        let refusal = refused(reply(
            429,
            &[
                ("retry-after", "120"),
                ("date", "Fri, 27 Nov 2026 08:00:00 GMT"),
                ("link", "<https://ca.example/dir>;rel=\"index\""),
                ("link", "<https://ca.example/limits>; rel=\"help\""),
            ],
            r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too\nmany","subproblems":[
                {"type":"urn:ietf:params:acme:error:caa","detail":"no","identifier":{"type":"dns","value":"a.b"}}]}"#,
        ));
        assert!(refusal.is("rateLimited"));
        assert_eq!(refusal.status(), Some(429));
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(120)));
        assert_eq!(refusal.help.as_deref(), Some("https://ca.example/limits"));
        let date = refusal.date.expect("a date");
        assert_eq!(date.to_string(), "2026-11-27T08:00:00Z");
        let problem = refusal.problem().expect("a problem");
        assert_eq!(problem.detail, "too many");
        assert_eq!(problem.subproblems[0].name.as_deref(), Some("a.b"));
        assert_eq!(problem.subproblems[0].kind, "caa");
    }

    #[test]
    fn a_date_to_retry_at_is_taken_by_the_clock_of_the_authority() {
        let at = "Fri, 27 Nov 2026 08:05:00 GMT";
        let dated = refused(reply(
            503,
            &[
                ("retry-after", at),
                ("date", "Fri, 27 Nov 2026 08:00:00 GMT"),
            ],
            "",
        ));
        assert_eq!(dated.retry_after, Some(Duration::from_secs(300)));
        assert_eq!(
            refused(reply(503, &[("retry-after", at)], "")).retry_after,
            None
        );
        let past = [
            ("retry-after", "Fri, 27 Nov 2026 07:00:00 GMT"),
            ("date", at),
        ];
        assert_eq!(
            refused(reply(503, &past, "")).retry_after,
            Some(Duration::ZERO)
        );
        let never = refused(reply(503, &[("retry-after", "99999999999")], ""));
        assert_eq!(never.retry_after, Some(LONGEST_WAIT));
        assert_eq!(
            refused(reply(503, &[("retry-after", "soon")], "")).retry_after,
            None
        );
    }

    #[test]
    fn what_is_no_problem_document_is_shown_and_not_believed() {
        for (body, part) in [
            ("<html>busy</html>", "<html>busy"),
            ("", "nothing"),
            (r#"{"message":"no type"}"#, "no type"),
        ] {
            let refusal = refused(reply(503, &[], body));
            let Cause::Answer(503, text) = refusal.cause else {
                panic!("{refusal:?}");
            };
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_detail_of_any_length_is_cut() {
        let body = format!(r#"{{"type":"x","detail":"{}"}}"#, "y".repeat(10_000));
        let refusal = refused(reply(400, &[], &body));
        assert_eq!(refusal.problem().expect("a problem").detail.len(), DETAIL);
    }

    #[test]
    fn links_are_found_by_relation_in_one_field_or_several() {
        let reply = reply(
            200,
            &[
                (
                    "link",
                    "<https://a/1>;rel=\"alternate\", <https://a/0>;rel=index",
                ),
                ("link", "<https://a/2>; title=\"x\"; rel=alternate"),
                ("link", "broken"),
            ],
            "",
        );
        assert_eq!(
            links(&reply.headers, "alternate"),
            ["https://a/1", "https://a/2"]
        );
    }

    #[test]
    fn commas_and_semicolons_of_targets_and_quoted_texts_separate_nothing() {
        let link = "<https://a/1,2;3>; title=\"x, <y>; \\\"rel=help\"; rel=alternate,<https://a/4>;rel=help";
        let reply = reply(200, &[("link", link)], "");
        assert_eq!(links(&reply.headers, "alternate"), ["https://a/1,2;3"]);
        assert_eq!(links(&reply.headers, "help"), ["https://a/4"]);
    }
}
