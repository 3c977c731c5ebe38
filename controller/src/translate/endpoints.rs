//! Endpoints of a service port: from EndpointSlices, from legacy Endpoints when a Service has no
//! slice, or from the addresses of an ExternalName.
//!
//! The list is sorted and has every address once; an address that is ready anywhere is ready.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;

use gatehouse_gateway::model::{EndpointPhase, EndpointPlan};

use crate::diagnostics::{Code, Remarks};
use crate::source::ObjectKey;
use crate::world::Lookup;
use crate::world::facts::{Address, PortFacts, SliceFacts, TargetPort, is_tcp};

type Found = BTreeMap<SocketAddr, EndpointPhase>;

/// The endpoints of a port of an ordinary or headless Service.
pub fn cluster(
    service: &ObjectKey,
    port: &PortFacts,
    lookup: &Lookup<'_>,
    remarks: &mut Remarks,
) -> Vec<EndpointPlan> {
    let mut found = Found::new();
    match lookup.slices(service) {
        Some(slices) => {
            for (name, slice) in slices {
                from_slice((name, slice), port, &mut found, remarks);
            }
        }
        None => {
            if let Some(endpoints) = lookup.endpoints(service) {
                from_legacy(endpoints, port, &mut found, remarks);
            }
        }
    }
    let port = port.number;
    if found.is_empty() {
        remarks.warning(
            "",
            Code::EndpointsMissing,
            format!("no endpoint of port {port} is ready, so its routes answer 503"),
        );
    } else if !found.values().any(|phase| *phase == EndpointPhase::Ready) {
        remarks.warning(
            "",
            Code::EndpointsMissing,
            format!(
                "no endpoint of port {port} is ready: requests go to those that are terminating \
                 and still serve"
            ),
        );
    }
    plans(found)
}

/// The endpoints of an ExternalName Service. Addresses of the machine itself and of its link are
/// refused: a Service must not be a way to what only the gateway can reach. With `own`, its
/// namespace, it must not be a way to those of another namespace either.
pub fn external(
    (name, own): (&str, Option<&str>),
    port: u16,
    lookup: &Lookup<'_>,
    remarks: &mut Remarks,
) -> Vec<EndpointPlan> {
    const FIELD: &str = "spec.externalName";
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let mut refuse = |why: String| remarks.error(FIELD, Code::ExternalNameInvalid, why);
    if name.is_empty() {
        refuse("the ExternalName is empty, so its routes answer 503".to_owned());
        return Vec::new();
    }
    if name == "localhost" || name.ends_with(".localhost") {
        refuse(format!(
            "`{name}` is the gateway itself: refused, so its routes answer 503"
        ));
        return Vec::new();
    }
    if let Some((other, own)) = namespace_of(name).zip(own)
        && other != own
    {
        refuse(format!(
            "`{name}` is in namespace `{other}`: refused, so its routes answer 503; have an Ingress \
             there, or start the gateway with --cross-namespace-external-names"
        ));
        return Vec::new();
    }
    let literal: Option<IpAddr> = name.parse().ok();
    let addresses: Vec<IpAddr> = match literal {
        Some(address) => vec![address],
        None => match lookup.resolved(&Arc::from(name)) {
            Some(addresses) => {
                if addresses.is_empty() {
                    refuse(format!(
                        "`{name}` does not resolve, so its routes answer 503"
                    ));
                }
                addresses.to_vec()
            }
            // Nobody has tried yet.
            None => Vec::new(),
        },
    };
    let mut found = Found::new();
    for address in addresses {
        let address = address.to_canonical();
        if is_local(address) {
            refuse(format!(
                "`{name}` has the address {address}, which is refused: loopback, link-local, \
                 metadata, reserved and multicast addresses are not for an ExternalName"
            ));
        } else {
            found.insert(SocketAddr::new(address, port), EndpointPhase::Ready);
        }
    }
    plans(found)
}

fn from_slice(
    (name, slice): (&str, &SliceFacts),
    port: &PortFacts,
    found: &mut Found,
    remarks: &mut Remarks,
) {
    if slice.holds_names {
        remarks.warning(
            "",
            Code::EndpointInvalid,
            format!("EndpointSlice `{name}` holds names: only IPv4 and IPv6 addresses are used"),
        );
        return;
    }
    if slice.other_protocols {
        return;
    }
    let ports = choose(port, |wanted| {
        let fitting = slice.ports.iter().filter(|(name, _)| **name == *wanted);
        fitting.filter_map(|(_, port)| number(*port)).collect()
    });
    for (address, phase) in &slice.endpoints {
        insert(address, &ports, *phase, found, remarks);
    }
}

/// The ports of a slice or of legacy Endpoints that a service port means: the one with its name, or
/// the only, nameless one; else the one named by `targetPort`; else the number of `targetPort`
/// (hand-written slices, as in ingress-nginx).
fn choose(port: &PortFacts, named: impl Fn(&str) -> Vec<u16>) -> Vec<u16> {
    let mut ports = named(&port.name);
    if ports.is_empty() && !port.name.is_empty() {
        ports = named("");
    }
    if ports.is_empty() {
        ports = match &port.target {
            Some(TargetPort::Name(target)) => named(target),
            Some(TargetPort::Number(target)) => number(*target).into_iter().collect(),
            None => number(port.number).into_iter().collect(),
        };
    }
    ports
}

