//! One client connection, from accept to its end.
//!
//! Invariants: every step before HTTP (PROXY header, protocol sniff, TLS handshake) runs under a
//! deadline. The HTTP version is chosen here, by ALPN or by a bounded look at the first bytes, and
//! never by hyper-util's `auto` builder: that one ignores what ALPN agreed on.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::active::Churn;
use super::authority;
use super::control::Control;
use super::dispatch;
use super::handshake::{Ended, Handshakes};
use super::head_scan::{HeadFacts, HeadScan, Heads};
use super::prefixed::Prefixed;
use super::proxy_protocol::{self, Parsed};
use super::record;
use super::tap::{Deadlines, Flow, Taken, Tap};
use super::worker::{LocalExecutor, Place, Worker};
use crate::error::Reason;
use crate::model::{ListenerPlan, ListenerProtocol, Settings};
use crate::tls::canonical_name;

/// Facts about a connection that its requests need.
#[derive(Debug)]
pub(super) struct Connection {
    /// The listener it came in on.
    pub listener: Arc<ListenerPlan>,
    /// The TCP peer.
    pub peer: SocketAddr,
    /// The client: the peer, or what its PROXY header says.
    pub client: SocketAddr,
    /// What the PROXY header says was connected to.
    pub destination: Option<SocketAddr>,
    /// Address we were reached at.
    pub local: SocketAddr,
    /// TLS, if any.
    pub tls: Option<TlsFacts>,
    /// Orders from outside.
    pub control: Rc<Control>,
    /// Fields that are the same for all requests.
    pub(crate) fields: Fields,
    /// Streams that were cancelled, on HTTP/2.
    pub churn: Churn,
    heads: Heads,
    flow: Arc<Flow>,
    _place: Place,
}

/// Fields for endpoints that are the same for all requests of a connection.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Address of the client.
    pub(crate) client: HeaderValue,
    /// Port the client believes it reached.
    pub(crate) port: HeaderValue,
}

/// An address as a field.
pub(super) fn address_field(address: IpAddr) -> HeaderValue {
    // Digits, dots and colons are legal in a field.
    HeaderValue::from_str(&address.to_canonical().to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// What the handshake agreed on.
#[derive(Debug)]
pub(super) struct TlsFacts {
    /// Canonical server name, if the client sent one.
    pub sni: Option<Box<str>>,
}

/// Counts a request as being served while it is held.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<Flow>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Connection {
    /// Marks the beginning of a request.
    pub(super) fn begin_request(&self) -> RequestGuard {
        self.flow.enter();
        RequestGuard(Arc::clone(&self.flow))
    }

    /// See [`Flow::comes_from_a_proxy`].
    pub(super) fn comes_from_a_proxy(&self) {
        self.flow.comes_from_a_proxy();
    }

    /// What the head scan saw of the request that is being served; `None` says that scan and
    /// parser are out of step.
    pub(super) fn next_head(&self) -> Option<HeadFacts> {
        self.heads.take()
    }

    /// Whether what was written of an answer that broke off has gone out.
    pub(super) fn let_out(&self) -> bool {
        self.flow.let_out()
    }

    /// The connection becomes a tunnel.
    pub(super) fn end_of_http(&self) {
        self.heads.end_of_http();
    }

    /// Whether a PROXY header told who the client is.
    pub(super) fn proxied(&self) -> bool {
        self.destination.is_some()
    }

    /// Address the client believes it reached.
    fn reached(&self) -> IpAddr {
        self.destination.unwrap_or(self.local).ip()
    }

    /// Port the client believes it reached.
    pub(super) fn public_port(&self) -> u16 {
        let destination = self.destination.map(|address| address.port());
        destination
            .or(self.listener.public_port)
            .unwrap_or(self.local.port())
    }

    /// Whether a client has connected and not asked for anything yet.
    pub(super) fn fresh(&self) -> bool {
        !self.flow.begun()
    }

    /// How long nothing has been served, or `None` while something is.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        (self.flow.open() == 0).then(|| self.flow.idle_since().elapsed())
    }
}

