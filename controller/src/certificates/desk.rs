//! Carries between the engine, the keeper and the data plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_acme::board::Board;
use gatehouse_acme::driver::{Covers, Wishes};
use gatehouse_acme::keeper::Keeper;
use gatehouse_acme::plan::{Finding, Target};
use gatehouse_acme::served::{Certificate, Certificates, Reports};
use gatehouse_acme::troubles::Troubles;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::findings::Askers;
use super::follow::Complaints;
use super::heal::Wound;
use super::post::Post;
use super::targets::{TLS, Targets};
use super::{findings, request};
use crate::admin::Readiness;
use crate::config::Managed;
use crate::diagnostics::Severity;
use crate::engine::{Ingresses, Namespaces, Report};
use crate::source::{Change, Cover, Kept, Kind, ObjectKey};

/// See the module.
pub(super) struct Desk {
    pub(super) keeper: Keeper,
    pub(super) post: Arc<Post>,
    /// Which Ingresses ask, and whether those with a default backend are left out.
    pub(super) managed: (Managed, bool),
    pub(super) reports: watch::Receiver<Arc<Report>>,
    pub(super) change: mpsc::Sender<Change>,
    /// What there is of a cluster.
    pub(super) cluster: Option<Around>,
    /// What is wrong with the file of issuers.
    pub(super) complaints: watch::Receiver<Complaints>,
    /// What was looked at and told last.
    pub(super) last: Last,
}

/// The parts that a process on its own does not have.
pub(super) struct Around {
    /// Whether it is known who a namespace is.
    pub(super) tenants: bool,
    pub(super) targets: Arc<Targets>,
    /// Changes of the targets.
    pub(super) changes: watch::Receiver<u64>,
    /// What the healer has to say.
    pub(super) findings: watch::Receiver<Arc<Vec<Wound>>>,
}

/// Certificates that may be served, and whether one comes before what is in the Secret.
type Shown = BTreeMap<Target, (Arc<Certificate>, bool)>;

/// What decides which certificates may be served.
struct Seen {
    certificates: Arc<Certificates>,
    namespaces: Arc<Namespaces>,
    planned: Arc<Wishes>,
    covers: Arc<Covers>,
    /// How often the targets have changed.
    count: u64,
}

impl Seen {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates)
            && Arc::ptr_eq(&self.namespaces, &other.namespaces)
            && Arc::ptr_eq(&self.planned, &other.planned)
            && Arc::ptr_eq(&self.covers, &other.covers)
            && self.count == other.count
    }
}

/// What is said: of the plan, of the certificates, of the file of issuers, by the healer, of the vault.
type Said = (
    Arc<Vec<Finding>>,
    Arc<Reports>,
    Complaints,
    Option<Arc<Vec<Wound>>>,
    Arc<Troubles>,
);

/// What was looked at and told last.
#[derive(Default)]
pub(super) struct Last {
    /// The objects that requests were made of.
    asked: Option<(Arc<Ingresses>, Arc<Namespaces>)>,
    /// What that was decided by.
    seen: Option<Seen>,
    /// The plan as long as nothing was asked for: nobody knows yet what is wanted.
    unasked: Option<Arc<Wishes>>,
    /// What the world was told.
    kept: Shown,
    covered: BTreeMap<Target, Cover>,
    /// What the data plane was told.
    published: (Arc<Board>, Arc<Wishes>),
    said: Said,
    /// When part of that is over.
    fades: Option<Instant>,
}

impl Desk {
    /// Begins, after what is kept has been handed over: a process is not ready without it.
    pub(super) async fn begin(mut self, health: Readiness) {
        if timeout(FIRST, self.keeper.shown()).await.is_err() {
            tracing::warn!(
                "the certificates that are kept cannot be read yet; they are served later"
            );
        }
        let begun = self.hand_over().await;
        tokio::spawn(async move {
            if begun.is_some() {
                self.run().await;
            }
            // Only its death ends it: nobody would notice before certificates run out.
            tracing::error!("certificates are no longer ordered or renewed: restart the process");
            health.hold(MANAGER_DIED);
        });
    }

    /// Until one of the two ends.
    async fn run(mut self) {
        while self.carry().await.is_some() {
            let keeper = &mut self.keeper;
            let around = around(self.cluster.as_mut());
            let faded = faded(self.last.fades);
            let changed = tokio::select! {
                changed = self.reports.changed() => changed.is_ok(),
                changed = keeper.certificates.changed() => changed.is_ok(),
                changed = keeper.board.changed() => changed.is_ok(),
                changed = keeper.planned.changed() => changed.is_ok(),
                changed = keeper.covers.changed() => changed.is_ok(),
                changed = keeper.findings.changed() => changed.is_ok(),
                changed = keeper.reports.changed() => changed.is_ok(),
                changed = keeper.troubles.changed() => changed.is_ok(),
                changed = self.complaints.changed() => changed.is_ok(),
                changed = around => changed,
                () = faded => {
                    self.last.said = Said::default();
                    true
                }
            };
            if !changed {
                return;
            }
        }
    }

