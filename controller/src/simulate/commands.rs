//! The commands `check` and `explain`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use gatehouse_gateway::challenge::Board;
use k8s_openapi::jiff::Timestamp;

use super::{ListenerView, Query, Simulation, fails, load};
use crate::admin::client::Client;
use crate::admin::encode;
use crate::certificates::outlook::Outlook;
use crate::config::IssuerArgs;
use crate::config::flags::{CheckArgs, ExplainArgs, SelectionArgs};
use crate::run::Failure;
use crate::source::directory;
use crate::terminal;

/// Prints everything that is wrong with a directory. Exit status 1 when there is an error.
pub fn check(args: &CheckArgs, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let report = loaded(&args.dir, &args.selection, &args.issuers)?.report;
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
        (Some(_), [_, _]) if args.issuers.acme.is_some() => {
            return Err(Failure::Usage(
                "explain takes no --acme together with --admin: the gateway that is asked has its own issuers; \
                 leave --acme out"
                    .into(),
            ));
        }
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
    let query = query(args, method, url)?;
    let simulation = loaded(Path::new(directory), &args.selection, &args.issuers)?;
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
    let client = Client::new(admin)?;
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
    client.get(&target)
}

fn query(args: &ExplainArgs, method: &str, url: &str) -> Result<Query, Failure> {
    Query::new(method, url, args.header.iter().map(String::as_str)).map_err(Failure::Usage)
}

/// What a directory comes to with these flags, now.
fn loaded(
    directory: &Path,
    selection: &SelectionArgs,
    issuers: &IssuerArgs,
) -> Result<Simulation, Failure> {
    let base = selection.base().map_err(Failure::Usage)?;
    let base = base.managing(issuers.managed());
    existing(directory)?;
    let outlook = Outlook::read(issuers, selection).map_err(Failure::Usage)?;
    Ok(load(directory, &base, outlook.as_ref(), Timestamp::now()))
}

fn existing(path: &Path) -> Result<(), Failure> {
    match directory::unusable(path) {
        None => Ok(()),
        Some(why) => Err(Failure::Usage(format!(
            "invalid value '{}' for DIR: {why}",
            path.display()
        ))),
    }
}