/// What the accept loop knows.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) listener: Arc<ListenerPlan>,
    pub(super) tls: Option<Arc<Handshakes>>,
    pub(super) place: Place,
}

/// Serves one connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let settings = worker.settings();
    let Accepted {
        stream,
        peer,
        local,
        listener,
        tls,
        place,
    } = accepted;
    // Small answers must not wait for more: failure only costs latency.
    drop(stream.set_nodelay(true));
    let mut stream = Prefixed::new(stream);
    let flow = Flow::new();
    let (scan, heads) = HeadScan::new(settings.limits.target);
    let scan = scan.following(settings.limits.head);
    let mut connection = Connection {
        listener,
        peer,
        client: peer,
        destination: None,
        local,
        tls: None,
        control: Rc::default(),
        fields: Fields {
            client: address_field(peer.ip()),
            port: HeaderValue::from(0),
        },
        churn: Churn::default(),
        heads,
        flow: Arc::clone(&flow),
        _place: place,
    };
    let trusted = &settings.trust.proxy_protocol_from;
    if trusted
        .iter()
        .any(|network| network.contains(&peer.ip().to_canonical()))
    {
        match timeout(settings.timeouts.first_byte, proxy_header(&mut stream)).await {
            Ok(Ok(addresses)) => {
                if let Some((source, destination)) = addresses {
                    connection.client = source;
                    connection.destination = Some(destination);
                }
            }
            // A balancer that only looks whether the port is open.
            _ if stream.ahead().is_empty() => return,
            _ => return record::rejected(&worker, &connection, Reason::BadRequest),
        }
    }
    let deadlines = deadlines(&settings);
    if connection.listener.protocol == ListenerProtocol::Https {
        let Some(handshakes) = tls else { return };
        let handshake = handshakes.accept(stream, connection.reached());
        let stream = match timeout(settings.timeouts.tls_handshake, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(ended)) => return authority::ended(&worker, connection, ended),
            Err(_) => return authority::ended(&worker, connection, Ended::Failed),
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2");
        connection.tls = Some(TlsFacts {
            sni: session.server_name().map(canonical_name),
        });
        flow.restart();
        let scan = (!http2).then_some(scan);
        let tap = Tap::new(stream, scan, flow, deadlines);
        run(worker, connection, tap, &settings, http2).await;
    } else {
        let http2 = match timeout(settings.timeouts.first_byte, sniff(&mut stream)).await {
            Ok(Ok(http2)) => http2,
            Err(_) if !stream.ahead().is_empty() => {
                return record::rejected(&worker, &connection, Reason::RequestTimeout);
            }
            _ => return,
        };
        let scan = (!http2).then_some(scan);
        let tap = Tap::new(stream, scan, flow, deadlines);
        run(worker, connection, tap, &settings, http2).await;
    }
}

fn deadlines(settings: &Settings) -> Deadlines {
    let timeouts = &settings.timeouts;
    Deadlines {
        first_byte: timeouts.first_byte,
        head: timeouts.request_head,
        idle: timeouts.http1_idle,
        // The request body answers 408 by itself; this is for bodies that nobody reads any more.
        body: timeouts.request_body + BODY_SLACK,
        write: timeouts.response_write,
    }
}

