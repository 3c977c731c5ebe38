//! A stream that serves bytes already read before it reads on, and counts what it writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::tap::Taken;

/// A stream and the bytes that were read ahead of it.
#[derive(Debug)]
pub(super) struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
    written: u64,
}

impl<S> Prefixed<S> {
    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = result {
            self.written += written as u64;
        }
        result
    }
}

impl<S> Taken for Prefixed<S> {
    fn taken(&self) -> u64 {
        self.written
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Nothing is read ahead yet.
    pub(super) fn new(stream: S) -> Self {
        Self {
            prefix: BytesMut::new(),
            stream,
            written: 0,
        }
    }

    /// What has been read ahead and not been taken.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.prefix
    }

    /// Reads more ahead; 0 is the end of the stream.
    pub(super) async fn read_ahead(&mut self) -> io::Result<usize> {
        self.prefix.reserve(STEP);
        self.stream.read_buf(&mut self.prefix).await
    }

    /// Drops the first bytes that were read ahead: they have been understood.
    pub(super) fn consume(&mut self, length: usize) {
        self.prefix.advance(length.min(self.prefix.len()));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(length));
        if self.prefix.is_empty() {
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const STEP: usize = 1024;
