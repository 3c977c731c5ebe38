//! The real `gatehouse` binary as a child process.
//!
//! The binary is named by `GATEHOUSE_BIN`, or built once per run with cargo in the profile of the
//! tests. A child is ended with SIGTERM when its owner is dropped, then with SIGKILL.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

use crate::acme::keys::Keys;
use crate::{raw, wait};

/// Path of the binary, built on first use.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("GATEHOUSE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let release = !cfg!(debug_assertions);
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "gatehouse",
        "--bin",
        "gatehouse",
    ]);
    if release {
        command.arg("--release");
    }
    let status = command
        .current_dir(workspace())
        .status()
        .expect("cargo starts");
    assert!(
        status.success(),
        "cargo build --package gatehouse failed: {status}"
    );
    // The test itself lies in <target>/<profile>/deps.
    let test = std::env::current_exe().expect("path of the test");
    let profile = test.ancestors().nth(2).expect("target folder");
    profile.join("gatehouse")
}

/// Root of the repository.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// Runs the binary to its end. Only `cert export` may write a private key.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(binary());
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("gatehouse starts");
    if !command.get_args().any(|argument| argument == "export") {
        for text in [&output.stdout, &output.stderr] {
            Keys::default().assert_not_in(&format!("{command:?}"), &String::from_utf8_lossy(text));
        }
    }
    output
}

/// Everything a child wrote to one of its streams so far, line by line.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let text = String::from_utf8_lossy(&line).into_owned();
                sink.0.lock().expect("lines").push(text);
            }
            sink.1.store(true, Ordering::Release);
        });
        lines
    }

    /// Whether the stream has ended.
    pub fn complete(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("lines").clone()
    }

    /// The first line that contains `text`.
    pub fn find(&self, text: &str) -> Option<String> {
        self.0
            .lock()
            .expect("lines")
            .iter()
            .find(|line| line.contains(text))
            .cloned()
    }
}

/// Limits on open files.
#[derive(Debug, Clone, Copy)]
pub struct OpenFiles {
    /// The one that holds.
    pub soft: u32,
    /// What a process may raise it to.
    pub hard: u32,
}

/// A child process of the binary.
pub struct Process {
    child: Child,
    /// Standard output: the access log.
    pub stdout: Lines,
    /// Standard error: the log, and the ready line.
    pub stderr: Lines,
    vault: Option<PathBuf>,
}

impl Process {
    /// Starts the binary.
    pub fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_under(&[], arguments)
    }

    /// Starts the binary with these variables beside those of the test.
    pub fn start_under<S: AsRef<OsStr>>(
        variables: &[(&str, &Path)],
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = Command::new(binary());
        Self::spawn(command.args(arguments).envs(variables.iter().copied()))
    }

    /// Starts it under these limits on open files.
    pub fn start_limited(limit: OpenFiles, arguments: &[String]) -> Self {
        let OpenFiles { soft, hard } = limit;
        let script = format!(r#"ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@""#);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "sh"]).arg(binary());
        Self::spawn(command.args(arguments))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gatehouse starts");
        let stdout = Lines::follow(child.stdout.take().expect("stdout"));
        let stderr = Lines::follow(child.stderr.take().expect("stderr"));
        Self {
            child,
            stdout,
            stderr,
            vault: vault(command.get_args()),
        }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line of standard error with `text` in it; panics when the process ends first.
    pub fn line(&mut self, text: &str) -> String {
        let found = wait::within(Duration::from_secs(60), || {
            if let Some(line) = self.stderr.find(text) {
                return Some(Ok(line));
            }
            let status = self.child.try_wait().expect("state of the child")?;
            // The last lines may still be on their way from the reader thread.
            let late = wait::within(Duration::from_secs(1), || self.stderr.find(text));
            Some(late.ok_or(status))
        });
        match found {
            Some(Ok(line)) => line,
            Some(Err(status)) => panic!("gatehouse ended with {status}: {:#?}", self.stderr.all()),
            None => panic!("no line with {text:?} in 60 s: {:#?}", self.stderr.all()),
        }
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.id(), name) || name == "TERM", "kill -{name}");
    }

    /// Exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("state of the child")
    }

    /// Waits for the end.
    pub fn wait_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = wait::within(limit, || self.ended());
        if status.is_some() {
            // What it said last may still be on its way through the pipe.
            wait::within(limit, || self.stderr.complete().then_some(()));
        }
        status
    }
}

