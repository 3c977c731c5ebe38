//! Questions to DNS: CNAMEs, the zone of a name, and what each of its servers says.
//!
//! Invariants:
//! - Every question goes over TCP: an answer is never cut, and nobody off the way can forge one.
//! - A question ends within [`DEADLINE`]; a walk has a bound on its steps.
//! - Nothing is cached: a record that was just written must not be hidden by an older "no".
//! - A server of some zones that is named as a resolver refuses to speak of others: that is no answer
//!   while another resolver has one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
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

/// Addresses of one of them in one family.
const ADDRESSES: usize = 8;

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
            let server = |at: &SocketAddr| Server::at(vec![*at]);
            self.servers.iter().map(server).collect()
        };
        for server in servers {
            if let Err(missing) = server.has(record, !authoritative).await {
                return Ok(Readiness::Missing(missing));
            }
        }
        Ok(Readiness::Visible)
    }

    /// All name servers of a zone, sorted, none twice.
    async fn servers_of(&self, zone: &str) -> Result<Vec<Server>, DnsError> {
        let message = self.ask(zone, RecordType::NS).await?;
        let names = message.answers.iter();
        let names = names.filter_map(|record| target(record, RecordType::NS));
        let names: BTreeSet<String> = names.take(SERVERS).collect();
        let mut servers = BTreeSet::new();
        for name in &names {
            let mut found = BTreeSet::new();
            for wanted in [RecordType::A, RecordType::AAAA] {
                let message = self.ask(name, wanted).await?;
                let addresses = message.answers.iter().filter_map(address);
                found.extend(addresses.take(ADDRESSES).map(|at| SocketAddr::new(at, 53)));
            }
            if !found.is_empty() {
                servers.insert(Server::at(found.into_iter().collect()));
            }
        }
        if servers.is_empty() {
            let text = format!("no address of a name server of {zone} is known");
            return Err(DnsError::Temporary(text));
        }
        Ok(servers.into_iter().collect())
    }

    /// Asks one server after the other; that the name does not exist is an answer. That all of them
    /// refuse is one as well: they know nothing of it.
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Result<Message, DnsError> {
        let (mut last, mut refused) = (None, None);
        for server in &self.servers {
            match ask(*server, name, kind, true).await {
                Ok(message) if is_refused(&message) => refused = Some(message),
                Ok(message) => return Ok(message),
                Err(error) => last = Some(format!("{server}: {error}")),
            }
        }
        match (last, refused) {
            (None, Some(message)) => Ok(message),
            (last, _) => Err(DnsError::Temporary(format!(
                "no answer about {name}: {}",
                last.unwrap_or_default()
            ))),
        }
    }
}

/// A name server by its addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    /// All of these are asked: an authority may come to any of them.
    first: Vec<SocketAddr>,
    /// Asked instead, if one of those does not answer: their family may be out of reach from here.
    other: Vec<SocketAddr>,
}

impl Server {
    fn at(addresses: Vec<SocketAddr>) -> Self {
        let (four, six): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
        if four.is_empty() {
            return Self {
                first: six,
                other: four,
            };
        }
        Self {
            first: four,
            other: six,
        }
    }

    /// Whether it has the record; the error says where it is missing.
    async fn has(&self, record: &TxtRecord, recurse: bool) -> Result<(), String> {
        match all_have(&self.first, record, recurse).await {
            Ok(seen) => seen,
            Err(silent) if self.other.is_empty() => Err(silent),
            Err(silent) => match all_have(&self.other, record, recurse).await {
                Ok(seen) => seen,
                Err(also) => Err(format!("{silent}; {also}")),
            },
        }
    }
}

