//! Records written by a program of the operator's, called as lego calls one: the action, the name
//! with its final dot, the value.
//!
//! Invariants:
//! - Entries of the secret are variables of the program; a shell may drop those whose name is none of its
//!   own (POSIX, `sh`), so such names are refused.
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

/// Longest run: less than what anybody waits for a provider, so that who was too slow is named.
const DEADLINE: Duration = Duration::from_secs(55);

const SHELL: &str = "/bin/sh";

/// Open files of the program, as Linux and systemd have it for everybody; it may raise that itself.
const FILES: &str = "1024";

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
            let secret = spec.secret.as_deref().unwrap_or_default();
            if !is_variable(name) {
                return Err(format!(
                    "entry {name:?} of secret {secret:?} can be no variable of the program: name it with \
                     letters, digits and \"_\", no digit first"
                ));
            }
            if value.text().is_none_or(|text| text.contains('\0')) {
                return Err(format!(
                    "entry {name:?} of secret {secret:?} can be no variable of the program: it is no text"
                ));
            }
        }
        Ok(Self {
            command: command.to_owned(),
            entries: entries.clone(),
        })
    }

    async fn run(&self, action: &str, record: &TxtRecord) -> Result<(), DnsError> {
        let failed =
            |text: String| DnsError::Temporary(format!("{} {action}: {text}", self.command));
        let not_started =
            |why: &str| DnsError::Configuration(format!("{} does not start: {why}", self.command));
        // Asked before: what a shell ends with then, a program may end with, too.
        can_run(&self.command)
            .await
            .map_err(|why| not_started(&why))?;
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
        Err(failed(format!("{status}: {}", shown(&said, SAID))))
    }
}

/// Whether a shell passes a variable of this name on (POSIX, 3.216 Name).
fn is_variable(name: &str) -> bool {
    let word = |each: char| each == '_' || each.is_ascii_alphanumeric();
    name.chars().all(word) && name.starts_with(|first: char| !first.is_ascii_digit())
}

/// Whether this is a file that somebody may run; the error is what is wrong.
async fn can_run(command: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = command.to_owned();
    // A file system may hang.
    let about = tokio::task::spawn_blocking(move || std::fs::metadata(path)).await;
    let about = about.map_err(|error| error.to_string())?;
    let about = about.map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err("it is not executable: chmod +x it".to_owned());
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::LONGEST_DNS;
    use crate::secrets::Secret;

    fn made(command: &str, entry: &str) -> Result<Exec, String> {
        let spec =
            format!("{{zones: [a.test], provider: exec, command: {command}, secret: credentials}}");
        let spec: SolverSpec = serde_saphyr::from_str(&spec).expect("a specification");
        let entries = Entries::from([(entry.to_owned(), Secret::new("t"))]);
        Exec::new(&spec, &entries)
    }

    #[test]
    fn an_entry_that_a_shell_would_drop_is_refused() {
        for good in ["TOKEN", "_a1", "lower_case"] {
            assert!(made("/bin/true", good).is_ok(), "{good}");
        }
        for bad in ["api-key", "tls.crt", "1st", "", "a=b", "schlüssel"] {
            let why = made("/bin/true", bad).err().expect("refused");
            assert!(
                why.contains(&format!("entry {bad:?} of secret \"credentials\"")),
                "{why}"
            );
        }
    }

    async fn ended(command: &str) -> DnsError {
        let exec = made(command, "TOKEN").expect("a program");
        let record = TxtRecord {
            zone: None,
            fqdn: "_acme-challenge.a.test".into(),
            value: "v".into(),
        };
        let run = timeout(LONGEST_DNS, exec.run("present", &record)).await;
        run.expect("it ends by itself").expect_err("it fails")
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_named() {
        let program = std::env::temp_dir().join(format!("gatehouse-slow-{}", std::process::id()));
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("executable");
        // From here on only time can pass.
        tokio::time::pause();
        let error = ended(&program.to_string_lossy()).await.to_string();
        std::fs::remove_file(&program).expect("removed");
        assert!(error.contains("gatehouse-slow"), "{error}");
        assert!(error.contains("not done within"), "{error}");
    }

    #[tokio::test]
    async fn only_what_cannot_be_started_is_said_not_to_start() {
        let program = std::env::temp_dir().join(format!("gatehouse-exec-{}", std::process::id()));
        let path = program.to_string_lossy().into_owned();
        std::fs::write(&program, "#!/bin/sh\nexit 127\n").expect("a file");
        let error = ended(&path).await;
        assert!(error.to_string().contains("not executable"), "{error}");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("executable");
        let error = ended(&path).await;
        std::fs::remove_file(&program).expect("removed");
        assert!(matches!(error, DnsError::Temporary(_)), "{error:?}");
        assert!(error.to_string().contains("127"), "{error}");
        let error = ended(&path).await;
        assert!(matches!(error, DnsError::Configuration(_)), "{error:?}");
        assert!(error.to_string().contains("does not start"), "{error}");
    }
}
