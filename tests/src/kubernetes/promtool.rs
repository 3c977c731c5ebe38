//! `promtool`: what Prometheus itself makes of rules and of metrics.

use std::process::Command;

use super::kubectl::Finished;
use super::tool;
use crate::manifests::Scratch;

/// Runs it to its end, with this on its standard input.
pub fn promtool(arguments: &[&str], input: &str) -> Finished {
    let mut command = Command::new(tool("promtool"));
    command.args(arguments);
    Finished::of(command, format!("promtool {}", arguments.join(" ")), input)
}

/// Panics unless Prometheus reads this page of metrics to its end and finds nothing about it to
/// complain of.
pub fn scrape(page: &str) {
    // What it stores has a time, which scraping would add.
    let mut stamped = String::new();
    for line in page.lines() {
        stamped.push_str(line);
        stamped.push_str(if line.starts_with('#') {
            "\n"
        } else {
            " 1700000000\n"
        });
    }
    let scratch = Scratch::new();
    scratch.write("page", stamped);
    let [file, store] = ["page", "store"].map(|name| scratch.file(name).display().to_string());
    let read = ["tsdb", "create-blocks-from", "openmetrics", &file, &store];
    promtool(&read, "").success();

    // Its linter knows the older form only, where the name of a counter has its ending everywhere.
    let mut older = page.replace("# EOF\n", "");
    let kinds = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    for name in kinds {
        for word in ["HELP", "TYPE"] {
            let start = format!("# {word} {name}");
            older = older.replace(&format!("{start} "), &format!("{start}_total "));
        }
    }
    promtool(&["check", "metrics"], &older).success();
}
