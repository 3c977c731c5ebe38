//! Who has read what: from a computation to its reads, and back.
//!
//! Invariant: both directions always say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use gatehouse_gateway::model::ClusterKey;

use crate::source::{Kind, ObjectKey};
use crate::world::Read;

/// A computation whose result is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Node {
    /// The fragment of an Ingress.
    Fragment(ObjectKey),
    /// The plan of a cluster.
    Cluster(ClusterKey),
    /// Which cluster the default backend is.
    DefaultBackend,
    /// Which slot the default certificate is.
    DefaultCertificate,
}

/// See the module.
#[derive(Default)]
pub(super) struct Graph {
    reads: HashMap<Node, Vec<Read>>,
    readers: HashMap<Read, Readers>,
    /// DNS names that somebody reads.
    names: BTreeSet<Arc<str>>,
    listed: Option<Arc<[Arc<str>]>>,
    /// Objects that a source sends only on demand, and that somebody reads.
    wanted: BTreeSet<ObjectKey>,
    wanted_listed: Option<Arc<[ObjectKey]>>,
}

/// Who has read something, each once.
enum Readers {
    /// At most [`FEW`]; nearly always one, for which a table would have four times the room.
    Few(Vec<Node>),
    /// More.
    Many(HashSet<Node>),
}

impl Default for Readers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Readers {
    fn insert(&mut self, node: Node) {
        match self {
            Self::Few(nodes) if nodes.contains(&node) => {}
            Self::Few(nodes) if nodes.len() < FEW => {
                nodes.reserve_exact(1);
                nodes.push(node);
            }
            Self::Few(nodes) => {
                let mut many: HashSet<Node> = nodes.drain(..).collect();
                many.insert(node);
                *self = Self::Many(many);
            }
            Self::Many(nodes) => {
                nodes.insert(node);
            }
        }
    }

    fn remove(&mut self, node: &Node) {
        match self {
            Self::Few(nodes) => nodes.retain(|other| other != node),
            Self::Many(nodes) => {
                nodes.remove(node);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(nodes) => nodes.is_empty(),
            Self::Many(nodes) => nodes.is_empty(),
        }
    }
}

impl Graph {
    /// Replaces the reads of a computation (sorted, each once). None: it is gone.
    pub(super) fn set(&mut self, node: &Node, reads: Vec<Read>) {
        let old = self.reads.remove(node).unwrap_or_default();
        if old != reads {
            for read in &old {
                if reads.binary_search(read).is_err() {
                    self.forget(read, node);
                }
            }
            for read in &reads {
                if old.binary_search(read).is_err() {
                    self.remember(read, node);
                }
            }
        }
        if !reads.is_empty() {
            self.reads.insert(node.clone(), reads);
        }
    }

    /// Who has read this.
    pub(super) fn readers(&self, read: &Read) -> impl Iterator<Item = &Node> {
        let (few, many) = match self.readers.get(read) {
            Some(Readers::Few(nodes)) => (Some(nodes), None),
            Some(Readers::Many(nodes)) => (None, Some(nodes)),
            None => (None, None),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// DNS names that somebody wants resolved.
    pub(super) fn names(&mut self) -> Arc<[Arc<str>]> {
        let names = &self.names;
        let list = self
            .listed
            .get_or_insert_with(|| names.iter().cloned().collect());
        Arc::clone(list)
    }

    /// Objects that a source sends only on demand, and that somebody reads, sorted.
    pub(super) fn wanted(&mut self) -> Arc<[ObjectKey]> {
        let wanted = &self.wanted;
        let list = self
            .wanted_listed
            .get_or_insert_with(|| wanted.iter().cloned().collect());
        Arc::clone(list)
    }

    /// Wants an object that no computation reads, for good.
    pub(super) fn pin(&mut self, key: ObjectKey) {
        self.wanted.insert(key);
        self.wanted_listed = None;
    }

    /// Whether one of the two lists has changed since it was last asked for.
    pub(super) fn has_news(&self) -> bool {
        self.listed.is_none() || self.wanted_listed.is_none()
    }

    /// All reads, for comparison.
    pub(super) fn reads(&self) -> BTreeMap<String, Vec<Read>> {
        self.reads
            .iter()
            .map(|(node, reads)| (format!("{node:?}"), reads.clone()))
            .collect()
    }

    fn remember(&mut self, read: &Read, node: &Node) {
        self.readers
            .entry(read.clone())
            .or_default()
            .insert(node.clone());
        match read {
            Read::Resolved(name) if self.names.insert(Arc::clone(name)) => self.listed = None,
            Read::Object(key) if on_demand(key.kind) && self.wanted.insert(key.clone()) => {
                self.wanted_listed = None;
            }
            _ => {}
        }
    }

    fn forget(&mut self, read: &Read, node: &Node) {
        let Some(readers) = self.readers.get_mut(read) else {
            return;
        };
        readers.remove(node);
        if readers.is_empty() {
            self.readers.remove(read);
            match read {
                Read::Resolved(name) => {
                    self.names.remove(name);
                    self.listed = None;
                }
                Read::Object(key) if on_demand(key.kind) => {
                    self.wanted.remove(key);
                    self.wanted_listed = None;
                }
                _ => {}
            }
        }
    }
}

/// Readers that are looked through one by one.
const FEW: usize = 8;

/// Kinds of which a source need not send more than what is asked for.
fn on_demand(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::Endpoints)
}
