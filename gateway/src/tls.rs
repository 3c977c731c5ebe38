//! Certificates for TLS: parsing, slots, and the choice by server name.
//!
//! Invariants: one `ServerConfig` per TLS policy lives as long as the listener, so session tickets
//! survive every change of configuration; what changes is the index that the certificate resolver
//! reads. A slot's content is swapped in place: a rotated certificate needs no new index and drops
//! no connection. Key material is never printed.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::model::{CertKey, CertificatePlan, HostPattern, ServerId};
use crate::publish::Published;

/// Why a certificate and its key cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More bytes than any real chain.
    #[error("{0} is larger than 64 KiB: give only the chain and its key")]
    TooLarge(&'static str),
    /// The chain is not PEM.
    #[error(
        "tls.crt is not PEM: it needs BEGIN CERTIFICATE blocks, the server's certificate first"
    )]
    ChainNotPem,
    /// No certificate in the chain.
    #[error("tls.crt holds no certificate: put the server's certificate first, then its issuers")]
    ChainEmpty,
    /// Too many certificates.
    #[error(
        "tls.crt holds more than 10 certificates: give the server's certificate and its issuers only"
    )]
    ChainTooLong,
    /// The first certificate does not parse.
    #[error("the first certificate of tls.crt is damaged: export it again")]
    ChainDamaged,
    /// No private key.
    #[error("tls.key holds no private key in PEM (PKCS#8, PKCS#1 or SEC1), unencrypted")]
    KeyMissing,
    /// The key is of a kind that cannot sign.
    #[error(
        "tls.key is damaged or of an unsupported type: use ECDSA P-256, P-384, RSA from 2048 bits, or Ed25519"
    )]
    KeyUnsupported,
    /// Key and certificate do not belong together.
    #[error(
        "tls.key does not belong to the first certificate of tls.crt: the pair must come from one issue"
    )]
    KeyMismatch,
}

/// Parses a certificate chain and its key, and checks that they fit.
pub fn parse_pair(
    key: CertKey,
    chain_pem: &[u8],
    key_pem: &[u8],
) -> Result<CertificatePlan, CertificateError> {
    if chain_pem.len() > LARGEST_PEM {
        return Err(CertificateError::TooLarge("tls.crt"));
    }
    if key_pem.len() > LARGEST_PEM {
        return Err(CertificateError::TooLarge("tls.key"));
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::ChainNotPem)?;
    if chain.len() > LONGEST_CHAIN {
        return Err(CertificateError::ChainTooLong);
    }
    let leaf = chain.first().ok_or(CertificateError::ChainEmpty)?;
    let facts = leaf_facts(leaf)?;
    let private =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertificateError::KeyMissing)?;
    let signer = aws_lc_rs::sign::any_supported_type(&private)
        .map_err(|_| CertificateError::KeyUnsupported)?;
    let fingerprint = fingerprint(&chain);
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // A signer that cannot name its public key cannot be compared; none of ours does so.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => return Err(CertificateError::KeyMismatch),
    }
    Ok(CertificatePlan {
        key,
        names: facts.names,
        addresses: facts.addresses,
        not_before: facts.not_before,
        not_after: facts.not_after,
        fingerprint,
        certified: Arc::new(certified),
    })
}

/// What is read of a server's certificate.
struct Leaf {
    names: Vec<Box<str>>,
    addresses: Vec<IpAddr>,
    not_before: i64,
    not_after: i64,
}

