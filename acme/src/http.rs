//! Requests to authorities and DNS providers.
//!
//! Invariants:
//! - A request ends within [`DEADLINE`], connecting included; an answer is at most [`LARGEST`] long.
//! - Status, fields and content come back whole, whatever they are: judging them is the caller's.
//! - Redirects are not followed: a signed request is meant for one URL.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::time::timeout;

/// Longest time from the call to the last byte of the answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Longest answer: a chain of ten certificates has a tenth of this.
pub(crate) const LARGEST: usize = 256 * 1024;

/// Who we say we are; some authorities refuse a request without it.
pub(crate) const USER_AGENT: &str = concat!("gatehouse/", env!("CARGO_PKG_VERSION"));

/// A client with its pool of connections.
#[derive(Clone)]
pub(crate) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Name, connect, TLS, or a connection that broke. The text says which.
    Unreachable(String),
    /// The certificate of the other side is of nobody who is believed.
    Distrusted(String),
    /// Not within [`DEADLINE`].
    Deadline,
    /// Longer than [`LARGEST`].
    TooLong,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Distrusted(text) => {
                write!(formatter, "no answer: {text}")
            }
            Self::Deadline => write!(formatter, "no answer within {} s", DEADLINE.as_secs()),
            Self::TooLong => write!(formatter, "the answer is longer than {LARGEST} bytes"),
        }
    }
}

/// Which roots are believed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Roots<'a> {
    /// These, as PEM.
    Pem(&'a str),
    /// Those of the system.
    System,
    /// None: for conversations in plain text.
    Nobody,
}

impl Http {
    /// A client that believes these roots.
    pub(crate) fn new(roots: Roots<'_>) -> Result<Self, String> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(store(roots)?)
                .with_no_client_auth();
        config.enable_early_data = false;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(DEADLINE / 3));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(8)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        match timeout(DEADLINE, Box::pin(self.exchange(request))).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Deadline),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        let answer = self.0.request(request).await;
        let answer = answer.map_err(|error| {
            let failure = if is_distrust(&error) {
                Failure::Distrusted
            } else {
                Failure::Unreachable
            };
            failure(causes(&error))
        })?;
        let (parts, body) = answer.into_parts();
        let body = match Limited::new(body, LARGEST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(Failure::TooLong),
            Err(error) => return Err(Failure::Unreachable(causes(&*error))),
        };
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

fn store(roots: Roots<'_>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::Nobody => return Ok(store),
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Roots::Pem(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| format!("the CA bundle is no PEM: {error}"))?;
                let added = store.add(certificate);
                added.map_err(|error| format!("a certificate of the CA bundle: {error}"))?;
            }
        }
    }
    if store.is_empty() {
        return Err(match roots {
            Roots::Pem(_) => "there is no certificate in the CA bundle".to_owned(),
            _ => "this system has no root certificate to believe: name one in caBundle".to_owned(),
        });
    }
    Ok(store)
}

/// Whether nobody who is believed vouches for the certificate of the other side.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::Error::InvalidCertificate;
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(InvalidCertificate(CertificateError::UnknownIssuer)) = cause.downcast_ref() {
            return true;
        }
        // What is wrapped into an I/O error is not behind it, but in its place.
        let inside = cause.downcast_ref().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => cause.source(),
        };
    }
    false
}

/// An error with everything behind it: "client error (Connect)" alone says nothing.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// Text from outside, as it is kept and shown: without control characters, at most `limit` bytes.
pub(crate) fn shown(text: &str, limit: usize) -> String {
    let mut kept = String::new();
    for character in text.chars() {
        if kept.len() + character.len_utf8() > limit {
            break;
        }
        kept.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    kept
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn text_from_outside_is_cut_between_characters_and_has_no_control_characters() {
        assert_eq!(shown("ab\r\nc\u{1b}[1m", 100), "ab  c [1m");
        assert_eq!(shown("aéé", 4), "aé");
    }

    #[tokio::test]
    async fn who_is_not_believed_is_not_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let itself = |name: &str| {
            let params = rcgen::CertificateParams::new(["localhost".to_owned()]);
            let mut params = params.expect("a name");
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().expect("a key");
            (params.self_signed(&key).expect("a certificate"), key)
        };
        let (shown, key) = itself("authority");
        let (chain, key) = (vec![shown.into()], key.into());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocols")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a configuration");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            acceptor.accept(socket).await.is_ok()
        });
        let root = itself("another").0.pem();
        let http = Http::new(Roots::Pem(&root)).expect("a client");
        let ask = || {
            let request = Request::get(format!("https://localhost:{port}/"));
            http.send(request.body(Full::default()).expect("a request"))
        };
        let failure = ask().await.expect_err("another root");
        assert!(matches!(failure, Failure::Distrusted(_)), "{failure:?}");
        assert!(!server.await.expect("a server"));
        let failure = ask().await.expect_err("nobody listens any more");
        assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused() {
        let error = Http::new(Roots::Pem("nothing")).err().expect("refused");
        assert!(error.contains("CA bundle"), "{error}");
    }
}
