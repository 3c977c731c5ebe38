//! The certificate that answers TLS-ALPN-01 (RFC 8737).
//!
//! Made where it is served, of what the board tells everybody: no private key travels. Self-signed,
//! with the one name and the digest of the key authorization in a critical extension; so it is good
//! for nothing but this challenge.
//!
//! rustls refuses to build a key from it the usual way, which reads the certificate and stops at the
//! critical extension: use `rustls::sign::CertifiedKey::new`.

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::names::Name;

/// The one protocol that is offered to such a certificate.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// A certificate for one challenge, and its key, made just now.
pub fn certificate(
    name: &Name,
    digest: &[u8; 32],
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let subject = match name {
        Name::Dns(name) => {
            let name = name.as_str().try_into();
            SanType::DnsName(name.map_err(|_| "the name is no ASCII text".to_owned())?)
        }
        Name::Ip(address) => SanType::IpAddress(*address),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![subject];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let made = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .and_then(|key| Ok((params.self_signed(&key)?, key)));
    let (certificate, key) = made.map_err(|error| format!("no challenge certificate: {error}"))?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((certificate.into(), key.into()))
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::oid_registry::asn1_rs::{Oid, oid};

    use super::*;

    #[test]
    fn the_digest_is_in_a_critical_extension_and_the_name_is_the_only_one() {
        let identifier: Oid<'_> = oid!(1.3.6.1.5.5.7.1.31);
        for (text, name) in [
            ("shop.example.org", GeneralName::DNSName("shop.example.org")),
            ("127.0.0.2", GeneralName::IPAddress(&[127, 0, 0, 2])),
        ] {
            let subject = Name::parse(text).expect("a name");
            let (der, _) = certificate(&subject, &[7; 32]).expect("a certificate");
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("X.509");
            let names = parsed
                .subject_alternative_name()
                .expect("one")
                .expect("names");
            assert_eq!(names.value.general_names, [name]);
            let extensions = parsed.extensions().iter();
            let mut found = extensions.filter(|each| each.oid == identifier);
            let extension = found.next().expect("the identifier");
            assert!(extension.critical && found.next().is_none());
            assert!(matches!(
                extension.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            ));
            // An octet string of 32.
            assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
        }
    }

    #[test]
    fn every_certificate_has_a_key_of_its_own() {
        let name = Name::parse("shop.example.org").expect("a name");
        let (_, one) = certificate(&name, &[7; 32]).expect("a certificate");
        let (_, other) = certificate(&name, &[7; 32]).expect("a certificate");
        assert_ne!(one.secret_der(), other.secret_der());
    }
}
