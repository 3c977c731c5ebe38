//! Everything that an operator can get wrong is answered by a sentence that names what is wrong,
//! where, and what to do; and nothing that is already served is lost over it.

use std::path::Path;

use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::tls::{Handshake, Pair};
use gatehouse_tests::wait;

/// Arguments, and what the message must name.
const FLAGS: &[(&[&str], &[&str])] = &[
    (&["run"], &["--dir"]),
    (&["run", "--dir", "/no/such/folder"], &["/no/such/folder"]),
    (
        &["run", "--dir", "Cargo.toml"],
        &["--dir", "Cargo.toml", "it is a file"],
    ),
    (
        &["run", "--dir", ".", "--ingress-class", ""],
        &["--ingress-class", "name of a class"],
    ),
    (
        &["run", "--dir", ".", "--http-listen", "8080"],
        &["--http-listen", "8080"],
    ),
    (
        &["run", "--dir", ".", "--http-listen", "127.0.0.1:99999"],
        &["--http-listen", "99999"],
    ),
    (
        &["run", "--dir", ".", "--https-listen", "nowhere:x"],
        &["--https-listen", "nowhere:x"],
    ),
    (
        &["run", "--dir", ".", "--admin-listen", ""],
        &["--admin-listen"],
    ),
    (
        &["run", "--kubeconfig", "x", "--election-id", "The Lease"],
        &["--election-id", "The Lease", "lower-case"],
    ),
    (
        &["run", "--dir", ".", "--workers", "0"],
        &["--workers", "0"],
    ),
    (
        &["run", "--dir", ".", "--workers", "many"],
        &["--workers", "many"],
    ),
    (
        &["run", "--dir", ".", "--drain-delay", "soon"],
        &["--drain-delay", "soon"],
    ),
    (
        &["run", "--dir", ".", "--drain-timeout=-1s"],
        &["--drain-timeout", "-1s"],
    ),
    (
        &["run", "--dir", ".", "--log-format", "xml"],
        &["--log-format", "xml", "json"],
    ),
    (
        &["run", "--dir", ".", "--access-log", "xml"],
        &["--access-log", "xml"],
    ),
    (
        &["run", "--dir", ".", "--default-ssl-certificate", "tls"],
        &["--default-ssl-certificate", "tls", "namespace"],
    ),
    (
        &["run", "--dir", ".", "--default-backend-service", "a/b/c"],
        &["--default-backend-service", "a/b/c"],
    ),
    (
        &["run", "--dir", ".", "--configmap", "settings"],
        &["--configmap", "settings"],
    ),
    (
        &["run", "--dir", ".", "--set", "hsts"],
        &["--set", "hsts", "NAME=VALUE"],
    ),
    (
        &["run", "--dir", ".", "--set", "proxy-body-size=large"],
        &["--set", "proxy-body-size", "large"],
    ),
    (
        &["run", "--dir", ".", "--set", "proxy-conect-timeout=3s"],
        &["--set", "proxy-conect-timeout", "proxy-connect-timeout"],
    ),
    (
        &[
            "run",
            "--dir",
            ".",
            "--set",
            "proxy-real-ip-cidr=10.0.0.0/40",
        ],
        &["--set", "proxy-real-ip-cidr", "10.0.0.0/40"],
    ),
    (
        &["run", "--dir", ".", "--no-such-flag"],
        &["--no-such-flag"],
    ),
    (&["serve"], &["serve"]),
    (&["generate", "docs"], &["--out"]),
    (&["check"], &["DIR"]),
    (&["check", "/no/such/folder"], &["/no/such/folder"]),
    (&["check", "Cargo.toml"], &["Cargo.toml", "it is a file"]),
    (&["explain", "."], &["explain"]),
    (
        &["explain", "Cargo.toml", "GET", "http://a.test/"],
        &["Cargo.toml", "it is a file"],
    ),
    (
        &["explain", "--admin", "127.0.0.1:1", "GET", "http://a.test/"],
        &["127.0.0.1:1", "--admin", "ready line"],
    ),
    (
        &["cert", "list", "--admin", "http://127.0.0.1:1/x"],
        &["--admin", "'http://127.0.0.1:1/x'", "leave out"],
    ),
    (
        &["cert", "list", "--admin", "http://127.0.0.1:99999"],
        &["--admin", "'http://127.0.0.1:99999'", "no port"],
    ),
    (
        &["cert", "list", "--admin", "http://u:p@127.0.0.1:1"],
        &["--admin", "takes no user", "http://127.0.0.1:9091"],
    ),
    (&["explain", ".", "GET", "not a url"], &["not a url"]),
    (
        &[
            "explain",
            "--admin",
            "127.0.0.1:1",
            "--acme",
            "issuers.yaml",
            "GET",
            "http://a.test/",
        ],
        &["takes no --acme", "leave --acme out"],
    ),
    (&["echo", "--listen", "nowhere"], &["--listen", "nowhere"]),
];

