//! Keys, CSRs and downloaded chains.
//!
//! Invariants:
//! - A chain is accepted only if its leaf has our key and exactly our names, is valid now, and each
//!   certificate is signed by the next.
//! - A CSR carries names in its extension only: no common name, which limits length and is ignored.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, RsaKeySize, SanType};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use crate::clock::SKEW;
use crate::issuers::KeyKind;
use crate::names::Name;
use crate::record::Material;
use crate::schedule::{Life, later};
use crate::secrets::Secret;

/// A new key, PKCS#8 as PEM. RSA takes long: not for a thread that others wait for.
pub fn generate(kind: KeyKind) -> Result<Secret, String> {
    let pair = match kind {
        KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Rsa2048 => rsa(RsaKeySize::_2048),
        KeyKind::Rsa3072 => rsa(RsaKeySize::_3072),
        KeyKind::Rsa4096 => rsa(RsaKeySize::_4096),
    };
    let pair = pair.map_err(|error| format!("no key: {error}"))?;
    Ok(Secret::new(pair.serialize_pem()))
}

fn rsa(size: RsaKeySize) -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size)
}

/// A pair that nobody ever serves, to try out whether one can be stored: signed by itself, and as large as
/// a certificate of a hundred names with its chain.
pub fn stand_in() -> Result<Material, String> {
    let failed = |error: rcgen::Error| format!("no certificate to try it out with: {error}");
    let label = "x".repeat(40);
    let names: Vec<String> = (0..100)
        .map(|each| format!("{each}.{label}.invalid"))
        .collect();
    let pair = KeyPair::generate().map_err(failed)?;
    let params = CertificateParams::new(names).map_err(failed)?;
    let certificate = params.self_signed(&pair).map_err(failed)?;
    Ok(Material {
        chain: pem("CERTIFICATE", certificate.der()).repeat(2),
        key: Secret::new(pair.serialize_pem()),
    })
}

/// A CSR (DER) for a key in PEM.
pub fn csr(key: &Secret, names: &[Name]) -> Result<Vec<u8>, String> {
    let pair = pair(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in names {
        params.subject_alt_names.push(match name {
            Name::Ip(address) => SanType::IpAddress(*address),
            Name::Dns(name) => {
                let name = name.as_str().try_into();
                SanType::DnsName(name.map_err(|error| format!("{error}"))?)
            }
        });
    }
    let request = params
        .serialize_request(&pair)
        .map_err(|error| format!("no CSR: {error}"))?;
    Ok(request.der().to_vec())
}

fn pair(key: &Secret) -> Result<KeyPair, String> {
    let text = key.text().ok_or("the stored key is no PEM")?;
    KeyPair::from_pem(text).map_err(|_| format!("the stored key: {}", refusal(text).why))
}

/// Why a private key cannot be used, and what to do.
#[derive(Debug)]
pub(crate) struct NoKey {
    pub(crate) why: String,
    pub(crate) remedy: &'static str,
}

impl NoKey {
    fn new(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            remedy: "give the private key of the certificate, as PEM",
        }
    }

    fn locked() -> Self {
        Self {
            why: "it is encrypted with a password".to_owned(),
            remedy: "decrypt it first, for instance with `openssl pkey -in F -out G`",
        }
    }
}

/// Why a key in PEM does not load. Only of RSA keys does the library say more than that.
fn refusal(text: &str) -> NoKey {
    let der = Zeroizing::new(der(text).unwrap_or_default());
    let said = [RsaKeyPair::from_pkcs8(&der), RsaKeyPair::from_der(&der)]
        .map(|read| read.map_or_else(|error| error.to_string(), |_| String::new()));
    let said = |word: &str| said.iter().any(|said| said == word);
    if said("TooSmall") {
        return NoKey {
            why: "it is an RSA key of less than 2048 bits, which is too short".to_owned(),
            remedy: "import a certificate whose key has at least 2048 bits",
        };
    }
    if said("TooLarge") {
        return NoKey {
            why: "it is an RSA key of more than 8192 bits, which is too long".to_owned(),
            remedy: "import a certificate whose key has at most 8192 bits",
        };
    }
    NoKey::new("it does not load: it is damaged, or neither RSA nor ECDSA")
}

