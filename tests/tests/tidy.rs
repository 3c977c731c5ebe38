//! Rules of the house that a compiler does not check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gatehouse_tests::gateway;

/// Longest Rust file.
const LINES: usize = 600;

fn rust_files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for folder in ["acme", "gateway", "controller", "tests", "benches"] {
        collect(&gateway::workspace().join(folder), &mut files);
    }
    assert!(files.len() > 20, "the sources are found");
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let path = path
                .strip_prefix(gateway::workspace())
                .expect("below the root")
                .to_owned();
            files.push((path, text));
        }
    }
}

/// Fails with one line per file for which `wrong` gives one.
fn check(rule: &str, wrong: impl Fn(&Path, &str) -> Option<String>) {
    let found: Vec<String> = rust_files()
        .iter()
        .filter_map(|(path, text)| Some(format!("{}: {}", path.display(), wrong(path, text)?)))
        .collect();
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_end_before_line_600() {
    check("split these files by subject", |_, text| {
        let lines = text.lines().count();
        (lines > LINES).then(|| format!("{lines} lines"))
    });
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    check("open these files with `//!`", |_, text| {
        (!text.trim_start().starts_with("//!")).then(|| "no module documentation".into())
    });
}

#[test]
fn every_open_end_names_its_issue() {
    check("name the issue, as in `TO\u{44}O(#12)`", |path, text| {
        let marks = ["TO\u{44}O", "FIX\u{4d}E"];
        let open = |line: &&str| {
            marks
                .iter()
                .any(|mark| line.contains(mark) && !line.contains(&format!("{mark}(#")))
        };
        let line = text.lines().find(open)?;
        (!path.ends_with("tidy.rs")).then(|| line.trim().to_owned())
    });
}

#[test]
fn the_gateway_knows_no_kubernetes() {
    check(
        "the data plane imports no Kubernetes crate",
        |path, text| {
            let inside = path.starts_with("gateway");
            let line = text
                .lines()
                .find(|line| line.contains("k8s_openapi") || line.contains("kube::"))?;
            inside.then(|| line.trim().to_owned())
        },
    );
    let manifest = std::fs::read_to_string(gateway::workspace().join("gateway/Cargo.toml"))
        .expect("gateway/Cargo.toml");
    for name in ["kube", "k8s-openapi", "gatehouse ="] {
        let named = manifest.lines().any(|line| line.starts_with(name));
        assert!(!named, "gateway/Cargo.toml depends on {name}");
    }
}

#[test]
fn what_talks_to_authorities_knows_neither_kubernetes_nor_the_gateway() {
    let manifest = std::fs::read_to_string(gateway::workspace().join("acme/Cargo.toml"))
        .expect("acme/Cargo.toml");
    for name in ["kube", "k8s-openapi", "gatehouse"] {
        let named = manifest
            .lines()
            .skip_while(|line| *line != "[dependencies]")
            .any(|line| line.starts_with(name));
        assert!(!named, "acme/Cargo.toml depends on {name}");
    }
}

#[test]
fn the_tree_of_the_gateway_is_free_of_kubernetes() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "gatehouse-gateway",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--offline",
            "--locked",
        ])
        .current_dir(gateway::workspace())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("hyper "), "the tree is printed: {tree}");
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(
            !name.starts_with("kube") && name != "k8s-openapi",
            "the gateway depends on {line}"
        );
    }
}

#[test]
fn the_readme_counts_the_rows_that_are_there() {
    let read = |path: &str| {
        let text = std::fs::read_to_string(gateway::workspace().join(path));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let rows = |folder: &str, files: &[&str], mark: &str| -> usize {
        let count = |file| {
            let text = read(&format!("tests/{folder}/{file}.yaml"));
            text.lines().filter(|line| line.contains(mark)).count()
        };
        files.iter().map(count).sum()
    };
    let wire = rows("wire", &["requests", "responses", "rfc"], "- id: ");
    let families = ["class", "headers", "hosts", "paths", "tls"];
    let corpus = rows("corpus", &families, "answer:");
    let readme = read("README.md");
    for claim in [
        format!("{wire} raw requests and answers"),
        format!("{corpus} recorded answers"),
    ] {
        assert!(readme.contains(&claim), "README.md does not say: {claim}");
    }
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    check(
        "paths of a machine do not belong in a source file",
        |_, text| {
            let paths = ["/wo\u{72}k/", "/ro\u{6f}t/"];
            let line = text
                .lines()
                .find(|line| paths.iter().any(|path| line.contains(path)))?;
            Some(line.trim().to_owned())
        },
    );
}

/// Names of tests that bear the number of a case, as they stand in a text behind `before`.
fn cases<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let found = text.match_indices(before).filter_map(|(at, _)| {
        let rest = &text[at + before.len()..];
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        number(name).is_some().then_some(name)
    });
    found.collect()
}

fn number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("case_")?.split_once('_')?;
    number.parse().ok()
}

#[test]
fn the_table_of_cases_names_every_test_and_every_case_has_one_or_a_reason() {
    let path = gateway::workspace().join("docs/certificates-tests.md");
    let table = std::fs::read_to_string(path).expect("the table");
    let files = rust_files();
    let sources = files.iter().filter(|(path, _)| !path.ends_with("tidy.rs"));
    let there: BTreeSet<&str> = sources.flat_map(|(_, text)| cases(text, "fn ")).collect();
    assert!(there.len() > 60, "the tests are found: {there:?}");
    let named = cases(&table, "`");
    let missing: Vec<_> = there.symmetric_difference(&named).collect();
    assert!(missing.is_empty(), "in one of them only: {missing:#?}");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let Some(Ok(case)) = cells.next().map(str::parse::<u32>) else {
            continue;
        };
        rows += 1;
        let tests = cells.nth(1).unwrap_or_default();
        let own = cases(tests, "`");
        let other = own.iter().find(|name| number(name) != Some(case));
        assert_eq!(other, None, "a test of another case in row {case}");
        let said = !own.is_empty() || tests.starts_with("not here: ");
        assert!(said, "row {case} has neither a test nor a reason");
    }
    assert_eq!(rows, 49, "one row for each case");
}
