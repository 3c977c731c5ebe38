//! Compiles the plan of a host to its table.
//!
//! Invariants: pure but for resolving clusters and counters by their stable keys; never fails as
//! a whole. What cannot be carried out compiles to a refusal of that one route.

use std::sync::Arc;

use super::path::Paths;
use super::{Action, HostTable, Route, Split};
use crate::metrics::Metrics;
use crate::model::{
    ActionPlan, ClusterKey, HostPlan, ObjectRef, RefuseReason, RoutePlan, WeightedCluster,
};
use crate::policy;
use crate::upstream::Cluster;

/// Compiles one host. `cluster` resolves a key.
pub(crate) fn compile(
    plan: &HostPlan,
    cluster: impl Fn(&ClusterKey) -> Option<Arc<Cluster>>,
    metrics: &Metrics,
) -> HostTable {
    let mut labels = Labels::default();
    let routes: Box<[Arc<Route>]> = plan
        .routes
        .iter()
        .map(|plan| {
            let label = labels.of(&plan.key.origin);
            Arc::new(route(plan, &cluster, metrics, label))
        })
        .collect();
    let (paths, complete) = Paths::new(&routes);
    if !complete {
        // Not reachable by any plan we know of; the host is served all the same, only slower.
        tracing::error!(host = %plan.host, "paths do not fit the tree, the host keeps a list");
    }
    HostTable {
        pattern: plan.host.clone(),
        tls: plan.tls.clone(),
        routes,
        paths,
    }
}

fn route(
    plan: &RoutePlan,
    cluster: impl Fn(&ClusterKey) -> Option<Arc<Cluster>>,
    metrics: &Metrics,
    label: Arc<str>,
) -> Route {
    let compiled = policy::compile(&plan.policies);
    let action = if compiled.broken {
        Action::Refuse(RefuseReason::BrokenPolicy)
    } else {
        action(&plan.action, cluster)
    };
    Route {
        key: plan.key.clone(),
        field: Arc::clone(&plan.field),
        filters: compiled.filters,
        action,
        metrics: metrics.route(&plan.key),
        label,
    }
}

fn action(plan: &ActionPlan, cluster: impl Fn(&ClusterKey) -> Option<Arc<Cluster>>) -> Action {
    match plan {
        ActionPlan::NotFound => Action::NotFound,
        ActionPlan::Refuse(reason) => Action::Refuse(*reason),
        ActionPlan::Forward(shares) => shares
            .iter()
            .map(
                |WeightedCluster {
                     cluster: key,
                     weight,
                 }| Some((cluster(key)?, *weight)),
            )
            .collect::<Option<Vec<_>>>()
            .and_then(Split::new)
            .map_or(
                Action::Refuse(RefuseReason::ServiceMissing),
                Action::Forward,
            ),
    }
}

/// Objects in text form, one allocation for the routes of one object in a row.
#[derive(Default)]
struct Labels<'a>(Option<(&'a ObjectRef, Arc<str>)>);

impl<'a> Labels<'a> {
    fn of(&mut self, origin: &'a ObjectRef) -> Arc<str> {
        match &self.0 {
            Some((last, label)) if *last == origin => Arc::clone(label),
            _ => {
                let label: Arc<str> = origin.to_string().into();
                self.0 = Some((origin, Arc::clone(&label)));
                label
            }
        }
    }
}
