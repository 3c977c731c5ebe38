//! Questions to DNS: CNAMEs, the zone of a name, and what each of its servers says.
//!
//! Invariants:
//! - Every question goes over TCP: an answer is never cut, and nobody off the way can forge one.
//! - A question ends within [`DEADLINE`]; a walk has a bound on its steps.
//! - Nothing is cached: a record that was just written must not be hidden by an older "no".

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{self, address, says, shown, target};
use super::{DnsError, Readiness, TxtRecord};

/// Longest time for one question to one server.
const DEADLINE: Duration = Duration::from_secs(10);

/// CNAMEs that are followed.
const HOPS: usize = 8;

/// Servers of a zone that are asked: more than anybody has.
const SERVERS: usize = 32;

/// Whom to ask where nothing else is known.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Asks these servers, the first that answers counts.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Result<Self, String> {
        if servers.is_empty() {
            return Err("no DNS server is known: name some in `resolvers`".to_owned());
        }
        Ok(Self { servers })
    }

    /// Where CNAMEs lead from this name.
    pub(super) async fn follow(&self, name: &str) -> Result<String, DnsError> {
        let mut at = name.to_owned();
        for _ in 0..HOPS {
            let message = self.ask(&at, RecordType::CNAME).await?;
            let mut own = message
                .answers
                .iter()
                .filter(|record| shown(&record.name) == at);
            let next = own.find_map(|record| target(record, RecordType::CNAME));
            match next {
                Some(target) => at = target,
                None => return Ok(at),
            }
        }
        Err(DnsError::Configuration(format!(
            "{name} leads over more than {HOPS} CNAMEs, or in a circle"
        )))
    }

    /// The zone that this name is in: the nearest name above with a start of authority.
    pub(super) async fn zone(&self, name: &str) -> Result<String, DnsError> {
        let mut candidate = Some(name);
        while let Some(zone) = candidate.filter(|zone| !zone.is_empty()) {
            let message = self.ask(zone, RecordType::SOA).await?;
            let is_start = |record: &Record| {
                record.record_type() == RecordType::SOA && shown(&record.name) == zone
            };
            if message.answers.iter().any(is_start) {
                return Ok(zone.to_owned());
            }
            candidate = zone.split_once('.').map(|(_, rest)| rest);
        }
        Err(DnsError::Configuration(format!(
            "{name} is in no zone that the resolvers know"
        )))
    }

    /// Whether the record is visible at every server of its zone, or at the resolvers themselves.
    pub(super) async fn visible(
        &self,
        record: &TxtRecord,
        authoritative: bool,
    ) -> Result<Readiness, DnsError> {
        let servers = if authoritative {
            let zone = match &record.zone {
                Some(zone) => zone.clone(),
                None => self.zone(&record.fqdn).await?,
            };
            self.servers_of(&zone).await?
        } else {
            self.servers.clone()
        };
        for server in servers {
            let kind = RecordType::TXT;
            let question = ask(server, &record.fqdn, kind, !authoritative).await;
            let message = match question {
                Ok(message) => message,
                Err(error) => return Ok(Readiness::Missing(format!("{server}: {error}"))),
            };
            let mut answers = message.answers.iter();
            let seen = answers.any(|answer| says(answer, &record.value));
            if !seen {
                let text = format!("{server} does not have the record of {} yet", record.fqdn);
                return Ok(Readiness::Missing(text));
            }
        }
        Ok(Readiness::Visible)
    }

    /// Addresses of all name servers of a zone, sorted.
    async fn servers_of(&self, zone: &str) -> Result<Vec<SocketAddr>, DnsError> {
        let message = self.ask(zone, RecordType::NS).await?;
        let names = message.answers.iter();
        let names = names.filter_map(|record| target(record, RecordType::NS));
        let names: BTreeSet<String> = names.take(SERVERS).collect();
        let mut addresses = BTreeSet::new();
        for name in &names {
            let mut found = Vec::new();
            for wanted in [RecordType::A, RecordType::AAAA] {
                let message = self.ask(name, wanted).await?;
                found.extend(message.answers.iter().filter_map(address));
            }
            // IPv6 may be out of reach from here: one family of a server is enough.
            let four = found.iter().filter(|address| address.is_ipv4());
            let four: Vec<IpAddr> = four.copied().collect();
            addresses.extend(if four.is_empty() { found } else { four });
        }
        if addresses.is_empty() {
            let text = format!("no address of a name server of {zone} is known");
            return Err(DnsError::Temporary(text));
        }
        let at = |address| SocketAddr::new(address, 53);
        Ok(addresses.into_iter().take(SERVERS).map(at).collect())
    }

    /// Asks one server after the other; that the name does not exist is an answer.
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Result<Message, DnsError> {
        let mut last = String::new();
        for server in &self.servers {
            match ask(*server, name, kind, true).await {
                Ok(message) => return Ok(message),
                Err(error) => last = format!("{server}: {error}"),
            }
        }
        Err(DnsError::Temporary(format!(
            "no answer about {name}: {last}"
        )))
    }
}

/// One question to one server. That the name does not exist is an answer.
async fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    recurse: bool,
) -> Result<Message, String> {
    let (_, mut message) = exchange(server, &message::query(name, kind, recurse)?).await?;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        ResponseCode::Refused if recurse => {
            // A server of some zones, named as a resolver: it knows nothing of this one.
            message.answers.clear();
            Ok(message)
        }
        code => Err(format!("{code} for {name}")),
    }
}

/// Sends a message over TCP (RFC 1035, section 4.2.2) and reads the answer to it, as it came and as
/// it is to be understood.
pub(super) async fn exchange(
    server: SocketAddr,
    query: &Message,
) -> Result<(Vec<u8>, Message), String> {
    let bytes = query.to_vec().map_err(|error| error.to_string())?;
    let answer = timeout(DEADLINE, async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
            .await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    });
    let answer = answer
        .await
        .map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let message = Message::from_vec(&answer)
        .map_err(|error| format!("an answer that is no DNS message: {error}"))?;
    let ours = message.metadata.id == query.metadata.id;
    if !ours || message.metadata.message_type != MessageType::Response {
        return Err("an answer to another question".to_owned());
    }
    Ok((answer, message))
}
