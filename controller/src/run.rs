//! `gatehouse run`: puts the parts together, in this order: listeners bound, engine, first
//! complete snapshot, served by every worker, ready. And takes them apart again.
//!
//! Invariants: sources, engine and resolver share one runtime of their own and meet the workers
//! only through published snapshots; a part that dies stops changes, never traffic.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use gatehouse_gateway::access_log::{AccessLog, Format};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{ListenerPlan, ListenerProtocol, ServerId};
use gatehouse_gateway::publish::{Published, Publisher};
use gatehouse_gateway::server::{Gateway, GatewayConfig, StartError};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Readiness};
use crate::certificates::{Ends, Front, Orders, Place};
use crate::config::flags::{AccessLogFormat, RunArgs};
use crate::config::{ClassReading, Replica};
use crate::engine::{self, Engine, Report};
use crate::findings::Findings;
use crate::leader::Clients;
use crate::signals::Signals;
use crate::simulate::ListenerView;
use crate::source::kubernetes::access::{Access, Origin};
use crate::source::kubernetes::contact::Contacts;
use crate::source::kubernetes::{self, Scope};
use crate::source::{Change, directory};
use crate::status::{self, Writers};
use crate::{resolver, terminal};

/// Why the gateway cannot start, as a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments cannot be used: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// The system refuses something: exit status 1.
    #[error("{0}")]
    System(String),
}

impl Failure {
    /// The exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::System(_) => ExitCode::FAILURE,
        }
    }

    /// Writes what a command has to say, to the end. A pipe that is closed (`| head`) is no
    /// failure: whoever reads has enough.
    pub fn unless_written(output: &mut impl Write, text: &str) -> Result<(), Self> {
        match writeln!(output, "{}", text.trim_end()).and_then(|()| output.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Self::System(format!(
                "standard output cannot be written: {error}; free space or write elsewhere"
            ))),
            _ => Ok(()),
        }
    }
}

/// Serves until a signal ends it.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let mut base = args.selection.base().map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System(format!("no runtime for the engine: {error}")))?;
    // First of all: what comes while the rest begins is obeyed then.
    let signals = runtime
        .block_on(async { Signals::new() })
        .map_err(|error| Failure::System(format!("signals cannot be handled: {error}")))?;
    let feed = runtime.block_on(Feed::new(args))?;
    let orders = Orders::read(args).map_err(Failure::Usage)?;
    base = base.managing(args.certificates.issuers.managed());
    if let Some(reading) = feed.class_reading() {
        base = base.reading_classes(reading);
    }
    terminal::log_to_stderr(args.log_format, args.log_level);

    let metrics = Metrics::new();
    let (publisher, snapshots) = Publisher::new(Arc::clone(&metrics));
    let (admin_listener, admin_address) = bind_admin(args.admin_listen)?;
    let (output, written) = Output::new()?;
    let gateway = start_gateway(args, snapshots.clone(), &metrics, output)?;

    let challenges = snapshots.challenges().clone();
    let mut engine = Engine::with_base(&base);
    let (report, reports) = watch::channel(Arc::new(engine.report()));

    let readiness = Readiness::default();
    readiness.hold(NOT_SERVED);
    let health = Readiness::default();
    metrics.register(Box::new(Findings(reports.clone())));
    let front = Front::new(&metrics);
    let state = admin::State {
        published: snapshots,
        reports: reports.clone(),
        metrics: Arc::clone(&metrics),
        readiness: readiness.clone(),
        health: health.clone(),
        listeners: views(&gateway, args),
        contacts: feed.contacts(&metrics),
        certificates: front.counter(),
    };
    admin::start(admin_listener, state)
        .map_err(|error| Failure::System(format!("the admin server cannot start: {error}")))?;

    let code = runtime.block_on(async {
        let (change, changes) = mpsc::channel(QUEUE);
        tokio::spawn(kept(engine::run(engine, changes, publisher, report)));
        let absolute = matches!(feed, Feed::Cluster(_));
        tokio::spawn(resolver::run(reports.clone(), change.clone(), absolute));
        let orders = orders.map(|orders| {
            let ends = Ends {
                challenges,
                reports: reports.clone(),
                change: change.clone(),
                health: health.clone(),
                front,
            };
            (orders, ends)
        });
        let writers = feed.start(args, &reports, change, orders).await?;
        if let Some(writers) = &writers {
            metrics.register(Box::new(writers.leadership()));
        }
        tokio::spawn(terminal::follow(reports.clone(), args.log_format));
        let life = Life {
            gateway,
            readiness,
            health,
            reports,
            metrics,
            admin: admin_address,
            writers,
        };
        life.live(args, signals).await
    });
    // Lookups of the resolver may hang for long; nothing waits for them.
    runtime.shutdown_background();
    // The last lines of the access log are still on their way.
    written.recv_timeout(LAST_LINES).ok();
    code
}

/// Runs the engine. Its end shows in `/healthz`, by the end of the reports.
async fn kept(engine: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = tokio::spawn(engine).await {
        tracing::error!(%error, "the engine failed; what is published keeps serving");
    }
}

