//! Flags about what is written back into a cluster: who writes, and which addresses.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use clap::{ArgAction, Args};

use super::flags::ObjectName;
use super::values::{label, label_if_any, namespaced_name, subdomain_if_any};
use crate::status::Address;

/// What is written back into the cluster, and by whom. Only one replica writes, the leader.
///
/// Switches take `=true` and `=false` as well, as those of ingress-nginx do.
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Elect one of several replicas; without, every replica writes status and events.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_election: bool,

    /// Name of the Lease that the replicas compete for.
    #[arg(long, value_name = "NAME", default_value = "gatehouse-leader", value_parser = label)]
    pub election_id: String,

    /// Name of the pod that this replica runs in; the manifest of the pod sets the variable.
    #[arg(long, value_name = "NAME", env = "POD_NAME", value_parser = subdomain_if_any)]
    pub pod_name: Option<String>,

    /// Namespace of that pod, and of the Lease. The default is that of the service account, or of
    /// the kubeconfig.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", value_parser = label_if_any)]
    pub pod_namespace: Option<String>,

    /// Write the addresses of the gateway into the status of its Ingresses. Turn it off while
    /// another controller serves the same Ingresses.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub update_status: bool,

    /// Take the addresses out again when the last replica ends.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub update_status_on_shutdown: bool,

    /// Service in front of the gateway, whose addresses are those of the gateway.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced_name)]
    pub publish_service: Option<ObjectName>,

    /// Address of the gateway, an IP address or a host name; may be repeated or a list with
    /// commas. It wins over --publish-service. With neither, the addresses are those of the nodes
    /// that the gateway runs on, unless --watch-namespace limits what it may see.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address)]
    pub publish_status_address: Vec<Address>,

    /// Of a node, take the internal address.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub report_node_internal_ip_address: bool,
}

/// Who this replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Unique among all replicas and restarts.
    pub identity: Arc<str>,
    /// Namespace and name of its pod, when it runs in one that was told.
    pub pod: Option<ObjectName>,
    /// Namespace of its pod, when that was told.
    pub namespace: Option<Arc<str>>,
    /// Nodes belong to no namespace: a replica with rights in some namespaces only does not ask
    /// for them.
    pub sees_nodes: bool,
}

impl Replica {
    /// A replica of its own at every call.
    pub fn new(args: &StatusArgs, sees_nodes: bool) -> Self {
        let given = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(Arc::<str>::from)
        };
        let (name, namespace) = (given(&args.pod_name), given(&args.pod_namespace));
        // The keys of the standard library's tables come from the system's generator.
        let random = RandomState::new().hash_one(0);
        let prefix = name.as_deref().unwrap_or("gatehouse");
        Self {
            identity: format!("{prefix}-{random:016x}").into(),
            pod: namespace.clone().zip(name),
            namespace,
            sees_nodes,
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).ok_or_else(|| {
        "write an IP address or a host name, for example `203.0.113.7` or `lb.example.com`".into()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        status: StatusArgs,
    }

    fn parse(flags: &[&str]) -> Result<StatusArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once("gatehouse").chain(flags.iter().copied()))
            .map(|cli| cli.status)
    }

    #[test]
    fn addresses_are_repeated_or_separated_by_commas_and_checked() {
        let args = parse(&[
            "--publish-status-address=203.0.113.7,lb.example.com",
            "--publish-status-address=2001:db8::1",
        ]);
        assert_eq!(args.unwrap().publish_status_address.len(), 3);
        let message = parse(&["--publish-status-address=203.0.113.7:80"])
            .unwrap_err()
            .to_string();
        for word in [
            "--publish-status-address",
            "203.0.113.7:80",
            "lb.example.com",
        ] {
            assert!(message.contains(word), "{word} is missing in: {message}");
        }
    }

    #[test]
    fn a_name_that_no_object_can_have_is_answered_with_its_flag_and_the_remedy() {
        for (flag, bad, remedy) in [
            ("--pod-namespace", "Bad_Namespace!", "lower-case letters"),
            ("--pod-namespace", "a.b", "lower-case letters"),
            ("--pod-name", "Pod", "lower-case letters"),
            ("--pod-name", "a..b", "around each `.`"),
            ("--pod-name", "-a", "lower-case letters"),
            ("--election-id", "a-", "the first and the last"),
            ("--publish-service", "-a/b", "namespace/name"),
            ("--publish-service", "a.b/c", "namespace/name"),
            ("--publish-service", "a/.c", "namespace/name"),
        ] {
            let message = parse(&[&format!("{flag}={bad}")]).unwrap_err().to_string();
            for word in [flag, bad, remedy] {
                assert!(message.contains(word), "{word} is missing in: {message}");
            }
        }
        assert!(parse(&["--pod-name=web-0.v1", "--pod-namespace=shop"]).is_ok());
        assert!(parse(&["--publish-service=shop/web.v1"]).is_ok());
    }

    #[test]
    fn switches_have_the_defaults_that_the_help_says() {
        let args = parse(&[]).unwrap();
        assert!(args.leader_election && args.update_status);
        assert!(!args.update_status_on_shutdown && !args.report_node_internal_ip_address);
        assert!(!parse(&["--update-status=false"]).unwrap().update_status);
        assert!(!parse(&["--leader-election=false"]).unwrap().leader_election);
    }

    #[test]
    fn a_restart_of_the_same_pod_is_another_replica() {
        let args = parse(&["--pod-name=gatehouse-0", "--pod-namespace=ingress"]).unwrap();
        let pod = || Replica::new(&args, true);
        assert_ne!(pod().identity, pod().identity);
        assert!(pod().identity.starts_with("gatehouse-0-"));
        assert_eq!(pod().pod, Some(("ingress".into(), "gatehouse-0".into())));
        let nameless = parse(&["--pod-name=", "--pod-namespace=ingress"]).unwrap();
        let nameless = Replica::new(&nameless, true);
        assert_eq!(nameless.pod, None);
        assert_eq!(nameless.namespace.as_deref(), Some("ingress"));
    }
}
