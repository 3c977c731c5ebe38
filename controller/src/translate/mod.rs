//! Objects to plans: pure functions, nothing else.
//!
//! [`translate`] turns one Ingress into a [`Fragment`]; [`merge`] makes of all fragments of one
//! host the plan of that host; [`backend`] makes of a service port the plan of a cluster.
//!
//! Invariants:
//! - No clock, no I/O, no logging; inputs are never modified; output is sorted, so equal worlds
//!   give equal plans.
//! - The world is read through [`Lookup`] only.
//! - [`Age`] is the one order of precedence.
//! - A security-relevant failure becomes a refusal, never "no policy". A broken part of an object
//!   is left out alone, with a diagnostic that says so.

pub mod address;
pub mod backend;
pub mod class;
pub mod endpoints;
pub mod form;
pub mod host;
pub mod ingress;
pub mod merge;
pub mod path;
pub mod tls;

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use gatehouse_gateway::model::{
    ClusterKey, HostPattern, HostTls, ObjectRef, PathMatch, RefuseReason,
};

use self::address::AddressFragment;
use crate::source::ObjectKey;
#[cfg(doc)]
use crate::world::Lookup;

pub use ingress::translate;

/// How old an object is; the smaller owns what several objects claim.
///
/// ingress-nginx: by `creationTimestamp`, then by `namespace/name` in *descending* order. The text
/// is compared as a whole (`a-b/x` before `a/x`), as there. An object that states no time has not
/// been created yet, so it is younger than all that do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Age {
    created: Timestamp,
    name: Reverse<Arc<str>>,
}

impl Age {
    /// The age of an object.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        Self {
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::MAX, |time| time.0),
            name: Reverse(format!("{namespace}/{name}").into()),
        }
    }

    /// Why this one goes before the other; continues the name of its object.
    pub fn lead_over(&self, other: &Self) -> &'static str {
        if self.created < other.created {
            "is older"
        } else {
            "is as old and has the greater name"
        }
    }
}

/// What one object contributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// The object is ours to serve, even if nothing of it can be.
    pub ours: bool,
    /// One entry per host, sorted by host.
    pub hosts: Vec<Arc<HostFragment>>,
    /// One entry per address that its certificates hold, sorted by address.
    pub addresses: Vec<Arc<AddressFragment>>,
}

impl Fragment {
    /// Every cluster that a route of the fragment points to; with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterRef> {
        self.hosts
            .iter()
            .flat_map(|host| host.routes.iter().chain(host.fallback.as_deref()))
            .filter_map(|route| match &route.target {
                Target::Cluster(cluster) => Some(cluster),
                Target::Default | Target::Refuse(_) => None,
            })
    }
}

/// What one object contributes to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFragment {
    /// The host.
    pub host: HostPattern,
    /// The object.
    pub origin: ObjectRef,
    /// Its age.
    pub age: Age,
    /// Where the object names the host first.
    pub field: Arc<str>,
    /// The routes, as the object lists them; paths may repeat.
    pub routes: Vec<RouteFragment>,
    /// What answers paths that no route has (`spec.defaultBackend`).
    pub fallback: Option<Box<RouteFragment>>,
    /// The object has a default backend and no rules: its fallback takes `/` of the catch-all host
    /// even from an explicit rule (ingress-nginx).
    pub owns_root: bool,
    /// How far the object closes the door.
    pub closed: Closed,
    /// Certificate, when the object has a tls section.
    pub tls: Option<HostTls>,
}

/// How far an object closes the door, because it restricts access in a way that cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// It does not.
    No,
    /// Its own routes refuse, and so does the implicit `/` when it is the oldest of the host.
    Own,
    /// The same, and everything that other objects of its namespace have on the host.
    Host,
}

/// One route of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFragment {
    /// The path.
    pub path: PathMatch,
    /// Where it stands.
    pub field: Arc<str>,
    /// Where it leads.
    pub target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a cluster.
    Cluster(ClusterRef),
    /// To whatever answers what nothing else serves.
    Default,
    /// Nowhere.
    Refuse(RefuseReason),
}

/// A service port, however the object spelled it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterRef {
    /// `namespace/service:number`.
    pub key: ClusterKey,
    /// The Service.
    pub service: ObjectKey,
    /// Number of the service port.
    pub port: u16,
}

impl ClusterRef {
    /// The cluster of a service port.
    pub fn new(service: ObjectKey, port: u16) -> Self {
        let key = format!("{}/{}:{port}", service.namespace, service.name);
        Self {
            key: ClusterKey(key.into()),
            service,
            port,
        }
    }
}

/// The reference that plans carry for an object.
pub fn object_ref(key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: key.kind.as_str().into(),
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn age(seconds: impl Into<Option<i64>>, namespace: &str, name: &str) -> Age {
        Age::of(&ObjectMeta {
            creation_timestamp: seconds
                .into()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .map(Time),
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            ..ObjectMeta::default()
        })
    }

    #[test]
    fn the_older_wins_and_of_equal_age_the_greater_name() {
        assert!(age(1, "z", "a") < age(2, "a", "a"));
        assert!(age(1, "n", "b") < age(1, "n", "a"));
        assert!(
            age(1, "a", "x") < age(1, "a-b", "x"),
            "'/' is greater than '-'"
        );
        assert!(age(None, "n", "b") < age(None, "n", "a"));
        assert!(age(2_000_000_000, "a", "a") < age(None, "z", "z"));
    }

    #[test]
    fn the_reason_for_going_first_is_the_true_one() {
        let lead = |one: Age, two: Age| one.lead_over(&two);
        assert_eq!(lead(age(1, "n", "a"), age(2, "n", "b")), "is older");
        assert_eq!(lead(age(1, "n", "b"), age(None, "n", "a")), "is older");
        for created in [Some(1), None] {
            let (one, two) = (age(created, "n", "b"), age(created, "n", "a"));
            assert_eq!(lead(one, two), "is as old and has the greater name");
        }
    }
}