/// Where objects come from.
enum Feed {
    Directory(PathBuf),
    Cluster(Cluster),
}

struct Cluster {
    access: Access,
    scope: Scope,
    /// What the conversation with it is written down in.
    contacts: Contacts,
}

impl Feed {
    async fn new(args: &RunArgs) -> Result<Self, Failure> {
        let Some(dir) = &args.dir else {
            let origin = match &args.kubeconfig {
                Some(file) => Origin::File(file.clone(), args.context.clone()),
                None => Origin::Cluster,
            };
            let access = Access::new(origin)
                .await
                .map_err(|error| Failure::Usage(error.to_string()))?;
            return Ok(Self::Cluster(Cluster {
                access,
                scope: scope(args)?,
                contacts: Contacts::default(),
            }));
        };
        if let Some(why) = directory::unusable(dir) {
            return Err(Failure::Usage(format!(
                "invalid value '{}' for '--dir <DIR>': {why}",
                dir.display()
            )));
        }
        Ok(Self::Directory(dir.clone()))
    }

    /// How classes become known in a cluster.
    fn class_reading(&self) -> Option<ClassReading> {
        let Self::Cluster(cluster) = self else {
            return None;
        };
        Some(if cluster.scope.namespaces.is_empty() {
            ClassReading::Cluster
        } else {
            ClassReading::Nowhere
        })
    }

    /// Begins to send changes; in a cluster, also to write back what is to be seen there.
    async fn start(
        self,
        args: &RunArgs,
        reports: &watch::Receiver<Arc<Report>>,
        change: mpsc::Sender<Change>,
        orders: Option<(Orders, Ends)>,
    ) -> Result<Option<Writers>, Failure> {
        let Cluster {
            access,
            scope,
            contacts,
        } = match self {
            Self::Directory(dir) => {
                if let Some((orders, ends)) = orders {
                    orders.start_alone(ends).await.map_err(Failure::Usage)?;
                }
                tokio::spawn(directory::watch(dir, change));
                return Ok(None);
            }
            Self::Cluster(cluster) => cluster,
        };
        let (own, namespaces) = (Arc::clone(access.namespace()), scope.namespaces.clone());
        let refusals = contacts.refusals().clone();
        let source = kubernetes::watch(access.clone(), scope, contacts, reports.clone(), change);
        let clients: Clients = Arc::new(move || access.client());
        let replica = Replica::new(&args.status, args.selection.watch_namespace.is_empty());
        let writers = status::start(&clients, &args.status, &replica, reports, &refusals);
        if let Some((orders, ends)) = orders {
            let place = Place {
                clients,
                leadership: writers.leadership(),
                own: replica.namespace.unwrap_or(own),
                namespaces,
                replicas: args.certificates.acme_replicas_service.clone(),
            };
            orders.start_clustered(place, ends).await;
        }
        // Last: what is kept goes before what is there.
        tokio::spawn(source);
        Ok(Some(writers))
    }

    /// The conversation with the cluster, if there is one; the metrics show it from now on.
    fn contacts(&self, metrics: &Metrics) -> Option<Contacts> {
        let Self::Cluster(Cluster { contacts, .. }) = self else {
            return None;
        };
        metrics.register(Box::new(contacts.clone()));
        Some(contacts.clone())
    }
}

/// The part of a cluster that is read.
fn scope(args: &RunArgs) -> Result<Scope, Failure> {
    let watched = args.selection.watch_namespace.iter();
    let watched: BTreeSet<Arc<str>> = watched.map(|name| name.as_str().into()).collect();
    if let Some((namespace, name)) = &args.selection.default_backend_service
        && !watched.is_empty()
        && !watched.contains(namespace)
    {
        return Err(Failure::Usage(format!(
            "invalid value '{namespace}/{name}' for '--default-backend-service <NAMESPACE/NAME>': no \
             Service is read outside the namespaces of --watch-namespace; add {namespace} to them or \
             choose a Service of one of them"
        )));
    }
    if let Some((namespace, name)) = &args.certificates.acme_replicas_service
        && !watched.is_empty()
        && !watched.contains(namespace)
    {
        return Err(Failure::Usage(format!(
            "invalid value '{namespace}/{name}' for '--acme-replicas-service <NAMESPACE/NAME>': no \
             EndpointSlice is read outside the namespaces of --watch-namespace; add {namespace} to them \
             or leave the flag out"
        )));
    }
    Ok(Scope {
        namespaces: watched.into_iter().collect(),
        ingress_labels: args.watch_ingress_selector.clone(),
        tenants: args.certificates.issuers.acme.is_some(),
    })
}

/// Everything that is needed from the first snapshot to the end.
struct Life {
    gateway: Gateway,
    readiness: Readiness,
    health: Readiness,
    reports: watch::Receiver<Arc<Report>>,
    metrics: Arc<Metrics>,
    admin: SocketAddr,
    /// What this replica writes into a cluster when it leads.
    writers: Option<Writers>,
}

