//! Policies: what a route does to a request before its action, and to every response.
//!
//! A [`PolicySpec`] is declared by the control plane, a [`Filter`] is its compiled form. One policy
//! is one file here plus one line in each list of this file.
//!
//! Invariants:
//! - The declaration order of [`Stage`] is the order of execution; there is no other place to look.
//! - The response half of every filter runs on every response of the route, in reverse order,
//!   wherever the request stopped.
//! - A policy that cannot be compiled closes the route; it never becomes "no policy".

mod health;
mod hsts;
mod https_redirect;
mod slash;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::error::Reason;
use crate::model::PolicySpec;

pub use health::HealthCheck;
pub use hsts::Hsts;
pub use https_redirect::HttpsRedirect;
pub use slash::SlashRedirect;

/// When a filter runs. The order is the one ingress-nginx decides in: the redirect to the final
/// slash is made while the location is chosen, before the redirect to https.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Answer to health checks.
    HealthCheck,
    /// Redirect to the path with a final slash.
    Slash,
    /// Redirect to https.
    HttpsRedirect,
    /// Fields added to responses.
    ResponseHeaders,
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// See [`HealthCheck`].
    HealthCheck(HealthCheck),
    /// See [`SlashRedirect`].
    TrailingSlash(SlashRedirect),
    /// See [`HttpsRedirect`].
    HttpsRedirect(HttpsRedirect),
    /// See [`Hsts`].
    Hsts(Hsts),
}

impl Filter {
    /// When it runs.
    pub fn stage(&self) -> Stage {
        match self {
            Self::HealthCheck(_) => Stage::HealthCheck,
            Self::TrailingSlash(_) => Stage::Slash,
            Self::HttpsRedirect(_) => Stage::HttpsRedirect,
            Self::Hsts(_) => Stage::ResponseHeaders,
        }
    }

    fn compile(spec: &PolicySpec) -> Result<Self, BrokenPolicy> {
        Ok(match spec {
            PolicySpec::HealthCheck { path } => Self::HealthCheck(HealthCheck::new(path)),
            PolicySpec::TrailingSlash { path } => Self::TrailingSlash(SlashRedirect::new(path)),
            PolicySpec::HttpsRedirect { status, exempt } => {
                Self::HttpsRedirect(HttpsRedirect::new(*status, *exempt))
            }
            PolicySpec::Hsts { value } => Self::Hsts(Hsts::new(value)?),
        })
    }

    fn on_request(&self, facts: &RequestFacts<'_>) -> Flow {
        match self {
            Self::HealthCheck(filter) => filter.on_request(facts),
            Self::TrailingSlash(filter) => filter.on_request(facts),
            Self::HttpsRedirect(filter) => filter.on_request(facts),
            Self::Hsts(_) => Flow::Next,
        }
    }

    fn on_response(&self, tls: bool, headers: &mut HeaderMap) {
        match self {
            Self::HealthCheck(_) | Self::TrailingSlash(_) | Self::HttpsRedirect(_) => {}
            Self::Hsts(filter) => filter.on_response(tls, headers),
        }
    }
}

/// The filters of a route, and whether all of its policies could be compiled.
#[derive(Debug)]
pub struct Compiled {
    /// The filters in the order of their stages.
    pub filters: Box<[Filter]>,
    /// A policy was left out: the route must refuse.
    pub broken: bool,
}

/// A policy whose settings cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the policy cannot be carried out")]
pub struct BrokenPolicy;

/// Compiles the policies of a route.
pub fn compile(specs: &[PolicySpec]) -> Compiled {
    let mut broken = false;
    let mut filters: Vec<Filter> = specs
        .iter()
        .filter_map(|spec| Filter::compile(spec).inspect_err(|_| broken = true).ok())
        .collect();
    filters.sort_by_key(Filter::stage);
    Compiled {
        filters: filters.into_boxed_slice(),
        broken,
    }
}

/// What filters may know of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Method.
    pub method: &'a Method,
    /// Whether the client used https, as far as we believe what was forwarded.
    pub https: bool,
    /// Whether this connection is TLS.
    pub tls: bool,
    /// Host as the client sent it, without its port, case kept; of a trusted peer the first
    /// `X-Forwarded-Host`.
    pub host: &'a str,
    /// Host as it was sent on this connection, without its port.
    pub connection_host: &'a str,
    /// Canonical (decoded) path.
    pub path: &'a str,
    /// Raw path and query.
    pub target: &'a str,
}

