//! A well-behaved HTTP/2 client: prior knowledge or over TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio_rustls::TlsConnector;

use crate::raw;
use crate::tls::{self, Handshake};

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Fields.
    pub headers: HeaderMap,
    /// Content.
    pub body: Vec<u8>,
    /// Trailer fields, empty when there were none.
    pub trailers: HeaderMap,
}

impl Answer {
    /// First value of a field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Content as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON expected: {self:?}"))
    }
}

/// One connection.
pub struct Session {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    /// Common name of the certificate that was served.
    pub common_name: Option<String>,
    /// DNS names of that certificate.
    pub names: Vec<String>,
}

impl Session {
    /// Connects: with prior knowledge, or over TLS with ALPN `h2`.
    pub fn open(address: SocketAddr, tls: Option<&Handshake>) -> Self {
        Self::over(raw::connect(address).expect("connect to the gateway"), tls)
    }

    /// The same over a connected socket.
    pub fn over(socket: std::net::TcpStream, tls: Option<&Handshake>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let tls = tls.cloned();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (sender, common_name, names) = runtime.block_on(async move {
            socket.set_nonblocking(true).expect("a socket for tokio");
            let socket = TcpStream::from_std(socket).expect("a socket for tokio");
            let Some(tls) = tls else {
                return (handshake(socket).await, None, Vec::new());
            };
            let connector = TlsConnector::from(tls.config());
            let stream = connector
                .connect(tls.server_name(), socket)
                .await
                .expect("TLS handshake");
            let chain = stream
                .get_ref()
                .1
                .peer_certificates()
                .expect("a certificate");
            let (name, names) = (tls::common_name(&chain[0]), tls::dns_names(&chain[0]));
            (handshake(stream).await, Some(name), names)
        });
        Self {
            runtime,
            sender,
            scheme,
            common_name,
            names,
        }
    }

    /// Whether the server takes another request: it does until it has sent a GOAWAY or is gone.
    pub fn is_open(&self) -> bool {
        let sender = self.sender.clone();
        self.runtime.block_on(sender.ready()).is_ok()
    }

    /// A GET.
    pub fn get(&mut self, host: &str, path: &str) -> Result<Answer, h2::Error> {
        self.send("GET", host, path, &[], b"")
    }

    /// Many GETs at the same time.
    pub fn get_all(&mut self, host: &str, paths: &[String]) -> Vec<Result<Answer, h2::Error>> {
        let sender = self.sender.clone();
        let requests: Vec<Request<()>> = paths
            .iter()
            .map(|path| {
                Request::get(format!("{}://{host}{path}", self.scheme))
                    .body(())
                    .expect("a request")
            })
            .collect();
        self.runtime.block_on(async move {
            let mut waiting = Vec::new();
            for request in requests {
                let mut sender = sender.clone().ready().await.expect("a connection");
                let (answer, _) = sender.send_request(request, true).expect("a stream");
                waiting.push(tokio::spawn(async move { collect(answer.await?).await }));
            }
            let mut answers = Vec::new();
            for answer in waiting {
                answers.push(answer.await.expect("a task"));
            }
            answers
        })
    }

    /// A POST that is not finished yet.
    pub fn begin(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Open {
        let uri = format!("{}://{host}{path}", self.scheme);
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let sender = self.sender.clone();
        let (answer, content) = self.runtime.block_on(async move {
            let mut sender = sender.ready().await.expect("a connection");
            sender.send_request(request, false).expect("a stream")
        });
        Open {
            runtime: self.runtime.handle().clone(),
            answer,
            content,
        }
    }

    /// Any request. Content is sent in one piece, without trailers.
    #[expect(clippy::too_many_arguments, reason = "the parts of a request")]
    pub fn send(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, h2::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}://{host}{path}", self.scheme));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let sender = self.sender.clone();
        let body = Bytes::copy_from_slice(body);
        self.runtime.block_on(async move {
            let mut sender = sender.ready().await?;
            let (answer, mut stream) = sender.send_request(request, body.is_empty())?;
            if !body.is_empty() {
                send_all(&mut stream, body, true).await?;
            }
            collect(answer.await?).await
        })
    }
}

/// A request whose content is not all sent yet.
pub struct Open {
    runtime: Handle,
    answer: ResponseFuture,
    content: SendStream<Bytes>,
}

impl Open {
    /// Sends a part of the content.
    pub fn say(&mut self, part: &[u8]) -> Result<(), h2::Error> {
        let part = Bytes::copy_from_slice(part);
        self.runtime
            .block_on(send_all(&mut self.content, part, false))
    }

    /// Sends the last part and reads the answer.
    pub fn finish(mut self, part: &[u8]) -> Result<Answer, h2::Error> {
        let part = Bytes::copy_from_slice(part);
        self.runtime.block_on(async {
            send_all(&mut self.content, part, true).await?;
            collect(self.answer.await?).await
        })
    }
}

async fn send_all(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    last: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let Some(room) = room.transpose()? else {
            return Ok(());
        };
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, last && body.is_empty())?;
    }
    Ok(())
}

async fn handshake<T>(stream: T) -> SendRequest<Bytes>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::handshake(stream)
        .await
        .expect("HTTP/2 handshake");
    tokio::spawn(async move {
        // How a connection ended is seen by its streams.
        connection.await.ok();
    });
    sender
}

async fn collect(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers,
    })
}
