//! Where people and programs see how certificates stand: the admin server and the metrics.

use std::sync::Arc;

use gatehouse_acme::ca::{self, Connect};
use gatehouse_acme::keeper::Keeper;
use gatehouse_gateway::metrics::Metrics;
use tokio::sync::watch;

use super::counter::Counter;
use super::metrics::{Board, Tally};
use crate::engine::Report;

/// Both of them, and what is counted for them.
#[derive(Debug, Clone)]
pub struct Front {
    counter: Counter,
    metrics: Arc<Metrics>,
    tally: Tally,
}

impl Front {
    /// Nothing to see yet.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            counter: Counter::default(),
            metrics: Arc::clone(metrics),
            tally: Tally::default(),
        }
    }

    /// Where the admin server asks.
    pub fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// Conversations with authorities, each request of which is counted.
    pub fn connect(&self) -> Arc<Connect> {
        let tally = self.tally.clone();
        Arc::new(move |endpoint| ca::connect(endpoint, tally.observer(endpoint)))
    }

    /// From now on this keeper is seen.
    pub fn show(&self, keeper: &Keeper, engine: &watch::Receiver<Arc<Report>>) {
        let asker = keeper.asker();
        self.counter.open(asker.clone(), engine.clone());
        let counting = self.tally.clone();
        tokio::spawn(counting.follow(keeper.events(), keeper.reports.clone()));
        let tally = self.tally.clone();
        self.metrics.register(Box::new(Board { tally, asker }));
    }
}