/// Checks a downloaded chain against what was ordered; returns the leaf's identifier and dates. The
/// error says what is wrong.
pub fn check(chain: &str, key: &Secret, names: &[Name], now: Timestamp) -> Result<Life, String> {
    let ders = ders(chain)?;
    let mut certificates = Vec::with_capacity(ders.len());
    for der in &ders {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("a certificate of the chain does not parse: {error}"))?;
        if !rest.is_empty() {
            return Err("a certificate of the chain has bytes behind its end".to_owned());
        }
        certificates.push(certificate);
    }
    let leaf = certificates
        .first()
        .ok_or("there is no block CERTIFICATE")?;
    let own = pair(key)?.subject_public_key_info();
    if leaf.public_key().raw != own {
        return Err("the certificate is for another key".to_owned());
    }
    let wanted: BTreeSet<&Name> = names.iter().collect();
    let found = names_of(leaf)?;
    if found.iter().collect::<BTreeSet<_>>() != wanted {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        return Err(format!("the certificate is for {}", found.join(", ")));
    }
    let life = life(leaf)?;
    if life.not_after <= now || life.not_before > later(now, TOLERANCE) {
        return Err(format!(
            "the certificate is valid from {} to {}, and it is {now}",
            life.not_before, life.not_after
        ));
    }
    for (below, above) in certificates.iter().zip(certificates.iter().skip(1)) {
        if below.issuer() != above.subject() {
            return Err(format!(
                "the chain does not fit: {} is not issued by {}",
                below.subject(),
                above.subject()
            ));
        }
        below
            .verify_signature(Some(above.public_key()))
            .map_err(|_| format!("{} is not signed by {}", below.subject(), above.subject()))?;
    }
    Ok(life)
}

/// Names of the first certificate of a chain, sorted, each once.
pub fn names_in(chain: &str) -> Result<Vec<Name>, String> {
    let ders = ders(chain)?;
    let der = ders.first().ok_or("there is no block CERTIFICATE")?;
    let (_, leaf) = X509Certificate::from_der(der)
        .map_err(|error| format!("the first certificate of the chain does not parse: {error}"))?;
    let names: BTreeSet<Name> = names_of(&leaf)?.into_iter().collect();
    Ok(names.into_iter().collect())
}

/// The kind of key that the first certificate of a chain is for.
pub fn kind_of(chain: &str) -> Result<KeyKind, String> {
    let der = leaf_der(chain).ok_or("there is no block CERTIFICATE")?;
    let (_, leaf) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    let parsed = leaf.public_key().parsed();
    match parsed.map_err(|error| format!("the key of the certificate: {error}"))? {
        PublicKey::EC(point) if point.key_size() == 256 => Ok(KeyKind::P256),
        PublicKey::EC(point) if point.key_size() == 384 => Ok(KeyKind::P384),
        PublicKey::RSA(key) => match key.key_size() {
            ..3072 => Ok(KeyKind::Rsa2048),
            3072..4096 => Ok(KeyKind::Rsa3072),
            _ => Ok(KeyKind::Rsa4096),
        },
        _ => Err("the key of the certificate is neither RSA, nor P-256, nor P-384".to_owned()),
    }
}

/// The one private key in a text, without what stands around it. One that is returned loads.
pub(crate) fn single_key(text: &Secret) -> Result<Secret, NoKey> {
    // The older form says so in a line of its own (RFC 1421), which is no base64.
    let locked = |line: &str| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED");
    if text.text().is_some_and(|text| text.lines().any(locked)) {
        return Err(NoKey::locked());
    }
    let mut found = None;
    for block in Pem::iter_from_buffer(text.expose()) {
        let block = block.map_err(|_| NoKey::new("it is no PEM"))?;
        if block.label == "ENCRYPTED PRIVATE KEY" {
            return Err(NoKey::locked());
        }
        if block.label.ends_with("PRIVATE KEY")
            && found.replace(pem(&block.label, &block.contents)).is_some()
        {
            return Err(NoKey::new("there is more than one PRIVATE KEY in it"));
        }
    }
    let found = found.ok_or_else(|| NoKey::new("there is no block PRIVATE KEY in it"))?;
    match KeyPair::from_pem(&found) {
        Ok(_) => Ok(Secret::new(found)),
        Err(_) => Err(refusal(&found)),
    }
}

/// A chain as it is written here: without texts between the certificates.
pub fn certificates_only(chain: &str) -> Result<String, String> {
    let ders = ders(chain)?;
    Ok(ders.iter().map(|der| pem("CERTIFICATE", der)).collect())
}

/// Identifier and dates of the first certificate of a chain.
pub fn life_of(chain: &str) -> Result<Life, String> {
    let ders = ders(chain)?;
    let der = ders.first().ok_or("there is no block CERTIFICATE")?;
    let (_, leaf) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    life(&leaf)
}

