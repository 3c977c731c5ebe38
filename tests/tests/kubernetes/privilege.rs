//! Everything that `gatehouse generate rbac` prints is used, and nothing else is asked for: roles
//! and audit log are compared in both directions, with all that a replica ever writes.

use gatehouse_tests::gateway::{self, Gateway};
use gatehouse_tests::kubernetes::{ApiServer, Audited, Kubectl, Space, cluster};
use gatehouse_tests::tls::Pair;
use gatehouse_tests::{manifests, wait};
use serde_json::{Value, json};

const RULE: &[(&str, &str, &str)] = &[("/", "Prefix", "app")];
const WRONG: &[(&str, &str, &str)] = &[("/", "Prefix", "old"), ("/b", "Prefix", "missing")];

/// One verb that a role gives.
#[derive(Debug, PartialEq)]
struct Right {
    verb: String,
    group: String,
    resource: String,
    /// Empty: in every namespace.
    namespace: String,
    /// Empty: every object.
    names: Vec<String>,
}

impl Right {
    fn covers(&self, line: &Audited) -> bool {
        self.verb == line.verb
            && self.group == line.group
            && self.resource == line.resource
            && (self.namespace.is_empty() || self.namespace == line.namespace)
            && (self.names.is_empty() || self.names.contains(&line.name))
    }
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

/// The rights of an account, as the API server has them.
fn rights(kubectl: &Kubectl, account: &str) -> Vec<Right> {
    let text = kubectl
        .run(&["get", "clusterroles,roles", "-A", "-o", "json"])
        .success();
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let mut rights = Vec::new();
    let roles = all["items"].as_array().expect("roles").iter();
    for role in roles.filter(|role| role["metadata"]["name"] == account) {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().expect("rules") {
            for (group, resource) in product(&rule["apiGroups"], &rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.push(Right {
                        verb,
                        group: group.clone(),
                        resource: resource.clone(),
                        namespace: namespace.to_owned(),
                        names: texts(&rule["resourceNames"]),
                    });
                }
            }
        }
    }
    rights
}

fn product(left: &Value, right: &Value) -> Vec<(String, String)> {
    let right = texts(right);
    let pair = |left: String| right.iter().map(move |right| (left.clone(), right.clone()));
    texts(left).into_iter().flat_map(pair).collect()
}

/// An installation in a namespace of its own, for the Ingresses of another.
pub(super) struct Installation<'a> {
    server: &'a ApiServer,
    space: Space<'a>,
    pub(super) own: String,
    flags: Vec<String>,
}

impl<'a> Installation<'a> {
    /// Grants what is printed for these flags; `OWN` in them is the namespace of the installation.
    fn new(server: &'a ApiServer, name: &str, flags: &[&str]) -> Self {
        Self::with(server, name, flags, &[])
    }

    /// The same with flags that `run` does not have.
    pub(super) fn with(server: &'a ApiServer, name: &str, flags: &[&str], only: &[&str]) -> Self {
        // First: roles in namespaces that are watched need them.
        let space = Space::new(server, name);
        let own = format!("{name}-own");
        let flags: Vec<String> = flags.iter().map(|flag| flag.replace("OWN", &own)).collect();
        let installation = Self {
            server,
            space,
            own,
            flags,
        };
        installation.grant(only);
        installation
    }

    /// Grants what is printed with these flags as well.
    pub(super) fn grant(&self, only: &[&str]) {
        let mut arguments = vec!["generate".to_owned(), "rbac".into()];
        arguments.push(format!("--namespace={}", self.own));
        arguments.extend(self.flags.iter().cloned());
        arguments.extend(only.iter().map(|flag| (*flag).to_owned()));
        let printed = gateway::run(arguments);
        assert!(printed.status.success(), "{printed:?}");
        // As people are told to: piped into kubectl apply, as it is.
        let printed = String::from_utf8(printed.stdout).expect("text");
        let kubectl = self.server.kubectl();
        let applied = kubectl.run_with(&["apply", "-f", "-"], &printed);
        println!("{}", applied.success());
    }

    pub(super) fn start(&self, more: &[&str]) -> Gateway {
        let kubeconfig = self.server.service_account(&self.own, "gatehouse");
        let namespace = format!("--pod-namespace={}", self.own);
        let mut flags = vec![namespace.as_str()];
        flags.extend(self.flags.iter().map(String::as_str));
        flags.extend(more);
        self.space.gateway_with(&kubeconfig, &flags)
    }

