//! The request target: which forms are served, and the one that is sent on.

use http::{HeaderName, HeaderValue, Method, Uri, Version, request};

use crate::error::Reason;
use crate::model::Settings;

/// Refuses targets that are too long or in a form that the method does not allow (RFC 9112,
/// section 3.2).
pub(super) fn check_target(head: &request::Parts, settings: &Settings) -> Result<(), Reason> {
    let uri = &head.uri;
    let length = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if length > settings.limits.target {
        return Err(Reason::TargetTooLong);
    }
    match uri.scheme_str() {
        None if uri.authority().is_some() => return Err(Reason::BadTarget),
        None | Some("http" | "https") => {}
        Some(_) => return Err(Reason::BadTarget),
    }
    let rootless = uri
        .path_and_query()
        .is_some_and(|target| target.as_str().starts_with('?'));
    if rootless && head.version == Version::HTTP_2 {
        // RFC 9113, section 8.3.1: the path is never empty.
        return Err(Reason::BadTarget);
    }
    match uri.path() {
        "*" if head.method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(Reason::BadTarget),
    }
}

/// `OPTIONS *`, and OPTIONS that must not travel further (RFC 9110, section 7.6.2), ask the
/// gateway itself.
pub(super) fn asks_gateway(head: &request::Parts) -> bool {
    let last_hop = || {
        head.headers.get(&MAX_FORWARDS).is_some_and(|hops| {
            !hops.is_empty() && hops.as_bytes().iter().all(|digit| *digit == b'0')
        })
    };
    head.method == Method::OPTIONS && (head.uri.path() == "*" || last_hop())
}

/// Makes the head one for the endpoint: origin-form target, one hop less to go.
pub(super) fn to_origin_form(head: &mut request::Parts) {
    if head.uri.authority().is_some() || head.uri.scheme().is_some() {
        let uri = std::mem::take(&mut head.uri);
        head.uri = uri
            .into_parts()
            .path_and_query
            .map_or_else(Uri::default, Uri::from);
    }
    if head.method == Method::OPTIONS
        && let Some(hops) = head
            .headers
            .get(&MAX_FORWARDS)
            .and_then(|value| value.to_str().ok())
        && let Ok(hops) = hops.parse::<u64>()
    {
        head.headers
            .insert(MAX_FORWARDS, HeaderValue::from(hops.saturating_sub(1)));
    }
}

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
