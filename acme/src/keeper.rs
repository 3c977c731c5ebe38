//! Keeps all certificates: one place that knows what is wanted, what is stored and what is due.
//!
//! Invariants:
//! - Only who leads works; everybody else shows what is stored.
//! - At most [`Config::flows`] certificates of one authority are worked on at once; what is nearly over
//!   comes first.
//! - Nothing happens before it is known what is wanted: an empty start removes nothing.
//! - Dropping the [`Keeper`] ends all work at once, as a crash would.

mod again;
mod ask;
mod command;
mod gone;
mod intake;
mod slots;
mod wish;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};

use crate::accounts::Accounts;
use crate::accounts::sheets::Sheets;
use crate::board::{Board, Pen};
use crate::ca::Connect;
use crate::clock::{Clock, SystemClock};
use crate::dns::Solvers;
use crate::dns::persist::{Persist, Unread};
use crate::driver::{Alone, Barrier, Covers, Driver, Flow, Memo, Projector, Refused, Wishes};
use crate::events::Event;
use crate::issuers::Issuers;
use crate::journal::{Journal, Silent};
use crate::plan::{Finding, Request, Target, is_another};
use crate::record::{Record, State};
use crate::schedule::later;
use crate::secrets::Secrets;
use crate::served::{Certificates, Reports, Served, renew};
use crate::standing::Standing;
use crate::troubles::{Kind, Troubles};
use crate::vault::{Key, Vault};

use again::End;
use ask::{Ask, Reply};
use command::Done;
use gone::Looks;
use slots::{Share, Slot, Slots};
use wish::Weighed;

pub use ask::{Asker, Command};

/// What a keeper needs.
pub struct Config {
    /// Issuers, as they are configured now.
    pub issuers: watch::Receiver<Arc<Issuers>>,
    /// Where everything is kept; says who leads.
    pub vault: Arc<dyn Vault>,
    /// Secrets that the issuers name.
    pub secrets: Arc<dyn Secrets>,
    /// Makes conversations with authorities.
    pub connect: Arc<Connect>,
    /// Makes writers of TXT records.
    pub solvers: Arc<Solvers>,
    /// Reads records that stay.
    pub persist: Arc<dyn Persist>,
    /// Where certificates go beside the vault.
    pub projector: Arc<dyn Projector>,
    /// Makes sure that replicas answer.
    pub barrier: Arc<dyn Barrier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who listens to the steps.
    pub journal: Arc<dyn Journal>,
    /// Certificates of one authority that are worked on at once.
    pub flows: usize,
    /// How long a certificate is kept that is no longer wanted.
    pub tombstone: SignedDuration,
}

impl Config {
    /// A process on its own: nothing but the vault, the system's clock, usual bounds.
    pub fn alone(
        issuers: watch::Receiver<Arc<Issuers>>,
        vault: Arc<dyn Vault>,
        secrets: Arc<dyn Secrets>,
        connect: Arc<Connect>,
        solvers: Arc<Solvers>,
    ) -> Self {
        Self {
            issuers,
            vault,
            secrets,
            connect,
            solvers,
            persist: Arc::new(Unread),
            projector: Arc::new(Alone),
            barrier: Arc::new(Alone),
            clock: Arc::new(SystemClock),
            journal: Arc::new(Silent),
            flows: FLOWS,
            tombstone: TOMBSTONE,
        }
    }
}

