//! One worker: a thread with a runtime of its own, its listeners, its connections, its pools.
//!
//! Invariants: nothing of a worker is shared with another one but what is behind an `Arc`;
//! nothing here is `Send`. A panic in a request ends that connection's task and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::active::ActiveSet;
use super::connection::{self, Accepted, Connection};
use super::handshake::Handshakes;
use super::{Order, Shared};
use crate::access_log::WorkerLog;
use crate::challenge::Challenges;
use crate::metrics::Metrics;
use crate::model::{ListenerPlan, Settings};
use crate::table::Snapshot;
use crate::upstream::Upstream;

/// What the requests of one thread share.
pub(super) struct Worker {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Access log.
    pub log: Rc<WorkerLog>,
    /// Connections to endpoints.
    pub upstream: Rc<Upstream>,
    /// Answers under way.
    pub active: Rc<ActiveSet>,
    /// What certificate authorities are answered.
    pub challenges: Challenges,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    random: Cell<u64>,
    leaving: Cell<bool>,
    parting: Cell<bool>,
    draining: Cell<bool>,
    connections: RefCell<HashMap<u64, Weak<Connection>>>,
    http2: RefCell<HashMap<u64, Weak<Connection>>>,
    next_id: Cell<u64>,
    per_client: RefCell<HashMap<IpAddr, usize>>,
    total: Arc<AtomicUsize>,
    capacity: usize,
    tasks: RefCell<JoinSet<()>>,
}

impl Worker {
    /// The settings of the current snapshot.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.with_snapshot(|snapshot| Arc::clone(&snapshot.settings))
    }

    /// Reads the current snapshot. What is needed longer is cloned out of it.
    pub(super) fn with_snapshot<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(self.snapshot.borrow_mut().load())
    }

    /// The next pseudo-random number (wyrand): for balancing and request ids, not for secrets.
    pub(super) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0xa076_1d64_78bd_642f);
        self.random.set(state);
        let wide = u128::from(state) * u128::from(state ^ 0xe703_7ed1_a0b4_28db);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "folding both halves is the point"
        )]
        let folded = (wide as u64) ^ ((wide >> 64) as u64);
        folded
    }

    /// Whether the process ends soon, so that balancers had better look for another.
    pub(super) fn leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether connections are to end after their next answer.
    pub(super) fn parting(&self) -> bool {
        self.parting.get()
    }

    /// Whether connections are to end, and nobody is accepted any more.
    pub(super) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Runs a task on this worker until it ends or the drain deadline passes.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().spawn_local(task);
    }

    /// Counts a connection until the entry is dropped.
    pub(super) fn enter(self: &Rc<Self>, connection: &Rc<Connection>, http2: bool) -> Entry {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.connections
            .borrow_mut()
            .insert(id, Rc::downgrade(connection));
        if http2 {
            self.http2
                .borrow_mut()
                .insert(id, Rc::downgrade(connection));
        }
        if self.draining() {
            connection.control.drain();
        }
        Entry {
            worker: Rc::clone(self),
            id,
        }
    }

    /// Takes a place for a connection from this address, if there is one.
    fn admit(self: &Rc<Self>, address: IpAddr) -> Option<Place> {
        let limits = self.with_snapshot(|snapshot| snapshot.settings.limits.clone());
        let most = limits.connections.min(self.capacity);
        if self.total.fetch_add(1, Ordering::Relaxed) >= most {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut per_client = self.per_client.borrow_mut();
        let count = per_client.entry(address).or_default();
        if *count >= limits.connections_per_client {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        drop(per_client);
        self.metrics.plain.connections_active.inc();
        Some(Place {
            worker: Rc::clone(self),
            address,
        })
    }

    /// Looks after what has no clock of its own: answers that stand still, idle HTTP/2
    /// connections, idle and orphaned upstream connections.
    fn sweep(&self) {
        let timeouts = self.settings().timeouts.clone();
        let stalled = self.active.sweep(timeouts.response_write);
        self.metrics
            .plain
            .connections_aborted
            .inc_by(stalled as u64);
        for connection in self.http2.borrow().values().filter_map(Weak::upgrade) {
            // Not all in one moment, or all of them come back in one.
            if self.parting() && self.random().is_multiple_of(PARTING_AT_ONCE) {
                connection.control.drain();
            }
            let Some(idle) = connection.idle_for() else {
                continue;
            };
            let limit = if self.draining() {
                Duration::ZERO
            } else if connection.fresh() {
                // A preface is no request, and neither is a part of a header block.
                timeouts.first_byte
            } else {
                timeouts.http2_idle
            };
            if idle >= limit {
                connection.control.drain();
            }
            if idle >= limit + GOAWAY_GRACE {
                // A client that does not acknowledge the GOAWAY would keep the connection forever.
                connection.control.abort();
            }
        }
        self.upstream.sweep();
        while self.tasks.borrow_mut().try_join_next().is_some() {}
    }

    /// Connections and tunnels that are open.
    fn places(&self) -> usize {
        self.per_client.borrow().values().sum()
    }

    fn drain_connections(&self) {
        self.leaving.set(true);
        self.parting.set(true);
        self.draining.set(true);
        for connection in self.connections.borrow().values().filter_map(Weak::upgrade) {
            connection.control.drain();
        }
    }
}

/// A connection that the worker knows of.
pub(super) struct Entry {
    worker: Rc<Worker>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.http2.borrow_mut().remove(&self.id);
    }
}

