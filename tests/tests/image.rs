//! The image that `scripts/image` writes without a container engine: what an engine would check.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use gatehouse_tests::gateway;
use gatehouse_tests::manifests::Scratch;
use serde_json::Value;

/// A small program of every Linux stands for the gateway: what is in the image is another test's.
const PROGRAM: &str = "/bin/true";

fn image(binary: &str, out: &Path) -> Output {
    Command::new("python3")
        .arg(gateway::workspace().join("scripts/image"))
        .args([
            "--binary",
            binary,
            "--name",
            "localhost/gatehouse:test",
            "--out",
        ])
        .arg(out)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .expect("python3 starts")
}

/// Unpacks an archive with the tar of the system; the files by name.
fn unpack(archive: &Path, flags: &[&str]) -> HashMap<String, Vec<u8>> {
    let into = Scratch::new();
    let status = Command::new("tar")
        .args(flags)
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(into.path())
        .status();
    assert!(
        status.expect("tar starts").success(),
        "{}",
        archive.display()
    );
    let mut files = HashMap::new();
    collect(into.path(), into.path(), &mut files);
    files
}

fn collect(root: &Path, folder: &Path, files: &mut HashMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path
                .strip_prefix(root)
                .expect("below")
                .display()
                .to_string();
            files.insert(name, std::fs::read(&path).expect("a file"));
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    let scratch = Scratch::new();
    scratch.write("bytes", bytes);
    let output = Command::new("sha256sum")
        .arg(scratch.file("bytes"))
        .output();
    let text = String::from_utf8(output.expect("sha256sum starts").stdout).expect("text");
    text.split(' ').next().expect("a digest").to_owned()
}

/// What a descriptor names, after its digest and size were checked.
fn blob<'a>(files: &'a HashMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let digest = digest.strip_prefix("sha256:").expect("sha256");
    let bytes = &files[&format!("blobs/sha256/{digest}")];
    assert_eq!(sha256(bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[test]
fn an_image_is_complete_without_root_and_the_same_every_time() {
    let scratch = Scratch::new();
    let [first, second] = ["first.tar", "second.tar"].map(|name| scratch.file(name));
    for out in [&first, &second] {
        let output = image(PROGRAM, out);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    }
    let same = std::fs::read(&first).expect("image") == std::fs::read(&second).expect("image");
    assert!(same, "the same input gives the same bytes");

    let files = unpack(&first, &[]);
    let index = json(&files["index.json"]);
    assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let named = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
    assert_eq!(named, "localhost/gatehouse:test");
    let manifest = json(blob(&files, &index["manifests"][0]));
    let config = json(blob(&files, &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/gatehouse");
    let labels = &config["config"]["Labels"];
    assert_eq!(
        labels["org.opencontainers.image.created"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(
        labels["org.opencontainers.image.version"],
        env!("CARGO_PKG_VERSION")
    );
    let old = json(&files["manifest.json"]);
    assert_eq!(old[0]["RepoTags"][0], "localhost/gatehouse:test");

    scratch.write("layer.tar.gz", blob(&files, &manifest["layers"][0]));
    let content = unpack(&scratch.file("layer.tar.gz"), &["--gzip"]);
    assert!(content["gatehouse"] == std::fs::read(PROGRAM).expect("the program"));
    let loader = content.keys().any(|name| name.contains("ld-linux"));
    assert!(loader, "the libraries are in it: {:?}", content.keys());
    let bill = json(&content["sbom.cdx.json"]);
    let parts = bill["components"].as_array().expect("components");
    for name in ["hyper", "rustls", "aws-lc-rs", "/gatehouse"] {
        assert!(
            parts.iter().any(|part| part["name"] == name),
            "{name} is listed"
        );
    }
    for part in parts {
        let license = part["licenses"][0]["expression"].as_str();
        assert!(license.is_none_or(|text| !text.contains('/')), "{part}");
    }
    let release = std::fs::read_to_string("/etc/os-release").expect("a distribution");
    if release.lines().any(|line| line == "ID=debian") {
        let packaged = |part: &Value| {
            let url = part["purl"].as_str().unwrap_or_default();
            url.starts_with("pkg:deb/debian/libc6@") && url.contains("distro=debian-")
        };
        assert!(parts.iter().any(packaged), "libraries have their package");
    }
}

#[test]
fn what_cannot_become_an_image_is_refused_with_a_sentence() {
    let scratch = Scratch::new();
    scratch.write("script", "#!/bin/sh\n");
    // Sparse, so it costs nothing until it is read.
    std::fs::copy(PROGRAM, scratch.file("large")).expect("a copy");
    let large = std::fs::File::options()
        .write(true)
        .open(scratch.file("large"));
    large
        .expect("the copy")
        .set_len(31_000_000)
        .expect("longer");
    // Whatever `ldd` of this machine knows nothing about.
    let mut foreign = std::fs::read(PROGRAM).expect("the program");
    foreign[18] = if foreign[18] == 62 { 183 } else { 62 };
    scratch.write("foreign", foreign);
    for (binary, word) in [
        ("foreign", "on a machine of its architecture"),
        ("missing", "`make image` builds it first"),
        ("script", "not one of Linux"),
        ("large", "more than the 30000000 that an image may have"),
    ] {
        let path = scratch.file(binary).display().to_string();
        let output = image(&path, &scratch.file("out.tar"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(word),
            "{binary}: {said}"
        );
        assert!(!scratch.file("out.tar").exists(), "{binary} leaves nothing");
    }
}
