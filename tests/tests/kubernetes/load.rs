//! Requests that go on while something happens.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use gatehouse_tests::{raw, wait};

/// One client that asks for the same page again and again, each time on a new connection.
pub(crate) struct Load {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    answers: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts asking; every answer has to be a 200.
    pub(crate) fn start(gateway: SocketAddr, host: &str) -> Self {
        let state = Arc::new(State::default());
        let (shared, host) = (Arc::clone(&state), host.to_owned());
        let thread = std::thread::spawn(move || {
            while !shared.stop.load(Ordering::Relaxed) {
                match raw::get(gateway, &host, "/") {
                    Ok(answer) if answer.status == 200 => {
                        shared.answers.fetch_add(1, Ordering::Relaxed);
                    }
                    other => {
                        let mut failures = shared.failures.lock().expect("failures");
                        failures.push(format!("{other:?}"));
                    }
                }
            }
        });
        Self {
            state,
            thread: Some(thread),
        }
    }

    /// Waits for as many more answers and checks that no request has ever failed.
    pub(crate) fn unharmed(&self, more: u64) {
        let goal = self.state.answers.load(Ordering::Relaxed) + more;
        wait::until("more requests are answered", || {
            let failures = self.state.failures.lock().expect("failures");
            assert!(failures.is_empty(), "requests failed: {failures:#?}");
            (self.state.answers.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
