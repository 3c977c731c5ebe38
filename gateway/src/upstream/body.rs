//! Bodies of the exchange with an endpoint: the request's on its way out, the answer's on its
//! way back.
//!
//! Invariants:
//! - A connection goes back to its pool only after the answer was read to its end and the
//!   request body was sent to its end; never after an error (wire-level rule: what is left in
//!   the pipe would be taken for part of the next message).
//! - An answer that ends early is an error, so that the client sees the truncation. One that is
//!   broken before its first byte of content, as far as that can be told without waiting, has not
//!   begun: the client gets an answer of ours.
//! - The endpoint carries the load of an answer until its body has ended.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::cluster::LoadGuard;
use super::forward::source_of;
use super::http1::Detached;
use super::patience::Deadline;
use super::pool::{Http1Lease, Http2Lease, Permit};
use crate::error::{ProxyError, Reason};
use crate::server::body::RequestBody;

/// How far a request body has come, and what broke it.
#[derive(Debug)]
pub(crate) struct Upload {
    finished: Cell<bool>,
    waiting: Cell<bool>,
    moved: Cell<Instant>,
    error: Cell<Option<ProxyError>>,
}

impl Upload {
    /// Whether the body was handed over to its end.
    pub(crate) fn finished(&self) -> bool {
        self.finished.get()
    }

    /// Whether the endpoint wants more and the client has not sent it.
    pub(crate) fn waits_for_client(&self) -> bool {
        !self.finished.get() && self.waiting.get()
    }

    /// When the last frame went out.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// What the client did to the body: then the exchange failed by its fault.
    pub(crate) fn error(&self) -> Option<ProxyError> {
        self.error.get()
    }
}

/// A request body as the connections of a pool carry it. Nothing is allocated for a request
/// without a body.
#[derive(Debug)]
pub(crate) struct Outgoing(Option<(Box<RequestBody>, Rc<Upload>)>);

impl Outgoing {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    pub(crate) fn new(body: Option<Box<RequestBody>>) -> Self {
        let Some(body) = body.filter(|body| !body.is_empty()) else {
            return Self::empty();
        };
        let upload = Rc::new(Upload {
            finished: Cell::new(body.is_end_stream()),
            waiting: Cell::new(false),
            moved: Cell::new(Instant::now()),
            error: Cell::new(None),
        });
        Self(Some((body, upload)))
    }

    /// Progress of the body; `None` when there is none.
    pub(crate) fn upload(&self) -> Option<Rc<Upload>> {
        self.0.as_ref().map(|(_, upload)| Rc::clone(upload))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let Some((body, upload)) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(&mut **body).poll_frame(cx);
        upload.waiting.set(frame.is_pending());
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                upload.moved.set(Instant::now());
                upload
                    .finished
                    .set(frame.is_trailers() || body.is_end_stream());
            }
            Poll::Ready(Some(Err(error))) => upload.error.set(Some(*error)),
            Poll::Ready(None) => {
                upload.moved.set(Instant::now());
                upload.finished.set(true);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

/// Where the rest of an answer comes from.
pub(crate) enum Source {
    /// It has arrived as a whole (or has no body): the connection is back in its pool.
    Complete,
    /// A connection driven by reading this body.
    Http1(Http1Lease),
    /// A connection that runs by itself until the answer ends, and is closed then.
    Detached(
        #[expect(dead_code, reason = "held for its drop")] Detached,
        #[expect(dead_code, reason = "held for its drop")] Option<Permit>,
    ),
    /// A stream of a shared connection.
    Http2(#[expect(dead_code, reason = "held for its drop")] Http2Lease),
}

/// The body of an endpoint's answer.
pub struct UpstreamBody {
    /// Of `incoming`, already taken out.
    ahead: Option<Frame<Bytes>>,
    incoming: Incoming,
    source: Source,
    load: Option<LoadGuard>,
    upload: Option<Rc<Upload>>,
    limit: Duration,
    waiting_since: Option<Instant>,
    deadline: Deadline,
}

impl UpstreamBody {
    pub(crate) fn new(
        incoming: Incoming,
        source: Source,
        load: LoadGuard,
        upload: Option<Rc<Upload>>,
        limit: Duration,
    ) -> Self {
        let mut body = Self {
            ahead: None,
            incoming,
            source,
            load: Some(load),
            upload,
            limit,
            waiting_since: None,
            deadline: Deadline::default(),
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Looks at the first frame, if it is there already. It waits for nothing: an endpoint that
    /// takes its time after the head streams as before.
    pub(crate) async fn peek(&mut self) -> Result<(), ProxyError> {
        let Source::Http1(lease) = &mut self.source else {
            return Ok(());
        };
        let incoming = &mut self.incoming;
        let first = poll_fn(|cx| Poll::Ready(lease.connection().poll_frame(incoming, cx))).await;
        match first {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                self.ahead = Some(frame);
                if self.incoming.is_end_stream() {
                    self.finish();
                }
            }
            Poll::Ready(Some(Err(error))) => return Err(self.fail(broken(&error))),
            Poll::Ready(None) => self.finish(),
        }
        Ok(())
    }

    /// The answer is complete: give back what can be given back.
    fn finish(&mut self) {
        if let Source::Http1(lease) = std::mem::replace(&mut self.source, Source::Complete)
            && self.upload.as_ref().is_none_or(|upload| upload.finished())
        {
            lease.release();
        }
        self.load = None;
    }

    fn fail(&mut self, reason: Reason) -> ProxyError {
        self.source = Source::Complete;
        self.load = None;
        let client = self.upload.as_ref().and_then(|upload| upload.error());
        client.unwrap_or(ProxyError::fatal(reason))
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let at = since + self.limit;
        match &mut self.source {
            Source::Http1(lease) => lease.connection().poll_until(at),
            _ => self.deadline.poll(cx, at),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match &mut this.source {
            Source::Http1(lease) => lease.connection().poll_frame(&mut this.incoming, cx),
            _ => Pin::new(&mut this.incoming).poll_frame(cx),
        };
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                // hyper does not ask again after this: the end has to be seen here.
                if this.incoming.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.fail(broken(&error))))),
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_stalled(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(this.fail(Reason::UpstreamTimeout)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.size_hint();
        if let Some(data) = self.ahead.as_ref().and_then(Frame::data_ref) {
            let ahead = data.len() as u64;
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(ahead));
            }
            hint.set_lower(hint.lower().saturating_add(ahead));
        }
        hint
    }
}

/// What broke an answer off.
fn broken(error: &hyper::Error) -> Reason {
    tracing::debug!(%error, "answer broke off");
    let kind = source_of::<io::Error>(error).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Reason::UpstreamProtocol,
        _ => Reason::UpstreamReset,
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Complete => "complete",
            Source::Http1(_) => "http1",
            Source::Detached(..) => "detached",
            Source::Http2(_) => "http2",
        };
        f.debug_struct("UpstreamBody")
            .field("source", &source)
            .field("size", &self.incoming.size_hint())
            .finish_non_exhaustive()
    }
}