/// A running keeper. Dropping it ends its work.
#[derive(Debug)]
pub struct Keeper {
    /// What is wanted; nothing happens until it is known.
    pub wanted: watch::Sender<Option<Arc<Vec<Request>>>>,
    /// What users can mend.
    pub findings: watch::Receiver<Arc<Vec<Finding>>>,
    /// What of it is planned: says which name belongs to which issuer.
    pub planned: watch::Receiver<Arc<Wishes>>,
    /// What is served meanwhile, or instead.
    pub covers: watch::Receiver<Arc<Covers>>,
    /// Challenges to answer.
    pub board: watch::Receiver<Arc<Board>>,
    /// Certificates to serve.
    pub certificates: watch::Receiver<Arc<Certificates>>,
    /// How each certificate stands.
    pub reports: watch::Receiver<Arc<Reports>>,
    /// What is wrong with the vault.
    pub troubles: watch::Receiver<Arc<Troubles>>,
    events: broadcast::Sender<Event>,
    asks: mpsc::Sender<Ask>,
    epoch: watch::Receiver<Option<u64>>,
    issuers: watch::Receiver<Arc<Issuers>>,
    sheets: watch::Receiver<Sheets>,
    shown: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Begins. Needs a runtime.
    pub fn start(config: Config) -> Self {
        let wanted = watch::Sender::new(None);
        let findings = watch::Sender::new(Arc::default());
        let board = watch::Sender::new(Arc::new(Board::default()));
        let served = Arc::new(Served::new());
        let events = broadcast::Sender::new(EVENTS);
        let (ask, asks) = mpsc::channel(ASKS);
        let (show, shown) = watch::channel(false);
        let wishes = watch::Sender::new(Arc::new(Wishes::new()));
        let refused = watch::Sender::new(Arc::new(Refused::new()));
        let pen = Arc::new(Pen::new(Arc::clone(&config.vault), board.clone()));
        let accounts = Accounts {
            vault: Arc::clone(&config.vault),
            secrets: Arc::clone(&config.secrets),
            connect: config.connect,
            clock: Arc::clone(&config.clock),
            pen: Arc::clone(&pen),
            known: Mutex::default(),
            sheets: watch::Sender::default(),
        };
        let (sheets, issuers) = (accounts.sheets.subscribe(), config.issuers.clone());
        let epoch = config.vault.epoch();
        let driver = Arc::new(Driver {
            issuers: config.issuers.clone(),
            vault: config.vault,
            accounts,
            secrets: config.secrets,
            solvers: config.solvers,
            persist: config.persist,
            made: Mutex::new(BTreeMap::new()),
            projector: config.projector,
            barrier: config.barrier,
            pen,
            clock: config.clock,
            journal: config.journal,
            standing: Mutex::new(Standing::default()),
            events: events.clone(),
            wishes: wishes.subscribe(),
            refused: refused.subscribe(),
            served: Arc::clone(&served),
            tombstone: config.tombstone,
        });
        let work = Work {
            driver,
            requests: wanted.subscribe(),
            issuers: config.issuers,
            wishes,
            refused,
            weighed: Weighed::new(&served),
            findings: findings.clone(),
            board: board.clone(),
            flows: config.flows.max(1),
            slots: Slots::default(),
            running: JoinSet::new(),
            errands: JoinSet::new(),
            held: HashMap::new(),
            epoch: None,
            known: false,
            look_again: None,
            look_through: tokio::time::Instant::now(),
            looked: 0,
            looks: Looks::new(),
            shown: show,
        };
        Self {
            findings: findings.subscribe(),
            planned: work.wishes.subscribe(),
            covers: work.weighed.covers(),
            board: board.subscribe(),
            certificates: served.subscribe(),
            reports: served.reports(),
            troubles: served.complaints.subscribe(),
            task: tokio::spawn(work.run(asks)),
            wanted,
            events,
            asks: ask,
            epoch,
            issuers,
            sheets,
            shown,
        }
    }

    /// Waits until what the vault holds has been shown.
    pub async fn shown(&self) {
        self.shown.clone().wait_for(|shown| *shown).await.ok();
    }

    /// Everything that happens from now on; a slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Where people ask, from any thread.
    pub fn asker(&self) -> Asker {
        Asker {
            asks: self.asks.clone(),
            epoch: self.epoch.clone(),
            issuers: self.issuers.clone(),
            sheets: self.sheets.clone(),
            reports: self.reports.clone(),
            troubles: self.troubles.clone(),
            findings: self.findings.clone(),
            certificates: self.certificates.clone(),
        }
    }

