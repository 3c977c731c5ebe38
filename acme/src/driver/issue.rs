//! From a proved order to a certificate that is served.
//!
//! Invariants:
//! - `finalize` is sent once per revision unless the order says that it did not arrive.
//! - A certificate is downloaded again rather than ordered again.
//! - It is stored before it is handed out, and served from the store.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::challenge::poll;
use super::valid::first_renewal;
use super::{Driver, Flow, Trouble, Turn, named};
use crate::ca::{Account, Ca, OrderStatus, Step};
use crate::events::What;
use crate::failure::{Class, Failure};
use crate::journal::Point;
use crate::leaf;
use crate::record::{Ari, Attempts, Current, Issue, Material, Phase, mark_of};
use crate::schedule::{Life, Reason, between};

impl Driver {
    /// `Finalizing`: the write of this phase was accepted, so this process leads.
    pub(super) async fn finalizing(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let (authority, account, url) = self.conversation(flow).await?;
        let order = if flow.memo.fresh {
            flow.memo.fresh = false;
            match self
                .finalize(flow, authority.as_ref(), &account, &url)
                .await
            {
                Err(Trouble::Failed(refused)) if is_answer(refused.class) => {
                    // Whoever said that, an edge perhaps: the order says whether it came to anything.
                    let call = authority.order(&account, &url);
                    let order = self.ask(flow, Step::Order, call).await?;
                    if order.status == OrderStatus::Ready {
                        return Err(Trouble::Ended(refused));
                    }
                    order
                }
                asked => asked?,
            }
        } else {
            self.ask(flow, Step::Order, authority.order(&account, &url))
                .await?
        };
        match order.status {
            OrderStatus::Valid => self.enter(flow, Phase::Issued).await,
            OrderStatus::Ready => {
                // It did not arrive: the same CSR again.
                flow.memo.polls += 1;
                flow.memo.fresh = true;
                if flow.memo.polls > MOST_FINALIZES {
                    let detail = "the authority does not act on the request for the certificate";
                    return Err(Failure::local(Class::NotYet, detail).into());
                }
                Ok(Turn::Poll(poll(flow.memo.polls, order.retry_after)))
            }
            OrderStatus::Processing => {
                let wait = poll(flow.memo.polls, order.retry_after);
                flow.memo.polls += 1;
                if flow.memo.polls > MOST_POLLS {
                    let detail = "the authority has been processing the order for long";
                    return Err(Failure::local(Class::NotYet, detail).into());
                }
                Ok(Turn::Poll(wait))
            }
            OrderStatus::Pending => {
                let detail = "the order is pending again";
                Err(Failure::local(Class::OrderGone, detail).into())
            }
            OrderStatus::Invalid => Err(Trouble::Ended(self.why_invalid(flow, order.error).await?)),
        }
    }

    async fn finalize(
        &self,
        flow: &Flow,
        authority: &dyn Ca,
        account: &Account,
        url: &str,
    ) -> Result<crate::ca::Order, Trouble> {
        let next = flow.record.next.as_ref();
        let csr = next.map(|next| next.csr.clone()).ok_or_else(|| {
            Failure::local(Class::OrderGone, "the record lost the key of its order")
        })?;
        self.check_lead(flow)?;
        self.tell(flow, What::Finalizing);
        let call = authority.finalize(account, url, &csr);
        Ok(self.ask(flow, Step::Finalize, call).await?)
    }

    /// `Issued`: downloads and checks, as often as it takes.
    pub(super) async fn issued(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let (authority, account, url) = self.conversation(flow).await?;
        let call = authority.certificate(&account, &url);
        let chain = match self.ask(flow, Step::Certificate, call).await {
            Ok(chain) => chain,
            // The order says valid, so the certificate is only late.
            Err(failure) if failure.class == Class::NotYet && flow.memo.polls < MOST_POLLS => {
                flow.memo.polls += 1;
                let asked = failure
                    .retry_after
                    .and_then(|wait| Duration::try_from(wait).ok());
                return Ok(Turn::Poll(poll(flow.memo.polls * 2, asked)));
            }
            Err(failure) => return Err(failure.into()),
        };
        let Some(next) = flow.record.next.clone() else {
            let detail = "the record lost the key of its order";
            return Err(Failure::local(Class::OrderGone, detail).into());
        };
        let names = flow.revision()?.names.clone();
        let now = self.clock.now();
        let life = match leaf::check(&chain.pem, &next.key, &names, now) {
            Ok(life) => life,
            Err(why) => {
                flow.record.rejected = Some(chain.pem.clone());
                let detail = format!("the downloaded certificate is refused: {why}");
                return Err(Failure::local(Class::BadCertificate, detail).into());
            }
        };
        let preferred = self
            .preferred(flow, authority.as_ref(), &account, &chain)
            .await?;
        let pem = preferred.unwrap_or(chain.pem);
        let material = Material {
            chain: pem,
            key: next.key,
        };
        self.take_over(flow, material, life, now).await
    }

