//! Answers that are hostile, late or switch protocols.

use std::time::Duration;

use gatehouse_gateway::error::Reason;
use gatehouse_gateway::model::Settings;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, OK, closed, head, paused_worker, read, say, worker};

#[test]
fn hostile_answers_become_502_or_are_made_plain() {
    let bad: Result<(StatusCode, String), Reason> = Err(Reason::UpstreamProtocol);
    let fine = |body: &str| Ok((StatusCode::OK, body.to_owned()));
    let cases = vec![
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            fine("a"),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
            fine("ok"),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551617\r\n\r\nok",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
            bad.clone(),
        ),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            bad.clone(),
        ),
        ("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", bad.clone()),
        ("HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n", bad.clone()),
        (
            "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 0\r\n\r\n",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 0\r\n\r\n",
            bad.clone(),
        ),
        (
            "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
            bad.clone(),
        ),
        ("just text\r\n\r\n", bad),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            Err(Reason::UpstreamUpgrade),
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
            Err(Reason::UpstreamReset),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Err(Reason::UpstreamReset),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nuntil close", fine("until close")),
    ];
    worker(async move {
        for (answer, expected) in cases {
            let bench = Bench::new(Settings::default()).await;
            let client = async { bench.text("POST").await };
            let backend = async {
                let mut stream = bench.accept().await;
                head(&mut stream).await;
                say(&mut stream, answer).await;
            };
            let (got, ()) = tokio::join!(client, backend);
            assert_eq!(got, expected, "{answer:?}");
        }
    });
}

#[test]
fn a_hundred_fields_pass_and_more_of_them_when_settings_say_so() {
    worker(async {
        for (allowed, fields, expected) in [
            (100, 100, Ok(100)),
            (100, 101, Err(Reason::UpstreamProtocol)),
            (151, 151, Ok(151)),
            (151, 152, Err(Reason::UpstreamProtocol)),
        ] {
            let mut settings = Settings::default();
            settings.limits.header_fields = allowed;
            let bench = Bench::new(settings).await;
            let backend = async {
                let mut stream = bench.accept().await;
                head(&mut stream).await;
                let cookies = "set-cookie: a=b\r\n".repeat(fields - 1);
                say(
                    &mut stream,
                    &format!("HTTP/1.1 200 OK\r\n{cookies}content-length: 0\r\n\r\n"),
                )
                .await;
            };
            let (answer, ()) = tokio::join!(bench.send("GET"), backend);
            let got = answer.1.map(|answer| answer.response.headers().len());
            assert_eq!(got.map_err(|error| error.reason), expected, "{fields}");
        }
    });
}

#[test]
fn an_upgrade_gets_a_connection_of_its_own_and_only_the_protocol_it_asked_for() {
    worker(async {
        for (named, expected) in [
            ("websocket", Ok(StatusCode::SWITCHING_PROTOCOLS)),
            ("foo", Err(Reason::UpstreamUpgrade)),
        ] {
            let bench = Bench::new(Settings::default()).await;
            let mut request = bench.request("GET", None);
            request.upgrade = true;
            request
                .head
                .headers
                .insert("connection", "upgrade".parse().unwrap());
            request
                .head
                .headers
                .insert("upgrade", "websocket".parse().unwrap());
            let client = async {
                assert_eq!(bench.text("GET").await.unwrap().1, "ok");
                let result = bench.upstream.forward(request).await.1;
                let status = result.as_ref().map(|answer| answer.response.status());
                assert_eq!(status.map_err(|error| error.reason), expected);
                if let Ok(mut answer) = result {
                    let tunnel = answer.upgraded.take().unwrap().await.unwrap();
                    let mut tunnel = TokioIo::new(tunnel);
                    tunnel.write_all(b"ping").await.unwrap();
                    let mut echo = [0; 4];
                    tunnel.read_exact(&mut echo).await.unwrap();
                    assert_eq!(&echo, b"ping");
                }
            };
            let backend = async {
                let mut pooled = bench.accept().await;
                head(&mut pooled).await;
                say(&mut pooled, OK).await;
                let mut stream = bench.accept().await;
                assert!(head(&mut stream).await.contains("upgrade: websocket"));
                say(&mut stream, &format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {named}\r\n\r\n"
                )).await;
                if expected.is_ok() {
                    let mut bytes = [0; 4];
                    stream.read_exact(&mut bytes).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
                closed(&mut stream).await;
            };
            tokio::join!(client, backend);
        }
    });
}

#[test]
fn an_upgrade_that_is_refused_is_an_ordinary_answer_and_not_pooled() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let mut request = bench.request("GET", None);
        request.upgrade = true;
        request
            .head
            .headers
            .insert("upgrade", "websocket".parse().unwrap());
        let client = async {
            let answer = bench.upstream.forward(request).await.1.unwrap();
            assert!(answer.upgraded.is_none());
            assert_eq!(read(answer).await.unwrap(), "ok");
        };
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            say(&mut stream, OK).await;
            closed(&mut stream).await;
        };
        tokio::join!(client, backend);
    });
}

#[test]
fn every_wait_for_an_endpoint_ends() {
    paused_worker(async {
        for (said, expected) in [
            ("", Reason::UpstreamTimeout),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Reason::UpstreamTimeout),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
                Reason::UpstreamTimeout,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                Reason::UpstreamTimeout,
            ),
        ] {
            let mut settings = Settings::default();
            settings.timeouts.upstream_response = Duration::from_secs(4);
            settings.timeouts.upstream_body = Duration::from_secs(4);
            let bench = Bench::new(settings).await;
            let started = tokio::time::Instant::now();
            let client = async {
                assert_eq!(bench.text("GET").await, Err(expected), "{said}");
            };
            let backend = async {
                let mut stream = bench.accept().await;
                head(&mut stream).await;
                say(&mut stream, said).await;
                closed(&mut stream).await;
            };
            tokio::join!(client, backend);
            assert!(started.elapsed() >= Duration::from_secs(4));
        }
    });
}

#[test]
fn endless_interim_answers_are_no_answer() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000);
            while stream.write_all(flood.as_bytes()).await.is_ok() {}
        };
        let (got, ()) = tokio::join!(bench.text("GET"), backend);
        assert_eq!(got, Err(Reason::UpstreamProtocol));
    });
}
