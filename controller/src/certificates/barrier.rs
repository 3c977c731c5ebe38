//! Makes sure that every ready replica answers before the authority is told to look.
//!
//! Each is asked at its own address, over the listener that the authority will come to by way of
//! whatever is in front. Asking the public name instead would ask one of them, and from inside many
//! networks none.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use gatehouse_acme::Answer;
use gatehouse_acme::board::{Board, Posted};
use gatehouse_acme::ca::ChallengeKind;
use gatehouse_acme::driver::Barrier;
use gatehouse_acme::probe;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use tokio::time::{Instant, sleep, timeout};

use super::post::Post;
use crate::config::flags::ObjectName;
use crate::leader::Clients;
use crate::source::kubernetes::plain;

/// See the module.
pub(super) struct Replicas {
    pub(super) post: Arc<Post>,
    pub(super) clients: Clients,
    /// The Service whose endpoints are the replicas; without one, nobody knows them, and they have a
    /// moment to read the board.
    pub(super) service: Option<ObjectName>,
}

/// Where one replica listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listeners {
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
}

impl Barrier for Replicas {
    fn wait<'a>(
        &'a self,
        board: &'a Board,
        entries: &'a [Posted],
    ) -> Answer<'a, Result<(), String>> {
        self.post.publish(board);
        Box::pin(async move {
            if let Some(service) = &self.service {
                return self.ask_all(service, entries).await;
            }
            sleep(MOMENT).await;
            Ok(())
        })
    }
}

impl Replicas {
    async fn ask_all(&self, service: &ObjectName, entries: &[Posted]) -> Result<(), String> {
        let alpn = |entry: &Posted| entry.kind == ChallengeKind::TlsAlpn01;
        // HTTP-01 needs no word of the order to be answered; the other does.
        let limit = if entries.iter().any(alpn) {
            LONG
        } else {
            SHORT
        };
        let end = Instant::now() + limit;
        let mut told: BTreeSet<Probe> = BTreeSet::new();
        loop {
            let complaint = match self.replicas(service).await {
                Ok(replicas) => ask(&replicas, entries, &mut told).await,
                Err(why) => Some(why),
            };
            let Some(complaint) = complaint else {
                return Ok(());
            };
            if Instant::now() >= end {
                return Err(format!(
                    "the authority is told although not every replica answers: {complaint}"
                ));
            }
            sleep(AGAIN).await;
        }
    }

    /// The ready replicas as the cluster knows them now.
    async fn replicas(&self, (namespace, name): &ObjectName) -> Result<Vec<Listeners>, String> {
        let api: Api<EndpointSlice> = Api::namespaced((self.clients)(), namespace);
        let params = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
        let slices = timeout(ANSWER, api.list(&params)).await;
        let slices = slices
            .map_err(|_| format!("no answer of the API server in {ANSWER:?}"))?
            .map_err(|error| plain(&error))?;
        let all: BTreeSet<Listeners> = slices.items.iter().flat_map(listeners).collect();
        if all.is_empty() {
            return Err(format!(
                "Service {namespace}/{name} (--acme-replicas-service) has no ready endpoint"
            ));
        }
        Ok(all.into_iter().take(MOST).collect())
    }
}

/// The ready replicas of a slice.
fn listeners(slice: &EndpointSlice) -> Vec<Listeners> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = |wanted: &str| {
        let mut named = ports.iter();
        let found = named.find(|port| port.name.as_deref() == Some(wanted))?;
        u16::try_from(found.port?).ok()
    };
    let (plain, tls) = (port("http"), port("https"));
    let ready = slice.endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
    let at = |address, port: Option<u16>| port.map(|port| SocketAddr::new(address, port));
    addresses
        .map(|address| Listeners {
            plain: at(address, plain),
            tls: at(address, tls),
        })
        .collect()
}

/// Asks whoever has not answered yet; says who of them does not.
async fn ask(
    replicas: &[Listeners],
    entries: &[Posted],
    told: &mut BTreeSet<Probe>,
) -> Option<String> {
    let (probes, complaint) = probes(replicas, entries, told);
    let all = probes.into_iter().filter_map(|(address, number)| {
        let entry = entries.get(number)?;
        Some(async move { ((address, number), probe::ask(address, entry).await) })
    });
    let (answered, silent) = answers(all).await;
    told.extend(answered);
    silent.or(complaint)
}

/// Whom to ask for which entry that was not told yet, and what keeps anybody from being asked. Every
/// replica is asked for one entry before any is asked for the next.
fn probes(
    replicas: &[Listeners],
    entries: &[Posted],
    told: &BTreeSet<Probe>,
) -> (Vec<Probe>, Option<String>) {
    let (mut probes, mut complaint) = (Vec::new(), None);
    let mut names = 0;
    for (number, entry) in entries.iter().enumerate() {
        if entry.kind == ChallengeKind::Http01 {
            names += 1;
            if names > FEW {
                continue;
            }
        }
        for replica in replicas {
            let (address, port) = match entry.kind {
                ChallengeKind::Http01 => (replica.plain, "http"),
                ChallengeKind::TlsAlpn01 => (replica.tls, "https"),
                ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => continue,
            };
            let Some(address) = address else {
                complaint = Some(format!("the Service has no port named {port}"));
                continue;
            };
            if !told.contains(&(address, number)) {
                probes.push((address, number));
            }
        }
    }
    (probes, complaint)
}

