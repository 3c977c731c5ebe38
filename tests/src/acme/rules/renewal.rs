//! What stands in the directory, about renewals, and about other chains.

use serde_json::json;

use super::{edit, problem};
use crate::acme::fault::{Endpoint, Rule, Seen, Verdict};
use crate::raw::Answer;

/// (k) A renewal window as it really is: a fiftieth of a lifetime.
pub struct ShortWindow {
    /// Its begin, as RFC 3339.
    pub start: String,
    /// Its end.
    pub end: String,
}

impl Rule for ShortWindow {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Renewal {
            edit(answer, |content| {
                content["suggestedWindow"] = json!({"start": self.start, "end": self.end});
            });
        }
    }
}

/// (m) Other chains are announced and not there.
pub struct AlternatesGone;

impl Rule for AlternatesGone {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint == Endpoint::Alternate {
            return Verdict::Answer(problem(404, "malformed", "no such chain"));
        }
        Verdict::Pass
    }
}

/// (n) An entry of the directory that means nothing, there to keep clients honest.
pub struct DirectoryExtra;

impl Rule for DirectoryExtra {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Directory {
            edit(answer, |directory| {
                directory["qT8_nothing"] = json!("https://ca.example/random-entry");
            });
        }
    }
}
