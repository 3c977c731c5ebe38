//! Signed transactions with a DNS server (RFC 8945).
//!
//! Invariants:
//! - An answer to a signed request counts only with a signature of its own: it covers ours, so it
//!   belongs to this request.
//! - Pure: the time is given.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::message::{ANY, Data, Message, Reader, kind, put, put_name};
use crate::secrets::Secret;

/// Seconds by which clocks may differ, as everybody uses.
const FUDGE: u16 = 300;

/// A shared key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    name: String,
    algorithm: Algorithm,
    secret: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "hmac-sha256",
            Self::Sha384 => "hmac-sha384",
            Self::Sha512 => "hmac-sha512",
        }
    }

    fn mac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

impl Key {
    /// A key by its name; the secret is in base64, as `tsig-keygen` writes it.
    pub(super) fn new(name: &str, algorithm: Option<&str>, secret: &str) -> Result<Self, String> {
        let algorithm = match algorithm.map(|name| name.trim_end_matches('.')) {
            None | Some("hmac-sha256") => Algorithm::Sha256,
            Some("hmac-sha384") => Algorithm::Sha384,
            Some("hmac-sha512") => Algorithm::Sha512,
            Some(other) => {
                return Err(format!(
                    "algorithm {other:?}: use hmac-sha256, hmac-sha384 or hmac-sha512"
                ));
            }
        };
        let secret = STANDARD
            .decode(secret.trim())
            .map_err(|_| "the secret of the TSIG key is not base64".to_owned())?;
        put_name(&mut Vec::new(), name)?;
        Ok(Self {
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            algorithm,
            secret: Secret::new(secret),
        })
    }

    fn mac(&self, parts: &[&[u8]]) -> Vec<u8> {
        let key = hmac::Key::new(self.algorithm.mac(), self.secret.expose());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// What is signed beside the message: RFC 8945, section 4.3.3.
    fn variables(&self, time: [u8; 6], error: u16, other: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        put_name(&mut out, &self.name)?;
        put(&mut out, ANY);
        out.extend_from_slice(&[0; 4]);
        put_name(&mut out, self.algorithm.name())?;
        out.extend_from_slice(&time);
        put(&mut out, FUDGE);
        put(&mut out, error);
        put(&mut out, short(other.len())?);
        out.extend_from_slice(other);
        Ok(out)
    }

    /// Signs a message at this time (seconds since 1970); returns its signature.
    pub(super) fn sign(&self, message: &mut Vec<u8>, seconds: i64) -> Result<Vec<u8>, String> {
        let time = time(seconds);
        let mac = self.mac(&[message, &self.variables(time, 0, &[])?]);
        let id: Vec<u8> = message.iter().take(2).copied().collect();

        let mut data = Vec::new();
        put_name(&mut data, self.algorithm.name())?;
        data.extend_from_slice(&time);
        put(&mut data, FUDGE);
        put(&mut data, short(mac.len())?);
        data.extend_from_slice(&mac);
        data.extend_from_slice(&id);
        data.extend_from_slice(&[0; 4]);

        put_name(message, &self.name)?;
        put(message, kind::TSIG);
        put(message, ANY);
        message.extend_from_slice(&[0; 4]);
        put(message, short(data.len())?);
        message.extend_from_slice(&data);
        if let Some(count) = message.get_mut(11) {
            *count = count.saturating_add(1);
        }
        Ok(mac)
    }

    /// Whether this answer was signed with the key, for the request with this signature.
    pub(super) fn verify(&self, bytes: &[u8], message: &Message, request: &[u8]) -> Verified {
        let Some(record) = message
            .additional
            .last()
            .filter(|last| last.kind == kind::TSIG)
        else {
            return Verified::Unsigned;
        };
        let Data::Other(data) = &record.data else {
            return Verified::Unsigned;
        };
        let Some(signature) = Signature::read(data) else {
            return Verified::Wrong;
        };
        if signature.error != 0 {
            return Verified::Error(signature.error);
        }
        // What was signed: the message before the signature was added, under its first id.
        let Some(unsigned) = bytes.get(..record.offset) else {
            return Verified::Wrong;
        };
        let mut unsigned = unsigned.to_vec();
        let count = short(message.additional.len() - 1).unwrap_or_default();
        for (at, byte) in [0, 1, 10, 11]
            .into_iter()
            .zip(signature.id.into_iter().chain(count.to_be_bytes()))
        {
            if let Some(place) = unsigned.get_mut(at) {
                *place = byte;
            }
        }
        let variables = self.variables(signature.time, 0, &signature.other);
        let (Ok(length), Ok(variables)) = (short(request.len()), variables) else {
            return Verified::Wrong;
        };
        let mac = hmac::Key::new(self.algorithm.mac(), self.secret.expose());
        let all = [&length.to_be_bytes()[..], request, &unsigned, &variables].concat();
        match hmac::verify(&mac, &all, &signature.mac) {
            Ok(()) => Verified::Good,
            Err(_) => Verified::Wrong,
        }
    }
}

/// What an answer's signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    Good,
    Unsigned,
    Wrong,
    /// The server did not accept ours: 16 bad signature, 17 bad key, 18 bad time.
    Error(u16),
}

