//! Certificates that Gatehouse orders itself: between the engine, the certificate manager (crate
//! acme) and the data plane.
//!
//! The engine's report says which Ingresses are ours; they become requests; what the manager keeps
//! comes back as changes of the world, its challenges go to the data plane, what is to be said of
//! them to the diagnostics.
//!
//! Invariants: serving waits for nothing here but, for a bounded time, what is kept already; a certificate reaches the data plane through the world
//! only, as those of Secrets do; nothing is asked for before the source has sent everything.

mod findings;
mod post;
pub mod request;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gatehouse_acme::board::Board;
use gatehouse_acme::ca;
use gatehouse_acme::clock::SystemClock;
use gatehouse_acme::dns;
use gatehouse_acme::driver::Wishes;
use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::keeper::{Config, Keeper};
use gatehouse_acme::plan::Finding;
use gatehouse_acme::secrets::SecretFolder;
use gatehouse_acme::served::{Certificate, Certificates, Reports};
use gatehouse_acme::vault::directory::DirectoryVault;
use gatehouse_gateway::challenge::Challenges;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::post::Post;
use crate::admin::Readiness;
use crate::config::{CertificateArgs, Managed};
use crate::engine::{Ingresses, Report};
use crate::source::{Change, Kind, ObjectKey};

/// What a process on its own orders certificates with.
#[derive(Debug)]
pub struct Standalone {
    issuers: Issuers,
    vault: PathBuf,
    secrets: PathBuf,
    managed: Managed,
}

impl Standalone {
    /// Reads what the flags name; the error is a sentence.
    pub fn read(args: &CertificateArgs) -> Result<Option<Self>, String> {
        let (Some(file), Some(vault)) = (&args.acme, &args.certs) else {
            return Ok(None);
        };
        let bad = |why: String| {
            format!(
                "invalid value '{}' for '--acme <FILE>': {why}",
                file.display()
            )
        };
        let text = fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
        let issuers = Issuers::parse(&text).map_err(|list| bad(list.join("; ")))?;
        let beside = file.parent().unwrap_or(Path::new(".")).join("secrets");
        Ok(Some(Self {
            issuers,
            vault: vault.clone(),
            secrets: args.acme_secrets.clone().unwrap_or(beside),
            managed: args.managed(),
        }))
    }

    /// Begins, and hands over what is kept: the caller is not ready without it. The error is a
    /// sentence: the vault cannot be used.
    pub async fn start(
        self,
        challenges: &Challenges,
        reports: watch::Receiver<Arc<Report>>,
        change: mpsc::Sender<Change>,
        health: Readiness,
    ) -> Result<(), String> {
        let vault = DirectoryVault::open(&self.vault).map_err(|error| {
            format!(
                "invalid value '{}' for '--certs <PATH>': {error}; name a directory that can be \
                 written",
                self.vault.display()
            )
        })?;
        let post = Arc::new(Post::new(challenges.clone()));
        // Kept as long as the keeper, or it would see the end of a configuration that stays.
        let issuers = watch::Sender::new(Arc::new(self.issuers));
        let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolvers = dns::resolvers_of(&resolvers);
        let config = Config {
            barrier: Arc::clone(&post) as Arc<_>,
            ..Config::alone(
                issuers.subscribe(),
                Arc::new(vault),
                Arc::new(SecretFolder::new(self.secrets)),
                Arc::new(|endpoint| ca::connect(endpoint, Arc::new(|_| {}))),
                dns::solvers(resolvers, Arc::new(SystemClock)),
            )
        };
        let keeper = Keeper::start(config);
        post.follow(keeper.planned.clone());
        if timeout(FIRST, keeper.shown()).await.is_err() {
            tracing::warn!("the certificates of --certs are not read yet; they are served later");
        }
        let mut desk = Desk {
            keeper,
            post,
            managed: self.managed,
            reports,
            change,
            owned: None,
            kept: Arc::default(),
            published: Default::default(),
            said: Default::default(),
            _issuers: issuers,
        };
        let begun = desk.hand_over().await;
        tokio::spawn(async move {
            if begun.is_some() {
                desk.run().await;
            }
            // Only its death ends it: nobody would notice before certificates run out.
            tracing::error!("certificates are no longer ordered or renewed: restart the process");
            health.hold(MANAGER_DIED);
        });
        Ok(())
    }
}

