//! Service ports: which one a backend means, and the plan of its cluster.
//!
//! A backend may spell a port by number, by name or as the target port; all spellings of one
//! service port give the same [`ClusterRef`], so they share endpoints, connections and balancing.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::ServiceBackendPort;

use gatehouse_gateway::model::{Affinity, ClusterPlan, UpstreamProtocol};

use super::{ClusterRef, endpoints};
use crate::config::Defaults;
use crate::diagnostics::{Code, Diagnostic, Remarks, suggest};
use crate::source::ObjectKey;
use crate::world::Lookup;
use crate::world::facts::{PortFacts, ServiceFacts, TargetPort};

/// A port as a backend spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortName {
    /// By number.
    Number(i32),
    /// By name.
    Name(Arc<str>),
}

impl PortName {
    /// The port of an Ingress backend; `None` when it gives neither number nor name.
    pub fn of(port: &ServiceBackendPort) -> Option<Self> {
        match (port.number, port.name.as_deref()) {
            (_, Some(name)) if !name.is_empty() => Some(Self::Name(name.into())),
            (Some(number), _) if number != 0 => Some(Self::Number(number)),
            _ => None,
        }
    }
}

/// Why a backend leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No service name, or no port.
    Incomplete(&'static str),
    /// No such Service.
    ServiceMissing,
    /// No such port; the ports there are, and the one that is probably meant.
    PortMissing {
        /// The port asked for.
        wanted: String,
        /// The ports of the Service, in words.
        known: String,
    },
}

impl Problem {
    /// The part of the backend that is wrong, below `service`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Incomplete(field) => field,
            Self::ServiceMissing => ".name",
            Self::PortMissing { .. } => ".port",
        }
    }

    /// Its code.
    pub fn code(&self) -> Code {
        match self {
            Self::Incomplete(_) => Code::BackendInvalid,
            Self::ServiceMissing => Code::ServiceMissing,
            Self::PortMissing { .. } => Code::ServicePortMissing,
        }
    }

    /// What to say about it.
    pub fn message(&self, service: &str) -> String {
        match self {
            Self::Incomplete(_) => {
                "the backend needs the name of a service and the number or name of its port, so it \
                 answers 503"
                    .to_owned()
            }
            Self::ServiceMissing => format!(
                "Service `{service}` does not exist in this namespace, so the backend answers 503"
            ),
            Self::PortMissing { wanted, known } => format!(
                "Service `{service}` has no TCP port `{wanted}`, so the backend answers 503: \
                 {known}"
            ),
        }
    }
}

/// Finds the service port that a backend means.
pub fn resolve(
    service: &ObjectKey,
    port: Option<&PortName>,
    lookup: &Lookup<'_>,
) -> Result<ClusterRef, Problem> {
    if service.name.is_empty() {
        return Err(Problem::Incomplete(".name"));
    }
    let port = port.ok_or(Problem::Incomplete(".port"))?;
    let object = lookup.service(service).ok_or(Problem::ServiceMissing)?;
    let number = match find(object, port) {
        Some(found) => found.number,
        // The ports of an ExternalName service are only a comment: any number is served.
        None => match port {
            PortName::Number(number) if object.external.is_some() => *number,
            _ => return Err(port_missing(object, port)),
        },
    };
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(ClusterRef::new(service.clone(), number)),
        _ => Err(port_missing(object, port)),
    }
}

/// The first port of a Service, for `--default-backend-service`.
pub fn first_port(service: &ObjectKey, lookup: &Lookup<'_>) -> Result<ClusterRef, Problem> {
    let object = lookup.service(service).ok_or(Problem::ServiceMissing)?;
    let missing = || Problem::PortMissing {
        wanted: "(the first)".to_owned(),
        known: "it has none".to_owned(),
    };
    let port = object.ports.first().ok_or_else(missing)?;
    let number = u16::try_from(port.number).map_err(|_| missing())?;
    Ok(ClusterRef::new(service.clone(), number))
}

