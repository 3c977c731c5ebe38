//! Certificates that Gatehouse orders itself: between the engine, the certificate manager (crate
//! acme) and the data plane.
//!
//! The engine's report says which Ingresses are ours; they become requests; what the manager keeps
//! comes back as changes of the world, its challenges go to the data plane, what is to be said of
//! them to the diagnostics. A process on its own keeps everything in a directory; in a cluster it is
//! kept in Secrets of our own and written into those of users.
//!
//! Invariants: serving waits for nothing here but, for a bounded time, what is kept; a certificate reaches the data plane through the world
//! only, as those of Secrets do; nothing is asked for before the source has sent everything.

mod barrier;
mod cluster;
pub mod counter;
mod desk;
mod findings;
mod follow;
mod front;
mod heal;
pub mod metrics;
mod mirror;
pub mod outlook;
mod owners;
mod post;
mod projection;
pub mod request;
pub mod settings;
mod targets;
mod vault;
pub mod view;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatehouse_acme::ca::Connect;
use gatehouse_acme::clock::SystemClock;
use gatehouse_acme::dns;
use gatehouse_acme::dns::persist::Lookup;
use gatehouse_acme::issuers::Issuers;
use gatehouse_acme::keeper::{Config, Keeper};
use gatehouse_acme::secrets::SecretFolder;
use gatehouse_acme::vault::Vault;
use gatehouse_acme::vault::directory::DirectoryVault;
use gatehouse_gateway::challenge::Challenges;
use k8s_openapi::jiff::SignedDuration;
use tokio::sync::{mpsc, watch};

pub use self::cluster::Place;
use self::desk::{Desk, Last};
pub(crate) use self::findings::shown;
use self::follow::{Complaints, Surroundings};
pub use self::front::Front;
use self::post::Post;
use crate::admin::Readiness;
use crate::config::Managed;
use crate::config::flags::RunArgs;
use crate::engine::Report;
use crate::source::Change;

/// What certificates are ordered with.
#[derive(Debug)]
pub struct Orders {
    file: PathBuf,
    surroundings: Surroundings,
    issuers: Issuers,
    /// Directory of a process on its own.
    vault: Option<PathBuf>,
    secrets: PathBuf,
    managed: Managed,
    disable_catch_all: bool,
    tombstone: SignedDuration,
}

/// What orders meet in the rest of the process.
pub struct Ends {
    /// The data plane's answers to challenges.
    pub challenges: Challenges,
    /// What the engine reports.
    pub reports: watch::Receiver<Arc<Report>>,
    /// What the engine is told.
    pub change: mpsc::Sender<Change>,
    /// Whether the process is healthy.
    pub health: Readiness,
    /// Where people and programs see how certificates stand.
    pub front: Front,
}

impl Orders {
    /// Reads what the flags name; the error is a sentence.
    pub fn read(args: &RunArgs) -> Result<Option<Self>, String> {
        let certificates = &args.certificates;
        let Some(file) = &certificates.issuers.acme else {
            return Ok(None);
        };
        if args.dir.is_some() && certificates.certs.is_none() {
            return Err(invalid(
                file,
                "--certs <PATH> says where certificates are kept, beside --dir",
            ));
        }
        if args.dir.is_none() && !args.status.leader_election {
            return Err(invalid(
                file,
                "only one replica may order, so it cannot be used with --leader-election=false",
            ));
        }
        let surroundings = match args.dir {
            Some(_) => Surroundings::Alone,
            None => Surroundings::Cluster {
                namespaces: !args.selection.watch_namespace.is_empty(),
            },
        };
        let issuers = issuers_of(file, surroundings)?;
        let beside = file.parent().unwrap_or(Path::new(".")).join("secrets");
        let keep = SignedDuration::try_from(certificates.acme_keep_unwanted);
        Ok(Some(Self {
            file: file.clone(),
            surroundings,
            issuers,
            vault: certificates.certs.clone(),
            secrets: certificates.acme_secrets.clone().unwrap_or(beside),
            managed: certificates.issuers.managed(),
            disable_catch_all: args.selection.disable_catch_all,
            tombstone: keep.unwrap_or(SignedDuration::MAX),
        }))
    }

    /// Begins on a process of its own, and hands over what is kept. The error is a sentence: the vault
    /// cannot be used.
    pub async fn start_alone(mut self, ends: Ends) -> Result<(), String> {
        let place = self.vault.take().unwrap_or_default();
        let vault = DirectoryVault::open(&place).map_err(|error| {
            format!(
                "invalid value '{}' for '--certs <PATH>': {error}; name a directory that can be \
                 written",
                place.display()
            )
        })?;
        let post = Arc::new(Post::new(ends.challenges));
        let (issuers, complaints) = self.follow();
        let managed = (self.managed, self.disable_catch_all);
        let config = Config {
            barrier: Arc::clone(&post) as Arc<_>,
            ..self.config(issuers, Arc::new(vault), ends.front.connect())
        };
        let keeper = Keeper::start(config);
        ends.front.show(&keeper, &ends.reports);
        post.follow(keeper.planned.clone());
        let desk = Desk {
            keeper,
            post,
            managed,
            reports: ends.reports,
            change: ends.change,
            cluster: None,
            complaints,
            last: Last::default(),
        };
        desk.begin(ends.health).await;
        Ok(())
    }

    /// The issuers from now on, and what is wrong with their file.
    fn follow(&self) -> (watch::Receiver<Arc<Issuers>>, watch::Receiver<Complaints>) {
        let issuers = watch::Sender::new(Arc::new(self.issuers.clone()));
        let followed = issuers.subscribe();
        let complaints = follow::start(self.file.clone(), self.surroundings, issuers);
        (followed, complaints)
    }

    /// What every keeper is made of.
    fn config(
        self,
        issuers: watch::Receiver<Arc<Issuers>>,
        vault: Arc<dyn Vault>,
        connect: Arc<Connect>,
    ) -> Config {
        let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolvers = dns::resolvers_of(&resolvers);
        Config {
            tombstone: self.tombstone,
            persist: Arc::new(Lookup::new(resolvers.clone())),
            ..Config::alone(
                issuers,
                vault,
                Arc::new(SecretFolder::new(self.secrets)),
                connect,
                dns::solvers(resolvers, Arc::new(SystemClock)),
            )
        }
    }
}

/// The issuers of the file that `--acme` names; the error is a sentence.
fn issuers_of(file: &Path, surroundings: Surroundings) -> Result<Issuers, String> {
    follow::read(file, surroundings).map_err(|list| invalid(file, &list.join("; ")))
}

fn invalid(file: &Path, why: &str) -> String {
    format!(
        "invalid value '{}' for '--acme <FILE>': {why}",
        file.display()
    )
}
