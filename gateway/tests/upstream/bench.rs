//! A worker's upstream with listeners behind it that a test scripts by hand.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::error::{ProxyError, Reason};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    Affinity, Balance, ClusterKey, ClusterPlan, EndpointPhase, EndpointPlan, Settings,
    UpstreamProtocol,
};
use gatehouse_gateway::server::body::{BodyBounds, RequestBody};
use gatehouse_gateway::upstream::{Answer, Attempts, Cluster, ForwardRequest, Upstream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Runs a test on one worker thread, as the gateway does.
pub(crate) fn worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("the test hangs");
    });
}

/// The same with a clock that jumps ahead whenever nothing else is left to do.
pub(crate) fn paused_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(3600), test)
            .await
            .expect("the test hangs");
    });
}

pub(crate) fn plan(protocol: UpstreamProtocol, endpoints: &[SocketAddr]) -> Arc<ClusterPlan> {
    let mut endpoints: Vec<EndpointPlan> = endpoints
        .iter()
        .map(|address| EndpointPlan {
            address: *address,
            phase: EndpointPhase::Ready,
        })
        .collect();
    endpoints.sort();
    Arc::new(ClusterPlan {
        key: ClusterKey("ns/svc:80".into()),
        protocol,
        balance: Balance::RoundRobin,
        affinity: Affinity::None,
        endpoints,
    })
}

/// A worker's upstream, one cluster, and the listeners behind it.
pub(crate) struct Bench {
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listener: TcpListener,
}

impl Bench {
    pub(crate) async fn new(settings: Settings) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            upstream: Upstream::new(Metrics::new()),
            cluster: Arc::new(Cluster::new(plan(UpstreamProtocol::Http1, &[address]))),
            settings: Arc::new(settings),
            listener,
        }
    }

    pub(crate) fn request(&self, method: &str, body: Option<Box<RequestBody>>) -> ForwardRequest {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder()
            .method(method)
            .uri("/path?query")
            .header("host", "shop.test")
            .body(())
            .unwrap();
        ForwardRequest {
            head: Box::new(request.into_parts().0),
            body,
            cluster: Arc::clone(&self.cluster),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            upgrade: false,
            settings: Arc::clone(&self.settings),
        }
    }

    pub(crate) async fn send(&self, method: &str) -> (Attempts, Result<Answer, ProxyError>) {
        let request = self.request(method, None);
        self.upstream.forward(request).await
    }

    /// Sends and reads to the end.
    pub(crate) async fn text(&self, method: &str) -> Result<(StatusCode, String), Reason> {
        let answer = self.send(method).await.1.map_err(|error| error.reason)?;
        let status = answer.response.status();
        Ok((status, read(answer).await.map_err(|error| error.reason)?))
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

pub(crate) async fn read(answer: Answer) -> Result<String, ProxyError> {
    let bytes = answer.response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Reads one request head.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request head"));
    }
    String::from_utf8(head).unwrap()
}

pub(crate) async fn say(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
}

pub(crate) async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is a close, too.
    drop(stream.read_to_end(&mut rest).await);
    assert_eq!(rest, b"");
}

/// Lets everything that has arrived on any socket be noticed: a round trip through the reactor.
pub(crate) async fn settle() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let mut far = listener.accept().await.unwrap().0;
    for _ in 0..3 {
        near.write_u8(1).await.unwrap();
        far.read_u8().await.unwrap();
    }
}

/// A request body as the server hands it over, and the client that is still sending it.
pub(crate) async fn sending(raw: &str) -> (RequestBody, DuplexStream) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(raw.as_bytes()).await.unwrap();
    let (tx, rx) = tokio::sync::oneshot::channel();
    let tx = Rc::new(std::cell::Cell::new(Some(tx)));
    spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(
        TokioIo::new(server),
        service_fn(move |request: Request<hyper::body::Incoming>| {
            if let Some(tx) = tx.take() {
                drop(tx.send(request.into_body()));
            }
            std::future::pending::<Result<Response<String>, hyper::Error>>()
        }),
    ));
    let bounds = BodyBounds {
        limit: 0,
        stall: Duration::from_secs(30),
        rate: 0,
    };
    (RequestBody::new(rx.await.unwrap(), bounds), client)
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
