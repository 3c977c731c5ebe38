//! Publishing challenges, letting the authority look, and tidying up.
//!
//! Invariants:
//! - The authority is told only when every answer can be seen: a failed validation is dearer than a
//!   late one.
//! - TXT records are removed by the value that was stored, whatever became of the order.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;

use super::due::{LATEST_CLEAN, due_again};
use super::order::dns_failure;
use super::{Driver, Flow, Trouble, Turn, named};
use crate::board::{Posted, to_hex};
use crate::ca::{AccountKey, AuthorizationStatus, ChallengeKind, OrderStatus, Problem, Step};
use crate::dns::persist::Claim;
use crate::dns::{Readiness, Solver};
use crate::events::What;
use crate::failure::{Class, Failure};
use crate::issuers::IssuerSpec;
use crate::journal::Point;
use crate::names::Name;
use crate::record::{Leftover, Phase, Published};
use crate::schedule::later;
use crate::secrets::Entries;

impl Driver {
    /// `Presenting`: everything that is done here may be done twice.
    pub(super) async fn presenting(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let (_, account, _) = self.conversation(flow).await?;
        self.standing_records(flow, &account.url).await?;
        let posted = Self::posted(flow, &account.key);
        // Once: while DNS is looked at again and again, nothing of that changes.
        if flow.memo.deadline.is_none() {
            self.pen.post(flow.target(), posted.clone()).await?;
        }
        if let Some(turn) = self.write_records(flow).await? {
            return Ok(turn);
        }
        self.make_sure(flow, &posted).await;
        let now = self.clock.now();
        flow.revision_mut()?.presented_at = Some(now);
        self.enter(flow, Phase::Validating).await
    }

    /// Whether the records are there that people have made.
    async fn standing_records(&self, flow: &Flow, account: &str) -> Result<(), Failure> {
        let standing = |each: &&Published| each.kind == ChallengeKind::DnsPersist01;
        for challenge in flow.record.state.challenges.iter().filter(standing) {
            let claim = Claim {
                domain: challenge.name.base().unwrap_or_default().to_owned(),
                wildcard: challenge.name.is_wildcard(),
                issuers: challenge.issuers.clone(),
                account: account.to_owned(),
            };
            let judged = self.persist.judge(&claim, self.clock.now());
            let judged = tokio::time::timeout(LONGEST_DNS, judged).await;
            let judged = judged.unwrap_or_else(|_| Err("DNS did not answer in time".to_owned()));
            judged.map_err(|why| {
                Failure::local(Class::Local, format!("{}: {why}", challenge.name))
            })?;
        }
        Ok(())
    }

    /// Waits until replicas answer for these entries, which are on the board.
    async fn make_sure(&self, flow: &Flow, posted: &[Posted]) {
        if posted.is_empty() {
            return;
        }
        tokio::time::sleep(self.vault.lateness().await).await;
        let board = self.pen.shown();
        let barrier = self.barrier.wait(&board, posted);
        let waited = tokio::time::timeout(LONGEST_BARRIER, barrier).await;
        let complaint = match waited {
            Ok(Ok(())) => None,
            Ok(Err(who)) => Some(who),
            Err(_) => Some("the replicas were not asked in time".to_owned()),
        };
        if let Some(who) = complaint {
            self.tell(flow, What::Warning(who));
        }
    }

    fn posted(flow: &Flow, key: &AccountKey) -> Vec<Posted> {
        let target = flow.target();
        let entry = |challenge: &Published| {
            let answer = match challenge.kind {
                ChallengeKind::Http01 => key.authorization(&challenge.token),
                ChallengeKind::TlsAlpn01 => to_hex(&key.digest(&challenge.token)),
                ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => return None,
            };
            Some(Posted {
                target: target.clone(),
                name: challenge.name.clone(),
                kind: challenge.kind,
                token: challenge.token.clone(),
                answer,
            })
        };
        flow.record
            .state
            .challenges
            .iter()
            .filter_map(entry)
            .collect()
    }

