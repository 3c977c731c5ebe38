//! Calls of a provider's interface over HTTP.
//!
//! Invariants:
//! - No text that a user sees has a credential in it: what is shown comes from the provider's answer.
//! - A refusal of the credentials or of the request is the operator's to mend; anything else is worth
//!   trying again.

use std::fmt::Write as _;

use ::http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;

use super::DnsError;
use crate::http::{self as transport, Http, Roots, shown};

/// How much of an answer is shown.
const GLIMPSE: usize = 300;

/// A provider's interface.
pub(super) struct Api {
    http: Http,
    /// Without a final slash.
    base: String,
    headers: HeaderMap,
}

impl Api {
    /// With fields that go along with every request, credentials above all.
    pub(super) fn new(base: &str, fields: &[(&'static str, String)]) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("what belongs into the field {name} is no plain text"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let base = base.trim_end_matches('/').to_owned();
        let roots = match base.split_once("://") {
            Some(("https", _)) => Roots::System,
            Some(("http", _)) => Roots::Nobody,
            _ => return Err(format!("url {base:?} is of neither http:// nor https://")),
        };
        Ok(Self {
            http: Http::new(roots)?,
            base,
            headers,
        })
    }

    /// Where it is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// One call; the content of a success.
    pub(super) async fn call(
        &self,
        method: Method,
        target: &str,
        more: &[(&'static str, String)],
        body: String,
    ) -> Result<Bytes, DnsError> {
        let said = |text: String| format!("{method} {}{target}: {text}", self.base);
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{target}", self.base))
            .header(USER_AGENT, transport::USER_AGENT);
        for (name, value) in more {
            request = request.header(*name, value);
        }
        let mut request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| DnsError::Configuration(said(error.to_string())))?;
        request.headers_mut().extend(self.headers.clone());
        let reply = self.http.send(request).await;
        let reply = reply.map_err(|failure| DnsError::Temporary(said(failure.to_string())))?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        let glimpse = shown(&String::from_utf8_lossy(&reply.body), GLIMPSE);
        let text = said(format!("status {}: {glimpse}", reply.status.as_u16()));
        let later = reply.status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&reply.status);
        Err(if later {
            DnsError::Temporary(text)
        } else {
            DnsError::Configuration(text)
        })
    }

    /// The same with JSON.
    pub(super) async fn json(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, DnsError> {
        let kind = [("content-type", "application/json".to_owned())];
        let more = if body.is_some() { &kind[..] } else { &[] };
        let text = body.map_or_else(String::new, Value::to_string);
        let content = self.call(method, target, more, text).await?;
        if content.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&content)
            .map_err(|error| DnsError::Temporary(format!("{}{target}: {error}", self.base)))
    }
}

/// A text as a part of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}