/// A place among the connections that are allowed. A connection holds it to its end, and so does
/// the tunnel that it may become.
pub(super) struct Place {
    worker: Rc<Worker>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.total.fetch_sub(1, Ordering::Relaxed);
        self.worker.metrics.plain.connections_active.dec();
        let mut per_client = self.worker.per_client.borrow_mut();
        if let Some(count) = per_client.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_client.remove(&self.address);
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.address).finish()
    }
}

/// Spawns futures of HTTP/2 streams on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(spawn_local(future));
    }
}

/// What a worker thread is started with.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) listeners: Vec<(
        std::net::TcpListener,
        Arc<ListenerPlan>,
        Option<Arc<Handshakes>>,
    )>,
    pub(super) shared: Arc<Shared>,
}

/// The life of a worker; returns what was cut off at the drain deadline.
pub(super) async fn run(start: Start) -> usize {
    let shared = start.shared;
    let seed =
        std::hash::BuildHasher::hash_one(&foldhash::fast::RandomState::default(), start.index);
    let worker = Rc::new(Worker {
        metrics: Arc::clone(&shared.metrics),
        log: shared.access_log.worker(Arc::clone(&shared.metrics)),
        upstream: Upstream::new(Arc::clone(&shared.metrics)),
        active: Rc::default(),
        challenges: shared.published.challenges().clone(),
        snapshot: RefCell::new(shared.published.cache()),
        random: Cell::new(seed),
        leaving: Cell::new(false),
        parting: Cell::new(false),
        draining: Cell::new(false),
        connections: RefCell::default(),
        http2: RefCell::default(),
        next_id: Cell::new(0),
        per_client: RefCell::default(),
        total: Arc::clone(&shared.connections),
        capacity: shared.capacity,
        tasks: RefCell::default(),
    });
    let mut accepting = JoinSet::new();
    for (socket, plan, tls) in start.listeners {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                let stop = shared.orders.subscribe();
                accepting.spawn_local(accept(Rc::clone(&worker), listener, plan, tls, stop));
            }
            Err(error) => tracing::error!(%error, listener = %plan.name, "cannot listen"),
        }
    }
    let mut background = JoinSet::new();
    background.spawn_local(follow(Rc::clone(&worker), Arc::clone(&shared), start.index));
    background.spawn_local(sweeping(Rc::clone(&worker)));

    let mut orders = shared.orders.subscribe();
    let deadline = loop {
        match *orders.borrow_and_update() {
            Order::Serve => {}
            Order::Leave => worker.leaving.set(true),
            // Whoever was busy may not have seen the order to leave.
            Order::Part => {
                worker.leaving.set(true);
                worker.parting.set(true);
            }
            Order::Drain(deadline) => break Some(deadline),
        }
        if orders.changed().await.is_err() {
            break None;
        }
    };
    worker.drain_connections();
    // Closing a listening socket resets what waits in its queue: that is accepted first.
    let closed = async { while accepting.join_next().await.is_some() {} };
    let _ = timeout(LAST_ACCEPTS, closed).await;
    accepting.shutdown().await;
    if let Some(deadline) = deadline {
        // Past the deadline whatever is left is cut off.
        let _ = timeout_at(deadline, emptied(&worker)).await;
    }
    worker.log.flush();
    let left = worker.places();
    drop(background);
    left
}

