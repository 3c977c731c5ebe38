//! The gateway itself: listeners, worker threads, and their common end.
//!
//! Every worker is a thread with a runtime of its own and a listening socket of its own per
//! address (`SO_REUSEPORT`), so the kernel spreads connections and no request crosses threads.
//! Invariant: every address is bound before [`Gateway::start`] returns, or none is.

mod active;
mod authority;
pub mod body;
mod connection;
mod control;
mod descriptors;
mod dispatch;
mod forwarded;
mod frame_watch;
mod handshake;
mod head_scan;
mod headers;
mod prefixed;
mod proxy_protocol;
mod record;
mod survey;
mod tap;
mod target;
mod upgrade;
pub mod wire;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::metrics::Metrics;
use crate::model::{ListenerPlan, ListenerProtocol};
use crate::publish::Published;

use self::handshake::Handshakes;

/// What a gateway is started with.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Sockets to listen on.
    pub listeners: Vec<ListenerPlan>,
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Where requests are logged.
    pub access_log: AccessLog,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} for {listener}: {error}; {remedy}")]
    Bind {
        /// Listener name.
        listener: Arc<str>,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// What workers are told.
#[derive(Debug, Clone, Copy)]
enum Order {
    Serve,
    /// Serve, and say to balancers that ask that this ends.
    Leave,
    /// The same, and ask clients to come back on another connection.
    Part,
    /// Finish by this moment.
    Drain(Instant),
}

/// What the workers and the handle share.
struct Shared {
    published: Published,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    connections: Arc<AtomicUsize>,
    /// Most client connections that the descriptors of this process allow.
    capacity: usize,
    orders: worker::Orders,
    generations: Vec<AtomicU64>,
    served: watch::Sender<u64>,
}

impl Shared {
    /// A worker serves this generation now.
    fn served(&self, worker: usize, generation: u64) {
        if let Some(slot) = self.generations.get(worker) {
            slot.store(generation, Ordering::Release);
        }
        // Looked at under the lock: of two workers the later one here sees what both have stored,
        // and nobody overwrites that with an older look.
        self.served.send_if_modified(|served| {
            let slots = self.generations.iter();
            let all = slots.map(|slot| slot.load(Ordering::Acquire)).min();
            let known = std::mem::replace(served, all.unwrap_or(0));
            *served != known
        });
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Connections and tunnels that were cut off at the deadline.
    pub cut_off: usize,
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    threads: Vec<JoinHandle<usize>>,
}

impl Gateway {
    /// Binds all listeners and starts the workers.
    pub fn start(
        config: GatewayConfig,
        published: Published,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let workers = config.workers.max(1);
        let mut addresses = Vec::new();
        let mut bound = Vec::new();
        for plan in config.listeners {
            let (sockets, address) = bind_all(&plan, workers)?;
            addresses.push((Arc::clone(&plan.name), address));
            let acceptor = match plan.protocol {
                ListenerProtocol::Http => None,
                ListenerProtocol::Https => {
                    Some(Arc::new(Handshakes::new(&published, plan.server)?))
                }
            };
            bound.push((sockets.into_iter(), Arc::new(plan), acceptor));
        }
        let shared = Arc::new(Shared {
            published,
            metrics,
            access_log: config.access_log,
            connections: Arc::default(),
            capacity: descriptors::claim(workers),
            orders: watch::Sender::new(Order::Serve),
            generations: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            served: watch::Sender::new(0),
        });
        let mut threads = Vec::with_capacity(workers);
        for index in 0..workers {
            let listeners = bound
                .iter_mut()
                .filter_map(|(sockets, plan, tls)| {
                    Some((sockets.next()?, Arc::clone(plan), tls.clone()))
                })
                .collect();
            let start = worker::Start {
                index,
                listeners,
                shared: Arc::clone(&shared),
            };
            threads.push(spawn(start).map_err(StartError::Thread)?);
        }
        Ok(Self {
            shared,
            addresses,
            threads,
        })
    }

    /// Listener names and the addresses they are really bound to.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// The oldest generation that any worker still serves.
    pub fn served_generation(&self) -> u64 {
        *self.shared.served.borrow()
    }

    /// Tells when [`Self::served_generation`] changes.
    pub fn served(&self) -> watch::Receiver<u64> {
        self.shared.served.subscribe()
    }

    /// Whether every worker thread is alive.
    pub fn alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Goes on serving for a while, as balancers take time to notice: their health checks fail at
    /// once, and in the second half connections end with their next answer, so that hardly one is
    /// left to be closed when nobody may come back to this process. Then stops accepting and waits
    /// for requests and tunnels until `deadline` has passed.
    pub async fn drain(self, serve_for: Duration, deadline: Duration) -> DrainOutcome {
        let orders = &self.shared.orders;
        for order in [Order::Leave, Order::Part] {
            orders.send_replace(order);
            tokio::time::sleep(serve_for / 2).await;
        }
        orders.send_replace(Order::Drain(Instant::now() + deadline));
        let ended = tokio::task::spawn_blocking(move || {
            self.threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .sum()
        });
        DrainOutcome {
            cut_off: ended.await.unwrap_or(0),
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

fn spawn(start: worker::Start) -> io::Result<JoinHandle<usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("worker-{}", start.index))
        .spawn(move || LocalSet::new().block_on(&runtime, worker::run(start)))
}

/// One socket per worker on the same address. A port of 0 is chosen by the first.
fn bind_all(
    plan: &ListenerPlan,
    workers: usize,
) -> Result<(Vec<std::net::TcpListener>, SocketAddr), StartError> {
    let mut address = plan.address;
    let failed = |error: io::Error| StartError::Bind {
        listener: Arc::clone(&plan.name),
        address: plan.address,
        remedy: remedy(&error),
        error,
    };
    if address.port() != 0 {
        // SO_REUSEPORT would let a second gateway share the port in silence: ask once without it.
        drop(socket(address, false).map_err(failed)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bind(address).map_err(failed)?;
        address = socket.local_addr().unwrap_or(address);
        sockets.push(socket);
    }
    Ok((sockets, address))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, true)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it: stop that one, or choose another port",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the NET_BIND_SERVICE capability: choose a higher port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "the address is not on this machine: use one that `ip address` shows, or 0.0.0.0"
        }
        _ => "choose another address",
    }
}

const BACKLOG: i32 = 4096;
