//! `gatehouse generate rbac`: the rights that the program needs, as manifests.
//!
//! Pure. The rows come from the table that requests are built from
//! ([`GRANTS`]), so what is printed is what is used.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::flags::ObjectName;
use crate::config::generate::RbacArgs;
use crate::source::kubernetes::resource::{GRANTS, Grant, Purpose, Reach};

/// A rule of a role: a row, and the objects that it is bound to.
struct Rule {
    grant: &'static Grant,
    name: Option<String>,
}

/// Rules by namespace; the empty one is the cluster.
type Rules = BTreeMap<String, Vec<Rule>>;

/// The manifests.
pub fn manifests(args: &RbacArgs) -> String {
    let mut text = String::from(
        "# The rights of Gatehouse, exactly those it uses. Printed by `gatehouse generate rbac`; \
         pipe it into\n# `kubectl apply -f -`.\n",
    );
    if !args.watch_namespace.is_empty() {
        text.push_str(
            "# IngressClasses and nodes belong to no namespace, so they are not read: \
             spec.ingressClassName is compared\n# with --ingress-class, and the status of Ingresses \
             needs --publish-service or --publish-status-address.\n",
        );
    }
    object(&mut text, "v1", "Namespace", &args.namespace, "");
    object(
        &mut text,
        "v1",
        "ServiceAccount",
        &args.service_account,
        &args.namespace,
    );
    for (namespace, rules) in &rules(args) {
        role(&mut text, args, namespace, rules);
    }
    text
}

fn rules(args: &RbacArgs) -> Rules {
    let mut rules = Rules::new();
    let mut add = |namespace: &str, grant, name: Option<&str>| {
        let name = name.map(str::to_owned);
        let list = rules.entry(namespace.to_owned()).or_default();
        list.push(Rule { grant, name });
    };
    for grant in GRANTS.iter().filter(|grant| is_needed(grant, args)) {
        match grant.reach {
            _ if grant.purpose == Purpose::Projection && !args.acme_namespace.is_empty() => {
                for namespace in &args.acme_namespace {
                    add(namespace, grant, None);
                }
            }
            Reach::Watched if args.watch_namespace.is_empty() => add("", grant, None),
            Reach::Watched => {
                for namespace in &args.watch_namespace {
                    add(namespace, grant, None);
                }
            }
            Reach::Cluster => add("", grant, None),
            Reach::Own => add(&args.namespace, grant, None),
            Reach::Named => {
                let object = named(grant.purpose, args);
                if let Some((namespace, name)) = object {
                    add(&namespace, grant, Some(&name));
                }
            }
        }
    }
    rules
}

fn is_needed(grant: &Grant, args: &RbacArgs) -> bool {
    match grant.purpose {
        Purpose::Serve | Purpose::Events => true,
        Purpose::Election => args.leader_election,
        Purpose::Classes => args.watch_namespace.is_empty(),
        Purpose::Vault | Purpose::Projection => args.acme,
        Purpose::Tenants => args.acme && args.watch_namespace.is_empty(),
        // Where every key pair may be read, this one may, too.
        Purpose::DefaultCertificate => {
            args.default_ssl_certificate
                .as_ref()
                .is_some_and(|(namespace, _)| {
                    let watched = &args.watch_namespace;
                    !watched.is_empty() && !watched.iter().any(|name| **name == **namespace)
                })
        }
        Purpose::Settings => args.configmap.is_some(),
        Purpose::Status => args.update_status,
        // Addresses that are told win.
        Purpose::PublishService => args.update_status && args.publish_status_address.is_empty(),
        Purpose::NodeAddresses => args.asks_nodes(),
        Purpose::OtherPods => {
            args.asks_nodes() || (args.update_status && args.update_status_on_shutdown)
        }
    }
}

/// The object that a row with a name is about.
fn named(purpose: Purpose, args: &RbacArgs) -> Option<ObjectName> {
    match purpose {
        Purpose::DefaultCertificate => args.default_ssl_certificate.clone(),
        Purpose::Settings => args.configmap.clone(),
        Purpose::PublishService => args.publish_service.clone(),
        Purpose::Election => Some((
            args.namespace.as_str().into(),
            args.election_id.as_str().into(),
        )),
        _ => None,
    }
}