fn from_legacy(endpoints: &Endpoints, port: &PortFacts, found: &mut Found, remarks: &mut Remarks) {
    for subset in endpoints.subsets.iter().flatten() {
        let tcp = || {
            let ports = subset.ports.iter().flatten();
            ports.filter(|port| is_tcp(port.protocol.as_deref()))
        };
        if tcp().next().is_none() && subset.ports.iter().flatten().next().is_some() {
            continue;
        }
        let ports = choose(port, |wanted| {
            let fitting = tcp().filter(|port| port.name.as_deref().unwrap_or_default() == wanted);
            fitting.filter_map(|port| number(port.port)).collect()
        });
        for address in subset.addresses.iter().flatten() {
            let address = Address::of(&address.ip);
            insert(&address, &ports, EndpointPhase::Ready, found, remarks);
        }
    }
}

fn insert(
    address: &Address,
    ports: &[u16],
    phase: EndpointPhase,
    found: &mut Found,
    remarks: &mut Remarks,
) {
    let text = match address {
        // Loopback is what a directory of manifests is about; the API server refuses it anyway.
        Address::Ip(ip) if !is_local(*ip) || ip.is_loopback() => {
            for port in ports {
                let entry = found.entry(SocketAddr::new(*ip, *port)).or_insert(phase);
                *entry = phase.min(*entry);
            }
            return;
        }
        Address::Ip(ip) => ip.to_string(),
        Address::Bad(text) => text.to_string(),
    };
    remarks.warning(
        "",
        Code::EndpointInvalid,
        format!("endpoint address `{text}` is none that an endpoint can have, so it is left out"),
    );
}

fn plans(found: Found) -> Vec<EndpointPlan> {
    found
        .into_iter()
        .map(|(address, phase)| EndpointPlan { address, phase })
        .collect()
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The namespace in a name of the cluster's DNS, `service.namespace.svc…` or
/// `address.namespace.pod…`. How the domain behind it is called is not known here, so what looks
/// like one of a service counts under any; pods only have names under the usual one.
fn namespace_of(name: &str) -> Option<&str> {
    let labels: Vec<&str> = name.split('.').collect();
    let (place, kind) = labels
        .iter()
        .enumerate()
        .skip(2)
        .rfind(|(_, label)| matches!(**label, "svc" | "pod"))?;
    let domain = labels.get(place + 1..)?;
    let counts = *kind == "svc" || domain.is_empty() || domain == ["cluster", "local"];
    labels.get(place - 1).copied().filter(|_| counts)
}

/// Whether only the machine, its link or its cloud answers there. The address is canonical.
fn is_local(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // "This network" (RFC 6890) and class E (RFC 1112, section 4), which some systems take for
            // their own.
            let reserved = first == 0 || first >= 240;
            address.is_link_local() || reserved || METADATA_V4.contains(&address)
        }
        IpAddr::V6(address) => {
            address.is_unicast_link_local()
                || address == METADATA
                || embedded(address).is_some_and(|inner| is_local(inner.into()))
        }
    };
    special || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// The IPv4 address that a translator (NAT64), a 6to4 router or an old stack reads in an IPv6 one.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    if let [0x2002, high, low, ..] = address.segments() {
        return Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    let [translated, compatible] = [TRANSLATED, 0].map(|prefix| bits >> 32 == prefix >> 32);
    let low = u32::try_from(bits & u128::from(u32::MAX)).ok()?;
    // `::` and `::1` are addresses of their own.
    (translated || (compatible && low > 1)).then(|| Ipv4Addr::from_bits(low))
}

/// The prefix of translators, `64:ff9b::/96`.
const TRANSLATED: u128 = 0x64_ff9b << 96;
/// Where clouds have metadata services that are not link-local: Alibaba's, Azure's wire server, Oracle's.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same of Amazon's with IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_tell_their_namespace() {
        for (name, namespace) in [
            ("cart.shop.svc", Some("shop")),
            ("cart.shop.svc.cluster.local", Some("shop")),
            ("db-0.cart.shop.svc.corp.example", Some("shop")),
            ("svc.svc.shop.svc.cluster.local", Some("shop")),
            ("10-0-0-1.shop.pod.cluster.local", Some("shop")),
            ("a.shop.pod.example.com", None),
            ("api.svc", None),
            ("api.example.com", None),
            ("cart", None),
            ("", None),
        ] {
            assert_eq!(namespace_of(name), namespace, "{name}");
        }
    }

    #[test]
    fn what_only_the_gateway_can_reach_is_local() {
        for local in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.1",
            "240.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "2002:7f00:1::",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in [
            "10.0.0.1",
            "100.64.0.1",
            "2002:a00:1::1",
            "64:ff9b::10.0.0.1",
            "fd00:ec2::1",
            "2001:db8::1",
        ] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
        assert!(is_local(
            "::ffff:127.0.0.1".parse::<IpAddr>().unwrap().to_canonical()
        ));
    }
}