    /// What the account has asked for so far; nothing was denied.
    pub(super) fn asked(&self) -> Vec<Audited> {
        let user = format!("system:serviceaccount:{}:gatehouse", self.own);
        let lines = self.server.audit().into_iter();
        let lines: Vec<Audited> = lines.filter(|line| line.user == user).collect();
        for line in &lines {
            let denied = [401, 403, 405].contains(&line.status);
            assert!(!denied, "{line:?}");
            assert!(
                !line.resource.is_empty(),
                "no other URL is asked for: {line:?}"
            );
            let agent = concat!("gatehouse/", env!("CARGO_PKG_VERSION"));
            assert_eq!(line.agent, agent, "it says who it is: {line:?}");
        }
        lines
    }

    /// Everything that makes a replica read or write something.
    pub(super) fn use_all(&self, more: &[&str]) {
        let space = &self.space;
        let host = format!("{}.test", space.name);
        let pair = Pair::new(&[&host]);
        let _backend = space.backend("app");
        // A Service without a slice: its Endpoints are asked for.
        space.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: old, namespace: demo}, spec: {ports: [{port: 80}]}}",
        );
        space.apply(&manifests::secret("pair", &pair.certificate, &pair.key));
        let tls = manifests::tls(&host, "pair");
        space.apply(&manifests::ingress_with("good", &host, &tls, RULE));
        space.apply(&manifests::ingress(
            "wrong",
            &format!("wrong.{host}"),
            WRONG,
        ));
        let gateway = self.start(more);
        gateway.wait_status(&host, "/", 308);
        wait::until("the status is written", || {
            let object = space.kubectl().get(&space.name, "ingress/good");
            (!object["status"]["loadBalancer"]["ingress"].is_null()).then_some(())
        });
        self.wait_asked("create", "events");
        assert!(
            !gateway.diagnostics().contains("Forbidden"),
            "{}",
            gateway.diagnostics()
        );
        // The next one finds the Event there and renews it.
        drop(gateway);
        let gateway = self.start(more);
        self.wait_asked("patch", "events");
        drop(gateway);
    }

    fn wait_asked(&self, verb: &str, resource: &str) {
        wait::until(&format!("{resource} are asked for with {verb}"), || {
            let asked = self.asked().into_iter();
            let mut asked = asked.filter(|line| line.verb == verb && line.resource == resource);
            asked.next()
        });
    }

    /// Compares the roles with the audit log.
    pub(super) fn compare(&self) {
        let rights = rights(&self.server.kubectl(), &format!("{}:gatehouse", self.own));
        assert!(rights.len() > 10, "{rights:?}");
        let mut asked = self.asked();
        // A patch that makes an object takes both rights.
        let made = asked
            .iter()
            .filter(|line| line.verb == "patch" && line.status == 201);
        let made: Vec<Audited> = made
            .map(|line| Audited {
                verb: "create".into(),
                ..line.clone()
            })
            .collect();
        asked.extend(made);
        for line in &asked {
            assert!(
                rights.iter().any(|right| right.covers(line)),
                "not printed: {line:?}"
            );
        }
        let unused: Vec<&Right> = rights
            .iter()
            .filter(|right| !asked.iter().any(|line| right.covers(line)))
            .collect();
        assert!(unused.is_empty(), "printed, but never used: {unused:#?}");
    }
}

#[test]
fn with_the_address_of_a_service_every_right_is_used_and_none_is_missing() {
    cluster::shared(|server| {
        let flags = ["--configmap=OWN/settings", "--publish-service=OWN/front"];
        let installation = Installation::new(server, "rights-service", &flags);
        let own = &installation.own;
        server.kubectl().apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: front, namespace: {own}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n---\n\
             {{apiVersion: v1, kind: ConfigMap, metadata: {{name: settings, namespace: {own}}}}}\n"
        ));
        let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}});
        server
            .kubectl()
            .patch_status(own, "service/front", &address);
        installation.use_all(&[]);
        installation.compare();
    });
}

#[test]
fn with_the_addresses_of_nodes_every_right_is_used_and_none_is_missing() {
    cluster::shared(|server| {
        let flags = ["--update-status-on-shutdown"];
        let installation = Installation::new(server, "rights-nodes", &flags);
        let own = &installation.own;
        let kubectl = server.kubectl();
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: rights-node}}\n---\n\
             {{apiVersion: v1, kind: Pod, metadata: {{name: replica, namespace: {own}, labels: {{app: x}}}},\n\
             spec: {{serviceAccountName: gatehouse, nodeName: rights-node, containers: [{{name: x, image: x}}]}}}}\n"
        ));
        let address =
            json!({"status": {"addresses": [{"type": "ExternalIP", "address": "198.51.100.3"}]}});
        kubectl.patch_status("default", "node/rights-node", &address);
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        kubectl.patch_status(own, "pod/replica", &ready);
        installation.use_all(&["--pod-name=replica"]);
        installation.compare();
    });
}

