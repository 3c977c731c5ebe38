//! The admin server: health, metrics and a read-only view of what is served and why.
//!
//! Invariants: only GET and HEAD; not protected by itself, so it listens on loopback unless told
//! otherwise, and there answers no web page that reaches it under a name of its own; connections,
//! their heads and their life are bounded; it runs on a thread of its own and never waits for the
//! engine.

mod api;
mod health;
mod host;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::publish::Published;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::engine::Report;
use crate::simulate::ListenerView;
use crate::source::kubernetes::contact::Contacts;

pub(crate) use api::encode;
pub use health::Readiness;

/// What the pages show.
#[derive(Clone)]
pub struct State {
    /// The snapshot.
    pub published: Published,
    /// Diagnostics.
    pub reports: watch::Receiver<Arc<Report>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Readiness.
    pub readiness: Readiness,
    /// What is wrong with the process itself.
    pub health: Readiness,
    /// The listeners of the gateway.
    pub listeners: Arc<[ListenerView]>,
    /// The conversation with the API server, when there is one.
    pub contacts: Option<Contacts>,
}

/// Serves on a thread of its own until the process ends.
pub fn start(listener: StdListener, state: State) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let served = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    serve(TcpListener::from_std(listener)?, state).await;
                    Ok(())
                })
            });
            if let Err(error) = served {
                tracing::error!(%error, "the admin server cannot run");
            }
        })?;
    Ok(())
}

async fn serve(listener: TcpListener, state: State) {
    let state = Arc::new(state);
    let guarded = listener
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut told: Option<Instant> = None;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    connection(stream, state, guarded).await;
                    drop(place);
                });
            }
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "the admin server cannot accept a connection");
                }
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// `guarded`: only names that nobody else can own are answered.
async fn connection(stream: TcpStream, state: Arc<State>, guarded: bool) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&state, &request, guarded);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever went wrong is the affair of the client, who sees it.
    timeout(LIFE, serving).await.ok();
}

fn respond(state: &State, request: &Request<Incoming>, guarded: bool) -> Response<Full<Bytes>> {
    let uri = request.uri();
    let page = if guarded && !host::is_ours(uri, request.headers()) {
        api::Page::text(StatusCode::MISDIRECTED_REQUEST, host::REMEDY)
    } else {
        api::page(state, request.method(), uri.path(), uri.query())
    };
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 64;

/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;

/// For a request head, and between requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(300);

/// Pause after a failed accept (no descriptors left).
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// How often a failure to accept is told.
const TELL_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
