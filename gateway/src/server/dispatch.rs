//! The path of one request, top to bottom: check, look up, apply policies, forward, answer.
//!
//! Invariants: the host and the path that were matched are the ones that policies see. A request
//! holds its `Arc<Route>` and never the snapshot. Whatever happens, exactly one record is written.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::authority;
use super::body::{BodyBounds, RequestBody, ResponseBody};
use super::connection::{Connection, RequestGuard, address_field};
use super::forwarded::Forwarded;
use super::headers::{self, Outgoing};
use super::record::Record;
use super::survey::Survey;
use super::target::{asks_gateway, check_target, to_origin_form};
use super::upgrade;
use super::wire::{canonical_host, canonical_path};
use super::worker::Worker;
use crate::error::Reason;
use crate::model::{RefuseReason, Settings, UpstreamProtocol};
use crate::policy::{self, Flow, LocalResponse, RequestFacts};
use crate::table::{Action, Route};
use crate::upstream::{Answer, Cluster, ForwardRequest};

/// Serves one request. Never fails: whatever is wrong becomes an answer.
pub(crate) async fn handle(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    request: http::Request<Incoming>,
    open: RequestGuard,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let (head, incoming) = request.into_parts();
    let head = Box::new(head);
    let mut record = Record::begin(worker, connection, &head, started, open);
    let exchange = Exchange {
        worker,
        connection,
        version: head.version,
        head_only: head.method == Method::HEAD,
    };
    let step = exchange.admit(head, &incoming, &mut record);
    let mut response = match step {
        Step::Answer(local) => exchange.local(local, record),
        Step::Forward(outbound) => exchange.forward(outbound, incoming, record).await,
    };
    if worker.parting() && response.version() != Version::HTTP_2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What to do after the checks.
enum Step {
    Answer(Local),
    Forward(Outbound),
}

/// An answer that the gateway makes.
struct Local {
    status: StatusCode,
    reason: Option<Reason>,
    location: Option<HeaderValue>,
    /// The body, when it is not made of status and reason.
    text: Option<String>,
    /// Route whose policies see the answer.
    route: Option<Arc<Route>>,
    /// The connection cannot be trusted to be in step with us any more.
    close: bool,
}

impl Local {
    fn refusal(reason: Reason) -> Self {
        Self {
            status: reason.status(),
            reason: Some(reason),
            location: None,
            text: None,
            route: None,
            close: true,
        }
    }

    /// The answer to a question about the gateway itself.
    fn own() -> Self {
        Self {
            status: StatusCode::OK,
            reason: None,
            location: None,
            text: None,
            route: None,
            close: false,
        }
    }

    /// The answer to a certificate authority.
    fn to_authority(text: String) -> Self {
        Self {
            text: Some(text),
            close: false,
            ..Self::refusal(Reason::AcmeChallenge)
        }
    }

    fn on_route(reason: Reason, route: Arc<Route>) -> Self {
        Self {
            route: Some(route),
            close: false,
            ..Self::refusal(reason)
        }
    }
}

/// A request that is ready to be sent.
struct Outbound {
    head: Box<request::Parts>,
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    settings: Arc<Settings>,
    survey: Survey,
    forwarded: Forwarded,
    host: HeaderValue,
    websocket: bool,
}

/// One request and the connection it came on.
struct Exchange<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a Rc<Connection>,
    version: Version,
    /// The client wants the fields of an answer and not its content.
    head_only: bool,
}

