//! An Ingress that restricts access in a way that cannot be applied answers nobody, in each of its
//! places; its neighbours on the same host do not notice. The admin server is closed to web pages.

use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::raw;

fn annotated(name: &str, host: &str, annotation: &str, path: &str) -> String {
    let metadata = format!("{{name: {name}, namespace: demo}}");
    let with = format!(
        "{{name: {name}, namespace: demo, \
         annotations: {{nginx.ingress.kubernetes.io/{annotation}}}}}"
    );
    manifests::ingress(name, host, &[(path, "Prefix", "app")]).replace(&metadata, &with)
}

const RESTRICTIONS: [&str; 5] = [
    "auth-type: basic",
    "auth-url: 'http://auth.test/check'",
    "whitelist-source-range: 127.0.0.0/8",
    "enable-modsecurity: 'true'",
    "configuration-snippet: 'deny all;'",
];

#[test]
fn a_restriction_that_cannot_be_applied_closes_the_door_of_its_ingress_alone() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    scratch.write(
        "app.yaml",
        manifests::class()
            + &manifests::service("app", &[backend.address])
            + &manifests::ingress("open", "shop.test", &[("/", "Prefix", "app")]),
    );
    scratch.write(
        "admin.yaml",
        manifests::ingress("admin", "shop.test", &[("/admin", "Prefix", "app")]),
    );
    let gateway = Gateway::start(scratch.path(), &[]);
    gateway.wait_status("shop.test", "/admin", 200);
    for restriction in RESTRICTIONS {
        scratch.replace(
            "admin.yaml",
            annotated("admin", "shop.test", restriction, "/admin"),
        );
        gateway.wait_status("shop.test", "/admin", 503);
        backend.take();
        for path in ["/admin", "/admin/", "/admin/x", "/%61dmin", "/x/../admin"] {
            gateway.wait_status("shop.test", path, 503);
        }
        assert!(backend.requests().is_empty(), "{restriction}: nothing came");
        gateway.wait_status("shop.test", "/cart", 200);
        gateway.wait_diagnostic(&["AnnotationRefused", "Ingress/demo/admin", "admin.yaml"]);

        scratch.replace(
            "admin.yaml",
            manifests::ingress("admin", "shop.test", &[("/admin", "Prefix", "app")]),
        );
        gateway.wait_status("shop.test", "/admin", 200);
    }
}

#[test]
fn a_restriction_of_a_whole_host_closes_it_for_its_namespace_and_no_other() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    let open = |name, path| manifests::ingress(name, "shop.test", &[(path, "Prefix", "app")]);
    let app = manifests::service("app", &[backend.address]);
    scratch.write(
        "app.yaml",
        manifests::class() + &app + &open("cart", "/cart") + &open("admin", "/admin"),
    );
    let neighbour = app + &open("neighbour", "/team");
    scratch.write("team.yaml", neighbour.replace("demo", "team"));
    let gateway = Gateway::start(scratch.path(), &[]);
    let statuses = |cart| {
        gateway.wait_status("shop.test", "/cart", cart);
        gateway.wait_status("shop.test", "/team", 200);
    };
    statuses(200);
    for restriction in ["auth-tls-secret: demo/ca", "server-snippet: 'deny all;'"] {
        let restricting = annotated("door", "shop.test", restriction, "/door");
        scratch.replace("door.yaml", &restricting);
        statuses(503);
        gateway.wait_status("shop.test", "/admin", 503);
        gateway.wait_diagnostic(&["AnnotationRefused", "Ingress/demo/cart", "app.yaml"]);
        gateway.wait_diagnostic(&["AnnotationElsewhere", "Ingress/team/neighbour"]);
        // A tenant who asks for it on a host that others serve, too, closes the own door only.
        scratch.replace("door.yaml", restricting.replace("demo", "other"));
        statuses(200);
        gateway.wait_status("shop.test", "/door", 503);
        scratch.remove("door.yaml");
        gateway.wait_status("shop.test", "/admin", 200);
    }
}

#[test]
fn the_implicit_root_of_a_closed_ingress_does_not_lead_to_the_default_backend() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    scratch.write(
        "app.yaml",
        manifests::class()
            + &manifests::service("app", &[backend.address])
            + &annotated("closed", "closed.test", "auth-type: basic", "/admin"),
    );
    let gateway = Gateway::start(scratch.path(), &["--default-backend-service", "demo/app"]);
    gateway.wait_status("closed.test", "/", 503);
    gateway.wait_status("other.test", "/", 200);
}

fn settings(data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: gw, namespace: demo}}\ndata: {{{data}}}\n"
    )
}

