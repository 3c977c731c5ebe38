//! The record of one request: what the access log and the metrics are told about it.
//!
//! Invariant: it is written exactly once, when it is dropped. A record that is dropped before the
//! answer was complete tells of a client that went away or an answer that broke off.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request};
use tokio::time::Instant;

use super::body::BodyProgress;
use super::connection::{Connection, RequestGuard};
use super::headers::X_REQUEST_ID;
use super::worker::Worker;
use crate::access_log::Line;
use crate::error::Reason;
use crate::table::Route;
use crate::upstream::Attempts;

/// Everything worth telling about one request.
pub(crate) struct Record {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    /// The connection is not idle before the answer has gone, to its last byte.
    _open: RequestGuard,
    started: Instant,
    method: Method,
    version: Version,
    details: Option<Box<Details>>,
    /// Client address after trust.
    pub(super) client: IpAddr,
    /// The route that served it.
    pub(super) route: Option<Arc<Route>>,
    /// Progress of the request body.
    pub(super) request_body: Option<Rc<BodyProgress>>,
    /// Response body bytes handed to the connection.
    pub(super) sent: u64,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    complete: bool,
    endpoint: Option<SocketAddr>,
    tries: u32,
    upstream_time: Option<Duration>,
}

/// Kept only when an access log is written.
struct Details {
    target: Option<PathAndQuery>,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
}

impl Record {
    pub(super) fn begin(
        worker: &Rc<Worker>,
        connection: &Rc<Connection>,
        head: &request::Parts,
        started: Instant,
        open: RequestGuard,
    ) -> Box<Self> {
        worker.metrics.plain.requests_active.inc();
        let details = worker.log.enabled().then(|| {
            let field = |name| head.headers.get(name).cloned();
            let authority = head
                .uri
                .authority()
                .map(|a| HeaderValue::from_str(a.as_str()));
            Box::new(Details {
                target: head.uri.path_and_query().cloned(),
                host: authority
                    .and_then(Result::ok)
                    .or_else(|| field(header::HOST)),
                user_agent: field(header::USER_AGENT),
                referer: field(header::REFERER),
                request_id: None,
            })
        });
        Box::new(Self {
            worker: Rc::clone(worker),
            connection: Rc::clone(connection),
            _open: open,
            started,
            method: head.method.clone(),
            version: head.version,
            details,
            client: connection.client.ip(),
            route: None,
            request_body: None,
            sent: 0,
            status: None,
            reason: None,
            complete: false,
            endpoint: None,
            tries: 0,
            upstream_time: None,
        })
    }

    /// The head of the answer is known.
    pub(super) fn answered(&mut self, status: StatusCode, reason: Option<Reason>) {
        self.status = Some(status);
        self.reason = reason;
    }

    /// What forwarding did.
    pub(super) fn forwarded(&mut self, attempts: &Attempts) {
        self.endpoint = attempts.endpoint;
        self.tries = attempts.tries;
        self.upstream_time = Some(attempts.response_time);
    }

    /// The fields sent to the endpoint, the id of the request among them.
    pub(super) fn identified(&mut self, headers: &HeaderMap) {
        if let Some(details) = &mut self.details {
            details.request_id = headers.get(&X_REQUEST_ID).cloned();
        }
    }

    /// The answer has been handed over to its end.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// The answer broke off.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    /// Whether the end of an answer that broke off may be shown to the connection: on HTTP/1 what
    /// was written before it goes out first.
    pub(super) fn may_break(&self) -> bool {
        self.version == Version::HTTP_2 || self.connection.let_out()
    }

    fn outcome(&self) -> (u16, Option<Reason>) {
        match self.status {
            None => (
                Reason::ClientGone.status_code(),
                self.reason.or(Some(Reason::ClientGone)),
            ),
            Some(status) if self.complete => (status.as_u16(), self.reason),
            Some(status) => (status.as_u16(), self.reason.or(Some(Reason::ClientGone))),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let (status, reason) = self.outcome();
        let received = self.request_body.as_ref().map_or(0, |body| body.received());
        let metrics = &self.worker.metrics;
        metrics.plain.requests_active.dec();
        if let Some(reason) = reason {
            metrics.count_reason(reason);
        }
        if let Some(route) = &self.route {
            route.metrics.count(status, duration, received, self.sent);
        }
        if self.version == Version::HTTP_2 && self.connection.churn.note(!self.complete) {
            metrics.plain.connections_aborted.inc();
            self.connection.control.abort();
        }
        let Some(details) = &self.details else { return };
        self.worker.log.write(&Line {
            started: self.started,
            listener: &self.connection.listener.name,
            client: self.client,
            method: Some(&self.method),
            host: details.host.as_ref(),
            target: details.target.as_ref().map(PathAndQuery::as_str),
            version: Some(self.version),
            tls: self.connection.tls.is_some(),
            status,
            reason,
            received,
            sent: self.sent,
            duration,
            route: self.route.as_ref().map(|route| &*route.label),
            endpoint: self.endpoint,
            tries: self.tries,
            upstream_time: self.upstream_time,
            request_id: details.request_id.as_ref(),
            user_agent: details.user_agent.as_ref(),
            referer: details.referer.as_ref(),
        });
    }
}

/// Accounts for a request that the HTTP parser refused before anybody saw it.
pub(super) fn rejected(worker: &Worker, connection: &Connection, reason: Reason) {
    without_request(worker, connection, reason, None);
}

/// Accounts for what is no request, or was not read as one.
pub(super) fn without_request(
    worker: &Worker,
    connection: &Connection,
    reason: Reason,
    host: Option<&HeaderValue>,
) {
    worker.metrics.count_reason(reason);
    worker.log.write(&Line {
        started: Instant::now(),
        listener: &connection.listener.name,
        client: connection.client.ip(),
        method: None,
        host,
        target: None,
        version: None,
        tls: connection.tls.is_some(),
        status: reason.status_code(),
        reason: Some(reason),
        received: 0,
        sent: 0,
        duration: Duration::ZERO,
        route: None,
        endpoint: None,
        tries: 0,
        upstream_time: None,
        request_id: None,
        user_agent: None,
        referer: None,
    });
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
