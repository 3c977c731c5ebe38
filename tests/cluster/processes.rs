//! Servers of the cluster as child processes, written down with the time of their start: that is how
//! `scripts/cluster` knows which process is still the one that was started here.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts a program in a namespace of the cluster; its output goes to `LOG`.
pub(crate) fn start(
    state: &Path,
    namespace: &str,
    log: &Path,
    program: &Path,
    arguments: &[String],
) {
    let name = program.file_name().expect("a name").display();
    let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/gatehouse-cluster-{namespace}"))
        .arg(program)
        .args(arguments)
        // The plugins of a pod's network call iptables.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a log"))
        .stderr(file)
        .spawn()
        .unwrap_or_else(|error| panic!("{name} starts: {error}"));
    let id = child.id();
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("fields of a process");
    let tick = fields.split(' ').nth(19).expect("the time of the start");
    let record = File::options()
        .create(true)
        .append(true)
        .open(state.join("processes"));
    writeln!(record.expect("the record"), "{id} {tick} {name}").expect("the record");
    // Its end is nobody's business here; what needs it fails.
    std::thread::spawn(move || child.wait());
}
