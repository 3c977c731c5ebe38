//! Services and EndpointSlices as the world keeps them: what translation reads, and nothing else.
//!
//! A cluster has as many of both as it has Ingresses, or more, and the objects as they come are ten
//! times as large as what is said in them.
//!
//! Invariant: pure; objects that mean the same give equal facts, so a change of anything else
//! concerns nobody.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_gateway::model::EndpointPhase;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A Service.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// The name that an ExternalName service stands for, as written; `None` for all others.
    pub external: Option<Box<str>>,
    /// `sessionAffinity: ClientIP`.
    pub client_ip: bool,
    /// Its TCP ports.
    pub ports: Box<[PortFacts]>,
}

/// A TCP port of a Service.
#[derive(Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Place in the list of all ports, for messages.
    pub index: usize,
    /// Name; empty when it has none.
    pub name: Box<str>,
    /// Number.
    pub number: i32,
    /// `targetPort`.
    pub target: Option<TargetPort>,
    /// `appProtocol`.
    pub app_protocol: Option<Box<str>>,
}

/// The port of the pods, as a Service spells it.
#[derive(Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(i32),
    /// By name.
    Name(Box<str>),
}

/// An EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// The Service it belongs to.
    pub service: Option<Arc<str>>,
    /// It holds DNS names instead of addresses.
    pub holds_names: bool,
    /// Its TCP ports: name, or empty, and number.
    pub ports: Box<[(Box<str>, i32)]>,
    /// It has ports, and none of them is for TCP.
    pub other_protocols: bool,
    /// The addresses that take requests.
    pub endpoints: Box<[(Address, EndpointPhase)]>,
}

/// An address as a slice gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A canonical one.
    Ip(IpAddr),
    /// Text that is none.
    Bad(Box<str>),
}

impl ServiceFacts {
    /// What is said in a Service.
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let is = |field: Option<&String>, value: &str| field.is_some_and(|field| field == value);
        let external = is(spec.and_then(|spec| spec.type_.as_ref()), "ExternalName");
        let name = spec.and_then(|spec| spec.external_name.as_deref());
        let ports = spec.and_then(|spec| spec.ports.as_ref());
        let ports = ports.into_iter().flatten().enumerate();
        Self {
            external: external.then(|| name.unwrap_or_default().into()),
            client_ip: is(
                spec.and_then(|spec| spec.session_affinity.as_ref()),
                "ClientIP",
            ),
            ports: ports
                .filter(|(_, port)| is_tcp(port.protocol.as_deref()))
                .map(|(index, port)| PortFacts::of(index, port))
                .collect(),
        }
    }
}

impl PortFacts {
    fn of(index: usize, port: &ServicePort) -> Self {
        Self {
            index,
            name: port.name.as_deref().unwrap_or_default().into(),
            number: port.port,
            target: port.target_port.as_ref().map(|target| match target {
                IntOrString::Int(number) => TargetPort::Number(*number),
                IntOrString::String(name) => TargetPort::Name(name.as_str().into()),
            }),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
        }
    }
}

impl SliceFacts {
    /// What is said in an EndpointSlice.
    pub fn of(slice: &EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref()));
        let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
            let phase = phase(endpoint.conditions.as_ref());
            let addresses = endpoint.addresses.iter();
            addresses.filter_map(move |address| Some((Address::of(address), phase?)))
        });
        Self {
            service: service.map(|name| name.as_str().into()),
            holds_names: slice.address_type == "FQDN",
            other_protocols: slice.ports.as_ref().is_some_and(|ports| {
                let mut all = ports.iter();
                !ports.is_empty() && !all.any(|port| is_tcp(port.protocol.as_deref()))
            }),
            ports: ports
                .filter_map(|port| {
                    let name = port.name.as_deref().unwrap_or_default();
                    Some((name.into(), port.port?))
                })
                .collect(),
            endpoints: endpoints.collect(),
        }
    }
}

impl Address {
    /// Reads an address.
    pub fn of(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) => Self::Ip(address.to_canonical()),
            Err(_) => Self::Bad(text.into()),
        }
    }
}

/// Whether the protocol of a port, TCP when nothing is said, can carry requests.
pub fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Ready (also when nothing is said), draining (terminating, but it still serves), or out.
///
/// A terminating endpoint that is called ready belongs to a Service that publishes addresses that
/// are not ready: it serves, but who starts anew is better off elsewhere.
fn phase(conditions: Option<&EndpointConditions>) -> Option<EndpointPhase> {
    let Some(conditions) = conditions else {
        return Some(EndpointPhase::Ready);
    };
    let ready = conditions.ready.unwrap_or(true);
    let serves = ready || conditions.serving == Some(true);
    match conditions.terminating {
        Some(true) if serves => Some(EndpointPhase::Draining),
        Some(true) => None,
        None | Some(false) => ready.then_some(EndpointPhase::Ready),
    }
}

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminating_endpoint_drains_while_it_serves() {
        let conditions = |ready, serving, terminating| {
            phase(Some(&EndpointConditions {
                ready,
                serving,
                terminating,
            }))
        };
        assert_eq!(phase(None), Some(EndpointPhase::Ready));
        assert_eq!(
            conditions(None, Some(true), None),
            Some(EndpointPhase::Ready)
        );
        assert_eq!(
            conditions(Some(true), None, None),
            Some(EndpointPhase::Ready)
        );
        assert_eq!(conditions(Some(false), Some(true), None), None);
        assert_eq!(
            conditions(Some(false), Some(true), Some(true)),
            Some(EndpointPhase::Draining)
        );
        assert_eq!(conditions(Some(false), Some(false), Some(true)), None);
        assert_eq!(conditions(Some(false), None, Some(true)), None);
        assert_eq!(
            conditions(Some(true), Some(false), Some(true)),
            Some(EndpointPhase::Draining),
            "addresses published although they are not ready"
        );
    }

    #[test]
    fn what_translation_does_not_read_is_not_in_the_facts() {
        let service = |extra: &str| {
            let text =
                format!("{{spec: {{ports: [{{port: 53, protocol: UDP}}, {{port: 80}}]{extra}}}}}");
            ServiceFacts::of(&serde_saphyr::from_str(&text).unwrap())
        };
        let plain = service("");
        assert_eq!(
            plain,
            service(", clusterIP: 10.0.0.1, selector: {a: b}, externalName: x")
        );
        assert_eq!((plain.ports.len(), plain.ports[0].index), (1, 1));
        let external = service(", type: ExternalName, externalName: x");
        assert_eq!(external.external.as_deref(), Some("x"));

        let slice = |ready: &str| {
            let text = format!(
                "{{metadata: {{labels: {{kubernetes.io/service-name: a}}}}, addressType: IPv4, \
                 endpoints: [{{addresses: [10.0.0.1, no], nodeName: n}}, {{addresses: [10.0.0.2], \
                 conditions: {{{ready}}}}}], ports: [{{port: 80}}, {{port: 81, protocol: SCTP}}, {{name: x}}]}}"
            );
            SliceFacts::of(&serde_saphyr::from_str(&text).unwrap())
        };
        let facts = slice("ready: false");
        assert_eq!(facts, slice("ready: false, serving: true"));
        assert_eq!(
            facts.endpoints.len(),
            2,
            "the one that is not ready is left out"
        );
        assert_eq!(facts.endpoints[1].0, Address::Bad("no".into()));
        assert_eq!(*facts.ports, [("".into(), 80)]);
    }
}