struct Signature {
    time: [u8; 6],
    mac: Vec<u8>,
    id: [u8; 2],
    error: u16,
    other: Vec<u8>,
}

impl Signature {
    fn read(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        reader.name()?;
        let time = reader.take(6)?.try_into().ok()?;
        reader.short()?;
        let length = reader.short()?;
        let mac = reader.take(usize::from(length))?.to_vec();
        let id = reader.take(2)?.try_into().ok()?;
        let error = reader.short()?;
        let length = reader.short()?;
        let other = reader.take(usize::from(length))?.to_vec();
        Some(Self {
            time,
            mac,
            id,
            error,
            other,
        })
    }
}

/// Seconds as the 48 bits of RFC 8945.
fn time(seconds: i64) -> [u8; 6] {
    let [_, _, rest @ ..] = seconds.to_be_bytes();
    rest
}

fn short(length: usize) -> Result<u16, String> {
    u16::try_from(length).map_err(|_| "a message is too long to be signed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::message;

    fn key(secret: &str) -> Key {
        Key::new("Gatehouse.", None, secret).expect("a key")
    }

    /// A signed answer to a request with this signature.
    fn answer(key: &Key, request: &[u8]) -> Vec<u8> {
        let mut bytes = message::query(9, "example.org", kind::SOA, false).expect("a message");
        bytes[2] |= 0x80;
        let time = time(1_000);
        let length = u16::try_from(request.len()).expect("short").to_be_bytes();
        let variables = key.variables(time, 0, &[]).expect("variables");
        let mac = key.mac(&[&length, request, &bytes, &variables]);
        let mut signed = bytes.clone();
        key.sign(&mut signed, 1_000).expect("signed");
        let at = signed.len() - 6 - mac.len();
        signed.splice(at..at + mac.len(), mac);
        signed
    }

    #[test]
    fn an_answer_counts_only_with_the_signature_for_this_request() {
        let key = key("c2VjcmV0");
        let bytes = answer(&key, b"ours");
        let message = message::parse(&bytes).expect("a message");
        assert_eq!(key.verify(&bytes, &message, b"ours"), Verified::Good);
        assert_eq!(key.verify(&bytes, &message, b"another"), Verified::Wrong);
        let other = Key::new("gatehouse", None, "b3RoZXI=").expect("a key");
        assert_eq!(other.verify(&bytes, &message, b"ours"), Verified::Wrong);
        let mut unsigned = message;
        unsigned.additional.clear();
        assert_eq!(key.verify(&bytes, &unsigned, b"ours"), Verified::Unsigned);
    }

    #[test]
    fn a_key_that_cannot_work_is_refused_with_the_reason() {
        let error = Key::new("k", Some("hmac-md5"), "c2VjcmV0").expect_err("md5");
        assert!(error.contains("hmac-sha256"), "{error}");
        assert!(Key::new("k", None, "no base64!").is_err());
        assert!(!format!("{:?}", key("c2VjcmV0")).contains("c2VjcmV0"));
    }
}
