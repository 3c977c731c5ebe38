//! `helm` with the chart of this repository, as users run it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kubectl::Finished;
use super::tool;
use crate::gateway;
use crate::manifests::Scratch;

/// Folder of the chart.
pub fn chart() -> PathBuf {
    gateway::workspace().join("manifests/chart/gatehouse")
}

/// Calls of `helm`, with nothing of the user's own configuration.
pub struct Helm {
    kubeconfig: Option<PathBuf>,
    home: Scratch,
}

impl Helm {
    /// Without a cluster: for what only renders.
    pub fn alone() -> Self {
        Self {
            kubeconfig: None,
            home: Scratch::new(),
        }
    }

    /// With the cluster of a kubeconfig.
    pub fn at(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig: Some(kubeconfig),
            home: Scratch::new(),
        }
    }

    /// Runs it to its end; `values` goes to its standard input, for `--values=-`.
    pub fn run(&self, arguments: &[&str], values: &str) -> Finished {
        let mut command = Command::new(tool("helm"));
        command.args(arguments);
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, self.home.file(folder));
        }
        let nowhere = Path::new("/dev/null");
        command.env("KUBECONFIG", self.kubeconfig.as_deref().unwrap_or(nowhere));
        Finished::of(command, format!("helm {}", arguments.join(" ")), values)
    }

    /// The manifests that a release of this name in this namespace would have, with values in YAML.
    pub fn render(&self, release: &str, namespace: &str, values: &str) -> Finished {
        let chart = chart().display().to_string();
        let flags = ["--namespace", namespace, "--values=-"];
        self.run(
            &[&["template", release, &chart], &flags[..]].concat(),
            values,
        )
    }
}