    /// Writes TXT records and waits until they are seen; `None` once they are.
    async fn write_records(&self, flow: &mut Flow) -> Result<Option<Turn>, Trouble> {
        let challenges = flow.record.state.challenges.clone();
        let with_record = challenges.iter().filter_map(|challenge| {
            let record = challenge.dns.as_ref()?;
            Some((challenge, record))
        });
        let issuers = self.issuers.borrow().clone();
        let spec = named(&issuers, flow.revision()?)?.spec;
        let first = flow.memo.deadline.is_none();
        let mut missing = None;
        for (challenge, record) in with_record {
            let solver = self
                .solver(spec, challenge.name.base().unwrap_or_default())
                .await?;
            if first {
                self.journal.reached(Point::Writing, flow.target()).await;
                let present = bounded(solver.present(record)).await;
                present.map_err(|why| dns_failure(&challenge.name, &why))?;
                self.journal.reached(Point::Written, flow.target()).await;
            }
            match bounded(solver.ready(record)).await {
                Ok(Readiness::Visible) => {}
                Ok(Readiness::Missing(who)) => missing = Some((challenge.name.clone(), who)),
                Err(why) => missing = Some((challenge.name.clone(), why.to_string())),
            }
        }
        let now = self.clock.now();
        let deadline = *flow.memo.deadline.get_or_insert(later(now, PROPAGATION));
        match missing {
            None => Ok(None),
            Some(_) if now < deadline => Ok(Some(Turn::Poll(DNS_POLL))),
            Some((name, who)) => {
                let detail = format!("{name}: the TXT record is not seen everywhere: {who}");
                Err(Failure::local(Class::Local, detail).into())
            }
        }
    }

    /// `Validating`: tells the authority, and follows the order.
    pub(super) async fn validating(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let (authority, account, url) = self.conversation(flow).await?;
        // After a crash nobody knows whether the authority was told: the order says.
        if flow.memo.fresh {
            let urls: Vec<String> = flow
                .record
                .state
                .challenges
                .iter()
                .map(|challenge| challenge.url.clone())
                .collect();
            self.ask(
                flow,
                Step::Challenge,
                authority.answer(&account, &url, &urls),
            )
            .await?;
            flow.memo.fresh = false;
            flow.memo.deadline = Some(later(self.clock.now(), VALIDATION));
            return Ok(Turn::Poll(FIRST_POLL));
        }
        let order = self
            .ask(flow, Step::Order, authority.order(&account, &url))
            .await?;
        match order.status {
            OrderStatus::Ready => self.proved(flow).await,
            OrderStatus::Processing | OrderStatus::Valid => {
                let turn = self.enter(flow, Phase::Finalizing).await;
                flow.memo.fresh = false;
                turn
            }
            OrderStatus::Invalid => Err(Trouble::Ended(self.why_invalid(flow, order.error).await?)),
            OrderStatus::Pending => {
                if flow.memo.deadline.is_none() {
                    // This flow found the phase, it did not enter it: the answers are published
                    // again, for this process may be another one, and the authority is told again.
                    let posted = Self::posted(flow, &account.key);
                    self.pen.post(flow.target(), posted.clone()).await?;
                    self.make_sure(flow, &posted).await;
                    flow.memo.fresh = true;
                    return Ok(Turn::Go);
                }
                flow.memo.polls += 1;
                if flow.memo.deadline.is_some_and(|end| self.clock.now() > end) {
                    let detail = "the authority did not finish its validation within 10 minutes";
                    return Err(Failure::local(Class::Validation, detail).into());
                }
                Ok(Turn::Poll(poll(flow.memo.polls, order.retry_after)))
            }
        }
    }

    /// The reason that an order is invalid: the order's, else that of its challenges.
    pub(super) async fn why_invalid(
        &self,
        flow: &Flow,
        error: Option<Problem>,
    ) -> Result<Failure, Trouble> {
        let (authority, account, url) = self.conversation(flow).await?;
        let call = authority.authorizations(&account, &url);
        let authorizations = self.ask(flow, Step::Authorization, call).await;
        let failed = authorizations.iter().flatten().find_map(|authorization| {
            let gone = !matches!(
                authorization.status,
                AuthorizationStatus::Pending
                    | AuthorizationStatus::Processing
                    | AuthorizationStatus::Valid
            );
            let error = authorization
                .challenges
                .iter()
                .find_map(|each| each.error.clone());
            gone.then(|| (authorization.name.clone(), error))
        });
        Ok(match (failed, error) {
            (Some((name, Some(problem))), _) => Failure::of_validation(&name, Some(&problem)),
            (Some((name, None)), error) => Failure::of_validation(&name, error.as_ref()),
            (None, Some(problem)) => {
                let first = flow.revision()?.names.first().cloned();
                let name = first.unwrap_or_else(|| Name::Dns(String::new()));
                Failure::of_validation(&name, Some(&problem))
            }
            // An order that became invalid or expired without a failed name is made again.
            (None, None) => Failure::local(Class::OrderGone, "the order is no longer valid"),
        })
    }

