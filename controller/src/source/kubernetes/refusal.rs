//! What the API server refuses beside watches: the Lease, and what the leader reads and writes.
//!
//! Invariants: a refusal is told as long as it stands, by the replica that asks; one that has ended
//! is told no longer with the next success, or when this replica has stopped to ask. What is kept
//! is bounded, however many namespaces there are.
//!
//! `status` and `leader` write it down, the source tells it beside the complaints about watches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gatehouse_gateway::metrics::Labelled;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::failure::plain;
use crate::diagnostics::{Code, Diagnostic, Severity};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Standing for election.
    Election,
    /// Writing addresses.
    Status,
    /// Writing Events.
    Events,
    /// Reading the addresses of a Service.
    Service,
    /// Reading the addresses of the nodes.
    Nodes,
}

/// Why something is refused, and of which object it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    object: String,
    why: String,
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Who decides about rights says so.
    Rights,
    /// Who looks at objects says so.
    Policy,
    /// It is not there.
    Missing,
}

/// See the module. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<State>>);

/// By namespace.
type State = BTreeMap<Act, BTreeMap<Arc<str>, Refusal>>;

impl Act {
    const ALL: [Self; 5] = [
        Self::Election,
        Self::Status,
        Self::Events,
        Self::Service,
        Self::Nodes,
    ];

    /// As `kubectl auth can-i` takes it; nodes are looked for by way of pods.
    const fn resource(self) -> &'static str {
        match self {
            Self::Election => "leases.coordination.k8s.io",
            Self::Status => "ingresses.networking.k8s.io/status",
            Self::Events => "events",
            Self::Service => "services",
            Self::Nodes => "nodes",
        }
    }

    const fn verbs(self) -> &'static str {
        match self {
            Self::Election => "create, get or update",
            Self::Status => "patch",
            Self::Events => "create or patch",
            Self::Service | Self::Nodes => "get",
        }
    }

    const fn consequence(self) -> &'static str {
        match self {
            Self::Election => "this replica does not lead; without a leader nothing is written",
            Self::Status => "the addresses of the gateway are not written there",
            Self::Events => "`kubectl describe` does not show what is found about Ingresses",
            Self::Service => "the addresses of the gateway are not known",
            Self::Nodes => "the nodes of the gateway's pods, and their addresses, are not known",
        }
    }
}

impl Refusal {
    /// Whether an error about an object is one. That something new cannot be made in a namespace that ends passes
    /// by itself.
    pub fn of(error: &kube::Error, object: &impl fmt::Debug) -> Option<Self> {
        let kube::Error::Api(status) = error else {
            return None;
        };
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        if status.code != 403 || causes.any(|cause| cause.reason == "NamespaceTerminating") {
            return None;
        }
        Some(Self {
            object: format!("{object:?}"),
            why: plain(error),
            // Whatever decides, the API server says it in these words.
            cause: if status.message.contains(" cannot ") {
                Cause::Rights
            } else {
                Cause::Policy
            },
        })
    }

    /// What a flag names is not there: as little as what is refused will it come by itself.
    pub fn missing(error: &kube::Error, what: &impl fmt::Display) -> Option<Self> {
        matches!(error, kube::Error::Api(status) if status.is_not_found()).then(|| Self {
            object: what.to_string(),
            why: plain(error),
            cause: Cause::Missing,
        })
    }
}

impl Refusals {
    /// It is refused in this namespace. The first wording stays.
    pub fn note(&self, act: Act, namespace: &Arc<str>, refusal: Refusal) {
        let mut state = self.state();
        let places = state.entry(act).or_default();
        // Those beyond are tried again, and noted when there is room.
        if places.len() < MOST {
            places.entry(Arc::clone(namespace)).or_insert(refusal);
        }
    }

    /// It is not refused for this object. A right holds for all of a namespace; what was refused
    /// for another reason may still be refused for another object.
    pub fn passed(&self, act: Act, namespace: &str, object: &impl fmt::Debug) {
        self.end(act, namespace, |refusal| {
            refusal.cause == Cause::Rights || refusal.object == format!("{object:?}")
        });
    }

