//! An authority that does as it is told, and a keeper before it: time stands still unless nothing else
//! is left to do.

use std::sync::atomic::Ordering;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName};

use super::super::*;
use super::parts::{Dns, Drawer, Shelf, Wound};
use crate::ca::{
    Account, AccountKey, Authorization, AuthorizationStatus, Ca, Cause, Chain, Challenge,
    ChallengeKind, Directory, NewOrder, OrderStatus, Problem, Registration, RenewalWindow,
};
use crate::events::Report;
use crate::keeper::{Command, Config, Keeper};
use crate::names::Name;
use crate::plan::Request;
use crate::vault::memory::MemoryVault;

/// What is done instead of a step.
type Script = dyn Fn(Step, &Authority) -> Option<Cause> + Send + Sync;

/// An authority in memory.
pub(super) struct Authority {
    directory: String,
    clock: Arc<Wound>,
    issuer: rcgen::Issuer<'static, KeyPair>,
    root: String,
    orders: Mutex<Vec<Placed>>,
    asked: Mutex<Vec<Step>>,
    script: Mutex<Arc<Script>>,
    /// Whether it believes who answers.
    pub(super) believes: std::sync::atomic::AtomicBool,
    /// Whether it does as it is asked at finalize, and says nothing.
    pub(super) mute: std::sync::atomic::AtomicBool,
    /// Whether it offers windows.
    pub(super) windows: std::sync::atomic::AtomicBool,
    /// The window of every certificate, if it knows one.
    pub(super) window: Mutex<Option<RenewalWindow>>,
    /// A name that it adds to every certificate.
    pub(super) adds: Mutex<Option<String>>,
    /// A name whose order stays as it is said here, whoever asks for its certificate.
    pub(super) stuck: Mutex<Option<(&'static str, OrderStatus)>>,
}

struct Placed {
    names: Vec<Name>,
    status: OrderStatus,
    chain: String,
}

impl Authority {
    fn new(directory: String, clock: Arc<Wound>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").pem();
        Self {
            directory,
            clock,
            issuer: rcgen::Issuer::new(params, key),
            root,
            orders: Mutex::default(),
            asked: Mutex::default(),
            script: Mutex::new(Arc::new(|_, _| None)),
            believes: true.into(),
            mute: false.into(),
            windows: false.into(),
            window: Mutex::default(),
            adds: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    /// What it does from now on instead of some steps.
    pub(super) fn play(
        &self,
        script: impl Fn(Step, &Self) -> Option<Cause> + Send + Sync + 'static,
    ) {
        *self.script.lock().expect("a script") = Arc::new(script);
    }

    /// Answers everything again.
    pub(super) fn heal(&self) {
        self.play(|_, _| None);
    }

    /// How often it was asked for this.
    pub(super) fn count(&self, step: Step) -> usize {
        let asked = self.asked.lock().expect("steps");
        asked.iter().filter(|each| **each == step).count()
    }

    /// Certificates that it made.
    pub(super) fn issued(&self) -> usize {
        let orders = self.orders.lock().expect("orders");
        orders.iter().filter(|each| !each.chain.is_empty()).count()
    }

    /// Names of the order that was made last.
    pub(super) fn last_names(&self) -> Vec<String> {
        let orders = self.orders.lock().expect("orders");
        let last = orders.last().expect("an order");
        last.names.iter().map(ToString::to_string).collect()
    }

    fn step(&self, step: Step) -> Result<(), Refusal> {
        self.asked.lock().expect("steps").push(step);
        let script = Arc::clone(&self.script.lock().expect("a script"));
        script(step, self).map_or(Ok(()), |cause| Err(Refusal::new(step, cause)))
    }

    fn url(&self, place: usize) -> String {
        format!("{}/order/{place}", self.directory)
    }

    fn look<T>(&self, url: &str, see: impl FnOnce(&mut Placed) -> T) -> Result<T, Refusal> {
        let place = url.rsplit('/').next().and_then(|text| text.parse().ok());
        let mut orders = self.orders.lock().expect("orders");
        let found = place.and_then(|place: usize| orders.get_mut(place));
        found
            .map(see)
            .ok_or_else(|| Refusal::new(Step::Order, said(404, "malformed", "no such order")))
    }

    fn shown(&self, url: &str) -> Result<Order, Refusal> {
        let status = self.look(url, |placed| placed.status)?;
        Ok(Order {
            url: url.to_owned(),
            status,
            expires: None,
            error: None,
            retry_after: None,
        })
    }

    fn sign(&self, csr: &[u8], names: &[Name]) -> String {
        let (_, request) = X509CertificationRequest::from_der(csr).expect("a CSR");
        let public = &request.certification_request_info.subject_pki;
        let public = Public(public.subject_public_key.data.to_vec());
        let mut params = CertificateParams::default();
        assert_eq!(names_of(&request), names.len(), "the CSR fits");
        let texts = names.iter().map(ToString::to_string);
        let more = self.adds.lock().expect("a name").clone();
        for name in texts.chain(more) {
            let name = name.as_str().try_into().expect("a name");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let day = |at: Timestamp| {
            let date = at.to_zoned(jiff::tz::TimeZone::UTC);
            let part = |number: i8| u8::try_from(number).expect("a date");
            rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
        };
        let now = self.clock.now();
        params.not_before = day(now);
        params.not_after = day(crate::schedule::later(now, LIFE));
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&public, &self.issuer);
        leaf.expect("a leaf").pem() + &self.root
    }
}

fn names_of(request: &X509CertificationRequest<'_>) -> usize {
    let extensions = request.requested_extensions();
    let names = extensions.into_iter().flatten().filter_map(|extension| {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            return Some(&names.general_names);
        }
        None
    });
    let dns = |name: &&GeneralName<'_>| matches!(name, GeneralName::DNSName(_));
    names.flatten().filter(dns).count()
}

struct Public(Vec<u8>);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A problem as an authority tells it.
pub(super) fn said(status: u16, kind: &str, detail: &str) -> Cause {
    let problem = Problem {
        kind: kind.to_owned(),
        detail: detail.to_owned(),
        subproblems: Vec::new(),
    };
    Cause::Problem(status, problem)
}

/// No answer.
pub(super) fn silence() -> Cause {
    Cause::Unreachable("nobody is there".to_owned())
}

pub(super) fn ready<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Ca for Authority {
    fn directory(&self) -> Answer<'_, Result<Directory, Refusal>> {
        let renewal_info = self.windows.load(Ordering::SeqCst);
        ready(self.step(Step::Directory).map(|()| Directory {
            renewal_info,
            ..Directory::default()
        }))
    }

