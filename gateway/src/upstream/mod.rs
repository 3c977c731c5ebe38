//! Everything between a routed request and the endpoint that answers it.
//!
//! [`Cluster`] and [`Endpoint`] are shared by all workers and outlive every swap of the table;
//! [`Upstream`] is one worker's side of it: the pools of connections, the round robin turns and
//! the generator. A request goes through [`Upstream::forward`]: choose an endpoint (`balance`),
//! take a connection (`pool`, `connect`), exchange (`http1`), and hand on the answer (`body`).
//!
//! Invariants: nothing here is shared between workers but the clusters, and those by atomics
//! only; nothing holds a borrow across an await; whatever can grow has a bound.
//!
//! Must run inside a `LocalSet` or local runtime: dials and HTTP/2 connections are local tasks.

mod balance;
mod body;
mod cluster;
mod connect;
mod forward;
mod http1;
mod meter;
mod patience;
mod pool;
mod spare;
mod verify;

pub use body::UpstreamBody;
pub use cluster::{Cluster, Endpoint};
pub use forward::{Answer, Attempts, ForwardRequest};

use std::cell::RefCell;
use std::fmt;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use tokio::time::Instant;

use balance::Random;
use connect::Connector;
use pool::{Pool, PoolKey};

use crate::metrics::Metrics;
use crate::model::{Settings, UpstreamProtocol};

/// One worker's side of all clusters.
pub struct Upstream {
    metrics: Arc<Metrics>,
    connector: Connector,
    random: Random,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    turns: RefCell<HashMap<u64, u32>>,
}

impl Upstream {
    /// Nothing is connected yet.
    pub fn new(metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            metrics,
            connector: Connector::new(),
            random: Random::seeded(RandomState::default().hash_one(Instant::now())),
            pools: RefCell::default(),
            turns: RefCell::default(),
        })
    }

    /// Drops connections that have been idle for too long, were closed by the endpoint, or lead
    /// to one that is gone. To be called about once a second; pools of endpoints that are gone
    /// close by themselves as well.
    pub fn sweep(&self) {
        let now = Instant::now();
        let pools: Vec<Rc<Pool>> = self.pools.borrow().values().map(Rc::clone).collect();
        for pool in &pools {
            pool.sweep(now);
        }
        drop(pools);
        self.pools.borrow_mut().retain(|_, pool| !pool.is_unused());
    }

    /// The pool for an endpoint and a protocol.
    fn pool(
        &self,
        endpoint: &Arc<Endpoint>,
        protocol: UpstreamProtocol,
        settings: &Arc<Settings>,
    ) -> Rc<Pool> {
        let key = PoolKey {
            endpoint: endpoint.id,
            protocol,
        };
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Pool::new(
                protocol,
                Arc::clone(endpoint),
                self.connector.clone(),
                Arc::clone(settings),
                Arc::clone(&self.metrics),
            )
        });
        Rc::clone(pool)
    }

    /// The next round robin position of a cluster, from a random start.
    fn turn(&self, cluster: u64) -> u32 {
        let mut turns = self.turns.borrow_mut();
        if turns.len() >= MAX_TURNS {
            // Clusters that are gone leave their entry behind; starting over is harmless.
            turns.clear();
        }
        let turn = turns.entry(cluster).or_insert_with(|| {
            #[expect(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
            let start = self.random.next() as u32;
            start
        });
        *turn = turn.wrapping_add(1);
        *turn
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for pool in self.pools.borrow().values() {
            pool.close();
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("pools", &self.pools.borrow().len())
            .finish_non_exhaustive()
    }
}

const MAX_TURNS: usize = 65_536;