impl Life {
    async fn live(mut self, args: &RunArgs, mut signals: Signals) -> Result<ExitCode, Failure> {
        let first = tokio::select! {
            never = self.watch_over() => never,
            signal = signals.next() => signal,
        };
        tracing::info!(signal = first.name(), "draining");
        self.readiness.hold(DRAINING);
        // At once: while this replica drains another one leads.
        let farewell = self
            .writers
            .take()
            .map(|writers| tokio::spawn(writers.stop()));
        let code = tokio::select! {
            outcome = self.gateway.drain(args.drain_delay, args.drain_timeout) => {
                tracing::info!(?outcome, "drained");
                if let Some(farewell) = farewell {
                    // Bounded by itself.
                    farewell.await.ok();
                }
                ExitCode::SUCCESS
            }
            second = signals.next() => {
                tracing::warn!(signal = second.name(), "stopped without waiting any longer");
                ExitCode::from(second.exit_status())
            }
        };
        Ok(code)
    }

    /// Becomes ready, then looks after the workers for as long as the process lives.
    async fn watch_over<T>(&mut self) -> T {
        self.become_ready().await;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if !self.gateway.alive() {
                self.health.hold(WORKER_DIED);
                self.readiness.hold(WORKER_DIED);
            }
        }
    }

    /// Waits until every worker serves the first complete snapshot, which is generation 1 even if
    /// nothing is in it. Does not return an error: an engine that dies leaves the gateway not ready.
    async fn become_ready(&mut self) {
        let Ok(report) = self
            .reports
            .wait_for(|report| report.synced && report.generation > 0)
            .await
            .map(|r| Arc::clone(&r))
        else {
            return std::future::pending().await;
        };
        let mut served = self.gateway.served();
        if served
            .wait_for(|generation| *generation >= report.generation)
            .await
            .is_err()
        {
            return std::future::pending().await;
        }
        self.readiness.release(NOT_SERVED);
        terminal::Ready {
            listeners: self.gateway.addresses(),
            admin: self.admin,
            generation: report.generation,
            hosts: usize::try_from(self.metrics.plain.hosts.get()).unwrap_or_default(),
            diagnostics: report.diagnostics.len(),
        }
        .announce();
    }
}

fn bind_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    TcpListener::bind(address)
        .and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        })
        .map_err(|error| {
            Failure::System(format!(
                "cannot listen on {address} (--admin-listen): {error}; choose another address or port 0"
            ))
        })
}

fn start_gateway(
    args: &RunArgs,
    snapshots: Published,
    metrics: &Arc<Metrics>,
    output: Output,
) -> Result<Gateway, Failure> {
    let access_log = match args.access_log {
        AccessLogFormat::Off => Ok(AccessLog::off()),
        AccessLogFormat::Json => AccessLog::to(Format::Json, output, metrics),
        AccessLogFormat::Nginx => AccessLog::to(Format::Nginx, output, metrics),
    }
    .map_err(|error| Failure::System(format!("the access log cannot start: {error}")))?;
    let listener = |name: &str, address, protocol| ListenerPlan {
        name: name.into(),
        address,
        protocol,
        server: ServerId::SHARED,
        public_port: None,
    };
    let config = GatewayConfig {
        listeners: vec![
            listener("http", args.http_listen, ListenerProtocol::Http),
            listener("https", args.https_listen, ListenerProtocol::Https),
        ],
        workers: args.workers.unwrap_or_else(cores),
        access_log,
    };
    Gateway::start(config, snapshots, Arc::clone(metrics)).map_err(|error| {
        Failure::System(match &error {
            StartError::Bind { listener, .. } => format!("{error} (--{listener}-listen)"),
            _ => error.to_string(),
        })
    })
}

fn views(gateway: &Gateway, args: &RunArgs) -> Arc<[ListenerView]> {
    let mut views = ListenerView::unbound();
    for view in &mut views {
        view.address = gateway
            .addresses()
            .iter()
            .find(|(name, _)| *name == view.name)
            .map(|(_, address)| *address)
            .or(match view.protocol {
                ListenerProtocol::Http => Some(args.http_listen),
                ListenerProtocol::Https => Some(args.https_listen),
            });
    }
    views.into()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Standard output for the access log. The receiver that comes with it ends when the last line is
/// written.
struct Output {
    /// Without a buffer between: what could not be written must be known.
    stdout: File,
    _open: SyncSender<()>,
}

impl Output {
    fn new() -> Result<(Self, Receiver<()>), Failure> {
        let (open, written) = sync_channel(0);
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|error| {
            Failure::System(format!(
                "the access log cannot start: standard output: {error}; raise the limit on open files"
            ))
        })?;
        let output = Self {
            stdout: stdout.into(),
            _open: open,
        };
        Ok((output, written))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdout.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

const NOT_SERVED: &str = "the first complete snapshot is not served by every worker yet";
const WORKER_DIED: &str = "a worker thread has died, restart the process";
const DRAINING: &str = "the gateway is shutting down";

/// How often the workers are looked after.
const LOOK: Duration = Duration::from_secs(1);

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Changes that may wait for the engine.
const QUEUE: usize = 1024;
