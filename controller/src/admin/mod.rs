//! The admin server: health, metrics, a view of what is served and why, and commands about
//! certificates.
//!
//! Invariants: only GET and HEAD, but for commands, which only this machine gives; not protected by
//! itself, so it listens on loopback unless told otherwise, and there answers no web page that
//! reaches it under a name of its own; nothing but health goes out through a gateway; connections,
//! in all and of one client, their heads and their life are bounded, and no client can keep others
//! out by holding them open; it runs on a thread of its own and never waits for the engine.

mod api;
mod certificates;
pub(crate) mod client;
mod health;
mod host;
mod places;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::publish::Published;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::counter::Counter;
use crate::engine::Report;
use crate::simulate::ListenerView;
use crate::source::kubernetes::contact::Contacts;

pub(crate) use api::encode;
pub(crate) use certificates::Said;
pub use health::Readiness;
use places::{Place, Places};

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
    /// Certificates that are ordered.
    pub certificates: Counter,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Caller {
    /// Only names that nobody else can own are answered.
    guarded: bool,
    /// From this machine.
    here: bool,
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
    let places = Places::default();
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let state = Arc::clone(&state);
                let peer = peer.ip().to_canonical();
                let place = places.take(peer);
                let held = Arc::clone(&place);
                let caller = Caller {
                    guarded,
                    here: is_here(peer),
                };
                let task = tokio::spawn(connection(stream, state, caller, held));
                place.held_by(task.abort_handle());
                // Whatever it asks is answered before the next one comes and takes its place.
                yield_now().await;
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

/// Whether a peer is this machine: no other address of 127/8, for proxies beside us come from there.
fn is_here(peer: IpAddr) -> bool {
    peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST
}

async fn connection(stream: TcpStream, state: Arc<State>, caller: Caller, place: Arc<Place>) {
    let service = service_fn(move |request: Request<Incoming>| {
        place.touch();
        let (state, place) = (Arc::clone(&state), Arc::clone(&place));
        async move { Ok::<_, Infallible>(respond(&state, request, caller, &place).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever went wrong is the affair of the client, who sees it.
    timeout(LIFE, serving).await.ok();
}

async fn respond(
    state: &State,
    request: Request<Incoming>,
    caller: Caller,
    place: &Place,
) -> Response<Full<Bytes>> {
    let (uri, method) = (request.uri(), request.method());
    let errand = (method == Method::POST).then(|| certificates::Errand::of(uri.path()));
    let page = if caller.guarded && !host::is_ours(uri, request.headers()) {
        api::Page::text(StatusCode::MISDIRECTED_REQUEST, host::REMEDY)
    } else if let Some(field) = host::passed_on(request.headers())
        && !api::is_health(uri.path())
    {
        let text = format!(
            "a gateway has passed this on, as the field {field} tells, and what the admin port shows \
             is not for its clients: ask the port itself, for example through `kubectl port-forward`\n"
        );
        api::Page::text(StatusCode::FORBIDDEN, text)
    } else if let Some(errand) = errand.flatten() {
        // The authority may take long; who may not give commands is refused at once.
        let _waiting = place.wait();
        certificates::run(&state.certificates, errand, request, caller.here).await
    } else {
        api::page(state, method, uri.path(), uri.query())
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

/// Largest request head.
const MAX_HEAD: usize = 16 * 1024;

/// For a request head, and between requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(300);

/// Pause after a failed accept (no descriptors left).
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// How often a failure to accept is told.
const TELL_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
