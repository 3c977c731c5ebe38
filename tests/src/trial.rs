//! What a document tells a person to type, typed: in a shell, in terminals beside it, in a folder that looks
//! like a clone of the repository after `make run`.
//!
//! Invariants: runs only in a network namespace, because ports are those of the document; whatever was
//! started is ended when its owner is dropped, and has printed no private key.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tokio::time::Instant;

use crate::acme::keys::Keys;
use crate::documents::{commands, without_chance};
use crate::manifests::Scratch;
use crate::{gateway, namespace, wait};

/// A person at work.
pub struct Trial {
    terminals: Vec<Terminal>,
    shell: Shell,
    scratch: Scratch,
}

/// A command that goes on, and what it prints.
struct Terminal {
    child: Child,
    log: String,
}

/// One shell: what was set in it stays set.
struct Shell {
    child: Child,
    input: ChildStdin,
    /// Lines that it prints; it ends with the shell.
    output: Receiver<String>,
}

impl Default for Trial {
    fn default() -> Self {
        Self::new()
    }
}

impl Trial {
    /// In a fresh clone, so to say.
    pub fn new() -> Self {
        assert!(namespace::inside(), "ports of documents are fixed ones");
        let scratch = Scratch::new();
        let link = |from, to: &str| {
            symlink(from, scratch.file(to)).unwrap_or_else(|error| panic!("{to}: {error}"));
        };
        let workspace = gateway::workspace();
        for folder in ["docs", "examples", "scripts", "tests"] {
            link(workspace.join(folder), folder);
        }
        std::fs::create_dir_all(scratch.file("target/release")).expect("a folder");
        link(workspace.join("target/tools"), "target/tools");
        let binary = std::path::absolute(gateway::binary()).expect("path of the binary");
        link(binary, "target/release/gatehouse");
        Self {
            terminals: Vec::new(),
            shell: Shell::start(&scratch),
            scratch,
        }
    }

    /// Runs a block to its end, which has to be a good one.
    pub fn run(&mut self, block: &str) {
        let (status, said) = self.shell.run(block);
        assert_eq!(status, "0", "{block}\n{said}\n{}", self.logs());
    }

    /// Runs each command of a block in a terminal of its own.
    pub fn open(&mut self, block: &str) {
        for command in commands(block) {
            let log = format!("terminal-{}.log", self.terminals.len());
            let file = File::create(self.scratch.file(&log)).expect("a log");
            let child = Command::new("bash")
                .args(["-c", &format!("exec {command}")])
                .current_dir(self.scratch.path())
                .stdin(Stdio::null())
                .stdout(file.try_clone().expect("a log"))
                .stderr(file)
                .spawn()
                .expect("bash starts");
            self.terminals.push(Terminal { child, log });
        }
    }

    /// Runs what stands behind each `$ ` of a block, until it prints what stands below.
    pub fn answers(&mut self, block: &str) {
        self.answers_as(block, &|said| said.to_owned());
    }

    /// The same where what is printed has moments and random numbers in it.
    pub fn answers_alike(&mut self, block: &str) {
        self.answers_as(block, &without_chance);
    }

    fn answers_as(&mut self, block: &str, read: &dyn Fn(&str) -> String) {
        let block = format!("\n{block}").replace("\\\n", " ");
        let mut parts = block.split("\n$ ");
        assert_eq!(parts.next(), Some(""), "a block begins with a command");
        for part in parts {
            let (command, expected) = part.split_once('\n').unwrap_or((part, ""));
            let mut last = String::new();
            let found = wait::within(LONGEST, || {
                let (status, said) = self.shell.run(command);
                last = format!("{status}: {said}");
                (status == "0" && read(said.trim_end()) == read(expected.trim_end())).then_some(())
            });
            assert!(
                found.is_some(),
                "{command}\nsays {last}\nand should say {expected}\n{}",
                self.logs()
            );
        }
    }

    /// Waits until a terminal shows this.
    pub fn wait_shown(&self, text: &str) {
        let shown = wait::within(LONGEST, || self.logs().contains(text).then_some(()));
        assert!(shown.is_some(), "nobody says {text:?}:\n{}", self.logs());
    }

    /// Everything that the terminals show.
    fn logs(&self) -> String {
        let logs = self.terminals.iter().map(|terminal| {
            let text = std::fs::read_to_string(self.scratch.file(&terminal.log));
            format!("{}:\n{}\n", terminal.log, text.unwrap_or_default())
        });
        logs.collect()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        for terminal in self.terminals.iter_mut().rev() {
            gateway::signal(terminal.child.id(), "TERM");
            let ended = wait::within(Duration::from_secs(5), || {
                terminal.child.try_wait().ok().flatten()
            });
            if ended.is_none() {
                terminal.child.kill().ok();
                terminal.child.wait().ok();
            }
        }
        if !std::thread::panicking() {
            Keys::default().assert_not_in("a terminal", &self.logs());
        }
    }
}

impl Shell {
    fn start(scratch: &Scratch) -> Self {
        let mut child = Command::new("bash")
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(scratch.file("shell.log")).expect("a log"))
            .spawn()
            .expect("bash starts");
        let input = child.stdin.take().expect("its input");
        let lines = BufReader::new(child.stdout.take().expect("its output")).split(b'\n');
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .ok();
            }
        });
        Self {
            child,
            input,
            output,
        }
    }

    /// Runs lines; the status of the last one that failed, and what they printed.
    fn run(&mut self, lines: &str) -> (String, String) {
        // Quoted as a whole, so that the shell stays whatever happens in it; `eval` keeps what is set.
        let quoted = lines.replace('\'', "'\\''");
        let text = format!(
            "failed=0; trap 'failed=$?' ERR\neval '{quoted}' 2>&1 </dev/null\n\
             trap - ERR; printf '\\n{MARK} %s\\n' $failed\n"
        );
        self.input.write_all(text.as_bytes()).expect("bash reads");
        let mut said = String::new();
        let end = Instant::now() + LONGEST;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left);
            let line = line.unwrap_or_else(|why| panic!("{lines}\n{why}: {said}"));
            if let Some(status) = line.strip_prefix(MARK) {
                said.truncate(said.len().saturating_sub(1));
                return (status.trim().to_owned(), said);
            }
            said.push_str(&line);
            said.push('\n');
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Ends what a command has printed.
const MARK: &str = "--the-end-of-it--";

/// Longer than a document lets a person wait, on a machine that does other things.
const LONGEST: Duration = Duration::from_secs(120);
