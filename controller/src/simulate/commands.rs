//! The commands `check` and `explain`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use gatehouse_gateway::challenge::Board;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ListenerView, Query, fails, load};
use crate::admin::encode;
use crate::config::flags::{CheckArgs, ExplainArgs};
use crate::run::Failure;
use crate::source::directory;
use crate::terminal;

/// Prints everything that is wrong with a directory. Exit status 1 when there is an error.
pub fn check(args: &CheckArgs, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let base = args.selection.base().map_err(Failure::Usage)?;
    existing(&args.dir)?;
    let report = load(&args.dir, &base, Timestamp::now()).report;
    let text = if args.json {
        serde_json::to_string_pretty(&report.diagnostics)
            .map_err(|error| Failure::System(error.to_string()))?
    } else {
        let lines = report.diagnostics.iter().map(ToString::to_string);
        lines
            .chain([terminal::summary(&report.diagnostics)])
            .collect::<Vec<_>>()
            .join("\n")
    };
    Failure::unless_written(output, &text)?;
    Ok(if fails(&report.diagnostics, args.strict) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints which way a request goes.
pub fn explain(args: &ExplainArgs, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let text = match (&args.admin, args.request.as_slice()) {
        (None, [directory, method, url]) => here(args, directory, method, url)?,
        (Some(admin), [method, url]) => there(args, admin, method, url)?,
        (None, _) => {
            return Err(Failure::Usage(
                "explain needs DIR METHOD URL, or --admin URL METHOD URL; \
                 for example `gatehouse explain manifests GET http://shop.example/cart`"
                    .into(),
            ));
        }
        (Some(_), _) => {
            return Err(Failure::Usage(
                "explain takes no DIR together with --admin; give METHOD and URL alone".into(),
            ));
        }
    };
    Failure::unless_written(output, &text)?;
    Ok(ExitCode::SUCCESS)
}

fn here(args: &ExplainArgs, directory: &str, method: &str, url: &str) -> Result<String, Failure> {
    let base = args.selection.base().map_err(Failure::Usage)?;
    let directory = std::path::Path::new(directory);
    existing(directory)?;
    let query = query(args, method, url)?;
    let simulation = load(directory, &base, Timestamp::now());
    let explanation = super::explain(
        &simulation.snapshot,
        &Board::default(),
        &ListenerView::unbound(),
        &simulation.report.diagnostics,
        &query,
    )
    .map_err(Failure::System)?;
    if args.json {
        serde_json::to_string_pretty(&explanation)
            .map_err(|error| Failure::System(error.to_string()))
    } else {
        Ok(explanation.to_string())
    }
}

/// Asks a running gateway.
fn there(args: &ExplainArgs, admin: &str, method: &str, url: &str) -> Result<String, Failure> {
    // Checked here, so that mistakes are told without asking anybody.
    query(args, method, url)?;
    let bad = || {
        Failure::Usage(format!(
            "invalid value '{admin}' for '--admin <URL>': write for example http://127.0.0.1:9091"
        ))
    };
    let base = if admin.contains("://") {
        admin.to_owned()
    } else {
        format!("http://{admin}")
    };
    let base: Uri = base.parse().map_err(|_| bad())?;
    let authority = base.authority().ok_or_else(bad)?;
    if base.scheme_str() != Some("http") {
        return Err(bad());
    }
    let mut target = format!(
        "/api/explain?format={}&method={}&url={}",
        if args.json { "json" } else { "text" },
        encode(method),
        encode(url)
    );
    for field in &args.header {
        target.push_str("&header=");
        target.push_str(&encode(field));
    }
    let address = match authority.port_u16() {
        Some(_) => authority.as_str().to_owned(),
        None => format!("{authority}:80"),
    };
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System(error.to_string()))?
        .block_on(async { timeout(PATIENCE, get(&address, &target)).await });
    match answer {
        Ok(Ok((true, body))) => Ok(body),
        Ok(Ok((false, body))) => Err(Failure::System(body.trim_end().to_owned())),
        Ok(Err(message)) => Err(Failure::System(format!(
            "the gateway at {address} (--admin) cannot be asked: {message}; start it, or name the address that its ready line gives for admin"
        ))),
        Err(_) => Err(Failure::System(format!(
            "the gateway at {address} (--admin) does not answer; name the address that its ready line gives for admin"
        ))),
    }
}

/// Whether the answer is a success, and its body.
async fn get(address: &str, target: &str) -> Result<(bool, String), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get(target)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let success = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok((success, String::from_utf8_lossy(&body).into_owned()))
    };
    let driven = async {
        // The exchange sees the end of the connection, too.
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driven => never,
    }
}

fn query(args: &ExplainArgs, method: &str, url: &str) -> Result<Query, Failure> {
    Query::new(method, url, args.header.iter().map(String::as_str)).map_err(Failure::Usage)
}

fn existing(path: &std::path::Path) -> Result<(), Failure> {
    match directory::unusable(path) {
        None => Ok(()),
        Some(why) => Err(Failure::Usage(format!(
            "invalid value '{}' for DIR: {why}",
            path.display()
        ))),
    }
}

/// How long to wait for the answer of a gateway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest answer.
const MAX_ANSWER: usize = 16 << 20;
