//! Waiting with a bound, without a timer per request.
//!
//! Invariant: a [`Deadline`] is armed at the first moment it is needed and stays armed; a later
//! deadline costs nothing until the old one fires and is moved. On a kept-alive connection that
//! is one timer event per minute instead of one registration per request.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::Upload;

/// A lazily armed, reusable timer.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `at` has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            // Outside the task's budget: an endpoint that floods us (endless interim answers)
            // uses that up, and the deadline is what ends it.
            ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

/// How long to wait for the head of an answer.
///
/// The time counts from the end of the request, so while its body is on its way every frame
/// starts it anew, and it stands still while we wait for the client: the client has its own
/// bounds, and the endpoint is not to blame.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    since: Instant,
    upload: Option<Rc<Upload>>,
}

impl Patience {
    pub(crate) fn new(limit: Duration, since: Instant, upload: Option<Rc<Upload>>) -> Self {
        Self {
            limit,
            since,
            upload,
        }
    }

    /// Ready when the endpoint took too long.
    pub(crate) fn poll(&mut self, deadline: &mut Deadline, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(deadline.poll(cx, self.since + self.limit));
            let Some(upload) = &self.upload else {
                return Poll::Ready(());
            };
            if upload.waits_for_client() {
                self.since = Instant::now();
            } else if upload.moved() > self.since {
                self.since = upload.moved();
            } else {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_fires_at_the_last_moment_asked_for() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut deadline = Deadline::default();
        let first = poll_fn(|cx| Poll::Ready(deadline.poll(cx, start + second))).await;
        assert!(first.is_pending());
        poll_fn(|cx| deadline.poll(cx, start + 5 * second)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        poll_fn(|cx| deadline.poll(cx, start + 7 * second)).await;
        assert_eq!(start.elapsed().as_secs(), 7);
        let mut late = Deadline::default();
        let pending = poll_fn(|cx| Poll::Ready(late.poll(cx, start + 60 * second))).await;
        assert!(pending.is_pending());
        poll_fn(|cx| late.poll(cx, start + 8 * second)).await;
        assert_eq!(
            start.elapsed().as_secs(),
            8,
            "an earlier one moves the timer"
        );
    }
}