/// Common name of the issuer at the end of a chain: its root.
pub fn root_of(chain: &str) -> Option<String> {
    let ders = ders(chain).ok()?;
    let (_, last) = X509Certificate::from_der(ders.last()?).ok()?;
    let name = last.issuer().iter_common_name().next()?;
    Some(name.as_str().ok()?.to_owned())
}

/// Who signed a certificate that only holds the place of one: itself, or nobody in particular.
pub(crate) fn placeholder(chain: &str) -> Option<String> {
    let der = leaf_der(chain)?;
    let (_, leaf) = X509Certificate::from_der(&der).ok()?;
    if leaf.subject() == leaf.issuer() {
        return Some("itself".to_owned());
    }
    let mut names = leaf.issuer().iter_common_name();
    let name = names.find_map(|name| name.as_str().ok())?;
    (name == TEMPORARY).then(|| format!("{name}, cert-manager's signer of temporary certificates"))
}

/// Serial number of the first certificate, hexadecimal, two digits for each byte: what `openssl x509 -serial`
/// prints, in small letters.
pub fn serial_of(chain: &str) -> Option<String> {
    let ders = ders(chain).ok()?;
    let (_, leaf) = X509Certificate::from_der(ders.first()?).ok()?;
    // DER puts a zero byte before a number that would be negative without (X.690, section 8.3): it is no part
    // of the number, and neither authorities nor tools show it.
    let number = match leaf.raw_serial() {
        [0, rest @ ..] if !rest.is_empty() => rest,
        number => number,
    };
    let hex = |byte: &u8| format!("{byte:02x}");
    Some(number.iter().map(hex).collect())
}

fn life(leaf: &X509Certificate<'_>) -> Result<Life, String> {
    // `99991231235959Z` is no end (RFC 5280, section 4.1.2.5), and later than any time here.
    let time = |seconds: i64| {
        let seconds = seconds.min(Timestamp::MAX.as_second());
        Timestamp::from_second(seconds).map_err(|_| "a date out of range".to_owned())
    };
    // An authority key identifier is what RFC 9773 is built on; a private authority may lack it.
    let authority =
        leaf.extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.clone(),
                _ => None,
            });
    let authority = authority.map_or_else(String::new, |key| URL_SAFE_NO_PAD.encode(key.0));
    Ok(Life {
        cert_id: format!("{authority}.{}", URL_SAFE_NO_PAD.encode(leaf.raw_serial())),
        not_before: time(leaf.validity().not_before.timestamp())?,
        not_after: time(leaf.validity().not_after.timestamp())?,
    })
}

fn names_of(leaf: &X509Certificate<'_>) -> Result<Vec<Name>, String> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| error.to_string())?
        .ok_or("the certificate has no names")?;
    let mut found = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                found.push(Name::parse(name).map_err(|error| error.to_string())?);
            }
            GeneralName::IPAddress(bytes) => found.push(Name::Ip(address(bytes)?)),
            other => {
                return Err(format!(
                    "the certificate has a name of another kind: {other}"
                ));
            }
        }
    }
    Ok(found)
}

fn address(bytes: &[u8]) -> Result<std::net::IpAddr, String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(Into::into)
        .map_err(|_| "an address of a wrong length".to_owned())
}

fn ders(chain: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(chain.as_bytes()) {
        let block = block.map_err(|error| format!("the chain is no PEM: {error}"))?;
        if block.label != "CERTIFICATE" {
            return Err(format!("the chain holds a {:?}", block.label));
        }
        found.push(block.contents);
        if found.len() > LONGEST_CHAIN {
            return Err(format!(
                "the chain has more than {LONGEST_CHAIN} certificates"
            ));
        }
    }
    Ok(found)
}

/// DER of the first certificate of a chain.
pub fn leaf_der(chain: &str) -> Option<Vec<u8>> {
    ders(chain).ok()?.into_iter().next()
}

/// One block of PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// Bytes of the first block of PEM.
pub(crate) fn der(text: &str) -> Option<Vec<u8>> {
    let block = Pem::iter_from_buffer(text.as_bytes()).next()?.ok()?;
    Some(block.contents)
}

/// The same for places that take small letters only, such as names of objects.
pub fn small_fingerprint(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let mut text = String::with_capacity(32);
    for byte in hash.as_ref().iter().take(16) {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A short name for bytes.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..15).unwrap_or_default())
}

/// What is ordered with a clock that is behind is taken with it, too.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(SKEW.as_secs() + 60);

const LONGEST_CHAIN: usize = 10;

/// What cert-manager signs with until the authority has issued, if it is asked for that by the annotation
/// `cert-manager.io/issue-temporary-certificate`.
const TEMPORARY: &str = "cert-manager.local";

#[cfg(test)]
mod tests;