    fn register<'a>(&'a self, request: &'a Registration) -> Answer<'a, Result<Account, Refusal>> {
        ready(self.step(Step::Account).map(|()| Account {
            url: format!("{}/account/{}", self.directory, request.key.thumbprint()),
            key: request.key.clone(),
        }))
    }

    fn look(&self) -> Answer<'_, Result<(), Refusal>> {
        ready(self.step(Step::Nonce))
    }

    fn new_order<'a>(
        &'a self,
        _: &'a Account,
        request: &'a NewOrder,
    ) -> Answer<'a, Result<Order, Refusal>> {
        let place = {
            let mut orders = self.orders.lock().expect("orders");
            orders.push(Placed {
                names: request.names.clone(),
                status: OrderStatus::Pending,
                chain: String::new(),
            });
            orders.len() - 1
        };
        let made = self.step(Step::NewOrder);
        ready(made.and_then(|()| self.shown(&self.url(place))))
    }

    fn order<'a>(&'a self, _: &'a Account, url: &'a str) -> Answer<'a, Result<Order, Refusal>> {
        ready(self.step(Step::Order).and_then(|()| self.shown(url)))
    }

    fn authorizations<'a>(
        &'a self,
        _: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>> {
        let seen = self.step(Step::Authorization);
        let seen = seen.and_then(|()| self.look(url, |each| (each.names.clone(), each.status)));
        ready(seen.map(|(names, status)| {
            let status = match status {
                OrderStatus::Pending => AuthorizationStatus::Pending,
                OrderStatus::Invalid => AuthorizationStatus::Invalid,
                _ => AuthorizationStatus::Valid,
            };
            let shown = |name: &Name| Authorization {
                url: format!("{url}/{name}"),
                name: name.clone(),
                status,
                challenges: vec![Challenge {
                    kind: if name.is_wildcard() {
                        ChallengeKind::Dns01
                    } else {
                        ChallengeKind::Http01
                    },
                    url: format!("{url}/{name}/http"),
                    token: "token-of-sixteen".to_owned(),
                    status,
                    error: (status == AuthorizationStatus::Invalid).then(|| Problem {
                        kind: "connection".to_owned(),
                        detail: "nobody answered".to_owned(),
                        subproblems: Vec::new(),
                    }),
                    issuers: Vec::new(),
                }],
            };
            names.iter().map(shown).collect()
        }))
    }

    fn answer<'a>(
        &'a self,
        _: &'a Account,
        url: &'a str,
        _: &'a [String],
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>> {
        let believes = self.believes.load(Ordering::SeqCst);
        let judged = if believes {
            OrderStatus::Ready
        } else {
            OrderStatus::Invalid
        };
        let told = self.step(Step::Challenge);
        ready(told.and_then(|()| {
            self.look(url, |placed| {
                placed.status = judged;
                Vec::new()
            })
        }))
    }

    fn finalize<'a>(
        &'a self,
        _: &'a Account,
        url: &'a str,
        csr: &'a [u8],
    ) -> Answer<'a, Result<Order, Refusal>> {
        let asked = self.step(Step::Finalize).and_then(|()| {
            let stuck = *self.stuck.lock().expect("a name");
            let chain = self.look(url, |placed| self.sign(csr, &placed.names))?;
            self.look(url, |placed| {
                let this = |name: &Name| stuck.filter(|(stuck, _)| name.to_string() == *stuck);
                if let Some((_, status)) = placed.names.iter().find_map(this) {
                    placed.status = status;
                    return;
                }
                placed.status = OrderStatus::Valid;
                placed.chain = chain;
            })
        });
        let mute = self.mute.load(Ordering::SeqCst);
        let lost = || Err(Refusal::new(Step::Finalize, silence()));
        ready(asked.and_then(|()| if mute { lost() } else { self.shown(url) }))
    }

    fn certificate<'a>(
        &'a self,
        _: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<Chain, Refusal>> {
        let pem = self.step(Step::Certificate);
        let pem = pem.and_then(|()| self.look(url, |placed| placed.chain.clone()));
        ready(pem.map(|pem| Chain {
            pem,
            alternates: Vec::new(),
        }))
    }

    fn alternate<'a>(&'a self, _: &'a Account, _: &'a str) -> Answer<'a, Result<String, Refusal>> {
        ready(self.step(Step::Certificate).map(|()| String::new()))
    }

    fn renewal_info<'a>(
        &'a self,
        _: &'a Account,
        _: &'a str,
    ) -> Answer<'a, Result<RenewalWindow, Refusal>> {
        let nothing = said(404, "malformed", "no windows here");
        let asked = self.step(Step::RenewalInfo);
        let window = self.window.lock().expect("a window").clone();
        let known = window.ok_or_else(|| Refusal::new(Step::RenewalInfo, nothing));
        ready(asked.and(known))
    }

    fn revoke<'a>(&'a self, _: &'a Account, _: &'a [u8], _: u8) -> Answer<'a, Result<(), Refusal>> {
        ready(self.step(Step::Revoke))
    }

    fn change_key<'a>(
        &'a self,
        account: &'a Account,
        next: &'a AccountKey,
    ) -> Answer<'a, Result<Account, Refusal>> {
        ready(self.step(Step::KeyChange).map(|()| Account {
            url: account.url.clone(),
            key: next.clone(),
        }))
    }

    fn deactivate<'a>(&'a self, _: &'a Account) -> Answer<'a, Result<(), Refusal>> {
        ready(self.step(Step::Account))
    }

    fn date(&self) -> Option<(Timestamp, tokio::time::Instant)> {
        None
    }
}