    /// Asks for something; the answer is a sentence.
    pub async fn command(&self, target: Target, command: Command) -> Result<String, String> {
        self.asker().command(target, command).await
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task behind a keeper.
struct Work {
    driver: Arc<Driver>,
    requests: watch::Receiver<Option<Arc<Vec<Request>>>>,
    issuers: watch::Receiver<Arc<Issuers>>,
    wishes: watch::Sender<Arc<Wishes>>,
    refused: watch::Sender<Arc<Refused>>,
    weighed: Weighed,
    findings: watch::Sender<Arc<Vec<Finding>>>,
    board: watch::Sender<Arc<Board>>,
    flows: usize,
    slots: Slots,
    running: JoinSet<(Flow, End)>,
    /// Commands that are under way.
    errands: JoinSet<Done>,
    /// Which certificate a task has, of both.
    held: HashMap<Id, Target>,
    /// The epoch whose records are in `slots`.
    epoch: Option<u64>,
    /// Whether it is known what is wanted.
    known: bool,
    /// When the accounts are looked at again after they were not read, and whether as a leader does.
    look_again: Option<(tokio::time::Instant, bool)>,
    /// When the vault is looked through again, if a part of it cannot be read.
    look_through: tokio::time::Instant,
    /// How often that brought nothing new.
    looked: u32,
    /// After records that are there no longer.
    looks: Looks,
    /// Whether what is stored has been shown once.
    shown: watch::Sender<bool>,
}

impl Work {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut epoch = self.driver.vault.epoch();
        let mut changes = self.driver.vault.changes();
        let mut trouble = self.driver.vault.trouble();
        self.replan();
        self.follow().await;
        loop {
            let complaints = &self.driver.served.complaints;
            complaints.put(Kind::Lead, None, trouble.borrow_and_update().clone());
            let leads = *epoch.borrow_and_update();
            if leads != self.epoch {
                self.lead(leads).await;
            }
            self.look_again().await;
            self.look_through().await;
            self.look_after();
            self.weigh();
            let timer = self.begin();
            let timer = self.weighed.again().map_or(timer, |at| at.min(timer));
            let timer = self.look_again.map_or(timer, |(at, _)| at.min(timer));
            let timer = self.looks_through().map_or(timer, |at| at.min(timer));
            let timer = self.looks_after().map_or(timer, |at| at.min(timer));
            let following = self.epoch.is_none();
            tokio::select! {
                changed = epoch.changed() => if changed.is_err() { return },
                Ok(()) = trouble.changed() => {}
                () = self.weighed.changed() => {}
                // Who has just taken the lead looks as a leader does: an empty directory in the place of
                // another one takes nothing away.
                Ok(()) = changes.changed(), if following => if epoch.borrow().is_none() {
                    self.follow().await;
                },
                Ok(()) = self.requests.changed() => self.replan(),
                Ok(()) = self.issuers.changed() => {
                    self.replan();
                    self.slots.reconsider();
                    self.look_at_accounts(self.epoch.is_some()).await;
                }
                Some(done) = self.running.join_next_with_id() => match done {
                    Ok((id, (flow, end))) => {
                        self.held.remove(&id);
                        self.put_back(flow, end);
                    }
                    Err(error) => self.lost(&error),
                },
                Some(done) = self.errands.join_next_with_id() => match done {
                    Ok((id, done)) => {
                        self.held.remove(&id);
                        self.conclude(done);
                    }
                    Err(error) => self.lost(&error),
                },
                Some(looked) = self.looks.running.join_next() => {
                    self.looked_after(looked.unwrap_or_default());
                }
                Some(ask) = asks.recv() => self.answer(ask),
                () = tokio::time::sleep_until(timer) => {}
            }
        }
    }

    /// Every wish has a slot, and every slot knows its wish.
    fn adopt(&mut self) {
        let wishes = self.wishes.borrow().clone();
        let Some(epoch) = self.epoch else {
            return self.driver.served.wish(&wishes);
        };
        for (target, wanted) in wishes.iter() {
            self.slots.ensure(target, || Flow {
                record: Record::new(wanted, epoch),
                version: None,
                wanted: Some(wanted.clone()),
                kept: false,
                epoch,
                memo: Memo::default(),
            });
        }
        for slot in self.slots.iter_mut() {
            if let Slot::Idle { flow, stale } = slot {
                self.driver.look_up(flow);
                // What is stored of a stale one may be further.
                if !*stale {
                    self.driver.served.show(&flow.record, flow.wanted.as_ref());
                }
            }
        }
    }

    /// Shows what is stored, without touching it.
    async fn follow(&mut self) {
        let Some(taken) = self.intake().await else {
            return;
        };
        let records = taken.records.iter();
        let records: Vec<&Record> = records.map(|(record, _)| record).collect();
        let wishes = self.wishes.borrow().clone();
        let refused = Arc::clone(&self.refused.borrow());
        let is_asked_for = |target: &Target, own: &str| {
            let wanted = wishes.get(target).map(|wanted| &wanted.namespace_uid);
            let asking = wanted.or_else(|| refused.get(target));
            asking.is_some_and(|asking| !is_another(own, asking))
        };
        let shown = records.iter().copied();
        self.driver.served.replace(shown, is_asked_for);
        for record in records {
            let wanted = wishes.get(&record.state.target);
            self.driver.served.show(record, wanted);
        }
        self.shown.send_replace(true);
        self.look_at_accounts(false).await;
        if let Ok(Some(stored)) = self.driver.vault.read(&Key::Board).await
            && let Some(board) = crate::board::read(&stored.entries)
        {
            renew(&self.board, board);
        }
    }

    /// What others wrote about accounts; who leads has them answered for as the configuration says.
    async fn look_at_accounts(&mut self, leads: bool) {
        let issuers = self.issuers.borrow().clone();
        // Who could not look at all of them has not seen what others wrote.
        let leads = leads && self.look_again.is_none_or(|(_, leads)| leads);
        let mut looked = self.driver.accounts.look(&issuers, leads).await;
        if looked.is_ok() && self.epoch.is_some() {
            looked = self.driver.pen.answer_as(&issuers).await;
        }
        self.look_again = looked.err().map(|error| {
            tracing::warn!(%error, "the accounts were not read");
            (tokio::time::Instant::now() + LOOK_AGAIN, leads)
        });
    }

    /// Looks at the accounts once more if they were not read.
    async fn look_again(&mut self) {
        if let Some((at, leads)) = self.look_again
            && at <= tokio::time::Instant::now()
        {
            self.look_at_accounts(leads).await;
        }
    }

    /// Takes the lead, or loses it. What was going on here ends either way.
    async fn lead(&mut self, epoch: Option<u64>) {
        self.running.shutdown().await;
        self.errands.shutdown().await;
        self.held.clear();
        // Whatever could not be written was not because of those who write from now on.
        let complaints = &self.driver.served.complaints;
        complaints.put_all(Kind::Write, Troubles::new());
        self.slots = Slots::default();
        self.looks = Looks::new();
        self.driver.pen.forget().await;
        self.driver.accounts.forget().await;
        self.epoch = None;
        let Some(epoch) = epoch else { return };
        // Tried again with the next turn of the loop.
        let Some(taken) = self.intake().await else {
            return;
        };
        *self.driver.standing() = Standing::default();
        self.fill(taken, epoch);
        self.epoch = Some(epoch);
        self.adopt();
        self.shown.send_replace(true);
        self.look_at_accounts(false).await;
        let issuers = self.issuers.borrow().clone();
        let slots = &self.slots;
        let publishes = |target: &Target| slots.publishes(target);
        let known = |issuer: &str| issuers.issuers.contains_key(issuer);
        if let Err(error) = self.driver.pen.retain(publishes, known).await {
            tracing::warn!(%error, "the board was not tidied up");
        }
    }

    /// Begins what is due; returns when to look again.
    fn begin(&mut self) -> tokio::time::Instant {
        let clock = &self.driver.clock;
        let idle = tokio::time::Instant::now() + IDLE;
        if self.epoch.is_none() {
            // Leading, but not loaded: soon; else when something changes.
            return tokio::time::Instant::now() + AGAIN;
        }
        if !self.known {
            return idle;
        }
        let now = clock.now();
        let issuers = self.issuers.borrow().clone();
        let share = Share {
            issuers: &issuers,
            most: self.flows,
        };
        for (mut flow, stale) in self.slots.take_due(now, share) {
            let driver = Arc::clone(&self.driver);
            let target = flow.target().clone();
            let task = self.running.spawn(async move {
                let end = driver.work(&mut flow, stale).await;
                (flow, end)
            });
            self.held.insert(task.id(), target);
        }
        let next = self.slots.next_due(now, share);
        next.map_or(idle, |at| clock.instant(at).min(idle))
    }

    /// A task ended without giving its certificate back: what is stored of that one is read again,
    /// after a while, since whatever ended the task may come again. Others are still with their tasks.
    fn lost(&mut self, error: &JoinError) {
        let target = self.held.remove(&error.id());
        let (namespace, name) = target
            .as_ref()
            .map(|target| (&target.namespace, &target.secret))
            .unzip();
        tracing::error!(namespace, name, %error, "work on a certificate or an account ended abnormally");
        let (Some(target), Some(epoch)) = (target, self.epoch) else {
            return;
        };
        let mut memo = Memo::default();
        memo.rest_until = Some(later(self.driver.clock.now(), REPEAT));
        self.slots.lose(Flow {
            record: Record::empty(State::new(&target, epoch)),
            version: None,
            wanted: self.wishes.borrow().get(&target).cloned(),
            kept: false,
            epoch,
            memo,
        });
    }

    fn put_back(&mut self, mut flow: Flow, end: End) {
        if Some(flow.epoch) != self.epoch {
            return;
        }
        let target = flow.target().clone();
        self.driver.look_up(&mut flow);
        match end {
            End::Rests if flow.version.is_none() && flow.wanted.is_none() => {
                self.slots.remove(&target);
            }
            End::Rests => {
                self.driver.served.show(&flow.record, flow.wanted.as_ref());
                self.slots.insert(flow);
            }
            End::Unread => self.slots.lose(flow),
            End::Strange => self.slots.leave_alone(target),
            End::Gone => {
                self.slots.remove(&target);
                // Nothing is left that could be stored.
                self.driver.complain(&target, None);
                self.driver.served.hide(&target);
                // It may be wanted by now.
                self.adopt();
            }
        }
    }
}

/// Flows at once: the edge of Let's Encrypt takes twenty requests a second from one address.
const FLOWS: usize = 8;

const TOMBSTONE: SignedDuration = SignedDuration::from_hours(72);

/// Events that a slow reader may be behind.
const EVENTS: usize = 1_024;

/// Questions and commands that may wait.
const ASKS: usize = 16;

/// Longest sleep: clocks may be set.
const IDLE: Duration = Duration::from_secs(60);

/// After a task ended abnormally.
const REPEAT: SignedDuration = SignedDuration::from_secs(10);

/// After the accounts could not be read.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// After the vault could not be read.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
