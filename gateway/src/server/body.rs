//! Bodies on their way through: counted, bounded, never buffered.
//!
//! Invariants: back-pressure passes through in both directions, since a frame is only asked for
//! when the other side wants one. The record of a request lives in its response body and is
//! written when that body ends or is dropped, whichever comes first.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::active::ActiveGuard;
use super::headers::ends_here;
use super::record::Record;
use super::survey::is_claim;
use crate::error::{ProxyError, Reason};
use crate::upstream::UpstreamBody;

/// Progress of a request body, shared with whoever must know how far it got.
#[derive(Debug, Default)]
pub struct BodyProgress {
    received: Cell<u64>,
    finished: Cell<bool>,
}

impl BodyProgress {
    /// Bytes received from the client.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether the client sent the body to its end.
    pub fn finished(&self) -> bool {
        self.finished.get()
    }
}

/// Bounds on one request body.
#[derive(Debug, Clone, Copy)]
pub struct BodyBounds {
    /// Bytes; 0 is no limit.
    pub limit: u64,
    /// Longest wait for the next frame.
    pub stall: Duration,
    /// Bytes per second of waiting, once ten seconds of it have passed; 0 is no limit.
    pub rate: u64,
}

/// The body of a request on its way to an endpoint. A request without one has no such thing.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    progress: Rc<BodyProgress>,
    bounds: BodyBounds,
    /// On HTTP/2, the length that the client announced.
    announced: Option<u64>,
    /// The frame that completes that length, until the end of the stream has confirmed it.
    held: Option<Box<Frame<Bytes>>>,
    waiting_since: Option<Instant>,
    waited: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Wraps what the client sends.
    pub fn new(incoming: Incoming, bounds: BodyBounds) -> Self {
        let progress = Rc::new(BodyProgress::default());
        let incoming = if incoming.is_end_stream() {
            progress.finished.set(true);
            None
        } else {
            Some(incoming)
        };
        Self {
            incoming,
            progress,
            bounds,
            announced: None,
            held: None,
            waiting_since: None,
            waited: Duration::ZERO,
            timer: None,
        }
    }

    /// Content of an HTTP/2 stream. Its length must agree with the end of the stream, and what
    /// does not agree must not be forwarded (RFC 9113, section 8.1.1): content is complete for
    /// the endpoint only when the stream has ended.
    pub fn of_stream(incoming: Incoming, bounds: BodyBounds) -> Self {
        let mut body = Self::new(incoming, bounds);
        body.announced = body.size_hint().exact();
        body
    }

    /// Whether the client announced no content and has not ended the stream yet: the request is
    /// complete only after [`Self::ended`].
    pub fn awaits_end(&self) -> bool {
        self.announced == Some(0) && !self.is_empty()
    }

    /// Waits for the end of a stream that carries no content.
    pub async fn ended(&mut self) -> Result<(), ProxyError> {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {
            frame?;
        }
        self.incoming = None;
        Ok(())
    }

    /// Whether there is no body at all, so that the request can be sent again.
    pub fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }

    /// How far the body has come; stays valid when the body is gone.
    pub fn progress(&self) -> Rc<BodyProgress> {
        Rc::clone(&self.progress)
    }

    /// Waits for the next frame under the stall and rate bounds. The timer exists only for
    /// bodies that ever make us wait, and is re-armed only when it fires early.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        let now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        let mut deadline = since + self.bounds.stall.min(FOREVER);
        if let Some(earned) = self.progress.received().checked_div(self.bounds.rate) {
            let allowed = RATE_GRACE + Duration::from_secs(earned.min(FOREVER.as_secs()));
            deadline = deadline.min(since + allowed.saturating_sub(self.waited));
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            if timer.deadline() < now || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(ProxyError::fatal(Reason::RequestTimeout));
            }
        }
    }

    /// The frame that comes next when this one has arrived.
    fn after_held(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match self.held.take() {
            None => frame,
            Some(held) => {
                if frame.is_trailers() {
                    self.held = Some(Box::new(frame));
                }
                *held
            }
        }
    }

    fn account(&mut self, frame: &Frame<Bytes>) -> Result<(), ProxyError> {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        if let Some(data) = frame.data_ref() {
            let received = self.progress.received() + data.len() as u64;
            self.progress.received.set(received);
            if self.bounds.limit > 0 && received > self.bounds.limit {
                return Err(ProxyError::fatal(Reason::BodyTooLarge));
            }
        }
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = &mut *self;
        if this.held.as_ref().is_some_and(|held| held.is_trailers()) {
            return Poll::Ready(this.held.take().map(|held| Ok(*held)));
        }
        loop {
            let Some(incoming) = &mut this.incoming else {
                return Poll::Ready(None);
            };
            let mut frame = match Pin::new(incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    this.held = None;
                    return Poll::Ready(Some(Err(broken(&error))));
                }
                Poll::Ready(None) => {
                    this.progress.finished.set(true);
                    return Poll::Ready(this.held.take().map(|held| Ok(*held)));
                }
                Poll::Pending => return this.poll_stalled(cx).map(|error| Some(Err(error))),
            };
            if let Some(trailers) = frame.trailers_mut() {
                strip_trailers(trailers);
            }
            if let Err(error) = this.account(&frame) {
                return Poll::Ready(Some(Err(error)));
            }
            if this.incoming.as_ref().is_none_or(Body::is_end_stream) || frame.is_trailers() {
                this.progress.finished.set(true);
            } else if this.announced == Some(this.progress.received()) {
                // Nothing but the end may follow: more data is an error of the stream.
                this.held.get_or_insert(Box::new(frame));
                continue;
            }
            return Poll::Ready(Some(Ok(this.after_held(frame))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().and_then(|held| held.data_ref());
        let held = held.map_or(0, |data| data.len() as u64);
        match &self.incoming {
            None => SizeHint::with_exact(0),
            Some(incoming) => match incoming.size_hint().exact() {
                Some(exact) => SizeHint::with_exact(exact + held),
                None => incoming.size_hint(),
            },
        }
    }
}

/// Fields that must not travel in a trailer because they would change how the message is read,
/// where it goes or who is asking (RFC 9110, section 6.5.1), in either direction.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_claim(name.as_str()) || ends_here(name.as_str(), false))
        .cloned()
        .collect();
    for name in claims {
        trailers.remove(name);
    }
    for name in [
        http::header::CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
        http::header::TRAILER,
        http::header::TE,
        http::header::HOST,
        http::header::CONNECTION,
        http::header::AUTHORIZATION,
        http::header::CONTENT_ENCODING,
        http::header::CONTENT_TYPE,
        http::header::CONTENT_RANGE,
        http::header::COOKIE,
        http::header::SET_COOKIE,
        http::header::CACHE_CONTROL,
        http::header::EXPECT,
        http::header::FORWARDED,
        http::header::LOCATION,
        http::header::PROXY_AUTHENTICATE,
        http::header::PROXY_AUTHORIZATION,
        http::header::STRICT_TRANSPORT_SECURITY,
        http::header::WWW_AUTHENTICATE,
    ] {
        trailers.remove(name);
    }
}

