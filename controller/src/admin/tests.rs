//! The pages, asked over a socket.

use gatehouse_gateway::publish::Publisher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::engine::Engine;

/// A running admin server, and what keeps its state alive.
struct Admin {
    address: std::net::SocketAddr,
    readiness: Readiness,
    report: Option<watch::Sender<Arc<Report>>>,
}

impl Admin {
    fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    fn start_at(address: &str) -> Self {
        let metrics = Metrics::new();
        let (_, published) = Publisher::new(Arc::clone(&metrics));
        let mut engine = Engine::new(Arc::default(), Arc::default());
        let (report, reports) = watch::channel(Arc::new(engine.report()));
        let readiness = Readiness::default();
        let listener = StdListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            published,
            reports,
            metrics,
            readiness: readiness.clone(),
            health: Readiness::default(),
            listeners: ListenerView::unbound().into(),
            contacts: None,
            certificates: Counter::default(),
        };
        start(listener, state).unwrap();
        Self {
            address,
            readiness,
            report: Some(report),
        }
    }

    /// The whole answer to a request without a body.
    async fn ask(&self, method: &str, target: &str) -> String {
        self.ask_as("localhost", method, target).await
    }

    /// The same for a name of the client's choice.
    async fn ask_as(&self, host: &str, method: &str, target: &str) -> String {
        self.ask_with(&format!("Host: {host}"), method, target)
            .await
    }

    /// The same with fields of the client's choice.
    async fn ask_with(&self, fields: &str, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("{method} {target} HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn readiness_lists_what_is_waited_for() {
    let admin = Admin::start();
    admin.readiness.hold("no snapshot");
    let answer = admin.ask("GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("not ready\nno snapshot\n"), "{answer}");
    admin.readiness.release("no snapshot");
    let answer = admin.ask("GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn health_ends_with_the_engine() {
    let mut admin = Admin::start();
    assert!(
        admin
            .ask("GET", "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    admin.report.take();
    assert!(
        admin
            .ask("GET", "/healthz")
            .await
            .starts_with("HTTP/1.1 500")
    );
}

#[tokio::test]
async fn pages_only_read() {
    let admin = Admin::start();
    let answer = admin.ask("POST", "/api/snapshot").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    let answer = admin.ask("HEAD", "/").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(
        admin
            .ask("GET", "/nothing")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn what_a_gateway_has_passed_on_is_told_of_health_only() {
    let admin = Admin::start();
    for field in ["X-Real-IP: 192.0.2.9", "X-Forwarded-Scheme: http"] {
        let fields = format!("Host: 10.0.0.1\r\n{field}");
        for target in ["/", "/metrics", "/api/snapshot", "/api/accounts", "/none"] {
            let answer = admin.ask_with(&fields, "GET", target).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
            assert!(answer.contains("port-forward"), "{answer}");
        }
        let answer = admin.ask_with(&fields, "GET", "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // The API server's proxy, and a mesh.
    let fields = "Host: 10.0.0.1\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https";
    let answer = admin.ask_with(fields, "GET", "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn the_api_speaks_json_and_explains_mistakes() {
    let admin = Admin::start();
    for target in [
        "/api/snapshot",
        "/api/diagnostics",
        "/api/convergence",
        "/api/explain?url=http://a.example/x",
    ] {
        let answer = admin.ask("GET", target).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
    let answer = admin.ask("GET", "/api/explain?url=a.example").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("no URL of a request"), "{answer}");
    let answer = admin.ask("GET", "/api/explain?uri=http://a.example/").await;
    assert!(answer.contains("there is no parameter `uri`"), "{answer}");
    assert!(
        admin
            .ask("GET", "/metrics")
            .await
            .contains("gatehouse_generation")
    );
}

#[tokio::test]
async fn on_loopback_a_web_page_under_a_name_of_its_own_reads_nothing() {
    let admin = Admin::start();
    for path in ["/api/snapshot", "/metrics", "/healthz"] {
        let answer = admin.ask_as("rebound.example:9091", "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
        assert!(answer.contains("localhost"), "{answer}");
    }
    for host in ["127.0.0.1:9091", "[::1]", "gateway.localhost"] {
        let answer = admin.ask_as(host, "GET", "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn on_other_addresses_every_name_is_answered() {
    // Prometheus and kubelets ask for the names that they know.
    let admin = Admin::start_at("0.0.0.0:0");
    let answer = admin
        .ask_as("gatehouse-admin.demo.svc", "GET", "/healthz")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn clients_that_hold_connections_open_keep_no_probe_out() {
    let admin = Admin::start();
    let mut held = Vec::new();
    for number in 0..2 * places::ALL {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        // Silent, or in the middle of a head.
        if number % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        }
        held.push(stream);
    }
    let answer = timeout(HEAD_DEADLINE, admin.ask("GET", "/healthz"));
    let answer = answer.await.expect("an answer before anybody has to leave");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut rest = Vec::new();
    let closed = held[0].read_to_end(&mut rest);
    // Its unread bytes may make the end a reset.
    timeout(HEAD_DEADLINE, closed)
        .await
        .expect("the first has left")
        .ok();
}
