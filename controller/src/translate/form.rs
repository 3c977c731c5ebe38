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

/// The host of a rule.
pub(super) fn host_of(rule: &IngressRule, field: &str) -> Result<HostPattern, Fault> {
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
