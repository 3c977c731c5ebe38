//! One request to one of the endpoints of a cluster, with the retries that are safe.
//!
//! Invariants:
//! - A request is sent again only when none of it was sent, or when its method is idempotent,
//!   it has no body and no answer came (RFC 9110, section 9.2.2). Unknown methods are unsafe.
//! - Tries are bounded in all, whatever fails (ingress-nginx is known to retry for ever when
//!   pooled connections keep breaking). Kept connections that turn out stale before anything was
//!   sent, and endpoints that leave before it, cost no try, but are bounded too.
//! - An answer leaves here only when its framing is unambiguous.
//!
//! Interim answers (100, 103) are consumed by hyper and not passed on; a client that sent
//! `Expect: 100-continue` gets its 100 from our own server side.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::header::{HOST, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{Extensions, Method, Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::Upstream;
use super::balance::{Choice, choose};
use super::body::{Outgoing, Source, Upload, UpstreamBody};
use super::cluster::{Cluster, Endpoint, LoadGuard};
use super::patience::{Deadline, Patience};
use super::pool::{Http1Lease, Http2Lease, Lease, Pool, Wish};
use super::spare::Spare;
use super::verify::{check_head, names_only};
use crate::error::{ProxyError, Reason, Retry};
use crate::model::{Balance, Settings, UpstreamProtocol};
use crate::server::body::RequestBody;

/// A request that is ready to go out.
pub struct ForwardRequest {
    /// Method, target in origin-form, final header fields. Boxed, because it moves through the
    /// futures of every step.
    pub head: Box<request::Parts>,
    /// The body, if there is one.
    pub body: Option<Box<RequestBody>>,
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// The client's address, for the consistent hash.
    pub client: IpAddr,
    /// Whether the client asks for another protocol (its `Upgrade` field is in the head).
    pub upgrade: bool,
    /// Settings of this request.
    pub settings: Arc<Settings>,
}

/// The answer of an endpoint.
#[derive(Debug)]
pub struct Answer {
    /// The answer; hop-by-hop fields are still in it.
    pub response: Response<UpstreamBody>,
    /// Who gave it.
    pub endpoint: Arc<Endpoint>,
    /// The tunnel, when the endpoint switched to the protocol that was asked for.
    pub upgraded: Option<OnUpgrade>,
}

/// What it took to get an answer, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Tries that counted.
    pub tries: u32,
    /// The last endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Waiting for a connection, over all tries.
    pub connect_time: Duration,
    /// From the start to the head of the answer.
    pub response_time: Duration,
}

/// A request between two tries.
struct Message {
    head: Box<request::Parts>,
    body: Outgoing,
}

impl Message {
    fn into_request(self, version: Version) -> Request<Outgoing> {
        let mut request = Request::from_parts(*self.head, self.body);
        *request.version_mut() = version;
        request
    }
}

impl From<Request<Outgoing>> for Message {
    fn from(request: Request<Outgoing>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head: Box::new(head),
            body,
        }
    }
}

impl From<Spare> for Message {
    fn from(spare: Spare) -> Self {
        Self {
            head: Box::new(spare.into_head()),
            body: Outgoing::empty(),
        }
    }
}

/// A try that failed, with the request when nothing of it was sent.
pub(crate) struct Failure {
    error: ProxyError,
    message: Option<Message>,
    /// The connection had been kept open for reuse, or the endpoint left while the request waited
    /// for one.
    stale: bool,
}

impl Failure {
    pub(crate) fn of(error: ProxyError) -> Self {
        Self {
            error,
            message: None,
            stale: false,
        }
    }

    fn before(error: ProxyError, message: Message) -> Self {
        Self {
            message: Some(message),
            ..Self::of(error)
        }
    }

    /// That an endpoint is gone is no fault of the request: it costs no try.
    fn no_connection(error: ProxyError, message: Message, endpoint: &Endpoint) -> Self {
        Self {
            stale: endpoint.is_gone(),
            ..Self::before(error, message)
        }
    }

    pub(crate) fn from_hyper(mut error: TrySendError<Request<Outgoing>>) -> Self {
        match error.take_message() {
            Some(request) => {
                Self::before(ProxyError::unsent(Reason::UpstreamReset), request.into())
            }
            None => Self::of(classify(error.error())),
        }
    }
}