/// Whether the client speaks HTTP/2 by prior knowledge: it opens with a preface that is no valid
/// HTTP/1 request, so the first difference decides.
async fn sniff<S: AsyncRead + Unpin>(stream: &mut Prefixed<S>) -> io::Result<bool> {
    loop {
        let ahead = stream.ahead();
        if ahead.len() >= PREFACE.len() {
            return Ok(ahead.starts_with(PREFACE));
        }
        if !ahead.is_empty() && !PREFACE.starts_with(ahead) {
            return Ok(false);
        }
        if stream.read_ahead().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn proxy_header<S: AsyncRead + Unpin>(
    stream: &mut Prefixed<S>,
) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    loop {
        match proxy_protocol::parse(stream.ahead()) {
            Parsed::Header(header) => {
                stream.consume(header.length);
                return Ok(header.addresses);
            }
            Parsed::Malformed => return Err(io::ErrorKind::InvalidData.into()),
            Parsed::Partial => {
                if stream.read_ahead().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

async fn run<S>(
    worker: Rc<Worker>,
    mut connection: Connection,
    tap: Tap<S>,
    settings: &Settings,
    http2: bool,
) where
    S: AsyncRead + AsyncWrite + Taken + Unpin + Send + 'static,
{
    connection.fields = Fields {
        client: address_field(connection.client.ip()),
        port: HeaderValue::from(connection.public_port()),
    };
    let connection = Rc::new(connection);
    let _entry = worker.enter(&connection, http2);
    let flow = Arc::clone(&connection.flow);
    let service = service_fn(|request: http::Request<Incoming>| {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        // Now, and not when the future is first asked: hyper reads on before that.
        let open = connection.begin_request();
        async move {
            let response = dispatch::handle(&worker, &connection, request, open).await;
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(tap);
    let control = &connection.control;
    let result = if http2 {
        let http = http2_builder(settings).serve_connection(io, service);
        let drain = http2::Connection::graceful_shutdown;
        drive(pin!(http), control, drain, || true).await
    } else {
        let http = http1_builder(settings)
            .serve_connection(io, service)
            .with_upgrades();
        let drain = http1::UpgradeableConnection::graceful_shutdown;
        // hyper closes a connection whose first request is still on its way; that one is served.
        drive(pin!(http), control, drain, || flow.begun()).await
    };
    if flow.noisy() {
        worker.metrics.plain.connections_aborted.inc();
        tracing::debug!(client = %connection.client.ip(), "ended: only control frames came");
    }
    if let Err(error) = result
        && let Some(reason) = rejection(&error, &flow)
    {
        record::rejected(&worker, &connection, reason);
    }
}

/// Runs the connection until it ends or is told to.
async fn drive<C>(
    mut http: Pin<&mut C>,
    control: &Control,
    drain: fn(Pin<&mut C>),
    may_drain: impl Fn() -> bool,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut told = false;
    poll_fn(|cx| {
        control.register(cx);
        if control.aborted() {
            return Poll::Ready(Ok(()));
        }
        if control.draining() && !told && may_drain() {
            told = true;
            drain(http.as_mut());
        }
        http.as_mut().poll(cx)
    })
    .await
}

/// Why hyper ended a connection by itself, if a request was refused by that.
fn rejection(error: &hyper::Error, flow: &Flow) -> Option<Reason> {
    if flow.head_timed_out() || error.is_timeout() {
        Some(Reason::RequestTimeout)
    } else if error.is_parse_too_large() {
        Some(Reason::HeadTooLarge)
    } else if error.is_parse() || flow.foreign() {
        Some(Reason::BadRequest)
    } else {
        None
    }
}

fn http1_builder(settings: &Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The tap has the deadline, and answers 408.
        .header_read_timeout(None)
        // The end of a connection ends what is served on it: a client that has left shall not keep
        // an endpoint busy. The tap shows it late to one that may still want its answer.
        .half_close(false)
        .max_header_size(settings.limits.head)
        .max_buf_size(BUFFER.max(settings.limits.head + settings.limits.target));
    if let Some(fields) = settings.limits.parsed_fields() {
        builder.max_headers(fields);
    }
    builder
}

fn http2_builder(settings: &Settings) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.limits.http2_streams)
        .max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_frame_size(16 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(settings.timeouts.http2_ping_interval)
        .keep_alive_timeout(settings.timeouts.http2_ping_timeout);
    builder
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Read buffer of an HTTP/1 connection.
const BUFFER: usize = 64 * 1024;
/// Decoded size of an HTTP/2 header list.
const HEADER_LIST: u32 = 16 * 1024;
/// The body's own deadline comes first.
const BODY_SLACK: Duration = Duration::from_secs(5);
