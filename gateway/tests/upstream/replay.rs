//! When a connection is used again, and when a request is sent again.

use std::net::Ipv4Addr;

use gatehouse_gateway::error::Reason;
use gatehouse_gateway::model::{Settings, UpstreamProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::bench::{Bench, OK, closed, head, plan, read, say, sending, settle, worker};

#[test]
fn a_connection_is_used_again_for_every_framing() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let answers = [
            OK,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
            OK,
        ];
        let client = async {
            for expected in ["ok", "ok", "", "", &"x".repeat(100_000), "ok"] {
                assert_eq!(bench.text("GET").await.unwrap().1, expected);
            }
        };
        let backend = async {
            let mut stream = bench.accept().await;
            for answer in answers {
                let head = head(&mut stream).await;
                assert!(head.starts_with("GET /path?query HTTP/1.1\r\n"), "{head}");
                say(&mut stream, answer).await;
                if answer.contains("100000") {
                    say(&mut stream, &"x".repeat(100_000)).await;
                }
            }
        };
        tokio::join!(client, backend);
        assert_eq!(bench.cluster.endpoints()[0].load(), 0);
    });
}

#[test]
fn a_get_on_a_connection_that_dies_is_sent_once_more_and_a_post_is_not() {
    worker(async {
        for (method, requests) in [("GET", 2), ("POST", 1), ("PURGE", 1)] {
            let bench = Bench::new(Settings::default()).await;
            let client = async {
                assert_eq!(bench.text("GET").await.unwrap().1, "ok");
                let (attempts, answer) = bench.send(method).await;
                assert_eq!(attempts.tries, requests, "{method}");
                assert_eq!(answer.is_ok(), requests == 2, "{method}");
                if let Err(error) = answer {
                    assert_eq!(error.reason, Reason::UpstreamReset);
                }
            };
            let backend = async {
                let mut first = bench.accept().await;
                head(&mut first).await;
                say(&mut first, OK).await;
                head(&mut first).await;
                drop(first);
                if requests == 2 {
                    let mut second = bench.accept().await;
                    head(&mut second).await;
                    say(&mut second, OK).await;
                }
            };
            tokio::join!(client, backend);
        }
    });
}

#[test]
fn two_dead_connections_are_the_end_of_it() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let client = async {
            let (attempts, answer) = bench.send("GET").await;
            assert_eq!(attempts.tries, 2);
            assert_eq!(answer.unwrap_err().reason, Reason::UpstreamReset);
        };
        let backend = async {
            for _ in 0..2 {
                head(&mut bench.accept().await).await;
            }
        };
        tokio::join!(client, backend);
    });
}

#[test]
fn a_connection_closed_while_idle_costs_no_try_even_for_a_post() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let client = async {
            assert_eq!(bench.text("GET").await.unwrap().1, "ok");
            settle().await;
            let (attempts, answer) = bench.send("POST").await;
            assert_eq!(read(answer.unwrap()).await.unwrap(), "ok");
            assert_eq!(attempts.tries, 1);
        };
        let backend = async {
            let mut first = bench.accept().await;
            head(&mut first).await;
            say(&mut first, OK).await;
            drop(first);
            let mut second = bench.accept().await;
            assert!(head(&mut second).await.starts_with("POST"));
            say(&mut second, OK).await;
        };
        tokio::join!(client, backend);
    });
}

#[test]
fn stray_bytes_on_an_idle_connection_answer_nobody() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let client = async {
            assert_eq!(bench.text("GET").await.unwrap().1, "ok");
            settle().await;
            assert_eq!(bench.text("POST").await.unwrap().1, "ok");
        };
        let backend = async {
            let mut first = bench.accept().await;
            head(&mut first).await;
            let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
            say(&mut first, &format!("{OK}{poison}")).await;
            let mut second = bench.accept().await;
            head(&mut second).await;
            say(&mut second, OK).await;
            closed(&mut first).await;
        };
        tokio::join!(client, backend);
    });
}

#[test]
fn connecting_fails_over_to_another_endpoint_for_any_method() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let refused = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            listener.local_addr().unwrap()
        };
        let live = bench.listener.local_addr().unwrap();
        bench
            .cluster
            .apply(plan(UpstreamProtocol::Http1, &[live, refused]));
        let client = async {
            let mut tries = 0;
            for _ in 0..2 {
                let (attempts, answer) = bench.send("POST").await;
                assert_eq!(attempts.endpoint, Some(live));
                read(answer.unwrap()).await.unwrap();
                tries += attempts.tries;
            }
            assert_eq!(tries, 3, "each endpoint is first once");
            bench
                .cluster
                .apply(plan(UpstreamProtocol::Http1, &[refused]));
            assert_eq!(bench.text("GET").await, Err(Reason::ConnectFailed));
            bench.cluster.apply(plan(UpstreamProtocol::Http1, &[]));
            assert_eq!(bench.text("GET").await, Err(Reason::NoEndpoints));
        };
        let backend = async {
            // A retry asks for a fresh connection, so there may be two.
            let serve = async || {
                let mut stream = bench.accept().await;
                spawn_local(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        say(&mut stream, OK).await;
                    }
                });
            };
            loop {
                serve().await;
            }
        };
        tokio::select! {
            () = client => {}
            () = backend => {}
        }
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_body_ends_the_connection() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let (body, mut sender) =
            sending("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc").await;
        let mut request = bench.request("POST", Some(Box::new(body)));
        request
            .head
            .headers
            .insert("content-length", "9".parse().unwrap());
        let client = async {
            let answer = bench.upstream.forward(request).await.1.unwrap();
            assert_eq!(read(answer).await.unwrap(), "ok");
            assert_eq!(bench.text("GET").await.unwrap().1, "ok");
        };
        let backend = async {
            let mut first = bench.accept().await;
            head(&mut first).await;
            say(&mut first, OK).await;
            let mut second = bench.accept().await;
            assert!(head(&mut second).await.starts_with("GET"));
            say(&mut second, OK).await;
            let mut rest = Vec::new();
            drop(first.read_to_end(&mut rest).await);
            assert_eq!(rest, b"abc", "nothing after the answer");
        };
        tokio::join!(client, backend);
        drop(sender.shutdown().await);
    });
}

#[test]
fn a_body_that_the_client_breaks_off_is_the_clients_fault_and_stays_incomplete() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let (body, sender) =
            sending("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
                .await;
        let request = bench.request("PUT", Some(Box::new(body)));
        let client = async {
            let (attempts, answer) = bench.upstream.forward(request).await;
            assert_eq!(answer.unwrap_err().reason, Reason::BodyBroken);
            assert_eq!(attempts.tries, 1);
        };
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            let mut chunk = [0; 8];
            stream.read_exact(&mut chunk).await.unwrap();
            assert_eq!(&chunk, b"3\r\nabc\r\n");
            drop(sender);
            closed(&mut stream).await;
        };
        tokio::join!(client, backend);
    });
}
