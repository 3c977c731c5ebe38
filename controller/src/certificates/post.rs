//! The board of the certificate manager, published to the data plane.
//!
//! Invariant: what is on the board is answered before [`Barrier::wait`] returns, so before any
//! authority is told that it is there.

use std::future::ready;
use std::sync::{Arc, OnceLock};

use gatehouse_acme::Answer;
use gatehouse_acme::board::{Board, Posted};
use gatehouse_acme::ca::ChallengeKind;
use gatehouse_acme::driver::{Barrier, Wishes};
use gatehouse_acme::issuers::Http01;
use gatehouse_acme::names::Name;
use gatehouse_gateway::challenge::Challenges;
use gatehouse_gateway::model::{ChallengePlan, HandshakePlan, Identifier, Thumbprint, TokenPlan};
use tokio::sync::watch;

/// Publishes challenges.
#[derive(Debug)]
pub(super) struct Post {
    challenges: Challenges,
    planned: OnceLock<watch::Receiver<Arc<Wishes>>>,
}

impl Post {
    pub(super) fn new(challenges: Challenges) -> Self {
        Self {
            challenges,
            planned: OnceLock::new(),
        }
    }

    /// Learns which names belong to which issuer.
    pub(super) fn follow(&self, planned: watch::Receiver<Arc<Wishes>>) {
        self.planned.set(planned).ok();
    }

    /// Publishes this board.
    pub(super) fn publish(&self, board: &Board) {
        let wishes = self.planned.get().map(|planned| planned.borrow().clone());
        let plan = plan(board, &wishes.unwrap_or_default());
        self.challenges.publish(plan);
    }
}

impl Barrier for Post {
    fn wait<'a>(&'a self, board: &'a Board, _: &'a [Posted]) -> Answer<'a, Result<(), String>> {
        self.publish(board);
        Box::pin(ready(Ok(())))
    }
}

/// What the data plane is told.
fn plan(board: &Board, wishes: &Wishes) -> ChallengePlan {
    let mut accounts = Vec::new();
    for wanted in wishes.values() {
        let account = board.accounts.get(&wanted.issuer);
        let Some(account) = account.filter(|account| account.answers == Http01::Stateless) else {
            continue;
        };
        let names = wanted.names.iter().filter(|name| !name.is_wildcard());
        accounts.extend(names.map(|name| {
            let thumbprint = Thumbprint(account.thumbprint.as_str().into());
            (identifier(name), thumbprint)
        }));
    }
    accounts.sort_unstable();
    accounts.dedup();
    let of_kind = |kind| board.entries.iter().filter(move |entry| entry.kind == kind);
    let tokens = of_kind(ChallengeKind::Http01).filter_map(|entry| {
        let (token, thumbprint) = entry.answer.split_once('.')?;
        Some(TokenPlan {
            identifier: identifier(&entry.name),
            token: token.into(),
            account: Thumbprint(thumbprint.into()),
        })
    });
    let handshakes = of_kind(ChallengeKind::TlsAlpn01).filter_map(|entry| {
        Some(HandshakePlan {
            identifier: identifier(&entry.name),
            digest: board.tls_digest(&entry.name.server_name()?)?,
        })
    });
    ChallengePlan {
        accounts,
        tokens: tokens.collect(),
        handshakes: handshakes.collect(),
    }
}

fn identifier(name: &Name) -> Identifier {
    match name {
        Name::Dns(name) => Identifier::Dns(name.as_str().into()),
        Name::Ip(address) => Identifier::Ip(*address),
    }
}