/// A keeper with two authorities, the second for rehearsals.
pub(super) struct Stand {
    pub(super) clock: Arc<Wound>,
    pub(super) ca: Arc<Authority>,
    pub(super) test: Arc<Authority>,
    pub(super) vault: MemoryVault,
    pub(super) secrets: Arc<Drawer>,
    pub(super) dns: Arc<Dns>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) issuers: watch::Sender<Arc<Issuers>>,
}

impl Stand {
    /// `more` are further lines of the issuer `main`.
    pub(super) fn new(more: &str) -> Self {
        let start = "2026-06-01T00:00:00Z".parse().expect("a time");
        let clock = Arc::new(Wound::new(start));
        let authority = |name: &str| Arc::new(Authority::new(name.to_owned(), Arc::clone(&clock)));
        Self {
            ca: authority(MAIN),
            test: authority(TEST),
            clock,
            vault: MemoryVault::new(),
            secrets: Arc::default(),
            dns: Arc::default(),
            shelf: Arc::default(),
            issuers: watch::Sender::new(Arc::new(issuers(more))),
        }
    }

    pub(super) fn keeper(&self) -> Keeper {
        let (ca, test) = (Arc::clone(&self.ca), Arc::clone(&self.test));
        let dns = Arc::clone(&self.dns);
        let mut config = Config::alone(
            self.issuers.subscribe(),
            Arc::new(self.vault.clone()),
            Arc::clone(&self.secrets) as Arc<dyn Secrets>,
            Arc::new(move |endpoint| {
                if endpoint.roots.as_deref() == Some("no root") {
                    return Err("there is no certificate in the CA bundle".to_owned());
                }
                let ca = if endpoint.directory == TEST {
                    &test
                } else {
                    &ca
                };
                Ok(Arc::clone(ca) as Arc<dyn Ca>)
            }),
            Arc::new(move |_, _| Ok(Arc::clone(&dns) as Arc<dyn Solver>)),
        );
        config.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        config.projector = Arc::clone(&self.shelf) as Arc<dyn Projector>;
        Keeper::start(config)
    }

