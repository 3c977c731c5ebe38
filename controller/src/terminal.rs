//! What the operator sees on stderr: the ready line and the diagnostics, as they come and go.
//!
//! Invariants: exactly one line begins with `gatehouse ready`, whatever the format; a diagnostic
//! is printed when it appears and once more when it is settled, never in between.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::config::flags::{LogFormat, LogLevel};
use crate::diagnostics::{Diagnostic, Severity};
use crate::engine::Report;

/// Sets the log up for the whole process.
pub(crate) fn log_to_stderr(format: LogFormat, level: LogLevel) {
    // The client of Kubernetes logs each failed attempt, and answers that do not decode with all
    // that is in them, Secrets included. The source says what matters, once.
    let filter = EnvFilter::new(format!("{},kube_client=off", level.level()));
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would be told on stderr that stderr cannot be written, with a panic.
        .log_internal_errors(false)
        .with_env_filter(filter);
    // A second call, in tests, keeps the first.
    match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .ok();
}

/// What the ready line says.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    /// Real addresses by listener.
    pub(crate) listeners: &'a [(Arc<str>, SocketAddr)],
    pub(crate) admin: SocketAddr,
    pub(crate) generation: u64,
    pub(crate) hosts: usize,
    pub(crate) diagnostics: usize,
}

impl Ready<'_> {
    /// Prints the line.
    pub(crate) fn announce(&self) {
        print(&self.line());
    }

    fn line(&self) -> String {
        let mut listeners = String::new();
        for (name, address) in self.listeners {
            // Writing to a String cannot fail.
            write!(listeners, "{name} {address}, ").ok();
        }
        format!(
            "gatehouse ready: {listeners}admin {}, generation {}, {}, {}",
            self.admin,
            self.generation,
            count(self.hosts, "host"),
            count(self.diagnostics, "diagnostic"),
        )
    }
}

/// Prints diagnostics of every report until the engine is gone.
pub(crate) async fn follow(mut reports: watch::Receiver<Arc<Report>>, format: LogFormat) {
    let mut shown = BTreeSet::new();
    loop {
        let report = Arc::clone(&reports.borrow_and_update());
        for line in difference(&mut shown, &report.diagnostics, format) {
            print(&line);
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

/// Lines for what is new and what is gone.
fn difference(
    shown: &mut BTreeSet<Diagnostic>,
    now: &[Diagnostic],
    format: LogFormat,
) -> Vec<String> {
    let now: BTreeSet<Diagnostic> = now.iter().cloned().collect();
    let lines = shown
        .difference(&now)
        .map(|diagnostic| line(diagnostic, true, format))
        .chain(
            now.difference(shown)
                .map(|diagnostic| line(diagnostic, false, format)),
        )
        .collect();
    *shown = now;
    lines
}

fn line(diagnostic: &Diagnostic, settled: bool, format: LogFormat) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        event: &'static str,
        #[serde(flatten)]
        diagnostic: &'a Diagnostic,
    }
    match format {
        LogFormat::Text if settled => format!("settled: {diagnostic}"),
        LogFormat::Text => diagnostic.to_string(),
        LogFormat::Json => {
            let event = if settled { "settled" } else { "diagnostic" };
            serde_json::to_string(&Line { event, diagnostic })
                .unwrap_or_else(|_| diagnostic.to_string())
        }
    }
}

/// `2 errors, 1 warning`, for the end of a check.
pub(crate) fn summary(diagnostics: &[Diagnostic]) -> String {
    let of = |severity: Severity| {
        let found = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity);
        found.count()
    };
    format!(
        "{}, {}, {}",
        count(of(Severity::Error), "error"),
        count(of(Severity::Warning), "warning"),
        count(of(Severity::Info), "note"),
    )
}

fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

fn print(line: &str) {
    // Nobody is left to tell when stderr is closed.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Code;

    fn diagnostic(message: &str) -> Diagnostic {
        Diagnostic {
            object: "Ingress/web/shop".into(),
            field: "spec".into(),
            severity: Severity::Error,
            code: Code::HostInvalid,
            message: message.into(),
            file: None,
        }
    }

    #[test]
    fn a_diagnostic_is_printed_when_it_comes_and_when_it_goes() {
        let mut shown = BTreeSet::new();
        let (one, two) = (diagnostic("one"), diagnostic("two"));
        let first = difference(&mut shown, std::slice::from_ref(&one), LogFormat::Text);
        assert_eq!(first, ["error[HostInvalid] Ingress/web/shop spec: one"]);
        assert!(difference(&mut shown, &[one], LogFormat::Text).is_empty());
        let lines = difference(&mut shown, &[two], LogFormat::Json);
        assert!(
            lines[0].starts_with(r#"{"event":"settled""#),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains(r#""message":"two""#), "{}", lines[1]);
    }

    #[test]
    fn the_ready_line_names_the_real_addresses() {
        let ready = Ready {
            listeners: &[("http".into(), ([127, 0, 0, 1], 8080).into())],
            admin: ([127, 0, 0, 1], 9091).into(),
            generation: 1,
            hosts: 3,
            diagnostics: 1,
        };
        assert_eq!(
            ready.line(),
            "gatehouse ready: http 127.0.0.1:8080, admin 127.0.0.1:9091, generation 1, 3 hosts, 1 diagnostic"
        );
    }
}
