//! Diagnostics are values: what is wrong with which object, where, and what to do about it.
//!
//! The same list feeds the terminal, `/api/diagnostics`, `gatehouse check`, a metric by code and,
//! in a cluster, Events. Nothing caused by a user is only logged.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use gatehouse_gateway::access_log::is_deceptive;
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

impl Severity {
    /// As text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
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
    /// The file in which the object stands, when it comes from a file that the message does not
    /// name itself. Filled in by the engine, which has it from the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (severity, code) = (self.severity.as_str(), self.code.as_str());
        let object = Printable(&self.object);
        write!(f, "{severity}[{code}] {object}")?;
        if !self.field.is_empty() {
            write!(f, " {}", Printable(&self.field))?;
        }
        if let Some(file) = &self.file {
            write!(f, " in {}", Printable(file))?;
        }
        write!(f, ": {}", Printable(&self.message))
    }
}

/// Text in which somebody who may write an object has a part, such as a path or the name in a
/// certificate: on one line, and without a hold on the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() || is_deceptive(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

impl Diagnostic {
    /// A finding about a field of an object.
    pub fn new(
        severity: Severity,
        object: &Arc<str>,
        field: impl Into<Arc<str>>,
        code: Code,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            message.truncate(end);
            message.push('…');
        }
        Self {
            object: Arc::clone(object),
            field: field.into(),
            severity,
            code,
            message,
            file: None,
        }
    }
}

/// Collects the findings about one object while it is translated.
#[derive(Debug)]
pub struct Remarks {
    object: Arc<str>,
    list: Vec<Diagnostic>,
}

impl Remarks {
    /// No finding yet.
    pub fn about(object: impl fmt::Display) -> Self {
        Self {
            object: object.to_string().into(),
            list: Vec::new(),
        }
    }

    /// Part of the object is not served.
    pub fn error(&mut self, field: impl Into<Arc<str>>, code: Code, message: impl Into<String>) {
        self.push(Severity::Error, field, code, message);
    }

    /// Served, but probably not as meant.
    pub fn warning(&mut self, field: impl Into<Arc<str>>, code: Code, message: impl Into<String>) {
        self.push(Severity::Warning, field, code, message);
    }

    /// Worth knowing.
    pub fn info(&mut self, field: impl Into<Arc<str>>, code: Code, message: impl Into<String>) {
        self.push(Severity::Info, field, code, message);
    }

    /// Takes over findings about other objects.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Diagnostic>) {
        self.list.extend(others);
    }

    /// The findings, sorted, each once.
    pub fn into_list(mut self) -> Vec<Diagnostic> {
        self.list.sort_unstable();
        self.list.dedup();
        self.list
    }

    fn push(
        &mut self,
        severity: Severity,
        field: impl Into<Arc<str>>,
        code: Code,
        message: impl Into<String>,
    ) {
        self.list.push(Diagnostic::new(
            severity,
            &self.object,
            field,
            code,
            message,
        ));
    }
}

