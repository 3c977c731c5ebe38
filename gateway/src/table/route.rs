//! A compiled route and its last step.
//!
//! Invariants: a request holds one `Arc<Route>` and nothing else of the snapshot; a split is never
//! empty and its choice is a pure function of the random number it is given.

use std::fmt;
use std::sync::Arc;

use crate::metrics::RouteMetrics;
use crate::model::{RefuseReason, RouteKey};
use crate::policy::Filter;
use crate::upstream::Cluster;

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    /// Identity.
    pub key: RouteKey,
    /// Where in its object it stands.
    pub field: Arc<str>,
    /// Filters in the order of their stages.
    pub filters: Box<[Filter]>,
    /// What happens when no filter answered.
    pub action: Action,
    /// Its counters, which outlive the snapshot.
    pub metrics: Arc<RouteMetrics>,
    /// The object it came from, as `Ingress/namespace/name`.
    pub label: Arc<str>,
}

impl Route {
    /// The path that this route redirects to itself with a final slash.
    pub(super) fn slash(&self) -> Option<&Arc<str>> {
        self.filters.iter().find_map(|filter| match filter {
            Filter::TrailingSlash(slash) => Some(slash.path()),
            Filter::HealthCheck(_) | Filter::HttpsRedirect(_) | Filter::Hsts(_) => None,
        })
    }
}

/// Last step of a route.
#[derive(Debug)]
pub enum Action {
    /// Forward to one of the clusters.
    Forward(Split),
    /// 404.
    NotFound,
    /// The configuration must not be served.
    Refuse(RefuseReason),
}

/// Clusters with their shares.
#[derive(Debug)]
pub struct Split {
    first: Share,
    others: Box<[Share]>,
    total: u64,
}

struct Share {
    cluster: Arc<Cluster>,
    weight: u32,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cluster.key, self.weight)
    }
}

impl Split {
    /// A split, or nothing when there is no cluster to choose.
    pub fn new(shares: impl IntoIterator<Item = (Arc<Cluster>, u32)>) -> Option<Self> {
        let mut shares = shares
            .into_iter()
            .map(|(cluster, weight)| Share { cluster, weight });
        let first = shares.next()?;
        let others: Box<[Share]> = shares.collect();
        let total = others.iter().fold(u64::from(first.weight), |sum, share| {
            sum + u64::from(share.weight)
        });
        Some(Self {
            first,
            others,
            total,
        })
    }

    /// The cluster for one request, given a number that is random over the whole range. When all
    /// shares are zero the first cluster takes everything.
    pub fn choose(&self, random: u64) -> &Arc<Cluster> {
        if self.others.is_empty() {
            return &self.first.cluster;
        }
        // Maps the range to 0..total without the bias and the cost of a remainder.
        let scaled = (u128::from(random) * u128::from(self.total)) >> u64::BITS;
        let mut point = u64::try_from(scaled).unwrap_or(0);
        for share in self.shares() {
            let weight = u64::from(share.weight);
            if point < weight {
                return &share.cluster;
            }
            point -= weight;
        }
        &self.first.cluster
    }

    /// All clusters with their shares.
    pub fn clusters(&self) -> impl Iterator<Item = (&Arc<Cluster>, u32)> {
        self.shares().map(|share| (&share.cluster, share.weight))
    }

    fn shares(&self) -> impl Iterator<Item = &Share> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Affinity, Balance, ClusterKey, ClusterPlan, UpstreamProtocol};

    fn cluster(name: &str) -> Arc<Cluster> {
        Arc::new(Cluster::new(Arc::new(ClusterPlan {
            key: ClusterKey(name.into()),
            protocol: UpstreamProtocol::Http1,
            balance: Balance::RoundRobin,
            affinity: Affinity::None,
            endpoints: Vec::new(),
        })))
    }

    fn counts(weights: &[u32]) -> Vec<usize> {
        let clusters: Vec<_> = (0..weights.len())
            .map(|n| cluster(&n.to_string()))
            .collect();
        let split = Split::new(clusters.iter().cloned().zip(weights.iter().copied())).unwrap();
        let mut counts = vec![0; weights.len()];
        for step in 0..1000 {
            let chosen = split.choose(u64::MAX / 1000 * step);
            let index = clusters
                .iter()
                .position(|cluster| Arc::ptr_eq(cluster, chosen))
                .unwrap();
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_kept_over_the_whole_range() {
        assert_eq!(counts(&[1]), [1000]);
        assert_eq!(counts(&[0, 7]), [0, 1000]);
        assert_eq!(counts(&[0, 0]), [1000, 0]);
        let [a, b, c] = counts(&[1, 0, 3])[..] else {
            panic!("three counts")
        };
        assert!(a.abs_diff(250) <= 1 && b == 0 && c.abs_diff(750) <= 1);
        assert!(Split::new([]).is_none());
    }

    #[test]
    fn both_ends_of_the_range_choose_a_cluster_with_a_share() {
        let (first, last) = (cluster("first"), cluster("last"));
        let split = Split::new([
            (Arc::clone(&first), u32::MAX),
            (Arc::clone(&last), u32::MAX),
        ])
        .unwrap();
        assert!(Arc::ptr_eq(split.choose(0), &first));
        assert!(Arc::ptr_eq(split.choose(u64::MAX), &last));
    }
}