fn leaf_facts(leaf: &CertificateDer<'_>) -> Result<Leaf, CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| CertificateError::ChainDamaged)?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for name in alternative
        .iter()
        .flat_map(|found| &found.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase().into_boxed_str()),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    if alternative.is_none() {
        let common = certificate.subject().iter_common_name().next();
        let common = common.and_then(|name| name.as_str().ok());
        names.extend(common.map(|name| name.to_ascii_lowercase().into_boxed_str()));
    }
    let validity = certificate.validity();
    Ok(Leaf {
        names,
        addresses,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn fingerprint(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256);
    for certificate in chain {
        context.update(certificate);
    }
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    bytes
}

impl CertificatePlan {
    /// Whether the certificate is valid for this canonical host (or wildcard pattern, literally).
    pub fn covers(&self, host: &str) -> bool {
        let suffix = host.split_once('.').map(|(_, suffix)| suffix);
        self.names.iter().any(|name| {
            **name == *host
                || name
                    .strip_prefix("*.")
                    .is_some_and(|wild| Some(wild) == suffix)
        })
    }
}

type Slot = Arc<ArcSwapOption<CertifiedKey>>;

/// The certificates that may be served, by key. An empty slot serves the fallback.
pub struct CertSlots {
    slots: Mutex<HashMap<CertKey, Slot>>,
    fallback: Option<Arc<CertifiedKey>>,
}

impl CertSlots {
    /// No certificates yet, and a fresh self-signed fallback.
    pub fn new() -> Self {
        let fallback = self_signed();
        if fallback.is_none() {
            tracing::error!(
                "no self-signed certificate could be made: hosts without a certificate cannot be reached by TLS"
            );
        }
        Self {
            slots: Mutex::default(),
            fallback,
        }
    }

    /// Fills, replaces or empties a slot. Connections that are open keep what they have.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the slot takes the plan over"
    )]
    pub fn set(&mut self, key: CertKey, plan: Option<Arc<CertificatePlan>>) {
        let emptied = plan.is_none();
        self.slot(&key)
            .store(plan.map(|plan| Arc::clone(&plan.certified)));
        if emptied {
            // An index that still names the slot shares it with the map; others are forgotten.
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.load().is_some());
        }
    }

    /// A slot exists from the first time anybody names it, so the order of naming and filling does
    /// not matter.
    fn slot(&self, key: &CertKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

impl Default for CertSlots {
    fn default() -> Self {
        Self::new()
    }
}

fn self_signed() -> Option<Arc<CertifiedKey>> {
    let mut params = rcgen::CertificateParams::new(Vec::new()).ok()?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Gatehouse Default Certificate");
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    let key = rcgen::KeyPair::generate().ok()?;
    let certificate = params.self_signed(&key).ok()?;
    let pair = parse_pair(
        CertKey("self-signed".into()),
        certificate.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
    );
    pair.ok().map(|plan| plan.certified)
}

/// Which slot serves which name, compiled from the hosts of one virtual server.
pub struct TlsIndex {
    exact: HashMap<Arc<str>, Slot>,
    wildcard: HashMap<Arc<str>, Slot>,
    default: Slot,
    fallback: Option<Arc<CertifiedKey>>,
}

impl TlsIndex {
    /// Indexes all hosts; one without a certificate of its own is served the default.
    pub fn build<'a>(
        entries: impl Iterator<Item = (&'a HostPattern, Option<&'a CertKey>)>,
        slots: &CertSlots,
        default: Option<&CertKey>,
    ) -> Arc<Self> {
        let default = default.map_or_else(Slot::default, |key| slots.slot(key));
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (pattern, key) in entries {
            let slot = key.map_or_else(|| Arc::clone(&default), |key| slots.slot(key));
            match pattern {
                HostPattern::Exact(name) => exact.insert(Arc::clone(name), slot),
                HostPattern::Wildcard(suffix) => wildcard.insert(Arc::clone(suffix), slot),
                HostPattern::Any => None,
            };
        }
        Arc::new(Self {
            exact,
            wildcard,
            default,
            fallback: slots.fallback.clone(),
        })
    }

    fn find(&self, name: &str) -> Option<&Slot> {
        self.exact.get(name).or_else(|| {
            let (_, suffix) = name.split_once('.')?;
            self.wildcard.get(suffix)
        })
    }

    /// The certificate for a canonical server name, and whether any host has that name.
    pub fn certificate(&self, name: Option<&str>) -> (Option<Arc<CertifiedKey>>, bool) {
        let found = name.and_then(|name| self.find(name));
        let own = found.unwrap_or(&self.default).load_full();
        let certificate = own
            .or_else(|| self.default.load_full())
            .or_else(|| self.fallback.clone());
        (certificate, found.is_some())
    }

    /// Whether a request for `host` may come on a connection that was opened for `sni`
    /// (RFC 9110, section 7.4). The same certificate slot is the same policy; a client without SNI
    /// has asked for nobody.
    pub fn same_policy(&self, sni: Option<&str>, host: &str) -> bool {
        let Some(sni) = sni else { return true };
        let slot = |name| self.find(name).unwrap_or(&self.default);
        sni == host || Arc::ptr_eq(slot(sni), slot(host))
    }
}

/// Certificates for clients that name no host, by the address that they have reached; every clone
/// is the same index. It is read once for such a handshake, and has a swap of its own beside the
/// snapshot.
#[derive(Clone, Default)]
pub struct AddressIndex(Arc<ArcSwap<HashMap<IpAddr, Slot>>>);

impl AddressIndex {
    /// Replaces everything.
    pub(crate) fn store<'a>(
        &self,
        entries: impl Iterator<Item = (&'a IpAddr, &'a CertKey)>,
        slots: &CertSlots,
    ) {
        let index = entries.map(|(address, key)| (*address, slots.slot(key)));
        self.0.store(Arc::new(index.collect()));
    }

    /// The certificate for an address; `None`: the default one.
    pub fn certificate(&self, reached: IpAddr) -> Option<Arc<CertifiedKey>> {
        self.0.load().get(&reached.to_canonical())?.load_full()
    }
}

impl fmt::Debug for AddressIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.load().keys()).finish()
    }
}

/// The same configuration with this one certificate, whatever the client says. What else lives as
/// long as the listener (tickets, sessions) is shared.
pub(crate) fn with_certificate(
    config: &ServerConfig,
    certificate: Arc<CertifiedKey>,
) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(SingleCertAndKey::from(certificate));
    Arc::new(config)
}

impl fmt::Debug for TlsIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIndex")
            .field("exact", &self.exact.len())
            .field("wildcard", &self.wildcard.len())
            .finish_non_exhaustive()
    }
}