fn broken(error: &hyper::Error) -> ProxyError {
    use std::error::Error;
    let timed_out = error
        .source()
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut);
    ProxyError::fatal(if timed_out {
        Reason::RequestTimeout
    } else {
        Reason::BodyBroken
    })
}

/// The body of an answer on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    active: Option<ActiveGuard>,
    /// What broke the answer off, while what was written before it goes out.
    broken: Option<ProxyError>,
}

#[derive(Debug)]
enum Source {
    Local(Option<Bytes>),
    Upstream(UpstreamBody),
}

impl ResponseBody {
    /// An answer that the gateway made.
    pub(crate) fn local(content: Bytes, record: Option<Box<Record>>) -> Self {
        Self::watched(content, record, None)
    }

    /// The same, with a watch that the client takes it.
    pub(crate) fn watched(
        content: Bytes,
        record: Option<Box<Record>>,
        active: Option<ActiveGuard>,
    ) -> Self {
        let content = (!content.is_empty()).then_some(content);
        Self {
            source: Source::Local(content),
            record,
            active,
            broken: None,
        }
        .settled()
    }

    /// The answer of an endpoint. `active` watches that the client takes it.
    pub(crate) fn upstream(
        body: UpstreamBody,
        record: Box<Record>,
        active: Option<ActiveGuard>,
    ) -> Self {
        Self {
            source: Source::Upstream(body),
            record: Some(record),
            active,
            broken: None,
        }
        .settled()
    }

    /// An answer without content is complete from the start: it may never be polled.
    fn settled(mut self) -> Self {
        if self.is_end_stream() {
            self.complete();
        }
        self
    }

    fn complete(&mut self) {
        self.active = None;
        if let Some(record) = &mut self.record {
            record.complete();
        }
    }

    /// The end of an answer that broke off, once the connection may see it.
    fn poll_broken(&mut self, error: ProxyError) -> Poll<ProxyError> {
        self.broken = Some(error);
        if let Some(record) = &mut self.record {
            record.fail(error.reason);
            if !record.may_break() {
                return Poll::Pending;
            }
        }
        Poll::Ready(error)
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(record) = &mut self.record else {
            return;
        };
        if let Some(data) = frame.data_ref() {
            record.sent += data.len() as u64;
        }
        if let Some(active) = &self.active {
            active.touch();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken {
            return this.poll_broken(error).map(|error| Some(Err(error)));
        }
        let mut next = match &mut this.source {
            Source::Local(content) => content.take().map(|content| Ok(Frame::data(content))),
            Source::Upstream(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    if let Some(active) = &this.active {
                        active.starve();
                    }
                    return Poll::Pending;
                }
            },
        };
        match &mut next {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                this.note(frame);
                if this.is_end_stream() {
                    this.complete();
                }
            }
            Some(Err(error)) => {
                let error = *error;
                return this.poll_broken(error).map(|error| Some(Err(error)));
            }
            None => this.complete(),
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(content) => content.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(content) => {
                SizeHint::with_exact(content.as_ref().map_or(0, |content| content.len() as u64))
            }
            Source::Upstream(body) => body.size_hint(),
        }
    }
}

/// Waiting that a slow client may accumulate before its rate is judged.
const RATE_GRACE: Duration = Duration::from_secs(10);
/// Longer than any request; keeps additions to an `Instant` in range.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
