//! One HTTP/1.1 connection to an endpoint, driven in place by the request that uses it.
//!
//! hyper's connection is a future of its own, usually spawned. Here the task of the request
//! polls it: a request then costs no second task, no switch between tasks and no wake-up across
//! them, and "this connection is free again" is a fact instead of a race.
//!
//! Invariants:
//! - What hyper answers through (a oneshot and a body channel) is read right after the
//!   connection was polled, with a waker that does nothing: it can become ready in no other way.
//! - An idle connection holds no waker of a task: its [`Gate`] has no target.
//! - The connection must not be driven by the answer's reader alone while the request body is
//!   still on its way: a client that writes before it reads would wait for itself. Such a
//!   connection is detached ([`Http1::detach`]) and never pooled again.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, coop::unconstrained};
use tokio::time::Instant;

use super::body::Outgoing;
use super::connect::Transport;
use super::forward::Failure;
use super::meter::{Meter, Metered};
use super::patience::{Deadline, Patience};
use crate::error::{ProxyError, Reason};
use crate::model::Limits;

type Driver = Connection<TokioIo<Metered>, Outgoing>;

/// An open connection.
pub(crate) struct Http1 {
    sender: SendRequest<Outgoing>,
    /// `None` once it has ended.
    driver: Option<Driver>,
    meter: Arc<Meter>,
    gate: Arc<Gate>,
    waker: Waker,
    deadline: Deadline,
    /// When it was returned to the pool.
    pub(crate) idle_since: Instant,
    /// Whether it has carried a request before.
    pub(crate) used: bool,
}