    /// The record of a certificate as it is stored.
    pub(super) async fn stored(&self, secret: &str) -> Record {
        let stored = self.vault.read(&Key::Certificate(target(secret))).await;
        let stored = stored.expect("a vault").expect("a record");
        Record::from_entries(&stored.entries).expect("a record")
    }

    /// Stores a record as it may be found.
    pub(super) async fn store(&self, record: &Record) {
        let key = Key::Certificate(record.state.target.clone());
        let found = self.vault.read(&key).await.expect("a vault");
        let version = found.map(|stored| stored.version);
        let entries = record.to_entries().expect("entries");
        let written = self.vault.write(&key, version.as_ref(), &entries).await;
        written.expect("stored");
    }
}

/// One issuer `main`, with more lines.
pub(super) fn issuers(more: &str) -> Issuers {
    let text = format!(
        "acme:\n  issuers:\n    main:\n      directory: {MAIN}\n      acceptTerms: true\n{more}  \
         default: main\n  unlisted: allow\n"
    );
    Issuers::parse(&text).expect("issuers")
}

/// A Secret in namespace `shop`.
pub(super) fn target(secret: &str) -> Target {
    Target {
        namespace: "shop".to_owned(),
        secret: secret.to_owned(),
    }
}

/// A wish for these hosts.
pub(super) fn request(secret: &str, hosts: &[&str]) -> Request {
    let object = format!("Ingress shop/{secret}");
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Request {
        namespace_uid: "uid".to_owned(),
        ..Request::new(object, target(secret), hosts)
    }
}

/// Says what is wanted.
pub(super) fn want(keeper: &Keeper, requests: Vec<Request>) {
    keeper.wanted.send_replace(Some(Arc::new(requests)));
}

/// Waits, at most this long, until a certificate stands as `fits` says.
pub(super) async fn until(
    keeper: &Keeper,
    (secret, most): (&str, Duration),
    fits: impl Fn(&Report) -> bool,
) -> Arc<Report> {
    let target = target(secret);
    let mut reports = keeper.reports.clone();
    let mut last = None;
    let waiting = reports.wait_for(|all| {
        last = all.get(&target).cloned();
        last.as_ref().is_some_and(|report| fits(report))
    });
    let stood = tokio::time::timeout(most, waiting).await;
    assert!(
        stood.is_ok_and(|stood| stood.is_ok()),
        "{target} never stood as it should: {last:#?}"
    );
    last.expect("a report")
}

/// Waits until a certificate is there and nothing is going on; its serial number.
pub(super) async fn valid(keeper: &Keeper, secret: &str) -> String {
    let there = |report: &Report| report.phase == Phase::Valid && report.waiting.is_none();
    let report = until(keeper, (secret, SOON), there).await;
    report.serial.clone().expect("a serial")
}

/// Waits for another certificate than this one.
pub(super) async fn renewed(keeper: &Keeper, (secret, most): (&str, Duration), old: &str) {
    until(keeper, (secret, most), |report| {
        report.phase == Phase::Valid && report.serial.as_deref().is_some_and(|new| new != old)
    })
    .await;
}

/// Asks until nobody else works on the certificate.
pub(super) async fn command(keeper: &Keeper, command: Command) -> Result<String, String> {
    loop {
        match keeper.command(target("tls"), command.clone()).await {
            Err(busy) if busy.contains("worked on") => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

/// Long enough for everything that waits for nothing.
pub(super) const SOON: Duration = Duration::from_secs(100);

/// Of every certificate.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

const MAIN: &str = "https://ca.test/main";
pub(super) const TEST: &str = "https://ca.test/rehearsal";
