//! A bound on what an endpoint may send before its answer begins.
//!
//! hyper swallows interim answers (100, 103) without counting them, so an endpoint that sends
//! nothing else would keep a request, and a core, busy until the deadline.
//!
//! Invariant: outside the wait for a head the meter costs one comparison per read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Transport;

/// What is left of the bound. On one thread only; atomic because hyper wants a stream that can be
/// upgraded to be `Send`.
#[derive(Debug)]
pub(crate) struct Meter(AtomicU64);

impl Meter {
    /// A request goes out: its answer has to begin within the bound.
    pub(crate) fn begin(&self) {
        self.0.store(BOUND, Ordering::Relaxed);
    }

    /// The answer has begun.
    pub(crate) fn end(&self) {
        self.0.store(OFF, Ordering::Relaxed);
    }

    /// Whether the endpoint has used up the bound.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn take(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left == OFF {
            return Ok(());
        }
        let left = left.saturating_sub(bytes as u64);
        self.0.store(left, Ordering::Relaxed);
        if left == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

/// A transport whose reads are metered.
pub(crate) struct Metered {
    transport: Transport,
    meter: Arc<Meter>,
}

impl Metered {
    pub(crate) fn new(transport: Transport) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter(AtomicU64::new(OFF)));
        let metered = Self {
            transport,
            meter: Arc::clone(&meter),
        };
        (metered, meter)
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.transport).poll_read(cx, buf))?;
        Poll::Ready(self.meter.take(buf.filled().len() - before))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

/// Far above the largest head and the first piece of content that comes with it.
const BOUND: u64 = 512 * 1024;
const OFF: u64 = u64::MAX;
