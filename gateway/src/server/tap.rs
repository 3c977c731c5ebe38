//! The thin layer between a socket (or TLS session) and the HTTP parser.
//!
//! hyper has no deadline for the first byte, for a stalled body or for a client that does not
//! read, and it does not tell a service everything it saw. The tap enforces the deadlines and
//! feeds the [`HeadScan`] of an HTTP/1 connection or the [`FrameWatch`] of an HTTP/2 one.
//!
//! Invariants: one timer per connection, created at the first wait and re-armed only when it fires
//! early, so the usual request costs no timer at all. A deadline that passes ends the connection;
//! inside a request head the client is told 408 first. So does a client that makes noise only; it
//! is told with a GOAWAY. A connection that ends while the client may
//! still be sending lingers for a moment, or the reset would overtake the answer. An HTTP/1 client
//! that has closed its side behind a request is gone after [`GONE`], unless it takes its answer.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::frame_watch::{FrameWatch, PREFACE};
use super::head_scan::{Broken, END_OF_HEAD, HeadScan, Instead, Position};

/// How long each wait may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// Until the first byte of the first request, from the accept.
    pub first_byte: Duration,
    /// For the whole of a head, from its first byte.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the next bytes of a body that somebody waits for.
    pub body: Duration,
    /// For the client to take bytes that are ready.
    pub write: Duration,
}

/// What tap and connection tell each other. On one thread only; atomic because hyper wants a
/// stream that can be upgraded to be `Send`.
#[derive(Debug)]
pub(super) struct Flow {
    began: Instant,
    open: AtomicUsize,
    begun: AtomicBool,
    idle_since: AtomicU64,
    head_timed_out: AtomicBool,
    foreign: AtomicBool,
    noisy: AtomicBool,
    proxied: AtomicBool,
    /// An answer broke off, and what was written of it is still to go out.
    holding: AtomicBool,
    /// It has gone out.
    out: AtomicBool,
}

impl Flow {
    /// A connection that begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            open: AtomicUsize::new(0),
            begun: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            head_timed_out: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            noisy: AtomicBool::new(false),
            proxied: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            out: AtomicBool::new(false),
        })
    }

    /// Asked when an answer broke off: whether everything that was written of it has gone out. The
    /// task of the connection is woken when it has. hyper forgets what it still holds when a body
    /// fails, so that a client would take the end for that of an idle connection.
    pub(super) fn let_out(&self) -> bool {
        self.holding.store(true, Ordering::Relaxed);
        self.out.load(Ordering::Relaxed)
    }

    /// Everything that was written has gone out.
    fn flushed(&self, cx: &Context<'_>) {
        if self.holding.swap(false, Ordering::Relaxed) {
            self.out.store(true, Ordering::Relaxed);
            cx.waker().wake_by_ref();
        }
    }

    /// A request begins; the idle clock stands still meanwhile.
    pub(super) fn enter(&self) {
        self.open.store(self.open() + 1, Ordering::Relaxed);
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether there ever was a request.
    pub(super) fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A request has ended.
    pub(super) fn leave(&self) {
        self.open
            .store(self.open().saturating_sub(1), Ordering::Relaxed);
        self.restart();
    }

    /// The idle clock starts anew.
    pub(super) fn restart(&self) {
        let since = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.idle_since.store(since, Ordering::Relaxed);
    }

    /// The requests come from a proxy: whose side is closed when its client has left, and which never
    /// closes only one. Waiting would let a request that leads back to us outlive its client: its hops would
    /// end one after the other, and others begin meanwhile.
    pub(super) fn comes_from_a_proxy(&self) {
        self.proxied.store(true, Ordering::Relaxed);
    }

    /// Requests that are being served.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// When the last request ended, or the connection began.
    pub(super) fn idle_since(&self) -> Instant {
        self.began + Duration::from_nanos(self.idle_since.load(Ordering::Relaxed))
    }

    /// Whether the client speaks another protocol.
    pub(super) fn foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    /// Whether the connection was ended because the client made noise only.
    pub(super) fn noisy(&self) -> bool {
        self.noisy.load(Ordering::Relaxed)
    }

    /// Whether the deadline for a request head has passed.
    pub(super) fn head_timed_out(&self) -> bool {
        self.head_timed_out.load(Ordering::Relaxed)
    }
}

/// A stream that knows how much the client has taken. A TLS session accepts bytes long before the
/// socket does, so what was written into it is no measure of progress.
pub(super) trait Taken {
    /// Bytes handed to the system since the connection began.
    fn taken(&self) -> u64;
}

impl<S: Taken> Taken for TlsStream<S> {
    fn taken(&self) -> u64 {
        self.get_ref().0.taken()
    }
}

