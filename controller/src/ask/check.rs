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
use gatehouse_acme::probe::speaks_tls;
use http::{Request, header};
use http_body_util::Full;
use serde::Serialize;
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
            says: "a wildcard is proved by dns-01, for which the issuer needs a solver for its zone, or by \
                   dns-persist-01 alone"
                .into(),
        });
        return looks;
    }
    for place in places.into_iter().take(MOST) {
        looks.push(plain(name, SocketAddr::new(place, args.http_port)).await);
        looks.push(secure(name, SocketAddr::new(place, args.https_port)).await);
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
        // Only what an authority would take is good, and of this it would take nothing.
        Ok(Ok((200, _))) => (
            Verdict::Bad,
            format!(
                "{place} answers a challenge for {name} with something else (200): an authority refuses \
                 that; let Gatehouse answer, and let an Ingress ask for a certificate for {name} before \
                 this check (with `http01: published` nothing can be seen from here)"
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

async fn secure(name: &Name, place: SocketAddr) -> Look {
    let (verdict, says) = match timeout(PATIENCE, speaks_tls(place, name)).await {
        Ok(Ok(true)) => (Verdict::Good, format!("{place} speaks TLS")),
        Ok(Ok(false)) => (
            Verdict::Note,
            format!(
                "{place} speaks no TLS: tls-alpn-01 is not possible there; the port of TLS is meant (--https-port)"
            ),
        ),
        Ok(Err(why)) => (
            Verdict::Note,
            format!("{place} takes no connections ({why}): tls-alpn-01 is not possible there"),
        ),
        Err(_) => (
            Verdict::Note,
            format!("{place} does not answer: tls-alpn-01 is not possible there"),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Looks at a server that answers each of two connections with this.
    async fn looked(answer: &'static [u8]) -> (Look, Look) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = listener.local_addr().expect("an address");
        let server = async {
            for _ in 0..2 {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let asked = socket.read(&mut [0; 4096]).await.expect("a request");
                assert_ne!(asked, 0);
                socket.write_all(answer).await.expect("an answer");
            }
        };
        let name = Name::parse("a.example.test").expect("a name");
        let looks = async { (plain(&name, place).await, secure(&name, place).await) };
        tokio::join!(server, looks).1
    }

    #[tokio::test]
    async fn neither_a_foreign_answer_nor_a_port_without_tls_is_good() {
        let page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let (http, tls) = looked(page).await;
        assert_eq!(http.verdict, Verdict::Bad, "{http:?}");
        assert!(http.says.contains("something else"), "{http:?}");
        assert_eq!(tls.verdict, Verdict::Note, "{tls:?}");
        assert!(tls.says.contains("speaks no TLS"), "{tls:?}");
        // A refusal in TLS: unrecognized_name.
        let (_, tls) = looked(&[21, 3, 3, 0, 2, 2, 112]).await;
        assert_eq!(tls.verdict, Verdict::Good, "{tls:?}");
    }
}
