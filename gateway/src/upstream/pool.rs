//! Connections of one worker to one endpoint.
//!
//! Invariants:
//! - A pool belongs to one endpoint and one protocol ([`PoolKey`]): connections of different
//!   protocols or TLS settings are never shared, whatever the address.
//! - At most `upstream_connections` are open, at most `upstream_pending` requests wait beyond
//!   those that a dial is under way for; waiters are served in the order they came.
//! - A dial belongs to the pool, not to the request that caused it: when that request goes
//!   away, the connection is kept for the next one. A client that opens and resets requests
//!   therefore causes no more dials than it has requests open at one time.
//! - Once the endpoint is gone its address may belong to somebody else: what is idle is closed, who
//!   waits is sent elsewhere, a dial that still succeeds is dropped unused. Only requests under way
//!   keep their connection, and it gets no new ones.
//! - No borrow is held while a connection is dropped or a waiter is woken.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::Service;

use super::body::Outgoing;
use super::cluster::Endpoint;
use super::connect::{Connector, Target, Transport};
use super::http1::{Dedicated, Http1};
use crate::error::{ProxyError, Reason, Retry};
use crate::metrics::Metrics;
use crate::model::{Settings, UpstreamProtocol};

/// What makes connections interchangeable. Endpoint ids are unique per cluster, so TLS settings
/// are covered as long as they are the same for a cluster and a protocol; settings of their own
/// (a CA, a client certificate) have to become a field here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) endpoint: u64,
    pub(crate) protocol: UpstreamProtocol,
}

/// What a request asks of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// May be sent again: then a connection that has been idle for long will do.
    pub(crate) replayable: bool,
    /// Rather a new connection than a kept one (a retry).
    pub(crate) fresh: bool,
    /// The present.
    pub(crate) now: Instant,
}

/// See the module.
pub(crate) struct Pool {
    key: PoolKey,
    endpoint: Arc<Endpoint>,
    connector: Connector,
    metrics: Arc<Metrics>,
    settings: RefCell<Arc<Settings>>,
    inner: RefCell<Inner>,
    watch: AbortHandle,
}

#[derive(Default)]
struct Inner {
    /// Oldest first.
    #[expect(clippy::vec_box, reason = "a connection moves in and out as a pointer")]
    idle: Vec<Box<Http1>>,
    shared: Vec<Rc<Http2>>,
    /// Connections that count against the bound, dials included.
    open: usize,
    dialing: usize,
    waiters: VecDeque<oneshot::Sender<Result<Lease, ProxyError>>>,
    /// The endpoint is gone: nothing is kept any more.
    closed: bool,
}