/// A stream under watch.
#[derive(Debug)]
pub(super) struct Tap<S> {
    stream: S,
    /// Only for HTTP/1: an HTTP/2 connection has deadlines of its own kind.
    scan: Option<HeadScan>,
    /// Only for HTTP/2.
    frames: Option<FrameWatch>,
    flow: Arc<Flow>,
    deadlines: Deadlines,
    /// Bytes read, up to the length of an HTTP/2 preface.
    opening: usize,
    read_since: Option<Instant>,
    write_since: Option<Instant>,
    taken: u64,
    /// When the client has closed its side while a request was served, or has taken something of
    /// the answer since.
    ended: Option<Instant>,
    taken_at_end: u64,
    /// The scan has found bytes that the parser must not see.
    broken: bool,
    /// They belong to no request that is being served already.
    cut: bool,
    timer: Option<Pin<Box<Sleep>>>,
    linger: Linger,
}

/// How far the end of the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linger {
    Open,
    /// Our side is closed; the client may send until then, and nobody listens.
    Until(Instant),
    Over,
}

impl<S: AsyncRead + AsyncWrite + Taken + Unpin> Tap<S> {
    /// Watches `stream`. `scan` is for HTTP/1; without one it is HTTP/2.
    pub(super) fn new(
        stream: S,
        scan: Option<HeadScan>,
        flow: Arc<Flow>,
        deadlines: Deadlines,
    ) -> Self {
        Self {
            stream,
            frames: scan.is_none().then(FrameWatch::new),
            scan,
            flow,
            deadlines,
            opening: 0,
            read_since: None,
            write_since: None,
            taken: 0,
            ended: None,
            taken_at_end: 0,
            broken: false,
            cut: false,
            timer: None,
            linger: Linger::Open,
        }
    }

    /// The moment at which waiting for bytes becomes too long, if it ever does.
    fn read_deadline(&mut self) -> Option<Instant> {
        if let Some(ended) = self.ended {
            return Some(ended + GONE);
        }
        let since = *self.read_since.get_or_insert_with(Instant::now);
        let Some(scan) = &self.scan else {
            // The parser waits for the rest of the preface without a limit of its own.
            let opened = self.opening >= PREFACE;
            return (!opened).then(|| self.flow.idle_since() + self.deadlines.first_byte);
        };
        match scan.position() {
            // A head that came behind another request is read only after that one's answer.
            Position::Head(started) => {
                Some(started.max(self.flow.idle_since()) + self.deadlines.head)
            }
            Position::Body => Some(since + self.deadlines.body),
            Position::Beyond => None,
            Position::Between if self.flow.open() > 0 => None,
            Position::Between => {
                // Empty lines may come before a request, and do not count as the begin of one.
                let wait = if self.flow.begun() {
                    self.deadlines.idle
                } else {
                    self.deadlines.first_byte
                };
                Some(self.flow.idle_since() + wait)
            }
        }
    }

    /// Pending until the earlier deadline has passed.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let write = self.write_since.map(|since| since + self.deadlines.write);
            let read = self.read_since.and_then(|_| self.read_deadline());
            let deadline = match (read, write) {
                (Some(read), Some(write)) => read.min(write),
                (Some(only), None) | (None, Some(only)) => only,
                // Nothing to wait for now; look again when a request may have ended.
                (None, None) => Instant::now() + self.deadlines.idle,
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.is_elapsed() || timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if (read.is_some() || write.is_some()) && Instant::now() >= deadline {
                return Poll::Ready(());
            }
        }
    }

    fn poll_read_timeout(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_since.get_or_insert_with(Instant::now);
        ready!(self.poll_late(cx));
        if matches!(
            self.scan.as_ref().map(HeadScan::position),
            Some(Position::Head(_))
        ) {
            self.flow.head_timed_out.store(true, Ordering::Relaxed);
            // Best effort: the client may not be there to read it.
            drop(Pin::new(&mut self.stream).poll_write(cx, REQUEST_TIMEOUT));
            drop(Pin::new(&mut self.stream).poll_flush(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the end that was read is behind a request that is still served.
    fn waits_for_an_answer(&self) -> bool {
        let position = self.scan.as_ref().map(HeadScan::position);
        position == Some(Position::Between)
            && self.flow.open() > 0
            && !self.flow.proxied.load(Ordering::Relaxed)
    }

    /// Pending until a client that sends no more is gone. It may have closed one side only and still
    /// want the answer (as `nc -N` does); nothing but what it takes tells it from one that has left.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let taken = self.stream.taken();
            if self.ended.is_none() || taken != self.taken_at_end {
                self.taken_at_end = taken;
                self.ended = Some(Instant::now());
            }
            self.read_since.get_or_insert_with(Instant::now);
            ready!(self.poll_late(cx));
            if self.stream.taken() == self.taken_at_end {
                return Poll::Ready(());
            }
        }
    }

    fn poll_write_timeout(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let taken = self.stream.taken();
        if taken != self.taken {
            self.taken = taken;
            self.write_since = None;
        }
        self.write_since.get_or_insert_with(Instant::now);
        ready!(self.poll_late(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Reads and forgets what the client still sends: closing a socket with unread bytes in it
    /// resets the connection, and the client loses the answer that explains why (RFC 9112,
    /// section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let mut scratch = [MaybeUninit::uninit(); 2048];
        for _ in 0..LINGER_READS {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(sleep_until(until)));
                    if timer.deadline() != until {
                        timer.as_mut().reset(until);
                    }
                    return timer.as_mut().poll(cx);
                }
            }
        }
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        // Others want to be served too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends a connection whose client makes noise only: says so, and listens no more.
    fn hush(&mut self, cx: &mut Context<'_>) {
        self.flow.noisy.store(true, Ordering::Relaxed);
        self.broken = true;
        self.linger = Linger::Until(Instant::now() + LINGER);
        // Best effort: the client may not be there to read it.
        if let Some(goaway) = self.frames.as_ref().and_then(FrameWatch::goaway) {
            drop(Pin::new(&mut self.stream).poll_write(cx, &goaway));
        }
        drop(Pin::new(&mut self.stream).poll_flush(cx));
        drop(Pin::new(&mut self.stream).poll_shutdown(cx));
    }

    /// Looks at bytes that went out.
    fn sent(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.send(bytes);
        }
    }

    /// Looks at new bytes; an error says how many of them the parser may see.
    fn saw(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.opening = (self.opening + bytes.len()).min(PREFACE);
        let seen = self.scan.as_mut().map_or(Ok(()), |scan| scan.feed(bytes));
        if let Err(broken) = seen {
            self.broken = true;
            if broken.instead == Instead::Foreign {
                self.flow.foreign.store(true, Ordering::Relaxed);
            }
        }
        seen
    }
}

