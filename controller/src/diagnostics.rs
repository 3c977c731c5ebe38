//! Diagnostics are values: what is wrong with which object, where, and what to do about it.
//!
//! The same list feeds the terminal, `/api/diagnostics`, `gatehouse check`, a metric by code and,
//! in a cluster, Events. Nothing caused by a user is only logged.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of the configuration is not served, or its last good version is.
    Error,
    /// Served, but probably not as meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// One finding. Ordered by object, field and code, so lists compare and print the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The object, as `Kind/namespace/name`, or the file when no object could be read.
    pub object: Arc<str>,
    /// The field within it, such as `spec.rules[0].http.paths[1].backend`; may be empty.
    pub field: Arc<str>,
    /// Severity.
    pub severity: Severity,
    /// Stable code in CamelCase, usable as an Event reason.
    pub code: Code,
    /// What is wrong and what to do, one sentence, lower case, without a full stop.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        write!(f, "{severity}[{}] {}", self.code.as_str(), self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The closed list of diagnostic codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

codes! {
    /// A file cannot be read or is not YAML or JSON.
    FileUnreadable,
    /// A document is not an object, or an object does not decode.
    ObjectInvalid,
    /// The same object stands in two files.
    ObjectDuplicate,
    /// Objects of a kind that Gatehouse does not read.
    KindSkipped,
    /// An old API version that was converted.
    ApiVersionOld,
    /// The Ingress is not ours: its class is unknown or belongs to somebody else.
    ClassUnknown,
    /// A host that is no valid DNS name or wildcard.
    HostInvalid,
    /// A path that does not begin with a slash or has no canonical form.
    PathInvalid,
    /// An unknown path type.
    PathTypeInvalid,
    /// Host and path are already owned by an older object.
    RouteConflict,
    /// Two objects claim the default backend; the older has it.
    DefaultBackendConflict,
    /// Backends of kind Resource are not supported.
    BackendUnsupported,
    /// A backend that names neither a service nor a resource, or no port.
    BackendInvalid,
    /// The service does not exist.
    ServiceMissing,
    /// The service has no such port.
    ServicePortMissing,
    /// No endpoint is ready.
    EndpointsMissing,
    /// An endpoint address that cannot be used.
    EndpointInvalid,
    /// The ExternalName is refused or does not resolve.
    ExternalNameInvalid,
    /// The Secret does not exist.
    SecretMissing,
    /// The Secret holds no usable certificate and key; the last good pair keeps serving.
    CertificateInvalid,
    /// The certificate does not cover the host; the default certificate is served.
    CertificateNameMismatch,
    /// The certificate has expired.
    CertificateExpired,
    /// An annotation that Gatehouse does not know.
    AnnotationUnknown,
    /// A setting of the ConfigMap that is unknown or has a bad value.
    SettingInvalid,
    /// A catch-all Ingress that `--disable-catch-all` leaves out.
    CatchAllDisabled,
    /// The last good version keeps serving because the present one is broken.
    LastGoodServed,
}