impl Exchange<'_> {
    fn http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Everything that is decided before the first byte goes to an endpoint.
    fn admit(&self, head: Box<request::Parts>, incoming: &Incoming, record: &mut Record) -> Step {
        let (settings, host) = match self.check(&head) {
            Ok(checked) => checked,
            Err(reason) => return Step::Answer(Local::refusal(reason)),
        };
        let survey = match Survey::of(&head.headers, &settings, self.http2()) {
            Ok(survey) => survey,
            Err(reason) => return Step::Answer(Local::refusal(reason)),
        };
        if survey.claims {
            self.connection.comes_from_a_proxy();
        }
        if asks_gateway(&head) {
            return Step::Answer(match canonical_host(host.as_bytes()) {
                Some(_) => Local::own(),
                None => Local::refusal(Reason::BadHost),
            });
        }
        let forwarded = self.forwarded(&head.headers, &settings);
        record.client = forwarded.client;
        if let Some(text) = authority::answer(self.worker, self.connection, &head, &host) {
            return Step::Answer(Local::to_authority(text));
        }
        match self.decide(&head, &host, &forwarded) {
            Ok((route, cluster)) => {
                record.route = Some(Arc::clone(&route));
                let websocket = self.version == Version::HTTP_11 && survey.websocket(&head.headers);
                if websocket && !incoming.is_end_stream() {
                    return Step::Answer(Local::refusal(Reason::UpgradeWithBody));
                }
                if settings.limits.body > 0 && incoming.size_hint().lower() > settings.limits.body {
                    return Step::Answer(Local {
                        close: true,
                        ..Local::on_route(Reason::BodyTooLarge, route)
                    });
                }
                let host = forwarded.host.clone().unwrap_or(host);
                Step::Forward(Outbound {
                    head,
                    route,
                    cluster,
                    settings,
                    survey,
                    forwarded,
                    host,
                    websocket,
                })
            }
            Err(local) => {
                record.route.clone_from(&local.route);
                Step::Answer(local)
            }
        }
    }

    /// Framing, target and host of the head (wire-level rules of RFC 9112 and RFC 9113).
    fn check(&self, head: &request::Parts) -> Result<(Arc<Settings>, HeaderValue), Reason> {
        let settings = self.worker.settings();
        if !self.http2() {
            // Out of step with the parser: nobody can say where this request ends.
            let facts = self
                .connection
                .next_head()
                .ok_or(Reason::AmbiguousFraming)?;
            if facts.too_long {
                return Err(Reason::TargetTooLong);
            }
            if facts.framing_conflict {
                return Err(Reason::AmbiguousFraming);
            }
            if facts.fragment {
                return Err(Reason::BadTarget);
            }
        }
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(Reason::MethodNotAllowed);
        }
        if head
            .method
            .as_str()
            .bytes()
            .any(|byte| byte.is_ascii_lowercase())
        {
            return Err(Reason::BadRequest);
        }
        check_target(head, &settings)?;
        Ok((settings, self.host(head)?))
    }

    /// The one host of the request: the target's authority when it has one (RFC 9112, section
    /// 3.2.2; RFC 9113, section 8.3.1), else the one `Host` field.
    fn host(&self, head: &request::Parts) -> Result<HeaderValue, Reason> {
        let mut fields = head.headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(Reason::BadHost);
        }
        let Some(authority) = head.uri.authority() else {
            // Whether it is a host shows when it is looked up.
            return match field {
                Some(field) => Ok(field.clone()),
                None if self.version == Version::HTTP_10 => Ok(HeaderValue::from_static(NO_HOST)),
                None => Err(Reason::BadHost),
            };
        };
        if field.is_some_and(|field| canonical_host(field.as_bytes()).is_none()) {
            return Err(Reason::BadHost);
        }
        if field.is_none() && !self.http2() && self.version != Version::HTTP_10 {
            return Err(Reason::BadHost);
        }
        let differs = |field: &HeaderValue| {
            !field
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
        };
        if self.http2() && field.is_some_and(differs) {
            return Err(Reason::BadHost);
        }
        HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadHost)
    }

    fn forwarded(&self, headers: &HeaderMap, settings: &Settings) -> Forwarded {
        let connection = self.connection;
        let port = connection.public_port();
        let seen = Forwarded {
            client: connection.client.ip(),
            // A balancer that speaks the PROXY protocol and ends TLS says so by the port.
            https: connection.tls.is_some() || (connection.proxied() && port == 443),
            port,
            host: None,
            trusted: false,
        };
        Forwarded::of(headers, settings, connection.peer.ip(), seen)
    }

    /// The client's address as a field: written once for a connection, unless a peer is believed.
    fn address(&self, forwarded: &Forwarded) -> HeaderValue {
        if forwarded.client == self.connection.client.ip() {
            self.connection.fields.client.clone()
        } else {
            address_field(forwarded.client)
        }
    }

    fn port(&self, forwarded: &Forwarded) -> HeaderValue {
        if forwarded.port == self.connection.public_port() {
            self.connection.fields.port.clone()
        } else {
            HeaderValue::from(forwarded.port)
        }
    }

    /// Route, TLS policy, filters and action.
    fn decide(
        &self,
        head: &request::Parts,
        host: &HeaderValue,
        forwarded: &Forwarded,
    ) -> Result<(Arc<Route>, Arc<Cluster>), Local> {
        let refuse = |reason| Err(Local::refusal(reason));
        let Some(name) = canonical_host(host.as_bytes()) else {
            return refuse(Reason::BadHost);
        };
        let Some(path) = canonical_path(head.uri.path()) else {
            return refuse(Reason::BadTarget);
        };
        let server = self.connection.listener.server;
        let found = self.worker.with_snapshot(|snapshot| {
            // A client that is told 404 believes it, and so do caches.
            if snapshot.generation == 0 {
                return Some(Err(Reason::NotReady));
            }
            if let Some(tls) = &self.connection.tls {
                let table = snapshot.server(server)?;
                if !table.tls.same_policy(tls.sni.as_deref(), &name.canonical) {
                    return Some(Err(Reason::Misdirected));
                }
            }
            snapshot
                .lookup(server, &name.canonical, &path, &mut ())
                .cloned()
                .map(Ok)
        });
        let route = match found {
            Some(Ok(route)) => route,
            Some(Err(reason)) => {
                return Err(Local {
                    close: false,
                    ..Local::refusal(reason)
                });
            }
            None => {
                return Err(Local {
                    close: false,
                    ..Local::refusal(Reason::NotFound)
                });
            }
        };
        let redirect_host = forwarded
            .host
            .as_ref()
            .and_then(|host| canonical_host(host.as_bytes()));
        let facts = RequestFacts {
            method: &head.method,
            https: forwarded.https,
            tls: self.connection.tls.is_some(),
            host: redirect_host
                .as_ref()
                .map_or(name.as_sent, |host| host.as_sent),
            connection_host: name.as_sent,
            path: &path,
            target: head
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str()),
        };
        if let Flow::Respond(answer) = policy::on_request(&route.filters, &facts) {
            return Err(from_policy(answer, route));
        }
        match &route.action {
            Action::Forward(split) => {
                let cluster = Arc::clone(split.choose(self.worker.random()));
                if cluster.has_endpoints() {
                    Ok((route, cluster))
                } else {
                    Err(Local::on_route(Reason::NoEndpoints, route))
                }
            }
            Action::NotFound => Err(Local::on_route(Reason::NotFound, route)),
            Action::Refuse(why) => Err(Local::on_route(refusal(*why), route)),
        }
    }

    /// Sends the request and makes the answer of it.
    async fn forward(
        &self,
        outbound: Outbound,
        incoming: Incoming,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let Outbound {
            mut head,
            route,
            cluster,
            settings,
            survey,
            forwarded,
            host,
            websocket,
        } = outbound;
        let on_upgrade = websocket.then(|| upgrade::taken_from(&head)).flatten();
        let mut body = request_body(incoming, &settings, self.http2());
        // Boxed because it is rare, and would make the future of every request larger.
        if let Some(body) = body.as_mut().filter(|body| body.awaits_end())
            && let Err(error) = Box::pin(body.ended()).await
        {
            return self.local(Local::on_route(error.reason, route), record);
        }
        record.request_body = body.as_ref().map(|body| body.progress());
        to_origin_form(&mut head);
        let outgoing = Outgoing {
            survey: &survey,
            forwarded: &forwarded,
            host,
            address: self.address(&forwarded),
            port: self.port(&forwarded),
            peer: self.connection.peer.ip(),
            length: body
                .as_ref()
                .map_or(Some(0), |body| body.size_hint().exact()),
            http2_upstream: speaks_http2(cluster.plan().protocol),
            websocket,
            fresh_id: headers::hex_id(self.worker.random(), self.worker.random()),
        };
        headers::to_endpoint(&mut head.headers, &settings, outgoing);
        record.identified(&head.headers);
        let request = ForwardRequest {
            head,
            body,
            cluster,
            client: forwarded.client,
            upgrade: websocket,
            settings: Arc::clone(&settings),
        };
        let (attempts, result) = self.worker.upstream.forward(request).await;
        record.forwarded(&attempts);
        match result {
            Ok(answer) => self.relay(answer, &route, record, on_upgrade),
            Err(error) => {
                let close = error.reason.source() == crate::error::Source::Downstream;
                let local = Local {
                    close,
                    ..Local::on_route(error.reason, route)
                };
                self.local(local, record)
            }
        }
    }

    /// Passes the answer of an endpoint on.
    fn relay(
        &self,
        answer: Answer,
        route: &Route,
        mut record: Box<Record>,
        on_upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = answer.response.into_parts();
        let upgraded = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        headers::to_client(&mut parts.headers, upgraded);
        policy::on_response(
            &route.filters,
            self.connection.tls.is_some(),
            &mut parts.headers,
        );
        parts.version = self.version;
        record.answered(parts.status, None);
        if upgraded {
            let fields = &mut parts.headers;
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
            if let (Some(client), Some(endpoint)) = (on_upgrade, answer.upgraded) {
                self.connection.end_of_http();
                let tunnel = upgrade::Tunnel {
                    client,
                    upstream: endpoint,
                    endpoint: answer.endpoint,
                };
                tunnel.start(self.worker, record);
            }
            return Response::from_parts(parts, ResponseBody::local(Bytes::new(), None));
        }
        if parts.status == StatusCode::RESET_CONTENT {
            // RFC 9110, section 15.3.6: whatever comes behind the head is no content.
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            return Response::from_parts(parts, ResponseBody::local(Bytes::new(), Some(record)));
        }
        let watched = self.http2() && !body.is_end_stream();
        let active = watched.then(|| self.worker.active.watch(&self.connection.control));
        Response::from_parts(parts, ResponseBody::upstream(body, record, active))
    }

    /// An answer of the gateway's own: short text with the reason code.
    fn local(&self, mut local: Local, mut record: Box<Record>) -> Response<ResponseBody> {
        if local.reason == Some(Reason::HealthCheck) && self.worker.leaving() {
            local.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        record.answered(local.status, local.reason);
        let own = local.text.is_some();
        let text = match (local.text, local.reason) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(reason)) => Bytes::from(format!(
                "{} {}: {}\n",
                local.status.as_u16(),
                local.status.canonical_reason().unwrap_or("Error"),
                reason.code()
            )),
            (None, None) => Bytes::new(),
        };
        let length = text.len();
        // On HTTP/1 hyper knows; on HTTP/2 it would send the content and break the stream.
        let text = if self.head_only { Bytes::new() } else { text };
        let watched = self.http2() && !text.is_empty();
        let active = watched.then(|| self.worker.active.watch(&self.connection.control));
        let mut response = Response::new(ResponseBody::watched(text, Some(record), active));
        *response.status_mut() = local.status;
        *response.version_mut() = self.version;
        let fields = response.headers_mut();
        if length > 0 {
            fields.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
        }
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if own {
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if let Some(location) = local.location {
            fields.insert(LOCATION, location);
        }
        if let Some(route) = &local.route {
            policy::on_response(&route.filters, self.connection.tls.is_some(), fields);
        }
        if local.close && !self.http2() {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn request_body(incoming: Incoming, settings: &Settings, http2: bool) -> Option<Box<RequestBody>> {
    if incoming.is_end_stream() {
        return None;
    }
    let bounds = BodyBounds {
        limit: settings.limits.body,
        stall: settings.timeouts.request_body,
        rate: settings.limits.body_rate,
    };
    Some(Box::new(if http2 {
        RequestBody::of_stream(incoming, bounds)
    } else {
        RequestBody::new(incoming, bounds)
    }))
}

fn speaks_http2(protocol: UpstreamProtocol) -> bool {
    matches!(protocol, UpstreamProtocol::H2c | UpstreamProtocol::H2)
}

fn from_policy(answer: LocalResponse, route: Arc<Route>) -> Local {
    Local {
        status: answer.status,
        reason: Some(answer.reason),
        location: answer.location,
        text: None,
        route: Some(route),
        close: false,
    }
}

fn refusal(why: RefuseReason) -> Reason {
    match why {
        RefuseReason::ServiceMissing => Reason::ServiceMissing,
        RefuseReason::UnsupportedBackend => Reason::NotFound,
        RefuseReason::BrokenPolicy => Reason::BrokenPolicy,
    }
}

/// Host of an HTTP/1.0 request that names none: only the catch-all serves it (nginx calls it so).
const NO_HOST: &str = "_";
