//! Records written by a program of the operator's, called as lego calls one: the action, the name
//! with its final dot, the value.
//!
//! Invariants:
//! - The program gets no standard input and no longer than [`DEADLINE`]; what it prints is read to a
//!   bound.
//! - Name and value are arguments of their own: neither can be taken for more, also by the shell that
//!   does nothing but lower a limit and become the program.
//! - It runs under the usual limit on open files and not under ours, which is the highest that there
//!   may be: old programs close every descriptor up to it before they begin.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::provider::{Writer, needed};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::http::shown;
use crate::secrets::Entries;

/// Longest run.
const DEADLINE: Duration = Duration::from_secs(120);

const SHELL: &str = "/bin/sh";

/// Open files of the program, as Linux and systemd have it for everybody; it may raise that itself.
const FILES: &str = "1024";

/// What a shell ends with when it cannot run the program, or does not find it (POSIX, `sh`).
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// How much of what it says on standard error is shown.
const SAID: usize = 500;

pub(super) struct Exec {
    command: String,
    entries: Entries,
}

impl Exec {
    pub(super) fn new(spec: &SolverSpec, entries: &Entries) -> Result<Self, String> {
        let command = needed(spec.command.as_ref(), "command")?;
        if !Path::new(command).is_absolute() {
            return Err(format!("command {command:?}: write its whole path"));
        }
        for (name, value) in entries {
            let odd = name.is_empty() || name.contains(['=', '\0']);
            if odd || value.text().is_none_or(|text| text.contains('\0')) {
                return Err(format!("entry {name:?} of the secret can be no variable"));
            }
        }
        Ok(Self {
            command: command.to_owned(),
            entries: entries.clone(),
        })
    }

    async fn run(&self, action: &str, record: &TxtRecord) -> Result<(), DnsError> {
        let variables = self.entries.iter();
        let variables = variables.map(|(name, value)| (name, value.text().unwrap_or_default()));
        let run = program(&self.command)
            .args([action, &format!("{}.", record.fqdn), &record.value])
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let failed =
            |text: String| DnsError::Temporary(format!("{} {action}: {text}", self.command));
        let not_started =
            |why: &str| DnsError::Configuration(format!("{} does not start: {why}", self.command));
        let mut child = run.map_err(|error| not_started(&error.to_string()))?;
        let stderr = child.stderr.take();
        let ended = timeout(DEADLINE, async {
            let said = said(stderr).await;
            (child.wait().await, said)
        });
        let (status, said) = ended
            .await
            .map_err(|_| failed(format!("not done within {} s", DEADLINE.as_secs())))?;
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        if matches!(status.code(), Some(CANNOT_RUN | NOT_FOUND)) {
            return Err(not_started(&shown(&said, SAID)));
        }
        Err(failed(format!("{status}: {}", shown(&said, SAID))))
    }
}

/// Starts a program under a lower limit. Limits are set in a child before it becomes the program, which
/// is `unsafe` for a process with threads, so a shell does it; an image without one has no old programs.
fn program(command: &str) -> Command {
    if !Path::new(SHELL).exists() {
        return Command::new(command);
    }
    let mut shell = Command::new(SHELL);
    // A hard limit below this stays what it is.
    let script = "ulimit -Sn \"$0\" 2>/dev/null; exec \"$@\"";
    shell.args(["-c", script, FILES, command]);
    shell
}

/// Reads standard error to its end, so that the program never waits, and keeps the beginning.
async fn said(stderr: Option<tokio::process::ChildStderr>) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut chunk = [0; 1024];
    while let Ok(count) = stderr.read(&mut chunk).await {
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        if kept.len() < SAID {
            kept.extend_from_slice(read);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

impl Writer for Exec {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.run("present", record))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.run("cleanup", record))
    }
}