#[test]
fn every_flag_error_is_a_sentence() {
    let mut wrong = Vec::new();
    for (arguments, words) in FLAGS {
        // A command line that is taken would run for ever: it gets a moment, then counts as taken.
        let mut process = gateway::Process::start(*arguments);
        let status = process.wait_end(std::time::Duration::from_secs(10));
        let text = process.stderr.all().join("\n");
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        let failed =
            status.is_some_and(|status| status.code().is_some_and(|code| code == 1 || code == 2));
        if !failed || !missing.is_empty() || text.contains("panicked") {
            wrong.push(format!(
                "{arguments:?}: {status:?}, does not name {missing:?}: {text}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn help_and_version_work() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["version"],
        &["--version"],
    ] {
        let output = gateway::run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        assert!(output.stdout.len() > 5, "{arguments:?} prints something");
    }
}

/// A broken manifest: text, code of the diagnostic, and what it must name.
struct Broken {
    text: String,
    code: &'static str,
    names: &'static [&'static str],
}

fn broken(code: &'static str, names: &'static [&'static str], text: impl Into<String>) -> Broken {
    Broken {
        text: text.into(),
        code,
        names,
    }
}

fn one_rule(host: &str, path: &str, kind: &str, backend: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: bad, namespace: demo}}\n\
         spec: {{ingressClassName: gatehouse, rules: [{{host: '{host}', http: {{paths: [\
         {{path: '{path}', pathType: {kind}, backend: {backend}}}]}}}}]}}\n"
    )
}

const APP: &str = "{service: {name: app, port: {number: 80}}}";

fn manifests_that_do_not_decode() -> Vec<Broken> {
    let invalid = ["Ingress/demo/bad"].as_slice();
    vec![
        broken("FileUnreadable", &["broken.yaml"], "kind: [Ingress\n"),
        broken("ObjectInvalid", &["broken.yaml"], "\tkind: Ingress\n"),
        broken("FileUnreadable", &["broken.yaml"], "kind: \"Ingr"),
        broken("ObjectInvalid", &["broken.yaml"], "just text\n"),
        broken("ObjectInvalid", &["broken.yaml"], "- 1\n- 2\n"),
        broken(
            "ObjectInvalid",
            &["broken.yaml", "kind"],
            "apiVersion: v1\nmetadata: {name: x}\n",
        ),
        broken(
            "ObjectInvalid",
            &["name"],
            "apiVersion: v1\nkind: Service\nmetadata: {namespace: demo}\n",
        ),
        broken(
            "ObjectInvalid",
            invalid,
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: bad, namespace: demo}\nspec: {rules: text}\n",
        ),
        broken(
            "ObjectInvalid",
            &["Service/demo/bad"],
            "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: demo}\nspec: {ports: [{port: eighty}]}\n",
        ),
        broken(
            "KindSkipped",
            &["Deployment"],
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: demo}\n",
        ),
        broken(
            "ApiVersionOld",
            &["Ingress/demo/bad", "networking.k8s.io/v1"],
            "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: bad, namespace: demo}\nspec: {ingressClassName: gatehouse, \
             rules: [{host: old.test, http: {paths: [{path: /, backend: {serviceName: app, servicePort: 80}}]}}]}\n",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rules_that_do_not_work() -> Vec<Broken> {
    vec![
        broken(
            "HostInvalid",
            &["Ingress/demo/bad", "spec.rules[0].host"],
            one_rule("bad host", "/", "Prefix", APP),
        ),
        broken(
            "HostInvalid",
            &["Ingress/demo/bad", "spec.rules[0].host"],
            one_rule("*.*.test", "/", "Prefix", APP),
        ),
        broken(
            "HostInvalid",
            &["Ingress/demo/bad", "spec.rules[0].host"],
            one_rule("a.*.test", "/", "Prefix", APP),
        ),
        broken(
            "HostInvalid",
            &["Ingress/demo/bad", "spec.rules[0].host"],
            one_rule("1.2.3.4", "/", "Prefix", APP),
        ),
        broken(
            "PathInvalid",
            &["Ingress/demo/bad", "spec.rules[0].http.paths[0].path"],
            one_rule("p.test", "no-slash", "Exact", APP),
        ),
        broken(
            "PathTypeInvalid",
            &["Ingress/demo/bad", "spec.rules[0].http.paths[0].pathType"],
            one_rule("p.test", "/", "Regex", APP),
        ),
        broken(
            "ServiceMissing",
            &["Ingress/demo/bad", "`nobody`"],
            one_rule(
                "s.test",
                "/",
                "Prefix",
                "{service: {name: nobody, port: {number: 80}}}",
            ),
        ),
        broken(
            "ServicePortMissing",
            &["Ingress/demo/bad", "81"],
            one_rule(
                "s.test",
                "/",
                "Prefix",
                "{service: {name: app, port: {number: 81}}}",
            ),
        ),
        broken(
            "ServicePortMissing",
            &["Ingress/demo/bad", "web"],
            one_rule(
                "s.test",
                "/",
                "Prefix",
                "{service: {name: app, port: {name: web}}}",
            ),
        ),
        broken(
            "BackendInvalid",
            &["Ingress/demo/bad", "backend"],
            one_rule("s.test", "/", "Prefix", "{service: {name: app}}"),
        ),
        broken(
            "BackendInvalid",
            &["Ingress/demo/bad", "backend"],
            one_rule("s.test", "/", "Prefix", "{}"),
        ),
        broken(
            "BackendUnsupported",
            &["Ingress/demo/bad", "resource"],
            one_rule(
                "s.test",
                "/",
                "Prefix",
                "{resource: {apiGroup: x.y, kind: Bucket, name: b}}",
            ),
        ),
        broken(
            "EndpointsMissing",
            &["empty"],
            manifests::service("empty", &[])
                + &one_rule(
                    "e.test",
                    "/",
                    "Prefix",
                    "{service: {name: empty, port: {number: 80}}}",
                ),
        ),
        broken(
            "EndpointInvalid",
            &["Service/demo/app", "not-an-address"],
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: bad, namespace: demo, labels: {kubernetes.io/service-name: app}}\n\
             addressType: IPv4\nports: [{name: http, port: 80}]\nendpoints: [{addresses: [not-an-address]}]\n",
        ),
        broken(
            "ClassUnknown",
            &["Ingress/demo/bad", "elsewhere"],
            one_rule("c.test", "/", "Prefix", APP)
                .replace("ClassName: gatehouse", "ClassName: elsewhere"),
        ),
        broken(
            "RouteConflict",
            &["Ingress/demo/bad", "Ingress/demo/good"],
            one_rule("good.test", "/", "Prefix", APP),
        ),
        broken(
            "ObjectDuplicate",
            &["Ingress/demo/good", "broken.yaml"],
            manifests::ingress("good", "good.test", &[("/", "Prefix", "app")]),
        ),
    ]
}

