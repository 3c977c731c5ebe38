//! The data plane knows no Kubernetes: its dependency tree is free of kube and k8s-openapi.

use std::process::Command;

#[test]
fn the_gateway_depends_on_no_kubernetes_library() {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--locked",
            "--package",
            "gatehouse-gateway",
        ])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree failed: {errors}");
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"hyper"), "not a dependency tree: {tree}");
    let kubernetes: Vec<&&str> = names
        .iter()
        .filter(|name| name.starts_with("kube") || name.starts_with("k8s"))
        .collect();
    assert!(kubernetes.is_empty(), "found {kubernetes:?}");
}