impl Pool {
    pub(crate) fn new(
        protocol: UpstreamProtocol,
        endpoint: Arc<Endpoint>,
        connector: Connector,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this: &Weak<Self>| {
            let (pool, watched) = (Weak::clone(this), Arc::clone(&endpoint));
            let watch = tokio::task::spawn_local(async move {
                watched.gone().await;
                if let Some(pool) = pool.upgrade() {
                    pool.close();
                }
            });
            Self {
                key: PoolKey {
                    endpoint: endpoint.id,
                    protocol,
                },
                endpoint,
                connector,
                metrics,
                settings: RefCell::new(settings),
                inner: RefCell::default(),
                watch: watch.abort_handle(),
            }
        })
    }

    /// A connection for one request: a kept one, or whichever comes first of a new one and one
    /// that is returned.
    pub(crate) async fn checkout(
        self: &Rc<Self>,
        wish: Wish,
        settings: &Arc<Settings>,
    ) -> Result<Lease, ProxyError> {
        if self.endpoint.is_gone() {
            return Err(GONE);
        }
        if let Some(lease) = self.kept(wish, settings) {
            return Ok(lease);
        }
        self.wait(settings).await
    }

    fn kept(self: &Rc<Self>, wish: Wish, settings: &Settings) -> Option<Lease> {
        let mut inner = self.inner.borrow_mut();
        if self.multiplexed() {
            // A broken connection has left by itself; a refused stream is no reason to dial.
            return self.stream(&mut inner).map(Lease::Http2);
        }
        if wish.fresh {
            return None;
        }
        let timeouts = &settings.timeouts;
        let limit = if wish.replayable {
            timeouts.upstream_idle
        } else {
            timeouts.upstream_idle_unsafe.min(timeouts.upstream_idle)
        };
        let youngest = inner.idle.last()?.idle_since;
        if wish.now.saturating_duration_since(youngest) >= limit {
            return None;
        }
        let connection = inner.idle.pop()?;
        drop(inner);
        Some(Lease::Http1(self.lease(connection)))
    }

    async fn wait(self: &Rc<Self>, settings: &Arc<Settings>) -> Result<Lease, ProxyError> {
        self.settings.replace(Arc::clone(settings));
        let receiver = {
            let mut inner = self.inner.borrow_mut();
            inner.waiters.retain(|waiter| !waiter.is_closed());
            let expected = inner.dialing * self.capacity();
            let room = settings
                .limits
                .upstream_connections
                .saturating_sub(inner.open);
            let bound = settings.limits.upstream_pending + expected + room.min(1);
            if inner.waiters.len() >= bound {
                return Err(ProxyError::unsent(Reason::Overloaded));
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiters.push_back(sender);
            receiver
        };
        self.dial_if_needed();
        let waiting = Waiting(receiver);
        // Dials have a deadline of their own; this one is for those who wait for others.
        match tokio::time::timeout(settings.timeouts.upstream_response, waiting).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ProxyError::unsent(Reason::Overloaded)),
        }
    }

    /// Opens a connection of its own for an upgrade. Tunnels live long, so they do not count
    /// against the bound of the pool.
    pub(crate) async fn dedicated(&self, settings: &Settings) -> Result<Dedicated, ProxyError> {
        let protocol = match self.key.protocol {
            UpstreamProtocol::Http1 | UpstreamProtocol::H2c => UpstreamProtocol::Http1,
            UpstreamProtocol::Https | UpstreamProtocol::H2 => UpstreamProtocol::Https,
        };
        let transport = self.transport(protocol, settings).await?;
        let opened = Dedicated::open(transport, &settings.limits)
            .await
            .map_err(|_| ProxyError::unsent(Reason::ConnectFailed))?;
        if self.endpoint.is_gone() {
            return Err(GONE);
        }
        Ok(opened)
    }

    /// Drops what has been idle for too long and what the endpoint has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        if self.endpoint.is_gone() {
            self.close();
            return;
        }
        let limit = self.settings.borrow().timeouts.upstream_idle;
        let expired = |since: Instant| now.saturating_duration_since(since) >= limit;
        let kept = std::mem::take(&mut self.inner.borrow_mut().idle);
        let (mut idle, mut dropped) = (Vec::with_capacity(kept.len()), Vec::new());
        for mut connection in kept {
            if !expired(connection.idle_since) && connection.check() {
                idle.push(connection);
            } else {
                dropped.push(connection);
            }
        }
        let mut inner = self.inner.borrow_mut();
        inner.open = inner.open.saturating_sub(dropped.len());
        inner.idle = idle;
        let shared = std::mem::take(&mut inner.shared);
        let (kept, ended): (Vec<_>, Vec<_>) = shared.into_iter().partition(|shared| {
            !shared.sender.is_closed()
                && (shared.streams.get() > 0 || !expired(shared.idle_since.get()))
        });
        inner.open = inner.open.saturating_sub(ended.len());
        inner.shared = kept;
        drop(inner);
        drop((dropped, ended));
    }

    /// Whether nothing would be lost by forgetting the pool.
    pub(crate) fn is_unused(&self) -> bool {
        let inner = self.inner.borrow();
        inner.open == 0 && inner.waiters.is_empty()
    }

    /// Closes what is idle, sends away who waits, and keeps nothing from now on. Requests under way
    /// finish.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.closed = true;
        let idle = std::mem::take(&mut inner.idle);
        let shared = std::mem::take(&mut inner.shared);
        let waiters = std::mem::take(&mut inner.waiters);
        inner.open = inner.open.saturating_sub(idle.len() + shared.len());
        drop(inner);
        drop((idle, shared));
        for waiter in waiters {
            // Who has gone away itself needs no answer.
            drop(waiter.send(Err(GONE)));
        }
    }

    fn is_closed(&self) -> bool {
        self.inner.borrow().closed || self.endpoint.is_gone()
    }

    fn multiplexed(&self) -> bool {
        matches!(
            self.key.protocol,
            UpstreamProtocol::H2c | UpstreamProtocol::H2
        )
    }

    /// Requests that one connection carries at a time.
    fn capacity(&self) -> usize {
        if self.multiplexed() { MAX_STREAMS } else { 1 }
    }

    fn lease(self: &Rc<Self>, connection: Box<Http1>) -> Http1Lease {
        Http1Lease {
            connection,
            permit: Permit(Rc::clone(self)),
        }
    }

    fn stream(self: &Rc<Self>, inner: &mut Inner) -> Option<Http2Lease> {
        let before = inner.shared.len();
        inner.shared.retain(|shared| !shared.sender.is_closed());
        inner.open = inner.open.saturating_sub(before - inner.shared.len());
        let shared = inner
            .shared
            .iter()
            .find(|shared| shared.streams.get() < MAX_STREAMS)?;
        shared.streams.set(shared.streams.get() + 1);
        Some(Http2Lease {
            connection: Rc::clone(shared),
            pool: Rc::clone(self),
        })
    }

    /// Starts as many dials as there are waiters that nobody dials for.
    fn dial_if_needed(self: &Rc<Self>) {
        loop {
            {
                let mut inner = self.inner.borrow_mut();
                let bound = self.settings.borrow().limits.upstream_connections.max(1);
                let waiting = inner.waiters.len();
                if inner.dialing * self.capacity() >= waiting || inner.open >= bound {
                    return;
                }
                inner.open += 1;
                inner.dialing += 1;
            }
            let pool = Rc::clone(self);
            drop(tokio::task::spawn_local(async move {
                let opened = pool.open().await;
                pool.dialed(opened);
            }));
        }
    }

    async fn open(&self) -> Result<Opened, ProxyError> {
        let settings = Arc::clone(&self.settings.borrow());
        let transport = self.transport(self.key.protocol, &settings).await?;
        let opened = if self.multiplexed() {
            let deadline = settings.timeouts.upstream_connect;
            match tokio::time::timeout(deadline, Http2::open(transport, &settings)).await {
                Ok(opened) => opened.map(Opened::Http2),
                Err(_elapsed) => return Err(ProxyError::unsent(Reason::ConnectTimeout)),
            }
        } else {
            Http1::open(transport, &settings.limits)
                .await
                .map(Opened::Http1)
        };
        opened.map_err(|error| {
            tracing::debug!(endpoint = %self.endpoint.address, %error, "handshake failed");
            ProxyError::unsent(Reason::ConnectFailed)
        })
    }

    async fn transport(
        &self,
        protocol: UpstreamProtocol,
        settings: &Settings,
    ) -> Result<Transport, ProxyError> {
        self.metrics.plain.upstream_connects.inc();
        let target = Target {
            address: self.endpoint.address,
            protocol,
            deadline: settings.timeouts.upstream_connect,
        };
        let result = self.connector.clone().call(target).await;
        if result.is_err() {
            self.metrics.plain.upstream_connect_failures.inc();
        }
        result
    }

    fn dialed(self: &Rc<Self>, opened: Result<Opened, ProxyError>) {
        self.inner.borrow_mut().dialing -= 1;
        match opened {
            Ok(opened) if self.is_closed() => {
                drop(opened);
                self.inner.borrow_mut().open -= 1;
                self.close();
            }
            Ok(Opened::Http1(connection)) => self.lease(connection).release(),
            Ok(Opened::Http2(connection)) => {
                self.inner.borrow_mut().shared.push(Rc::new(connection));
                self.serve_streams();
            }
            Err(error) => {
                self.inner.borrow_mut().open -= 1;
                loop {
                    let waiter = self.inner.borrow_mut().waiters.pop_front();
                    let Some(waiter) = waiter else { break };
                    if waiter.send(Err(error)).is_ok() {
                        break;
                    }
                }
                self.dial_if_needed();
            }
        }
    }

    /// Takes a settled connection: for the first who waits, else to be kept.
    fn put(self: &Rc<Self>, mut lease: Http1Lease) {
        if self.is_closed() {
            return;
        }
        loop {
            let waiter = self.inner.borrow_mut().waiters.pop_front();
            let Some(waiter) = waiter else { break };
            match waiter.send(Ok(Lease::Http1(lease))) {
                Err(Ok(Lease::Http1(back))) => lease = back,
                Ok(()) | Err(_) => return,
            }
        }
        let (mut connection, permit) = lease.into_parts();
        let mut inner = self.inner.borrow_mut();
        connection.idle_since = Instant::now();
        inner.idle.push(connection);
        drop(inner);
        permit.keep();
    }

    /// Gives streams of shared connections to those who wait.
    fn serve_streams(self: &Rc<Self>) {
        while !self.inner.borrow().waiters.is_empty() {
            let mut inner = self.inner.borrow_mut();
            let Some(lease) = self.stream(&mut inner) else {
                break;
            };
            let waiter = inner.waiters.pop_front();
            drop(inner);
            if let Some(waiter) = waiter {
                drop(waiter.send(Ok(Lease::Http2(lease))));
            }
        }
        self.dial_if_needed();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

enum Opened {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// A place in the queue. A connection that was handed over but never picked up goes back.
struct Waiting(oneshot::Receiver<Result<Lease, ProxyError>>);

impl Future for Waiting {
    type Output = Result<Lease, ProxyError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(ProxyError::unsent(Reason::Overloaded))))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.close();
        if let Ok(Ok(Lease::Http1(lease))) = self.0.try_recv() {
            lease.release();
        }
    }
}

