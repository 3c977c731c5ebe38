//! Signed requests (RFC 8555, section 6.2): flattened JWS in JSON.
//!
//! Invariants:
//! - A signature covers the nonce and the URL, so it is good for one request.
//! - ES256 with an account key, HS256 with the key of an external account; nothing else exists.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::account::{AccountKey, ExternalAccount};

/// Who signs.
pub(super) enum Signer<'a> {
    /// A key that the authority need not know yet.
    Key(&'a AccountKey),
    /// The key of a registered account.
    Account(&'a AccountKey, &'a str),
}

impl Signer<'_> {
    /// A request body; without a payload it is a read (POST-as-GET).
    pub(super) fn sign(
        &self,
        url: &str,
        nonce: Option<&str>,
        payload: Option<&Value>,
    ) -> Result<Value, String> {
        let key = match self {
            Self::Key(key) | Self::Account(key, _) => pair(key)?,
        };
        let mut header = json!({"alg": "ES256", "url": url});
        if let Some(nonce) = nonce {
            set(&mut header, "nonce", json!(nonce));
        }
        match self {
            Self::Key(_) => set(&mut header, "jwk", jwk(&key)?),
            Self::Account(_, account) => set(&mut header, "kid", json!(account)),
        }
        flattened(&header, payload, |message| {
            let signature = key.sign(&SystemRandom::new(), message);
            let signature = signature.map_err(|_| "the account key does not sign".to_owned())?;
            Ok(URL_SAFE_NO_PAD.encode(signature))
        })
    }
}

/// The public half of a key as JSON.
pub(super) fn public(key: &AccountKey) -> Result<Value, String> {
    jwk(&pair(key)?)
}

/// What binds a key to an external account (RFC 8555, section 7.3.4).
pub(super) fn binding(
    external: &ExternalAccount,
    key: &AccountKey,
    url: &str,
) -> Result<Value, String> {
    let mac = hmac::Key::new(hmac::HMAC_SHA256, external.mac.expose());
    let header = json!({"alg": "HS256", "kid": external.kid, "url": url});
    flattened(&header, Some(&public(key)?), |message| {
        Ok(URL_SAFE_NO_PAD.encode(hmac::sign(&mac, message)))
    })
}

fn flattened(
    header: &Value,
    payload: Option<&Value>,
    sign: impl Fn(&[u8]) -> Result<String, String>,
) -> Result<Value, String> {
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = payload.map_or_else(String::new, |payload| {
        URL_SAFE_NO_PAD.encode(payload.to_string())
    });
    let signature = sign(format!("{header}.{payload}").as_bytes())?;
    Ok(json!({"protected": header, "payload": payload, "signature": signature}))
}

fn pair(key: &AccountKey) -> Result<EcdsaKeyPair, String> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8().expose())
        .map_err(|_| "the account key does not load".to_owned())
}

fn jwk(pair: &EcdsaKeyPair) -> Result<Value, String> {
    // An uncompressed point: 4, then both coordinates.
    let point = pair.public_key().as_ref().get(1..);
    let halves = point.and_then(|rest| rest.split_at_checked(32));
    let (x, y) = halves.ok_or_else(|| "the account key is no P-256 key".to_owned())?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    Ok(json!({"crv": "P-256", "kty": "EC", "x": x, "y": y}))
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::secrets::Secret;

    fn part(value: &Value, name: &str) -> Vec<u8> {
        let text = value[name].as_str().expect("a part");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    }

    #[test]
    fn a_signature_verifies_with_the_public_half_that_is_sent_along() {
        let key = AccountKey::generate().expect("a key");
        let url = "https://ca.example/new";
        let signed = Signer::Key(&key).sign(url, Some("n1"), Some(&json!({"a": 1})));
        let signed = signed.expect("signed");
        let header: Value = serde_json::from_slice(&part(&signed, "protected")).expect("JSON");
        assert_eq!(header["nonce"], "n1");
        assert_eq!(header["url"], url);
        let coordinate = |name: &str| {
            let text = header["jwk"][name].as_str().expect("a coordinate");
            URL_SAFE_NO_PAD.decode(text).expect("base64url")
        };
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let text = |name: &str| signed[name].as_str().expect("a part").to_owned();
        let message = format!("{}.{}", text("protected"), text("payload"));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &part(&signed, "signature"))
            .expect("it verifies");
    }

    #[test]
    fn a_read_has_an_empty_payload_and_names_the_account() {
        let key = AccountKey::generate().expect("a key");
        let signer = Signer::Account(&key, "https://ca.example/acct/1");
        let signed = signer.sign("https://ca.example/order/1", Some("n"), None);
        let signed = signed.expect("signed");
        assert_eq!(signed["payload"], "");
        let header: Value = serde_json::from_slice(&part(&signed, "protected")).expect("JSON");
        assert_eq!(header["kid"], "https://ca.example/acct/1");
        assert_eq!(header.get("jwk"), None);
    }

    #[test]
    fn a_binding_is_signed_with_the_shared_key_and_carries_the_public_half() {
        let key = AccountKey::generate().expect("a key");
        let external = ExternalAccount {
            kid: "kid-1".into(),
            mac: Secret::new(*b"0123456789abcdef0123456789abcdef"),
        };
        let bound = binding(&external, &key, "https://ca.example/new").expect("bound");
        let payload: Value = serde_json::from_slice(&part(&bound, "payload")).expect("JSON");
        assert_eq!(payload, public(&key).expect("public half"));
        let text = |name: &str| bound[name].as_str().expect("a part").to_owned();
        let message = format!("{}.{}", text("protected"), text("payload"));
        let mac = hmac::Key::new(hmac::HMAC_SHA256, external.mac.expose());
        hmac::verify(&mac, message.as_bytes(), &part(&bound, "signature")).expect("it verifies");
    }
}