fn open_tunnels(worker: &Worker) -> usize {
    let mut tasks = worker.tasks.borrow_mut();
    while tasks.try_join_next().is_some() {}
    tasks.len()
}

/// Waits for everything that was begun, and a moment for connections that have said nothing yet.
async fn emptied(worker: &Rc<Worker>) {
    let silent_until = Instant::now() + LAST_ACCEPTS;
    loop {
        let begun = !worker.connections.borrow().is_empty() || open_tunnels(worker) > 0;
        let patient = Instant::now() < silent_until;
        let silent = patient && worker.places() > 0;
        if !begun && !silent {
            return;
        }
        if !patient {
            let connections = worker.connections.borrow();
            let known = connections.values().filter_map(Weak::upgrade);
            known
                .filter(|known| known.fresh())
                .for_each(|fresh| fresh.control.abort());
        }
        sleep(DRAIN_POLL).await;
    }
}

/// Takes over each new generation, so that an idle worker pins no old one, and reports it served.
async fn follow(worker: Rc<Worker>, shared: Arc<Shared>, index: usize) {
    let mut generations = shared.published.subscribe();
    loop {
        generations.borrow_and_update();
        let generation = worker.with_snapshot(|snapshot| snapshot.generation);
        shared.served(index, generation);
        if generations.changed().await.is_err() {
            return;
        }
    }
}

async fn sweeping(worker: Rc<Worker>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.sweep();
    }
}

async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    plan: Arc<ListenerPlan>,
    tls: Option<Arc<Handshakes>>,
    mut orders: watch::Receiver<Order>,
) {
    let mut stop = pin!(orders.wait_for(|order| matches!(order, Order::Drain(_))));
    let mut told: Option<Instant> = None;
    let Ok(bound) = listener.local_addr() else {
        return;
    };
    let door = Door {
        worker,
        plan,
        tls,
        bound,
    };
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut stop => break,
            next = listener.accept() => next,
        };
        match next {
            Ok((stream, peer)) => door.admit(stream, peer),
            Err(error) => {
                door.worker.metrics.plain.accept_errors.inc();
                // A client that left before it was accepted costs nothing; anything else, such as
                // running out of descriptors, gets better by waiting only.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted) {
                    if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, listener = %door.plan.name, "cannot accept, waiting");
                    }
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
    door.close(listener);
}

/// Where connections come in: what the accepted ones of one listener share.
struct Door {
    worker: Rc<Worker>,
    plan: Arc<ListenerPlan>,
    tls: Option<Arc<Handshakes>>,
    bound: SocketAddr,
}

impl Door {
    /// Serves a connection if there is a place for it.
    fn admit(&self, stream: TcpStream, mut peer: SocketAddr) {
        let worker = &self.worker;
        // A socket for both families shows IPv4 clients as mapped addresses.
        peer.set_ip(peer.ip().to_canonical());
        let Some(place) = worker.admit(peer.ip()) else {
            worker.metrics.plain.connections_refused.inc();
            return;
        };
        worker.metrics.plain.connections_accepted.inc();
        let accepted = Accepted {
            local: stream.local_addr().unwrap_or(self.bound),
            stream,
            peer,
            listener: Arc::clone(&self.plan),
            tls: self.tls.clone(),
            place,
        };
        drop(spawn_local(connection::serve(Rc::clone(worker), accepted)));
    }

    /// Closes the listener, after everybody who waits in its queue: the system resets them
    /// otherwise. The runtime would not do: it knows of those only that came before its last look,
    /// and has a task pause now and then.
    fn close(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        // A flood of new connections must not hold up a drain.
        for _ in 0..LAST_ACCEPTS_MOST {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let usable = stream.set_nonblocking(true);
                    if let Ok(stream) = usable.and_then(|()| TcpStream::from_std(stream)) {
                        self.admit(stream, peer);
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                // Nobody waits any more.
                Err(_) => return,
            }
        }
    }
}

/// Subscribers outside the worker threads see orders through this channel.
pub(super) type Orders = watch::Sender<Order>;

const SWEEP: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(20);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How often a failure to accept is told.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// Of the HTTP/2 connections, one in so many is told to end at each sweep while parting.
const PARTING_AT_ONCE: u64 = 3;
/// For a client to acknowledge a GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);
/// For connections that were opened in the last moment before a drain.
const LAST_ACCEPTS: Duration = Duration::from_secs(1);
/// Their number on one socket.
const LAST_ACCEPTS_MOST: usize = 4096;
