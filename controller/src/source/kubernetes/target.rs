//! What one watch is about.

use std::fmt;
use std::sync::Arc;

use super::super::Kind;
use super::resource;

/// A kind, in one namespace or in all, of one name or of all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) name: Option<Arc<str>>,
}

impl Target {
    /// Everything of a kind.
    pub(super) fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            name: None,
        }
    }

    /// Everything of a kind in a namespace.
    pub(super) fn within(kind: Kind, namespace: &Arc<str>) -> Self {
        Self {
            kind,
            namespace: Some(Arc::clone(namespace)),
            name: None,
        }
    }

    /// One object.
    pub(super) fn one(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> Self {
        Self {
            name: Some(Arc::clone(name)),
            ..Self::within(kind, namespace)
        }
    }

    /// The path of the collection.
    pub(super) fn path(&self) -> Option<String> {
        Some(resource::reading(self.kind)?.path(self.namespace.as_deref()))
    }

    /// Which objects of the collection. Of Secrets without a name only key pairs: whatever else
    /// lies in a namespace is not asked for.
    pub(super) fn fields(&self) -> Option<String> {
        match (self.kind, &self.name) {
            (_, Some(name)) => Some(format!("metadata.name={name}")),
            (Kind::Secret, None) => Some("type=kubernetes.io/tls".to_owned()),
            _ => None,
        }
    }

    /// Objects of a page: few where they may be large.
    pub(super) fn page(&self) -> u32 {
        match self.kind {
            Kind::Secret | Kind::ConfigMap => 100,
            _ => 500,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match resource::reading(self.kind) {
            Some(grant) => f.write_str(&grant.name())?,
            None => f.write_str(self.kind.as_str())?,
        }
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}"),
            (Some(namespace), None) => write!(f, " in {namespace}"),
            (None, _) => Ok(()),
        }
    }
}