    /// The alternate chain that the issuer's configuration asks for, if there is one that is good.
    async fn preferred(
        &self,
        flow: &Flow,
        authority: &dyn Ca,
        account: &Account,
        chain: &crate::ca::Chain,
    ) -> Result<Option<String>, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let named = named(&issuers, flow.revision()?)?;
        let Some(root) = &named.spec.preferred_chain else {
            return Ok(None);
        };
        if leaf::root_of(&chain.pem).as_ref() == Some(root) {
            return Ok(None);
        }
        let names = &flow.revision()?.names;
        let key = flow.record.next.as_ref().map(|next| next.key.clone());
        for url in chain.alternates.iter().take(MOST_ALTERNATES) {
            let call = authority.alternate(account, url);
            let pem = match self.ask(flow, Step::Certificate, call).await {
                Ok(pem) => pem,
                Err(failure) => {
                    let text = format!("an alternate chain is left out: {}", failure.detail);
                    self.tell(flow, What::Warning(text));
                    continue;
                }
            };
            let good = key
                .as_ref()
                .is_some_and(|key| leaf::check(&pem, key, names, self.clock.now()).is_ok());
            if good && leaf::root_of(&pem).as_ref() == Some(root) {
                return Ok(Some(pem));
            }
        }
        let text = format!("no chain to {root:?} is offered: the default one is used");
        self.tell(flow, What::Warning(text));
        Ok(None)
    }

    async fn take_over(
        &self,
        flow: &mut Flow,
        material: Material,
        life: Life,
        now: Timestamp,
    ) -> Result<Turn, Trouble> {
        let revision = flow.revision()?.clone();
        let serial = leaf::serial_of(&material.chain).unwrap_or_default();
        let not_after = life.not_after;
        let mut current = Current {
            life,
            spec_hash: revision.spec_hash,
            names: revision.names,
            issuer: revision.issuer,
            directory: revision.directory,
            account: revision.account,
            key: revision.key,
            issued_at: now,
            renew_at: now,
            renew_reason: Reason::Lifetime,
            ari: Ari::default(),
            revoked: false,
        };
        first_renewal(&mut current, now);
        self.standing().issued(&current.issuer, &current.names, now);
        let record = &mut flow.record;
        let recent = |at: Timestamp| at <= now && between(at, now) < REMEMBERED;
        record.state.issued.retain(|at| recent(*at));
        record.state.issues.retain(|issue| recent(issue.at));
        record.state.issues.push(Issue {
            at: now,
            issuer: current.issuer.clone(),
            set: mark_of(&current.names),
        });
        record.state.current = Some(current);
        record.state.attempts = Attempts::default();
        record.state.wait = None;
        // Whatever a person asked for meanwhile, this is it.
        record.state.asked = None;
        record.rejected = None;
        record.previous = record.current.replace(material);
        record.next = None;
        let turn = self.enter(flow, Phase::Delivering).await?;
        let need = revision.need;
        self.tell(
            flow,
            What::Issued {
                serial,
                need,
                not_after,
            },
        );
        Ok(turn)
    }

    /// `Delivering`: hands out and tidies up.
    pub(super) async fn delivering(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        if let Some(wanted) = flow.wanted.clone() {
            self.take_away(flow, &wanted);
        }
        if let Some(material) = &flow.record.current
            && flow.wanted.is_some()
        {
            self.journal.reached(Point::Projecting, flow.target()).await;
            let project = self.projector.project(flow.target(), material);
            let projected = tokio::time::timeout(LONGEST_PROJECTION, project).await;
            let projected = projected.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            self.journal.reached(Point::Projected, flow.target()).await;
            if let Err(why) = projected {
                let detail = format!("Secret {} was not written: {why}", flow.target());
                return Err(Failure::local(Class::Storage, detail).into());
            }
        }
        self.pen.post(flow.target(), Vec::new()).await?;
        // What was asked for while it could not be handed out; one that was not ordered is no answer.
        if flow.record.state.revision.take().is_some() {
            flow.record.state.asked = None;
        }
        flow.record.state.challenges.clear();
        flow.record.state.attempts = Attempts::default();
        flow.record.state.wait = None;
        let phase = flow.record.rest_phase();
        self.enter(flow, phase).await
    }
}

/// Whether a failure to ask for a certificate is a refusal of it.
fn is_answer(class: Class) -> bool {
    matches!(class, Class::Validation | Class::Spec | Class::Paused)
}

/// Requests for one certificate that the authority may lose in a row.
const MOST_FINALIZES: u32 = 5;
const MOST_POLLS: u32 = 100;
const MOST_ALTERNATES: usize = 5;
const LONGEST_PROJECTION: Duration = Duration::from_secs(60);
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
