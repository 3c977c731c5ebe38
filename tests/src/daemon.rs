//! A server as a child process: its log in a file, signals, and a certain end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{gateway, wait};

/// A tool that `scripts/test-setup` built for this part; `variable` may name another folder.
pub(crate) fn tool(part: &str, variable: &str, name: &str) -> PathBuf {
    let folder = std::env::var_os(variable).map_or_else(
        || gateway::workspace().join("target/tools").join(part),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run scripts/test-setup {part}, which builds it once",
        path.display()
    );
    path
}

/// A running server. Ended with SIGKILL when dropped: nothing in it is worth an orderly end.
pub(crate) struct Daemon {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it; `log` takes both of its streams, runs after the first are appended.
    pub(crate) fn start(program: PathBuf, log: &Path, arguments: Vec<String>) -> Self {
        Self::start_with(program, log, arguments, Vec::new())
    }

    /// The same with more variables in its environment.
    pub(crate) fn start_with(
        program: PathBuf,
        log: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Self {
        let mut daemon = Self {
            program,
            arguments,
            environment,
            log: log.to_owned(),
            child: None,
        };
        daemon.restart();
        daemon
    }

    /// Starts it again with the same command line; the old process must be gone.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name());
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("log of a server");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log of a server"))
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{} starts: {error}", self.name())));
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().map(Child::id);
        let id = id.unwrap_or_else(|| panic!("{} runs", self.name()));
        let status = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .status()
            .expect("sh starts");
        assert!(status.success(), "kill -{name} of {}", self.name());
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Waits until `ready`; panics with the end of the log when the process ends before, or never.
    pub(crate) fn wait_ready(&mut self, ready: impl Fn() -> bool) {
        let found = wait::within(6 * wait::PATIENCE, || {
            if ready() {
                return Some(true);
            }
            let child = self.child.as_mut().expect("a running server");
            let ended = child.try_wait().expect("state of a server").is_some();
            ended.then_some(false)
        });
        if found != Some(true) {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            panic!("{} does not get ready; its log ends:\n{tail}", self.name());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
