//! The table of settings. One row is one name: it drives parsing of the ConfigMap and of
//! `--set`, the help, the reference page and the suggestions for misspelt names.
//!
//! Names are those of the ingress-nginx ConfigMap where the meaning is the same, so that an
//! existing ConfigMap can be used as it is. Rows are applied in the order of the table: a row that
//! sets several values (`proxy-read-timeout`) stands before those that set one of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::model::Balance;
use gatehouse_gateway::model::Settings;
use http::{HeaderName, StatusCode};
use ipnet::IpNet;

use super::{Defaults, reserved, values};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Name, in the ConfigMap and for `--set`.
    pub name: &'static str,
    /// A value that is accepted.
    pub example: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// Decides whom to believe: a bad value trusts nobody.
    pub(super) trust: bool,
    pub(super) apply: Apply,
}

/// How the text of a value is read and where it goes.
#[derive(Debug)]
pub(super) enum Apply {
    /// `true` or `false`.
    Bool(fn(&mut Draft, bool)),
    /// Longer than zero.
    Deadline(fn(&mut Draft, Duration)),
    /// Bytes.
    Size(fn(&mut Draft, u64)),
    /// A number of seconds.
    Seconds(fn(&mut Draft, u64)),
    /// Bytes, from the least to the most.
    SizeWithin(Within),
    /// A number, at least one.
    Count(fn(&mut Draft, u32)),
    /// A number, from the least to the most.
    CountWithin(Within),
    /// Networks.
    Networks(fn(&mut Draft, Vec<IpNet>)),
    /// Name of a header field.
    HeaderName(fn(&mut Draft, HeaderName)),
    /// `Name: value` lines.
    HeaderLines(fn(&mut Draft, HeaderLines)),
    /// A redirect status.
    Status(fn(&mut Draft, StatusCode)),
    /// A way of balancing.
    Balance(fn(&mut Draft, Balance)),
    /// Path prefixes.
    Paths(fn(&mut Draft, Vec<Arc<str>>)),
    /// Only this value is supported: the name is known so that ConfigMaps can be used as they
    /// are.
    Only(bool),
}

impl Setting {
    /// The form of a value, in words.
    pub fn expected(&self) -> Cow<'static, str> {
        let words = match self.apply {
            Apply::Bool(_) => "`true` or `false`",
            Apply::Deadline(_) => {
                "a time above zero such as `5s`, `500ms`, `2m` or a number of seconds"
            }
            Apply::Size(_) => "a number of bytes such as `8k`, `16m` or `0`",
            Apply::SizeWithin((least, most, _)) => {
                return format!("a number of bytes such as `16k`, from {least} to {most}").into();
            }
            Apply::CountWithin((least, most, _)) => {
                return format!("a number from {least} to {most}").into();
            }
            Apply::Seconds(_) => "a number of seconds such as `31536000`",
            Apply::Count(_) => "a number above zero",
            Apply::Networks(_) => "a list of networks such as `10.0.0.0/8,fd00::/8`",
            Apply::HeaderName(_) => "the name of a header field",
            Apply::HeaderLines(_) => "lines of the form `Name: value`",
            Apply::Status(_) => "a redirect status: 301, 302, 303, 307 or 308",
            Apply::Balance(_) => "one of `round_robin`, `least_request`, `ewma` and `client_hash`",
            Apply::Paths(_) => "a list of paths that begin with a slash",
            Apply::Only(true) => "`true`, the only value supported",
            Apply::Only(false) => "`false`, the only value supported",
        };
        words.into()
    }

    /// The first field of the value that the setting must not name, and why, when the value has the
    /// form that is expected.
    pub(super) fn reserved(&self, text: &str) -> Option<(HeaderName, &'static str)> {
        match self.apply {
            Apply::HeaderName(_) => {
                let name = values::header_name(text)?;
                reserved::not_an_address(&name).map(|why| (name, why))
            }
            Apply::HeaderLines(_) => values::header_lines(text)?
                .iter()
                .filter_map(|(name, _)| name.parse::<HeaderName>().ok())
                .find_map(|name| reserved::not_to_add(&name).map(|why| (name, why))),
            _ => None,
        }
    }

    /// Reads the value into the draft; `None` when it has another form than [`Self::expected`] or
    /// names what is [reserved](Self::reserved).
    pub(super) fn set(&self, draft: &mut Draft, text: &str) -> Option<()> {
        match self.apply {
            Apply::Bool(set) => set(draft, values::boolean(text)?),
            Apply::Deadline(set) => set(draft, values::deadline(text)?),
            Apply::Size(set) => set(draft, values::size(text)?),
            Apply::SizeWithin(within) => within_range(draft, within, values::size(text)?)?,
            Apply::CountWithin(within) => within_range(draft, within, text.trim().parse().ok()?)?,
            Apply::Seconds(set) => set(draft, text.trim().parse().ok()?),
            Apply::Count(set) => set(draft, text.trim().parse().ok().filter(|n| *n > 0)?),
            Apply::Networks(set) => set(draft, values::networks(text)?),
            Apply::HeaderName(set) if self.reserved(text).is_none() => {
                set(draft, values::header_name(text)?);
            }
            Apply::HeaderLines(set) if self.reserved(text).is_none() => {
                set(draft, values::header_lines(text)?);
            }
            Apply::HeaderName(_) | Apply::HeaderLines(_) => return None,
            Apply::Status(set) => set(draft, values::redirect_status(text)?),
            Apply::Balance(set) => set(draft, values::balance(text)?),
            Apply::Paths(set) => set(draft, values::paths(text)?),
            Apply::Only(only) => return (values::boolean(text)? == only).then_some(()),
        }
        Some(())
    }
}