/// The right to use a connection for one request.
pub(crate) enum Lease {
    Http1(Http1Lease),
    Http2(Http2Lease),
}

/// One of the connections that the bound allows. Dropping it makes room for another.
pub(crate) struct Permit(Rc<Pool>);

impl Permit {
    /// The connection stays open, in the pool.
    fn keep(self) {
        let mut inner = self.0.inner.borrow_mut();
        // Undone by the drop that follows.
        inner.open += 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut inner = self.0.inner.borrow_mut();
            inner.open = inner.open.saturating_sub(1);
            if inner.waiters.is_empty() {
                return;
            }
        }
        self.0.dial_if_needed();
    }
}

/// An HTTP/1 connection in use. Dropping it closes the connection.
pub(crate) struct Http1Lease {
    connection: Box<Http1>,
    permit: Permit,
}

impl Http1Lease {
    /// Gives the connection back after a complete exchange.
    pub(crate) fn release(mut self) {
        if self.connection.settle() {
            let pool = Rc::clone(&self.permit.0);
            pool.put(self);
        }
    }

    /// The connection, while it is leased.
    pub(crate) fn connection(&mut self) -> &mut Http1 {
        &mut self.connection
    }

    /// Takes the lease apart: the connection goes its own way and will not come back.
    pub(crate) fn into_parts(self) -> (Box<Http1>, Permit) {
        (self.connection, self.permit)
    }
}

