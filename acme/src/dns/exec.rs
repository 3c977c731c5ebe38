//! Records written by a program of the operator's, called as lego calls one: the action, the name
//! with its final dot, the value.
//!
//! Invariants:
//! - The program gets no shell, no standard input and no longer than [`DEADLINE`]; what it prints is
//!   read to a bound.
//! - Name and value are arguments of their own: neither can be taken for more.

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
        let run = Command::new(&self.command)
            .args([action, &format!("{}.", record.fqdn), &record.value])
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let failed =
            |text: String| DnsError::Temporary(format!("{} {action}: {text}", self.command));
        let mut child = run.map_err(|error| {
            DnsError::Configuration(format!("{} does not start: {error}", self.command))
        })?;
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
        Err(failed(format!("{status}: {}", shown(&said, SAID))))
    }
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
