//! Redirect to the path with a final slash, as nginx makes it for a location written `/x/` when
//! `/x` is not defined.
//!
//! Invariants: scheme and host are those of the connection, never forwarded ones (recorded from
//! ingress-nginx); the redirect comes before the one to https.

use std::fmt::Write;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::{Flow, LocalResponse, RequestFacts};
use crate::error::Reason;

/// Answers 301 when the path is exactly the one held here, which lacks the final slash. The table
/// sends such requests to this route (see `table::path`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlashRedirect {
    path: Arc<str>,
}

impl SlashRedirect {
    pub(super) fn new(path: &Arc<str>) -> Self {
        Self {
            path: Arc::clone(path),
        }
    }

    /// The path that redirects.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    pub(super) fn on_request(&self, facts: &RequestFacts<'_>) -> Flow {
        if *facts.path != *self.path {
            return Flow::Next;
        }
        let scheme = if facts.tls { "https" } else { "http" };
        // nginx uses its canonical host here: lower case, without a final dot.
        let host = facts.connection_host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let mut location = format!("{scheme}://{host}");
        escape(&mut location, facts.path);
        location.push('/');
        // nginx drops the question mark of an empty query.
        if let Some((_, query)) = facts.target.split_once('?').filter(|(_, q)| !q.is_empty()) {
            location.push('?');
            location.push_str(query);
        }
        Flow::Respond(LocalResponse::redirect(
            StatusCode::MOVED_PERMANENTLY,
            location,
            Reason::TrailingSlash,
        ))
    }
}

/// Percent-encodes what may not stand in the path of a URI (RFC 3986, section 3.3).
fn escape(out: &mut String, path: &str) {
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || UNESCAPED.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// `pchar` without letters and digits, and the slash.
const UNESCAPED: &[u8] = b"-._~!$&'()*+,;=:@/";

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, facts};
    use super::*;

    #[test]
    fn only_the_path_without_its_slash_is_redirected() {
        let slash = SlashRedirect::new(&"/x".into());
        assert_eq!(
            answer(slash.on_request(&facts("/x", "/x"))),
            Some((301, "http://shop.example/x/".to_owned()))
        );
        for path in ["/x/", "/x/y", "/X", "/"] {
            assert_eq!(slash.on_request(&facts(path, path)), Flow::Next);
        }
    }

    #[test]
    fn scheme_and_host_are_those_of_the_connection_and_the_query_is_kept() {
        let slash = SlashRedirect::new(&"/x".into());
        let mut forwarded = facts("/x", "/x?a=/&b");
        forwarded.https = true;
        forwarded.host = "forwarded.example";
        forwarded.connection_host = "Shop.example.";
        assert_eq!(
            answer(slash.on_request(&forwarded)),
            Some((301, "http://shop.example/x/?a=/&b".to_owned()))
        );
        forwarded.tls = true;
        forwarded.target = "/x?";
        assert_eq!(
            answer(slash.on_request(&forwarded)),
            Some((301, "https://shop.example/x/".to_owned()))
        );
    }

    #[test]
    fn the_decoded_path_is_encoded_again() {
        let slash = SlashRedirect::new(&"/a b?ü\r\n".into());
        assert_eq!(
            answer(slash.on_request(&facts("/a b?ü\r\n", "/a%20b%3F%C3%BC%0D%0A"))),
            Some((301, "http://shop.example/a%20b%3F%C3%BC%0D%0A/".to_owned()))
        );
    }
}
