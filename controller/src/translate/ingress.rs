//! One Ingress to its fragment.
//!
//! Every part that is wrong is left out alone, with a diagnostic; the rest is served.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};

use gatehouse_gateway::model::{HostPattern, ObjectRef, PathKind, PathMatch, RefuseReason};

use super::address::AddressFragment;
use super::backend::{self, PortName};
use super::form::{self, Fault};
use super::tls::TlsSection;
use super::{Age, Closed, Fragment, HostFragment, RouteFragment, Target, class, object_ref};
use crate::annotations::{self, Effect, Verdict};
use crate::certificates::request::{TRACKED, asked};
use crate::certificates::settings;
use crate::config::{Defaults, HostOwnership, Managed};
use crate::diagnostics::{Code, Diagnostic, Remarks};
use crate::source::{Kind, ObjectKey};
use crate::world::Lookup;

/// Translates an Ingress. One that is not ours contributes nothing.
pub fn translate(
    ingress: &Ingress,
    lookup: &Lookup<'_>,
    defaults: &Defaults,
) -> (Fragment, Vec<Diagnostic>) {
    let key = lookup.share(key_of(ingress));
    let origin = object_ref(&key);
    let mut remarks = Remarks::about(&key);
    let ours =
        is_read(&key, defaults) && class::is_ours(ingress, lookup, &defaults.classes, &mut remarks);
    let (hosts, addresses) = if ours {
        let draft = Draft {
            ingress,
            origin: &origin,
            lookup,
            remarks: &mut remarks,
            hosts: BTreeMap::new(),
        };
        draft.build(defaults)
    } else {
        Parts::default()
    };
    let fragment = Fragment {
        ours,
        hosts,
        addresses,
    };
    (fragment, remarks.into_list())
}

/// Whether nothing of an Ingress is served, whatever it has (ingress-nginx drops such an Ingress with
/// all its rules).
pub(crate) fn is_left_out(spec: &IngressSpec, disable_catch_all: bool) -> bool {
    disable_catch_all && spec.default_backend.is_some()
}

fn is_read(key: &ObjectKey, defaults: &Defaults) -> bool {
    defaults.watch_namespaces.is_empty() || defaults.watch_namespaces.contains(&key.namespace)
}

fn key_of(ingress: &Ingress) -> ObjectKey {
    let metadata = &ingress.metadata;
    ObjectKey {
        kind: Kind::Ingress,
        namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
        name: metadata.name.as_deref().unwrap_or_default().into(),
    }
}

/// What an object contributes to hosts and to addresses.
type Parts = (Vec<Arc<HostFragment>>, Vec<Arc<AddressFragment>>);

/// The fragment while it is made.
struct Draft<'a> {
    ingress: &'a Ingress,
    origin: &'a ObjectRef,
    lookup: &'a Lookup<'a>,
    remarks: &'a mut Remarks,
    hosts: BTreeMap<HostPattern, HostFragment>,
}