impl<S: AsyncRead + AsyncWrite + Taken + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.broken {
            if let Linger::Until(until) = this.linger {
                ready!(this.poll_linger(cx, until));
                this.linger = Linger::Over;
            } else if this.cut && this.flow.open() > 0 {
                // What came before is being answered; the parser comes again when that is done.
                return Poll::Pending;
            }
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let new = buffer.filled().get(before..).unwrap_or_default();
                if new.is_empty() && buffer.remaining() > 0 && this.waits_for_an_answer() {
                    ready!(this.poll_gone(cx));
                    return Poll::Ready(Ok(()));
                }
                this.read_since = None;
                if this
                    .frames
                    .as_mut()
                    .is_some_and(|frames| frames.receive(new).is_err())
                {
                    this.hush(cx);
                    buffer.set_filled(before);
                    return self.poll_read(cx, buffer);
                }
                let Err(broken) = this.saw(new) else {
                    return Poll::Ready(Ok(()));
                };
                // The head that came with it is still served, if only with an error.
                buffer.set_filled(before + broken.sound);
                this.cut = !broken.in_content;
                if broken.instead == Instead::EndOfHead {
                    buffer.put_slice(END_OF_HEAD);
                } else if broken.sound == 0 {
                    // Nothing read would look like the end of the stream.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_read_timeout(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Taken + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.flow.noisy() {
            // To nowhere: an error would end the connection before the client has read the GOAWAY.
            return Poll::Ready(Ok(data.len()));
        }
        match Pin::new(&mut self.stream).poll_write(cx, data) {
            Poll::Pending => self.poll_write_timeout(cx).map(Err),
            done @ Poll::Ready(_) => {
                self.write_since = None;
                if let Poll::Ready(Ok(count)) = done {
                    self.sent(data.get(..count).unwrap_or_default());
                }
                done
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.flow.noisy() {
            return Poll::Ready(Ok(data.iter().map(|part| part.len()).sum()));
        }
        match Pin::new(&mut self.stream).poll_write_vectored(cx, data) {
            Poll::Pending => self.poll_write_timeout(cx).map(Err),
            done @ Poll::Ready(_) => {
                self.write_since = None;
                if let Poll::Ready(Ok(mut count)) = done {
                    for part in data {
                        let taken = count.min(part.len());
                        self.sent(part.get(..taken).unwrap_or_default());
                        count -= taken;
                    }
                }
                done
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.poll_write_timeout(cx).map(Err),
            done @ Poll::Ready(_) => {
                self.write_since = None;
                self.flow.flushed(cx);
                done
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger == Linger::Open {
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Pending => return this.poll_write_timeout(cx).map(Err),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            this.write_since = None;
            let unfinished = this.scan.as_ref().is_some_and(HeadScan::unfinished);
            this.linger = if unfinished {
                Linger::Until(Instant::now() + LINGER)
            } else {
                Linger::Over
            };
        }
        if let Linger::Until(until) = this.linger {
            ready!(this.poll_linger(cx, until));
            this.linger = Linger::Over;
        }
        Poll::Ready(Ok(()))
    }
}

/// How long a client that has closed its side may take nothing of its answer.
pub(super) const GONE: Duration = Duration::from_secs(2);
/// How long a client may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(2);
/// Reads of such bytes in one turn.
const LINGER_READS: usize = 32;

const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 37\r\n\r\n\
    408 Request Timeout: request_timeout\n";

#[cfg(test)]
mod tests;
