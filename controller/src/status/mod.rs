//! What the leader writes back into the cluster: the addresses of the gateway into the status of
//! our Ingresses, and Events about them.
//!
//! Invariants: only the leader writes; the engine's reports are all it reads; nothing here is on the
//! way of a request or of a change, so an API server that is away or slow costs neither.

mod address;
mod balancer;
mod desk;
mod events;
mod news;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

pub use address::Address;

use self::address::{Addresses, Origin, published};
use self::balancer::Balancer;
use self::desk::Desk;
use self::events::Events;
use crate::config::flags::ObjectName;
use crate::config::{Replica, StatusArgs};
use crate::engine::Report;
use crate::leader::{self, Candidate, Clients, Leadership};
use crate::pace::Pace;
use crate::source::kubernetes::plain;
use crate::source::kubernetes::refusal::{Act, Refusals};

/// Everything that runs for the leader.
pub struct Writers {
    clients: Clients,
    leadership: Leadership,
    reports: watch::Receiver<Arc<Report>>,
    addresses: watch::Receiver<Addresses>,
    /// The addresses are taken out at the end.
    clears: bool,
    pod: Option<ObjectName>,
    tasks: JoinSet<()>,
    election: Election,
}

/// Stands for election and starts to write.
pub fn start(
    clients: &Clients,
    args: &StatusArgs,
    replica: &Replica,
    reports: &watch::Receiver<Arc<Report>>,
    refusals: &Refusals,
) -> Writers {
    let (leadership, election) = stand(clients, args, replica, refusals);
    let origin = origin(args, replica);
    if let Some(doubt) = doubt(args, replica, &origin) {
        tracing::warn!("{doubt}");
    }
    let (sender, addresses) = watch::channel(None);
    let desk = |what, act, pace| Desk {
        what,
        act,
        refusals: refusals.clone(),
        reports: reports.clone(),
        addresses: addresses.clone(),
        leadership: leadership.clone(),
        pace,
    };
    let mut tasks = JoinSet::new();
    let writes_status = args.update_status && origin != Origin::Nowhere;
    if writes_status {
        let follow = address::Follow {
            clients: Arc::clone(clients),
            origin,
            leadership: leadership.clone(),
            refusals: refusals.clone(),
        };
        tasks.spawn(follow.run(sender));
        let balancer = Arc::clone(clients);
        let desk = desk(
            "the status of Ingresses",
            Act::Status,
            Pace::new(STATUS_INTERVAL, STATUS_BURST),
        );
        tasks.spawn(desk.serve(move || Balancer::new(Arc::clone(&balancer))));
    } else {
        // Nobody asks for them, but the channel must not end.
        tasks.spawn(async move { sender.closed().await });
    }
    let (events, identity) = (Arc::clone(clients), Arc::clone(&replica.identity));
    let desk = desk(
        "Events",
        Act::Events,
        Pace::new(EVENT_INTERVAL, EVENT_BURST),
    );
    tasks.spawn(
        desk.serve(move || Events::new(Arc::clone(&events), Arc::clone(&identity), writes_status)),
    );
    Writers {
        clients: Arc::clone(clients),
        leadership,
        reports: reports.clone(),
        addresses,
        clears: writes_status && args.update_status_on_shutdown,
        pod: replica.pod.clone(),
        tasks,
        election,
    }
}

