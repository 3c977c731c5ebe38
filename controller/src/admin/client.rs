//! Asks the admin server of a running gateway.
//!
//! Invariants: an answer is bounded in size and time; every error names the address and the flag.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

use crate::run::Failure;

/// The admin server at an address.
#[derive(Debug)]
pub(crate) struct Client {
    address: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whether the status is a success.
    pub(crate) good: bool,
    pub(crate) body: String,
}

impl Client {
    /// Of a value of `--admin`.
    pub(crate) fn new(admin: &str) -> Result<Self, Failure> {
        // No address has the sign. The value is not repeated: there may be a password in it, and where
        // it begins and ends is not known.
        if admin.contains('@') {
            return Err(Failure::Usage(
                "invalid value for '--admin <URL>': the admin port takes no user and no password; leave \
                 out what stands up to the '@', as in http://127.0.0.1:9091"
                    .to_owned(),
            ));
        }
        let bad = || {
            Failure::Usage(format!(
                "invalid value '{admin}' for '--admin <URL>': write for example http://127.0.0.1:9091"
            ))
        };
        let base = if admin.contains("://") {
            admin.to_owned()
        } else {
            format!("http://{admin}")
        };
        let base: Uri = base.parse().map_err(|_| bad())?;
        let authority = base.authority().ok_or_else(bad)?;
        if base.scheme_str() != Some("http") {
            return Err(bad());
        }
        if !matches!(base.path(), "" | "/") || base.query().is_some() {
            return Err(Failure::Usage(format!(
                "invalid value '{admin}' for '--admin <URL>': the admin port has its pages at no other path; \
                 leave out what follows the address, as in http://{authority}"
            )));
        }
        let behind = authority.as_str().strip_prefix(authority.host());
        let address = match behind.and_then(|behind| behind.strip_prefix(':')) {
            Some(port) if is_port(port) => authority.as_str().to_owned(),
            Some(port) => {
                return Err(Failure::Usage(format!(
                    "invalid value '{admin}' for '--admin <URL>': '{port}' is no port, which is a number \
                     from 1 to 65535; write for example http://127.0.0.1:9091"
                )));
            }
            None => format!("{authority}:80"),
        };
        Ok(Self { address })
    }

    /// The body of a page; anything but success is a failure in the words of the server.
    pub(crate) fn get(&self, target: &str) -> Result<String, Failure> {
        self.ask(Method::GET, target, None, PATIENCE)
    }

    /// The answer to a command, whose body is JSON.
    pub(crate) fn post(&self, target: &str, body: &serde_json::Value) -> Result<String, Failure> {
        let body = body.to_string();
        self.ask(Method::POST, target, Some(body), COMMAND)
    }

    fn ask(
        &self,
        method: Method,
        target: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<String, Failure> {
        let address = &self.address;
        let answer = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::System(error.to_string()))?
            .block_on(async { timeout(patience, asked(address, method, target, body)).await });
        match answer {
            Ok(Ok(answer)) if answer.good => Ok(answer.body),
            Ok(Ok(answer)) => Err(Failure::System(answer.body.trim_end().to_owned())),
            Ok(Err(message)) => Err(Failure::System(format!(
                "the gateway at {address} (--admin) cannot be asked: {message}; start it, or name the \
                 address that its ready line gives for admin"
            ))),
            Err(_) => Err(Failure::System(format!(
                "the gateway at {address} (--admin) does not answer; name the address that its ready \
                 line gives for admin"
            ))),
        }
    }
}

fn is_port(text: &str) -> bool {
    // A sign would be taken as part of the number.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && text.parse::<u16>().is_ok_and(|port| port != 0)
}

async fn asked(
    address: &str,
    method: Method,
    target: &str,
    body: Option<String>,
) -> Result<Answer, String> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, address);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| error.to_string())?;
    let (status, body) = exchange(address, request, MAX_ANSWER).await?;
    let good = status.is_success();
    Ok(Answer { good, body })
}

/// One request on a connection of its own, whose answer may have so many bytes. Who asks bounds the
/// time.
pub(crate) async fn exchange(
    address: impl ToSocketAddrs,
    request: Request<Full<Bytes>>,
    largest: usize,
) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), largest).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let driven = async {
        // The exchange sees the end of the connection, too.
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driven => never,
    }
}

/// How long to wait for a page.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for a command: the gateway may have to ask the authority.
const COMMAND: Duration = Duration::from_secs(90);

/// Largest answer.
const MAX_ANSWER: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_asked_is_told_with_the_shape_to_write() {
        for (admin, parts) in [
            (
                "http://127.0.0.1:99999",
                ["'http://127.0.0.1:99999'", "'99999' is no port"],
            ),
            ("127.0.0.1:", ["'127.0.0.1:'", "'' is no port"]),
            ("[::1]:99999", ["'[::1]:99999'", "'99999' is no port"]),
            (
                "http://127.0.0.1:0",
                ["'http://127.0.0.1:0'", "'0' is no port"],
            ),
            (
                "http://u:hunter@127.0.0.1:1",
                ["takes no user", "leave out"],
            ),
            ("u:hunter@127.0.0.1:1", ["takes no user", "leave out"]),
            (
                "http://u:hunter@127.0.0.1:99999/x",
                ["takes no user", "leave out"],
            ),
            (
                "http://u:hun ter@127.0.0.1:1",
                ["takes no user", "leave out"],
            ),
            (
                "https://u:hunter@127.0.0.1:1",
                ["takes no user", "leave out"],
            ),
            (
                "https://127.0.0.1:1",
                ["'https://127.0.0.1:1'", "http://127.0.0.1:9091"],
            ),
        ] {
            let Err(Failure::Usage(text)) = Client::new(admin) else {
                panic!("{admin} is taken");
            };
            assert!(text.contains("for '--admin <URL>'"), "{text}");
            assert!(text.contains("http://127.0.0.1"), "{text}");
            assert!(
                parts.iter().all(|part| text.contains(part)),
                "{admin}: {text}"
            );
            assert!(!text.contains("hun"), "{text}");
        }
        for (admin, address) in [
            ("http://127.0.0.1:9091/", "127.0.0.1:9091"),
            ("gate.test", "gate.test:80"),
            ("http://[::1]", "[::1]:80"),
            ("[::1]:1", "[::1]:1"),
        ] {
            let client = Client::new(admin);
            assert_eq!(
                client.map(|client| client.address).ok().as_deref(),
                Some(address)
            );
        }
    }
}