/// What a filter decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Next,
    /// Answer with this. A response is not an error.
    Respond(LocalResponse),
}

/// An answer made by a filter; the body is made of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// Status.
    pub status: StatusCode,
    /// Where to, for redirects.
    pub location: Option<HeaderValue>,
    /// Why, for log and metrics.
    pub reason: Reason,
}

impl LocalResponse {
    /// A redirect. A location that is no field value (the client chose its bytes) answers 400.
    fn redirect(status: StatusCode, location: String, reason: Reason) -> Self {
        match HeaderValue::try_from(location) {
            Ok(location) => Self {
                status,
                location: Some(location),
                reason,
            },
            Err(_) => Self {
                status: Reason::BadTarget.status(),
                location: None,
                reason: Reason::BadTarget,
            },
        }
    }
}

/// Runs the request half of the filters; the first answer wins.
pub fn on_request(filters: &[Filter], facts: &RequestFacts<'_>) -> Flow {
    filters
        .iter()
        .map(|filter| filter.on_request(facts))
        .find(|flow| *flow != Flow::Next)
        .unwrap_or(Flow::Next)
}

/// Runs the response half of all filters in reverse order, on a response of whatever origin.
/// `tls` tells whether this connection is TLS.
pub fn on_response(filters: &[Filter], tls: bool, headers: &mut HeaderMap) {
    for filter in filters.iter().rev() {
        filter.on_response(tls, headers);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Facts of `GET target` on a plain connection to `shop.example`.
    pub(crate) fn facts<'a>(path: &'a str, target: &'a str) -> RequestFacts<'a> {
        RequestFacts {
            method: &Method::GET,
            https: false,
            tls: false,
            host: "shop.example",
            connection_host: "shop.example",
            path,
            target,
        }
    }

    /// Status and location of an answer.
    pub(crate) fn answer(flow: Flow) -> Option<(u16, String)> {
        match flow {
            Flow::Next => None,
            Flow::Respond(response) => Some((
                response.status.as_u16(),
                response
                    .location
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                    .unwrap_or_default(),
            )),
        }
    }

    #[test]
    fn the_stage_decides_the_order_not_the_list() {
        let compiled = compile(&[
            PolicySpec::Hsts {
                value: "max-age=1".into(),
            },
            PolicySpec::HttpsRedirect {
                status: StatusCode::PERMANENT_REDIRECT,
                exempt: false,
            },
            PolicySpec::TrailingSlash { path: "/x".into() },
        ]);
        let stages: Vec<Stage> = compiled.filters.iter().map(Filter::stage).collect();
        assert_eq!(
            stages,
            [Stage::Slash, Stage::HttpsRedirect, Stage::ResponseHeaders]
        );
        // The redirect to the slash stays on http although the route also redirects to https.
        assert_eq!(
            answer(on_request(&compiled.filters, &facts("/x", "/x?q=1"))),
            Some((301, "http://shop.example/x/?q=1".to_owned()))
        );
        assert_eq!(
            answer(on_request(&compiled.filters, &facts("/x/y", "/x/y"))),
            Some((308, "https://shop.example/x/y".to_owned()))
        );
    }

    #[test]
    fn a_policy_that_cannot_be_compiled_is_reported_and_the_others_stay() {
        let compiled = compile(&[
            PolicySpec::Hsts {
                value: "a\nb".into(),
            },
            PolicySpec::HttpsRedirect {
                status: StatusCode::PERMANENT_REDIRECT,
                exempt: false,
            },
        ]);
        assert!(compiled.broken);
        assert_eq!(compiled.filters.len(), 1);
    }

    #[test]
    fn a_host_that_is_no_field_value_gives_400_without_location() {
        let compiled = compile(&[PolicySpec::HttpsRedirect {
            status: StatusCode::PERMANENT_REDIRECT,
            exempt: false,
        }]);
        let mut facts = facts("/", "/");
        facts.host = "a\r\nb";
        assert_eq!(
            answer(on_request(&compiled.filters, &facts)),
            Some((400, String::new()))
        );
    }
}
