//! Whether the process is ready, or healthy: a list of reasons why it is not.
//!
//! Invariant: ready means that the list is empty. Every reason is taken away by the part that
//! waited for it.

use std::sync::{Arc, Mutex, PoisonError};

/// What the gateway still waits for, or why it takes no more traffic.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<&'static str>>>);

impl Readiness {
    /// Not ready, for this reason.
    pub fn hold(&self, reason: &'static str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// This reason is gone.
    pub fn release(&self, reason: &'static str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.retain(|held| *held != reason);
    }

    /// The reasons that are left.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