/// A role with its binding.
fn role(text: &mut String, args: &RbacArgs, namespace: &str, rules: &[Rule]) {
    const API: &str = "rbac.authorization.k8s.io/v1";
    let (kind, binding) = if namespace.is_empty() {
        ("ClusterRole", "ClusterRoleBinding")
    } else {
        ("Role", "RoleBinding")
    };
    // Accounts of several installations may share a cluster. With a dash, `x` in `edge-a` and `a-x`
    // in `edge` had one name; a colon is in neither.
    let name = format!("{}:{}", args.namespace, args.service_account);
    object(text, API, kind, &name, namespace);
    text.push_str("rules:\n");
    for rule in rules {
        let Grant {
            group,
            resource,
            verbs,
            ..
        } = rule.grant;
        // Writing to a String cannot fail.
        writeln!(
            text,
            "- apiGroups: [\"{group}\"]\n  resources: [{resource}]\n  verbs: [{}]",
            verbs.join(", ")
        )
        .ok();
        if let Some(name) = &rule.name {
            writeln!(text, "  resourceNames: [\"{name}\"]").ok();
        }
    }
    object(text, API, binding, &name, namespace);
    writeln!(
        text,
        "roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: \"{name}\"\n\
         subjects:\n- kind: ServiceAccount\n  name: \"{}\"\n  namespace: \"{}\"",
        args.service_account, args.namespace
    )
    .ok();
}

/// Begins a document.
fn object(text: &mut String, version: &str, kind: &str, name: &str, namespace: &str) {
    // Writing to a String cannot fail.
    writeln!(
        text,
        "---\napiVersion: {version}\nkind: {kind}\nmetadata:\n  name: \"{name}\""
    )
    .ok();
    if !namespace.is_empty() {
        writeln!(text, "  namespace: \"{namespace}\"").ok();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::flags::{Cli, Command};
    use crate::config::generate::GenerateCommand;

    fn printed(flags: &[&str]) -> String {
        let arguments = ["gatehouse", "generate", "rbac"].iter().chain(flags);
        let command = Cli::try_parse_from(arguments).unwrap().command;
        let Command::Generate(GenerateCommand::Rbac(args)) = command else {
            panic!("not generate rbac")
        };
        manifests(&args)
    }

    #[test]
    fn every_row_of_the_table_is_printed_when_everything_is_asked_for() {
        let common = [
            "--default-ssl-certificate=certs/default",
            "--configmap=own/settings",
            "--acme",
        ];
        let text = printed(&common);
        let service = printed(&["--publish-service=own/gatehouse"]);
        for grant in GRANTS {
            let line = format!(
                "resources: [{}]\n  verbs: [{}]",
                grant.resource,
                grant.verbs.join(", ")
            );
            let found = text.contains(&line) || service.contains(&line);
            assert!(found, "{line} is missing in {text}");
        }
        assert!(text.contains("[nodes]") && !service.contains("[nodes]"));
        assert!(text.contains("kind: ClusterRole\n"));
        assert!(text.contains("resourceNames: [\"gatehouse-leader\"]"));
        assert!(
            !text.contains("\"default\""),
            "all key pairs may be read anyway"
        );
    }

    #[test]
    fn no_two_accounts_have_roles_of_one_name() {
        let name = |namespace: &str, account: &str| {
            let flags = [
                format!("--namespace={namespace}"),
                format!("--service-account={account}"),
            ];
            let text = printed(&flags.each_ref().map(String::as_str));
            let (_, role) = text.split_once("kind: ClusterRole\n").unwrap();
            role.lines().nth(1).unwrap().trim().to_owned()
        };
        assert_eq!(name("edge", "x-gatehouse"), "name: \"edge:x-gatehouse\"");
        assert_ne!(name("edge", "x-gatehouse"), name("edge-x", "gatehouse"));
    }

    #[test]
    fn with_namespaces_there_is_nothing_of_the_cluster() {
        let text = printed(&[
            "--watch-namespace=shop",
            "--watch-namespace=pay",
            "--default-ssl-certificate=certs/default",
            "--update-status=false",
        ]);
        assert!(!text.contains("Cluster"), "{text}");
        assert!(!text.contains("resources: [ingressclasses]"));
        assert!(!text.contains("ingresses/status"));
        // Two watched namespaces, the one of the certificate, its own.
        assert_eq!(text.matches("kind: RoleBinding").count(), 4);
        assert!(text.contains("resourceNames: [\"default\"]"));
    }
}
