//! Where clients reach the gateway: told by a flag, read off the Service in front of it, or the
//! addresses of the nodes it runs on. The rules are those of ingress-nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::flags::ObjectName;
use crate::leader::{Clients, Leadership};
use crate::source::kubernetes::plain;
use crate::source::kubernetes::refusal::{Act, Refusal, Refusals};

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Name(Arc<str>),
}

/// The addresses of the gateway, sorted; `None` while they are not known.
pub(super) type Addresses = Option<Arc<[Address]>>;

impl Address {
    /// An IP address or a host name.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Some(Self::Ip(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // What ends in a number would be an address, and is none.
        let last_is_a_number = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        let valid = name.len() <= 253 && !last_is_a_number && name.split('.').all(label);
        valid.then(|| Self::Name(name.into()))
    }

    /// As the status of an Ingress has it.
    pub(super) fn entry(&self) -> IngressLoadBalancerIngress {
        let mut entry = IngressLoadBalancerIngress::default();
        match self {
            Self::Ip(address) => entry.ip = Some(address.to_string()),
            Self::Name(name) => entry.hostname = Some(name.to_string()),
        }
        entry
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The addresses in the status of an Ingress, sorted.
pub(super) fn published(ingress: &Ingress) -> Vec<Address> {
    let status = ingress.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let texts = entries.unwrap_or_default().iter().flat_map(|entry| {
        let fields = [entry.ip.as_deref(), entry.hostname.as_deref()];
        fields.into_iter().flatten()
    });
    sorted(texts.filter_map(Address::parse))
}

/// Where the addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// They were told.
    Told(Arc<[Address]>),
    /// The Service in front of the gateway.
    Service(ObjectName),
    /// The nodes that run pods like this one.
    Nodes { pod: ObjectName, internal: bool },
    /// Nobody can know them.
    Nowhere,
}

/// Keeps the addresses up to date while this replica leads.
pub(super) struct Follow {
    pub(super) clients: Clients,
    pub(super) origin: Origin,
    pub(super) leadership: Leadership,
    pub(super) refusals: Refusals,
}

impl Follow {
    /// Until it is aborted.
    pub(super) async fn run(self, addresses: watch::Sender<Addresses>) {
        let Self {
            clients,
            origin,
            mut leadership,
            refusals,
        } = self;
        let act = match origin {
            Origin::Service(_) => Act::Service,
            _ => Act::Nodes,
        };
        let mut complained = false;
        loop {
            let Some(epoch) = leadership.epoch() else {
                addresses.send_replace(None);
                refusals.forget(act);
                leadership.changed(None).await;
                continue;
            };
            match timeout(ANSWER, read(&clients(), &origin)).await {
                Ok(Ok(found)) => {
                    complained = false;
                    refusals.forget(act);
                    let found: Arc<[Address]> = found.into();
                    addresses.send_if_modified(|known| {
                        let news = known.as_deref() != Some(&*found);
                        if news {
                            *known = Some(Arc::clone(&found));
                        }
                        news
                    });
                }
                // What was known stays: an API server that is away takes no address off an Ingress.
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => {
                            let refusal = Refusal::of(&error, &origin);
                            let missing = || Refusal::missing(&error, &origin);
                            if let Some(refusal) = refusal.or_else(missing) {
                                refusals.note(act, &"".into(), refusal);
                            }
                            plain(&error)
                        }
                        Ok(Ok(_)) | Err(_) => format!("no answer in {ANSWER:?}"),
                    };
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(
                            why,
                            "the addresses of the gateway cannot be read: {origin}"
                        );
                    }
                }
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                _ = leadership.changed(Some(epoch)) => {}
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(_) => write!(f, "--publish-status-address"),
            Self::Service((namespace, name)) => {
                write!(f, "Service {namespace}/{name} (--publish-service)")
            }
            Self::Nodes { pod, .. } => write!(f, "nodes of pods like {}/{}", pod.0, pod.1),
            Self::Nowhere => write!(f, "none"),
        }
    }
}

async fn read(client: &Client, origin: &Origin) -> kube::Result<Vec<Address>> {
    match origin {
        Origin::Told(addresses) => Ok(addresses.to_vec()),
        Origin::Service((namespace, name)) => {
            let api: Api<Service> = Api::namespaced(client.clone(), namespace);
            Ok(of_service(&api.get(name).await?))
        }
        Origin::Nodes { pod, internal } => {
            let nodes: BTreeSet<String> = pods_like(client, pod)
                .await?
                .iter()
                .filter(|pod| is_ready(pod))
                .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
                .collect();
            let api: Api<Node> = Api::all(client.clone());
            let mut found = Vec::new();
            for name in nodes.iter().take(MOST_NODES) {
                if let Some(node) = api.get_opt(name).await? {
                    found.extend(of_node(&node, *internal));
                }
            }
            Ok(sorted(found.into_iter()))
        }
        Origin::Nowhere => Ok(Vec::new()),
    }
}

/// The pods of this replica and its equals: those with the labels of this one.
pub(super) async fn pods_like(
    client: &Client,
    (namespace, name): &ObjectName,
) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let own = api.get(name).await?;
    let selector = own.metadata.labels.as_ref().map(selector);
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
        return Ok(vec![own]);
    };
    let params = ListParams::default().labels(&selector);
    Ok(api.list(&params).await?.items)
}

