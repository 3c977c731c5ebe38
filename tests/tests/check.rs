//! `check` and `explain` with the file of issuers: what is wrong with the certificates that manifests ask
//! for is said before anybody serves them, without an authority and without a place to keep them.

use std::path::PathBuf;

use gatehouse_tests::documents::section;
use gatehouse_tests::gateway::{self, workspace};
use gatehouse_tests::manifests::Scratch;

/// What the trial in the document writes into a file.
fn written(file: &str) -> String {
    let text = section("docs/certificates.md", "## Try it");
    let begin = format!("cat > try/{file} <<'YAML'\n");
    let (_, text) = text.split_once(&begin).expect("the file is in the trial");
    let (text, _) = text.split_once("\nYAML\n").expect("its end");
    text.to_owned()
}

/// The manifests and the issuers of the document.
struct Site {
    manifests: Scratch,
    beside: Scratch,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            manifests: Scratch::new(),
            beside: Scratch::new(),
        };
        let service = workspace().join("examples/quickstart/service.yaml");
        let service = std::fs::read_to_string(service).expect("the example");
        site.manifests.write("service.yaml", service);
        site.ingress("ingress.yaml", |text| text);
        site.beside.write("issuers.yaml", written("issuers.yaml"));
        site
    }

    /// The Ingress of the document, otherwise.
    fn ingress(&self, file: &str, changed: impl FnOnce(String) -> String) {
        let text = changed(written("manifests/ingress.yaml"));
        self.manifests.write(file, text);
    }

    fn issuers(&self) -> PathBuf {
        self.beside.file("issuers.yaml")
    }

    /// Exit status and what is printed.
    fn check(&self, flags: &[&str]) -> (Option<i32>, String) {
        let dir = self.manifests.path().display().to_string();
        said(&[&["check", &dir], flags].concat())
    }

    fn check_with_issuers(&self, flags: &[&str]) -> (Option<i32>, String) {
        let issuers = self.issuers().display().to_string();
        self.check(&[&["--acme", &issuers], flags].concat())
    }
}

