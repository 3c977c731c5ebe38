//! Asks one of our own replicas what an authority is about to ask it, at its own address: no name is
//! looked up, and no balancer is on the way.
//!
//! Invariant: bounded in time and size; what the other end says is compared and never shown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::board::Posted;
use crate::ca::ChallengeKind;
use crate::names::Name;

/// Whether the replica whose listener is at `address` gives the posted answer. The error says what it
/// does instead.
pub async fn ask(address: SocketAddr, posted: &Posted) -> Result<(), String> {
    let Err(why) = ask_with("", address, posted).await else {
        return Ok(());
    };
    // It may take us for one of the balancers in front of it.
    let proxied = ask_with(PROXIED, address, posted).await;
    proxied.map_err(|_| why)
}

/// Whether a server at `address` answers a greeting of TLS for this name with TLS, if only with a
/// refusal: what anybody's certificate is worth is not looked at.
pub async fn speaks_tls(address: SocketAddr, name: &Name) -> io::Result<bool> {
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    let config = config
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
    let mut greeting = Vec::new();
    ClientConnection::new(Arc::new(config), name)
        .map_err(io::Error::other)?
        .write_tls(&mut greeting)?;
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(&greeting).await?;
    let mut head = [0; 2];
    // One that hangs up has not spoken at all.
    let read = socket.read_exact(&mut head).await;
    Ok(read.is_ok() && matches!(head, [ALERT | HANDSHAKE, 3]))
}

async fn ask_with(greeting: &str, address: SocketAddr, posted: &Posted) -> Result<(), String> {
    let asked = async {
        let socket = connect(greeting, address).await?;
        match posted.kind {
            ChallengeKind::Http01 => http(socket, posted).await,
            ChallengeKind::TlsAlpn01 => handshake(socket, posted).await,
            ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => Ok(()),
        }
    };
    let answered = timeout(PATIENCE, asked).await;
    answered.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")))
}

async fn http(mut socket: TcpStream, posted: &Posted) -> Result<(), String> {
    let host = match &posted.name {
        Name::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        name => name.to_string(),
    };
    let request = format!(
        "GET /.well-known/acme-challenge/{} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gatehouse\r\n\
         Connection: close\r\n\r\n",
        posted.token
    );
    let sent = socket.write_all(request.as_bytes()).await;
    sent.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = socket.take(LARGEST).read_to_end(&mut answer).await;
    read.map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" if body == posted.answer => Ok(()),
        "200" => Err("it answers something else".to_owned()),
        _ => {
            let digits: String = status.chars().filter(char::is_ascii_digit).collect();
            Err(format!("it answers with status {digits}"))
        }
    }
}

async fn handshake(socket: TcpStream, posted: &Posted) -> Result<(), String> {
    let name = posted.name.server_name().ok_or("it has no server name")?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Shown(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let secured = connector.connect(name, socket).await;
    let secured = secured.map_err(|error| format!("the handshake fails: {error}"))?;
    let (_, session) = secured.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let right = session.alpn_protocol() == Some(PROTOCOL)
        && shown.and_then(digest).as_ref() == Some(&posted.answer);
    if right {
        return Ok(());
    }
    Err("it shows another certificate".to_owned())
}

async fn connect(greeting: &str, address: SocketAddr) -> Result<TcpStream, String> {
    let opened = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(greeting.as_bytes()).await?;
        Ok(socket)
    };
    opened.await.map_err(|error: io::Error| error.to_string())
}

/// The digest in the extension of RFC 8737, as on the board.
fn digest(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut extensions = parsed.extensions().iter();
    let found = extensions.find(|each| each.oid.to_id_string() == IDENTIFIER)?;
    // An octet string of 32 bytes.
    let digest = found.value.strip_prefix(&[4, 32])?;
    Some(crate::board::to_hex(digest.try_into().ok()?))
}

/// Takes any certificate: its digest is what is looked at, and it proves that it has its key.
#[derive(Debug)]
struct Shown(Arc<CryptoProvider>);

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Not offered: our own replicas speak TLS 1.3.
        Err(rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // By the bare key: the extension of the challenge is critical, and known to nobody else.
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) = parsed.map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The PROXY protocol for a connection that is nobody else's.
const PROXIED: &str = "PROXY UNKNOWN\r\n";
/// Types of records of TLS, whose versions all begin with 3.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const PROTOCOL: &[u8] = b"acme-tls/1";
/// `id-pe-acmeIdentifier`.
const IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: u64 = 8 << 10;
