//! Objects from an API server, followed live.
//!
//! Invariants:
//! - What is read is what [`resource::GRANTS`] names; Secrets, ConfigMaps and Endpoints only when
//!   the engine asks for them.
//! - [`Change::Synced`] is said once, when everything has been listed, what was wanted at the first
//!   translation included. Ingresses, Services and EndpointSlices are always waited for: without
//!   them a gateway would be ready to answer 404.
//! - A resource that may not be read, or is not there, harms only itself.
//! - At most one line a second is said about the conversation with the server.
//!
//! One task per watch (`reflect`), and this one, which starts and stops them.

pub mod access;
mod backoff;
pub mod contact;
mod failure;
mod form;
mod holdings;
mod kubeconfig;
mod progress;
mod prune;
mod reflect;
pub mod refusal;
pub mod resource;
mod target;
mod wanted;

pub use failure::plain;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::access::Access;
use self::contact::Contacts;
use self::holdings::Holdings;
use self::reflect::{Known, Reflector};
use self::target::Target;
use self::wanted::{Pairs, Wanted, wanted};
use super::{Absence, Change, Kind, ObjectKey};
use crate::diagnostics::{Code, Diagnostic, Severity};
use crate::engine::Report;
use crate::pace::Pace;

/// Which part of the cluster is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Namespaces; empty means all. With namespaces, no IngressClass is read: it belongs to none.
    pub namespaces: Vec<Arc<str>>,
    /// Labels that Ingresses must have.
    pub ingress_labels: Option<String>,
    /// Whether it matters who a namespace is. With namespaces, none is read: they belong to none.
    pub tenants: bool,
}

/// Follows the cluster until the engine is gone.
pub async fn watch(
    access: Access,
    scope: Scope,
    contacts: Contacts,
    mut reports: watch::Receiver<Arc<Report>>,
    changes: mpsc::Sender<Change>,
) {
    let mut source = Source {
        base: base(&scope),
        access,
        scope,
        contacts,
        changes,
        holdings: Holdings::default(),
        running: BTreeMap::new(),
        stage: Stage::Listing,
        asked: Arc::default(),
        left_out: 0,
        absent: None,
        pace: Pace::new(START_INTERVAL, START_BURST),
        complaints: Vec::new(),
    };
    for target in source.base.clone() {
        source.start(target);
    }
    let contacts = source.contacts.clone();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (looked, complain) = tokio::select! {
            _ = rounds.tick() => (true, true),
            () = contacts.changed() => (true, false),
            news = reports.changed() => {
                if news.is_err() {
                    return;
                }
                (source.stage != Stage::Synced, false)
            }
        };
        let report = Arc::clone(&reports.borrow_and_update());
        // Most reports are about endpoints and concern nobody here.
        let news = looked || !Arc::ptr_eq(&report.wanted, &source.asked);
        if news && source.advance(&report).await.is_err() {
            return;
        }
        if complain && source.complain().await.is_err() {
            return;
        }
    }
}

/// How far the start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The kinds that are always read are being listed.
    Listing,
    /// The engine has been asked what else is wanted, and that is being listed.
    Asking,
    /// Everything has been sent.
    Synced,
}

struct Source {
    access: Access,
    scope: Scope,
    contacts: Contacts,
    changes: mpsc::Sender<Change>,
    base: Vec<Target>,
    holdings: Holdings,
    running: BTreeMap<Target, Running>,
    stage: Stage,
    /// What the engine has asked for.
    asked: Arc<[ObjectKey]>,
    left_out: usize,
    /// What was said last to be absent.
    absent: Option<BTreeMap<ObjectKey, Absence>>,
    /// When watches by name may start.
    pace: Pace,
    complaints: Vec<Diagnostic>,
}

