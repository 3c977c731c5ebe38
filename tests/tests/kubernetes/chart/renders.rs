//! What is rendered: as reviewed, accepted by the API server to the last field, and no more
//! privileged than it has to be.

use std::fs;
use std::path::Path;

use gatehouse_tests::gateway;
use gatehouse_tests::kubernetes::{ApiServer, Helm, chart, cluster, tool};
use serde_json::{Value, json};

use super::{RELEASE, arguments, cases, objects, pod, text};

/// Compares with a file, or writes it.
fn differs(file: &Path, now: &str) -> bool {
    if fs::read_to_string(file).unwrap_or_default() == now {
        return false;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, now).expect("a golden file");
        return false;
    }
    println!("--- {} is now:\n{now}", file.display());
    true
}

/// Manifests for `kubectl apply`, without what only helm needs.
fn plain(mode: &str) -> String {
    let chart = chart().display().to_string();
    let mode = format!("--set=mode={mode}");
    let flags = ["template", RELEASE, &chart, "--namespace", RELEASE];
    let helm = Helm::alone();
    let rendered = helm.run(&[&flags[..], &["--skip-tests", &mode]].concat(), "");
    let of_helm = ["helm.sh/chart:", "app.kubernetes.io/managed-by:"];
    let lines = rendered.success();
    let lines = lines
        .lines()
        .filter(|line| !of_helm.iter().any(|label| line.trim().starts_with(label)));
    let lines: Vec<&str> = lines.collect();
    // Where Pod Security is enforced for the whole cluster, ports of nodes have to be allowed.
    let ports = lines
        .iter()
        .any(|line| line.trim().starts_with("hostPort:"));
    let level = if ports {
        "  labels:\n    pod-security.kubernetes.io/enforce: privileged\n"
    } else {
        ""
    };
    format!(
        "# Rendered from the chart next to this file with {}; a test keeps it fresh. Apply it with `kubectl apply -f`.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {RELEASE}\n{level}{}\n",
        mode.trim_start_matches("--set="),
        lines.join("\n")
    )
}

#[test]
fn the_chart_renders_what_was_reviewed() {
    cluster::alone(|| {
        let mut files = Vec::new();
        for case in cases() {
            files.push((case.folder.join("manifests.yaml"), case.render()));
        }
        for mode in ["deployment", "daemonset"] {
            let file = gateway::workspace().join(format!("manifests/{mode}.yaml"));
            files.push((file, plain(mode)));
        }
        files.retain(|(file, now)| differs(file, now));
        let files: Vec<_> = files.iter().map(|(file, _)| file).collect();
        assert!(files.is_empty(), "differ: {files:#?}");
    });
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    cluster::alone(|| {
        let chart = chart().display().to_string();
        for case in cases() {
            let flags = ["lint", "--strict", &chart, "--values=-"];
            let finished = Helm::alone().run(&flags, &case.values);
            assert!(finished.ok(), "{}: {}", case.name, finished.text());
        }
    });
}

/// Asks the API server what it would say.
const APPLY: &[&str] = &[
    "apply",
    "--server-side",
    "--dry-run=server",
    "--validate=strict",
    "-f",
    "-",
];

/// The kinds of the Prometheus operator.
fn definitions(server: &ApiServer) {
    let definitions = tool("definitions/monitoring.coreos.com_podmonitors.yaml");
    let definitions = definitions
        .parent()
        .expect("a folder")
        .display()
        .to_string();
    let kubectl = server.kubectl();
    kubectl
        .run(&["apply", "--server-side", "-f", &definitions])
        .success();
    let established = ["wait", "--for=condition=Established", "crd", "--all"];
    kubectl.run(&established).success();
}

/// What the manifests of the cases refer to.
fn prepare(server: &ApiServer) {
    definitions(server);
    let kubectl = server.kubectl();
    let mut needed = String::new();
    for namespace in ["shop", "pay", "certificates", "balancers", RELEASE] {
        needed +=
            &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}\n---\n");
    }
    for level in ["restricted", "baseline", "privileged"] {
        let label = format!("{{pod-security.kubernetes.io/enforce: {level}}}");
        needed += &format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {level}, labels: {label}}}}}\n---\n"
        );
        for account in [RELEASE, "edge", "existing", "default"] {
            let place = format!("{{name: {account}, namespace: {level}}}");
            needed +=
                &format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {place}}}\n---\n");
        }
    }
    // A controller that is not there would make it.
    needed += &format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {RELEASE}}}}}\n"
    );
    kubectl.apply(&needed);
}