#[test]
fn with_namespaces_every_right_is_used_and_none_reaches_further() {
    cluster::shared(|server| {
        let flags = [
            "--watch-namespace=rights-roles",
            "--configmap=OWN/settings",
            "--default-ssl-certificate=OWN/default",
            "--publish-status-address=203.0.113.9",
        ];
        let installation = Installation::new(server, "rights-roles", &flags);
        let own = &installation.own;
        let pair = Pair::new(&["default.test"]);
        let secret = manifests::secret("default", &pair.certificate, &pair.key);
        let kubectl = server.kubectl();
        kubectl.apply_in(own, &secret.replace(", namespace: demo", ""));
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: settings, namespace: {own}}}}}"
        ));
        installation.use_all(&[]);
        installation.compare();
        let rights = rights(&kubectl, &format!("{own}:gatehouse"));
        assert!(
            rights.iter().all(|right| !right.namespace.is_empty()),
            "{rights:#?}"
        );
    });
}

/// What may be done, and what not: verb, resource, in the namespace of the gateway (`OWN`) or in any
/// other. Part of the resource may be the name of an object.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("list", "ingresses.networking.k8s.io", "", "yes"),
    ("watch", "ingresses.networking.k8s.io", "", "yes"),
    ("patch", "ingresses.networking.k8s.io/status", "", "yes"),
    ("update", "ingresses.networking.k8s.io/status", "", "no"),
    ("patch", "ingresses.networking.k8s.io", "", "no"),
    ("create", "ingresses.networking.k8s.io", "", "no"),
    ("delete", "ingresses.networking.k8s.io", "", "no"),
    ("list", "ingressclasses.networking.k8s.io", "", "yes"),
    ("create", "ingressclasses.networking.k8s.io", "", "no"),
    ("watch", "services", "", "yes"),
    ("update", "services", "", "no"),
    ("watch", "endpointslices.discovery.k8s.io", "", "yes"),
    ("create", "endpointslices.discovery.k8s.io", "", "no"),
    ("list", "secrets", "", "yes"),
    ("get", "secrets", "", "no"),
    ("update", "secrets", "", "no"),
    ("create", "secrets", "", "no"),
    ("delete", "secrets", "", "no"),
    ("list", "configmaps", "", "no"),
    ("create", "events", "", "yes"),
    ("list", "events", "", "no"),
    ("delete", "events", "", "no"),
    ("create", "leases.coordination.k8s.io", "OWN", "yes"),
    ("create", "leases.coordination.k8s.io", "", "no"),
    ("update", "leases/gatehouse-leader", "OWN", "yes"),
    ("update", "leases/other", "OWN", "no"),
    ("list", "pods", "OWN", "yes"),
    ("list", "pods", "", "no"),
    ("create", "pods", "OWN", "no"),
    ("create", "pods/exec", "OWN", "no"),
    ("get", "nodes", "", "yes"),
    ("list", "nodes", "", "no"),
    ("list", "namespaces", "", "no"),
    ("create", "serviceaccounts/token", "OWN", "no"),
    ("create", "clusterrolebindings", "", "no"),
    ("escalate", "roles", "OWN", "no"),
];

/// What an intruder in the gateway's pod could do with its account, by `kubectl auth can-i`.
#[test]
fn the_account_can_do_no_more_than_the_table_says() {
    cluster::shared(|server| {
        let installation = Installation::new(server, "rights-table", &[]);
        let kubeconfig = server.service_account(&installation.own, "gatehouse");
        let account = server.kubectl().with(kubeconfig);
        for (verb, resource, place, expected) in TABLE {
            let namespace = if *place == "OWN" {
                &installation.own
            } else {
                "rights-table"
            };
            // A name behind the resource is an object; a subresource has a flag of its own.
            let (resource, part) = match resource.split_once('/') {
                Some((resource, part @ ("status" | "exec" | "token"))) => (resource, part),
                _ => (*resource, ""),
            };
            let part = format!("--subresource={part}");
            let flags = ["auth", "can-i", verb, resource, "-n", namespace, &part];
            let answer = account.run(&flags).stdout();
            assert_eq!(
                answer.trim(),
                *expected,
                "{verb} {resource} {part} in {namespace}"
            );
        }
    });
}