/// One request on its way through its tries.
struct Exchange<'a> {
    upstream: &'a Rc<Upstream>,
    settings: &'a Arc<Settings>,
    upload: Option<Rc<Upload>>,
    started: Instant,
    connect_time: Duration,
}

impl Upstream {
    /// Sends a request and returns the head of its answer; the body follows by itself.
    pub async fn forward(
        self: &Rc<Self>,
        request: ForwardRequest,
    ) -> (Attempts, Result<Answer, ProxyError>) {
        let mut attempts = Attempts::default();
        let started = Instant::now();
        let result = self.try_endpoints(request, started, &mut attempts).await;
        if result.is_err() {
            attempts.response_time = started.elapsed();
        }
        (attempts, result)
    }

    async fn try_endpoints(
        self: &Rc<Self>,
        request: ForwardRequest,
        started: Instant,
        attempts: &mut Attempts,
    ) -> Result<Answer, ProxyError> {
        let ForwardRequest {
            mut head,
            body,
            cluster,
            client,
            upgrade,
            settings,
        } = request;
        // Nothing of the client's side may reach the endpoint by way of extensions.
        head.extensions = Extensions::new();
        let body = Outgoing::new(body);
        let mut exchange = Exchange {
            upstream: self,
            settings: &settings,
            upload: body.upload(),
            started,
            connect_time: Duration::ZERO,
        };
        let repeatable = exchange.upload.is_none() && is_idempotent(&head.method);
        let mut message = Message { head, body };
        let mut tried = Vec::new();
        let mut stale = 0;
        let mut pinned = None;
        loop {
            let (endpoint, protocol, balance) = self
                .choose(&cluster, client, &tried)
                .ok_or(ProxyError::fatal(Reason::NoEndpoints))?;
            if *pinned.get_or_insert(protocol) != protocol {
                // The head was written for the other protocol.
                return Err(ProxyError::fatal(Reason::UpstreamReset));
            }
            attempts.tries += 1;
            attempts.endpoint = Some(endpoint.address);
            let last = attempts.tries >= settings.limits.tries;
            let spare = if last || upgrade {
                None
            } else {
                exchange.spare(&message.head, repeatable, protocol)
            };
            let pool = self.pool(&endpoint, protocol, &settings);
            let fresh = attempts.tries > 1 || stale > 0;
            let asked = if fresh { Instant::now() } else { started };
            let sent = if upgrade {
                exchange.switch(&pool, &endpoint, message).await
            } else {
                exchange
                    .send(&pool, &endpoint, message, (repeatable, fresh, asked))
                    .await
            };
            attempts.connect_time = exchange.connect_time;
            let failure = match sent {
                Ok(answer) => {
                    let now = Instant::now();
                    attempts.response_time = now.saturating_duration_since(started);
                    if balance == Balance::PeakEwma {
                        let took = now.saturating_duration_since(asked);
                        endpoint.latency().observe(took, now);
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let unsent_stale = failure.stale && failure.error.retry == Retry::Unsent;
            if unsent_stale && stale < MAX_STALE {
                stale += 1;
                attempts.tries -= 1;
            } else if last {
                return Err(failure.error);
            } else {
                tried.push(endpoint.id);
            }
            message = failure.again(spare, repeatable)?;
            self.metrics.plain.upstream_retries.inc();
        }
    }

    fn choose(
        &self,
        cluster: &Cluster,
        client: IpAddr,
        tried: &[u64],
    ) -> Option<(Arc<Endpoint>, UpstreamProtocol, Balance)> {
        let state = cluster.state().load();
        let choice = Choice {
            client,
            random: &self.random,
            turn: &|| self.turn(cluster.id()),
            tried,
        };
        let endpoint = choose(&state, &choice)?;
        Some((endpoint, state.plan.protocol, state.balance()))
    }
}

impl Failure {
    /// The request for another try, or the error when another try is not safe.
    fn again(self, spare: Option<Spare>, repeatable: bool) -> Result<Message, ProxyError> {
        let allowed = match self.error.retry {
            Retry::Unsent => true,
            Retry::Idempotent => repeatable,
            Retry::Never => false,
        };
        let message = self.message.or_else(|| spare.map(Message::from));
        match message {
            Some(message) if allowed => Ok(message),
            _ => Err(self.error),
        }
    }
}

impl Exchange<'_> {
    /// A copy of the head for a try after this one, when there may be one that hyper does not
    /// give the request back for. HTTP/2 can tell for any method that a request was not
    /// processed (`REFUSED_STREAM`, GOAWAY), but only an absent body can be sent twice.
    fn spare(
        &self,
        head: &request::Parts,
        repeatable: bool,
        protocol: UpstreamProtocol,
    ) -> Option<Spare> {
        let refusable = matches!(protocol, UpstreamProtocol::H2c | UpstreamProtocol::H2)
            && self.upload.is_none();
        (repeatable || refusable).then(|| Spare::of(head))
    }

    async fn send(
        &mut self,
        pool: &Rc<Pool>,
        endpoint: &Arc<Endpoint>,
        message: Message,
        (replayable, fresh, asked): (bool, bool, Instant),
    ) -> Result<Answer, Failure> {
        let load = LoadGuard::new(Arc::clone(endpoint));
        let wish = Wish {
            replayable,
            fresh,
            now: asked,
        };
        let lease = match pool.checkout(wish, self.settings).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failure::no_connection(error, message, endpoint)),
        };
        let (used, sent) = match lease {
            Lease::Http1(mut lease) => {
                let used = lease.connection().used;
                self.note(used, asked);
                (used, self.over_http1(lease, message, load).await)
            }
            Lease::Http2(lease) => {
                let used = lease.mark_used();
                self.note(used, asked);
                (used, self.over_http2(lease, message, load).await)
            }
        };
        match sent {
            Ok(response) => Ok(Answer {
                response,
                endpoint: Arc::clone(endpoint),
                upgraded: None,
            }),
            Err(failure) => Err(self.blame(Failure {
                stale: used,
                ..failure
            })),
        }
    }