/// Labels that tell versions or replicas of one workload apart do not count.
fn selector(labels: &BTreeMap<String, String>) -> String {
    let counts = labels
        .iter()
        .filter(|(name, _)| !PERSONAL.contains(&name.as_str()));
    let terms: Vec<String> = counts
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    terms.join(",")
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let ready = conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The addresses of a Service: those of its load balancer, and the external ones; for types without
/// a load balancer what comes next to it.
fn of_service(service: &Service) -> Vec<Address> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let external = spec.external_ips.as_deref().unwrap_or_default();
    let external = external.iter().map(String::as_str);
    let own = || {
        spec.cluster_ip
            .as_deref()
            .filter(|address| *address != "None")
    };
    let texts: Vec<&str> = match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let status = service.status.as_ref();
            let balancer = status.and_then(|status| status.load_balancer.as_ref());
            let entries = balancer.and_then(|balancer| balancer.ingress.as_deref());
            let given = entries.unwrap_or_default().iter().filter_map(|entry| {
                let (ip, name) = (entry.ip.as_deref(), entry.hostname.as_deref());
                ip.filter(|ip| !ip.is_empty()).or(name)
            });
            given.chain(external).collect()
        }
        Some("NodePort") => {
            let external: Vec<&str> = external.collect();
            if external.is_empty() {
                own().into_iter().collect()
            } else {
                external
            }
        }
        Some("ExternalName") => spec.external_name.as_deref().into_iter().collect(),
        _ => own().into_iter().collect(),
    };
    sorted(texts.into_iter().filter_map(Address::parse))
}

/// The address of a node: its external one, if it has one and the internal one is not wanted.
fn of_node(node: &Node, internal: bool) -> Option<Address> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    let first = |wanted: &str| {
        let mut fitting = addresses.iter().filter(|address| address.type_ == wanted);
        fitting.find_map(|address| Address::parse(&address.address))
    };
    if internal {
        return first("InternalIP");
    }
    first("ExternalIP").or_else(|| first("InternalIP"))
}

pub(super) fn sorted(addresses: impl Iterator<Item = Address>) -> Vec<Address> {
    let distinct: BTreeSet<Address> = addresses.collect();
    distinct.into_iter().collect()
}

/// Labels that pods of one workload have different values of.
const PERSONAL: [&str; 5] = [
    "apps.kubernetes.io/pod-index",
    "controller-revision-hash",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];
/// How often the addresses are read again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long reading them may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Nodes asked for at most.
const MOST_NODES: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Vec<String> {
        let service: Service = serde_saphyr::from_str(yaml).unwrap();
        of_service(&service)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_service_has_the_addresses_that_its_type_promises() {
        let balanced = "{spec: {type: LoadBalancer, clusterIP: 10.96.0.1, externalIPs: [192.0.2.9]}, \
            status: {loadBalancer: {ingress: [{ip: 203.0.113.7}, {hostname: LB.example.com}, \
            {ip: 203.0.113.7}]}}}";
        assert_eq!(
            service(balanced),
            ["192.0.2.9", "203.0.113.7", "lb.example.com"]
        );
        assert!(service("{spec: {type: LoadBalancer, clusterIP: 10.96.0.1}}").is_empty());
        assert_eq!(service("{spec: {clusterIP: 10.96.0.1}}"), ["10.96.0.1"]);
        assert!(service("{spec: {type: ClusterIP, clusterIP: None}}").is_empty());
        let external = "{spec: {type: NodePort, clusterIP: 10.96.0.1, externalIPs: [192.0.2.9]}}";
        assert_eq!(service(external), ["192.0.2.9"]);
        assert_eq!(
            service("{spec: {type: NodePort, clusterIP: 10.96.0.1}}"),
            ["10.96.0.1"]
        );
        assert_eq!(
            service("{spec: {type: ExternalName, externalName: lb.example.com}}"),
            ["lb.example.com"]
        );
    }

    #[test]
    fn a_node_has_its_external_address_unless_the_internal_one_is_wanted() {
        let node = |yaml: &str, internal| {
            let node: Node = serde_saphyr::from_str(yaml).unwrap();
            of_node(&node, internal).map(|address| address.to_string())
        };
        let both = "{status: {addresses: [{type: InternalIP, address: 10.0.0.1}, \
            {type: ExternalIP, address: 203.0.113.1}]}}";
        assert_eq!(node(both, false).as_deref(), Some("203.0.113.1"));
        assert_eq!(node(both, true).as_deref(), Some("10.0.0.1"));
        let inner = "{status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}";
        assert_eq!(node(inner, false).as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn what_is_no_address_is_not_published() {
        for bad in [
            "",
            "a b",
            "203.0.113.7:80",
            "203.0.113.999",
            "-a.test",
            "http://x",
            "*.x",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
        for good in [
            "203.0.113.7",
            "2001:db8::1",
            "lb.example.com",
            "LB.example.com.",
        ] {
            assert!(Address::parse(good).is_some(), "{good}");
        }
    }

    #[test]
    fn equals_are_found_whatever_version_they_run() {
        let labels = [
            ("app".to_owned(), "gatehouse".to_owned()),
            ("pod-template-hash".to_owned(), "abc".to_owned()),
        ];
        assert_eq!(selector(&labels.into()), "app=gatehouse");
    }
}
