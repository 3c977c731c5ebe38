//! Libraries that change what the system tells a program, for programs that a test starts.

use std::path::PathBuf;
use std::process::Command;

use crate::gateway;
use crate::manifests::Scratch;

/// Builds one of the C files of this module's folder into the folder of the test; the result is for
/// `LD_PRELOAD`.
pub fn library(scratch: &Scratch, name: &str) -> PathBuf {
    let library = scratch.file(&format!("{name}.so"));
    let source = gateway::workspace().join(format!("tests/src/preload/{name}.c"));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output()
        .expect("a C compiler");
    let error = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cc: {error}");
    library
}
