//! What a request head says about itself, read in one pass.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::error::Reason;
use crate::model::Settings;

/// What the request head says about itself, found in one pass over its fields.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not a state"
)]
pub(super) struct Survey {
    /// Fields that do not pass.
    pub(super) remove: Vec<HeaderName>,
    pub(super) connection: bool,
    pub(super) upgrade: bool,
    pub(super) chunked: bool,
    pub(super) expects: bool,
    /// Whether the client reads trailers.
    pub(super) te_trailers: bool,
    pub(super) cookies: usize,
    pub(super) te: bool,
    /// A `Content-Length` is there.
    pub(super) length: bool,
    /// A request id is there.
    pub(super) request_id: bool,
    /// The client says something about its origin.
    pub(super) claims: bool,
}

impl Survey {
    /// Reads all fields once. Errors are answers: 400, 417, 431 or 501.
    pub(super) fn of(
        headers: &HeaderMap,
        settings: &Settings,
        http2: bool,
    ) -> Result<Self, Reason> {
        if headers.len() > settings.limits.header_fields {
            return Err(Reason::HeadTooLarge);
        }
        let mut survey = Self::default();
        for (name, value) in headers {
            if http2 && has_edge_blanks(value) {
                // RFC 9113, section 8.2.1.
                return Err(Reason::BadRequest);
            }
            if http2 && survey.length && name == CONTENT_LENGTH {
                // RFC 9113, section 8.1.1, lets nobody choose between two lengths.
                return Err(Reason::AmbiguousFraming);
            }
            survey.note(name, value, settings)?;
            // One line each is legal on HTTP/2 only (RFC 9113, section 8.2.3).
            survey.cookies += usize::from(http2 && name == COOKIE);
        }
        Ok(survey)
    }

    fn note(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
        settings: &Settings,
    ) -> Result<(), Reason> {
        let text = name.as_str();
        // Whatever field it is, it keeps its own meaning as well.
        self.claims |= *name == settings.trust.address_header;
        match text.as_bytes().first() {
            Some(b'x') if text == "x-request-id" => self.request_id = true,
            Some(b'x') if is_claim(text) => {
                self.claims = true;
                self.drop_field(name);
            }
            Some(b'c') if name == CONNECTION => self.connection = true,
            Some(b'c') if name == CONTENT_LENGTH => self.length = true,
            Some(b'e') if name == EXPECT => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reason::ExpectationFailed);
                }
                self.expects = true;
            }
            Some(b'u') if name == UPGRADE => self.upgrade = true,
            Some(b't') if name == TRANSFER_ENCODING => {
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reason::UnknownCoding);
                }
                self.chunked = true;
            }
            Some(b't') if name == TE => {
                self.te = true;
                self.te_trailers |=
                    list(value).any(|coding| coding.eq_ignore_ascii_case("trailers"));
            }
            Some(b'k') if text == "keep-alive" => self.drop_field(name),
            Some(b'p') if matches!(text, "proxy" | "proxy-connection") => self.drop_field(name),
            Some(b's') if text.starts_with("ssl-client-") => self.drop_field(name),
            Some(b'h') if text == "http2-settings" => self.drop_field(name),
            Some(b'f') if text == "forwarded" => self.drop_field(name),
            _ if !settings.headers.underscores && text.contains('_') => self.drop_field(name),
            _ => {}
        }
        Ok(())
    }

    fn drop_field(&mut self, name: &HeaderName) {
        if self.remove.last() != Some(name) {
            self.remove.push(name.clone());
        }
    }

    /// The protocol to upgrade to, when the request asks for one that we pass on. Any other
    /// upgrade is ignored, as RFC 9110, section 7.8, allows; so is one on HTTP/1.0.
    pub(super) fn websocket(&self, headers: &HeaderMap) -> bool {
        self.upgrade
            && self.connection
            && headers
                .get_all(CONNECTION)
                .iter()
                .flat_map(list)
                .any(|t| t.eq_ignore_ascii_case("upgrade"))
            && headers.get_all(UPGRADE).iter().count() == 1
            && headers
                .get(UPGRADE)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }
}

/// Fields in which a client could claim to be somebody else, or to have asked for another URL.
pub(super) fn is_claim(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || name.starts_with("x-original-")
        || matches!(name, "x-real-ip" | "x-scheme" | "x-rewrite-url")
}

fn has_edge_blanks(value: &HeaderValue) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.as_bytes().first()) || blank(value.as_bytes().last())
}

pub(super) fn list(value: &HeaderValue) -> impl Iterator<Item = &str> {
    // One member that is no text must not hide the others.
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .filter_map(|token| std::str::from_utf8(token).ok())
        .map(str::trim)
        .filter(|token| !token.is_empty())
}
