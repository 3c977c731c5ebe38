//! The gateway on real sockets: one host, one scripted endpoint.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it fails"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::access_log::AccessLog;
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    ActionPlan, Affinity, Balance, ClusterKey, ClusterPlan, Delta, EndpointPhase, EndpointPlan,
    HostKey, HostPattern, HostPlan, ListenerPlan, ListenerProtocol, ObjectRef, PathKind, PathMatch,
    RouteKey, RoutePlan, ServerId, Settings, UpstreamProtocol, WeightedCluster,
};
use gatehouse_gateway::publish::Publisher;
use gatehouse_gateway::server::{Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An endpoint that answers every request with its own head as the body.
async fn echo_heads() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        stream.write_all(&head).await.unwrap();
                        head.clear();
                    }
                }
            });
        }
    });
    address
}

fn plans(endpoint: SocketAddr) -> Delta {
    let cluster = ClusterKey("ns/echo:80".into());
    let host = HostPattern::Exact("echo.test".into());
    let key = RouteKey {
        host: host.clone(),
        path: PathMatch {
            kind: PathKind::Prefix,
            path: "/".into(),
        },
        origin: ObjectRef {
            kind: "Ingress".into(),
            namespace: "ns".into(),
            name: "echo".into(),
        },
    };
    let route = RoutePlan {
        key,
        field: "spec.rules[0].http.paths[0]".into(),
        policies: Vec::new(),
        action: ActionPlan::Forward(vec![WeightedCluster {
            cluster: cluster.clone(),
            weight: 1,
        }]),
    };
    let plan = ClusterPlan {
        key: cluster.clone(),
        protocol: UpstreamProtocol::Http1,
        balance: Balance::RoundRobin,
        affinity: Affinity::None,
        endpoints: vec![EndpointPlan {
            address: endpoint,
            phase: EndpointPhase::Ready,
        }],
    };
    let key = HostKey {
        server: ServerId::SHARED,
        host: host.clone(),
    };
    let hosts = HostPlan {
        host,
        routes: vec![Arc::new(route)],
        tls: None,
    };
    Delta {
        clusters: vec![(cluster, Some(Arc::new(plan)))],
        hosts: vec![(key, Some(Arc::new(hosts)))],
        ..Delta::default()
    }
}

fn start(endpoint: SocketAddr) -> (Gateway, Publisher, SocketAddr) {
    start_on(Some(plans(endpoint)))
}

