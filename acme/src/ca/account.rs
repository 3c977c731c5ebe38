//! Accounts and their keys.
//!
//! Invariants:
//! - The key exists, and is stored, before the account: registering twice with one key finds the
//!   same account.
//! - The thumbprint needs no authority, so a replica can answer HTTP-01 while it is away.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secrets::Secret;

/// The key of an account: ECDSA P-256, PKCS#8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKey {
    pkcs8: Secret,
    thumbprint: String,
}

impl AccountKey {
    /// A new key.
    pub fn generate() -> Result<Self, String> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| "the system gives no key: is its random source open?".to_owned())?;
        Self::from_pkcs8(Secret::new(document.as_ref()))
    }

    /// A stored key.
    pub fn from_pkcs8(pkcs8: Secret) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose())
            .map_err(|_| "an account key is ECDSA P-256 in PKCS#8".to_owned())?;
        let thumbprint = thumbprint(pair.public_key().as_ref())
            .ok_or_else(|| "the public half of the account key is no P-256 point".to_owned())?;
        Ok(Self { pkcs8, thumbprint })
    }

    /// The key as it is stored.
    pub fn pkcs8(&self) -> &Secret {
        &self.pkcs8
    }

    /// Thumbprint (RFC 7638) in base64url: what follows the dot of a key authorization.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Key authorization of a token (RFC 8555, section 8.1).
    pub fn authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint)
    }

    /// SHA-256 of the key authorization: TLS-ALPN-01 puts it into its certificate.
    pub fn digest(&self, token: &str) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, self.authorization(token).as_bytes());
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        digest
    }

    /// The digest as DNS-01 wants it in a TXT record.
    pub fn dns_value(&self, token: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.digest(token))
    }
}

/// RFC 7638: members in lexical order, no white space.
fn thumbprint(point: &[u8]) -> Option<String> {
    let (head, rest) = point.split_first()?;
    let (x, y) = rest.split_at_checked(32)?;
    if *head != 4 || y.len() != 32 {
        return None;
    }
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, jwk.as_bytes())))
}

/// A registered account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its URL at the authority.
    pub url: String,
    /// Its key.
    pub key: AccountKey,
}

/// What is sent to get an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Stored before this is sent.
    pub key: AccountKey,
    /// URLs such as `mailto:ops@example.org`.
    pub contact: Vec<String>,
    /// Whether the operator accepted the terms.
    pub terms_agreed: bool,
    /// Binding to an account that the authority knows otherwise.
    pub external: Option<ExternalAccount>,
    /// Whether only to look for the account of this key, and to make none.
    pub existing: bool,
}

impl Registration {
    /// Only looks for the account of this key.
    pub fn look(key: &AccountKey) -> Self {
        Self {
            key: key.clone(),
            contact: Vec::new(),
            terms_agreed: false,
            external: None,
            existing: true,
        }
    }
}

/// Credentials of an external account binding (RFC 8555, section 7.3.4), HS256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Key identifier from the authority.
    pub kid: String,
    /// MAC key, decoded.
    pub mac: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_has_the_same_thumbprint_and_prints_no_byte_of_itself() {
        let key = AccountKey::generate().expect("a key");
        let again = AccountKey::from_pkcs8(key.pkcs8().clone()).expect("the same key");
        assert_eq!(key.thumbprint(), again.thumbprint());
        assert_eq!(key.thumbprint().len(), 43);
        assert_eq!(
            key.authorization("tok"),
            format!("tok.{}", key.thumbprint())
        );
        let shown = format!("{key:?}");
        assert!(shown.contains("secret bytes"), "{shown}");
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let refused = AccountKey::from_pkcs8(Secret::new(pair.serialize_der()));
        assert!(refused.is_err());
    }
}
