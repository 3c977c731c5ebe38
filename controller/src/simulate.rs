//! What would be served, without serving it: `check` and `explain`.
//!
//! Invariants: `explain` runs the lookup and the filters of the data plane on its snapshot, with
//! a recorder, so it cannot say anything else than what a request would meet; nothing here opens
//! a socket or resolves a name.

pub mod commands;
mod query;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use gatehouse_gateway::challenge::{self, Board, Verdict};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    Balance, EndpointPlan, HostPattern, ListenerProtocol, PathKind, RefuseReason, ServerId,
    UpstreamProtocol,
};
use gatehouse_gateway::policy::{self, Filter, Flow, RequestFacts, Stage};
use gatehouse_gateway::publish::Publisher;
use gatehouse_gateway::server::wire;
use gatehouse_gateway::table::{Action, Recorder, Route, Snapshot, Verdict as Fit};
use http::Method;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

pub use self::query::Query;
use crate::certificates::outlook::Outlook;
use crate::config::Base;
use crate::diagnostics::{Code, Diagnostic, Printable, Severity};
use crate::engine::{Engine, Report};
use crate::source::{Change, directory};

/// What the manifests of a directory come to.
#[derive(Debug)]
pub struct Simulation {
    /// The table they compile to.
    pub snapshot: Arc<Snapshot>,
    /// What is wrong with them.
    pub report: Report,
}

/// Reads a directory once and runs the whole control plane on it, as of this time; of certificates that
/// would be ordered, what there would be to say.
pub fn load(
    directory: &Path,
    base: &Base,
    outlook: Option<&Outlook>,
    now: Timestamp,
) -> Simulation {
    let mut engine = Engine::with_base(base);
    for change in directory::read(directory) {
        engine.apply(change);
    }
    let outcome = engine.reconcile();
    engine.tell_time(now);
    if let Some(outlook) = outlook {
        let list = outlook.findings(&engine.report(), now);
        engine.apply(Change::Certificates(list));
    }
    let (mut publisher, snapshots) = Publisher::new(Metrics::new());
    publisher.apply(outcome.delta);
    Simulation {
        snapshot: snapshots.load(),
        report: engine.report(),
    }
}

/// Whether diagnostics fail a check.
pub fn fails(diagnostics: &[Diagnostic], strict: bool) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| match diagnostic.severity {
            Severity::Error => true,
            Severity::Warning => strict,
            Severity::Info => false,
        })
}

/// A listener that a request can arrive on.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerView {
    /// Name.
    pub name: Arc<str>,
    /// Real address, when it is bound.
    pub address: Option<SocketAddr>,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// The hosts served there.
    pub server: ServerId,
}

impl ListenerView {
    /// The two listeners of a gateway that does not run.
    pub fn unbound() -> Vec<Self> {
        let view = |name: &str, protocol| Self {
            name: name.into(),
            address: None,
            protocol,
            server: ServerId::SHARED,
        };
        vec![
            view("http", ListenerProtocol::Http),
            view("https", ListenerProtocol::Https),
        ]
    }
}

/// Which way a request goes, and why.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The request, as it is matched.
    pub request: RequestView,
    /// Where it arrives.
    pub listener: Option<ListenerView>,
    /// Host patterns in the order they were asked.
    pub hosts: Vec<HostView>,
    /// Certificate slot of the host and the object that asked for it, for https.
    pub certificate: Option<CertificateView>,
    /// The route that answers.
    pub route: Option<RouteView>,
    /// Its filters in order.
    pub filters: Vec<FilterView>,
    /// What the client gets, in words.
    pub answer: String,
    /// Where it is forwarded to.
    pub backends: Vec<BackendView>,
    /// Routes of the host that do not answer, nearest first.
    pub near_misses: Vec<MissView>,
    /// How many more there are.
    pub more_misses: usize,
    /// What is known to be wrong with the object of the route.
    pub diagnostics: Vec<Diagnostic>,
}

