//! Records written by signed updates (RFC 2136, RFC 8945) to a server of the operator's own.

use std::net::SocketAddr;
use std::sync::Arc;

use super::message::{self, Change, rcode};
use super::provider::{Writer, entry, zone};
use super::resolve::{exchange, id};
use super::tsig::{Key, Verified};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::clock::Clock;
use crate::secrets::{Entries, Secret};

pub(super) struct Rfc2136 {
    server: SocketAddr,
    key: Key,
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
        let algorithm = entries.get("algorithm").and_then(Secret::text);
        Ok(Self {
            server,
            key: Key::new(entry(entries, "key")?, algorithm, entry(entries, "secret")?)?,
            ttl: spec.ttl,
            clock: Arc::clone(clock),
        })
    }

    async fn change(&self, record: &TxtRecord, change: Change) -> Result<(), DnsError> {
        let local = |text: String| DnsError::Configuration(text);
        let zone = zone(record)?;
        let id = id().map_err(local)?;
        let update = message::update(id, zone, &record.fqdn, &record.value, change);
        let mut update = update.map_err(local)?;
        let seconds = self.clock.now().as_second();
        let mac = self.key.sign(&mut update, seconds).map_err(local)?;
        let (bytes, answer) = exchange(self.server, &update)
            .await
            .map_err(|error| DnsError::Temporary(format!("{}: {error}", self.server)))?;
        let verified = self.key.verify(&bytes, &answer, &mac);
        let refused = |text: &str| {
            DnsError::Configuration(format!("{} refused to change {zone}: {text}", self.server))
        };
        match (answer.rcode, verified) {
            (rcode::SUCCESS, Verified::Good) => Ok(()),
            (rcode::SUCCESS, _) => Err(refused("its answer is not signed with the key")),
            (_, Verified::Error(16)) => Err(refused("wrong secret of the TSIG key")),
            (_, Verified::Error(17)) => Err(refused("it does not know the TSIG key")),
            (_, Verified::Error(18)) => Err(refused("the clocks differ by more than five minutes")),
            (rcode::REFUSED, _) => Err(refused("the key may not write this name")),
            (rcode::NOT_AUTH | rcode::NOT_ZONE, _) => Err(refused("it is no primary of this zone")),
            (code, _) => Err(DnsError::Temporary(format!("{}: code {code}", self.server))),
        }
    }
}

impl Writer for Rfc2136 {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, Change::Add { ttl: self.ttl }))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, Change::Remove))
    }
}
