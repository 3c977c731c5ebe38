//! What makes a part of an Ingress unfit to serve, whatever else exists: what an API server would
//! refuse, and paths that no request can equal.

use std::fmt;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressRule};

use gatehouse_gateway::model::{HostPattern, PathMatch};

use super::path::PathError;
use super::{host, path};
use crate::diagnostics::Code;

/// What is wrong with one field.
#[derive(Debug)]
pub struct Fault {
    /// Path of the field.
    pub field: String,
    /// Its stable name.
    pub code: Code,
    what: String,
    remedy: &'static str,
}

impl Fault {
    fn new(field: String, code: Code, what: &str, remedy: &'static str) -> Self {
        let what = what.to_owned();
        Self {
            field,
            code,
            what,
            remedy,
        }
    }

    /// The sentence; `so` says what becomes of it.
    pub fn sentence(&self, so: impl fmt::Display) -> String {
        format!("{}, so {so}: {}", self.what, self.remedy)
    }
}

/// Everything that is wrong with an Ingress by itself.
pub fn faults(ingress: &Ingress) -> Vec<Fault> {
    let Some(spec) = &ingress.spec else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{index}]");
        faults.extend(host_of(rule, &field).err());
        for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("{field}.http.paths[{index}]");
            faults.extend(path_of(path, &field).err());
            faults.extend(names_nothing(&path.backend, &format!("{field}.backend")));
        }
    }
    let default = spec.default_backend.as_ref();
    faults.extend(default.and_then(|backend| names_nothing(backend, "spec.defaultBackend")));
    faults
}

/// What an API server would refuse, too, although it can be served: what is wrong, and how it is
/// served.
pub fn slips(ingress: &Ingress) -> Vec<(Fault, &'static str)> {
    let Some(spec) = &ingress.spec else {
        return Vec::new();
    };
    let mut slips = Vec::new();
    let rules = spec.rules.as_deref().unwrap_or_default();
    if spec.default_backend.is_none() && rules.is_empty() {
        let (what, remedy) = ("there is no rule and no default backend", "add a rule");
        let fault = Fault::new("spec.rules".into(), Code::RulesMissing, what, remedy);
        slips.push((fault, "nothing is served"));
    }
    for (index, rule) in rules.iter().enumerate() {
        let Some(http) = &rule.http else { continue };
        let field = format!("spec.rules[{index}].http.paths");
        for (index, path) in http.paths.iter().enumerate() {
            slips.extend(slips_of_path(path, &format!("{field}[{index}]")));
        }
        if http.paths.is_empty() {
            let remedy = "add a path, or leave `http` out";
            let what = "the list of paths is empty";
            let fault = Fault::new(field, Code::RulesMissing, what, remedy);
            slips.push((fault, "the rule serves nothing"));
        }
    }
    slips
}

fn slips_of_path(path: &HTTPIngressPath, field: &str) -> Vec<(Fault, &'static str)> {
    let literal = matches!(&*path.path_type, "Exact" | "Prefix");
    let written = path.path.as_deref().unwrap_or_default();
    let mut slips = Vec::new();
    if path.path_type.is_empty() {
        let remedy = "set Exact, Prefix or ImplementationSpecific";
        let (field, what) = (format!("{field}.pathType"), "no path type is set");
        let fault = Fault::new(field, Code::PathTypeInvalid, what, remedy);
        slips.push((fault, "it is served as Prefix"));
    }
    if literal && written.is_empty() {
        let field = format!("{field}.path");
        let fault = Fault::new(field, Code::PathInvalid, "no path is set", "write `/`");
        slips.push((fault, "it is served as `/`"));
    }
    if literal && written.to_ascii_lowercase().contains("%2f") {
        let remedy = "write `/`, or use ImplementationSpecific";
        let (field, what) = (format!("{field}.path"), "the path has `%2f` in it");
        let fault = Fault::new(field, Code::PathInvalid, what, remedy);
        slips.push((fault, "it serves requests for `%252f` alone"));
    }
    let service = path.backend.service.as_ref();
    let port = service.and_then(|service| service.port.as_ref());
    if port.is_some_and(|port| port.name.is_some() && port.number.is_some()) {
        let field = format!("{field}.backend.service.port");
        let what = "the port has a name and a number";
        let fault = Fault::new(field, Code::BackendInvalid, what, "leave one of them out");
        slips.push((fault, "the name counts"));
    }
    slips
}

/// The host of a rule.
pub(crate) fn host_of(rule: &IngressRule, field: &str) -> Result<HostPattern, Fault> {
    let name = rule.host.as_deref().unwrap_or_default();
    host::parse(name).map_err(|why| Fault {
        field: format!("{field}.host"),
        code: Code::HostInvalid,
        what: format!("host `{name}` is not valid"),
        remedy: why,
    })
}

/// The path of a rule.
pub(super) fn path_of(declared: &HTTPIngressPath, field: &str) -> Result<PathMatch, Fault> {
    let written = declared.path.as_deref();
    path::parse(written, &declared.path_type).map_err(|error| match error {
        PathError::Kind => Fault {
            field: format!("{field}.pathType"),
            code: Code::PathTypeInvalid,
            what: format!("path type `{}` is unknown", declared.path_type),
            remedy: "use Exact, Prefix or ImplementationSpecific",
        },
        PathError::Path(why) => Fault {
            field: format!("{field}.path"),
            code: Code::PathInvalid,
            what: format!("path `{}` is not valid", written.unwrap_or_default()),
            remedy: why,
        },
    })
}

/// A backend that leads nowhere.
pub(super) fn names_nothing(backend: &IngressBackend, field: &str) -> Option<Fault> {
    (backend.service.is_none() && backend.resource.is_none()).then(|| Fault {
        field: field.to_owned(),
        code: Code::BackendInvalid,
        what: "the backend names neither a service nor a resource".into(),
        remedy: "name a service",
    })
}