/// The request, as it is matched.
#[derive(Debug, Serialize)]
pub struct RequestView {
    /// Method.
    pub method: String,
    /// Canonical host.
    pub host: String,
    /// Canonical path.
    pub path: String,
    /// Raw path and query, as forwarded.
    pub target: String,
    /// Whether it comes over TLS.
    pub https: bool,
}

/// A host pattern that was asked.
#[derive(Debug, Serialize)]
pub struct HostView {
    /// The pattern.
    pub pattern: HostPattern,
    /// What became of it.
    pub outcome: &'static str,
}

/// The certificate of the host.
#[derive(Debug, Serialize)]
pub struct CertificateView {
    /// Slot, `None` for the default certificate.
    pub slot: Option<String>,
    /// The object that decided it.
    pub origin: String,
}

/// A route.
#[derive(Debug, Serialize)]
pub struct RouteView {
    /// The object that contributed it.
    pub origin: Arc<str>,
    /// Where in the object it stands.
    pub field: Arc<str>,
    /// Host pattern.
    pub host: HostPattern,
    /// How the path is compared.
    pub kind: PathKind,
    /// The path.
    pub path: Arc<str>,
}

/// A filter and what it does with this request.
#[derive(Debug, Serialize)]
pub struct FilterView {
    /// When it runs.
    pub stage: Stage,
    /// The filter.
    pub filter: Filter,
    /// What it does.
    pub outcome: String,
}

/// A cluster that may get the request.
#[derive(Debug, Serialize)]
pub struct BackendView {
    /// The cluster.
    pub cluster: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// What its endpoints speak.
    pub protocol: UpstreamProtocol,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Its endpoints.
    pub endpoints: Vec<EndpointPlan>,
}

/// A route that does not answer.
#[derive(Debug, Serialize)]
pub struct MissView {
    /// The route.
    #[serde(flatten)]
    pub route: RouteView,
    /// Why not.
    pub why: &'static str,
}

impl From<&Route> for RouteView {
    fn from(route: &Route) -> Self {
        Self {
            origin: Arc::clone(&route.label),
            field: Arc::clone(&route.field),
            host: route.key.host.clone(),
            kind: route.key.path.kind,
            path: Arc::clone(&route.key.path.path),
        }
    }
}

/// Notes what a lookup does.
#[derive(Default)]
struct Notes {
    hosts: Vec<HostView>,
    misses: Vec<MissView>,
}

impl Recorder for Notes {
    fn host(&mut self, pattern: &HostPattern, matched: bool) {
        let before = self.hosts.iter().all(|host| host.outcome != MATCHED);
        self.hosts.push(HostView {
            pattern: pattern.clone(),
            outcome: match (matched, before) {
                (true, _) => MATCHED,
                (false, true) => "not configured",
                (false, false) => "gives way to the more precise host",
            },
        });
    }

    fn route(&mut self, route: &Route, fit: Fit) {
        let why = match fit {
            Fit::Matched => return,
            Fit::NotMatched(why) => why,
            Fit::Shadowed => "fits, but a more precise path answers",
        };
        self.misses.push(MissView {
            route: route.into(),
            why,
        });
    }
}

const MATCHED: &str = "matched";

/// Misses that are listed.
const MISSES: usize = 20;

