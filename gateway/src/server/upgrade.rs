//! Upgraded connections: bytes in both directions until one side ends or falls silent.
//!
//! Invariants: a tunnel begins only after the endpoint's 101, on an upstream connection of its
//! own, so nothing of it can reach another client's request. It holds the connection's facts and
//! the endpoint, never a snapshot.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};

use super::record::Record;
use super::worker::Worker;
use crate::upstream::Endpoint;

/// The client's half of an upgrade, as hyper leaves it with the request.
pub(super) fn taken_from(head: &request::Parts) -> Option<OnUpgrade> {
    head.extensions.get::<OnUpgrade>().cloned()
}

/// Both halves of an upgrade that the endpoint has agreed to.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    /// Counted as busy while the tunnel lives.
    pub(super) endpoint: Arc<Endpoint>,
}

impl Tunnel {
    /// Runs the tunnel in a task of the worker. The record is written when the tunnel ends.
    pub(super) fn start(self, worker: &Rc<Worker>, record: Box<Record>) {
        let idle = worker.settings().timeouts.tunnel_idle;
        let metrics = Arc::clone(&worker.metrics);
        worker.spawn(async move {
            metrics.plain.tunnels_active.inc();
            self.run(idle, record).await;
            metrics.plain.tunnels_active.dec();
        });
    }

    async fn run(self, idle: Duration, mut record: Box<Record>) {
        let Self {
            client,
            upstream,
            endpoint,
        } = self;
        if let (Ok(client), Ok(upstream)) = (client.await, upstream.await) {
            let moved = Rc::new(Cell::new(Instant::now()));
            let mut client = Watched::new(client, &moved);
            let mut upstream = Watched::new(upstream, &moved);
            let copy = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
            tokio::select! {
                // Either way the tunnel is over; how is of no use to anybody.
                _ = copy => {}
                () = silent(&moved, idle) => {}
            }
            record.sent = upstream.read;
            record.complete();
        }
        drop(endpoint);
    }
}

/// Ends when nothing has been read from either side for `idle`.
async fn silent(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let deadline = moved.get() + idle;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

/// An upgraded connection that notes when bytes came.
struct Watched {
    io: TokioIo<Upgraded>,
    moved: Rc<Cell<Instant>>,
    read: u64,
}

impl Watched {
    fn new(upgraded: Upgraded, moved: &Rc<Cell<Instant>>) -> Self {
        Self {
            io: TokioIo::new(upgraded),
            moved: Rc::clone(moved),
            read: 0,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            self.read += read as u64;
            self.moved.set(Instant::now());
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Per direction: a websocket message is usually small, and there may be many tunnels.
const BUFFER: usize = 4096;