    /// Removes TXT records that are left and due; what fails is tried again later, and in the end left.
    pub(super) async fn clean(&self, flow: &mut Flow) -> Result<Turn, Trouble> {
        let issuers = self.issuers.borrow().clone();
        let leftovers = std::mem::take(&mut flow.record.state.cleanup);
        let mut left = Vec::new();
        for mut leftover in leftovers {
            let fqdn = leftover.record.fqdn.clone();
            if due_again(&leftover, self.clock.now()) > self.clock.now() {
                left.push(leftover);
                continue;
            }
            let Some(spec) = issuers.issuers.get(&leftover.issuer) else {
                let text = format!(
                    "TXT record {fqdn} stays: issuer {} is no longer configured",
                    leftover.issuer
                );
                self.tell(flow, What::Warning(text));
                continue;
            };
            let Err(why) = self.remove(flow, spec, &leftover).await else {
                continue;
            };
            leftover.tries += 1;
            if leftover.tries >= MOST_REMOVALS {
                let text = format!("TXT record {fqdn} stays, remove it by hand: {why}");
                self.tell(flow, What::Warning(text));
                continue;
            }
            let text = format!("TXT record {fqdn} stays for now: {why}");
            self.tell(flow, What::Warning(text));
            let doubled = CLEAN_AGAIN.saturating_mul(1 << leftover.tries.min(8)) / 2;
            leftover.next = Some(later(self.clock.now(), doubled.min(LATEST_CLEAN)));
            left.push(leftover);
        }
        flow.record.state.cleanup = left;
        self.save(flow).await?;
        Ok(Turn::Go)
    }

    async fn remove(
        &self,
        flow: &Flow,
        spec: &IssuerSpec,
        leftover: &Leftover,
    ) -> Result<(), String> {
        let solver = self.solver(spec, &leftover.domain).await;
        let solver = solver.map_err(|failure| failure.detail)?;
        self.journal.reached(Point::Writing, flow.target()).await;
        let removed = bounded(solver.cleanup(&leftover.record)).await;
        removed.map_err(|why| why.to_string())
    }

    /// The solver of an issuer for a domain, made once.
    pub(super) async fn solver(
        &self,
        spec: &IssuerSpec,
        domain: &str,
    ) -> Result<Arc<dyn Solver>, Failure> {
        let fitting = spec.dns.iter().filter(|each| each.fits(domain).is_some());
        let best = fitting.max_by_key(|each| each.fits(domain));
        let found = best.ok_or_else(|| {
            Failure::local(
                Class::Spec,
                format!("no entry of dns has a zone for {domain}"),
            )
        })?;
        let entries = match &found.secret {
            None => Entries::new(),
            Some(name) => self
                .secrets
                .read(name)
                .await
                .map_err(|why| Failure::local(Class::Local, format!("secret {name}: {why}")))?,
        };
        // Equal settings and equal credentials make the same solver.
        let mut mark = format!("{found:?}").into_bytes();
        for (name, value) in &entries {
            mark.extend_from_slice(name.as_bytes());
            mark.extend_from_slice(value.expose());
        }
        let mark = crate::leaf::fingerprint(&mark);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(solver) = made.get(&mark) {
            return Ok(Arc::clone(solver));
        }
        let solver = (self.solvers)(found, entries).map_err(|why| {
            Failure::local(Class::Local, format!("provider {}: {why}", found.provider))
        })?;
        if made.len() >= MOST_SOLVERS {
            made.clear();
        }
        made.insert(mark, Arc::clone(&solver));
        Ok(solver)
    }
}

/// No provider may hold a flow.
pub(super) async fn bounded<T>(
    call: impl Future<Output = Result<T, crate::dns::DnsError>>,
) -> Result<T, crate::dns::DnsError> {
    let answer = tokio::time::timeout(LONGEST_DNS, call).await;
    answer.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", LONGEST_DNS.as_secs());
        Err(crate::dns::DnsError::Temporary(text))
    })
}

/// When to look again: as the authority says, within reason, else ever slower.
pub(super) fn poll(polls: u32, retry_after: Option<Duration>) -> Duration {
    let own = match polls {
        0 => FIRST_POLL,
        polls => Duration::from_millis(500) * polls.min(10),
    };
    retry_after.map_or(own, |asked| asked.clamp(FIRST_POLL, LONGEST_POLL))
}

const FIRST_POLL: Duration = Duration::from_millis(250);
const LONGEST_POLL: Duration = Duration::from_secs(60);
const DNS_POLL: Duration = Duration::from_secs(2);
pub(crate) const LONGEST_DNS: Duration = Duration::from_secs(60);
const LONGEST_BARRIER: Duration = Duration::from_secs(60);
const PROPAGATION: SignedDuration = SignedDuration::from_mins(5);
const VALIDATION: SignedDuration = SignedDuration::from_mins(10);

/// After the first failure to remove a TXT record; doubled with each further one.
const CLEAN_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// Tries to remove a TXT record: for more than a month.
const MOST_REMOVALS: u32 = 40;

const MOST_SOLVERS: usize = 100;
