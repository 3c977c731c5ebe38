//! What cannot be written or had is told, with an exit status that scripts see.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::{self, Process};

use super::served_by;

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let backend = Backend::plain();
    let scratch = served_by(&backend);
    let dir = scratch.path().display().to_string();
    let commands: [&[&str]; 4] = [
        &["check", &dir],
        &["explain", &dir, "GET", "http://app.test/"],
        &["generate", "rbac"],
        &["version"],
    ];
    for arguments in commands {
        let full = OpenOptions::new().write(true).open("/dev/full");
        let output = Command::new(gateway::binary())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(full.expect("/dev/full"))
            .stderr(Stdio::piped())
            .output()
            .expect("gatehouse starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("standard output"), "{arguments:?}: {text}");
    }
}

#[test]
fn an_echo_whose_port_is_taken_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut echo = Process::start(["echo", "--listen", &address]);
    let status = echo.wait_end(Duration::from_secs(20));
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let text = echo.stderr.all().join("\n");
    for part in [&*address, "--listen", "choose another address"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}