fn said(arguments: &[&str]) -> (Option<i32>, String) {
    let output = gateway::run(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[test]
fn the_manifests_of_the_document_are_good_and_a_certificate_that_is_to_come_is_no_error() {
    let site = Site::new();
    let (code, text) = site.check_with_issuers(&["--strict"]);
    assert_eq!(code, Some(0), "{text}");
    let pending = "info[CertificatePending] Ingress/default/shop spec.tls[0].secretName";
    assert!(text.contains(pending), "{text}");
    assert!(text.ends_with("0 errors, 0 warnings, 1 note\n"), "{text}");
    // Neither accounts nor certificates are looked for or made.
    let beside = std::fs::read_dir(site.beside.path()).expect("a folder");
    assert_eq!(beside.count(), 1);
}

#[test]
fn without_the_file_the_finding_names_the_flag() {
    let (code, text) = Site::new().check(&[]);
    assert_eq!(code, Some(1), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains("gatehouse.dev/issuer"));
    let line = line.expect("a finding about the annotation");
    for part in ["AnnotationUnsupported", "`--acme FILE`", "`check`"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn what_the_issuers_do_not_allow_or_cannot_do_is_an_error_with_object_and_field() {
    let names: Vec<String> = (0..101).map(|n| format!("h{n}.example.test")).collect();
    let many = format!("[{}]", names.join(", "));
    let changes: [(&str, [&str; 2], &str); 5] = [
        (
            "CertificateIssuerUnknown",
            [
                "gatehouse.dev/issuer: local",
                "gatehouse.dev/issuer: nosuch",
            ],
            "there are local",
        ),
        (
            "CertificateNotAllowed",
            ["shop.example.test", "shop.example.org"],
            "acme.issuers.local.allow",
        ),
        (
            "CertificateNamesTooMany",
            ["[shop.example.test]", &many],
            "several Secrets",
        ),
        (
            "CertificateChallengeImpossible",
            ["[shop.example.test]", "['*.example.test']"],
            "dns-01",
        ),
        (
            "CertificateHostInvalid",
            [
                "[shop.example.test]",
                "[shop.example.test, shop..example.test]",
            ],
            "shop..example.test",
        ),
    ];
    for (code, [from, to], remedy) in changes {
        let site = Site::new();
        site.ingress("ingress.yaml", |text| text.replace(from, to));
        let (status, text) = site.check_with_issuers(&[]);
        assert_eq!(status, Some(1), "{code}: {text}");
        let begin = format!("error[{code}] Ingress/default/shop spec.tls in ingress.yaml: ");
        let line = text.lines().find(|line| line.starts_with(&begin));
        let line = line.unwrap_or_else(|| panic!("{begin}: {text}"));
        assert!(line.contains(remedy), "{remedy}: {line}");
    }
}

#[test]
fn what_several_ingresses_want_together_is_said_of_the_one_that_comes_second() {
    let site = Site::new();
    site.ingress("other.yaml", |text| {
        let text = text.replace("name: shop\n", "name: other\n");
        text.replace("shop.example.test", "other.example.test")
    });
    let (status, text) = site.check_with_issuers(&["--json"]);
    assert_eq!(status, Some(1), "{text}");
    for part in [
        "\"CertificateConflict\"",
        "is as old and has the greater name",
        "another secretName",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_wildcard_that_is_to_come_leaves_the_single_certificate_out_and_that_is_no_error() {
    let site = Site::new();
    let text = written("issuers.yaml")
        + "\n      dns: [{zones: [example.test], provider: exec, command: /bin/true}]\
           \n      challenges: [dns-01]\n";
    site.beside.write("issuers.yaml", text);
    site.ingress("wild.yaml", |text| {
        let text = text
            .replace("shop-tls", "wild-tls")
            .replace("name: shop\n", "name: wild\n");
        text.replace("shop.example.test", "'*.example.test'")
    });
    let (status, text) = site.check_with_issuers(&[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("info[CertificateCovered] Ingress/default/shop"),
        "{text}"
    );
}

#[test]
fn the_old_annotation_asks_where_it_is_tracked() {
    let site = Site::new();
    site.ingress("ingress.yaml", |text| {
        text.replace(
            "gatehouse.dev/issuer: local",
            "kubernetes.io/tls-acme: 'true'",
        )
    });
    let (status, text) = site.check_with_issuers(&["--acme-track-tls-acme"]);
    assert_eq!(status, Some(1), "{text}");
    let line = "acme.default is not set: name one";
    assert!(text.contains(line), "{text}");
    let (status, text) = site.check(&["--acme-track-tls-acme"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--acme <FILE>"), "{text}");
}

#[test]
fn a_file_of_issuers_that_cannot_be_used_is_told_as_run_tells_it() {
    let site = Site::new();
    let issuers = site.issuers().display().to_string();
    let dir = site.manifests.path().display().to_string();
    let certs = site.beside.file("certs").display().to_string();
    let run = ["run", "--dir", &dir, "--acme", &issuers, "--certs", &certs];
    for text in [
        "acme: {issuers: {local: {directory: nowhere}}}\n".to_owned(),
        written("issuers.yaml").replace("allow:", "alow:"),
    ] {
        site.beside.write("issuers.yaml", text);
        let (status, told) = site.check_with_issuers(&[]);
        assert_eq!(status, Some(2), "{told}");
        assert!(told.contains("--acme <FILE>"), "{told}");
        assert_eq!((status, told), said(&run));
    }
    site.beside.remove("issuers.yaml");
    let (status, told) = site.check_with_issuers(&[]);
    assert_eq!(status, Some(2), "{told}");
    assert!(told.contains("No such file"), "{told}");
    assert_eq!((status, told), said(&run));
}

#[test]
fn explain_shows_them_beside_the_route() {
    let site = Site::new();
    let issuers = site.issuers().display().to_string();
    site.ingress("ingress.yaml", |text| {
        text.replace("issuer: local", "issuer: nosuch")
    });
    let dir = site.manifests.path().display().to_string();
    let url = "https://shop.example.test/";
    let (status, text) = said(&["explain", "--acme", &issuers, &dir, "GET", url]);
    assert_eq!(status, Some(0), "{text}");
    let note = "note       error[CertificateIssuerUnknown] Ingress/default/shop spec.tls";
    assert!(text.contains(note), "{text}");
}
