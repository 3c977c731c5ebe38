//! Tests that share one API server: it costs seconds and hundreds of megabytes to start.
//!
//! The first test that comes runs the whole test binary again, with the same filters, in a user,
//! network and process namespace. There, all tests are threads beside one API server; outside,
//! each test tells what became of it inside. When that process ends, however it ends, the kernel
//! ends whatever it started.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::ApiServer;
use crate::manifests::Scratch;
use crate::{gateway, namespace};

/// Runs the body of a test beside the API server that all tests of the binary share.
pub fn shared<F: FnOnce(&ApiServer)>(test: F) {
    place(&name::<F>(), || {
        static SERVER: OnceLock<ApiServer> = OnceLock::new();
        test(SERVER.get_or_init(ApiServer::start));
    });
}

/// Runs the body of a test in the same place without the shared server: for tests that break
/// theirs.
pub fn alone<F: FnOnce()>(test: F) {
    place(&name::<F>(), test);
}

/// An address nobody else has, for a backend or a gateway.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(0x0101);
    loop {
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Those at the ends are nobody's address where somebody thinks in networks of 256.
        if (1..255).contains(&low) {
            return Ipv4Addr::new(10, 99, high, low);
        }
    }
}

fn place(name: &str, test: impl FnOnce()) {
    static RUN: OnceLock<Run> = OnceLock::new();
    static NETWORK: OnceLock<()> = OnceLock::new();
    if namespace::inside() {
        // On loopback, a prefix makes every address in it ours.
        NETWORK.get_or_init(|| namespace::set_up(&["10.99.0.1/16"]));
        test();
        return;
    }
    let run = RUN.get_or_init(Run::start);
    println!("{}", run.said.get(name).map_or("", String::as_str));
    match run.outcomes.get(name).map(String::as_str) {
        Some("ok") => {}
        Some(outcome) => panic!("{name}: {outcome} in the namespace, see above"),
        None => panic!("{name} has no outcome; the run said:\n{}", run.text),
    }
}

/// Name of the test that this closure is the body of.
fn name<F>() -> String {
    let name = std::any::type_name::<F>();
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    let (_, name) = name.split_once("::").expect("a test lies in a crate");
    name.to_owned()
}

/// The run of the binary in the namespace, as its harness told it.
struct Run {
    /// `ok` or `FAILED`, by test.
    outcomes: HashMap<String, String>,
    /// What each test printed.
    said: HashMap<String, String>,
    text: String,
}

impl Run {
    fn start() -> Self {
        let exe = std::env::current_exe().expect("path of the test");
        // The filters of this run; its format has to be the one that is read below.
        let format = [
            "--nocapture",
            "--no-capture",
            "--show-output",
            "--quiet",
            "-q",
        ];
        let filters = std::env::args()
            .skip(1)
            .filter(|flag| !format.contains(&flag.as_str()));
        // Process ids begin at 1 in there, and the server of all tests is never dropped: what the
        // run writes has a folder of its own, which goes with it.
        let scratch = Scratch::new();
        // They wait more than they work, for time-outs above all.
        let threads = std::env::var_os("RUST_TEST_THREADS").unwrap_or_else(|| "4".into());
        let output = Command::new("unshare")
            .args(namespace::flavour())
            .args(["--pid", "--fork", "--kill-child", "--"])
            .arg(exe)
            .args(filters)
            .arg("--show-output")
            .env(namespace::MARK, "1")
            .env("TMPDIR", scratch.path())
            .env("RUST_TEST_THREADS", threads)
            .env("GATEHOUSE_BIN", gateway::binary())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .output()
            .expect("unshare starts");
        Self::read(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn read(text: String) -> Self {
        let mut outcomes = HashMap::new();
        let mut said: HashMap<String, String> = HashMap::new();
        let mut section: Option<String> = None;
        for line in text.lines() {
            let heading = line
                .strip_prefix("---- ")
                .and_then(|rest| rest.strip_suffix(" stdout ----"));
            if let Some(name) = heading {
                section = Some(name.to_owned());
            } else if ["successes:", "failures:"].contains(&line) {
                section = None;
            } else if let Some(name) = &section {
                let text = said.entry(name.clone()).or_default();
                text.push_str(line);
                text.push('\n');
            } else if let Some((name, outcome)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.split_once(" ... "))
            {
                outcomes.insert(name.to_owned(), outcome.to_owned());
            }
        }
        Self {
            outcomes,
            said,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_output_are_read_from_the_harness() {
        let run = Run::read(
            "\nrunning 2 tests\ntest a::good ... ok\ntest a::bad ... FAILED\n\nsuccesses:\n\n\
             ---- a::good stdout ----\nhello\n\n\nsuccesses:\n    a::good\n\nfailures:\n\n\
             ---- a::bad stdout ----\npanicked\n\nfailures:\n    a::bad\n\ntest result: FAILED.\n"
                .into(),
        );
        assert_eq!(run.outcomes["a::good"], "ok");
        assert_eq!(run.outcomes["a::bad"], "FAILED");
        assert_eq!(run.said["a::good"].trim(), "hello");
        assert_eq!(run.said["a::bad"].trim(), "panicked");
        assert_eq!(run.outcomes.len(), 2);
    }

    #[test]
    fn the_name_of_a_test_is_read_from_its_body() {
        fn of<F>(_: F) -> String {
            name::<F>()
        }
        let name = of(|| ());
        assert_eq!(
            name,
            "kubernetes::cluster::tests::the_name_of_a_test_is_read_from_its_body"
        );
    }
}
