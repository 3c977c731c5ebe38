//! The body of an answer: some bytes at once, or frames from a task that makes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum EchoBody {
    /// These bytes, once. `None` when they are gone.
    Whole(Option<Bytes>),
    /// Frames as they come. The channel holds one, so the client's pace is the maker's pace.
    Frames(mpsc::Receiver<Frame<Bytes>>),
}

impl EchoBody {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }

    /// A body and the end that feeds it.
    pub(super) fn frames() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self::Frames(receiver))
    }
}

impl From<Bytes> for EchoBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Frames(receiver) => receiver.poll_recv(context).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Frames(_) => SizeHint::default(),
        }
    }
}