#[test]
fn a_restriction_in_the_configmap_closes_every_route_until_it_is_removed() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    scratch.write(
        "app.yaml",
        manifests::class()
            + &manifests::service("app", &[backend.address])
            + &manifests::ingress("app", "shop.test", &[("/cart", "Prefix", "app")]),
    );
    let harmless =
        settings("hsts: 'false', whitelist-source-range: '', enable-modsecurity: 'false'");
    scratch.write("gw.yaml", &harmless);
    let flags = ["--configmap=demo/gw", "--default-backend-service=demo/app"];
    let gateway = Gateway::start(scratch.path(), &flags);
    for restriction in [
        "whitelist-source-range: 10.0.0.0/8",
        "block-cidrs: 192.0.2.0/24",
        "global-auth-url: 'http://auth.test/'",
        "http-snippet: 'deny all;'",
        "enable-modsecurity: 'true'",
    ] {
        gateway.wait_status("shop.test", "/cart", 200);
        gateway.wait_status("other.test", "/", 200);
        scratch.replace("gw.yaml", settings(restriction));
        gateway.wait_status("shop.test", "/cart", 503);
        backend.take();
        for (host, path) in [
            ("shop.test", "/cart/x"),
            ("shop.test", "/"),
            ("other.test", "/"),
        ] {
            gateway.wait_status(host, path, 503);
        }
        gateway.wait_status("other.test", "/healthz", 200);
        assert!(backend.requests().is_empty(), "{restriction}: nothing came");
        let key = restriction.split(':').next().unwrap_or_default();
        gateway.wait_diagnostic(&["SettingRefused", "ConfigMap/demo/gw", "gw.yaml", key]);

        // A broken ConfigMap leaves the last good one in force: still closed.
        scratch.replace("gw.yaml", "kind: [");
        gateway.wait_diagnostic(&["FileUnreadable", "gw.yaml"]);
        gateway.wait_status("shop.test", "/cart", 503);
        scratch.replace("gw.yaml", &harmless);
    }
    gateway.wait_status("shop.test", "/cart", 200);
}

#[test]
fn check_and_explain_name_the_setting_that_closes_and_set_refuses_it() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    scratch.write(
        "app.yaml",
        manifests::class()
            + &manifests::service("app", &[backend.address])
            + &manifests::ingress("app", "shop.test", &[("/", "Prefix", "app")])
            + &settings("block-user-agents: '~*bot'"),
    );
    let folder = scratch.path().as_os_str();
    let flag = "--configmap=demo/gw".as_ref();
    let output = gateway::run(["check".as_ref(), flag, folder]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error[SettingRefused]"), "{text}");

    let url = "http://shop.test/".as_ref();
    let output = gateway::run(["explain".as_ref(), flag, folder, "GET".as_ref(), url]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "503",
        "broken_policy",
        "SettingRefused",
        "block-user-agents",
    ] {
        assert!(text.contains(part), "explain names {part}: {text}");
    }

    let set = "--set=block-cidrs=192.0.2.0/24".as_ref();
    let output = gateway::run(["run".as_ref(), "--dir".as_ref(), folder, set]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["--set", "`block-cidrs`", "does not start", "remove it"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn check_fails_and_explain_says_why() {
    let (backend, scratch) = (Backend::plain(), Scratch::new());
    scratch.write(
        "app.yaml",
        manifests::class()
            + &manifests::service("app", &[backend.address])
            + &annotated("admin", "shop.test", "auth-url: 'http://auth.test/'", "/"),
    );
    let folder = scratch.path().as_os_str();
    let output = gateway::run(["check".as_ref(), folder]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error[AnnotationRefused]"), "{text}");

    let url = "http://shop.test/";
    let output = gateway::run(["explain".as_ref(), folder, "GET".as_ref(), url.as_ref()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["503", "broken_policy", "AnnotationRefused", "auth-url"] {
        assert!(text.contains(part), "explain names {part}: {text}");
    }
}

#[test]
fn a_web_page_whose_name_resolves_to_loopback_reads_nothing_of_the_admin_server() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(scratch.path(), &[]);
    let ask = |host: &str| raw::get(gateway.admin, host, "/api/snapshot").expect("an answer");
    let answer = ask("rebound.example:9091");
    assert_eq!(answer.status, 421);
    assert!(answer.text().contains("http://127.0.0.1"), "{answer:?}");
    assert!(!answer.text().contains("generation"), "{answer:?}");
    for host in [
        "localhost",
        "gateway.localhost:9091",
        "127.0.0.1",
        "[::1]:9091",
    ] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
}