/// How long the start waits for what is kept. Reading a vault takes milliseconds.
const FIRST: Duration = Duration::from_secs(10);
const MANAGER_DIED: &str = "the certificate manager has ended";

/// Carries between the engine, the keeper and the data plane.
struct Desk {
    keeper: Keeper,
    post: Arc<Post>,
    managed: Managed,
    reports: watch::Receiver<Arc<Report>>,
    change: mpsc::Sender<Change>,
    /// The Ingresses that were looked at last.
    owned: Option<Arc<Ingresses>>,
    /// What the world was told last.
    kept: Arc<Certificates>,
    /// What the data plane was told last.
    published: (Arc<Board>, Arc<Wishes>),
    /// What was said last.
    said: (Arc<Vec<Finding>>, Arc<Reports>),
    _issuers: watch::Sender<Arc<Issuers>>,
}

impl Desk {
    /// Until one of the two ends.
    async fn run(mut self) {
        while self.carry().await.is_some() {
            let keeper = &mut self.keeper;
            let changed = tokio::select! {
                changed = self.reports.changed() => changed,
                changed = keeper.certificates.changed() => changed,
                changed = keeper.board.changed() => changed,
                changed = keeper.planned.changed() => changed,
                changed = keeper.findings.changed() => changed,
                changed = keeper.reports.changed() => changed,
            };
            if changed.is_err() {
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
        let known = &self.published;
        if Arc::ptr_eq(&board, &known.0) && Arc::ptr_eq(&planned, &known.1) {
            return;
        }
        self.post.publish(&board);
        self.published = (board, planned);
    }

    /// Tells the engine what there is to say.
    async fn say(&mut self) -> Option<()> {
        let findings = self.keeper.findings.borrow_and_update().clone();
        let reports = self.keeper.reports.borrow_and_update().clone();
        // Most rounds come from the engine: what it knows is not made and sent again.
        if Arc::ptr_eq(&findings, &self.said.0) && Arc::ptr_eq(&reports, &self.said.1) {
            return Some(());
        }
        let list = findings::diagnostics(&findings, &reports);
        self.said = (findings, reports);
        self.change.send(Change::Certificates(list)).await.ok()
    }

    /// Asks for what the Ingresses want.
    fn ask(&mut self) {
        let report = self.reports.borrow_and_update();
        let same = |known: &Arc<Ingresses>| Arc::ptr_eq(known, &report.owned);
        // Until the first generation nothing was computed of what was sent: no Ingress seems ours,
        // and orders that are under way would be given up.
        let known = report.synced && report.generation > 0;
        if !known || self.owned.as_ref().is_some_and(same) {
            return;
        }
        let requests = request::requests(&report.owned, self.managed);
        self.owned = Some(Arc::clone(&report.owned));
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
        let new = self.keeper.certificates.borrow_and_update().clone();
        let old = std::mem::replace(&mut self.kept, Arc::clone(&new));
        let gone = old.keys().filter(|target| !new.contains_key(target));
        let gone = gone.map(|target| (target, None));
        let fresh = new.iter().filter_map(|(target, certificate)| {
            let known = old.get(target);
            let same = known.is_some_and(|known| Arc::ptr_eq(known, certificate));
            (!same).then(|| (target, Some(secret(certificate))))
        });
        for (target, secret) in gone.chain(fresh) {
            let key = ObjectKey {
                kind: Kind::Secret,
                namespace: target.namespace.as_str().into(),
                name: target.secret.as_str().into(),
            };
            self.change.send(Change::Keep(key, secret)).await.ok()?;
        }
        Some(())
    }
}

/// A kept certificate in the form of the Secret that it stands for.
fn secret(certificate: &Certificate) -> Arc<Secret> {
    let material = &certificate.material;
    let chain = ByteString(material.chain.as_bytes().to_vec());
    let key = ByteString(material.key.expose().to_vec());
    Arc::new(Secret {
        data: Some([("tls.crt".to_owned(), chain), ("tls.key".to_owned(), key)].into()),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    })
}
