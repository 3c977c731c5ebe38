//! Certificate authorities that check hosts: their requests (HTTP-01) and what is told of their
//! handshakes (TLS-ALPN-01).

use http::{HeaderValue, request};

use super::connection::{Connection, TlsFacts};
use super::handshake::Ended;
use super::record;
use super::wire::canonical_host;
use super::worker::Worker;
use crate::challenge::{self, Verdict};
use crate::error::Reason;
use crate::metrics::ChallengeAnswer;

/// What a certificate authority wants to read; `None` when the request goes the way of all others.
pub(super) fn answer(
    worker: &Worker,
    connection: &Connection,
    head: &request::Parts,
    host: &HeaderValue,
) -> Option<String> {
    let token = challenge::token(&head.method, head.uri.path())?;
    let host = canonical_host(host.as_bytes())?.canonical;
    let server = connection.listener.server;
    let board = worker.challenges.load();
    let verdict = worker.with_snapshot(|snapshot| board.http(snapshot, server, &host, token));
    worker.metrics.count_challenge(verdict.counted());
    match verdict {
        Verdict::Answer(text) => Some(text),
        Verdict::Route | Verdict::Unknown => None,
    }
}

/// Accounts for a handshake after which there is nothing to serve.
pub(super) fn ended(worker: &Worker, mut connection: Connection, ended: Ended) {
    let metrics = &worker.metrics;
    let sni = match ended {
        Ended::Validated(sni) => sni,
        Ended::NotValidated => {
            metrics.plain.tls_handshake_failures.inc();
            return metrics.count_challenge(ChallengeAnswer::TlsUnknown);
        }
        Ended::Failed => {
            metrics.plain.tls_handshake_failures.inc();
            return;
        }
    };
    metrics.count_challenge(ChallengeAnswer::TlsAnswered);
    let name = sni.as_deref().map(HeaderValue::from_str);
    let name = name.and_then(Result::ok);
    connection.tls = Some(TlsFacts { sni });
    record::without_request(worker, &connection, Reason::AcmeChallenge, name.as_ref());
}