impl Writers {
    /// Whether this replica leads.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stops writing and gives the lease back, so that the next replica leads within seconds. Takes
    /// the addresses out first, if that was asked for and this is the last replica. Bounded.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let (true, Some(epoch)) = (self.clears, self.leadership.epoch()) {
            let cleared = timeout(CLEARING, self.clear(epoch)).await;
            if cleared.is_err() {
                tracing::warn!("not every status was cleared in {CLEARING:?}");
            }
        }
        if let Some((stop, election)) = self.election {
            drop(stop);
            election.await.ok();
        }
    }

    async fn clear(&self, epoch: u64) {
        match self.is_last().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(why) => {
                tracing::warn!(
                    why,
                    "nobody knows whether this is the last replica: status stays"
                );
                return;
            }
        }
        let ours = self.addresses.borrow().clone().unwrap_or_default();
        let owned = Arc::clone(&self.reports.borrow().owned);
        let mut pace = Pace::new(STATUS_INTERVAL, STATUS_BURST);
        for (key, ingress) in &*owned {
            // What somebody else has written stays.
            if published(ingress) != *ours || ours.is_empty() {
                continue;
            }
            sleep_until(pace.allows(Instant::now())).await;
            if self.leadership.epoch() != Some(epoch) {
                return;
            }
            pace.spend(Instant::now());
            let written = balancer::write((self.clients)(), key, ingress, &[]);
            if let Ok(Err(error)) = timeout(desk::ANSWER, written).await {
                tracing::debug!(error = plain(&error), %key, "the status was not cleared");
            }
        }
    }

    async fn is_last(&self) -> Result<bool, String> {
        let (client, pod) = ((self.clients)(), self.pod.as_ref());
        let pod = pod.ok_or("POD_NAME and POD_NAMESPACE are not set")?;
        let pods = timeout(desk::ANSWER, address::pods_like(&client, pod)).await;
        let pods = pods
            .map_err(|_| "no answer".to_owned())?
            .map_err(|error| plain(&error))?;
        Ok(pods
            .iter()
            .filter(|other| other.metadata.deletion_timestamp.is_none())
            .all(|other| other.metadata.name.as_deref() == Some(&*pod.1)))
    }
}

type Election = Option<(oneshot::Sender<()>, JoinHandle<()>)>;

fn stand(
    clients: &Clients,
    args: &StatusArgs,
    replica: &Replica,
    refusals: &Refusals,
) -> (Leadership, Election) {
    if !args.leader_election {
        return (Leadership::unquestioned(), None);
    }
    let namespace = replica.namespace.clone();
    let namespace = namespace.unwrap_or_else(|| clients().default_namespace().into());
    let candidate = Candidate {
        identity: Arc::clone(&replica.identity),
        namespace,
        lease: args.election_id.as_str().into(),
    };
    let (stop, stopped) = oneshot::channel();
    let (leadership, election) =
        leader::stand(Arc::clone(clients), candidate, refusals.clone(), stopped);
    (leadership, Some((stop, tokio::spawn(election))))
}

/// What will not be done although it is asked for: known at the start, so said there.
fn doubt(args: &StatusArgs, replica: &Replica, origin: &Origin) -> Option<&'static str> {
    match (args.update_status, args.update_status_on_shutdown) {
        (true, _) if *origin == Origin::Nowhere => Some(
            "the addresses of the gateway are not known, so no Ingress gets a status: name them with \
             --publish-service or --publish-status-address (those of the nodes are taken with \
             POD_NAME and POD_NAMESPACE, and without --watch-namespace)",
        ),
        (true, true) if replica.pod.is_none() => Some(
            "--update-status-on-shutdown takes no address out, because nobody can know whether this \
             is the last replica: name its pod with --pod-name and --pod-namespace (or POD_NAME and \
             POD_NAMESPACE), or leave the flag out",
        ),
        (false, true) => Some(
            "--update-status-on-shutdown has no effect with --update-status=false: leave one of them \
             out",
        ),
        _ => None,
    }
}

fn origin(args: &StatusArgs, replica: &Replica) -> Origin {
    if !args.publish_status_address.is_empty() {
        let told = args.publish_status_address.iter().cloned();
        return Origin::Told(address::sorted(told).into());
    }
    if let Some(service) = &args.publish_service {
        return Origin::Service(service.clone());
    }
    match &replica.pod {
        Some(pod) if replica.sees_nodes => Origin::Nodes {
            pod: pod.clone(),
            internal: args.report_node_internal_ip_address,
        },
        _ => Origin::Nowhere,
    }
}

/// Writes of status: so many at once, then one each interval.
const STATUS_BURST: u32 = 50;
const STATUS_INTERVAL: Duration = Duration::from_millis(10);
/// The same for Events, which are less urgent and may be many.
const EVENT_BURST: u32 = 50;
const EVENT_INTERVAL: Duration = Duration::from_millis(100);
/// How long taking the addresses out may take.
const CLEARING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
