//! Certificates in a cluster: whoever leads orders, everybody serves and answers.

use std::sync::Arc;

use gatehouse_acme::keeper::{Config, Keeper};
use tokio::sync::watch;
use tokio::time::timeout;

use super::barrier::Replicas;
use super::desk::{Around, Desk, FIRST, Last};
use super::heal::Healer;
use super::post::Post;
use super::projection::Projection;
use super::targets::Targets;
use super::vault::SecretVault;
use super::{Ends, Orders};
use crate::config::flags::ObjectName;
use crate::leader::{Clients, Leadership};

/// Where orders are kept and for whom.
pub struct Place {
    /// The way to the API server.
    pub clients: Clients,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// The namespace of Gatehouse itself.
    pub own: Arc<str>,
    /// Namespaces that are watched; empty means all.
    pub namespaces: Vec<Arc<str>>,
    /// The Service whose endpoints are the replicas.
    pub replicas: Option<ObjectName>,
}

impl Orders {
    /// Begins in a cluster, and hands over what is kept.
    pub async fn start_clustered(self, place: Place, ends: Ends) {
        let Place {
            clients,
            leadership,
            own,
            namespaces,
            replicas,
        } = place;
        let vault = SecretVault::open(&clients, Arc::clone(&own), leadership.clone());
        // A keeper shows what there is when it begins; without the API server it begins with nothing.
        timeout(FIRST, vault.listed()).await.ok();
        let targets = Arc::new(Targets::follow(&clients, &namespaces));
        let projection = Arc::new(Projection::new(&clients, &own, leadership.clone()));
        let post = Arc::new(Post::new(ends.challenges));
        let barrier = Replicas {
            post: Arc::clone(&post),
            clients: Arc::clone(&clients),
            service: replicas,
        };
        let (issuers, complaints) = self.follow();
        let managed = (self.managed, self.disable_catch_all);
        let config = Config {
            barrier: Arc::new(barrier),
            projector: Arc::clone(&projection) as Arc<_>,
            ..self.config(issuers, Arc::new(vault), ends.front.connect())
        };
        let keeper = Keeper::start(config);
        ends.front.show(&keeper, &ends.reports);
        post.follow(keeper.planned.clone());
        projection.follow(keeper.reports.clone());
        let findings = watch::Sender::new(Arc::default());
        let around = Around {
            tenants: namespaces.is_empty(),
            targets: Arc::clone(&targets),
            changes: targets.changes(),
            findings: findings.subscribe(),
        };
        let healer = Healer {
            projection,
            targets,
            leadership,
            certificates: keeper.certificates.clone(),
            reports: keeper.reports.clone(),
            planned: keeper.planned.clone(),
            findings,
        };
        let desk = Desk {
            keeper,
            post,
            managed,
            reports: ends.reports,
            change: ends.change,
            cluster: Some(around),
            complaints,
            last: Last::default(),
        };
        tokio::spawn(healer.run());
        desk.begin(ends.health).await;
    }
}
