//! A backend that reports what it received: for the quick start, the examples and the tests.
//!
//! It speaks HTTP/1.1, HTTP/2 by prior knowledge, WebSocket and gRPC on one port. It is no part of
//! the gateway and takes no care to be fast; it takes care to report what arrived as it arrived.
//!
//! Invariants: an answer always names its instance (`X-Echo-Instance`); nothing a client sends
//! can make it keep more than one chunk of a body in memory.

mod answer;
mod body;
mod grpc;
mod websocket;
mod wish;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// What an echo is started with.
#[derive(Debug, Clone, Default)]
pub struct EchoOptions {
    /// Addresses to listen on, as `HOST:PORT`; port 0 asks the system for a free one.
    pub listen: Vec<String>,
    /// Name in reports; without one, the address that took the connection.
    pub name: Option<String>,
}

/// An echo that listens and does not serve yet.
#[derive(Debug)]
pub struct Echo {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    name: Option<Arc<str>>,
}

/// What a connection knows of itself.
#[derive(Debug)]
struct Place {
    name: Arc<str>,
    peer: SocketAddr,
    local: SocketAddr,
}

/// Listens, says so in one line on stderr, and serves until `shutdown`.
pub async fn run(options: EchoOptions, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let echo = bind(&options).await?;
    let addresses: Vec<String> = echo.addresses.iter().map(ToString::to_string).collect();
    announce(&addresses.join(", "));
    echo.serve(shutdown).await;
    Ok(())
}

/// Listens and serves on a runtime of its own until SIGINT or SIGTERM: `gatehouse echo`.
pub fn until_stopped(options: EchoOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        run(options, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    })
}

/// Listens on every address of the options, or fails and names the one that cannot be had.
pub async fn bind(options: &EchoOptions) -> io::Result<Echo> {
    let mut listeners = Vec::with_capacity(options.listen.len());
    let mut addresses = Vec::with_capacity(options.listen.len());
    for wanted in &options.listen {
        let listener = TcpListener::bind(wanted).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {wanted}: {error}"))
        })?;
        addresses.push(listener.local_addr()?);
        listeners.push(listener);
    }
    Ok(Echo {
        listeners,
        addresses,
        name: options.name.as_deref().map(Into::into),
    })
}

impl Echo {
    /// The addresses it listens on, in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown`; then open connections are cut.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut acceptors = JoinSet::new();
        for listener in self.listeners {
            acceptors.spawn(accept(listener, self.name.clone()));
        }
        shutdown.await;
        acceptors.shutdown().await;
    }
}

async fn accept(listener: TcpListener, name: Option<Arc<str>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer, name.clone()));
                }
                // Out of file descriptors, mostly: the next attempt would fail at once.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, name: Option<Arc<str>>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Failing costs latency only.
    stream.set_nodelay(true).ok();
    let place = Arc::new(Place {
        name: name.unwrap_or_else(|| local.to_string().into()),
        peer,
        local,
    });
    let service =
        hyper::service::service_fn(move |request| answer::answer(Arc::clone(&place), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(client = %peer, %error, "connection ended early");
    }
}

/// The one line that tools wait for. Not a log line: it must appear whatever the log level is.
fn announce(addresses: &str) {
    use std::io::Write as _;
    writeln!(io::stderr().lock(), "gatehouse echo: ready on {addresses}").ok();
}

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

#[cfg(test)]
mod tests;
