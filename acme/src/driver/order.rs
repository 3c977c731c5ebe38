//! From a plan to published challenges.
//!
//! Invariants:
//! - An order is stored before anything else is done with it; if that write is refused, the order
//!   is forgotten: another leader has its own.
//! - Only what was ordered is proved, whatever the authority asks for.
//! - After a failed attempt the next one begins with another type of challenge.

use super::challenge::bounded;
use super::{Driver, Flow, Trouble, Turn, named};
use crate::ca::{Account, Authorization, AuthorizationStatus, Ca, ChallengeKind, NewOrder};
use crate::ca::{Order, OrderStatus, Registration, Step};
use crate::events::What;
use crate::failure::{Class, Failure, Scope};
use crate::issuers::IssuerSpec;
use crate::names::Name;
use crate::pace::Purpose;
use crate::plan::can_prove;
use crate::record::{Leftover, Need, Ordered, Phase, Published};
use crate::schedule::between;
use jiff::SignedDuration;
use std::sync::Arc;

impl Driver {
    /// `Planned`: makes the order.
    pub(super) async fn planned(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let revision = flow.revision()?.clone();
        let named = named(&issuers, &revision)?;
        let now = self.clock.now();
        if let Some(wanted) = &flow.wanted
            && self.choose(flow, wanted, &issuers)?.name != revision.issuer
        {
            // Nothing was ordered yet, and another issuer is the right one by now: plan again.
            flow.record.drop_revision();
            self.save(flow).await?;
            return Ok(Turn::Go);
        }
        if let Some(wanted) = &flow.wanted {
            // They may be others since it was planned; what is ordered is the same.
            let kinds = wanted.challenges.clone();
            flow.revision_mut()?.kinds = kinds;
        }
        let (authority, account) = self.accounts.account(named).await?;
        let place = (named.name, named.directory());
        let limited = self.standing().limited_until(place, &revision.names, now);
        if let Some((until, scope)) = limited {
            return self.forbidden(flow, until, scope).await;
        }
        let purpose = match revision.need {
            Need::New | Need::Changed => Purpose::New,
            Need::Renewal(_) | Need::Asked => Purpose::Renewal,
        };
        let admitted = self
            .standing()
            .admit((named.name, &issuers), purpose, &revision.names, now);
        if let Err(free) = admitted {
            if between(now, free) > LONGEST_UNTOLD {
                return self.forbidden(flow, free, Scope::Pace).await;
            }
            flow.memo.rest_until = Some(free);
            return Ok(Turn::Rest);
        }
        let request = NewOrder {
            names: revision.names.clone(),
            profile: revision.profile.clone(),
            replaces: revision.replaces.clone(),
        };
        let order = self
            .new_order(flow, authority.as_ref(), &account, &request)
            .await?;
        let stored = flow.revision_mut()?;
        stored.order = Some(order.url.clone());
        stored.ordered_at = Some(now);
        stored.account.clone_from(&account.url);
        let state = &mut flow.record.state;
        state.wait = None;
        state
            .ordered
            .retain(|ordered| ordered.at <= now && between(ordered.at, now) < PACE);
        state.ordered.push(Ordered {
            at: now,
            issuer: named.name.to_owned(),
            renewal: purpose == Purpose::Renewal,
        });
        flow.memo.order = Some(order);
        let turn = self.enter(flow, Phase::Ordered).await?;
        let issuer = named.name.to_owned();
        self.tell(
            flow,
            What::Ordered {
                need: revision.need,
                issuer,
            },
        );
        Ok(turn)
    }

    /// Asks for the order. What is refused may be the account or these names: the account is looked
    /// at, so that names that it may not have stop no other certificate.
    async fn new_order(
        &self,
        flow: &Flow,
        authority: &dyn Ca,
        account: &Account,
        request: &NewOrder,
    ) -> Result<Order, Trouble> {
        self.check_lead(flow)?;
        let call = authority.new_order(account, request);
        let refused = match self.ask(flow, Step::NewOrder, call).await {
            Err(failure) if failure.class == Class::Validation => failure,
            made => return Ok(made?),
        };
        let look = Registration::look(&account.key);
        let found = self
            .ask(flow, Step::Account, authority.register(&look))
            .await;
        Err(match found {
            Err(failure) if matches!(failure.class, Class::Issuer | Class::AccountGone) => failure,
            _ => refused,
        }
        .into())
    }

    /// The conversation that the revision needs.
    pub(super) async fn conversation(
        &self,
        flow: &Flow,
    ) -> Result<(Arc<dyn Ca>, Account, String), Trouble> {
        let issuers = self.issuers.borrow().clone();
        let named = named(&issuers, flow.revision()?)?;
        let (authority, account) = self.accounts.account(named).await?;
        Ok((authority, account, flow.order_url()?))
    }

