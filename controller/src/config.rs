//! Configuration: flags and the ConfigMap become one validated set of values.
//!
//! Invariants: nothing else reads arguments or the environment; a value that leaves here is
//! valid; the same table drives flags, ConfigMap and documentation.

mod certificates;
mod configmap;
pub mod flags;
pub mod generate;
pub mod people;
mod reserved;
mod restrictions;
mod selector;
mod settings;
mod status;
mod values;

pub use certificates::{CertificateArgs, IssuerArgs, Managed};
pub use configmap::{Base, with_configmap};
pub use restrictions::{RESTRICTIONS, Restriction};
pub use settings::{SETTINGS, Setting};
pub use status::{Replica, StatusArgs};

use std::sync::Arc;

use clap::ValueEnum;
use gatehouse_gateway::model::Balance;
use http::StatusCode;

/// What translation and merging take for granted. Part of their input, so they stay pure: a new
/// value means translating again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, not the states of one thing"
)]
pub struct Defaults {
    /// Which Ingresses are ours.
    pub classes: ClassRules,
    /// Service (namespace, name) that answers hosts and paths that nothing else serves; its first
    /// port is used.
    pub default_backend: Option<(Arc<str>, Arc<str>)>,
    /// Secret (namespace, name) with the certificate for hosts that have none.
    pub default_certificate: Option<(Arc<str>, Arc<str>)>,
    /// Leave out every Ingress that has `spec.defaultBackend`.
    pub disable_catch_all: bool,
    /// ExternalName services may stand for services of other namespaces.
    pub cross_namespace_names: bool,
    /// Redirect to https for hosts with a tls section.
    pub https_redirect: bool,
    /// Status of that redirect.
    pub https_redirect_status: StatusCode,
    /// Rule paths that begin with one of these are not redirected.
    pub https_redirect_exempt: Vec<Arc<str>>,
    /// Namespaces to read; empty means all.
    pub watch_namespaces: Vec<Arc<str>>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// `Strict-Transport-Security` for answers over TLS.
    pub hsts: Option<Arc<str>>,
    /// The ConfigMap restricts access in a way that cannot be applied: every route refuses.
    pub closed: bool,
    /// What it means that a host belongs to the namespace that had it first.
    pub host_ownership: HostOwnership,
    /// Which Ingresses ask for certificates.
    pub managed: Managed,
}

/// Whether several namespaces may have rules for one host. The namespace of the oldest object of a
/// host owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, ValueEnum)]
pub enum HostOwnership {
    /// They may; the oldest object owns each path.
    Off,
    /// They may, and whoever does not own the host is told.
    #[default]
    Warn,
    /// Only the owner is served.
    Enforce,
}

/// Class selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRules {
    /// `spec.controller` values of the IngressClasses that are ours.
    pub controllers: Vec<Arc<str>>,
    /// Class name: the value of the legacy annotation, and with `by_name` of `ingressClassName`.
    pub class: Arc<str>,
    /// Accept `ingressClassName` equal to `class` whatever its controller.
    pub by_name: bool,
    /// Also serve Ingresses without any class.
    pub without_class: bool,
    /// How IngressClasses become known.
    pub reading: ClassReading,
}

/// How IngressClasses become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassReading {
    /// From files: nobody gives the default class to an Ingress, so its mark is looked at.
    #[default]
    Files,
    /// From an API server, which has given the default class to every Ingress that was created
    /// while there was one. Those from before have none.
    Cluster,
    /// Not at all, because they belong to no namespace and only namespaces are read: then
    /// `ingressClassName` is ours when it equals `class`.
    Nowhere,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            classes: ClassRules {
                controllers: vec!["gatehouse.dev/ingress-controller".into()],
                class: "gatehouse".into(),
                by_name: false,
                without_class: false,
                reading: ClassReading::default(),
            },
            default_backend: None,
            default_certificate: None,
            disable_catch_all: false,
            cross_namespace_names: false,
            https_redirect: true,
            https_redirect_status: StatusCode::PERMANENT_REDIRECT,
            https_redirect_exempt: vec!["/.well-known/acme-challenge".into()],
            watch_namespaces: Vec::new(),
            balance: Balance::default(),
            hsts: Some("max-age=31536000; includeSubDomains".into()),
            host_ownership: HostOwnership::default(),
            managed: Managed::default(),
            closed: false,
        }
    }
}
