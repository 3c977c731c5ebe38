//! The reference pages, made of the tables that the program works with.
//!
//! Invariants: pure but for [`write()`]; the same program makes the same bytes; a test compares the
//! pages of the repository with what comes out here.

use std::fmt::Write;
use std::process::ExitCode;

use gatehouse_gateway::error::Reason;
use gatehouse_gateway::metrics::{Labelled, Plain};
use prometheus_client::metrics::MetricType;

use crate::annotations::{ANNOTATIONS, Effect, Name, Off, PREFIXES};
use crate::certificates::metrics as certificates;
use crate::config::generate::DocsArgs;
use crate::config::{RESTRICTIONS, SETTINGS};
use crate::diagnostics::Code;
use crate::run::Failure;
use crate::source::kubernetes::contact;
use crate::{findings, leader};

/// Writes every page into the directory, which is made when it is missing.
pub fn write(args: &DocsArgs) -> Result<ExitCode, Failure> {
    let failure = |what: &std::path::Path, error: std::io::Error| {
        Failure::System(format!(
            "`{}` cannot be written: {error}; name another directory (--out)",
            what.display()
        ))
    };
    std::fs::create_dir_all(&args.out).map_err(|error| failure(&args.out, error))?;
    for (name, text) in pages() {
        let path = args.out.join(name);
        std::fs::write(&path, text).map_err(|error| failure(&path, error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// File name and text of every page.
pub fn pages() -> [(&'static str, String); 4] {
    [
        ("settings.md", settings()),
        ("annotations.md", annotations()),
        ("metrics.md", metrics()),
        ("diagnostics.md", diagnostics()),
    ]
}

fn settings() -> String {
    let mut page = page(
        "Settings",
        "Keys of the ConfigMap that `--configmap` names, and `--set NAME=VALUE`; the ConfigMap goes before the flag. \
         Names are those of ingress-nginx where the meaning is the same. A bad value is told \
         (`SettingInvalid`) and the others hold.",
    );
    table(&mut page, &["name", "value", "example", "meaning"]);
    for setting in SETTINGS {
        let name = format!("`{}`", setting.name);
        let example = format!("`{}`", setting.example);
        row(
            &mut page,
            &[&name, &setting.expected(), &example, setting.doc],
        );
    }
    page.push_str(
        "\n## Restrictions\n\nKeys of ingress-nginx that restrict access for every route and are not \
         supported: in the ConfigMap they close every route (503, the error `SettingRefused`, \
         [why](../decisions/0023-restrictions-of-all.md)), with `--set` the gateway does not start.\n\n",
    );
    table(&mut page, &["name", "asks", "unless the value is"]);
    for restriction in RESTRICTIONS {
        let name = names(restriction.name);
        let off = restriction
            .off
            .map_or("anything: a detail without effect".to_owned(), off_values);
        let asks = restriction.asks.trim_end_matches(',');
        row(&mut page, &[&name, asks, &off]);
    }
    page
}

fn annotations() -> String {
    let [nginx, own] = PREFIXES;
    let mut page = page(
        "Annotations",
        &format!(
            "Read with the prefixes `{nginx}` and `{own}`. No policy can be set by annotation yet. \
             An annotation that restricts access closes the door: everything of its Ingress answers \
             503 and the error `AnnotationRefused` says so \
             ([why](../decisions/0020-closed-door.md)); one that ingress-nginx applies to a whole \
             host closes all that its namespace has on the hosts of the Ingress \
             ([why](../decisions/0023-restrictions-of-all.md)). The others have no effect: their \
             routes are served, and `AnnotationUnsupported` says what is different, a warning \
             unless nothing that matters is. Those that order certificates are applied with the prefix \
             `{own}` only, and a value that means nothing is told (`CertificateSettingInvalid`). \
             `AnnotationUnknown` names those that are not listed. \
             Nothing is said of values with which an annotation asks for nothing."
        ),
    );
    table(
        &mut page,
        &["name", "effect", "meaning", "what to do", "silent when"],
    );
    for annotation in ANNOTATIONS {
        let effect = match annotation.effect {
            Effect::Refused { whole_host: true } => "closes the door, for the whole host",
            Effect::Refused { whole_host: false } => "closes the door",
            Effect::Ignored => "none",
            Effect::Needless => "none, needless",
            Effect::Certificates => "orders certificates",
        };
        let cells = [
            &*names(annotation.name),
            effect,
            annotation.about.trim_end_matches(','),
            annotation.remedy,
            &off_values(annotation.off),
        ];
        row(&mut page, &cells);
    }
    page
}

fn names(name: Name) -> String {
    match name {
        Name::Is(name) => format!("`{name}`"),
        Name::Begins(begin) => format!("`{begin}…`, others"),
        Name::Ends(end) => format!("`…{end}`, others"),
    }
}

fn off_values(off: Off) -> String {
    let quoted = |words: &[&str], between| {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        words.join(between)
    };
    match off {
        Off::Empty => "empty".to_owned(),
        Off::Words(words) => format!("empty or {}", quoted(words, ", ")),
        Off::Everybody(all) => format!("empty or a list with {}", quoted(all, " and ")),
    }
}

fn metrics() -> String {
    let mut page = page(
        "Metrics",
        "`/metrics` of the admin port (`--admin-listen`), in the text format of OpenMetrics. Values \
         of labels come from the configuration or from a closed list, never from a request; a route \
         has series once it had a request. Those of certificates that are ordered are there with \
         `--acme` only, the last four in a cluster only.",
    );
    table(&mut page, &["name", "kind", "labels", "meaning"]);
    let plain = Plain::TABLE
        .iter()
        .map(|&(name, kind, help)| (name, kind, &[][..], help));
    let labelled = Labelled::TABLE
        .iter()
        .chain(&findings::METRICS)
        .chain(&certificates::METRICS)
        .chain(&contact::METRICS)
        .chain(&leader::METRICS)
        .map(|metric| (metric.name, metric.kind, metric.labels, metric.help));
    for (name, kind, labels, help) in plain.chain(labelled) {
        // As it is exposed: counters end so in the text format.
        let end = if kind == MetricType::Counter {
            "_total"
        } else {
            ""
        };
        let name = format!("`{name}{end}`");
        let labels = labels.join(", ");
        row(&mut page, &[&name, kind.as_str(), &labels, help]);
    }
    page.push_str(
        "\n## Reasons\n\nWhy the gateway answered by itself: the label `reason`, and the same in \
         the access log.\n\n",
    );
    table(&mut page, &["reason", "status", "meaning"]);
    for reason in Reason::ALL {
        let code = format!("`{}`", reason.code());
        let status = reason.status_code().to_string();
        row(&mut page, &[&code, &status, reason.about()]);
    }
    page
}

fn diagnostics() -> String {
    let mut page = page(
        "Diagnostics",
        "What `gatehouse check` prints, `/api/diagnostics` of the admin port lists and `gatehouse \
         explain` shows beside a route. Each names the object, the field and the remedy. Codes are \
         stable.",
    );
    table(&mut page, &["code", "meaning"]);
    for code in Code::ALL {
        let name = format!("`{}`", code.as_str());
        row(&mut page, &[&name, code.about()]);
    }
    page
}

fn page(title: &str, about: &str) -> String {
    format!(
        "# {title}\n\n<!-- Made by `gatehouse generate docs`; change the table in the code instead. -->\n\n{about}\n\n"
    )
}

fn table(page: &mut String, head: &[&str]) {
    row(page, head);
    row(page, &vec!["---"; head.len()]);
}

fn row(page: &mut String, cells: &[&str]) {
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(page, "| {} ", cell.replace('|', "\\|"));
    }
    page.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_a_page_has_the_cells_of_its_table() {
        for (name, text) in pages() {
            let mut cells = None;
            for line in text.lines() {
                let count = line.starts_with('|').then(|| line.matches('|').count());
                assert!(
                    count.is_none() || cells.is_none() || count == cells,
                    "{name}: {line}"
                );
                cells = count;
            }
            assert!(!text.contains("|  |  |"), "{name} has an empty row");
        }
    }
}
