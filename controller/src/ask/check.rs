//! `cert check`: could an authority issue for a host? Looked at from here, without an order.
//!
//! Invariants: nothing is changed anywhere; every look has a deadline; what others answer is bounded
//! and printed without a hold on the terminal.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use gatehouse_acme::dns::look::{Caa, addresses, caa};
use gatehouse_acme::dns::resolvers_of;
use gatehouse_acme::names::Name;
use http::{Request, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::written;
use crate::admin::client::exchange;
use crate::config::people::{CheckHostArgs, OutputFormat};
use crate::diagnostics::Printable;
use crate::run::Failure;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Look {
    about: &'static str,
    verdict: Verdict,
    says: String,
}

/// What it means for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// Worth knowing, or not to be told from here.
    Note,
    Bad,
}

/// Runs the command.
pub(super) fn check(args: &CheckHostArgs, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let name = Name::parse(&args.host)
        .map_err(|error| Failure::Usage(format!("invalid value for HOST: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System(error.to_string()))?;
    let looks = runtime.block_on(looks(&name, args));
    let text = match args.output.output {
        OutputFormat::Json => written(&looks)?,
        OutputFormat::Text => {
            let line = |look: &Look| {
                let verdict = match look.verdict {
                    Verdict::Good => "good",
                    Verdict::Note => "note",
                    Verdict::Bad => "bad ",
                };
                format!("{verdict}  {}: {}", look.about, Printable(&look.says))
            };
            looks.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    };
    Failure::unless_written(output, &text)?;
    let bad = looks.iter().any(|look| look.verdict == Verdict::Bad);
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn looks(name: &Name, args: &CheckHostArgs) -> Vec<Look> {
    let mut looks = Vec::new();
    let servers = if args.resolver.is_empty() {
        let system = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        resolvers_of(&system)
    } else {
        args.resolver.clone()
    };
    let places = match name.base() {
        Some(host) => {
            let found = addresses(&servers, host).await;
            looks.push(resolved(host, name, &found));
            looks.push(allowed(name, args, caa(&servers, host).await));
            found.unwrap_or_default()
        }
        None => match name {
            Name::Ip(address) => vec![*address],
            Name::Dns(_) => Vec::new(),
        },
    };
    if name.is_wildcard() {
        looks.push(Look {
            about: "challenge",
            verdict: Verdict::Note,
            says: "a wildcard is proved by dns-01 alone: the issuer needs a solver for its zone"
                .into(),
        });
        return looks;
    }
    for place in places.into_iter().take(MOST) {
        looks.push(plain(name, SocketAddr::new(place, args.http_port)).await);
        looks.push(secure(SocketAddr::new(place, args.https_port)).await);
    }
    looks
}

fn resolved(host: &str, name: &Name, found: &Result<Vec<IpAddr>, String>) -> Look {
    let (verdict, says) = match found {
        Ok(list) if !list.is_empty() => {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            (
                Verdict::Good,
                format!("{host} leads to {}", list.join(", ")),
            )
        }
        Ok(_) if name.is_wildcard() => (Verdict::Note, format!("{host} has no address itself")),
        Ok(_) => {
            let says = format!(
                "{host} has no address: an authority cannot come here, add an A or AAAA record"
            );
            (Verdict::Bad, says)
        }
        Err(why) => (Verdict::Bad, why.clone()),
    };
    Look {
        about: "address",
        verdict,
        says,
    }
}

fn allowed(name: &Name, args: &CheckHostArgs, found: Result<Option<Caa>, String>) -> Look {
    let (verdict, says) = match found {
        Err(why) => (
            Verdict::Bad,
            format!("CAA records cannot be read, and an authority issues nothing then: {why}"),
        ),
        Ok(None) => (
            Verdict::Good,
            format!("no CAA record of {name}: any authority may issue"),
        ),
        Ok(Some(caa)) => match caa.may(name) {
            None => (
                Verdict::Good,
                format!("the CAA records at {} restrict nobody", caa.at),
            ),
            Some(list) => {
                let who = if list.is_empty() {
                    "nobody".to_owned()
                } else {
                    list.join(", ")
                };
                let says = format!("by the CAA records at {}, {who} may issue", caa.at);
                match &args.authority {
                    _ if list.is_empty() => (Verdict::Bad, says),
                    None => (Verdict::Note, says),
                    Some(own) if list.iter().any(|other| other.eq_ignore_ascii_case(own)) => {
                        (Verdict::Good, says)
                    }
                    Some(own) => (Verdict::Bad, format!("{says}, and {own} may not")),
                }
            }
        },
    };
    Look {
        about: "caa",
        verdict,
        says,
    }
}

/// Asks for a token that nobody published, as an authority would for one.
async fn plain(name: &Name, place: SocketAddr) -> Look {
    let asked = timeout(PATIENCE, ask(name, place)).await;
    let (verdict, says) = match asked {
        Err(_) => (
            Verdict::Bad,
            format!("{place} does not answer within {} s", PATIENCE.as_secs()),
        ),
        Ok(Err(why)) => (Verdict::Bad, format!("{place} cannot be asked: {why}")),
        Ok(Ok((200, body))) if body.starts_with(&format!("{TOKEN}.")) => (
            Verdict::Good,
            format!("{place} answers challenges for {name}"),
        ),
        Ok(Ok((status @ (301 | 302 | 303 | 307 | 308), _))) => (
            Verdict::Note,
            format!(
                "{place} redirects challenges for {name} ({status}): something in front of Gatehouse \
                 answers, and the authority follows"
            ),
        ),
        Ok(Ok((status, _))) => (
            Verdict::Note,
            format!(
                "{place} answers a challenge for {name} with {status}: it is not Gatehouse, or nothing \
                 asks it for a certificate for {name} yet, or it answers published tokens only"
            ),
        ),
    };
    Look {
        about: "http-01",
        verdict,
        says,
    }
}

async fn ask(name: &Name, place: SocketAddr) -> Result<(u16, String), String> {
    let request = Request::get(format!("/.well-known/acme-challenge/{TOKEN}"))
        .header(header::HOST, name.to_string())
        .header(
            header::USER_AGENT,
            concat!("gatehouse/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let (status, body) = exchange(place, request, LARGEST).await?;
    Ok((status.as_u16(), body))
}

async fn secure(place: SocketAddr) -> Look {
    let (verdict, says) = match timeout(PATIENCE, TcpStream::connect(place)).await {
        Ok(Ok(_)) => (Verdict::Good, format!("{place} takes connections")),
        Ok(Err(why)) => (
            Verdict::Note,
            format!("{place} takes no connections ({why}): tls-alpn-01 is not possible there"),
        ),
        Err(_) => (
            Verdict::Note,
            format!("{place} takes no connections: tls-alpn-01 is not possible there"),
        ),
    };
    Look {
        about: "tls-alpn-01",
        verdict,
        says,
    }
}

/// A token like those of authorities, which nobody publishes.
const TOKEN: &str = "gatehouse-cert-check-0000000000000000";

/// For one look.
const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses that are looked at.
const MOST: usize = 8;

/// Of an answer.
const LARGEST: usize = 1 << 20;