/// Explains a request. The error says why it would be refused before any lookup. The board is
/// empty where nothing runs: challenges live for seconds.
pub fn explain(
    snapshot: &Snapshot,
    board: &Board,
    listeners: &[ListenerView],
    diagnostics: &[Diagnostic],
    query: &Query,
) -> Result<Explanation, String> {
    let method = query.method.as_str();
    if matches!(query.method, Method::CONNECT | Method::TRACE) {
        return Err(format!("405: {method} is not served (method_not_allowed)"));
    }
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(format!(
            "400: the method `{method}` has lower-case letters (bad_request)"
        ));
    }
    let host = wire::canonical_host(query.host())
        .ok_or("400: the host is no valid `host[:port]` (bad_host)")?;
    let path = wire::canonical_path(query.uri.path())
        .ok_or("400: the path has no canonical form (bad_target)")?;
    let target = query
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let listener = choose_listener(listeners, query);
    let server = listener.map_or(ServerId::SHARED, |listener| listener.server);

    if let Some(name) = query.name_of_connection()
        && let Some(table) = snapshot.server(server)
        && !table.tls.same_policy(Some(&name), &host.canonical)
    {
        return Err(format!(
            "421: a connection for `{name}` is not for `{}`, which has another TLS policy \
             (misdirected)",
            host.canonical
        ));
    }

    let mut notes = Notes::default();
    let route = snapshot.lookup(server, &host.canonical, &path, &mut notes);
    let facts = RequestFacts {
        method: &query.method,
        https: query.https(),
        tls: query.https(),
        host: host.as_sent,
        connection_host: host.as_sent,
        path: &path,
        target,
    };
    let mut explanation = Explanation {
        request: RequestView {
            method: query.method.to_string(),
            host: host.canonical.to_string(),
            path: path.to_string(),
            target: target.to_owned(),
            https: query.https(),
        },
        listener: listener.cloned(),
        certificate: certificate(snapshot, server, query, &notes),
        hosts: notes.hosts,
        route: route.map(|route| route.as_ref().into()),
        filters: Vec::new(),
        answer: "404: no host takes it (not_found)".into(),
        backends: Vec::new(),
        near_misses: notes.misses,
        more_misses: 0,
        diagnostics: Vec::new(),
    };
    let verdict = challenge::token(&query.method, query.uri.path())
        .map(|token| board.http(snapshot, server, &host.canonical, token));
    if let Some(Verdict::Answer(text)) = verdict {
        // Ahead of every route and filter.
        explanation.route = None;
        explanation.answer = format!("200: {text}, for a certificate authority (acme_challenge)");
    } else if let Some(route) = route {
        explanation.follow(route, &facts);
        explanation.diagnostics = diagnostics
            .iter()
            .filter(|diagnostic| {
                // One of the settings is about every route.
                diagnostic.object == route.label || diagnostic.code == Code::SettingRefused
            })
            .cloned()
            .collect();
    }
    explanation.rank_misses(&path);
    Ok(explanation)
}

/// The listener of the scheme; of several the one whose port the URL names.
fn choose_listener<'a>(listeners: &'a [ListenerView], query: &Query) -> Option<&'a ListenerView> {
    let protocol = if query.https() {
        ListenerProtocol::Https
    } else {
        ListenerProtocol::Http
    };
    let port = query.uri.port_u16();
    let mut fitting = listeners
        .iter()
        .filter(|listener| listener.protocol == protocol);
    fitting
        .clone()
        .find(|listener| port.is_some() && listener.address.map(|a| a.port()) == port)
        .or_else(|| fitting.next())
}

fn certificate(
    snapshot: &Snapshot,
    server: ServerId,
    query: &Query,
    notes: &Notes,
) -> Option<CertificateView> {
    let matched = notes.hosts.iter().find(|host| host.outcome == MATCHED)?;
    let table = snapshot.server(server)?.hosts.table(&matched.pattern)?;
    let tls = table.tls().filter(|_| query.https())?;
    Some(CertificateView {
        slot: tls.certificate.as_ref().map(ToString::to_string),
        origin: tls.origin.to_string(),
    })
}

impl Explanation {
    /// Runs the filters and the action.
    fn follow(&mut self, route: &Route, facts: &RequestFacts<'_>) {
        let mut answer = None;
        for filter in &route.filters {
            let outcome = match policy::on_request(std::slice::from_ref(filter), facts) {
                _ if answer.is_some() => "not reached".to_owned(),
                Flow::Next if filter.stage() == Stage::ResponseHeaders => {
                    if facts.tls {
                        "sets a field of the response".to_owned()
                    } else {
                        "passes: only on TLS connections".to_owned()
                    }
                }
                Flow::Next => "passes".to_owned(),
                Flow::Respond(response) => {
                    let location = response.location.as_ref().map_or_else(String::new, |to| {
                        format!(" to {}", to.to_str().unwrap_or("?"))
                    });
                    let text = format!(
                        "{}{location} ({})",
                        response.status.as_u16(),
                        response.reason.code()
                    );
                    answer = Some(text.clone());
                    format!("answers {text}")
                }
            };
            self.filters.push(FilterView {
                stage: filter.stage(),
                filter: filter.clone(),
                outcome,
            });
        }
        let action = self.act(&route.action);
        self.answer = answer.unwrap_or(action);
    }

