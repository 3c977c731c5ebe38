//! Throw-away certificates, and a TLS client that takes whatever certificate it is shown.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

use x509_parser::extensions::GeneralName;

use crate::raw::{self, Client, Wire};

/// TLS 1.2 and 1.3.
pub const VERSIONS: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

/// A self-signed certificate and its key, as PEM.
pub struct Pair {
    /// Certificate.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl Pair {
    /// Makes one for these names; the first is its common name.
    pub fn new(names: &[&str]) -> Self {
        Self::until(names, 4000)
    }

    /// The same, valid to the end of this year.
    pub fn until(names: &[&str], year: i32) -> Self {
        let key = KeyPair::generate().expect("key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names");
        params.not_after = date_time_ymd(year, 12, 31);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, &names[0]);
        let certificate = params.self_signed(&key).expect("certificate");
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// How to shake hands.
#[derive(Clone)]
pub struct Handshake {
    /// Server name; `None` sends none.
    pub name: Option<String>,
    config: Arc<ClientConfig>,
}

impl Handshake {
    /// TLS 1.2 or 1.3, ALPN `http/1.1`.
    pub fn new(name: &str) -> Self {
        Self::with(Some(name), &["http/1.1"], rustls::ALL_VERSIONS)
    }

    /// ALPN `h2`.
    pub fn h2(name: &str) -> Self {
        Self::with(Some(name), &["h2"], rustls::ALL_VERSIONS)
    }

    /// Everything chosen.
    pub fn with(
        name: Option<&str>,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        config.enable_sni = name.is_some();
        let client = Self {
            name: name.map(str::to_owned),
            config: Arc::new(config),
        };
        client.offering(protocols)
    }

    /// The same client, its sessions included, with another offer.
    pub fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Self {
            name: self.name.clone(),
            config: Arc::new(config),
        }
    }

    /// The rustls configuration, for asynchronous clients.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name to connect with.
    pub fn server_name(&self) -> ServerName<'static> {
        let name = self.name.clone().unwrap_or_else(|| "none.test".into());
        ServerName::try_from(name).expect("a server name")
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr) -> io::Result<Secured> {
        self.over(raw::connect(address)?)
    }

    /// Shakes hands over a connected socket.
    pub fn over(&self, mut socket: TcpStream) -> io::Result<Secured> {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session =
            ClientConnection::new(self.config(), self.server_name()).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Secured(StreamOwned::new(session, socket)))
    }
}

/// A TLS connection.
pub struct Secured(StreamOwned<ClientConnection, TcpStream>);

impl Secured {
    /// The certificate that was served.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.0.conn.peer_certificates().expect("a certificate");
        chain[0].clone().into_owned()
    }

    /// Common name of the certificate that was served.
    pub fn common_name(&self) -> String {
        let chain = self.0.conn.peer_certificates().expect("a certificate");
        common_name(&chain[0])
    }

    /// DNS names of the certificate that was served.
    pub fn names(&self) -> Vec<String> {
        let chain = self.0.conn.peer_certificates().expect("a certificate");
        dns_names(&chain[0])
    }

    /// Protocol version.
    pub fn version(&self) -> ProtocolVersion {
        self.0
            .conn
            .protocol_version()
            .expect("a finished handshake")
    }

    /// The protocol that ALPN chose.
    pub fn protocol(&self) -> String {
        String::from_utf8_lossy(self.0.conn.alpn_protocol().unwrap_or_default()).into_owned()
    }

    /// Name of the key exchange group.
    pub fn group(&self) -> String {
        let group = self.0.conn.negotiated_key_exchange_group();
        group
            .map(|group| format!("{:?}", group.name()))
            .unwrap_or_default()
    }

    /// Whether a session was resumed.
    pub fn resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// As an HTTP/1 client.
    pub fn client(self) -> Client {
        Client::over(Box::new(self))
    }
}

impl Read for Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Wire for Secured {
    fn socket(&self) -> &TcpStream {
        &self.0.sock
    }
}

/// Common name of a certificate's subject.
pub fn common_name(der: &CertificateDer<'_>) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let name = certificate.subject().iter_common_name().next();
    name.and_then(|name| name.as_str().ok())
        .unwrap_or_default()
        .to_owned()
}

/// DNS names of a certificate.
pub fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed_by(certificate, message, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed_by(certificate, message, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Checks the signature of a handshake. rustls would parse the certificate for that, and refuse
/// critical extensions such as the one of a TLS-ALPN-01 validation.
fn signed_by(
    certificate: &CertificateDer<'_>,
    message: &[u8],
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let key = &certificate.public_key().subject_public_key.data;
    let known = aws_lc_rs::default_provider().signature_verification_algorithms;
    let schemes = known.mapping.iter();
    schemes
        .filter(|(scheme, _)| *scheme == signature.scheme)
        .flat_map(|(_, algorithms)| *algorithms)
        .any(|algorithm| {
            let checked = algorithm.verify_signature(key, message, signature.signature());
            checked.is_ok()
        })
        .then(HandshakeSignatureValid::assertion)
        .ok_or_else(|| rustls::Error::General("not signed by the certificate".into()))
}