/// Who answered as it should, and what one of the others said.
async fn answers(
    probes: impl Iterator<Item = impl Future<Output = (Probe, Result<(), String>)>>,
) -> (Vec<Probe>, Option<String>) {
    let (mut answered, mut complaint) = (Vec::new(), None);
    let mut asked = std::pin::pin!(stream::iter(probes).buffer_unordered(AT_ONCE));
    while let Some((probe, answer)) = asked.next().await {
        match answer {
            Ok(()) => answered.push(probe),
            Err(why) => complaint = Some(format!("{}: {why}", probe.0)),
        }
    }
    (answered, complaint)
}

/// A listener, and the number of the entry that it is asked for.
type Probe = (SocketAddr, usize);

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Replicas that are asked: there may be thousands, and the authority asks a handful of times.
const MOST: usize = 100;
/// How long it is tried before the authority is told all the same.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(30);
/// For replicas that cannot be asked.
const MOMENT: Duration = Duration::from_secs(1);
/// Names that a replica is asked for with HTTP-01: the answer is the same for all, and they are
/// published together.
const FEW: usize = 4;
/// Connections of one order at the same time.
const AT_ONCE: usize = 64;
const AGAIN: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use gatehouse_acme::names::Name;

    use super::*;

    #[test]
    fn ready_endpoints_are_asked_at_the_ports_by_their_names() {
        let slice: EndpointSlice = serde_saphyr::from_str(
            "{metadata: {name: a}, addressType: IPv4, ports: [{name: https, port: 8443}, {name: http, \
             port: 8080}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: \
             {ready: false}}, {addresses: [10.0.0.3], conditions: {ready: true}}]}",
        )
        .unwrap();
        let found = listeners(&slice);
        let plain: Vec<String> = found
            .iter()
            .filter_map(|one| one.plain.map(|address| address.to_string()))
            .collect();
        assert_eq!(plain, ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert_eq!(found[0].tls, Some("10.0.0.1:8443".parse().unwrap()));
    }

    fn entries(kind: ChallengeKind, count: usize) -> Vec<Posted> {
        let entry = |number: usize| Posted {
            target: gatehouse_acme::plan::Target {
                namespace: "shop".to_owned(),
                secret: "tls".to_owned(),
            },
            name: Name::parse(&format!("{number}.example.org")).unwrap(),
            kind,
            token: "token-of-sixteen".to_owned(),
            answer: "answer".to_owned(),
        };
        (0..count).map(entry).collect()
    }

    fn replicas(count: u8) -> Vec<Listeners> {
        let at = |last: u8, port| Some(SocketAddr::from(([10, 0, 0, last], port)));
        let one = |last: u8| Listeners {
            plain: at(last, 80),
            tls: at(last, 443),
        };
        (1..=count).map(one).collect()
    }

    #[test]
    fn a_replica_is_asked_for_a_few_names_whose_answer_is_the_same_and_for_each_other_one() {
        let count = |kind, told: &BTreeSet<Probe>| {
            let (probes, complaint) = probes(&replicas(3), &entries(kind, 100), told);
            assert_eq!(complaint, None);
            let first: BTreeSet<SocketAddr> = probes.iter().take(3).map(|probe| probe.0).collect();
            assert_eq!(first.len(), 3, "each of them first");
            probes.len()
        };
        let mut told = BTreeSet::new();
        assert_eq!(count(ChallengeKind::TlsAlpn01, &told), 300);
        assert_eq!(count(ChallengeKind::Http01, &told), 3 * FEW);
        told.insert((SocketAddr::from(([10, 0, 0, 2], 80)), 1));
        assert_eq!(count(ChallengeKind::Http01, &told), 3 * FEW - 1);
    }

    #[tokio::test]
    async fn only_so_many_listeners_are_asked_at_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (open, most) = (&open, &most);
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let asked = (0..1_000).map(|number| async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            open.fetch_sub(1, Ordering::SeqCst);
            let answer = if number == 7 {
                Err("no".to_owned())
            } else {
                Ok(())
            };
            ((address, number), answer)
        });
        let (answered, complaint) = answers(asked).await;
        assert_eq!(answered.len(), 999);
        assert_eq!(complaint.as_deref(), Some("10.0.0.1:80: no"));
        let most = most.load(Ordering::SeqCst);
        assert!(most <= AT_ONCE, "{most}");
    }
}