/// One watch and what it has sent.
struct Running {
    task: JoinHandle<()>,
    known: Known,
    /// Since when nobody wants it.
    idle: Option<Instant>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The engine is gone.
struct Over;

impl Source {
    /// Does what the news call for.
    async fn advance(&mut self, report: &Report) -> Result<(), Over> {
        if self.stage == Stage::Listing {
            if !self.base.iter().all(|target| self.settled(target)) {
                return Ok(());
            }
            self.send(Change::Listed).await?;
            self.stage = Stage::Asking;
        }
        if !report.surveyed {
            return Ok(());
        }
        let asked = wanted(&report.wanted, &self.scope.namespaces, self);
        self.asked = Arc::clone(&report.wanted);
        let by_type = asked.targets.iter().filter(|target| target.name.is_none());
        for target in by_type.chain(&asked.names) {
            match self.running.get_mut(target) {
                Some(running) => running.idle = None,
                None => self.start_in_time(target),
            }
        }
        let absent = self.absent(&asked);
        if self.absent.as_ref() != Some(&absent) {
            self.absent = Some(absent.clone());
            self.send(Change::Absent(absent)).await?;
        }
        let Wanted {
            targets, left_out, ..
        } = asked;
        self.left_out = left_out.len();
        self.retire(|target| targets.contains(target)).await?;
        if self.stage == Stage::Asking && targets.iter().all(|target| self.settled(target)) {
            // By now what lists of key pairs lack may be known: that is waited for, too.
            let again = wanted(&report.wanted, &self.scope.namespaces, self);
            if again.targets == targets {
                self.send(Change::Synced).await?;
                self.stage = Stage::Synced;
            }
        }
        Ok(())
    }

    /// The Secrets that are asked for and are known not to be there. About one whose watch has not
    /// listed it yet nothing is known.
    fn absent(&self, wanted: &Wanted) -> BTreeMap<ObjectKey, Absence> {
        let secrets = self.asked.iter().filter(|key| key.kind == Kind::Secret);
        let absence = |key: &ObjectKey| {
            let by_name = Target::one(Kind::Secret, &key.namespace, &key.name);
            if wanted.left_out.contains(&by_name) {
                Some(Absence::LeftOut)
            } else if !wanted.targets.contains(&by_name) {
                None
            } else if self.contacts.settled(&by_name, true) {
                Some(Absence::Missing)
            } else {
                let refused = self.contacts.settled(&by_name, false);
                refused.then_some(Absence::Refused)
            }
        };
        secrets
            .filter(|key| !self.holdings.holds(key))
            .filter_map(|key| Some((key.clone(), absence(key)?)))
            .collect()
    }

    /// Starts a watch, one by name not before its time: it is a connection, and an Ingress that
    /// names others every moment must not open them without end. What has to wait is looked at
    /// again in the next round.
    fn start_in_time(&mut self, target: &Target) {
        if target.name.is_some() {
            let now = Instant::now();
            if self.pace.allows(now) > now {
                return;
            }
            self.pace.spend(now);
        }
        self.start(target.clone());
    }

    /// Whether there is no need to wait for the first list. Without the objects that every route
    /// is made of, there is.
    fn settled(&self, target: &Target) -> bool {
        let needed = matches!(
            target.kind,
            Kind::Ingress | Kind::Service | Kind::EndpointSlice
        );
        self.contacts.settled(target, needed)
    }

    fn start(&mut self, target: Target) {
        let known = Known::default();
        let labels = (target.kind == Kind::Ingress)
            .then(|| self.scope.ingress_labels.clone())
            .flatten();
        let reflector = Reflector {
            labels,
            access: self.access.clone(),
            contact: self.contacts.open(&target),
            changes: self.changes.clone(),
            known: known.clone(),
            holdings: self.holdings.clone(),
            target: target.clone(),
        };
        let running = Running {
            task: tokio::spawn(follow(reflector)),
            known,
            idle: None,
        };
        self.running.insert(target, running);
    }

