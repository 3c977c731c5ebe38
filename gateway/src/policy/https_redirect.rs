//! Redirect of plain-text requests to https, as ingress-nginx makes it.
//!
//! Invariants: decided by what the client used (a trusted `X-Forwarded-Proto` counts); the
//! location is made of the raw target, so nothing is decoded and encoded again.

use http::StatusCode;
use serde::Serialize;

use super::{Flow, LocalResponse, RequestFacts};
use crate::error::Reason;

/// Answers a plain-text request with a redirect to https.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpsRedirect {
    #[serde(serialize_with = "crate::model::status_as_number")]
    status: StatusCode,
    exempt: bool,
}

impl HttpsRedirect {
    pub(super) fn new(status: StatusCode, exempt: bool) -> Self {
        Self { status, exempt }
    }

    pub(super) fn on_request(&self, facts: &RequestFacts<'_>) -> Flow {
        // ingress-nginx compares the exempt prefixes with the path of the rule, not with the one
        // of the request: a route is exempt as a whole, which the control plane has decided.
        if facts.https || self.exempt {
            return Flow::Next;
        }
        // One final slash of the raw target goes, even when it belongs to the query.
        let target = facts.target.strip_suffix('/').unwrap_or(facts.target);
        Flow::Respond(LocalResponse::redirect(
            self.status,
            format!("https://{}{target}", facts.host),
            Reason::HttpsRedirect,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, facts};
    use super::*;

    fn location(target: &str) -> String {
        let redirect = HttpsRedirect::new(StatusCode::PERMANENT_REDIRECT, false);
        let (status, location) = answer(redirect.on_request(&facts("/", target))).unwrap();
        assert_eq!(status, 308);
        location
    }

    #[test]
    fn the_raw_target_is_kept_but_for_one_final_slash() {
        assert_eq!(location("/"), "https://shop.example");
        assert_eq!(location("/x/"), "https://shop.example/x");
        assert_eq!(location("/x/?q=1"), "https://shop.example/x/?q=1");
        assert_eq!(location("/x?next=/a/"), "https://shop.example/x?next=/a");
        assert_eq!(location("//a/../b"), "https://shop.example//a/../b");
        assert_eq!(location("/?"), "https://shop.example/?");
        assert_eq!(location("/a%2Fb?c=%20"), "https://shop.example/a%2Fb?c=%20");
    }

    #[test]
    fn the_host_is_taken_as_sent() {
        let redirect = HttpsRedirect::new(StatusCode::FOUND, false);
        let mut facts = facts("/", "/a");
        facts.host = "Shop.Example.";
        assert_eq!(
            answer(redirect.on_request(&facts)),
            Some((302, "https://Shop.Example./a".to_owned()))
        );
    }

    #[test]
    fn https_clients_and_exempt_routes_pass() {
        let redirect = HttpsRedirect::new(StatusCode::PERMANENT_REDIRECT, false);
        let mut https = facts("/", "/");
        https.https = true;
        assert_eq!(redirect.on_request(&https), Flow::Next);
        let exempt = HttpsRedirect::new(StatusCode::PERMANENT_REDIRECT, true);
        assert_eq!(exempt.on_request(&facts("/", "/")), Flow::Next);
    }
}
