//! `kubectl`, as users run it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::tool;

/// Calls of `kubectl` with one kubeconfig.
#[derive(Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    pub(super) fn new(kubeconfig: PathBuf, cache: PathBuf) -> Self {
        Self { kubeconfig, cache }
    }

    /// The same as somebody else.
    pub fn with(&self, kubeconfig: PathBuf) -> Self {
        Self::new(kubeconfig, self.cache.clone())
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with(arguments, "")
    }

    /// Runs it with this on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Finished {
        let mut command = Command::new(tool("kubectl"));
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--cache-dir={}", self.cache.display()))
            .args(arguments);
        let shown = format!("kubectl {}", arguments.join(" "));
        Finished::of(command, shown, input)
    }

    /// Applies manifests, server-side.
    pub fn apply(&self, manifests: &str) {
        let flags = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let finished = self.run_with(&flags, manifests);
        assert!(finished.ok(), "{}\n{manifests}", finished.text());
    }

    /// Applies manifests into a namespace unless they name one themselves.
    pub fn apply_in(&self, namespace: &str, manifests: &str) {
        let flags = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let finished = self.run_with(&[&["-n", namespace], &flags[..]].concat(), manifests);
        assert!(finished.ok(), "{}\n{manifests}", finished.text());
    }

    /// Deletes an object, such as `ingress/shop`; it must exist.
    pub fn delete(&self, namespace: &str, object: &str) {
        self.run(&["-n", namespace, "delete", object, "--wait=false"])
            .success();
    }

    /// An object or a list of them as JSON.
    pub fn get(&self, namespace: &str, object: &str) -> Value {
        let text = self
            .run(&["-n", namespace, "get", object, "-o", "json"])
            .success();
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Merges JSON into an object.
    pub fn patch(&self, namespace: &str, object: &str, patch: &Value) {
        let patch = patch.to_string();
        self.run(&[
            "-n",
            namespace,
            "patch",
            object,
            "--type=merge",
            "-p",
            &patch,
        ])
        .success();
    }

    /// Merges JSON into the `status` subresource of an object.
    pub fn patch_status(&self, namespace: &str, object: &str, patch: &Value) {
        let patch = patch.to_string();
        let part = "--subresource=status";
        let flags = ["-n", namespace, "patch", object, "--type=merge", part, "-p"];
        self.run(&[&flags[..], &[&patch]].concat()).success();
    }
}

/// A call that has ended.
pub struct Finished {
    command: String,
    output: Output,
}

impl Finished {
    /// Runs a command to its end, with this on its standard input.
    pub(super) fn of(mut command: Command, shown: String, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown} starts: {error}"));
        let mut stdin = child.stdin.take().expect("stdin");
        // It reads all of it before it writes anything. What it does not want it leaves unread.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let output = child.wait_with_output();
        let output = output.unwrap_or_else(|error| panic!("{shown} ends: {error}"));
        Self {
            command: shown,
            output,
        }
    }

    /// Whether it was successful.
    pub fn ok(&self) -> bool {
        self.output.status.success()
    }

    /// Standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard output; panics with what it said when it failed.
    pub fn success(&self) -> String {
        assert!(self.ok(), "{}", self.text());
        self.stdout()
    }

    /// The command and everything it said.
    pub fn text(&self) -> String {
        let error = String::from_utf8_lossy(&self.output.stderr);
        format!(
            "{}: {}\n{error}{}",
            self.command,
            self.output.status,
            self.stdout()
        )
    }
}
