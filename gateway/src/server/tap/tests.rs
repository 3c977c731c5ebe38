//! Every deadline of the tap, on paused time.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

impl Taken for DuplexStream {
    fn taken(&self) -> u64 {
        0
    }
}

/// Like a TLS session: takes everything at once and passes it on when flushed.
#[derive(Debug)]
struct Buffering {
    stream: DuplexStream,
    held: Vec<u8>,
    taken: u64,
}

impl AsyncRead for Buffering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.held.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.held))?;
            this.held.drain(..written);
            this.taken += written as u64;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Taken for Buffering {
    fn taken(&self) -> u64 {
        self.taken
    }
}

fn deadlines() -> Deadlines {
    Deadlines {
        first_byte: Duration::from_secs(10),
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        body: Duration::from_secs(30),
        write: Duration::from_secs(30),
    }
}

fn tap(size: usize) -> (Tap<DuplexStream>, DuplexStream, Arc<Flow>) {
    let (near, far) = duplex(size);
    let flow = Flow::new();
    let scan = Some(HeadScan::new(16 * 1024).0);
    (
        Tap::new(near, scan, Arc::clone(&flow), deadlines()),
        far,
        flow,
    )
}

async fn seconds_until_error(tap: &mut Tap<DuplexStream>) -> u64 {
    let start = Instant::now();
    let mut buffer = [0; 64];
    loop {
        if let Err(error) = tap.read(&mut buffer).await {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            return start.elapsed().as_secs();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_after_the_first_byte_deadline() {
    let (mut tap, _far, _flow) = tap(64);
    assert_eq!(seconds_until_error(&mut tap).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_gets_408() {
    let (mut tap, mut far, flow) = tap(512);
    far.write_all(b"GET / HTTP/1.1\r\nX-Slow").await.unwrap();
    assert_eq!(seconds_until_error(&mut tap).await, 10);
    assert!(flow.head_timed_out());
    drop(tap);
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408 "));
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
}

#[tokio::test(start_paused = true)]
async fn the_idle_clock_stands_while_a_request_is_served() {
    let (mut tap, mut far, flow) = tap(512);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(tap.read(&mut buffer).await.unwrap(), 18);
    flow.enter();
    let served = async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        flow.leave();
    };
    let (waited, ()) = tokio::join!(seconds_until_error(&mut tap), served);
    assert_eq!(waited, 360);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut() {
    let (mut tap, _far, _flow) = tap(16);
    let start = Instant::now();
    assert!(tap.write_all(&[0; 64]).await.is_err());
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_silent_http2_client_is_cut_before_and_within_its_preface() {
    for sent in [&b""[..], b"PRI * HTTP"] {
        let (near, mut far) = duplex(64);
        let mut tap = Tap::new(near, None, Flow::new(), deadlines());
        far.write_all(sent).await.unwrap();
        assert_eq!(seconds_until_error(&mut tap).await, 10, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipelined_head_has_its_time_from_the_answer_before_it() {
    let (mut tap, mut far, flow) = tap(512);
    far.write_all(b"GET / HTTP/1.1\r\n\r\nGET /b")
        .await
        .unwrap();
    let mut buffer = [0; 64];
    assert_eq!(tap.read(&mut buffer).await.unwrap(), 24);
    flow.enter();
    tokio::time::advance(Duration::from_secs(50)).await;
    flow.leave();
    assert_eq!(seconds_until_error(&mut tap).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_keeps_its_connection_and_its_idle_time() {
    let (near, mut far) = duplex(16);
    let stream = Buffering {
        stream: near,
        held: Vec::new(),
        taken: 0,
    };
    let mut tap = Tap::new(
        stream,
        Some(HeadScan::new(16 * 1024).0),
        Flow::new(),
        deadlines(),
    );
    tap.write_all(&[0; 64]).await.unwrap();
    let reading = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            far.read_exact(&mut [0; 16]).await.unwrap();
        }
    };
    // The flush takes 60 s; it moves every 20 s.
    let (flushed, ()) = tokio::join!(tap.flush(), reading);
    flushed.unwrap();
    tap.flow.enter();
    tap.flow.leave();
    // The wait is over: it must not count against what comes next.
    let start = Instant::now();
    assert!(tap.read(&mut [0; 16]).await.is_err());
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_a_client_that_is_still_sending() {
    for (sent, waits) in [
        (
            &b"POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\nabc"[..],
            true,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", false),
    ] {
        let (mut tap, mut far, _flow) = tap(512);
        far.write_all(sent).await.unwrap();
        let length = tap.read(&mut [0; 64]).await.unwrap();
        assert_eq!(length, sent.len());
        far.write_all(&[b'x'; 400]).await.unwrap();
        let start = Instant::now();
        tap.shutdown().await.unwrap();
        let waited = start.elapsed() >= LINGER;
        assert_eq!(waited, waits);
    }
}

/// A tap that has read a whole request, which is being served, and the client's side.
async fn serving() -> (Tap<Buffering>, DuplexStream, Arc<Flow>) {
    let (near, mut far) = duplex(512);
    let flow = Flow::new();
    let stream = Buffering {
        stream: near,
        held: Vec::new(),
        taken: 0,
    };
    let scan = Some(HeadScan::new(16 * 1024).0);
    let mut tap = Tap::new(stream, scan, Arc::clone(&flow), deadlines());
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(tap.read(&mut [0; 64]).await.unwrap(), 18);
    flow.enter();
    (tap, far, flow)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_is_served_is_soon_gone() {
    let (mut tap, mut far, _flow) = serving().await;
    far.shutdown().await.unwrap();
    let start = Instant::now();
    assert_eq!(tap.read(&mut [0; 64]).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), GONE.as_secs());

    let (mut tap, mut far, flow) = serving().await;
    flow.comes_from_a_proxy();
    far.shutdown().await.unwrap();
    let start = Instant::now();
    assert_eq!(tap.read(&mut [0; 64]).await.unwrap(), 0);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_closed_its_side_may_take_its_answer() {
    let (mut tap, mut far, flow) = serving().await;
    far.shutdown().await.unwrap();
    let start = Instant::now();
    let taking = async {
        // Behind the tap's back, as a system takes bytes whenever there is room.
        for _ in 0..10 {
            tokio::time::sleep(GONE / 2).await;
            tap.write_all(b"more").await.unwrap();
            tap.flush().await.unwrap();
            let mut buffer = [0; 64];
            let ended = tokio::time::timeout(Duration::ZERO, tap.read(&mut buffer)).await;
            assert!(ended.is_err(), "after {:?}", start.elapsed());
        }
    };
    taking.await;
    flow.leave();
    assert_eq!(tap.read(&mut [0; 64]).await.unwrap(), 0, "at once");
    assert_eq!(start.elapsed(), 10 * (GONE / 2));
}