    fn act(&mut self, action: &Action) -> String {
        match action {
            Action::NotFound => "404: nothing serves this path of the host (not_found)".into(),
            Action::Refuse(reason) => match reason {
                RefuseReason::ServiceMissing => {
                    "503: the service or its port does not exist (service_missing)".into()
                }
                RefuseReason::UnsupportedBackend => {
                    "404: the backend is of a kind that is not supported (not_found)".into()
                }
                RefuseReason::BrokenPolicy => {
                    "503: closed, because what restricts access cannot be applied (broken_policy)"
                        .into()
                }
            },
            Action::Forward(split) => {
                for (cluster, weight) in split.clusters() {
                    let plan = cluster.plan();
                    self.backends.push(BackendView {
                        cluster: Arc::clone(&plan.key.0),
                        weight,
                        protocol: plan.protocol,
                        balance: plan.balance,
                        endpoints: plan.endpoints.clone(),
                    });
                }
                if self
                    .backends
                    .iter()
                    .all(|backend| backend.endpoints.is_empty())
                {
                    "503: the service has no endpoint (no_endpoints)".into()
                } else {
                    "forwarded".into()
                }
            }
        }
    }

    /// Nearest first: the more of the path they share, the nearer.
    fn rank_misses(&mut self, path: &str) {
        let shared = |miss: &MissView| {
            path.bytes()
                .zip(miss.route.path.bytes())
                .take_while(|(left, right)| left.eq_ignore_ascii_case(right))
                .count()
        };
        self.near_misses
            .sort_by_cached_key(|miss| std::cmp::Reverse(shared(miss)));
        self.more_misses = self.near_misses.len().saturating_sub(MISSES);
        self.near_misses.truncate(MISSES);
    }
}

impl fmt::Display for RouteView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({:?} {} on {})",
            self.origin,
            self.field,
            self.kind,
            Printable(&self.path),
            self.host
        )
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = &self.request;
        let scheme = if request.https { "https" } else { "http" };
        writeln!(
            f,
            "request    {} {scheme}://{}{}",
            request.method,
            Printable(&request.host),
            Printable(&request.path)
        )?;
        match &self.listener {
            Some(listener) => {
                write!(f, "listener   {}", listener.name)?;
                if let Some(address) = listener.address {
                    write!(f, " ({address})")?;
                }
                writeln!(f)?;
            }
            None => writeln!(f, "listener   none for {scheme}")?,
        }
        for host in &self.hosts {
            writeln!(f, "host       {}: {}", host.pattern, host.outcome)?;
        }
        if let Some(certificate) = &self.certificate {
            let slot = certificate
                .slot
                .as_deref()
                .unwrap_or("the default certificate");
            writeln!(f, "tls        {slot}, asked for by {}", certificate.origin)?;
        }
        match &self.route {
            Some(route) => writeln!(f, "route      {route}")?,
            None => writeln!(f, "route      none")?,
        }
        for filter in &self.filters {
            writeln!(
                f,
                "filter     {:?}: {}",
                filter.stage,
                Printable(&filter.outcome)
            )?;
        }
        writeln!(f, "answer     {}", Printable(&self.answer))?;
        for backend in &self.backends {
            writeln!(
                f,
                "backend    {} weight {} ({:?}, {:?})",
                backend.cluster, backend.weight, backend.protocol, backend.balance
            )?;
            for endpoint in &backend.endpoints {
                writeln!(f, "  endpoint {} {:?}", endpoint.address, endpoint.phase)?;
            }
        }
        for miss in &self.near_misses {
            writeln!(f, "not        {}: {}", miss.route, miss.why)?;
        }
        if self.more_misses > 0 {
            writeln!(
                f,
                "           and {} more routes of this host",
                self.more_misses
            )?;
        }
        for diagnostic in &self.diagnostics {
            writeln!(f, "note       {diagnostic}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
