//! Settings that hold for the whole gateway. The controller parses them from flags and a
//! ConfigMap; every value here is already valid. A change applies to new connections and new
//! requests, without a restart.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde::Serialize;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Default)]
pub struct Settings {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds on what comes from outside.
    pub limits: Limits,
    /// Whom to believe about the client's address.
    pub trust: ForwardedTrust,
    /// Header handling.
    pub headers: HeaderSettings,
    /// TLS.
    pub tls: TlsSettings,
}

/// Deadlines. Every one of them is enforced on every path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// From accept to the first byte of a request.
    pub first_byte: Duration,
    /// From the first byte of a request head to its last.
    pub request_head: Duration,
    /// HTTP/1 connection without a request.
    pub http1_idle: Duration,
    /// HTTP/2 connection without an open stream.
    pub http2_idle: Duration,
    /// HTTP/2 PING interval while the connection lives.
    pub http2_ping_interval: Duration,
    /// How long a PING may stay unanswered.
    pub http2_ping_timeout: Duration,
    /// Request body without progress.
    pub request_body: Duration,
    /// Response that the client does not take.
    pub response_write: Duration,
    /// Connecting to an endpoint, TLS included.
    pub upstream_connect: Duration,
    /// From the request sent to the response head.
    pub upstream_response: Duration,
    /// Response body without progress.
    pub upstream_body: Duration,
    /// Upgraded connection (websocket) without a byte in either direction.
    pub tunnel_idle: Duration,
    /// Idle upstream connection that may serve any request.
    pub upstream_idle: Duration,
    /// Idle upstream connection younger than this may carry a request that must not be replayed.
    pub upstream_idle_unsafe: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(5),
            first_byte: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            http1_idle: Duration::from_secs(60),
            http2_idle: Duration::from_secs(120),
            http2_ping_interval: Duration::from_secs(30),
            http2_ping_timeout: Duration::from_secs(10),
            request_body: Duration::from_secs(30),
            response_write: Duration::from_secs(30),
            upstream_connect: Duration::from_secs(3),
            upstream_response: Duration::from_secs(60),
            upstream_body: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(55),
            upstream_idle_unsafe: Duration::from_secs(4),
        }
    }
}

/// Bounds. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Limits {
    /// Request target: longer answers 414.
    pub target: usize,
    /// Header fields of a request: more answers 431; and of an endpoint's answer: more answers 502.
    pub header_fields: usize,
    /// Request head: larger answers 431.
    pub head: usize,
    /// Request body: larger answers 413; 0 is no limit.
    pub body: u64,
    /// Slowest acceptable request body after ten seconds, bytes per second; 0 is no limit.
    pub body_rate: u64,
    /// Open streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// Client connections in all.
    pub connections: usize,
    /// Client connections from one address.
    pub connections_per_client: usize,
    /// Connections to one endpoint, per worker.
    pub upstream_connections: usize,
    /// Requests that wait for a connection to one endpoint, per worker; more answer 503.
    pub upstream_pending: usize,
    /// Tries of one request in all.
    pub tries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            target: 16 * 1024,
            header_fields: 100,
            head: 32 * 1024,
            body: 0,
            body_rate: 1024,
            http2_streams: 100,
            connections: 50_000,
            connections_per_client: 1_024,
            upstream_connections: 256,
            upstream_pending: 1_024,
            tries: 2,
        }
    }
}

impl Limits {
    /// The bound to give to hyper's HTTP/1 parsers; `None` leaves them at their own 100, which
    /// they hold on the stack. With any other bound they allocate for every message
    /// (docs/decisions/0022).
    pub(crate) fn parsed_fields(&self) -> Option<usize> {
        (self.header_fields > STACK_FIELDS).then_some(self.header_fields)
    }
}

const STACK_FIELDS: usize = 100;

/// Whom to believe. The default believes nobody: what a client says of itself is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ForwardedTrust {
    /// Peers whose forwarded headers are believed.
    pub forwarded_from: Vec<IpNet>,
    /// Believe address, scheme, host and port of such a peer; otherwise the address only.
    pub all_fields: bool,
    /// Field that carries the client address.
    #[serde(serialize_with = "header_as_str")]
    pub address_header: HeaderName,
    /// Append to `X-Forwarded-For` instead of replacing it.
    pub append: bool,
    /// Peers whose PROXY protocol header is read. Empty: nobody's, and such bytes are a bad
    /// request.
    pub proxy_protocol_from: Vec<IpNet>,
}

impl Default for ForwardedTrust {
    fn default() -> Self {
        Self {
            forwarded_from: Vec::new(),
            all_fields: true,
            address_header: HeaderName::from_static("x-forwarded-for"),
            append: false,
            proxy_protocol_from: Vec::new(),
        }
    }
}

/// Header handling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HeaderSettings {
    /// Let request fields with an underscore pass. Off, as in nginx: `X_Forwarded_For` reads like
    /// `X-Forwarded-For` to many applications.
    pub underscores: bool,
    /// Keep a client's `X-Request-ID`; otherwise every request gets a new one.
    pub keep_request_id: bool,
    /// Fields added to every request to an endpoint.
    pub add_to_request: Vec<(Arc<str>, Arc<str>)>,
    /// Value of `Strict-Transport-Security` for answers that no route made; `None` sends none.
    pub hsts: Option<Arc<str>>,
}

impl Default for HeaderSettings {
    fn default() -> Self {
        Self {
            underscores: false,
            keep_request_id: true,
            add_to_request: Vec::new(),
            hsts: Some("max-age=31536000; includeSubDomains".into()),
        }
    }
}

/// TLS of the listeners.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Default)]
pub struct TlsSettings {
    /// Refuse the handshake for a server name that no host has, instead of serving the default
    /// certificate.
    pub reject_unknown_names: bool,
}

/// Whether a field holds for one connection or says where a message ends. Such a field puts the
/// endpoint and the gateway out of step when it does not come from the message itself.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn header_as_str<S: serde::Serializer>(name: &HeaderName, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(name.as_str())
}
