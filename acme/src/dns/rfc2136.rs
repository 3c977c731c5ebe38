//! Records written by signed updates (RFC 2136, RFC 8945) to a server of the operator's own.
//!
//! A success counts only with a signature for our request on it.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};

use super::message::{self, Change};
use super::provider::{Writer, entry, zone};
use super::resolve::exchange;
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::clock::Clock;
use crate::secrets::{Entries, Secret};

/// Seconds by which clocks may differ, as everybody uses.
const FUDGE: u16 = 300;

pub(super) struct Rfc2136 {
    server: SocketAddr,
    key: TSigner,
    ttl: u32,
    clock: Arc<dyn Clock>,
}

impl Rfc2136 {
    pub(super) fn new(
        spec: &SolverSpec,
        entries: &Entries,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let server = spec
            .server
            .ok_or("`server` is missing: address and port of the server")?;
        Ok(Self {
            server,
            key: key(entries)?,
            ttl: spec.ttl,
            clock: Arc::clone(clock),
        })
    }

    async fn change(&self, record: &TxtRecord, change: Change) -> Result<(), DnsError> {
        let local = |text: String| DnsError::Configuration(text);
        let zone = zone(record)?;
        let update = message::update(zone, &record.fqdn, &record.value, change);
        let mut update = update.map_err(local)?;
        let seconds = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
        let signed = update.finalize(&self.key, seconds);
        let mut verifier = signed
            .ok()
            .flatten()
            .ok_or_else(|| local("the update cannot be signed with the TSIG key".to_owned()))?;
        let (bytes, answer) = exchange(self.server, &update)
            .await
            .map_err(|error| DnsError::Temporary(format!("{}: {error}", self.server)))?;
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(self.refused(zone, &answer));
        }
        verifier.verify(&bytes).map_err(|error| {
            let text = format!("{}: its answer is not signed as ours: {error}", self.server);
            DnsError::Configuration(text)
        })?;
        Ok(())
    }

    fn refused(&self, zone: &str, answer: &Message) -> DnsError {
        let signature = answer.signature.as_ref();
        let error = signature.and_then(|record| record.data.error.as_ref());
        let text = match (answer.metadata.response_code, error) {
            (_, Some(TsigError::BadSig)) => "wrong secret of the TSIG key",
            (_, Some(TsigError::BadKey)) => "it does not know the TSIG key",
            (_, Some(TsigError::BadTime)) => "the clocks differ by more than five minutes",
            (ResponseCode::Refused, _) => "the key may not write this name",
            (ResponseCode::NotAuth | ResponseCode::NotZone, _) => "it is no primary of this zone",
            (code, _) => return DnsError::Temporary(format!("{}: {code}", self.server)),
        };
        DnsError::Configuration(format!("{} refused to change {zone}: {text}", self.server))
    }
}

/// The key of the secret; its own secret is in base64, as `tsig-keygen` writes it.
fn key(entries: &Entries) -> Result<TSigner, String> {
    let algorithm = match entries.get("algorithm").and_then(Secret::text) {
        None | Some("hmac-sha256") => TsigAlgorithm::HmacSha256,
        Some("hmac-sha384") => TsigAlgorithm::HmacSha384,
        Some("hmac-sha512") => TsigAlgorithm::HmacSha512,
        Some(other) => {
            return Err(format!(
                "algorithm {other:?}: use hmac-sha256, hmac-sha384 or hmac-sha512"
            ));
        }
    };
    let secret = STANDARD
        .decode(entry(entries, "secret")?)
        .map_err(|_| "the secret of the TSIG key is not base64".to_owned())?;
    let name = message::name(entry(entries, "key")?)?;
    TSigner::new(secret, algorithm, name, FUDGE).map_err(|error| error.to_string())
}

impl Writer for Rfc2136 {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, Change::Add { ttl: self.ttl }))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, Change::Remove))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Entries {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::new(*value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_key_that_cannot_work_is_refused_with_the_reason() {
        let good = [("key", "k"), ("secret", "c2VjcmV0")];
        assert!(key(&entries(&good)).is_ok());
        let refused = |extra: (&str, &str)| {
            let mut all = entries(&good);
            all.insert(extra.0.to_owned(), Secret::new(extra.1));
            key(&all).err().expect("refused")
        };
        assert!(refused(("algorithm", "hmac-md5")).contains("hmac-sha256"));
        assert!(refused(("secret", "no base64!")).contains("base64"));
        assert!(refused(("key", "a..b")).contains("DNS name"));
        assert!(refused(("key", "")).contains("\"key\""));
    }
}