    /// Takes everything where it belongs; what has not changed costs a comparison.
    async fn carry(&mut self) -> Option<()> {
        self.ask();
        self.publish();
        self.hand_over().await?;
        self.say().await
    }

    /// Tells the data plane what to answer.
    fn publish(&mut self) {
        let planned = self.keeper.planned.borrow_and_update().clone();
        let board = self.keeper.board.borrow_and_update().clone();
        let (known, answered) = &self.last.published;
        if Arc::ptr_eq(&board, known) && Arc::ptr_eq(&planned, answered) {
            return;
        }
        self.post.publish(&board);
        self.last.published = (board, planned);
    }

    /// Tells the engine what there is to say.
    async fn say(&mut self) -> Option<()> {
        let planned = self.keeper.findings.borrow_and_update().clone();
        let reports = self.keeper.reports.borrow_and_update().clone();
        let cluster = self.cluster.as_mut();
        let healer = cluster.map(|around| around.findings.borrow_and_update().clone());
        // Most rounds come from the engine: what it knows is not made and sent again.
        let complaints = self.complaints.borrow_and_update().clone();
        let troubles = self.keeper.troubles.borrow_and_update().clone();
        let (known, stood, complained, healed, troubled) = &self.last.said;
        let same = |one: &Option<Arc<_>>, two: &Option<Arc<_>>| {
            one.as_ref().map(Arc::as_ptr) == two.as_ref().map(Arc::as_ptr)
        };
        let known = Arc::ptr_eq(&planned, known)
            && Arc::ptr_eq(&reports, stood)
            && Arc::ptr_eq(&troubles, troubled);
        if known && Arc::ptr_eq(&complaints, complained) && same(&healer, healed) {
            return Some(());
        }
        let now = Timestamp::now();
        let asking = self.keeper.wanted.borrow().clone().unwrap_or_default();
        let askers = Askers::new(&planned, &asking);
        let mut list = findings::diagnostics(&planned, &reports, &askers, now);
        let unhealed = healer.iter().flat_map(|list| list.iter());
        list.extend(unhealed.map(|wound| {
            findings::about(
                &wound.target,
                askers.of(&wound.target),
                Severity::Warning,
                wound.code,
                wound.message.clone(),
            )
        }));
        list.extend(findings::vault(&troubles, &askers));
        list.extend(complaints.iter().cloned());
        self.last.fades = findings::next_fading(&reports, now).map(|end| {
            let left = end.duration_since(now).unsigned_abs();
            Instant::now() + left
        });
        list.sort_unstable();
        self.last.said = (planned, reports, complaints, healer, troubles);
        self.change.send(Change::Certificates(list)).await.ok()
    }