/// Whether a pod may be created where the namespace enforces this level of Pod Security.
fn admitted(server: &ApiServer, level: &str, pod: &Value) -> Result<(), String> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": level, "labels": pod["metadata"]["labels"]},
        "spec": pod["spec"],
    });
    let flags = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
    let finished = server.kubectl().run_with(&flags, &pod.to_string());
    if finished.ok() {
        return Ok(());
    }
    Err(finished.text())
}

#[test]
fn the_api_server_accepts_every_field_and_pods_need_no_privileges() {
    cluster::shared(|server| {
        prepare(server);
        for case in cases() {
            let manifests = case.render();
            let finished = server.kubectl().run_with(APPLY, &manifests);
            assert!(finished.ok(), "{}: {}", case.name, finished.text());

            let objects = objects(&manifests);
            let pod = pod(&objects);
            // That of `helm test` comes to the network of the node only where the gateway is on it.
            let tested = if pod["spec"]["hostNetwork"] == true {
                "privileged"
            } else {
                "restricted"
            };
            for test in objects
                .iter()
                .filter(|object| text(object, "/kind") == "Pod")
            {
                admitted(server, tested, test).expect("a pod of helm test");
            }
            let node = ["daemonset", "daemonset-host-network"].contains(&case.name.as_str());
            if !node {
                admitted(server, "restricted", pod).expect(&case.name);
                continue;
            }
            // Ports of the node are a privilege to Pod Security, and the only one that is asked for.
            let refused = admitted(server, "baseline", pod).expect_err(&case.name);
            assert!(
                refused.contains("hostPort") || refused.contains("hostNetwork"),
                "{refused}"
            );
            for word in ["seccomp", "runAsNonRoot", "capabilities"] {
                assert!(!refused.contains(word), "{refused}");
            }
            admitted(server, "privileged", pod).expect(&case.name);
        }
        for mode in ["deployment", "daemonset"] {
            let file = gateway::workspace().join(format!("manifests/{mode}.yaml"));
            let manifests = fs::read_to_string(file).expect("plain manifests");
            let finished = server.kubectl().run_with(APPLY, &manifests);
            assert!(finished.ok(), "{mode}: {}", finished.text());
        }
    });
}

#[test]
fn a_release_without_the_section_of_certificates_orders_none() {
    cluster::alone(|| {
        let render = |values: &str| Helm::alone().render(RELEASE, RELEASE, values);
        let defaults = render("").success();
        for values in ["certificates: null", "certificates: {issuers: null}"] {
            assert_eq!(render(values).success(), defaults, "{values}");
        }
        let some = "certificates: {unlisted: null, keepUnwanted: null, secrets: null, \
             issuers: {a: {directory: 'https://x', acceptTerms: true}}}";
        let rendered = render(some).success();
        for words in ["unlisted: deny", "--acme-keep-unwanted=72h"] {
            assert!(rendered.contains(words), "{words}: {rendered}");
        }
    });
}

/// Words that YAML 1.1 takes for something else, where a name may stand.
const WORDS: &str = "
fullnameOverride: 'on'
nameOverride: 'null'
commonLabels: {a: '1', b: 'yes'}
image: {pullSecrets: ['7']}
ingressClass: {name: 'on', default: true}
watchNamespaces: ['2025', 'true']
defaultCertificate: 1/2
status: {publishService: 3/4}
serviceAccount: {name: '8'}
leaderElection: {id: 'off'}
certificates:
  issuers: {'1': {directory: 'https://ca.example.org', acceptTerms: true, caBundle: '9'}}
  secrets: ['9']
  writeNamespaces: ['2025']
pod:
  priorityClassName: '100'
  labels: {c: 'no'}
  annotations: {d: '1e3'}
