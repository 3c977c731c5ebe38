//! TLS handshakes of a listener: those of clients, and those by which a certificate authority
//! checks a host (TLS-ALPN-01, RFC 8737).
//!
//! Invariants: the two have configurations of their own. A client is never offered the protocol of
//! the authorities, and cannot resume into it; an authority never sees an ordinary certificate,
//! and after its handshake nothing is read. Which of the two it is says the `ClientHello` alone.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::challenge;
use crate::model::ServerId;
use crate::publish::Published;
use crate::tls::{self, AddressIndex};

/// The configurations of a listener. They live as long as it does.
pub(super) struct Handshakes {
    clients: Arc<ServerConfig>,
    authorities: Arc<ServerConfig>,
    addresses: AddressIndex,
}

/// Why there is nothing to serve after a handshake.
pub(super) enum Ended {
    /// An authority has seen the certificate for this server name. The connection is closed.
    Validated(Option<Box<str>>),
    /// An authority asked for a name without a challenge, or broke off.
    NotValidated,
    /// A client's handshake failed.
    Failed,
}

impl Handshakes {
    /// Those of a listener for this server.
    pub(super) fn new(published: &Published, server: ServerId) -> Result<Self, rustls::Error> {
        let challenges = published.challenges().clone();
        Ok(Self {
            clients: tls::server_config(published.clone(), server)?,
            authorities: challenge::server_config(challenges)?,
            addresses: published.addresses().clone(),
        })
    }

    /// Shakes hands with somebody who has reached this address. Bounded in time by the caller.
    pub(super) async fn accept<IO>(
        &self,
        stream: IO,
        reached: IpAddr,
    ) -> Result<TlsStream<IO>, Ended>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = start.await.map_err(|_| Ended::Failed)?;
        let hello = start.client_hello();
        if !of_authority(&hello) {
            let config = self.config(&hello, reached);
            let stream = start.into_stream(config).await;
            return stream.map_err(|_| Ended::Failed);
        }
        let stream = start.into_stream(Arc::clone(&self.authorities)).await;
        let mut stream = stream.map_err(|_| Ended::NotValidated)?;
        let name = stream.get_ref().1.server_name().map(tls::canonical_name);
        // It has seen what it came for; how it leaves is its own business.
        stream.shutdown().await.ok();
        Err(Ended::Validated(name))
    }

    /// A client without a server name wants an address: it gets the certificate of that address,
    /// where one has it.
    fn config(&self, hello: &ClientHello<'_>, reached: IpAddr) -> Arc<ServerConfig> {
        let named = hello.server_name().is_some();
        let own = (!named).then(|| self.addresses.certificate(reached));
        match own.flatten() {
            Some(certificate) => tls::with_certificate(&self.clients, certificate),
            None => Arc::clone(&self.clients),
        }
    }
}

/// Only who offers nothing else is an authority (RFC 8737, section 3).
fn of_authority(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(challenge::ALPN) && offered.next().is_none()
}
