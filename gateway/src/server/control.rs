//! Orders to a connection from outside its own task.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::task::{Context, Waker};

/// The flags that a connection looks at whenever it runs. Setting one wakes it.
#[derive(Default)]
pub(super) struct Control {
    aborted: Cell<bool>,
    draining: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    /// End at once.
    pub(super) fn abort(&self) {
        self.aborted.set(true);
        self.wake();
    }

    /// Finish what is being served and end.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    /// Whether to end at once.
    pub(super) fn aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Whether to finish and end.
    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Remembers whom to wake. Cheap when nothing has changed, which is nearly always.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("aborted", &self.aborted)
            .field("draining", &self.draining)
            .finish_non_exhaustive()
    }
}
