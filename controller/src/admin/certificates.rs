//! Certificates on the admin server: pages, and commands.
//!
//! A command changes something, so it is taken only from this machine and from no web page: the
//! connection comes from loopback, the name asked for is one that nobody else can own, there is no
//! `Origin`, and the body is declared as JSON, which a page of another origin may not send unasked.
//!
//! Invariants: a body is bounded in size and time; an answer is a sentence.

use gatehouse_acme::keeper::Command;
use gatehouse_acme::plan::Target;
use gatehouse_acme::secrets::Secret;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use std::time::Duration;

use super::api::Page;
use super::host;
use crate::certificates::counter::{CLOSED, Counter};

/// A page about certificates or accounts; `None` if the path is none.
pub(super) fn page(counter: &Counter, path: &str) -> Option<Page> {
    if path == "/api/accounts" {
        return Some(match counter.accounts() {
            Ok(accounts) => Page::json(&accounts),
            // They exist, and nobody has read them yet.
            Err(why) if counter.is_open() => {
                Page::text(StatusCode::SERVICE_UNAVAILABLE, why + "\n")
            }
            Err(why) => Page::text(StatusCode::NOT_FOUND, why + "\n"),
        });
    }
    let rest = path.strip_prefix("/api/certificates")?;
    let missing = |text: String| Page::text(StatusCode::NOT_FOUND, text);
    if !counter.is_open() {
        return Some(missing(format!("{CLOSED}\n")));
    }
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    Some(match parts.as_slice() {
        [] | [""] => Page::json(&counter.views().unwrap_or_default()),
        [namespace, secret] => match counter.view(&target(namespace, secret)) {
            Some(view) => Page::json(&view),
            None => missing(absent(namespace, secret)),
        },
        [namespace, secret, "chain"] => match counter.chain(&target(namespace, secret)) {
            Some(chain) => Page {
                status: StatusCode::OK,
                content_type: "application/pem-certificate-chain",
                body: chain,
            },
            None if counter.view(&target(namespace, secret)).is_none() => {
                missing(absent(namespace, secret))
            }
            None => missing(format!(
                "nothing is issued yet for {namespace}/{secret}: `gatehouse cert show {namespace}/{secret}` \
                 says why\n"
            )),
        },
        _ => return None,
    })
}

fn absent(namespace: &str, secret: &str) -> String {
    format!(
        "there is no certificate {namespace}/{secret}: `gatehouse cert list` names those that are\n"
    )
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Renew(Target),
    Retry(Target),
    Revoke(Target),
    Import(Target),
    Rotate(String),
}

impl Errand {
    /// The errand of a path.
    pub(super) fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        Some(match parts.as_slice() {
            ["api", "certificates", namespace, secret, verb] => {
                let target = target(namespace, secret);
                match *verb {
                    "renew" => Self::Renew(target),
                    "retry" => Self::Retry(target),
                    "revoke" => Self::Revoke(target),
                    "import" => Self::Import(target),
                    _ => return None,
                }
            }
            ["api", "accounts", issuer, "rotate"] => Self::Rotate((*issuer).to_owned()),
            _ => return None,
        })
    }
}

/// Runs an errand. `here`: the connection comes from this machine.
pub(super) async fn run(
    counter: &Counter,
    errand: Errand,
    request: Request<Incoming>,
    here: bool,
) -> Page {
    if let Some(refused) = refused(&request, here) {
        return refused;
    }
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let body = match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let text = format!("the body is longer than {LARGEST} bytes, or was cut\n");
            return Page::text(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        Err(_) => return Page::text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    };
    let about = match errand {
        Errand::Rotate(_) => "account",
        _ => "certificate",
    };
    let doing = async {
        let (target, command) = match errand {
            Errand::Rotate(issuer) => {
                let Nothing {} = parsed(&body)?;
                return Ok(counter.rotate(issuer).await);
            }
            Errand::Renew(target) => {
                let Renew { force } = parsed(&body)?;
                (target, Command::Renew { force })
            }
            Errand::Retry(target) => {
                let Nothing {} = parsed(&body)?;
                (target, Command::Retry)
            }
            Errand::Revoke(target) => {
                let Revoke { reason } = parsed(&body)?;
                if !REASONS.contains(&reason) {
                    return Err(format!("reason {reason} is none of {REASONS:?} (RFC 5280)"));
                }
                (target, Command::Revoke { reason })
            }
            Errand::Import(target) => {
                let Import { chain, key } = parsed(&body)?;
                let key = Secret::new(key);
                (target, Command::Import { chain, key })
            }
        };
        Ok(counter.command(target, command).await)
    };
    match timeout(ANSWER, doing).await {
        Ok(Ok(Ok(said))) => Page::json(&Said { said }),
        Ok(Ok(Err(why))) => Page::text(StatusCode::CONFLICT, why + "\n"),
        Ok(Err(why)) => Page::text(StatusCode::BAD_REQUEST, why + "\n"),
        Err(_) => late(about),
    }
}

fn refused(request: &Request<Incoming>, here: bool) -> Option<Page> {
    let (uri, headers) = (request.uri(), request.headers());
    if !host::is_ours(uri, headers) {
        return Some(Page::text(StatusCode::MISDIRECTED_REQUEST, host::REMEDY));
    }
    if !here {
        let text = "commands are taken from the machine itself only: run `gatehouse cert` there, in a \
                    cluster with `kubectl exec`\n";
        return Some(Page::text(StatusCode::FORBIDDEN, text));
    }
    if let Some(name) = host::behind_a_proxy(headers) {
        let text = format!(
            "a proxy has passed this on, as the field {name} tells, and commands are taken from the \
             machine itself only: use `gatehouse cert` there\n"
        );
        return Some(Page::text(StatusCode::FORBIDDEN, text));
    }
    if headers.contains_key(ORIGIN) {
        let text = "commands are taken from no web page: use `gatehouse cert`\n";
        return Some(Page::text(StatusCode::FORBIDDEN, text));
    }
    if !is_json(headers) {
        let text = "the body of a command is JSON: say `content-type: application/json`\n";
        return Some(Page::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    None
}

fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    declared.is_some_and(|value| {
        let kind = value.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        // The words of the parser may quote the body, and that may hold a key.
        let (line, column) = (error.line(), error.column());
        format!("the body is not what this command takes: line {line}, column {column}")
    })
}

fn target(namespace: &str, secret: &str) -> Target {
    Target {
        namespace: namespace.to_owned(),
        secret: secret.to_owned(),
    }
}

fn late(about: &str) -> Page {
    let text = format!("no answer yet: it is still being worked on, look at the {about}\n");
    Page::text(StatusCode::GATEWAY_TIMEOUT, text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(default)]
    reason: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    chain: String,
    key: String,
}

/// The answer to a command.
#[derive(Serialize, Deserialize)]
pub(crate) struct Said {
    /// A sentence.
    pub(crate) said: String,
}

/// Reasons that an owner can give (RFC 5280, section 5.3.1).
const REASONS: [u8; 5] = [0, 1, 3, 4, 5];

/// Largest body: a chain and a key.
const LARGEST: usize = 256 << 10;

/// For a body.
const PATIENCE: Duration = Duration::from_secs(10);

/// For an answer: a revocation asks the authority.
const ANSWER: Duration = Duration::from_secs(60);
