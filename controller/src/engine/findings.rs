//! All diagnostics, by who found them; and the one sorted list of them.
//!
//! The same finding of several computations (a broken Secret that many use) is listed once. The
//! list is made only when asked for and only when something changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;

use gatehouse_gateway::model::HostPattern;

use super::graph::Node;
use crate::diagnostics::Diagnostic;

/// Who found something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A computation over the world.
    Node(Node),
    /// Merging a host.
    Host(HostPattern),
    /// The source.
    Source,
    /// The values of the ConfigMap.
    Settings,
    /// The ConfigMap itself.
    ConfigMap,
}

/// See the module.
#[derive(Default)]
pub(super) struct Findings {
    by_origin: HashMap<Origin, Vec<Diagnostic>>,
    counted: BTreeMap<Diagnostic, usize>,
    listed: Option<Arc<[Diagnostic]>>,
}

impl Findings {
    /// Replaces what somebody found; says whether that is something new.
    pub(super) fn set(&mut self, origin: Origin, list: Vec<Diagnostic>) -> bool {
        if self.of(&origin) == list {
            return false;
        }
        for diagnostic in &list {
            *self.counted.entry(diagnostic.clone()).or_default() += 1;
        }
        let old = if list.is_empty() {
            self.by_origin.remove(&origin)
        } else {
            self.by_origin.insert(origin, list)
        };
        for diagnostic in old.iter().flatten() {
            if let Some(count) = self.counted.get_mut(diagnostic) {
                *count -= 1;
                if *count == 0 {
                    self.counted.remove(diagnostic);
                }
            }
        }
        self.listed = None;
        true
    }

    /// What somebody found.
    pub(super) fn of(&self, origin: &Origin) -> &[Diagnostic] {
        self.by_origin
            .get(origin)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Everything, sorted, each once.
    pub(super) fn list(&mut self) -> Arc<[Diagnostic]> {
        let counted = &self.counted;
        let list = self
            .listed
            .get_or_insert_with(|| counted.keys().cloned().collect());
        Arc::clone(list)
    }
}