    /// There is nothing more to ask for of this object. What is refused for others is noted again.
    pub fn gone(&self, act: Act, namespace: &str, object: &impl fmt::Debug) {
        self.end(act, namespace, |refusal| {
            refusal.object == format!("{object:?}")
        });
    }

    fn end(&self, act: Act, namespace: &str, ended: impl FnOnce(&Refusal) -> bool) {
        if let Some(places) = self.state().get_mut(&act)
            && places.get(namespace).is_some_and(ended)
        {
            places.remove(namespace);
        }
    }

    /// Nobody asks any longer.
    pub fn forget(&self, act: Act) {
        self.state().remove(&act);
    }

    /// Everything to complain about, one of each kind.
    pub(super) fn complaints(&self) -> Vec<Diagnostic> {
        let state = self.state();
        let list = state.iter().filter_map(|(act, places)| {
            let (namespace, refusal) = places.first_key_value()?;
            Some(complaint(*act, namespace, refusal, places.len() > 1))
        });
        list.collect()
    }

    /// For the collector of the conversation.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.state();
        let mut family = REFUSED.describe(encoder)?;
        for act in Act::ALL {
            let refused = state.get(&act).is_some_and(|places| !places.is_empty());
            let gauge = ConstGauge::new(i64::from(refused));
            gauge.encode(family.encode_family(&[("resource", act.resource())])?)?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn complaint(act: Act, namespace: &str, refusal: &Refusal, others: bool) -> Diagnostic {
    let others = if others { " and others" } else { "" };
    let place = match namespace {
        "" => String::new(),
        namespace => format!(" in namespace `{namespace}`{others}"),
    };
    let remedy = match refusal.cause {
        Cause::Rights => "grant what `gatehouse generate rbac` prints for the flags of `run`",
        Cause::Policy => {
            "no right is missing, so look for the admission policy or quota that says it"
        }
        Cause::Missing => return missing(act, refusal),
    };
    let message = format!(
        "the API server refuses to {} it{place} ({}), so {}; {remedy}",
        act.verbs(),
        refusal.why,
        act.consequence()
    );
    Diagnostic::new(
        Severity::Error,
        &act.resource().into(),
        "",
        Code::RequestForbidden,
        message,
    )
}

fn missing(act: Act, refusal: &Refusal) -> Diagnostic {
    let (object, consequence) = (&refusal.object, act.consequence());
    let message = format!(
        "what the addresses of the gateway are read from does not exist: {object} ({}), so \
         {consequence}; create it, or correct the flag",
        refusal.why
    );
    Diagnostic::new(
        Severity::Error,
        &act.resource().into(),
        "",
        Code::StatusAddressMissing,
        message,
    )
}

pub(super) const REFUSED: Labelled = Labelled {
    name: "gatehouse_api_refused",
    kind: MetricType::Gauge,
    labels: &["resource"],
    help: "Whether the API server refuses what is asked of it beside watches, such as for lack of rights",
};

/// Namespaces that are kept of each act.
const MOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::resource::GRANTS;
    use super::*;

    fn error(json: &str) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_str(json).unwrap()))
    }

    fn lacking() -> Refusal {
        let json = r#"{"code": 403, "reason": "Forbidden", "message":
            "events is forbidden: User \"a\" cannot create resource \"events\" in API group \"\""}"#;
        Refusal::of(&error(json), &"a").unwrap()
    }

    #[test]
    fn a_refusal_names_verb_resource_and_remedy_until_it_has_ended() {
        let refusals = Refusals::default();
        refusals.note(Act::Events, &"shop".into(), lacking());
        let list = refusals.complaints();
        assert_eq!(list.len(), 1);
        for word in [
            "RequestForbidden",
            "events",
            "create or patch",
            "`shop` (403",
            "generate rbac",
        ] {
            let text = list[0].to_string();
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
        refusals.note(Act::Events, &"tea".into(), lacking());
        assert!(
            refusals.complaints()[0]
                .message
                .contains("`shop` and others")
        );
        refusals.passed(Act::Events, "shop", &"another");
        assert!(refusals.complaints()[0].message.contains("`tea` ("));
        refusals.gone(Act::Events, "tea", &"b");
        assert_eq!(refusals.complaints().len(), 1, "of another object");
        refusals.gone(Act::Events, "tea", &"a");
        assert_eq!(refusals.complaints(), []);
        refusals.note(Act::Election, &"own".into(), lacking());
        refusals.forget(Act::Election);
        assert_eq!(refusals.complaints(), []);
    }

    #[test]
    fn what_is_refused_for_another_reason_has_another_remedy_or_passes() {
        let quota = r#"{"code": 403, "reason": "Forbidden", "message": "exceeded quota: few"}"#;
        let refusals = Refusals::default();
        let refusal = Refusal::of(&error(quota), &"a").unwrap();
        refusals.note(Act::Events, &"shop".into(), refusal);
        let text = refusals.complaints()[0].to_string();
        assert!(
            text.contains("quota: few") && !text.contains("rbac"),
            "{text}"
        );
        refusals.passed(Act::Events, "shop", &"b");
        assert_eq!(refusals.complaints().len(), 1, "of another object");
        refusals.passed(Act::Events, "shop", &"a");
        assert_eq!(refusals.complaints(), []);
        let ends = r#"{"code": 403, "reason": "Forbidden", "message": "it ends", "details":
            {"causes": [{"reason": "NamespaceTerminating", "message": "", "field": ""}]}}"#;
        assert_eq!(Refusal::of(&error(ends), &"a"), None);
        assert_eq!(Refusal::of(&error(r#"{"code": 500}"#), &"a"), None);
    }

    #[test]
    fn what_a_flag_names_and_is_not_there_is_told_with_the_flag() {
        let absent = error(r#"{"code": 404, "reason": "NotFound", "message": "not found"}"#);
        let what = "Service own/front (--publish-service)";
        let refusals = Refusals::default();
        let refusal = Refusal::missing(&absent, &what).unwrap();
        refusals.note(Act::Service, &"".into(), refusal);
        let text = refusals.complaints()[0].to_string();
        for word in ["StatusAddressMissing", what, "create it"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
        assert!(!text.contains("rbac"), "{text}");
        refusals.forget(Act::Service);
        assert_eq!(refusals.complaints(), []);
        assert_eq!(Refusal::missing(&error(r#"{"code": 500}"#), &what), None);
    }

    #[test]
    fn however_many_namespaces_there_are_few_are_kept() {
        let refusals = Refusals::default();
        for number in 0..10 * MOST {
            refusals.note(Act::Events, &number.to_string().into(), lacking());
        }
        assert_eq!(refusals.state()[&Act::Events].len(), MOST);
    }

    #[test]
    fn what_is_told_is_what_the_table_of_rights_has() {
        for act in Act::ALL {
            for resource in act.resource().split(" and ") {
                let name = |grant: &str, group: &str| match grant.split_once('/') {
                    _ if group.is_empty() => grant.to_owned(),
                    Some((resource, part)) => format!("{resource}.{group}/{part}"),
                    None => format!("{grant}.{group}"),
                };
                let mut rows = GRANTS
                    .iter()
                    .filter(|grant| name(grant.resource, grant.group) == resource)
                    .peekable();
                assert!(rows.peek().is_some(), "{resource}");
                let verbs = act
                    .verbs()
                    .split([' ', ','])
                    .filter(|word| !["", "or"].contains(word));
                let granted: Vec<&str> = rows.flat_map(|grant| grant.verbs).copied().collect();
                // Nodes are only got, pods are listed, too.
                for verb in verbs.filter(|verb| resource != "nodes" || *verb != "list") {
                    assert!(granted.contains(&verb), "{verb} {resource}");
                }
            }
        }
    }
}