/// Whether the record is at all of these addresses, else where it is missing; the error says which of
/// them does not answer.
async fn all_have(
    addresses: &[SocketAddr],
    record: &TxtRecord,
    recurse: bool,
) -> Result<Result<(), String>, String> {
    for at in addresses {
        let question = ask(*at, &record.fqdn, RecordType::TXT, recurse).await;
        let message = question.map_err(|error| format!("{at}: {error}"))?;
        let mut answers = message.answers.iter();
        if !answers.any(|answer| says(answer, &record.value)) {
            let fqdn = &record.fqdn;
            return Ok(Err(format!("{at} does not have the record of {fqdn} yet")));
        }
    }
    Ok(Ok(()))
}

fn is_refused(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::Refused
}

/// One question to one server. That the name does not exist is an answer, and so is that a resolver
/// refuses.
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

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{SOA, TXT};
    use hickory_proto::rr::{Name, RData};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every question like this, on loopback.
    async fn server(
        answer: impl Fn(&Name) -> Result<RData, ResponseCode> + Send + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let length = stream.read_u16().await.expect("a length");
                let mut bytes = vec![0; usize::from(length)];
                stream.read_exact(&mut bytes).await.expect("a question");
                let mut message = Message::from_vec(&bytes).expect("a question");
                message.metadata.message_type = MessageType::Response;
                let name = message.queries[0].name().clone();
                match answer(&name) {
                    Ok(data) => {
                        message.add_answer(Record::from_rdata(name, 60, data));
                    }
                    Err(code) => message.metadata.response_code = code,
                }
                let bytes = message.to_vec().expect("an answer");
                let length = u16::try_from(bytes.len()).expect("short");
                stream.write_u16(length).await.expect("sent");
                stream.write_all(&bytes).await.expect("sent");
            }
        });
        at
    }

    async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address")
    }

    #[tokio::test]
    async fn a_resolver_that_refuses_leaves_the_answer_to_the_next_one() {
        let zone = "example.test";
        let refusing = server(|_| Err(ResponseCode::Refused)).await;
        let knowing = server(move |name| {
            let root = Name::root();
            let start = SOA::new(root.clone(), root, 1, 1, 1, 1, 1);
            let known = shown(name) == zone;
            if known {
                Ok(RData::SOA(start))
            } else {
                Err(ResponseCode::NXDomain)
            }
        })
        .await;
        let resolver = |servers: &[SocketAddr]| Resolver::new(servers.to_vec()).expect("servers");
        let found = resolver(&[refusing, knowing]).zone("a.example.test").await;
        assert_eq!(found, Ok(zone.to_owned()));
        // All of them: they know nothing of it.
        let refused = resolver(&[refusing, refusing]).zone("a.example.test").await;
        assert!(
            matches!(refused, Err(DnsError::Configuration(_))),
            "{refused:?}"
        );
        // The one that may know it does not answer.
        let unknown = resolver(&[refusing, nobody().await])
            .zone("a.example.test")
            .await;
        assert!(
            matches!(unknown, Err(DnsError::Temporary(_))),
            "{unknown:?}"
        );
    }

    #[tokio::test]
    async fn a_server_whose_first_family_is_out_of_reach_is_asked_over_the_other_one() {
        let value =
            |text: &'static str| move |_: &Name| Ok(RData::TXT(TXT::new(vec![text.to_owned()])));
        let (right, old) = (server(value("v")).await, server(value("old")).await);
        let record = TxtRecord {
            fqdn: "_acme-challenge.example.test".to_owned(),
            zone: None,
            value: "v".to_owned(),
        };
        let away = nobody().await;
        let has = async |first: SocketAddr, other: &[SocketAddr]| {
            let (first, other) = (vec![first], other.to_vec());
            Server { first, other }.has(&record, false).await
        };
        assert_eq!(has(away, &[right]).await, Ok(()));
        assert!(has(away, &[]).await.is_err());
        assert!(
            has(away, &[old])
                .await
                .expect_err("missing")
                .contains("yet")
        );
        // It answers: the other family does not speak for it.
        assert!(has(old, &[right]).await.is_err());
        let both = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|at| at.parse().expect("an address"));
        let [four, six] = both;
        let server = Server::at(vec![six, four]);
        assert_eq!((server.first, server.other), (vec![four], vec![six]));
    }
}