impl Http1 {
    /// Prepares HTTP/1.1 on a transport. Nothing is sent yet.
    pub(crate) async fn open(transport: Transport, limits: &Limits) -> hyper::Result<Box<Self>> {
        let (transport, meter) = Metered::new(transport);
        let (sender, driver) = builder(limits).handshake(TokioIo::new(transport)).await?;
        let gate = Arc::new(Gate::default());
        Ok(Box::new(Self {
            sender,
            driver: Some(driver),
            meter,
            waker: Waker::from(Arc::clone(&gate)),
            gate,
            deadline: Deadline::default(),
            idle_since: Instant::now(),
            used: false,
        }))
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// hyper reads before it writes: a close or stray bytes that have arrived by now are noticed
    /// before anything is sent, and the request comes back in the failure (RFC 9112,
    /// section 9.2: bytes on an idle connection are no answer to anything).
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Outgoing>,
        mut patience: Patience,
    ) -> Result<Response<Incoming>, Failure> {
        self.used = true;
        self.meter.begin();
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            let ended = self.drive(cx).is_ready();
            if let Poll::Ready(result) = self.gate.quietly(|quiet| answer.as_mut().poll(quiet)) {
                return Poll::Ready(begun(&self.meter, result));
            }
            if ended {
                return Poll::Ready(Err(Failure::of(ProxyError::unanswered(
                    Reason::UpstreamReset,
                ))));
            }
            ready!(patience.poll(&mut self.deadline, &mut Context::from_waker(&self.waker)));
            Poll::Ready(Err(Failure::of(ProxyError::fatal(Reason::UpstreamTimeout))))
        })
        .await
    }

    /// The next frame of the answer, driving the connection as far as needed.
    pub(crate) fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut next =
            |gate: &Gate| gate.quietly(|quiet| Pin::new(&mut *incoming).poll_frame(quiet));
        if let Poll::Ready(frame) = next(&self.gate) {
            return Poll::Ready(frame);
        }
        // When the connection ends here, the channel holds either the rest or an error.
        let _ended = self.drive(cx);
        next(&self.gate)
    }

    /// Waits until a moment, armed only by answers that make us wait.
    pub(crate) fn poll_until(&mut self, at: Instant) -> Poll<()> {
        self.deadline
            .poll(&mut Context::from_waker(&self.waker), at)
    }

    /// Whether the answer is complete and another request could follow.
    pub(crate) fn is_idle(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Makes the connection ready to be kept, if it can be.
    pub(crate) fn settle(&mut self) -> bool {
        drop(self.gate.target.take());
        self.is_idle() || self.check()
    }

    /// Whether a kept connection is still good. Reads what has arrived meanwhile.
    pub(crate) fn check(&mut self) -> bool {
        self.poll_driver().is_pending() && self.is_idle()
    }

    /// Lets the connection run on its own, for an answer that came before the request body was
    /// through. It ends with the returned guard.
    pub(crate) fn detach(mut self: Box<Self>) -> Option<Detached> {
        let driver = self.driver.take()?;
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = driver.await {
                tracing::trace!(%error, "detached connection ended");
            }
        });
        Some(Detached {
            task: Some(task.abort_handle()),
            _sender: self.sender,
        })
    }

    fn drive(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.gate.target.register(cx.waker());
        self.poll_driver()
    }

    fn poll_driver(&mut self) -> Poll<()> {
        let Some(driver) = &mut self.driver else {
            return Poll::Ready(());
        };
        let ended = Pin::new(driver).poll(&mut Context::from_waker(&self.waker));
        if ended.is_ready() {
            // Dropping it hands back a request that it never took.
            self.driver = None;
        }
        ended.map(|result| {
            if let Err(error) = result {
                tracing::trace!(%error, "connection ended");
            }
        })
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1")
            .field("idle", &self.is_idle())
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

/// A connection that runs as a task of its own until this is dropped.
#[derive(Debug)]
pub(crate) struct Detached {
    task: Option<AbortHandle>,
    _sender: SendRequest<Outgoing>,
}

impl Detached {
    /// Lets the connection live on: its transport has become a tunnel.
    pub(crate) fn release(mut self) {
        self.task = None;
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A connection for one upgrade: fresh, never pooled, able to give its transport away.
pub(crate) struct Dedicated {
    sender: SendRequest<Outgoing>,
    meter: Arc<Meter>,
    task: AbortHandle,
}

impl Dedicated {
    pub(crate) async fn open(transport: Transport, limits: &Limits) -> hyper::Result<Self> {
        let (transport, meter) = Metered::new(transport);
        let (sender, driver) = builder(limits)
            .handshake::<_, Outgoing>(TokioIo::new(transport))
            .await?;
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::trace!(%error, "dedicated connection ended");
            }
        });
        Ok(Self {
            sender,
            meter,
            task: task.abort_handle(),
        })
    }

    /// Sends the one request. The guard ends the connection; a successful upgrade must
    /// [`Detached::release`] it.
    pub(crate) async fn exchange(
        mut self,
        request: Request<Outgoing>,
        mut patience: Patience,
    ) -> Result<(Response<Incoming>, Detached), Failure> {
        self.meter.begin();
        let mut answer = pin!(self.sender.try_send_request(request));
        let guard = Detached {
            task: Some(self.task),
            _sender: self.sender,
        };
        let mut deadline = Deadline::default();
        let response = poll_fn(|cx| {
            if let Poll::Ready(result) = answer.as_mut().poll(cx) {
                return Poll::Ready(begun(&self.meter, result));
            }
            ready!(patience.poll(&mut deadline, cx));
            Poll::Ready(Err(Failure::of(ProxyError::fatal(Reason::UpstreamTimeout))))
        })
        .await?;
        Ok((response, guard))
    }
}

/// The head of an answer, or why there is none.
fn begun(
    meter: &Meter,
    result: Result<Response<Incoming>, TrySendError<Request<Outgoing>>>,
) -> Result<Response<Incoming>, Failure> {
    let spent = meter.is_spent();
    meter.end();
    match result {
        Ok(response) => Ok(response),
        // It would do the same again.
        Err(_) if spent => Err(Failure::of(ProxyError::fatal(Reason::UpstreamProtocol))),
        Err(error) => Err(Failure::from_hyper(error)),
    }
}

/// Stands between a connection and the task that drives it. One waker for the life of the
/// connection, so nothing is registered anew per request; wake-ups that we cause ourselves by
/// reading hyper's channels are dropped, since the connection is polled again anyway.
#[derive(Default)]
struct Gate {
    target: AtomicWaker,
    quiet: AtomicBool,
}

impl Gate {
    fn quietly<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.quiet.store(true, Ordering::Relaxed);
        let result = poll(&mut Context::from_waker(Waker::noop()));
        self.quiet.store(false, Ordering::Relaxed);
        result
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.quiet.load(Ordering::Relaxed) {
            self.target.wake();
        }
    }
}

/// hyper refuses folded lines, spaces before the colon, HTTP/0.9 and invalid fields by default;
/// here the sizes are bounded.
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder.max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFER);
    if let Some(fields) = limits.parsed_fields() {
        builder.max_headers(fields);
    }
    builder
}

const MAX_HEAD: usize = 64 * 1024;
const MAX_BUFFER: usize = 64 * 1024;