/// Plans the cluster of a service port. Without the Service there are no endpoints.
pub fn cluster(
    wanted: &ClusterRef,
    lookup: &Lookup<'_>,
    defaults: &Defaults,
) -> (ClusterPlan, Vec<Diagnostic>) {
    let mut remarks = Remarks::about(&wanted.service);
    let mut plan = ClusterPlan {
        key: wanted.key.clone(),
        protocol: UpstreamProtocol::Http1,
        balance: defaults.balance,
        affinity: Affinity::None,
        endpoints: Vec::new(),
    };
    let Some(service) = lookup.service(&wanted.service) else {
        return (plan, remarks.into_list());
    };
    let number = i32::from(wanted.port);
    let declared = service.ports.iter().find(|port| port.number == number);
    if let Some(port) = declared {
        plan.protocol = protocol(port, &mut remarks);
    }
    if service.client_ip {
        plan.affinity = Affinity::ClientIp;
    }
    plan.endpoints = if let Some(name) = &service.external {
        let port = declared.and_then(target_number).unwrap_or(wanted.port);
        let own = (!defaults.cross_namespace_names).then_some(&*wanted.service.namespace);
        endpoints::external((name, own), port, lookup, &mut remarks)
    } else if let Some(port) = declared {
        endpoints::cluster(&wanted.service, port, lookup, &mut remarks)
    } else {
        Vec::new()
    };
    (plan, remarks.into_list())
}

/// By number, then by name, then by target port. (ingress-nginx takes the first port for which any
/// of the three holds; a number that is one port's own and another's target is its own here.)
fn find<'a>(service: &'a ServiceFacts, wanted: &PortName) -> Option<&'a PortFacts> {
    let find = |fits: &dyn Fn(&PortFacts) -> bool| service.ports.iter().find(|port| fits(port));
    let (number, text) = match wanted {
        PortName::Number(number) => (Some(*number), number.to_string()),
        PortName::Name(name) => (name.parse().ok(), name.to_string()),
    };
    number
        .and_then(|number| find(&|port| port.number == number))
        .or_else(|| find(&|port| *port.name == *text))
        .or_else(|| {
            find(&|port| match &port.target {
                Some(TargetPort::Number(target)) => Some(*target) == number,
                Some(TargetPort::Name(target)) => **target == *text,
                None => false,
            })
        })
}

fn port_missing(service: &ServiceFacts, wanted: &PortName) -> Problem {
    let wanted = match wanted {
        PortName::Number(number) => number.to_string(),
        PortName::Name(name) => name.to_string(),
    };
    let names = service.ports.iter().filter(|port| !port.name.is_empty());
    let near = suggest(&wanted, names.map(|port| &*port.name));
    let names: Vec<String> = service
        .ports
        .iter()
        .map(|port| match &*port.name {
            "" => port.number.to_string(),
            name => format!("{name} ({})", port.number),
        })
        .collect();
    let known = match (near, names.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, true) => "it has none".to_owned(),
        (None, false) => format!("it has {}", names.join(", ")),
    };
    Problem::PortMissing { wanted, known }
}

fn target_number(port: &PortFacts) -> Option<u16> {
    match port.target {
        Some(TargetPort::Number(number)) if number != 0 => u16::try_from(number).ok(),
        _ => None,
    }
}

fn protocol(port: &PortFacts, remarks: &mut Remarks) -> UpstreamProtocol {
    let Some(declared) = port.app_protocol.as_deref() else {
        return UpstreamProtocol::Http1;
    };
    match declared.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" | "" => UpstreamProtocol::Http1,
        "https" | "kubernetes.io/wss" => UpstreamProtocol::Https,
        "kubernetes.io/h2c" | "h2c" | "grpc" => UpstreamProtocol::H2c,
        "grpcs" | "h2" => UpstreamProtocol::H2,
        _ => {
            remarks.warning(
                format!("spec.ports[{}].appProtocol", port.index),
                Code::ProtocolUnknown,
                format!(
                    "appProtocol `{declared}` is unknown, so HTTP/1.1 is spoken: known are http, \
                     https, grpc, grpcs, kubernetes.io/h2c, kubernetes.io/ws and kubernetes.io/wss"
                ),
            );
            UpstreamProtocol::Http1
        }
    }
}