/// Sends a signal by name to a process; whether it was there.
pub fn signal(process: u32, name: &str) -> bool {
    // The shell's own kill: there is one on every machine.
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("kill -{name} {process}")])
        .stderr(Stdio::null())
        .status();
    status.expect("sh starts").success()
}

impl Process {
    /// No process of any test may write a private key, of its vault or another, whatever it is about.
    fn assert_silent(&self) {
        let keys = self.vault.as_deref().filter(|vault| vault.is_dir());
        let keys = keys.map(Keys::of).unwrap_or_default();
        for (stream, lines) in [("output", &self.stdout), ("errors", &self.stderr)] {
            keys.assert_not_in(&format!("{stream} of gatehouse"), &lines.all().join("\n"));
        }
    }
}

/// Where a process keeps its certificates.
fn vault<'a>(arguments: impl Iterator<Item = &'a OsStr>) -> Option<PathBuf> {
    let mut arguments = arguments.map(OsStr::to_string_lossy);
    let at = arguments.find(|text| text.starts_with("--certs"))?;
    match at.strip_prefix("--certs=") {
        Some(path) => Some(PathBuf::from(path)),
        None => arguments.next().map(|path| PathBuf::from(&*path)),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal("TERM");
            if self.wait_end(Duration::from_secs(3)).is_none() {
                self.child.kill().ok();
            }
        }
        self.child.wait().ok();
        if !std::thread::panicking() {
            self.assert_silent();
        }
    }
}

/// A running gateway in standalone mode.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// Plain listener.
    pub http: SocketAddr,
    /// TLS listener.
    pub https: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
}

impl Gateway {
    /// Starts on loopback with ports chosen by the kernel, and waits for the ready line. The
    /// drain is short unless `extra` says otherwise, so that tests end soon.
    pub fn start(dir: &Path, extra: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        Self::start_at(dir, [any, any, any], &short_lived(extra))
    }

    /// The same with these variables beside those of the test.
    pub fn start_under(variables: &[(&str, &Path)], dir: &Path, extra: &[&str]) -> Self {
        let arguments = Self::arguments(dir, ["127.0.0.1:0"; 3], &short_lived(extra));
        Self::started(Process::start_under(variables, arguments))
    }

    /// The same under these limits on open files.
    pub fn start_limited(dir: &Path, limit: OpenFiles, extra: &[&str]) -> Self {
        let arguments = Self::arguments(dir, ["127.0.0.1:0"; 3], &short_lived(extra));
        Self::started(Process::start_limited(limit, &arguments))
    }

    /// The same on the objects of an API server, on the given addresses.
    pub fn start_in_cluster(kubeconfig: &Path, listen: [&str; 3], extra: &[&str]) -> Self {
        Self::start_in_cluster_under(&[], kubeconfig, listen, extra)
    }

    /// The same with these variables beside those of the test.
    pub fn start_in_cluster_under(
        variables: &[(&str, &Path)],
        kubeconfig: &Path,
        listen: [&str; 3],
        extra: &[&str],
    ) -> Self {
        let source = ["--kubeconfig".into(), kubeconfig.display().to_string()];
        let arguments = command_line(source, listen, &short_lived(extra));
        Self::started(Process::start_under(variables, arguments))
    }

    /// Starts on the given plain, TLS and admin addresses.
    pub fn start_at(dir: &Path, listen: [&str; 3], extra: &[String]) -> Self {
        Self::start_with(Self::arguments(dir, listen, extra))
    }

    fn start_with(arguments: Vec<String>) -> Self {
        Self::started(Process::start(arguments))
    }

    fn started(mut process: Process) -> Self {
        let line = process.line("gatehouse ready:");
        let address = |name: &str| {
            let (_, rest) = line
                .split_once(&format!("{name} "))
                .expect("listener in the ready line");
            let text = rest.split([',', ' ']).next().unwrap_or(rest);
            text.parse()
                .unwrap_or_else(|_| panic!("address of {name} in {line:?}"))
        };
        let (http, https, admin) = (address(" http"), address(" https"), address(" admin"));
        Self {
            process,
            http,
            https,
            admin,
        }
    }