impl Draft<'_> {
    fn build(mut self, defaults: &Defaults) -> Parts {
        let Some(spec) = &self.ingress.spec else {
            return Parts::default();
        };
        if is_left_out(spec, defaults.disable_catch_all) {
            self.remarks.warning(
                "spec.defaultBackend",
                Code::CatchAllDisabled,
                "an Ingress with a default backend is left out because of --disable-catch-all",
            );
            return Parts::default();
        }
        for (slip, so) in form::slips(self.ingress) {
            let sentence = slip.sentence(so);
            self.remarks.warning(slip.field, slip.code, sentence);
        }
        let closed = self.annotations(defaults.managed);
        self.rules(spec);
        if let Some(backend) = &spec.default_backend {
            self.default_backend(backend, spec.rules.as_ref().is_none_or(Vec::is_empty));
        }
        if closed > Closed::No {
            self.close(closed);
        }
        let addresses = self.tls(defaults.managed, defaults.host_ownership);
        let hosts = self.hosts.into_values().map(|mut host| {
            // There are as many as hosts, and they stay.
            host.routes.shrink_to_fit();
            Arc::new(host)
        });
        (hosts.collect(), addresses)
    }

    /// Says of every annotation of a gateway what becomes of it, and how far they close the door:
    /// those that restrict access in a way that cannot be applied.
    fn annotations(&mut self, managed: Managed) -> Closed {
        let mut closed = Closed::No;
        for (name, value) in self.ingress.metadata.annotations.iter().flatten() {
            let field = format!("metadata.annotations[{name}]");
            match annotations::judge(name, value) {
                None | Some(Verdict::Off) => {}
                Some(Verdict::Unknown(near)) => {
                    let message = match near {
                        Some(near) => format!("did you mean `{near}`"),
                        None => "remove it".into(),
                    };
                    self.remarks.warning(
                        field,
                        Code::AnnotationUnknown,
                        format!("annotation `{name}` is unknown and has no effect; {message}"),
                    );
                }
                Some(Verdict::Foreign) => {
                    let own = name.rsplit('/').next().unwrap_or_default();
                    self.remarks.warning(
                        field,
                        Code::AnnotationUnknown,
                        format!(
                            "annotation `{name}` is unknown and has no effect; write \
                             `gatehouse.dev/{own}`"
                        ),
                    );
                }
                Some(Verdict::Known(row)) => {
                    closed = closed.max(closed_by(row.effect));
                    let message = row.sentence(name);
                    let remarks = &mut *self.remarks;
                    match row.effect {
                        Effect::Refused { .. } => {
                            remarks.error(field, Code::AnnotationRefused, message);
                        }
                        Effect::Certificates if managed != Managed::No => {
                            if let Some(why) = settings::complaint(name, value) {
                                remarks.warning(field, Code::CertificateSettingInvalid, why);
                            }
                        }
                        Effect::Ignored | Effect::Certificates => {
                            remarks.warning(field, Code::AnnotationUnsupported, message);
                        }
                        Effect::Needless => {
                            remarks.info(field, Code::AnnotationUnsupported, message);
                        }
                    }
                }
            }
        }
        let told = self.ingress.metadata.annotations.as_ref();
        let asks = told
            .and_then(|told| told.get(TRACKED))
            .is_some_and(|value| value == "true");
        if asks && managed == Managed::Annotated && asked(self.ingress, managed).is_none() {
            self.remarks.warning(
                format!("metadata.annotations[{TRACKED}]"),
                Code::AnnotationUnsupported,
                format!(
                    "annotation `{TRACKED}` has no effect, so no certificate is ordered: start with \
                     --acme-track-tls-acme, or name an issuer with `gatehouse.dev/issuer`"
                ),
            );
        }
        closed
    }

    /// Every route refuses, but stays: without it a shorter path, maybe somebody else's, would
    /// answer in its place.
    fn close(&mut self, closed: Closed) {
        for host in self.hosts.values_mut() {
            host.closed = closed;
            for route in host.routes.iter_mut().chain(host.fallback.as_deref_mut()) {
                route.target = Target::Refuse(RefuseReason::BrokenPolicy);
            }
        }
    }

    fn rules(&mut self, spec: &IngressSpec) {
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let field = format!("spec.rules[{index}]");
            let host = match form::host_of(rule, &field) {
                Ok(host) => host,
                Err(fault) => {
                    self.fault(fault, "the rule is not served");
                    continue;
                }
            };
            self.host(host.clone(), &field);
            for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let route = self.route(path, format!("{field}.http.paths[{index}]"));
                if let Some((route, host)) = route.zip(self.hosts.get_mut(&host)) {
                    host.routes.push(route);
                }
            }
        }
    }

    fn host(&mut self, host: HostPattern, field: &str) -> &mut HostFragment {
        let (origin, metadata) = (self.origin, &self.ingress.metadata);
        self.hosts
            .entry(host.clone())
            .or_insert_with(|| HostFragment {
                host,
                origin: origin.clone(),
                age: Age::of(metadata),
                field: field.into(),
                routes: Vec::new(),
                fallback: None,
                owns_root: false,
                closed: Closed::No,
                tls: None,
            })
    }

    fn route(&mut self, declared: &HTTPIngressPath, field: String) -> Option<RouteFragment> {
        match form::path_of(declared, &field) {
            Ok(path) => {
                let target = self.target(&declared.backend, &format!("{field}.backend"));
                Some(RouteFragment {
                    path,
                    field: field.into(),
                    target,
                })
            }
            Err(fault) => {
                self.fault(fault, "the path is not served");
                None
            }
        }
    }

    fn fault(&mut self, fault: Fault, so: &str) {
        let sentence = fault.sentence(so);
        self.remarks.error(fault.field, fault.code, sentence);
    }

    /// With rules, the default backend serves the paths that no rule of its own hosts has; without
    /// rules it takes `/` of the catch-all host.
    fn default_backend(&mut self, backend: &IngressBackend, alone: bool) {
        const FIELD: &str = "spec.defaultBackend";
        let target = self.target(backend, FIELD);
        let fallback = RouteFragment {
            path: PathMatch {
                kind: PathKind::Prefix,
                path: "/".into(),
            },
            field: FIELD.into(),
            target,
        };
        if alone {
            self.host(HostPattern::Any, FIELD).owns_root = true;
        }
        for host in self.hosts.values_mut() {
            host.fallback = Some(Box::new(fallback.clone()));
        }
    }

    fn target(&mut self, backend: &IngressBackend, field: &str) -> Target {
        let Some(service) = &backend.service else {
            if let Some(resource) = &backend.resource {
                self.remarks.error(
                    format!("{field}.resource"),
                    Code::BackendUnsupported,
                    format!(
                        "backends of kind {} are not supported, so this one answers 404: name a \
                         service",
                        resource.kind
                    ),
                );
                return Target::Refuse(RefuseReason::UnsupportedBackend);
            }
            if let Some(fault) = form::names_nothing(backend, field) {
                self.fault(fault, "the default backend answers");
            }
            return Target::Default;
        };
        let key = ObjectKey {
            kind: Kind::Service,
            namespace: Arc::clone(&self.origin.namespace),
            name: service.name.as_str().into(),
        };
        let key = self.lookup.share(key);
        let port = service.port.as_ref().and_then(PortName::of);
        match backend::resolve(&key, port.as_ref(), self.lookup) {
            Ok(cluster) => Target::Cluster(cluster),
            Err(problem) => {
                let field = format!("{field}.service{}", problem.field());
                self.remarks
                    .error(field, problem.code(), problem.message(&key.name));
                Target::Refuse(RefuseReason::ServiceMissing)
            }
        }
    }

    /// Gives the hosts their certificates; the addresses that these hold.
    fn tls(&mut self, managed: Managed, ownership: HostOwnership) -> Vec<Arc<AddressFragment>> {
        let awaited = asked(self.ingress, managed).is_some();
        let from = (self.ingress, self.origin, awaited);
        let section = TlsSection::read(from, self.lookup, self.remarks);
        let Some(section) = section else {
            if awaited {
                let message = "this Ingress asks for certificates, and there is no tls entry, so none is \
                               ordered: add one with hosts and a secretName";
                let code = Code::CertificateEntryIncomplete;
                self.remarks.warning("spec.tls", code, message);
            }
            return Vec::new();
        };
        for (host, fragment) in &mut self.hosts {
            if *host == HostPattern::Any {
                // ingress-nginx: the catch-all server always has the default certificate, and its
                // requests are never redirected.
                if fragment.owns_root {
                    continue;
                }
                self.remarks.warning(
                    "spec.tls",
                    Code::TlsUnused,
                    "a tls section has no effect on rules without a host: they are served with the \
                     default certificate and without a redirect to https; name the host in the \
                     rule",
                );
            } else {
                fragment.tls = Some(section.select(host, self.remarks));
            }
        }
        let ordered_only = ownership == HostOwnership::Enforce;
        section.addresses(&Age::of(&self.ingress.metadata), ordered_only)
    }
}

/// How far an annotation closes the door.
fn closed_by(effect: Effect) -> Closed {
    match effect {
        Effect::Refused { whole_host: true } => Closed::Host,
        Effect::Refused { whole_host: false } => Closed::Own,
        Effect::Ignored | Effect::Needless | Effect::Certificates => Closed::No,
    }
}