fn secrets_that_do_not_work() -> Vec<Broken> {
    let (one, other) = (Pair::new(&["t.test"]), Pair::new(&["other.test"]));
    let old = Pair::until(&["t.test"], 2020);
    let with = |secret: String| {
        secret
            + &manifests::ingress_with(
                "bad",
                "t.test",
                &manifests::tls("t.test", "bad"),
                &[("/", "Prefix", "app")],
            )
    };
    vec![
        broken(
            "SecretMissing",
            &["Ingress/demo/bad", "demo/bad"],
            with(String::new()),
        ),
        broken(
            "CertificateInvalid",
            &["Secret/demo/bad"],
            with(manifests::secret("bad", "garbage", "garbage")),
        ),
        broken(
            "CertificateInvalid",
            &["Secret/demo/bad"],
            with(manifests::secret("bad", &one.certificate, &other.key)),
        ),
        broken(
            "CertificateInvalid",
            &["Secret/demo/bad"],
            with(manifests::secret("bad", &one.certificate, "garbage")),
        ),
        broken(
            "CertificateInvalid",
            &["Secret/demo/bad", "tls.key"],
            with(
                manifests::secret("bad", &one.certificate, "x")
                    .replace("  tls.key: |\n    x\n", ""),
            ),
        ),
        broken(
            "CertificateExpired",
            &["Secret/demo/bad", "t.test", "2020-12-31"],
            with(manifests::secret("bad", &old.certificate, &old.key)),
        ),
        broken(
            "CertificateNameMismatch",
            &["t.test"],
            with(manifests::secret("bad", &other.certificate, &other.key)),
        ),
    ]
}

fn good(scratch: &Scratch, backend: &Backend) {
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("good", "good.test", &[("/", "Prefix", "app")]);
    scratch.write("a-good.yaml", text);
}

