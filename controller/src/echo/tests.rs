//! The echo on real sockets: HTTP/1.1, HTTP/2, WebSocket and gRPC.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::*;

/// Starts an echo and gives its address; it ends with the test's runtime.
async fn started() -> SocketAddr {
    let options = EchoOptions {
        listen: vec!["127.0.0.1:0".into()],
        name: Some("tester".into()),
    };
    let echo = bind(&options).await.unwrap();
    let address = echo.addresses()[0];
    tokio::spawn(echo.serve(std::future::pending()));
    address
}

async fn http1(address: SocketAddr, request: Request<Full<bytes::Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

async fn http2(address: SocketAddr, request: Request<Full<bytes::Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

async fn json(response: Response<Incoming>) -> serde_json::Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn the_report_shows_the_raw_target_and_every_field_in_order() {
    let address = started().await;
    let request = Request::post("/a%2Fb/../c?x=%20&y")
        .header("host", "Echo.Example:8080")
        .header("x-b", "1")
        .header("x-a", "\"quoted\"")
        .header("x-b", "2")
        .body(Full::from("12345"))
        .unwrap();
    let report = json(http1(address, request).await).await;
    assert_eq!(report["instance"], "tester");
    assert_eq!(report["target"], "/a%2Fb/../c?x=%20&y");
    assert_eq!(report["method"], "POST");
    assert_eq!(report["version"], "HTTP/1.1");
    assert_eq!(report["host"], "Echo.Example:8080");
    assert_eq!(report["body_bytes"], 5);
    assert_eq!(report["local"], address.to_string());
    let fields = report["headers"].as_array().unwrap();
    assert_eq!(fields[0], serde_json::json!(["host", "Echo.Example:8080"]));
    assert!(fields.contains(&serde_json::json!(["x-b", "2"])));
    assert!(fields.contains(&serde_json::json!(["x-a", "\"quoted\""])));
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_served_on_the_same_port() {
    let address = started().await;
    let request = Request::get("http://h2.example/p?q")
        .body(Full::default())
        .unwrap();
    let response = http2(address, request).await;
    assert_eq!(response.headers()["x-echo-instance"], "tester");
    let report = json(response).await;
    assert_eq!(report["version"], "HTTP/2.0");
    assert_eq!(report["target"], "/p?q");
    assert_eq!(report["host"], "h2.example");
}

#[tokio::test]
async fn status_size_fields_and_trailers_come_as_wished() {
    let address = started().await;
    let target = "/?status=503&size=40000&chunks=3&header=X-One:1&trailer=X-Sum:9";
    let request = Request::get(target)
        .header("te", "trailers")
        .body(Full::default())
        .unwrap();
    let response = http1(address, request).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-one"], "1");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "9");
    assert_eq!(body.to_bytes().len(), 40_000);
}

#[tokio::test]
async fn a_large_filler_has_exactly_its_size() {
    let address = started().await;
    let request = Request::get("/?size=1000003")
        .body(Full::default())
        .unwrap();
    let body = http2(address, request_with_authority(request))
        .await
        .into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 1_000_003);
}

fn request_with_authority(request: Request<Full<bytes::Bytes>>) -> Request<Full<bytes::Bytes>> {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().unwrap().as_str();
    head.uri = format!("http://echo.example{target}").parse().unwrap();
    Request::from_parts(head, body)
}

#[tokio::test]
async fn grpc_messages_come_back_unchanged_with_status_in_the_trailers() {
    let address = started().await;
    let message: &[u8] = b"\x00\x00\x00\x00\x03abc\x00\x00\x00\x00\x01d";
    let request = Request::post("http://grpc.example/any.Service/Method")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(Full::from(message))
        .unwrap();
    let response = http2(address, request).await;
    assert_eq!(response.headers()["content-type"], "application/grpc+proto");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), message);
}

#[tokio::test]
async fn a_websocket_echoes_texts_binaries_and_pings_and_returns_the_close() {
    let address = started().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, response) =
        tokio_tungstenite::client_async(format!("ws://{address}/?report=1"), stream)
            .await
            .unwrap();
    assert_eq!(response.headers()["x-echo-instance"], "tester");
    let report = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(report.contains("sec-websocket-key"), "{report}");
    for message in [Message::text("hello"), Message::binary(vec![0, 255])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("beat".into())).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::Pong("beat".into())
    );
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert!(socket.next().await.is_none());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let address = started().await;
    let options = EchoOptions {
        listen: vec![address.to_string()],
        name: None,
    };
    let error = bind(&options).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn serving_ends_with_the_shutdown_and_frees_the_port() {
    let options = EchoOptions {
        listen: vec!["127.0.0.1:0".into()],
        name: None,
    };
    let echo = bind(&options).await.unwrap();
    let address = echo.addresses()[0];
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(echo.serve(async {
        stopped.await.ok();
    }));
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