    /// Command line of `run` on a folder.
    pub fn arguments(dir: &Path, listen: [&str; 3], extra: &[String]) -> Vec<String> {
        let source = ["--dir".into(), dir.display().to_string()];
        command_line(source, listen, extra)
    }

    /// Body of an admin page, with its status.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let answer = raw::get(self.admin, "localhost", path).unwrap_or_default();
        (answer.status, answer.text())
    }

    /// The published generation.
    pub fn generation(&self) -> u64 {
        let (status, body) = self.admin_get("/api/snapshot");
        assert_eq!(status, 200, "/api/snapshot: {body}");
        let value: Value = serde_json::from_str(&body).expect("/api/snapshot is JSON");
        value["generation"]
            .as_u64()
            .expect("generation in /api/snapshot")
    }

    /// Waits until the generation is above `seen`.
    pub fn wait_generation_above(&self, seen: u64) -> u64 {
        wait::until(&format!("the generation is above {seen}"), || {
            Some(self.generation()).filter(|generation| *generation > seen)
        })
    }

    /// `/api/diagnostics` as text.
    pub fn diagnostics(&self) -> String {
        let (status, body) = self.admin_get("/api/diagnostics");
        assert_eq!(status, 200, "/api/diagnostics: {body}");
        body
    }

    /// Waits for a diagnostic whose text contains all of `parts`.
    pub fn wait_diagnostic(&self, parts: &[&str]) -> String {
        let mut last = String::new();
        wait::within(wait::PATIENCE, || {
            last = self.diagnostics();
            let value: Value = serde_json::from_str(&last).expect("/api/diagnostics is JSON");
            let list = value
                .as_array()
                .or_else(|| value["diagnostics"].as_array())?;
            list.iter()
                .map(ToString::to_string)
                .find(|text| parts.iter().all(|part| text.contains(part)))
        })
        .unwrap_or_else(|| panic!("no diagnostic with {parts:?} in {last}"))
    }

    /// Waits until a plain request is answered with this status.
    pub fn wait_status(&self, host: &str, path: &str, status: u16) -> raw::Answer {
        let mut last = 0;
        wait::within(wait::PATIENCE, || {
            let answer = raw::get(self.http, host, path).ok()?;
            last = answer.status;
            (last == status).then_some(answer)
        })
        .unwrap_or_else(|| {
            panic!(
                "http://{host}{path} answers {last} instead of {status}; diagnostics: {}; log: {:#?}",
                self.diagnostics(),
                self.process.stderr.all()
            )
        })
    }
}

fn command_line(source: [String; 2], listen: [&str; 3], extra: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["run".into()];
    arguments.extend(source);
    let flags = ["--http-listen", "--https-listen", "--admin-listen"];
    for (flag, value) in flags.iter().zip(listen) {
        arguments.push((*flag).into());
        arguments.push(value.into());
    }
    arguments.extend(extra.iter().cloned());
    arguments
}

/// Few threads and a short drain, unless these flags say otherwise.
fn short_lived(extra: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["--workers".into(), "2".into()];
    for (flag, value) in [("--drain-delay", "0s"), ("--drain-timeout", "1s")] {
        if !extra.iter().any(|given| given.starts_with(flag)) {
            arguments.push(format!("{flag}={value}"));
        }
    }
    arguments.extend(extra.iter().map(ToString::to_string));
    arguments
}

/// The echo backend of the binary.
pub struct Echo {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts it under this name, on a port chosen by the kernel.
    pub fn start(name: &str) -> Self {
        let mut process = Process::start(["echo", "--listen", "127.0.0.1:0", "--name", name]);
        let line = process.line("gatehouse echo: ready on ");
        let (_, address) = line.split_once("ready on ").expect("address");
        let address = address.split([' ', ',']).next().unwrap_or(address);
        let address = address.trim().parse().expect("address of the echo backend");
        Self { process, address }
    }
}
