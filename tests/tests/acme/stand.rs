//! A keeper with everything it needs, as a process on its own has it: a vault in a directory, a real
//! authority behind the proxy, and a server that answers HTTP-01 from the board.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatehouse_acme::board::Board;
use gatehouse_acme::ca::{self, Connect};
use gatehouse_acme::clock::{Clock, SystemClock};
use gatehouse_acme::dns::Solvers;
use gatehouse_acme::dns::persist::{Persist, Unread};
use gatehouse_acme::driver::{Alone, Projector, Wishes};
use gatehouse_acme::events::{Event, Report, What};
use gatehouse_acme::issuers::{Http01, Issuers};
use gatehouse_acme::journal::{Journal, Silent};
use gatehouse_acme::keeper::{Command, Config, Keeper};
use gatehouse_acme::names::Name;
use gatehouse_acme::plan::{Request, Target};
use gatehouse_acme::record::Phase;
use gatehouse_acme::secrets::SecretFolder;
use gatehouse_acme::served::Certificate;
use gatehouse_acme::vault::Vault;
use gatehouse_acme::vault::directory::DirectoryVault;
use gatehouse_tests::acme::{Bind, Pebble};
use gatehouse_tests::backend::{self, Backend, Step};
use gatehouse_tests::manifests::Scratch;
use tokio::sync::{broadcast, watch};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);

/// A place for keepers: files, issuers, and who answers for them.
pub(crate) struct Stand {
    scratch: Scratch,
    pub(crate) issuers: watch::Sender<Arc<Issuers>>,
    answers: Answers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) solvers: Arc<Solvers>,
    pub(crate) persist: Arc<dyn Persist>,
    pub(crate) projector: Arc<dyn Projector>,
}

/// What the server on the validation port answers from: every keeper that was started.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<Voice>>>);

struct Voice {
    board: watch::Receiver<Arc<Board>>,
    planned: watch::Receiver<Arc<Wishes>>,
}

impl Answers {
    /// Serves on the port where this authority looks.
    pub(crate) fn serve(&self, pebble: &Pebble) -> Backend {
        let at = SocketAddr::new(IpAddr::V4(pebble.address()), Pebble::HTTP);
        let own = self.clone();
        Backend::at(at, move |request| {
            let answer = own.answer(request);
            let found = answer.map_or_else(
                || vec![Step::Send(backend::response("404 Not Found", ""))],
                |body| backend::ok(&body),
            );
            found.into_iter().chain([Step::Close]).collect()
        })
    }

    fn answer(&self, request: &backend::Request) -> Option<String> {
        let token = request.target().rsplit('/').next()?;
        let host = request.header("host")?.rsplit_once(':')?.0;
        let name = Name::parse(host).ok()?;
        let voices = self.0.lock().expect("voices");
        voices.iter().rev().find_map(|voice| {
            let planned = voice.planned.borrow();
            let mut fitting = planned.values().filter(|each| each.names.contains(&name));
            let issuer = fitting.next().map(|wanted| wanted.issuer.clone());
            answer(&voice.board.borrow(), &name, token, issuer.as_deref())
        })
    }
}

/// Body for a token at a name: of a published challenge, else of the account of the name's issuer.
fn answer(board: &Board, name: &Name, token: &str, issuer: Option<&str>) -> Option<String> {
    let mut entries = board.entries.iter();
    let published = entries.find(|entry| entry.token == token && entry.name == *name);
    if let Some(entry) = published {
        return Some(entry.answer.clone());
    }
    let account = board.accounts.get(issuer?)?;
    let stateless = account.answers == Http01::Stateless;
    stateless.then(|| format!("{token}.{}", account.thumbprint))
}

/// YAML of one issuer `main` at this directory that may issue everything, with more fields.
pub(crate) fn issuers(directory: &str, more: &str) -> Issuers {
    let text = format!(
        "acme:\n  issuers:\n    main:\n      directory: {directory}\n      acceptTerms: true\n      \
         caBundle: roots\n      limits: {{ordersPerMinute: 10000, ordersPerThreeHours: 10000, \
         renewalsPerMinute: 10000}}\n{more}  default: main\n  unlisted: allow\n"
    );
    Issuers::parse(&text).expect("issuers")
}