/// Least, most, and where the value goes.
type Within = (u64, u64, fn(&mut Draft, usize));

fn within_range(draft: &mut Draft, (least, most, set): Within, value: u64) -> Option<()> {
    let value = Some(value).filter(|value| (least..=most).contains(value))?;
    set(draft, usize::try_from(value).ok()?);
    Some(())
}

/// Names and values of header fields.
pub(super) type HeaderLines = Vec<(Arc<str>, Arc<str>)>;

/// Values while they are read: what several settings decide together is settled at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) defaults: Defaults,
    pub(super) settings: Settings,
    pub(super) trust: Trust,
    pub(super) hsts: Hsts,
}

/// Whom to believe, as written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trust {
    pub(super) forwarded_headers: bool,
    pub(super) real_ip: bool,
    pub(super) proxy_protocol: bool,
    pub(super) real_ip_from: Vec<IpNet>,
    pub(super) proxy_protocol_from: Option<Vec<IpNet>>,
}

/// `Strict-Transport-Security`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hsts {
    pub(super) on: bool,
    pub(super) max_age: u64,
    pub(super) subdomains: bool,
    pub(super) preload: bool,
}

impl Default for Hsts {
    fn default() -> Self {
        Self {
            on: true,
            max_age: 31_536_000,
            subdomains: true,
            preload: false,
        }
    }
}

macro_rules! settings {
    ($($name:literal $kind:ident $example:literal, $doc:literal, $apply:expr $(, $trust:ident)?;)+) => {
        /// Every setting.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            example: $example,
            doc: $doc,
            trust: settings!(@trust $($trust)?),
            apply: Apply::$kind($apply),
        },)+];
    };
    (@trust trust) => { true };
    (@trust) => { false };
}