    /// `Ordered`: looks how far the order is, and chooses challenges.
    pub(super) async fn ordered(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let (authority, account, url) = self.conversation(flow).await?;
        let order = match flow.memo.order.take() {
            Some(order) => order,
            None => {
                self.ask(flow, Step::Order, authority.order(&account, &url))
                    .await?
            }
        };
        match order.status {
            OrderStatus::Pending => {}
            OrderStatus::Ready => return self.proved(flow).await,
            OrderStatus::Processing | OrderStatus::Valid => {
                return self.enter(flow, Phase::Finalizing).await.inspect(|_| {
                    // Somebody finalized it already.
                    flow.memo.fresh = false;
                });
            }
            OrderStatus::Invalid => {
                return Err(Trouble::Ended(self.why_invalid(flow, order.error).await?));
            }
        }
        let authorizations = self
            .ask(
                flow,
                Step::Authorization,
                authority.authorizations(&account, &url),
            )
            .await?;
        let issuers = self.issuers.borrow().clone();
        let named = named(&issuers, flow.revision()?)?;
        let mut challenges = Vec::new();
        for authorization in &authorizations {
            let name = &authorization.name;
            if !is_of(&flow.revision()?.names, name) {
                let detail = format!("the authority wants proof of {name}, which was not ordered");
                return Err(Failure::local(Class::Local, detail).into());
            }
            match authorization.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending | AuthorizationStatus::Processing => {
                    let chosen = choose_challenge(flow, named.spec, authorization)?;
                    challenges.push(chosen);
                }
                _ => return Err(Trouble::Ended(self.why_invalid(flow, order.error).await?)),
            }
        }
        for challenge in &mut challenges {
            if challenge.kind == ChallengeKind::Dns01 {
                let domain = challenge.name.base().unwrap_or_default().to_owned();
                let solver = self.solver(named.spec, &domain).await?;
                let value = account.key.dns_value(&challenge.token);
                let record = bounded(solver.locate(&domain, &value)).await;
                let record = record.map_err(|why| dns_failure(&challenge.name, &why))?;
                challenge.dns = Some(record);
            }
        }
        let issuer = named.name.to_owned();
        let leftovers = challenges.iter().filter_map(|challenge| {
            Some(Leftover {
                issuer: issuer.clone(),
                domain: challenge.name.base()?.to_owned(),
                record: challenge.dns.clone()?,
                tries: 0,
                next: None,
            })
        });
        let leftovers: Vec<Leftover> = leftovers.collect();
        let state = &mut flow.record.state;
        for leftover in leftovers {
            // The same place once more: it is new again.
            state
                .cleanup
                .retain(|other| other.record != leftover.record);
            state.cleanup.push(leftover);
        }
        state.challenges = challenges;
        self.enter(flow, Phase::Presenting).await
    }

    /// All names are proved: a rehearsal ends here, the real thing goes on.
    pub(super) async fn proved(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        if flow.revision()?.test {
            return self.end_rehearsal(flow).await;
        }
        self.enter(flow, Phase::Finalizing).await
    }
}

/// Whether proof of this name is proof of one of these: nothing is written or published for others.
fn is_of(ordered: &[Name], name: &Name) -> bool {
    // Authorities differ in how they mark that of a wildcard.
    let same = |other: &Name| name.base().is_some() && name.base() == other.base();
    ordered.iter().any(|other| other == name || same(other))
}

fn choose_challenge(
    flow: &Flow,
    spec: &IssuerSpec,
    authorization: &Authorization,
) -> Result<Published, Failure> {
    let name = &authorization.name;
    let kinds = &flow.revision()?.kinds;
    let usable: Vec<ChallengeKind> = kinds
        .iter()
        .copied()
        .filter(|kind| can_prove(*kind, name, spec))
        .collect();
    let failed = usize::try_from(flow.record.state.attempts.n).unwrap_or(0);
    let first = failed.checked_rem(usable.len()).unwrap_or(0);
    let in_turn = usable.iter().cycle().skip(first).take(usable.len());
    for kind in in_turn {
        let offered = authorization
            .challenges
            .iter()
            .find(|each| each.kind == *kind);
        if let Some(challenge) = offered {
            return Ok(Published {
                name: name.clone(),
                kind: *kind,
                token: challenge.token.clone(),
                url: challenge.url.clone(),
                dns: None,
                issuers: challenge.issuers.clone(),
            });
        }
    }
    Err(no_way(name, &usable, authorization))
}

fn no_way(name: &Name, usable: &[ChallengeKind], authorization: &Authorization) -> Failure {
    let list = |kinds: Vec<&str>| {
        if kinds.is_empty() {
            return "nothing".to_owned();
        }
        kinds.join(", ")
    };
    let offered = authorization.challenges.iter();
    let detail = format!(
        "{name}: the authority offers {} and this issuer can use {}",
        list(offered.map(|challenge| challenge.kind.as_str()).collect()),
        list(usable.iter().map(|kind| kind.as_str()).collect())
    );
    Failure::local(Class::Spec, detail)
}

pub(super) fn dns_failure(name: &Name, error: &crate::dns::DnsError) -> Failure {
    Failure::local(
        Class::Local,
        format!("{name}: DNS was not changed: {error}"),
    )
}

/// A pause of our own pace that nobody is told of.
const LONGEST_UNTOLD: SignedDuration = SignedDuration::from_mins(5);

/// How long an order counts for pacing.
const PACE: SignedDuration = SignedDuration::from_hours(3);