/// The TLS configuration of a listener. It stays for the listener's life; the certificate is
/// looked up in the current snapshot at each handshake.
pub fn server_config(
    published: Published,
    server: ServerId,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { published, server }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

struct Resolver {
    published: Published,
    server: ServerId,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.published.load();
        let name = hello.server_name().map(canonical_name);
        let (certificate, known) = snapshot
            .server(self.server)?
            .tls
            .certificate(name.as_deref());
        if snapshot.settings.tls.reject_unknown_names && !known {
            return None;
        }
        certificate
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A server name in the form that hosts are compared in.
pub fn canonical_name(name: &str) -> Box<str> {
    name.strip_suffix('.')
        .unwrap_or(name)
        .to_ascii_lowercase()
        .into_boxed_str()
}

const LARGEST_PEM: usize = 64 * 1024;
const LONGEST_CHAIN: usize = 10;
/// TLS 1.2 sessions kept for clients without tickets.
const SESSIONS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn plan(slot: &str, names: &[&str]) -> Arc<CertificatePlan> {
        let (chain, key) = pair(names);
        Arc::new(parse_pair(CertKey(slot.into()), chain.as_bytes(), key.as_bytes()).unwrap())
    }

    fn served(index: &TlsIndex, name: &str) -> Option<Arc<CertifiedKey>> {
        index.certificate(Some(name)).0
    }

    #[test]
    fn a_pair_that_fits_is_taken_and_its_names_are_read() {
        let plan = plan("ns/a", &["A.test", "*.b.test"]);
        assert!(plan.covers("a.test") && plan.covers("x.b.test") && plan.covers("*.b.test"));
        assert!(!plan.covers("b.test") && !plan.covers("x.y.b.test") && !plan.covers("c.test"));
        assert!(!format!("{plan:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let (chain, key) = pair(&["a.test"]);
        let (other, _) = pair(&["a.test"]);
        let parse = |chain: &str, key: &str| {
            parse_pair(CertKey("ns/a".into()), chain.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert_eq!(parse(&other, &key), CertificateError::KeyMismatch);
        assert_eq!(parse("nonsense", &key), CertificateError::ChainEmpty);
        assert_eq!(parse(&chain, "nonsense"), CertificateError::KeyMissing);
        assert_eq!(parse(&chain, &chain), CertificateError::KeyMissing);
        assert_eq!(
            parse(&chain.repeat(11), &key),
            CertificateError::ChainTooLong
        );
        assert_eq!(
            parse(&"x".repeat(70_000), &key),
            CertificateError::TooLarge("tls.crt")
        );
        let cut = chain.replace("-----END", "A\n-----END");
        assert!(parse_pair(CertKey("ns/a".into()), cut.as_bytes(), key.as_bytes()).is_err());
    }

    #[test]
    fn names_choose_exact_then_one_label_then_the_default() {
        let mut slots = CertSlots::new();
        let keys: Vec<CertKey> = ["e", "w", "d"].map(|key| CertKey(key.into())).into();
        let plans = [
            plan("e", &["a.x.test"]),
            plan("w", &["*.x.test"]),
            plan("d", &["d.test"]),
        ];
        let patterns = [
            HostPattern::Exact("a.x.test".into()),
            HostPattern::Wildcard("x.test".into()),
        ];
        let entries = patterns.iter().zip(keys.iter().map(Some));
        // Built before any slot is filled: filling needs no new index.
        let index = TlsIndex::build(entries, &slots, Some(&keys[2]));
        let fallback = served(&index, "a.x.test").unwrap();
        for (key, plan) in keys.iter().zip(&plans) {
            slots.set(key.clone(), Some(Arc::clone(plan)));
        }
        for (name, plan) in [
            ("a.x.test", &plans[0]),
            ("b.x.test", &plans[1]),
            ("x.test", &plans[2]),
            ("b.a.x.test", &plans[2]),
        ] {
            assert!(
                Arc::ptr_eq(&served(&index, name).unwrap(), &plan.certified),
                "{name}"
            );
        }
        slots.set(keys[0].clone(), None);
        assert!(Arc::ptr_eq(
            &served(&index, "a.x.test").unwrap(),
            &plans[2].certified
        ));
        assert!(!Arc::ptr_eq(&fallback, &plans[2].certified));
    }

    #[test]
    fn a_host_of_another_slot_is_misdirected() {
        let slots = CertSlots::new();
        let key = CertKey("own".into());
        let patterns = ["a.test", "b.test", "own.test", "own2.test"]
            .map(|name| HostPattern::Exact(name.into()));
        let keys = [None, None, Some(&key), Some(&key)];
        let index = TlsIndex::build(patterns.iter().zip(keys), &slots, None);
        for (sni, host, same) in [
            (None, "own.test", true),
            (Some("a.test"), "b.test", true),
            (Some("a.test"), "unknown.test", true),
            (Some("own.test"), "own2.test", true),
            (Some("a.test"), "own.test", false),
            (Some("own.test"), "a.test", false),
        ] {
            assert_eq!(index.same_policy(sni, host), same, "{sni:?} {host}");
        }
    }
}
