//! What an operator writes to have TXT records written: one entry of `dns` of an issuer.
//!
//! Invariants:
//! - Unknown fields are refused: a misspelled one must not be a setting that silently does nothing.
//! - Credentials are in the named secret, never here.

use serde::{Deserialize, Serialize};

/// One way to write records, and the zones it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SolverSpec {
    /// Zones it writes to; the longest that contains a name wins.
    pub zones: Vec<String>,
    /// Which provider, such as `rfc2136`.
    pub provider: String,
    /// Secret with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl SolverSpec {
    /// Length of the longest zone that contains `domain`, if any does.
    pub fn fits(&self, domain: &str) -> Option<usize> {
        let inside = |zone: &&String| {
            domain
                .strip_suffix(zone.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.zones.iter().filter(inside).map(String::len).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_zone_that_contains_the_name_counts() {
        let spec = SolverSpec {
            zones: vec!["example.org".into(), "dev.example.org".into()],
            provider: "rfc2136".into(),
            secret: None,
        };
        assert_eq!(spec.fits("a.dev.example.org"), Some(15));
        assert_eq!(spec.fits("example.org"), Some(11));
        assert_eq!(spec.fits("badexample.org"), None);
    }
}