    fn note(&mut self, used: bool, asked: Instant) {
        if used {
            self.upstream.metrics.plain.upstream_reused.inc();
        } else {
            self.connect_time += asked.elapsed();
        }
    }

    /// When the client broke the body, the exchange failed by its fault.
    fn blame(&self, failure: Failure) -> Failure {
        match self.upload.as_ref().and_then(|upload| upload.error()) {
            Some(error) => Failure::of(error),
            None => failure,
        }
    }

    fn patience(&self) -> Patience {
        // A request without retries starts its wait where it started itself: one clock reading
        // less, and the time to connect is part of the wait.
        Patience::new(
            self.settings.timeouts.upstream_response,
            if self.connect_time.is_zero() {
                self.started
            } else {
                Instant::now()
            },
            self.upload.clone(),
        )
    }

    async fn over_http1(
        &self,
        mut lease: Http1Lease,
        message: Message,
        load: LoadGuard,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let response = lease
            .connection()
            .exchange(message.into_request(Version::HTTP_11), self.patience())
            .await?;
        let (mut head, incoming) = response.into_parts();
        check_head(head.status, &mut head.headers, true).map_err(Failure::of)?;
        let uploaded = self.upload.as_ref().is_none_or(|upload| upload.finished());
        let source = if !uploaded {
            let (connection, permit) = lease.into_parts();
            match connection.detach() {
                Some(detached) => Source::Detached(detached, Some(permit)),
                None => Source::Complete,
            }
        } else if lease.connection().is_idle() {
            lease.release();
            Source::Complete
        } else {
            Source::Http1(lease)
        };
        let mut answer = self.answer(head, incoming, source, load);
        answer.body_mut().peek().await.map_err(Failure::of)?;
        Ok(answer)
    }