/// The candidate most like `wanted`, for "did you mean": at most a third of its letters differ.
pub fn suggest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(wanted.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance of two names; long ones are not worth comparing.
fn distance(left: &[u8], right: &[u8]) -> usize {
    if left.len().max(right.len()) > 253 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (cell, r) in row.iter_mut().skip(1).zip(right) {
            let substituted = diagonal + usize::from(l != r);
            diagonal = *cell;
            previous = substituted.min(previous + 1).min(diagonal + 1);
            *cell = previous;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
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

            /// What it means, one sentence, for the reference page.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// A file cannot be read or is not YAML or JSON.
    FileUnreadable,
    /// A document is not an object, or an object does not decode.
    ObjectInvalid,
    /// A field that does not exist. An Ingress with one is not taken; of other kinds the field has no
    /// effect.
    FieldUnknown,
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
    /// A path type that is unknown or missing.
    PathTypeInvalid,
    /// No rule, or a rule without a path.
    RulesMissing,
    /// Host and path belong to another object: as a rule the older one, of equally old ones the one
    /// with the greater name.
    RouteConflict,
    /// The host belongs to another namespace, which had it first.
    HostOwnedElsewhere,
    /// Two objects claim the default backend; the older has it, of equally old ones the greater
    /// name.
    DefaultBackendConflict,
    /// Backends of kind Resource are not supported.
    BackendUnsupported,
    /// A backend that names neither a service nor a resource, or no port or two.
    BackendInvalid,
    /// The service does not exist.
    ServiceMissing,
    /// The service has no such port.
    ServicePortMissing,
    /// No endpoint is ready.
    EndpointsMissing,
    /// An `appProtocol` that Gatehouse does not know; HTTP/1.1 is spoken.
    ProtocolUnknown,
    /// An endpoint address that cannot be used.
    EndpointInvalid,
    /// The ExternalName is refused or does not resolve.
    ExternalNameInvalid,
    /// The Secret does not exist.
    SecretMissing,
    /// The Secret may not be read, or too many are asked for by name.
    SecretUnread,
    /// The Secret holds no usable certificate and key; the last good pair keeps serving.
    CertificateInvalid,
    /// The certificate is over: it is served, and clients refuse it.
    CertificateExpired,
    /// The certificate is over in two weeks, or in the last sixth of a short life.
    CertificateExpiresSoon,
    /// An Ingress asks for a certificate that is not there yet; the default one is served meanwhile.
    CertificatePending,
    /// The authority has not issued a certificate: the message has its words and the next attempt.
    CertificateNotIssued,
    /// A Secret of the directory has the name of an ordered certificate: the Secret is served.
    CertificateShadowed,
    /// The Secret that a certificate goes to cannot be written. Without a certificate nothing is ordered
    /// until it can; what is there keeps serving.
    CertificateSecretNotWritable,
    /// Somebody changes the Secret of an ordered certificate again and again: it is left alone for ten
    /// minutes at a time, and served from what is kept. When it is cert-manager, at once and until it has
    /// stopped.
    CertificateSecretContested,
    /// No certificate is issued before a person changes something: the message says what.
    CertificateBlocked,
    /// A rate limit of the authority holds, or the pace that keeps below all of them: the message says which,
    /// and until when.
    CertificateLimited,
    /// A certificate was issued and is served; told for a while after.
    CertificateIssued,
    /// A certificate that was handed over (`gatehouse.dev/adopt`) or imported (`gatehouse cert import`) was taken
    /// over without an order; told for a while after.
    CertificateTakenOver,
    /// A certificate that was handed over cannot be used: the message says why. One is ordered instead.
    CertificateNotTakenOver,
    /// An annotation about certificates has a value that means nothing; the issuer's setting holds.
    CertificateSettingInvalid,
    /// The file of issuers is broken; the last good one holds.
    CertificateIssuersInvalid,
    /// Nobody can work where certificates are kept, or a part of that cannot be read: the message says
    /// where and what to do. What is known keeps serving; nothing there is ordered or renewed until then.
    CertificateVaultUnusable,
    /// What is kept of a certificate cannot be read, understood or written: the message says where and
    /// what to do. What is known keeps serving; nothing is ordered or renewed until then.
    CertificateRecordUnusable,
    /// Nothing is ordered, because a wildcard certificate of the namespace that is valid or on its way covers
    /// all hosts; it is served for them.
    CertificateCovered,
    /// A host that no certificate can carry; the others are ordered.
    CertificateHostInvalid,
    /// Two objects want different certificates in one Secret; the oldest decides.
    CertificateConflict,
    /// An Ingress asks for certificates, and a tls entry names no Secret or no host, or there is none.
    CertificateEntryIncomplete,
    /// Two certificates of one namespace are ordered for the same hosts, and one of them is not served.
    CertificateDoubled,
    /// The operator's `allow` does not name host and namespace, or another namespace was first.
    CertificateNotAllowed,
    /// There is no such issuer, or none is named and there is no default.
    CertificateIssuerUnknown,
    /// More names than a certificate of this profile takes.
    CertificateNamesTooMany,
    /// No challenge can prove one of the names.
    CertificateChallengeImpossible,
    /// The certificate does not cover the host; the default certificate is served.
    CertificateNameMismatch,
    /// Another Ingress of the host decides its certificate: it is older, or as old with the greater
    /// name.
    TlsConflict,
    /// A tls section on rules without a host: they are always served with the default certificate
    /// and never redirected.
    TlsUnused,
    /// An annotation with a prefix of a gateway that nobody knows; it has no effect.
    AnnotationUnknown,
    /// An annotation that has no effect in this version; the message says what is different.
    AnnotationUnsupported,
    /// An annotation restricts access in a way that is not supported: everything of its Ingress is
    /// refused, and what the namespace has on its hosts if it restricts whole hosts.
    AnnotationRefused,
    /// An Ingress of another namespace restricts the whole host by annotation; this Ingress is
    /// served without the restriction.
    AnnotationElsewhere,
    /// A setting of the ConfigMap that is unknown or has a bad value.
    SettingInvalid,
    /// A setting of the ConfigMap restricts access in a way that is not supported: every route is
    /// refused.
    SettingRefused,
    /// A catch-all Ingress that `--disable-catch-all` leaves out.
    CatchAllDisabled,
    /// The last good version keeps serving because the present one is broken.
    LastGoodServed,
    /// The API server refuses to list or watch a resource.
    KindForbidden,
    /// The API server refuses the Lease, or what the leader reads and writes: the message says what.
    RequestForbidden,
    /// The Service of `--publish-service`, or the own pod, is not there: nobody knows the addresses.
    StatusAddressMissing,
    /// The API server does not know a resource.
    KindNotServed,
    /// The API server does not accept the credentials.
    ApiUnauthorized,
    /// The API server does not answer, or with errors only.
    ApiUnreachable,
    /// A list that lacks most objects is not believed before a second one says the same.
    DeletionHeld,
    /// More objects are asked for by name than are watched.
    WatchLimit,
    /// An object has more findings than are listed.
    FindingsLeftOut,
}

/// Letters of a message. What it quotes may be as long as an object.
const LONGEST: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_of_bounded_length_whatever_it_quotes() {
        let about = |message: String| {
            Diagnostic::new(
                Severity::Error,
                &"Ingress/web/shop".into(),
                "spec",
                Code::PathInvalid,
                message,
            )
        };
        let quoted = about("path `x\nerror[Fake] y\u{1b}[2J\u{202e}ü` is not valid".into());
        assert_eq!(
            quoted.to_string(),
            "error[PathInvalid] Ingress/web/shop spec: path `x\\nerror[Fake] y\\u{1b}[2J\\u{202e}ü` \
             is not valid"
        );
        let long = about("ü".repeat(1 << 20));
        assert_eq!(long.message.chars().count(), LONGEST + 1);
    }

    #[test]
    fn a_suggestion_is_the_nearest_name_or_none() {
        let names = ["gatehouse", "nginx", "traefik"];
        assert_eq!(suggest("ngnix", names), None);
        assert_eq!(suggest("nginz", names), Some("nginx"));
        assert_eq!(suggest("gatehose", names), Some("gatehouse"));
        assert_eq!(suggest("haproxy", names), None);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
