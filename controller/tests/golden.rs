//! Golden cases: manifests in, plans and diagnostics out, through the real directory source.
//!
//! `golden/<case>/input.yaml` holds the manifests; a first line `# flags: …` sets flags.
//! `UPDATE_GOLDEN=1 cargo test -p gatehouse --test golden` writes what comes out: read the diff.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use gatehouse::config::flags::SelectionArgs;
use gatehouse::diagnostics::Diagnostic;
use gatehouse::engine::{Engine, Plans};
use gatehouse::source::directory;
use gatehouse_gateway::model::{CertKey, ClusterPlan, HostPlan};
use serde::Serialize;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Serialize)]
struct View<'a> {
    hosts: Vec<&'a HostPlan>,
    clusters: Vec<&'a ClusterPlan>,
    certificates: Vec<&'a CertKey>,
    external_names: &'a [std::sync::Arc<str>],
}

#[test]
fn manifests_become_the_plans_that_were_reviewed() -> Outcome<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bless = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    cases.sort();
    assert!(!cases.is_empty());
    let mut differing = Vec::new();
    for case in &cases {
        let (plan, diagnostics) = run(case)?;
        for (name, text) in [("plan.yaml", plan), ("diagnostics.yaml", diagnostics)] {
            let file = case.join(name);
            if fs::read_to_string(&file).unwrap_or_default() == text {
                continue;
            }
            if bless {
                fs::write(&file, &text)?;
            } else {
                println!("--- {} is now:\n{text}", file.display());
                differing.push(file);
            }
        }
    }
    assert!(differing.is_empty(), "differ: {differing:#?}");
    Ok(())
}

fn run(case: &Path) -> Outcome<(String, String)> {
    let input = fs::read_to_string(case.join("input.yaml"))?;
    let name = case.file_name().unwrap_or_default();
    let manifests = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&manifests)?;
    fs::write(manifests.join("input.yaml"), &input)?;

    let flags = input
        .lines()
        .find_map(|line| line.strip_prefix("# flags: "));
    let words = flags.unwrap_or_default().split_whitespace();
    let selection = Flags::try_parse_from(std::iter::once("golden").chain(words))?.selection;
    let mut engine = Engine::with_base(&selection.base()?);
    for change in directory::read(&manifests) {
        engine.apply(change);
    }
    engine.reconcile();
    let plans: Plans = engine.plans();
    let report = engine.report();
    let view = View {
        hosts: plans.hosts.values().map(|plan| &**plan).collect(),
        clusters: plans.clusters.values().map(|plan| &**plan).collect(),
        certificates: plans.certificates.keys().collect(),
        external_names: &report.external_names,
    };
    let diagnostics: &[Diagnostic] = &report.diagnostics;
    Ok((
        serde_saphyr::to_string(&view)?,
        serde_saphyr::to_string(&diagnostics)?,
    ))
}
