//! An answer to the health checks of load balancers in front.
//!
//! Invariants: exactly one path, compared in canonical form; 200 for as long as the process stays,
//! for it tells that requests are answered here, not that everything behind is well. While the
//! process drains, dispatch makes a 503 of it.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::{Flow, LocalResponse, RequestFacts};
use crate::error::Reason;

/// Answers 200 on one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    path: Arc<str>,
}

impl HealthCheck {
    pub(super) fn new(path: &Arc<str>) -> Self {
        Self {
            path: Arc::clone(path),
        }
    }

    pub(super) fn on_request(&self, facts: &RequestFacts<'_>) -> Flow {
        if facts.path != &*self.path {
            return Flow::Next;
        }
        Flow::Respond(LocalResponse {
            status: StatusCode::OK,
            location: None,
            reason: Reason::HealthCheck,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, facts};
    use super::*;

    #[test]
    fn only_its_own_path_is_answered() {
        let check = HealthCheck::new(&"/healthz".into());
        let (status, _) = answer(check.on_request(&facts("/healthz", "/healthz?x"))).unwrap();
        assert_eq!(status, 200);
        for path in ["/", "/healthz/", "/healthz/x", "/healthzz", "/HEALTHZ"] {
            assert_eq!(check.on_request(&facts(path, path)), Flow::Next, "{path}");
        }
    }
}
