//! HTTP/2 and TLS to the endpoints.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gatehouse_gateway::error::Reason;
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{Settings, UpstreamProtocol};
use gatehouse_gateway::upstream::Upstream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::bench::{Bench, OK, head, plan, say, sending, worker};

/// Serves HTTP/2 on every connection, with trailers after the body.
async fn serve_h2c(listener: &TcpListener) {
    loop {
        let stream = listener.accept().await.unwrap().0;
        let service = service_fn(async |request: Request<hyper::body::Incoming>| {
            let authority = request.uri().authority().map(ToString::to_string);
            let sent = request.into_body().collect().await?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let text = format!("{authority:?} {}", sent.to_bytes().len());
            let body = http_body_util::Full::new(Bytes::from(text))
                .with_trailers(std::future::ready(Some(Ok(trailers))));
            Ok::<_, hyper::Error>(Response::new(body))
        });
        spawn_local(
            hyper::server::conn::http2::Builder::new(Local)
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A bench whose endpoint speaks HTTP/2, and an upstream with counters of its own.
async fn h2c_bench() -> (Bench, Arc<Metrics>, Rc<Upstream>) {
    let bench = Bench::new(Settings::default()).await;
    let address = bench.listener.local_addr().unwrap();
    bench.cluster.apply(plan(UpstreamProtocol::H2c, &[address]));
    let metrics = Metrics::new();
    let upstream = Upstream::new(Arc::clone(&metrics));
    (bench, metrics, upstream)
}

#[test]
fn http2_is_multiplexed_with_bodies_and_trailers() {
    worker(async {
        let (bench, metrics, upstream) = h2c_bench().await;
        let client = async {
            let (body, sender) =
                sending("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
            let mut pending = vec![bench.request("POST", Some(Box::new(body)))];
            for _ in 0..20 {
                pending.push(bench.request("GET", None));
            }
            let mut answers = Vec::new();
            for request in pending {
                let upstream = Rc::clone(&upstream);
                answers.push(spawn_local(async move {
                    let answer = upstream.forward(request).await.1.unwrap();
                    answer.response.into_body().collect().await.unwrap()
                }));
            }
            for (index, answer) in answers.into_iter().enumerate() {
                let answer = answer.await.unwrap();
                assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
                let length = if index == 0 { 3 } else { 0 };
                let expected = format!("Some(\"shop.test\") {length}");
                assert_eq!(answer.to_bytes(), expected);
            }
            drop(sender);
        };
        tokio::select! {
            () = client => {}
            () = serve_h2c(&bench.listener) => {}
        }
        assert_eq!(metrics.plain.upstream_connects.get(), 1);
        assert_eq!(bench.cluster.endpoints()[0].load(), 0);
    });
}

#[test]
fn a_shared_connection_to_an_endpoint_that_left_gets_no_new_streams() {
    worker(async {
        let (bench, metrics, upstream) = h2c_bench().await;
        let address = bench.listener.local_addr().unwrap();
        let ask = async || {
            let request = bench.request("GET", None);
            let answer = upstream.forward(request).await.1.unwrap();
            answer.response.into_body().collect().await.unwrap();
        };
        let client = async {
            // One request stays under way for as long as its body does.
            let (body, mut sender) =
                sending("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab").await;
            let request = bench.request("POST", Some(Box::new(body)));
            let running = {
                let upstream = Rc::clone(&upstream);
                spawn_local(async move {
                    let answer = upstream.forward(request).await.1.unwrap();
                    answer.response.into_body().collect().await.unwrap()
                })
            };
            ask().await;
            ask().await;
            assert_eq!(metrics.plain.upstream_connects.get(), 1);
            bench.cluster.apply(plan(UpstreamProtocol::H2c, &[]));
            bench.cluster.apply(plan(UpstreamProtocol::H2c, &[address]));
            ask().await;
            ask().await;
            assert_eq!(metrics.plain.upstream_connects.get(), 2);
            sender.write_all(b"c").await.unwrap();
            let answer = running.await.unwrap().to_bytes();
            assert_eq!(answer, "Some(\"shop.test\") 3");
        };
        tokio::select! {
            () = client => {}
            () = serve_h2c(&bench.listener) => {}
        }
        assert_eq!(metrics.plain.upstream_connects.get(), 2);
    });
}

#[test]
fn a_refused_stream_was_not_processed_and_is_sent_again() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let address = bench.listener.local_addr().unwrap();
        bench.cluster.apply(plan(UpstreamProtocol::H2c, &[address]));
        let backend = async {
            let mut connection = h2::server::handshake(bench.accept().await).await.unwrap();
            let (_, mut refused) = connection.accept().await.unwrap().unwrap();
            refused.send_reset(h2::Reason::REFUSED_STREAM);
            let (_, mut served) = connection.accept().await.unwrap().unwrap();
            served.send_response(Response::new(()), true).unwrap();
            let (_, mut reset) = connection.accept().await.unwrap().unwrap();
            reset.send_reset(h2::Reason::INTERNAL_ERROR);
            // Drives the connection until the client lets go of it.
            assert!(connection.accept().await.is_none_or(|next| next.is_err()));
        };
        let client = async {
            let (attempts, answer) = bench.send("POST").await;
            assert_eq!(answer.unwrap().response.status(), StatusCode::OK);
            assert_eq!(attempts.tries, 2);
            let (attempts, answer) = bench.send("POST").await;
            assert_eq!(answer.unwrap_err().reason, Reason::UpstreamReset);
            assert_eq!(attempts.tries, 1);
            bench.cluster.apply(plan(UpstreamProtocol::H2c, &[]));
        };
        tokio::join!(client, backend);
    });
}

/// A TLS server with a certificate that nobody signed.
fn self_signed(protocol: &str) -> tokio_rustls::TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["pod".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

#[test]
fn tls_to_endpoints_speaks_what_the_protocol_says_and_never_shares_connections() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let address = bench.listener.local_addr().unwrap();
        let client = async {
            for protocol in [
                UpstreamProtocol::Http1,
                UpstreamProtocol::Https,
                UpstreamProtocol::H2,
            ] {
                bench.cluster.apply(plan(protocol, &[address]));
                assert_eq!(
                    bench.text("GET").await.unwrap().0,
                    StatusCode::OK,
                    "{protocol:?}"
                );
            }
        };
        let backend = async {
            let mut plain = bench.accept().await;
            head(&mut plain).await;
            say(&mut plain, OK).await;

            let tls = self_signed("http/1.1").accept(bench.accept().await).await;
            let mut tls = tls.unwrap();
            assert_eq!(
                tls.get_ref().1.server_name(),
                None,
                "no name for an address"
            );
            let mut bytes = vec![0; 1024];
            let read = tls.read(&mut bytes).await.unwrap();
            assert!(bytes[..read].starts_with(b"GET /path?query HTTP/1.1\r\n"));
            tls.write_all(OK.as_bytes()).await.unwrap();

            let tls = self_signed("h2")
                .accept(bench.accept().await)
                .await
                .unwrap();
            let mut connection = h2::server::handshake(tls).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().scheme_str(), Some("https"));
            respond.send_response(Response::new(()), true).unwrap();
            drop(connection.accept().await);
        };
        tokio::select! {
            () = client => {}
            () = backend => panic!("the backend ended first"),
        }
    });
}