metrics:
  serviceMonitor: {enabled: true, labels: {e: '0'}}
  prometheusRule: {enabled: true, job: '5'}
  dashboard: {enabled: true}
networkPolicy: {enabled: true, adminFrom: [{podSelector: {matchLabels: {f: '6'}}}]}
";

#[test]
fn names_that_look_like_numbers_or_booleans_stay_names() {
    cluster::shared(|server| {
        let kubectl = server.kubectl();
        for namespace in ["2025", "true", "1", "3"] {
            kubectl.run(&["create", "namespace", namespace]).success();
        }
        // A controller that is not there would make it.
        let account = ["create", "serviceaccount", "default", "-n", "2025"];
        kubectl.run(&account).success();
        definitions(server);
        let finished = Helm::alone().render("2024", "2025", WORDS);
        let manifests = finished.success();
        let finished = server.kubectl().run_with(APPLY, &manifests);
        assert!(finished.ok(), "{}\n{manifests}", finished.text());
    });
}

#[test]
fn on_the_network_of_the_node_the_admin_port_is_for_the_node() {
    cluster::alone(|| {
        let seen = |values: &str| {
            let manifests = Helm::alone().render(RELEASE, RELEASE, values).success();
            let objects = objects(&manifests);
            let listen = arguments(&objects)
                .into_iter()
                .find_map(|argument| argument.strip_prefix("--admin-listen="));
            let container = &pod(&objects)["spec"]["containers"][0];
            let probes = ["readinessProbe", "livenessProbe"]
                .map(|probe| text(&container[probe], "/httpGet/host").to_owned());
            let services = objects
                .iter()
                .filter(|object| text(object, "/metadata/name") == "gatehouse-admin");
            let listen = listen.expect("an address").to_owned();
            (listen, probes, services.count())
        };
        let host = "{mode: daemonset, daemonset: {hostNetwork: true}";
        let inside = ["127.0.0.1", "127.0.0.1"].map(str::to_owned);
        let anywhere = ["", ""].map(str::to_owned);
        assert_eq!(
            seen(&format!("{host}}}")),
            ("127.0.0.1:9091".to_owned(), inside, 0)
        );
        let asked = format!("{host}, listen: {{adminAddress: 0.0.0.0}}}}");
        assert_eq!(
            seen(&asked),
            ("0.0.0.0:9091".to_owned(), anywhere.clone(), 1)
        );
        // The network of the pod is nobody else's.
        assert_eq!(seen("{}"), ("0.0.0.0:9091".to_owned(), anywhere.clone(), 1));
        let six = "listen: {address: '::'}";
        assert_eq!(seen(six), ("[::]:9091".to_owned(), anywhere, 1));
    });
}

#[test]
fn alarms_and_dashboard_speak_of_metrics_that_exist() {
    let read = |file: &str| {
        let path = gateway::workspace().join(file);
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let reference = read("docs/reference/metrics.md");
    for file in ["templates/_alarms.tpl", "files/dashboard.json"] {
        let text = read(&format!("manifests/chart/gatehouse/{file}"));
        let mut names = 0;
        for part in text.split("gatehouse_").skip(1) {
            let end = part.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let name = part[..end.unwrap_or(part.len())].trim_end_matches("_bucket");
            assert!(
                reference.contains(&format!("`gatehouse_{name}`")),
                "{file}: gatehouse_{name}"
            );
            names += 1;
        }
        assert!(names > 10, "{file} names metrics");
    }
    // Of findings by their codes, too. Classes of status are codes as well, and begin with a digit.
    let findings = read("docs/reference/diagnostics.md");
    let alarms = read("manifests/chart/gatehouse/templates/_alarms.tpl");
    let mut codes = 0;
    for part in alarms
        .split("code=\"")
        .chain(alarms.split("code!=\""))
        .skip(1)
    {
        let code = part.split('"').next().unwrap_or_default();
        if code.starts_with(char::is_uppercase) {
            assert!(findings.contains(&format!("| `{code}` |")), "{code}");
            codes += 1;
        }
    }
    assert!(codes > 2, "codes of findings");
    serde_json::from_str::<Value>(&read("manifests/chart/gatehouse/files/dashboard.json"))
        .expect("JSON");
}
