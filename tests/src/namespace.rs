//! Running a test again in a user and network namespace of its own: private addresses on `lo`,
//! any port, and no way out.

use std::process::{Command, Stdio};

pub(crate) const MARK: &str = "GATEHOUSE_TESTS_NAMESPACE";

/// True inside the namespace. Outside, runs the test of this name there, prints what it printed,
/// panics if it failed, and returns false.
pub fn enter(test: &str) -> bool {
    if inside() {
        set_up(&[]);
        return true;
    }
    let exe = std::env::current_exe().expect("path of the test");
    let mut child = Command::new("unshare");
    child.args(flavour()).arg("--").arg(exe);
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    child
        .env(MARK, "1")
        .env("GATEHOUSE_BIN", crate::gateway::binary());
    let output = child.stdin(Stdio::null()).output().expect("unshare starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{test} failed in its namespace: {}",
        output.status
    );
    assert!(
        text.contains("1 passed"),
        "{test} did not run in its namespace"
    );
    false
}

/// Whether this process was started in a namespace of the tests.
pub fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Brings `lo` up, with these addresses and prefixes.
pub(crate) fn set_up(addresses: &[&str]) {
    command("ip", &["link", "set", "lo", "up"]);
    for address in addresses {
        command("ip", &["address", "add", address, "dev", "lo"]);
    }
}

/// Adds addresses to `lo`.
pub fn add_addresses(addresses: impl IntoIterator<Item = String>) {
    for address in addresses {
        command(
            "ip",
            &["address", "add", &format!("{address}/24"), "dev", "lo"],
        );
    }
}

pub(crate) fn flavour() -> &'static [&'static str] {
    let user: &[&str] = &["--map-root-user", "--net"];
    let root: &[&str] = &["--net"];
    for flags in [user, root] {
        let tried = Command::new("unshare").args(flags).arg("true").output();
        match tried {
            Ok(output) if output.status.success() => return flags,
            Ok(_) => {}
            Err(error) => panic!("this test needs `unshare` of util-linux: {error}"),
        }
    }
    panic!(
        "this test needs a network namespace: allow unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, user.max_net_namespaces > 0) or run it as root"
    );
}

fn command(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("this test needs `{name}` (iproute2): {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {error}");
}