    /// Asks for what the Ingresses want.
    fn ask(&mut self) {
        let report = self.reports.borrow_and_update();
        let same = |(owned, namespaces): &(Arc<Ingresses>, Arc<Namespaces>)| {
            Arc::ptr_eq(owned, &report.owned) && Arc::ptr_eq(namespaces, &report.namespaces)
        };
        // Until the first generation nothing was computed of what was sent: no Ingress seems ours,
        // and orders that are under way would be given up.
        let known = report.synced && report.generation > 0;
        if !known || self.last.asked.as_ref().is_some_and(same) {
            return;
        }
        let tenants = self.cluster.as_ref().map(|around| around.tenants);
        // A cluster has namespaces: until one is known nobody knows who asks, and to ask for nothing
        // would be to give up what there is.
        if tenants == Some(true) && report.namespaces.is_empty() {
            return;
        }
        let tenants = match tenants {
            Some(true) => request::Tenants::Known(&report.namespaces),
            Some(false) => request::Tenants::Unknown,
            None => request::Tenants::Labelled(&report.namespaces),
        };
        let requests = request::requests(&report.owned, &tenants, self.managed);
        self.last.asked = Some((Arc::clone(&report.owned), Arc::clone(&report.namespaces)));
        drop(report);
        self.keeper.wanted.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&requests);
            if changed {
                *known = Some(Arc::new(requests));
            }
            changed
        });
    }

    /// Tells the world which certificates are kept.
    async fn hand_over(&mut self) -> Option<()> {
        let certificates = self.keeper.certificates.borrow_and_update().clone();
        let namespaces = Arc::clone(&self.reports.borrow().namespaces);
        let planned = self.keeper.planned.borrow().clone();
        let covers = self.keeper.covers.borrow_and_update().clone();
        let cluster = self.cluster.as_mut();
        let seen = Seen {
            certificates,
            namespaces,
            planned,
            covers,
            count: cluster.map_or(0, |around| *around.changes.borrow_and_update()),
        };
        // Most rounds come from the engine, about endpoints.
        if self.last.seen.as_ref().is_some_and(|known| known.is(&seen)) {
            return Some(());
        }
        let unasked = &mut self.last.unasked;
        unasked.get_or_insert_with(|| Arc::clone(&seen.planned));
        let new = self.shown(&seen);
        let covered = self.covered(&seen, &new);
        self.last.seen = Some(seen);
        let old = std::mem::replace(&mut self.last.kept, new);
        let new = &self.last.kept;
        let same = |(known, was_first): &(Arc<Certificate>, bool),
                    (certificate, first): &(Arc<Certificate>, bool)| {
            Arc::ptr_eq(known, certificate) && was_first == first
        };
        for (target, kept) in changes(&old, new, same) {
            let kept = kept.map(|(certificate, first)| Kept {
                secret: secret(certificate),
                first: *first,
            });
            let change = Change::Keep(key_of(target), kept);
            self.change.send(change).await.ok()?;
        }
        let old = std::mem::replace(&mut self.last.covered, covered);
        for (target, cover) in changes(&old, &self.last.covered, Cover::eq) {
            let change = Change::Cover(key_of(target), cover.cloned());
            self.change.send(change).await.ok()?;
        }
        Some(())
    }

    /// For which Secrets another one is served: whatever is in them, if that is of Gatehouse.
    fn covered(&self, seen: &Seen, shown: &Shown) -> BTreeMap<Target, Cover> {
        let cluster = self.cluster.as_ref();
        let covers = seen.covers.iter().filter(|(target, by)| {
            // The plan covers nothing beyond a namespace; what may be served is decided here.
            target.namespace == by.namespace && shown.contains_key(*by)
        });
        let covers = covers.map(|(target, by)| {
            let cover = Cover {
                secret: by.secret.as_str().into(),
                first: cluster.is_some_and(|around| around.targets.is_ours(target)),
            };
            (target.clone(), cover)
        });
        covers.collect()
    }

    /// What may be served of what is kept. A namespace that was made anew under an old name is another
    /// tenant. What nobody wants any more stands in for what its owner writes now, and not before it.
    fn shown(&self, seen: &Seen) -> Shown {
        let another = |target: &Target, certificate: &Certificate| {
            let namespace = seen.namespaces.get(target.namespace.as_str());
            let uid = namespace.and_then(|namespace| namespace.metadata.uid.as_deref());
            !certificate.namespace_uid.is_empty()
                && uid.is_some_and(|uid| uid != certificate.namespace_uid)
        };
        let unasked = self.last.unasked.as_ref();
        let unasked = unasked.is_some_and(|plan| Arc::ptr_eq(plan, &seen.planned));
        let wanted = |target: &Target| unasked || seen.planned.contains_key(target);
        let cluster = self.cluster.as_ref();
        let shown = seen
            .certificates
            .iter()
            .filter_map(|(target, certificate)| {
                if another(target, certificate) {
                    return None;
                }
                let ours = cluster.is_some_and(|around| around.targets.is_ours(target));
                let first = ours && wanted(target);
                Some((target.clone(), (Arc::clone(certificate), first)))
            });
        shown.collect()
    }
}

/// What is gone, without a value, and what is new or another one.
fn changes<'a, T>(
    old: &'a BTreeMap<Target, T>,
    new: &'a BTreeMap<Target, T>,
    same: impl Fn(&T, &T) -> bool,
) -> impl Iterator<Item = (&'a Target, Option<&'a T>)> {
    let gone = old.keys().filter(|target| !new.contains_key(*target));
    let gone = gone.map(|target| (target, None));
    let fresh = new.iter().filter(move |(target, value)| {
        let known = old.get(*target);
        !known.is_some_and(|known| same(known, value))
    });
    gone.chain(fresh.map(|(target, value)| (target, Some(value))))
}

fn key_of(target: &Target) -> ObjectKey {
    ObjectKey {
        kind: Kind::Secret,
        namespace: target.namespace.as_str().into(),
        name: target.secret.as_str().into(),
    }
}

/// When something is told no longer; never, if nothing is.
async fn faded(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// How long the start waits for what is kept. Reading it takes milliseconds.
pub(super) const FIRST: Duration = Duration::from_secs(10);
const MANAGER_DIED: &str = "the certificate manager has ended";

/// Waits for news of what is around in a cluster.
async fn around(cluster: Option<&mut Around>) -> bool {
    let Some(around) = cluster else {
        return std::future::pending().await;
    };
    tokio::select! {
        changed = around.changes.changed() => changed.is_ok(),
        changed = around.findings.changed() => changed.is_ok(),
    }
}

/// A kept certificate in the form of the Secret that it stands for.
fn secret(certificate: &Certificate) -> Arc<Secret> {
    let material = &certificate.material;
    let chain = ByteString(material.chain.as_bytes().to_vec());
    let key = ByteString(material.key.expose().to_vec());
    Arc::new(Secret {
        data: Some([("tls.crt".to_owned(), chain), ("tls.key".to_owned(), key)].into()),
        type_: Some(TLS.to_owned()),
        ..Secret::default()
    })
}