    /// Stops watches that nobody has wanted for a while, and takes back what only they have sent.
    async fn retire(&mut self, wanted: impl Fn(&Target) -> bool) -> Result<(), Over> {
        // Secrets stay until the watch that takes the place of theirs has them, too.
        let cluster = Target::all(Kind::Secret);
        let replacing = wanted(&cluster) && !self.contacts.settled(&cluster, true);
        let mut idle = Vec::new();
        for (target, running) in &mut self.running {
            let replaced = replacing && target.kind == Kind::Secret;
            if wanted(target) || replaced || self.base.contains(target) {
                continue;
            }
            let since = *running.idle.get_or_insert_with(Instant::now);
            idle.push((since, target.clone()));
        }
        for target in over(idle, Instant::now()) {
            let Some(mut running) = self.running.remove(&target) else {
                continue;
            };
            running.task.abort();
            // It sends nothing more after this.
            (&mut running.task).await.ok();
            self.contacts.close(&target);
            let known = std::mem::take(&mut *running.known.keys());
            for key in known {
                if self.holdings.release(&key) {
                    self.send(Change::Delete(key)).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends the complaints if they are others than before.
    async fn complain(&mut self) -> Result<(), Over> {
        let mut complaints = self.contacts.complaints();
        if self.left_out > 0 {
            complaints.push(Diagnostic::new(
                Severity::Error,
                &"Kubernetes API".into(),
                "",
                Code::WatchLimit,
                format!(
                    "{} objects that are asked for by name are not read, there are too many: Secrets \
                     that do not exist or are not of type kubernetes.io/tls, services without an \
                     EndpointSlice; remove what refers to them",
                    self.left_out
                ),
            ));
        }
        if complaints != self.complaints {
            self.complaints.clone_from(&complaints);
            self.send(Change::Complaints(complaints)).await?;
        }
        Ok(())
    }

    async fn send(&self, change: Change) -> Result<(), Over> {
        self.changes.send(change).await.map_err(|_| Over)
    }
}

impl Pairs for Source {
    fn lacks(&self, watch: &Target, secret: &ObjectKey) -> bool {
        self.settled(watch)
            && self
                .running
                .get(watch)
                .is_some_and(|running| !running.known.keys().contains(secret))
    }

    fn refused(&self, watch: &Target) -> bool {
        self.contacts.settled(watch, false) && !self.contacts.settled(watch, true)
    }
}

fn base(scope: &Scope) -> Vec<Target> {
    let kinds = [Kind::Ingress, Kind::Service, Kind::EndpointSlice];
    if scope.namespaces.is_empty() {
        let tenants = scope.tenants.then_some(Kind::Namespace);
        let kinds = kinds.into_iter().chain([Kind::IngressClass]).chain(tenants);
        return kinds.map(Target::all).collect();
    }
    let each = |kind| {
        scope
            .namespaces
            .iter()
            .map(move |namespace| Target::within(kind, namespace))
    };
    kinds.into_iter().flat_map(each).collect()
}

/// Which of the watches that nobody wants have gone on for long enough. They are connections, and an
/// Ingress that names others every second must not gather them: the oldest go first.
fn over(mut idle: Vec<(Instant, Target)>, now: Instant) -> Vec<Target> {
    idle.sort_unstable();
    let crowd = idle.len().saturating_sub(LINGERING);
    idle.into_iter()
        .enumerate()
        .filter(|(place, (since, _))| *place < crowd || now.duration_since(*since) >= LINGER)
        .map(|(_, (_, target))| target)
        .collect()
}

fn follow(reflector: Reflector) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match reflector.target.kind {
        Kind::Ingress => Box::pin(reflector.run::<Ingress>()),
        Kind::IngressClass => Box::pin(reflector.run::<IngressClass>()),
        Kind::Service => Box::pin(reflector.run::<Service>()),
        Kind::EndpointSlice => Box::pin(reflector.run::<EndpointSlice>()),
        Kind::Endpoints => Box::pin(reflector.run::<Endpoints>()),
        Kind::Secret => Box::pin(reflector.run::<Secret>()),
        Kind::ConfigMap => Box::pin(reflector.run::<ConfigMap>()),
        Kind::Namespace => Box::pin(reflector.run::<Namespace>()),
    }
}

/// How often complaints are said and what is wanted is looked at.
const ROUND: Duration = Duration::from_secs(1);

/// How long a watch goes on that nobody wants: an Ingress that is made anew finds its Secret.
const LINGER: Duration = Duration::from_secs(60);

/// How many of them go on so.
const LINGERING: usize = 32;

/// Watches by name that start at once, as many as there may be; then one each interval.
const START_BURST: u32 = 128;
const START_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_goes_on_for_a_minute_unless_there_is_too_much_of_it() {
        let begun = Instant::now();
        let idle = |count: u32| -> Vec<(Instant, Target)> {
            let watch = |number| {
                let name = format!("s{number:03}").into();
                let since = begun + number * Duration::from_secs(1);
                (since, Target::one(Kind::Secret, &"shop".into(), &name))
            };
            // Youngest first: the order they come in says nothing.
            (0..count).rev().map(watch).collect()
        };
        assert_eq!(over(idle(10), begun + LINGER / 2), []);
        let names = |over: Vec<Target>| over.iter().map(ToString::to_string).collect::<Vec<_>>();
        let first = ["secrets shop/s000", "secrets shop/s001"];
        let later = begun + LINGER + Duration::from_secs(1);
        assert_eq!(names(over(idle(10), later)), first);
        assert_eq!(names(over(idle(34), begun + LINGER / 2)), first);
    }
}
