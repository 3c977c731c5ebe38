//! Why the gateway itself answered a request, or failed to get an answer.
//!
//! [`Reason`] is the closed list that the access log, the metrics and the error body share. A
//! [`ProxyError`] adds what a retry must know. A local answer such as a redirect is not an error:
//! it carries a reason too, but travels as a response.

use http::StatusCode;

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// The gateway or its configuration.
    Internal,
}

/// Whether the request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not a byte of it was sent: any method may be sent again.
    Unsent,
    /// It may have been seen, but no byte of an answer came: safe for idempotent methods without
    /// a body only (RFC 9110, section 9.2.2).
    Idempotent,
    /// Never.
    Never,
}

/// A request that could not be answered by an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", reason.code())]
pub struct ProxyError {
    /// What happened.
    pub reason: Reason,
    /// Whether another try is safe.
    pub retry: Retry,
}

impl ProxyError {
    /// An error after which no other try is safe.
    pub fn fatal(reason: Reason) -> Self {
        Self {
            reason,
            retry: Retry::Never,
        }
    }

    /// An error before any byte was sent.
    pub fn unsent(reason: Reason) -> Self {
        Self {
            reason,
            retry: Retry::Unsent,
        }
    }

    /// An error after the request was (perhaps) sent and before any byte of an answer.
    pub fn unanswered(reason: Reason) -> Self {
        Self {
            reason,
            retry: Retry::Idempotent,
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $status:literal, $source:ident;)+) => {
        /// Why the gateway answered by itself. Codes are stable: alerts are built on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, for metrics that exist before the first event.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable code for logs and metrics.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// What it means, one sentence, for the reference page.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Status of the answer. 499 is written to the log only: the client has gone.
            pub const fn status_code(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// Whose fault it is.
            pub const fn source(self) -> Source {
                match self { $(Self::$name => Source::$source,)+ }
            }
        }
    };
}

reasons! {
    /// Malformed request, refused by the HTTP parser or the head scan.
    BadRequest = "bad_request", 400, Downstream;
    /// `Host` missing, repeated or not `host[:port]`.
    BadHost = "bad_host", 400, Downstream;
    /// A target in a form that the method does not allow, or a path without a canonical form.
    BadTarget = "bad_target", 400, Downstream;
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112, section 6.1).
    AmbiguousFraming = "ambiguous_framing", 400, Downstream;
    /// Upgrade together with a body.
    UpgradeWithBody = "upgrade_with_body", 400, Downstream;
    /// The request body could not be read to its end.
    BodyBroken = "body_broken", 400, Downstream;
    /// No route, or a route to nothing.
    NotFound = "not_found", 404, Downstream;
    /// CONNECT and TRACE are not served.
    MethodNotAllowed = "method_not_allowed", 405, Downstream;
    /// The request head or body did not arrive in time.
    RequestTimeout = "request_timeout", 408, Downstream;
    /// Request body above the limit.
    BodyTooLarge = "body_too_large", 413, Downstream;
    /// Request target above the limit.
    TargetTooLong = "target_too_long", 414, Downstream;
    /// An expectation other than `100-continue`.
    ExpectationFailed = "expectation_failed", 417, Downstream;
    /// The host is not served under the TLS policy of this connection (RFC 9110, section 15.5.20).
    Misdirected = "misdirected", 421, Downstream;
    /// Header fields too many or too large.
    HeadTooLarge = "head_too_large", 431, Downstream;
    /// The client went away before the answer; for the log only.
    ClientGone = "client_gone", 499, Downstream;
    /// A transfer coding other than exactly `chunked` (RFC 9112, section 6.1).
    UnknownCoding = "unknown_transfer_coding", 501, Downstream;
    /// No connection to an endpoint could be made.
    ConnectFailed = "upstream_connect_failed", 502, Upstream;
    /// The connection broke before the answer was complete.
    UpstreamReset = "upstream_reset", 502, Upstream;
    /// The endpoint answered with something that is not proper HTTP.
    UpstreamProtocol = "upstream_protocol_error", 502, Upstream;
    /// The endpoint switched protocols without having been asked, or to another one.
    UpstreamUpgrade = "upstream_upgrade_unexpected", 502, Upstream;
    /// The service has no endpoint.
    NoEndpoints = "no_endpoints", 503, Upstream;
    /// The service or its port does not exist.
    ServiceMissing = "service_missing", 503, Internal;
    /// Closed because a security-relevant setting is broken.
    BrokenPolicy = "broken_policy", 503, Internal;
    /// The gateway has started, and does not know yet what to serve.
    NotReady = "not_ready", 503, Internal;
    /// Too many requests wait for this endpoint, or the gateway is at its limit.
    Overloaded = "overloaded", 503, Internal;
    /// Connecting took too long.
    ConnectTimeout = "upstream_connect_timeout", 504, Upstream;
    /// The endpoint did not begin its answer in time.
    UpstreamTimeout = "upstream_timeout", 504, Upstream;
    /// A defect of the gateway: one request failed, nothing else.
    Internal = "internal_error", 500, Internal;
    /// Health check of a load balancer.
    HealthCheck = "health_check", 200, Internal;
    /// Challenge of a certificate authority, answered for a host whose certificate is ours to keep.
    AcmeChallenge = "acme_challenge", 200, Internal;
    /// Redirect to the path with a final slash.
    TrailingSlash = "redirect_slash", 301, Internal;
    /// Redirect to https.
    HttpsRedirect = "redirect_https", 308, Internal;
}

impl Reason {
    /// Status of the answer; a code that cannot be sent (499) becomes 500.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}
