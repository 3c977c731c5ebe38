//! Signed requests to one authority: its directory, its nonces, and every answer judged.
//!
//! Invariants:
//! - A nonce is used once; each answer brings the next, so a fresh one is fetched only when none is
//!   left.
//! - A rejected nonce is no failure: the same request goes out again with a new one, a bounded number
//!   of times. Nothing else is tried again.
//! - Every answer is reported and its `Date` kept, refusals included.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, LOCATION, USER_AGENT};
use ::http::{HeaderMap, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::jws::Signer;
use super::reply::{date, judged, parsed};
use super::wire::WireDirectory;
use super::{Account, Cause, DETAIL, Endpoint, Exchange, Refusal, Step};
use crate::http::{self as transport, Http, Reply, Roots, shown};

/// Who is told about every request.
pub type Observer = Arc<dyn Fn(&Exchange) + Send + Sync>;

/// Tries with a new nonce. An authority that rejects half of them succeeds all but once in a million.
const NONCE_TRIES: usize = 20;

/// Nonces that are kept, newest last. More than flows are ever under way would only grow old.
const NONCES: usize = 16;

/// A nonce older than this is likely forgotten by the authority.
const NONCE_AGE: Duration = Duration::from_secs(5 * 60);

/// How long a `Date` is new: while clocks differ, one look serves everybody who asks.
const LOOK_AGE: Duration = Duration::from_secs(60);

/// How long a directory is believed.
const DIRECTORY_AGE: Duration = Duration::from_secs(24 * 3600);

/// One authority.
pub(super) struct Client {
    directory: Uri,
    http: Http,
    observer: Observer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    directory: Option<(Arc<WireDirectory>, Instant)>,
    nonces: VecDeque<(String, Instant)>,
    date: Option<Reading>,
}

/// A refusal of something that is there, and is no directory: says what to correct.
fn elsewhere(mut refusal: Refusal, url: &str) -> Refusal {
    let text = match &mut refusal.cause {
        Cause::Answer(200..=399 | 404 | 405 | 410, text) => text,
        Cause::Problem(404 | 405 | 410, problem) => &mut problem.detail,
        _ => return refusal,
    };
    *text = format!(
        "{text}; {} is no ACME directory: correct the field directory of the issuer (testDirectory, if that \
         is meant)",
        shown(url, DETAIL)
    );
    refusal
}

/// A `Date` of the authority.
#[derive(Clone, Copy)]
struct Reading {
    date: Timestamp,
    came: Instant,
    /// Whether a cache may have kept the answer: nothing else than a directory.
    cached: bool,
}

impl Client {
    /// Reads the endpoint; asks nothing yet, so it works while the authority is away.
    pub(super) fn new(endpoint: &Endpoint, observer: Observer) -> Result<Self, String> {
        let url = &endpoint.directory;
        let directory: Uri = url
            .parse()
            .map_err(|error| format!("directory {url:?} is no URL: {error}"))?;
        if !is_private(&directory) {
            return Err(format!(
                "directory {url:?} must begin with https://: only loopback may do without"
            ));
        }
        Ok(Self {
            directory,
            http: Http::new(endpoint.roots.as_deref().map_or(Roots::System, Roots::Pem))?,
            observer,
            state: Mutex::default(),
        })
    }

    /// The directory, from memory if that is young enough.
    pub(super) async fn directory(&self) -> Result<Arc<WireDirectory>, Refusal> {
        let known = self.state().directory.clone();
        if let Some((directory, read)) = known
            && read.elapsed() < DIRECTORY_AGE
        {
            return Ok(directory);
        }
        let url = self.directory.to_string();
        let reply = self.get(Step::Directory, &url).await;
        let parsed = match reply {
            Ok(reply) => parsed(Step::Directory, &reply),
            Err(refusal) => Err(refusal),
        };
        let directory: Arc<WireDirectory> =
            Arc::new(parsed.map_err(|refusal| elsewhere(refusal, &url))?);
        self.state().directory = Some((Arc::clone(&directory), Instant::now()));
        Ok(directory)
    }

    /// A signed request in the name of an account.
    pub(super) async fn post(
        &self,
        step: Step,
        account: &Account,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Reply, Refusal> {
        let signer = Signer::Account(&account.key, &account.url);
        self.signed(step, &signer, url, payload).await
    }

    /// A signed request; without a payload it is a read.
    pub(super) async fn signed(
        &self,
        step: Step,
        signer: &Signer<'_>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Reply, Refusal> {
        let mut tries = 0;
        loop {
            let nonce = self.nonce().await?;
            let body = signer.sign(url, Some(&nonce), payload);
            let body = body.map_err(|text| Refusal::new(step, Cause::Local(text)))?;
            tries += 1;
            match self.send(step, Method::POST, url, Some(&body)).await {
                Err(refusal) if refusal.is("badNonce") && tries < NONCE_TRIES => {}
                outcome => return outcome,
            }
        }
    }

    /// An unsigned read.
    pub(super) async fn get(&self, step: Step, url: &str) -> Result<Reply, Refusal> {
        self.send(step, Method::GET, url, None).await
    }

    /// `Date` of the newest answer, and when it came.
    pub(super) fn date(&self) -> Option<(Timestamp, Instant)> {
        self.state().date.map(|read| (read.date, read.came))
    }

    /// Makes the newest `Date` one of this minute that no cache has kept: a nonce is never kept (RFC
    /// 8555, section 7.2), and the next request needs one.
    pub(super) async fn look(&self) -> Result<(), Refusal> {
        let known = self.state().date;
        if known.is_some_and(|read| !read.cached && read.came.elapsed() < LOOK_AGE) {
            return Ok(());
        }
        let url = self.directory().await?.new_nonce.clone();
        self.send(Step::Nonce, Method::HEAD, &url, None).await?;
        Ok(())
    }

    async fn nonce(&self) -> Result<String, Refusal> {
        if let Some(nonce) = self.state().kept_nonce() {
            return Ok(nonce);
        }
        let url = self.directory().await?.new_nonce.clone();
        let reply = self.send(Step::Nonce, Method::HEAD, &url, None).await?;
        // `send` kept it like every other; another flow may have been faster.
        let own = nonce_of(&reply.headers);
        self.state().kept_nonce().or(own).ok_or_else(|| {
            let text = "an answer without a nonce".to_owned();
            Refusal::new(Step::Nonce, Cause::Answer(reply.status.as_u16(), text))
        })
    }

    async fn send(
        &self,
        step: Step,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Refusal> {
        let request = self.request(method, url, body);
        let request = request.map_err(|text| Refusal::new(step, Cause::Local(text)))?;
        let begun = Instant::now();
        let outcome = self.http.send(request).await;
        let status = outcome.as_ref().ok().map(|reply| reply.status.as_u16());
        let mut said = None;
        if let Ok(reply) = &outcome {
            said = date(&reply.headers);
            self.state().note(step, &reply.headers);
        }
        let judged = judged(step, outcome);
        let refusal = judged.as_ref().err();
        if status.is_none_or(|status| status >= 500) {
            // After an outage, what was known before it is asked again.
            self.state().directory = None;
        }
        (self.observer)(&Exchange {
            step,
            status,
            problem: refusal
                .and_then(Refusal::problem)
                .map(|problem| problem.kind.clone()),
            elapsed: begun.elapsed(),
            date: said,
        });
        judged
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let target: Uri = url
            .parse()
            .map_err(|error| format!("the authority gave {url:?}, which is no URL: {error}"))?;
        if target.scheme() != self.directory.scheme() {
            return Err(format!(
                "the authority gave {url:?}: not the scheme of its directory"
            ));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(USER_AGENT, transport::USER_AGENT);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/jose+json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        request
            .body(Full::new(body))
            .map_err(|error| error.to_string())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere left at worst an older value behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kept_nonce(&mut self) -> Option<String> {
        let (nonce, came) = self.nonces.pop_back()?;
        if came.elapsed() < NONCE_AGE {
            return Some(nonce);
        }
        // The newest is too old, so all are.
        self.nonces.clear();
        None
    }

    fn note(&mut self, step: Step, headers: &HeaderMap) {
        let now = Instant::now();
        if let Some(nonce) = nonce_of(headers) {
            if self.nonces.len() >= NONCES {
                self.nonces.pop_front();
            }
            self.nonces.push_back((nonce, now));
        }
        if let Some(date) = date(headers) {
            let cached = step == Step::Directory;
            let worse = cached && self.date.is_some_and(|read| !read.cached);
            if !worse {
                self.date = Some(Reading {
                    date,
                    came: now,
                    cached,
                });
            }
        }
    }
}

/// Value of `Location`.
pub(super) fn location(headers: &HeaderMap) -> Option<String> {
    headers.get(LOCATION)?.to_str().ok().map(str::to_owned)
}

fn nonce_of(headers: &HeaderMap) -> Option<String> {
    let nonce = headers.get("replay-nonce")?.to_str().ok()?;
    (nonce.len() <= 512).then(|| nonce.to_owned())
}

/// Whether nobody on the way can read along: HTTPS, or the machine itself.
fn is_private(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => host == "localhost" || address.is_ok_and(|address| address.is_loopback()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Problem;

    fn state() -> State {
        State::default()
    }

    fn with_nonce(nonce: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("replay-nonce", nonce.parse().expect("a value"));
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_nonce_is_used_once_the_newest_first_and_not_when_it_is_old() {
        let mut state = state();
        state.note(Step::Nonce, &with_nonce("a"));
        state.note(Step::Nonce, &with_nonce("b"));
        assert_eq!(state.kept_nonce().as_deref(), Some("b"));
        assert_eq!(state.kept_nonce().as_deref(), Some("a"));
        assert_eq!(state.kept_nonce(), None);
        state.note(Step::Nonce, &with_nonce("c"));
        tokio::time::advance(NONCE_AGE).await;
        assert_eq!(state.kept_nonce(), None);
    }

    #[tokio::test]
    async fn the_nonces_that_are_kept_have_a_bound() {
        let mut state = state();
        for number in 0..100 {
            state.note(Step::Nonce, &with_nonce(&number.to_string()));
        }
        assert_eq!(state.nonces.len(), NONCES);
        assert_eq!(state.kept_nonce().as_deref(), Some("99"));
    }

    #[test]
    fn what_is_no_directory_is_told_with_its_url_and_the_field() {
        let url = "https://ca.example/wrong";
        let said = |cause| elsewhere(Refusal::new(Step::Directory, cause), url).sentence();
        let problem = Problem {
            kind: "malformed".into(),
            detail: "Page not found".into(),
            subproblems: Vec::new(),
        };
        for cause in [
            Cause::Answer(404, "404 page not found".into()),
            Cause::Answer(200, "missing field `newNonce`".into()),
            Cause::Problem(404, problem),
        ] {
            let text = said(cause);
            for part in [url, "field directory of the issuer"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let away = said(Cause::Answer(503, "maintenance".into()));
        assert!(!away.contains("correct"), "{away}");
    }

    #[test]
    fn only_loopback_may_do_without_tls() {
        let observer: Observer = Arc::new(|_| ());
        for (directory, good) in [
            ("https://ca.example/dir", true),
            ("http://127.0.0.1:14000/dir", true),
            ("http://[::1]/dir", true),
            ("http://ca.example/dir", false),
            ("ftp://127.0.0.1/dir", false),
            ("nonsense", false),
        ] {
            let endpoint = Endpoint {
                directory: directory.into(),
                roots: Some(root()),
            };
            let made = Client::new(&endpoint, Arc::clone(&observer));
            assert_eq!(made.is_ok(), good, "{directory}");
        }
    }

    /// Some root certificate, so that the system's do not matter.
    fn root() -> String {
        rcgen::generate_simple_self_signed(["root.example".to_owned()])
            .expect("a certificate")
            .cert
            .pem()
    }
}