/// Puts each broken manifest beside a good one: it is reported, by the running gateway and by
/// `check`, and the good one goes on.
fn harmless(all: &[Broken]) {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    good(&scratch, &backend);
    let gateway = Gateway::start(scratch.path(), &[]);
    gateway.wait_status("good.test", "/", 200);
    for Broken { text, code, names } in all {
        scratch.replace("broken.yaml", text);
        let parts: Vec<&str> = std::iter::once(*code)
            .chain(names.iter().copied())
            // What is skipped is told in one line for all files.
            .chain((*code != "KindSkipped").then_some(".yaml"))
            .collect();
        let found = gateway.wait_diagnostic(&parts);
        let value: serde_json::Value = serde_json::from_str(&found).expect("a diagnostic is JSON");
        let message = value["message"].as_str().unwrap_or_default();
        assert!(
            message.len() > 15 && !message.ends_with('.'),
            "a sentence without a full stop: {found}"
        );
        gateway.wait_status("good.test", "/", 200);
        reported_by_check(scratch.path(), &parts);
        scratch.remove("broken.yaml");
        let gone = || (!gateway.diagnostics().contains(code)).then_some(());
        wait::until(&format!("{code} is gone with its cause"), gone);
    }
    let log = gateway.process.stderr.all().join("\n");
    assert!(!log.contains("panicked"), "{log}");
}

fn reported_by_check(dir: &Path, parts: &[&str]) {
    let output = gateway::run(["check".as_ref(), dir.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .find(|line| parts.iter().all(|part| line.contains(part)));
    assert!(line.is_some(), "check names {parts:?}: {text}");
    if line.is_some_and(|line| line.starts_with("error")) {
        assert_eq!(
            output.status.code(),
            Some(1),
            "errors make check fail: {text}"
        );
    }
}

#[test]
fn manifests_that_do_not_decode_are_named_and_harm_nobody() {
    harmless(&manifests_that_do_not_decode());
}

#[test]
fn rules_that_do_not_work_are_named_and_harm_nobody() {
    harmless(&rules_that_do_not_work());
}

#[test]
fn secrets_that_do_not_work_are_named_and_harm_nobody() {
    harmless(&secrets_that_do_not_work());
}

#[test]
fn check_is_content_with_a_good_directory() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    good(&scratch, &backend);
    let output = gateway::run(["check".as_ref(), scratch.path().as_os_str()]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn the_last_good_version_of_a_broken_ingress_keeps_serving() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    good(&scratch, &backend);
    scratch.write(
        "b.yaml",
        manifests::ingress("edited", "edited.test", &[("/", "Prefix", "app")]),
    );
    let gateway = Gateway::start(scratch.path(), &[]);
    gateway.wait_status("edited.test", "/", 200);
    for text in [
        "kind: [",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: edited, namespace: demo}\nspec: {rules: text}\n",
    ] {
        scratch.replace("b.yaml", text);
        gateway.wait_diagnostic(&["b.yaml"]);
        gateway.wait_status("edited.test", "/", 200);
    }
    scratch.replace(
        "b.yaml",
        manifests::ingress("edited", "moved.test", &[("/", "Prefix", "app")]),
    );
    gateway.wait_status("moved.test", "/", 200);
    gateway.wait_status("edited.test", "/", 404);
}

#[test]
fn the_last_good_certificate_keeps_serving() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    good(&scratch, &backend);
    let pair = Pair::new(&["t.test"]);
    scratch.write(
        "tls.yaml",
        manifests::ingress_with(
            "t",
            "t.test",
            &manifests::tls("t.test", "t"),
            &[("/", "Prefix", "app")],
        ),
    );
    scratch.write(
        "secret.yaml",
        manifests::secret("t", &pair.certificate, &pair.key),
    );
    let gateway = Gateway::start(scratch.path(), &[]);
    let served = || {
        Handshake::new("t.test")
            .connect(gateway.https)
            .expect("TLS handshake")
            .common_name()
    };
    wait::until("the certificate is served", || {
        (served() == "t.test").then_some(())
    });
    scratch.replace(
        "secret.yaml",
        manifests::secret("t", &pair.certificate, &Pair::new(&["x.test"]).key),
    );
    gateway.wait_diagnostic(&["CertificateInvalid", "Secret/demo/t"]);
    assert_eq!(served(), "t.test");
}

#[test]
fn a_bad_setting_in_the_configmap_is_named_and_the_others_hold() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    good(&scratch, &backend);
    let settings = |data: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: gw, namespace: demo}}\ndata: {{{data}}}\n"
        )
    };
    scratch.write(
        "gw.yaml",
        settings("proxy-body-size: huge, max-target-size: 1k"),
    );
    let gateway = Gateway::start(scratch.path(), &["--configmap=demo/gw"]);
    gateway.wait_diagnostic(&[
        "SettingInvalid",
        "ConfigMap/demo/gw",
        "proxy-body-size",
        "huge",
    ]);
    gateway.wait_status("good.test", &format!("/{}", "a".repeat(2_000)), 414);
    scratch.replace("gw.yaml", settings("max-target-size: 4k"));
    gateway.wait_status("good.test", &format!("/{}", "a".repeat(2_000)), 200);
}
