//! How many watches hold an object: one that several have sent is gone when the last of them says
//! so. Only Secrets can be held twice, by their type and by their name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{Kind, ObjectKey};

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings(Arc<Mutex<HashMap<ObjectKey, u32>>>);

impl Holdings {
    /// One more watch holds the object.
    pub(super) fn take(&self, key: &ObjectKey) {
        if key.kind == Kind::Secret {
            *self.counts().entry(key.clone()).or_default() += 1;
        }
    }

    /// A watch lets go; whether nobody holds the object now.
    pub(super) fn release(&self, key: &ObjectKey) -> bool {
        if key.kind != Kind::Secret {
            return true;
        }
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(key) else {
            return true;
        };
        *count -= 1;
        let last = *count == 0;
        if last {
            counts.remove(key);
        }
        last
    }

    /// Whether a watch holds it; of Secrets only.
    pub(super) fn holds(&self, key: &ObjectKey) -> bool {
        self.counts().contains_key(key)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<ObjectKey, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
