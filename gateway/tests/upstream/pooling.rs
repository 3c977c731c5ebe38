//! How connections are kept, bounded and let go.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::error::Reason;
use gatehouse_gateway::model::{Settings, UpstreamProtocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::bench::{Bench, OK, closed, head, paused_worker, plan, read, say, settle, worker};

#[test]
fn an_endpoint_that_goes_away_loses_its_idle_connections_at_once() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        let address = bench.listener.local_addr().unwrap();
        let old = Arc::clone(&bench.cluster.endpoints()[0]);
        let client = async {
            assert_eq!(bench.text("GET").await.unwrap().1, "ok");
        };
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            say(&mut stream, OK).await;
            stream
        };
        let ((), mut idle) = tokio::join!(client, backend);
        bench.cluster.apply(plan(UpstreamProtocol::Http1, &[]));
        closed(&mut idle).await;
        // The same address again is another endpoint.
        bench
            .cluster
            .apply(plan(UpstreamProtocol::Http1, &[address]));
        assert!(old.is_gone());
        assert_ne!(bench.cluster.endpoints()[0].id, old.id);

        // An answer under way is finished, and its connection closed then.
        let client = async {
            let answer = bench.send("GET").await.1.unwrap();
            bench.cluster.apply(plan(UpstreamProtocol::Http1, &[]));
            assert_eq!(read(answer).await.unwrap(), "ok");
        };
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
            old.gone().await;
            bench.cluster.endpoints();
            settle().await;
            say(&mut stream, "k").await;
            closed(&mut stream).await;
        };
        tokio::join!(client, backend);
    });
}

#[test]
fn who_waits_for_an_endpoint_that_goes_away_is_sent_to_another() {
    worker(async {
        let mut settings = Settings::default();
        settings.limits.upstream_connections = 1;
        settings.limits.tries = 1;
        let bench = Rc::new(Bench::new(settings).await);
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ask = |method: &'static str| {
            let bench = Rc::clone(&bench);
            spawn_local(async move { bench.text(method).await })
        };
        let first = ask("POST");
        let mut old = bench.accept().await;
        head(&mut old).await;
        let waiting = ask("POST");
        settle().await;

        let moved = plan(UpstreamProtocol::Http1, &[other.local_addr().unwrap()]);
        bench.cluster.apply(moved);
        let mut new = other.accept().await.unwrap().0;
        head(&mut new).await;
        say(&mut new, OK).await;
        assert_eq!(waiting.await.unwrap().unwrap().1, "ok");

        say(&mut old, OK).await;
        assert_eq!(first.await.unwrap().unwrap().1, "ok");
        closed(&mut old).await;
        let none = tokio::time::timeout(Duration::ZERO, bench.listener.accept()).await;
        assert!(none.is_err(), "the old address is not asked again");
    });
}

#[test]
fn the_queue_is_bounded_and_served_in_order() {
    worker(async {
        let mut settings = Settings::default();
        settings.limits.upstream_connections = 1;
        settings.limits.upstream_pending = 2;
        let bench = Rc::new(Bench::new(settings).await);
        let order = Rc::new(RefCell::new(Vec::new()));
        let request = |number: usize| {
            let (bench, order) = (Rc::clone(&bench), Rc::clone(&order));
            spawn_local(async move {
                let result = bench.text("GET").await;
                order.borrow_mut().push(number);
                result.map(|(_, text)| text)
            })
        };
        let first = request(1);
        let mut stream = bench.accept().await;
        head(&mut stream).await;
        let (second, third) = (request(2), request(3));
        tokio::task::yield_now().await;
        assert_eq!(bench.text("GET").await, Err(Reason::Overloaded));
        for _ in 0..3 {
            say(&mut stream, OK).await;
            if order.borrow().len() < 2 {
                head(&mut stream).await;
            }
        }
        for task in [first, second, third] {
            assert_eq!(task.await.unwrap(), Ok("ok".to_owned()));
        }
        assert_eq!(
            *order.borrow(),
            [1, 2, 3],
            "one connection, first come first served"
        );
    });
}

#[test]
fn a_request_that_goes_away_leaves_its_dial_to_the_next() {
    worker(async {
        let bench = Bench::new(Settings::default()).await;
        for _ in 0..100 {
            let mut forward = Box::pin(bench.send("GET"));
            let once = std::future::poll_fn(|cx| std::task::Poll::Ready(forward.as_mut().poll(cx)));
            assert!(once.await.is_pending());
            drop(forward);
        }
        let client = async {
            assert_eq!(bench.text("GET").await.unwrap().1, "ok");
        };
        let backend = async {
            let mut stream = bench.accept().await;
            head(&mut stream).await;
            say(&mut stream, OK).await;
            stream
        };
        let _streams = tokio::join!(client, backend);
        settle().await;
        let none = tokio::time::timeout(Duration::ZERO, bench.listener.accept()).await;
        assert!(none.is_err(), "one dial for a hundred and one requests");
    });
}

#[test]
fn idle_connections_are_swept_and_only_young_ones_carry_what_cannot_be_repeated() {
    paused_worker(async {
        let bench = Bench::new(Settings::default()).await;
        let answer = async |stream: &mut TcpStream| {
            head(stream).await;
            say(stream, OK).await;
        };
        let backend = async {
            let mut stream = bench.accept().await;
            answer(&mut stream).await;
            stream
        };
        let (got, mut first) = tokio::join!(bench.text("GET"), backend);
        got.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        // Too old for a POST, good enough for a GET.
        let backend = async {
            let mut stream = bench.accept().await;
            answer(&mut stream).await;
            stream
        };
        let (got, mut second) = tokio::join!(bench.text("POST"), backend);
        got.unwrap();
        let (got, ()) = tokio::join!(bench.text("GET"), answer(&mut second));
        got.unwrap();
        tokio::time::advance(Duration::from_secs(51)).await;
        bench.upstream.sweep();
        closed(&mut first).await;
        let (got, ()) = tokio::join!(bench.text("GET"), answer(&mut second));
        got.unwrap();
        tokio::time::advance(Duration::from_secs(56)).await;
        bench.upstream.sweep();
        closed(&mut second).await;
    });
}
