//! Certificates that are not what was asked for.

use std::sync::Arc;

use crate::acme::fault::{Endpoint, Rule, Seen};
use crate::raw::Answer;

/// Makes another content of a downloaded chain.
type Change = dyn Fn(&str) -> String + Send + Sync;

/// (j) and worse: what is downloaded is another text, such as a backdated certificate, one with
/// another key, or none at all.
pub struct Replaced(Arc<Change>);

impl Replaced {
    /// By what this makes of it.
    pub fn by(change: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(change))
    }
}

impl Rule for Replaced {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == Endpoint::Certificate && answer.status == 200 {
            answer.body = (self.0)(&answer.text()).into_bytes();
        }
    }
}