settings! {
    // Balancing.
    "load-balance" Balance "round_robin", "How an endpoint is chosen: `round_robin`, `least_request`, `ewma` (latency times load) or `client_hash`. `sessionAffinity: ClientIP` of a Service goes before it.",
        |d, v| d.defaults.balance = v;

    // Redirects and HSTS.
    "ssl-redirect" Bool "true", "Redirect to https on hosts that have a tls section.",
        |d, v| d.defaults.https_redirect = v;
    "http-redirect-code" Status "308", "Status of the redirect to https.",
        |d, v| d.defaults.https_redirect_status = v;
    "no-tls-redirect-locations" Paths "/.well-known/acme-challenge", "Rule paths that begin with one of these are not redirected to https.",
        |d, v| d.defaults.https_redirect_exempt = v;
    "hsts" Bool "true", "Send `Strict-Transport-Security` on answers over TLS.",
        |d, v| d.hsts.on = v;
    "hsts-max-age" Seconds "31536000", "How long browsers remember it, in seconds.",
        |d, v| d.hsts.max_age = v;
    "hsts-include-subdomains" Bool "true", "Add `includeSubDomains` to it.",
        |d, v| d.hsts.subdomains = v;
    "hsts-preload" Bool "false", "Add `preload` to it.",
        |d, v| d.hsts.preload = v;
    "ssl-reject-handshake" Bool "false", "Refuse the TLS handshake for a name that no host has, instead of serving the default certificate.",
        |d, v| d.settings.tls.reject_unknown_names = v;

    // Trust.
    "use-forwarded-headers" Bool "false", "Believe `X-Forwarded-*` of the peers in `proxy-real-ip-cidr`.",
        |d, v| d.trust.forwarded_headers = v, trust;
    "enable-real-ip" Bool "false", "Believe the client address that the peers in `proxy-real-ip-cidr` send, and nothing else of them.",
        |d, v| d.trust.real_ip = v, trust;
    "proxy-real-ip-cidr" Networks "10.0.0.0/8", "Peers that are believed by `use-forwarded-headers` and `enable-real-ip`; nobody unless set.",
        |d, v| d.trust.real_ip_from = v, trust;
    "use-proxy-protocol" Bool "false", "Read the PROXY protocol header of the peers in `proxy-protocol-cidr`.",
        |d, v| d.trust.proxy_protocol = v, trust;
    "proxy-protocol-cidr" Networks "10.0.0.0/8", "Peers whose PROXY protocol header is read; those of `proxy-real-ip-cidr` unless set.",
        |d, v| d.trust.proxy_protocol_from = Some(v), trust;
    "forwarded-for-header" HeaderName "X-Forwarded-For", "Field that carries the client address; not one with another meaning (`Host`, `Authorization`, framing).",
        |d, v| d.settings.trust.address_header = v, trust;
    "compute-full-forwarded-for" Bool "false", "Append to `X-Forwarded-For` instead of replacing it.",
        |d, v| d.settings.trust.append = v;

    // Header fields.
    "enable-underscores-in-headers" Bool "false", "Let request fields with an underscore pass.",
        |d, v| d.settings.headers.underscores = v;
    "keep-request-id" Bool "true", "Keep the `X-Request-ID` of the client; otherwise every request gets a new one.",
        |d, v| d.settings.headers.keep_request_id = v;
    "add-request-headers" HeaderLines "X-Via: gatehouse", "Fields added to every request to an endpoint, one a line; not framing (`Content-Length`, `Connection`, `Upgrade` and the like), `Host`, `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `X-Scheme`.",
        |d, v| d.settings.headers.add_to_request = v;
    "generate-request-id" Only "true", "Give a request without `X-Request-ID` one.", true;
    "ignore-invalid-headers" Only "true", "Fields with invalid names never reach an endpoint.", true;
    "use-http2" Only "true", "Offer HTTP/2 on TLS connections.", true;

    // Deadlines towards clients.
    "tls-handshake-timeout" Deadline "5s", "From accept to the end of the TLS handshake.",
        |d, v| d.settings.timeouts.tls_handshake = v;
    "client-first-byte-timeout" Deadline "10s", "From accept to the first byte of a request.",
        |d, v| d.settings.timeouts.first_byte = v;
    "client-header-timeout" Deadline "10s", "From the first byte of a request head to its last.",
        |d, v| d.settings.timeouts.request_head = v;
    "client-body-timeout" Deadline "30s", "Request body without progress.",
        |d, v| d.settings.timeouts.request_body = v;
    "response-write-timeout" Deadline "30s", "Response that the client does not take.",
        |d, v| d.settings.timeouts.response_write = v;
    "keep-alive" Deadline "60s", "HTTP/1.1 connection without a request.",
        |d, v| d.settings.timeouts.http1_idle = v;
    "http2-idle-timeout" Deadline "120s", "HTTP/2 connection without an open stream.",
        |d, v| d.settings.timeouts.http2_idle = v;
    "http2-ping-interval" Deadline "30s", "Interval of HTTP/2 PING frames while a connection lives.",
        |d, v| d.settings.timeouts.http2_ping_interval = v;
    "http2-ping-timeout" Deadline "10s", "How long a PING may stay unanswered.",
        |d, v| d.settings.timeouts.http2_ping_timeout = v;

    // Deadlines towards endpoints.
    "proxy-connect-timeout" Deadline "3s", "Connecting to an endpoint, TLS included.",
        |d, v| d.settings.timeouts.upstream_connect = v;
    "proxy-read-timeout" Deadline "60s", "Endpoint that sends nothing: before the response, within its body, and on upgraded connections.",
        |d, v| {
            d.settings.timeouts.upstream_response = v;
            d.settings.timeouts.upstream_body = v;
            d.settings.timeouts.tunnel_idle = v;
        };
    "upstream-response-timeout" Deadline "60s", "From the request sent to the response head.",
        |d, v| d.settings.timeouts.upstream_response = v;
    "upstream-body-timeout" Deadline "60s", "Response body without progress.",
        |d, v| d.settings.timeouts.upstream_body = v;
    "tunnel-idle-timeout" Deadline "60s", "Upgraded connection (websocket) without a byte in either direction.",
        |d, v| d.settings.timeouts.tunnel_idle = v;
    "upstream-keepalive-timeout" Deadline "55s", "Idle upstream connection that may serve any request.",
        |d, v| d.settings.timeouts.upstream_idle = v;
    "upstream-keepalive-unsafe-timeout" Deadline "4s", "Idle upstream connection younger than this may carry a request that must not be sent twice.",
        |d, v| d.settings.timeouts.upstream_idle_unsafe = v;

    // Limits.
    "max-target-size" SizeWithin "16k", "Longest request target; longer answers 414.",
        (64, 1 << 20, |d, v| d.settings.limits.target = v);
    "max-header-fields" CountWithin "100", "Most header fields of a request, more answers 431; and of an answer, more answers 502. Above 100 every request costs more.",
        (8, 1 << 14, |d, v| d.settings.limits.header_fields = v);
    "max-header-size" SizeWithin "32k", "Largest request head; larger answers 431.",
        (1 << 10, 1 << 20, |d, v| d.settings.limits.head = v);
    "proxy-body-size" Size "0", "Largest request body; larger answers 413, 0 is no limit.",
        |d, v| d.settings.limits.body = v;
    "min-body-rate" Size "1k", "Slowest request body after ten seconds, bytes per second; 0 is no limit.",
        |d, v| d.settings.limits.body_rate = v;
    "http2-max-concurrent-streams" Count "100", "Open streams of an HTTP/2 connection.",
        |d, v| d.settings.limits.http2_streams = v;
    "max-connections" Count "50000", "Client connections in all; more are closed at once. Fewer where the limit on open files is low: a part of it is kept for endpoints.",
        |d, v| d.settings.limits.connections = count(v);
    "max-connections-per-client" Count "1024", "Client connections from one address.",
        |d, v| d.settings.limits.connections_per_client = count(v);
    "upstream-max-connections" Count "256", "Connections to one endpoint, per worker.",
        |d, v| d.settings.limits.upstream_connections = count(v);
    "upstream-max-pending" Count "1024", "Requests that wait for a connection to one endpoint, per worker; more answer 503.",
        |d, v| d.settings.limits.upstream_pending = count(v);
    "proxy-next-upstream-tries" Count "2", "Tries of one request in all.",
        |d, v| d.settings.limits.tries = v;
}

/// Names of ingress-nginx that set up nginx itself: accepted, without a meaning here.
pub(super) const WITHOUT_MEANING: &[&str] = &[
    "max-worker-connections",
    "max-worker-open-files",
    "multi-accept",
    "proxy-headers-hash-bucket-size",
    "proxy-headers-hash-max-size",
    "reuse-port",
    "server-name-hash-bucket-size",
    "server-name-hash-max-size",
    "map-hash-bucket-size",
    "nginx-status-ipv4-whitelist",
    "nginx-status-ipv6-whitelist",
    "variables-hash-bucket-size",
    "variables-hash-max-size",
    "worker-cpu-affinity",
    "worker-processes",
    "worker-shutdown-timeout",
];

fn count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