impl Stand {
    /// Issuers at `directory`; `more` are further lines of the issuer `main`.
    pub(crate) fn new(pebble: &Pebble, directory: &str, more: &str) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.file("secrets/roots")).expect("a folder");
        scratch.write("secrets/roots/ca.crt", pebble.bundle());
        Self {
            scratch,
            issuers: watch::Sender::new(Arc::new(issuers(directory, more))),
            answers: Answers::default(),
            clock: Arc::new(SystemClock),
            journal: Arc::new(Silent),
            solvers: Arc::new(|_, _| Err("no DNS in this test".to_owned())),
            persist: Arc::new(Unread),
            projector: Arc::new(Alone),
        }
    }

    /// Answers DNS-01 by updates of this server; `more` are further lines of the issuer `main`.
    pub(crate) fn updating(pebble: &Pebble, directory: &str, bind: &Bind, more: &str) -> Self {
        let dns = format!(
            "      challenges: [dns-01]\n      dns: [{{zones: [example.test], provider: rfc2136, \
             secret: key, server: '{at}', resolvers: ['{at}']}}]\n{more}",
            at = bind.at()
        );
        let mut stand = Self::new(pebble, directory, &dns);
        stand.secret("key", "key", Bind::KEY);
        stand.secret("key", "secret", Bind::SECRET);
        stand.solvers = gatehouse_acme::dns::solvers(Vec::new(), Arc::new(SystemClock));
        stand
    }

    /// Writes an entry of a secret.
    pub(crate) fn secret(&self, name: &str, entry: &str, value: &str) {
        let folder = self.scratch.file(&format!("secrets/{name}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        self.scratch
            .write(&format!("secrets/{name}/{entry}"), value);
    }

    /// Where the keepers' vault is.
    pub(crate) fn vault(&self) -> std::path::PathBuf {
        self.scratch.file("vault")
    }

    /// Answers challenges of all keepers of this stand.
    pub(crate) fn serve(&self, pebble: &Pebble) -> Backend {
        self.answers.serve(pebble)
    }

    /// Shares the answers of another stand.
    pub(crate) fn answering(mut self, answers: &Answers) -> Self {
        self.answers = answers.clone();
        self
    }

    /// A keeper on the vault of this stand: the only one, or one more.
    pub(crate) fn keeper(&self) -> Keeper {
        let vault = DirectoryVault::open(self.vault()).expect("a vault");
        self.keeper_on(Arc::new(vault))
    }

    /// A keeper on any vault.
    pub(crate) fn keeper_on(&self, vault: Arc<dyn Vault>) -> Keeper {
        let connect: Arc<Connect> = Arc::new(|endpoint| ca::connect(endpoint, Arc::new(|_| {})));
        let solvers = Arc::clone(&self.solvers);
        let secrets = Arc::new(SecretFolder::new(self.scratch.file("secrets")));
        let mut config = Config::alone(self.issuers.subscribe(), vault, secrets, connect, solvers);
        config.persist = Arc::clone(&self.persist);
        config.clock = Arc::clone(&self.clock);
        config.journal = Arc::clone(&self.journal);
        config.projector = Arc::clone(&self.projector);
        let keeper = Keeper::start(config);
        self.answers.0.lock().expect("voices").push(Voice {
            board: keeper.board.clone(),
            planned: keeper.planned.clone(),
        });
        keeper
    }
}

/// A request of an Ingress in namespace `shop`.
pub(crate) fn request(secret: &str, hosts: &[&str]) -> Request {
    let object = format!("Ingress shop/{secret}");
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Request {
        namespace_uid: "uid-shop".to_owned(),
        ..Request::new(object, target(secret), hosts)
    }
}

/// A Secret in namespace `shop`.
pub(crate) fn target(secret: &str) -> Target {
    Target {
        namespace: "shop".to_owned(),
        secret: secret.to_owned(),
    }
}

/// Says what is wanted.
pub(crate) fn want(keeper: &Keeper, requests: Vec<Request>) {
    keeper.wanted.send_replace(Some(Arc::new(requests)));
}

/// Asks again while the keeper is busy with something else.
pub(crate) async fn insist<T>(ask: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
    loop {
        match ask().await {
            Err(busy) if busy.contains("worked on") || busy.contains("in a minute") => {
                tokio::task::yield_now().await;
            }
            answer => return answer,
        }
    }
}

/// Gives a command, as soon as nothing else is done with the certificate.
pub(crate) async fn command(
    keeper: &Keeper,
    secret: &str,
    command: Command,
) -> Result<String, String> {
    insist(async || keeper.command(target(secret), command.clone()).await).await
}

/// Waits until a certificate stands as `fits` says.
pub(crate) async fn until(
    keeper: &Keeper,
    secret: &str,
    fits: impl Fn(&Report) -> bool,
) -> Arc<Report> {
    let target = target(secret);
    let mut reports = keeper.reports.clone();
    let mut last = None;
    let waiting = reports.wait_for(|all| {
        last = all.get(&target).cloned();
        last.as_ref().is_some_and(|report| fits(report))
    });
    let stood = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
    assert!(stood, "{target} never stood as it should: {last:#?}");
    last.expect("a report")
}

/// Waits until a certificate is there and nothing is going on; its serial number.
pub(crate) async fn valid(keeper: &Keeper, secret: &str) -> String {
    let report = until(keeper, secret, |report| report.phase == Phase::Valid).await;
    report.serial.clone().expect("a serial")
}

/// The certificate that is served.
pub(crate) fn served(keeper: &Keeper, secret: &str) -> Option<Arc<Certificate>> {
    keeper.certificates.borrow().get(&target(secret)).cloned()
}

/// Waits for an event.
pub(crate) async fn event(
    events: &mut broadcast::Receiver<Event>,
    fits: impl Fn(&What) -> bool,
) -> Event {
    let waiting = async {
        loop {
            let event = events.recv().await.expect("events go on");
            if fits(&event.what) {
                return event;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.expect("the event in time")
}
