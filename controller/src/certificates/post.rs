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

#[cfg(test)]
mod tests {
    use gatehouse_acme::board::Thumbprint as Account;
    use gatehouse_acme::issuers::KeyKind;
    use gatehouse_acme::plan::{Target, Wanted};

    use super::*;

    fn target(secret: &str) -> Target {
        Target {
            namespace: "shop".into(),
            secret: secret.into(),
        }
    }

    /// Certificates of these issuers, each for the host that bears the name of its issuer, and for all below it.
    fn wishes(issuers: &[&str]) -> Wishes {
        let wanted = |issuer: &&str| {
            let target = target(issuer);
            let names = [
                format!("{issuer}.example.org"),
                format!("*.{issuer}.example.org"),
            ];
            let names = names.map(|name| Name::parse(&name).expect("a name"));
            let wanted = Wanted {
                target: target.clone(),
                namespace_uid: String::new(),
                names: names.to_vec(),
                issuer: (*issuer).to_owned(),
                profile: None,
                key: KeyKind::default(),
                challenges: vec![ChallengeKind::Http01],
            };
            (target, wanted)
        };
        issuers.iter().map(wanted).collect()
    }

    fn board() -> Board {
        let accounts = [("main", Http01::Stateless), ("strict", Http01::Published)];
        let account = |(name, answers): (&str, Http01)| {
            let thumbprint = format!("thumb-{name}");
            (
                name.to_owned(),
                Account {
                    thumbprint,
                    answers,
                },
            )
        };
        Board {
            entries: vec![],
            accounts: accounts.into_iter().map(account).collect(),
        }
    }

    #[test]
    fn case_51_the_account_of_a_managed_name_answers_every_token_without_being_told() {
        let plan = plan(&board(), &wishes(&["main", "strict", "unknown"]));
        let name = Identifier::Dns("main.example.org".into());
        let account = Thumbprint("thumb-main".into());
        assert_eq!(plan.accounts, [(name, account)], "nothing below it either");
        assert_eq!((plan.tokens.len(), plan.handshakes.len()), (0, 0));
    }

    #[test]
    fn a_published_challenge_is_answered_for_its_name_only() {
        let mut board = board();
        let posted = |kind, answer: &str| Posted {
            target: target("strict"),
            name: Name::parse("strict.example.org").expect("a name"),
            kind,
            token: "abcdefghijklmnop".into(),
            answer: answer.into(),
        };
        board.entries = vec![
            posted(ChallengeKind::Http01, "abcdefghijklmnop.thumb-strict"),
            posted(ChallengeKind::TlsAlpn01, &"07".repeat(32)),
        ];
        let plan = plan(&board, &wishes(&["strict"]));
        let identifier = Identifier::Dns("strict.example.org".into());
        let token = TokenPlan {
            identifier: identifier.clone(),
            token: "abcdefghijklmnop".into(),
            account: Thumbprint("thumb-strict".into()),
        };
        let handshake = HandshakePlan {
            identifier,
            digest: [7; 32],
        };
        assert_eq!(plan.tokens, [token]);
        assert_eq!(plan.handshakes, [handshake]);
        assert_eq!(plan.accounts, []);
    }
}