    async fn over_http2(
        &self,
        lease: Http2Lease,
        mut message: Message,
        load: LoadGuard,
    ) -> Result<Response<UpstreamBody>, Failure> {
        if let Err(error) = with_authority(&mut message.head, lease.protocol()) {
            return Err(Failure::of(error));
        }
        let mut patience = self.patience();
        let mut deadline = Deadline::default();
        let mut answer = pin!(
            lease
                .sender()
                .try_send_request(message.into_request(Version::HTTP_2))
        );
        let response = poll_fn(|cx| {
            if let Poll::Ready(result) = answer.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Failure::from_hyper));
            }
            ready!(patience.poll(&mut deadline, cx));
            Poll::Ready(Err(Failure::of(ProxyError::fatal(Reason::UpstreamTimeout))))
        })
        .await?;
        let (mut head, incoming) = response.into_parts();
        check_head(head.status, &mut head.headers, false).map_err(Failure::of)?;
        Ok(self.answer(head, incoming, Source::Http2(lease), load))
    }

    /// An upgrade, on a connection of its own.
    async fn switch(
        &mut self,
        pool: &Rc<Pool>,
        endpoint: &Arc<Endpoint>,
        message: Message,
    ) -> Result<Answer, Failure> {
        let load = LoadGuard::new(Arc::clone(endpoint));
        let asked = Instant::now();
        let connection = match pool.dedicated(self.settings).await {
            Ok(connection) => connection,
            Err(error) => return Err(Failure::no_connection(error, message, endpoint)),
        };
        self.connect_time += asked.elapsed();
        let wanted = message
            .head
            .headers
            .get_all(UPGRADE)
            .iter()
            .cloned()
            .collect::<Vec<_>>();
        let (mut response, detached) = connection
            .exchange(message.into_request(Version::HTTP_11), self.patience())
            .await
            .map_err(|failure| self.blame(failure))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched && !names_only(response.headers(), &wanted) {
            return Err(Failure::of(ProxyError::fatal(Reason::UpstreamUpgrade)));
        }
        let upgraded = switched.then(|| hyper::upgrade::on(&mut response));
        let (mut head, incoming) = response.into_parts();
        let source = if switched {
            detached.release();
            Source::Complete
        } else {
            check_head(head.status, &mut head.headers, true).map_err(Failure::of)?;
            Source::Detached(detached, None)
        };
        Ok(Answer {
            response: self.answer(head, incoming, source, load),
            endpoint: Arc::clone(endpoint),
            upgraded,
        })
    }

    fn answer(
        &self,
        head: http::response::Parts,
        incoming: Incoming,
        source: Source,
        load: LoadGuard,
    ) -> Response<UpstreamBody> {
        let limit = self.settings.timeouts.upstream_body;
        let body = UpstreamBody::new(incoming, source, load, self.upload.clone(), limit);
        Response::from_parts(head, body)
    }
}

/// Methods whose repetition does no harm. Not CONNECT, not anything we do not know.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

/// What an error of hyper means for the client and for another try.
fn classify(error: &hyper::Error) -> ProxyError {
    tracing::debug!(?error, "exchange with endpoint failed");
    if let Some(body) = source_of::<ProxyError>(error) {
        return ProxyError::fatal(body.reason);
    }
    if error.is_parse() {
        return ProxyError::fatal(Reason::UpstreamProtocol);
    }
    match source_of::<h2::Error>(error) {
        Some(h2) if h2.is_io() => ProxyError::unanswered(Reason::UpstreamReset),
        // Streams above the last one of a GOAWAY were not processed (RFC 9113, section 6.8);
        // streams up to it do not see that error.
        Some(h2) if h2.is_remote() && (h2.is_go_away() || refused(h2)) => {
            ProxyError::unsent(Reason::UpstreamReset)
        }
        Some(h2) if h2.is_remote() => ProxyError::unanswered(Reason::UpstreamReset),
        Some(_) => ProxyError::fatal(Reason::UpstreamProtocol),
        None => ProxyError::unanswered(Reason::UpstreamReset),
    }
}

fn refused(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

pub(super) fn source_of<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// HTTP/2 carries the host as `:authority` (RFC 9113, section 8.3.1).
fn with_authority(head: &mut request::Parts, protocol: UpstreamProtocol) -> Result<(), ProxyError> {
    let Some(host) = head.headers.remove(HOST) else {
        return Ok(());
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(match protocol {
        UpstreamProtocol::H2 | UpstreamProtocol::Https => Scheme::HTTPS,
        UpstreamProtocol::H2c | UpstreamProtocol::Http1 => Scheme::HTTP,
    });
    let bad_host = |_| ProxyError::fatal(Reason::BadHost);
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(bad_host)?);
    head.uri = http::Uri::from_parts(parts).map_err(|_| ProxyError::fatal(Reason::BadTarget))?;
    Ok(())
}

/// Stale connections that one request may run into without losing a try.
const MAX_STALE: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_are_not_repeated() {
        assert!(is_idempotent(&Method::GET));
        assert!(is_idempotent(&Method::PUT));
        for method in ["POST", "PATCH", "CONNECT", "PURGE", "get"] {
            assert!(!is_idempotent(
                &Method::from_bytes(method.as_bytes()).unwrap()
            ));
        }
    }
}
