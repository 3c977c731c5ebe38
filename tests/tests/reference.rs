//! The reference pages of the repository are those that the program makes.

use gatehouse_tests::gateway;
use gatehouse_tests::manifests::Scratch;

#[test]
fn the_reference_pages_are_fresh() {
    let scratch = Scratch::new();
    let out = scratch.path().as_os_str();
    let output = gateway::run(["generate".as_ref(), "docs".as_ref(), "--out".as_ref(), out]);
    assert!(output.status.success(), "{output:?}");
    let mut pages = 0;
    for entry in std::fs::read_dir(scratch.path()).expect("the pages") {
        let name = entry.expect("a page").file_name();
        let made = std::fs::read_to_string(scratch.path().join(&name)).expect("a page");
        let committed = gateway::workspace().join("docs/reference").join(&name);
        let committed = std::fs::read_to_string(committed).unwrap_or_default();
        assert!(
            made == committed,
            "{name:?} is stale: cargo run -p gatehouse -- generate docs --out docs/reference"
        );
        let link = format!("docs/reference/{}", name.to_string_lossy());
        let readme = std::fs::read_to_string(gateway::workspace().join("README.md"));
        assert!(
            readme.expect("README.md").contains(&link),
            "{link} is linked"
        );
        pages += 1;
    }
    assert_eq!(pages, 4);
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_the_remedy() {
    let scratch = Scratch::new();
    scratch.write("file", "");
    let out = scratch.file("file").join("pages");
    let output = gateway::run([
        "generate".as_ref(),
        "docs".as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("--out") && text.contains("file/pages"),
        "{text}"
    );
}