/// Nothing is published without plans.
fn start_on(plans: Option<Delta>) -> (Gateway, Publisher, SocketAddr) {
    let metrics = Metrics::new();
    let (mut publisher, published) = Publisher::new(Arc::clone(&metrics));
    plans.map(|plans| publisher.apply(plans));
    let config = GatewayConfig {
        listeners: vec![ListenerPlan {
            name: "http".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            protocol: ListenerProtocol::Http,
            server: ServerId::SHARED,
            public_port: None,
        }],
        workers: 1,
        access_log: AccessLog::off(),
    };
    let gateway = Gateway::start(config, published, metrics).unwrap();
    let address = gateway.addresses()[0].1;
    (gateway, publisher, address)
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        answer.push(stream.read_u8().await.unwrap());
        if answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn requests_of_one_connection_are_served_in_turn_and_strangers_get_404() {
    let (gateway, _publisher, address) = start(echo_heads().await);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for path in ["/a", "//b/../c%2F"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: Echo.test:1\r\nX-Real-IP: 1.1.1.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains(&format!("GET {path} HTTP/1.1\r\n")),
            "{answer}"
        );
        assert!(answer.contains("host: Echo.test:1\r\n"), "{answer}");
        assert!(answer.contains("x-real-ip: 127.0.0.1\r\n"), "{answer}");
    }
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .await
        .unwrap();
    assert!(
        answer(&mut stream)
            .await
            .starts_with("HTTP/1.1 404 Not Found\r\n")
    );
    drop(stream);
    let outcome = gateway.drain(Duration::ZERO, Duration::from_secs(5)).await;
    assert_eq!(outcome.cut_off, 0);
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_nothing_after_it_is_read() {
    let (gateway, _publisher, address) = start(echo_heads().await);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nHost: echo.test\r\nContent-Length: 4\r\n\
                   Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: echo.test\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{all}");
    assert!(all.contains("connection: close\r\n"), "{all}");
    assert!(
        all.ends_with("400 Bad Request: ambiguous_framing\n"),
        "{all}"
    );
    drop(gateway);
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn a_client_that_is_still_sending_gets_the_answer_that_refuses_it() {
    let (gateway, _publisher, address) = start(echo_heads().await);
    let mut stream = connect(address).await;
    let head = "POST /a#b HTTP/1.1\r\nHost: echo.test\r\nContent-Length: 4000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{all}");
    drop(gateway);
}

#[tokio::test]
async fn a_connection_opened_just_before_a_drain_is_still_served() {
    let (gateway, _publisher, address) = start(echo_heads().await);
    let mut stream = connect(address).await;
    let mut idle = connect(address).await;
    let request = b"GET / HTTP/1.1\r\nHost: echo.test\r\n\r\n";
    idle.write_all(request).await.unwrap();
    answer(&mut idle).await;
    let drained = tokio::spawn(gateway.drain(Duration::ZERO, Duration::from_secs(30)));
    // An idle connection is closed: the drain has begun.
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    stream.write_all(request).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
    assert!(all.contains("connection: close\r\n"), "{all}");
    assert_eq!(drained.await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_that_ignores_goaway() {
    let (gateway, _publisher, address) = start(echo_heads().await);
    let mut stream = connect(address).await;
    // Preface and empty SETTINGS; nothing is ever acknowledged.
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(opening).await.unwrap();
    stream.read_u8().await.unwrap();
    let outcome = gateway.drain(Duration::ZERO, Duration::from_secs(60)).await;
    assert_eq!(outcome.cut_off, 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.windows(5).any(|frame| frame == [0, 0, 8, 7, 0]));
}

/// An endpoint that agrees to any upgrade and then listens until the client has gone.
async fn switching() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                           Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_tunnel_counts_against_the_connections_of_its_client() {
    let (gateway, mut publisher, address) = start(switching().await);
    let mut settings = Settings::default();
    settings.limits.connections_per_client = 1;
    let generation = publisher
        .apply(Delta {
            settings: Some(Arc::new(settings)),
            ..Delta::default()
        })
        .generation;
    let mut served = gateway.served();
    served
        .wait_for(|served| *served >= generation)
        .await
        .unwrap();
    let mut tunnel = connect(address).await;
    let request = "GET / HTTP/1.1\r\nHost: echo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tunnel.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut second = connect(address).await;
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(tunnel);
    let outcome = gateway.drain(Duration::ZERO, Duration::from_secs(30)).await;
    assert_eq!(outcome.cut_off, 0);
}

#[tokio::test]
async fn before_the_first_snapshot_nobody_is_told_that_a_host_does_not_exist() {
    let (_gateway, mut publisher, address) = start_on(None);
    let mut stream = connect(address).await;
    for (path, host) in [("/", "echo.test"), ("/healthz", "x")] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{path}: {text}");
    }
    publisher.apply(plans(echo_heads().await));
    let request = b"GET / HTTP/1.1\r\nhost: echo.test\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let text = answer(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn a_client_that_has_left_keeps_no_endpoint_busy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let (_gateway, _publisher, address) = start(endpoint);
    let mut client = connect(address).await;
    let request = b"GET / HTTP/1.1\r\nhost: echo.test\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = [0; 1024];
    assert!(stream.read(&mut head).await.unwrap() > 0, "the request");
    drop(client);
    let end = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut head)).await;
    // It is closed or reset long before the endpoint would be too late.
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)), "no more requests");
}

#[tokio::test]
async fn what_is_broken_behind_a_request_takes_its_answer_away_from_nobody() {
    let (_gateway, _publisher, address) = start(echo_heads().await);
    for broken in [
        "\0\x01\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\0: 1\r\n\r\n",
    ] {
        let mut stream = connect(address).await;
        let request = format!("GET / HTTP/1.1\r\nhost: echo.test\r\n\r\n{broken}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{broken:?}: {text}");
    }
}