/// A stream of a shared HTTP/2 connection.
pub(crate) struct Http2Lease {
    connection: Rc<Http2>,
    pool: Rc<Pool>,
}

impl Http2Lease {
    pub(crate) fn sender(&self) -> SendRequest<Outgoing> {
        self.connection.sender.clone()
    }

    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.pool.key.protocol
    }

    /// Whether the connection has carried a request before this one.
    pub(crate) fn mark_used(&self) -> bool {
        self.connection.used.replace(true)
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let streams = self.connection.streams.get().saturating_sub(1);
        self.connection.streams.set(streams);
        if streams == 0 {
            self.connection.idle_since.set(Instant::now());
        }
        if !self.pool.inner.borrow().waiters.is_empty() {
            self.pool.serve_streams();
        }
    }
}

/// A shared HTTP/2 connection. It ends when the pool and all streams have let go of it.
struct Http2 {
    sender: SendRequest<Outgoing>,
    streams: Cell<usize>,
    used: Cell<bool>,
    idle_since: Cell<Instant>,
}

impl Http2 {
    async fn open(transport: Transport, settings: &Settings) -> hyper::Result<Self> {
        let mut builder = Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(settings.timeouts.http2_ping_interval)
            .keep_alive_timeout(settings.timeouts.http2_ping_timeout);
        let (sender, connection) = builder.handshake(TokioIo::new(transport)).await?;
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "shared connection ended");
            }
        }));
        Ok(Self {
            sender,
            streams: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        })
    }
}

/// Runs hyper's HTTP/2 tasks on the worker's own thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

/// Why nothing is sent to an endpoint that is gone; the request goes to another.
const GONE: ProxyError = ProxyError {
    reason: Reason::NoEndpoints,
    retry: Retry::Unsent,
};
/// Streams per connection before another is opened: what servers commonly allow.
const MAX_STREAMS: usize = 100;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
