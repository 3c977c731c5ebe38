//! The fragments of one host to the plan of that host: precedence, ownership, the implicit `/`,
//! and the policies that hold for a whole host.
//!
//! Semantics of ingress-nginx: the oldest object owns a path of one kind; the oldest object of the
//! host makes its implicit `/`; the oldest object with a tls section decides the certificate, and
//! its tls section redirects every route of the host, whoever made it.
//!
//! A host belongs to the namespace of its oldest object (`--host-ownership`). Where that is enforced,
//! what other namespaces have for the host counts for nothing: no route, no certificate, no `/`.
//! Hosts own nothing of each other: `*.example.com` is another host than `www.example.com`.
//!
//! A restriction of a whole host that cannot be applied closes what the namespace of its object has
//! on the host, and nothing of other namespaces: nobody takes down the routes of a neighbour.
//!
//! Differences on purpose: Prefix `/x` and Prefix `/x/` live side by side (nginx refuses its whole
//! configuration); `ImplementationSpecific` is a Prefix also when it meets one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use gatehouse_gateway::model::{
    ActionPlan, HostPattern, HostPlan, HostTls, ObjectRef, PathKind, PathMatch, PolicySpec,
    RefuseReason, RouteKey, RoutePlan, WeightedCluster,
};

use super::{Closed, ClusterRef, HostFragment, RouteFragment, Target};
use crate::config::{Defaults, HostOwnership};
use crate::diagnostics::{Code, Diagnostic, Severity};

/// What answers hosts and paths that nothing else serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultAnswer {
    /// To the default backend, or 404.
    pub action: ActionPlan,
    /// The Service of the default backend, when there is one.
    pub origin: Option<ObjectRef>,
}

impl Default for DefaultAnswer {
    fn default() -> Self {
        Self {
            action: ActionPlan::NotFound,
            origin: None,
        }
    }
}

/// Makes the plan of a host of its fragments, oldest first. No fragments, no plan; except for the
/// catch-all host, which always answers: hosts that nobody has are counted and logged like others.
pub fn merge(
    host: &HostPattern,
    fragments: &[&HostFragment],
    answer: &DefaultAnswer,
    defaults: &Defaults,
) -> (Option<HostPlan>, Vec<Diagnostic>) {
    let mut merge = Merge {
        host,
        owners: BTreeMap::new(),
        closers: closers(fragments),
        diagnostics: Vec::new(),
    };
    let fragments = &*merge.owned(fragments, defaults.host_ownership);
    merge.tell_who_is_closed(fragments);
    merge.root_of_the_catch_all(fragments);
    for fragment in fragments {
        for route in &fragment.routes {
            merge.claim(fragment, route);
        }
    }
    let implicit = merge.implicit_root(fragments, answer);
    if merge.owners.is_empty() && implicit.is_none() {
        return (None, merge.diagnostics);
    }
    let tls = merge.tls(fragments);
    let policies = Policies {
        paths: &merge.owners,
        https: tls.is_some() && defaults.https_redirect,
        defaults,
    };
    let mut routes: Vec<_> = merge
        .owners
        .iter()
        .map(|(path, (fragment, route))| RoutePlan {
            key: RouteKey {
                host: host.clone(),
                path: PathMatch::clone(path),
                origin: fragment.origin.clone(),
            },
            field: Arc::clone(&route.field),
            policies: policies.of(path),
            action: merge.action(fragment, &route.target, answer),
        })
        .chain(implicit.map(|route| RoutePlan {
            policies: [route.policies, policies.of(&route.key.path)].concat(),
            ..route
        }))
        .map(|route| RoutePlan {
            action: if defaults.closed {
                ActionPlan::Refuse(RefuseReason::BrokenPolicy)
            } else {
                route.action
            },
            ..route
        })
        .map(Arc::new)
        .collect();
    routes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let plan = HostPlan {
        host: host.clone(),
        routes,
        tls,
    };
    merge.diagnostics.sort_unstable();
    (Some(plan), merge.diagnostics)
}

type Owners<'a> = BTreeMap<&'a PathMatch, (&'a HostFragment, &'a RouteFragment)>;

/// By namespace, the object that closes all that the namespace has on the host.
type Closers<'a> = BTreeMap<&'a str, &'a HostFragment>;

fn closers<'a>(fragments: &[&'a HostFragment]) -> Closers<'a> {
    let mut closers = Closers::new();
    for &fragment in fragments.iter().filter(|f| f.closed == Closed::Host) {
        closers
            .entry(&*fragment.origin.namespace)
            .or_insert(fragment);
    }
    closers
}

struct Merge<'a> {
    host: &'a HostPattern,
    owners: Owners<'a>,
    closers: Closers<'a>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Merge<'a> {
    /// The fragments that count, oldest first.
    fn owned<'f>(
        &mut self,
        fragments: &'f [&'a HostFragment],
        mode: HostOwnership,
    ) -> Cow<'f, [&'a HostFragment]> {
        let (Some(oldest), false) = (fragments.first(), mode == HostOwnership::Off) else {
            return Cow::Borrowed(fragments);
        };
        let owner = &oldest.origin;
        let is_owned = |fragment: &HostFragment| fragment.origin.namespace == owner.namespace;
        let (severity, then) = match mode {
            HostOwnership::Enforce => (
                Severity::Error,
                "nothing of it is served here; use another host, or agree with the owner",
            ),
            HostOwnership::Off | HostOwnership::Warn => (
                Severity::Warning,
                "both are served; with --host-ownership=enforce this one would not be",
            ),
        };
        let host = match self.host {
            HostPattern::Any => "the catch-all host".to_owned(),
            host => format!("host `{host}`"),
        };
        for fragment in fragments.iter().filter(|fragment| !is_owned(fragment)) {
            let message = format!(
                "{host} belongs to namespace `{}`, whose {owner} {}: {then}",
                owner.namespace,
                oldest.age.lead_over(&fragment.age),
            );
            self.diagnostics.push(finding(
                severity,
                fragment,
                &fragment.field,
                Code::HostOwnedElsewhere,
                message,
            ));
        }
        if mode == HostOwnership::Warn {
            return Cow::Borrowed(fragments);
        }
        let owned = fragments.iter().filter(|fragment| is_owned(fragment));
        Cow::Owned(owned.copied().collect())
    }

    /// An object with a default backend and no rules takes `/` of the catch-all host, the oldest
    /// first; explicit rules for it come after.
    fn root_of_the_catch_all(&mut self, fragments: &[&'a HostFragment]) {
        let alone = fragments.iter().filter(|fragment| fragment.owns_root);
        for (fragment, route) in alone.filter_map(|f| Some((*f, f.fallback.as_deref()?))) {
            match self.owners.entry(&route.path) {
                Entry::Vacant(free) => {
                    free.insert((fragment, route));
                }
                Entry::Occupied(taken) => {
                    let owner = taken.get().0;
                    let message = format!(
                        "the default backend is that of {}, which {}: this one is not used",
                        owner.origin,
                        owner.age.lead_over(&fragment.age),
                    );
                    self.diagnostics.push(finding(
                        Severity::Error,
                        fragment,
                        &route.field,
                        Code::DefaultBackendConflict,
                        message,
                    ));
                }
            }
        }
    }

    fn claim(&mut self, fragment: &'a HostFragment, route: &'a RouteFragment) {
        match self.owners.entry(&route.path) {
            Entry::Vacant(free) => {
                free.insert((fragment, route));
            }
            Entry::Occupied(taken) => {
                let (owner, owned) = taken.get();
                let same = owned.target == route.target;
                let (severity, then) = if same {
                    (Severity::Warning, "both lead to the same place")
                } else {
                    (Severity::Error, "this backend is not served")
                };
                let kind = match route.path.kind {
                    PathKind::Exact => "Exact",
                    PathKind::Prefix => "Prefix",
                };
                let message = format!(
                    "{kind} path `{}` of host `{}` belongs to {} {}: {then}",
                    route.path.path, self.host, owner.origin, owned.field,
                );
                self.diagnostics.push(finding(
                    severity,
                    fragment,
                    &route.field,
                    Code::RouteConflict,
                    message,
                ));
            }
        }
    }

    /// Says so to the objects that carry no restriction themselves: to those of the namespace that
    /// they are closed, to those of other namespaces that they are not.
    fn tell_who_is_closed(&mut self, fragments: &[&HostFragment]) {
        for fragment in fragments.iter().filter(|f| f.closed != Closed::Host) {
            let own = self.closers.get(&*fragment.origin.namespace);
            let (severity, code, message) = match (own, self.closers.values().next()) {
                (Some(closer), _) => (
                    Severity::Error,
                    Code::AnnotationRefused,
                    format!(
                        "{} has an annotation that restricts the whole host `{}` and is not \
                         supported, so what this Ingress has there answers 503, too: see the \
                         finding about that Ingress",
                        closer.origin, self.host
                    ),
                ),
                (None, Some(closer)) if fragment.closed == Closed::No => (
                    Severity::Warning,
                    Code::AnnotationElsewhere,
                    format!(
                        "{} of another namespace restricts the whole host `{}` by an annotation \
                         that is not supported; what this Ingress has there is served without the \
                         restriction: take it off that host if it relies on it",
                        closer.origin, self.host
                    ),
                ),
                _ => continue,
            };
            self.diagnostics
                .push(finding(severity, fragment, &fragment.field, code, message));
        }
    }

    fn action(
        &self,
        fragment: &HostFragment,
        target: &Target,
        answer: &DefaultAnswer,
    ) -> ActionPlan {
        match target {
            _ if self.is_closed(fragment) => ActionPlan::Refuse(RefuseReason::BrokenPolicy),
            Target::Cluster(cluster) => forward(cluster),
            Target::Default => answer.action.clone(),
            Target::Refuse(reason) => ActionPlan::Refuse(*reason),
        }
    }

    fn is_closed(&self, fragment: &HostFragment) -> bool {
        fragment.closed != Closed::No || self.closers.contains_key(&*fragment.origin.namespace)
    }

    /// A host without Prefix `/` gets one, from its oldest object: to the default backend of that
    /// object, else to the answer for what nothing serves.
    fn implicit_root(
        &mut self,
        fragments: &[&'a HostFragment],
        answer: &DefaultAnswer,
    ) -> Option<RoutePlan> {
        let path = PathMatch {
            kind: PathKind::Prefix,
            path: "/".into(),
        };
        if self.owners.contains_key(&path) {
            return None;
        }
        let (origin, field, action) = match fragments.split_first() {
            Some((oldest, younger)) => {
                self.unused_fallbacks(oldest, younger);
                let fallback = oldest.fallback.as_deref();
                let (field, target) = fallback.map_or((&oldest.field, &Target::Default), |route| {
                    (&route.field, &route.target)
                });
                let action = self.action(oldest, target, answer);
                (&oldest.origin, field, action)
            }
            None if *self.host == HostPattern::Any => match &answer.origin {
                Some(origin) => (origin, &Arc::from("spec.ports[0]"), answer.action.clone()),
                None => (&nobody(), &Arc::from(""), answer.action.clone()),
            },
            None => return None,
        };
        Some(RoutePlan {
            key: RouteKey {
                host: self.host.clone(),
                path,
                origin: origin.clone(),
            },
            field: Arc::clone(field),
            policies: self.health_check(&action, answer),
            action,
        })
    }

    /// Load balancers ask ingress-nginx for `/healthz` on the catch-all host, and take the gateway
    /// out when it answers 404. A catch-all of a user is not taken a path away (ingress-nginx does).
    fn health_check(&self, action: &ActionPlan, answer: &DefaultAnswer) -> Vec<PolicySpec> {
        if *self.host == HostPattern::Any && *action == answer.action {
            let path = HEALTH_CHECK.into();
            vec![PolicySpec::HealthCheck { path }]
        } else {
            Vec::new()
        }
    }

    fn unused_fallbacks(&mut self, oldest: &HostFragment, younger: &[&HostFragment]) {
        for fragment in younger {
            let Some(route) = &fragment.fallback else {
                continue;
            };
            let message = format!(
                "paths of host `{}` that no rule has are answered by {}, which {}: this default \
                 backend is not used there",
                self.host,
                oldest.origin,
                oldest.age.lead_over(&fragment.age),
            );
            self.diagnostics.push(finding(
                Severity::Warning,
                fragment,
                &route.field,
                Code::DefaultBackendConflict,
                message,
            ));
        }
    }

    fn tls(&mut self, fragments: &[&HostFragment]) -> Option<HostTls> {
        let mut wishes = fragments.iter().filter_map(|f| Some((f, f.tls.as_ref()?)));
        let (first, decided) = wishes.next()?;
        for (fragment, wish) in wishes {
            if wish.certificate != decided.certificate {
                let message = format!(
                    "the certificate of host `{}` is decided by {}, which {}: the one wanted here \
                     is not used",
                    self.host,
                    first.origin,
                    first.age.lead_over(&fragment.age),
                );
                self.diagnostics.push(finding(
                    Severity::Warning,
                    fragment,
                    "spec.tls",
                    Code::TlsConflict,
                    message,
                ));
            }
        }
        Some(decided.clone())
    }
}

struct Policies<'a> {
    paths: &'a Owners<'a>,
    https: bool,
    defaults: &'a Defaults,
}

impl Policies<'_> {
    fn of(&self, path: &PathMatch) -> Vec<PolicySpec> {
        let mut policies = Vec::new();
        if let Some(open) = path
            .path
            .strip_suffix('/')
            .filter(|open| self.is_free(open))
        {
            policies.push(PolicySpec::TrailingSlash { path: open.into() });
        }
        if self.https {
            // The path of the rule decides, not the path of the request (ingress-nginx).
            let exempt = self.defaults.https_redirect_exempt.iter();
            policies.push(PolicySpec::HttpsRedirect {
                status: self.defaults.https_redirect_status,
                exempt: exempt
                    .into_iter()
                    .any(|begin| path.path.starts_with(&**begin)),
            });
        }
        if let Some(value) = &self.defaults.hsts {
            policies.push(PolicySpec::Hsts {
                value: Arc::clone(value),
            });
        }
        policies.shrink_to_fit();
        policies
    }

    /// Whether nothing is defined for the path itself.
    fn is_free(&self, path: &str) -> bool {
        let defined = |kind| {
            let path = PathMatch {
                kind,
                path: path.into(),
            };
            self.paths.contains_key(&path)
        };
        !path.is_empty() && !defined(PathKind::Exact) && !defined(PathKind::Prefix)
    }
}

/// Where the answer for unknown hosts comes from when no object gives it.
fn nobody() -> ObjectRef {
    ObjectRef {
        kind: "Gatehouse".into(),
        namespace: "".into(),
        name: "default".into(),
    }
}

/// All requests to one cluster.
pub fn forward(cluster: &ClusterRef) -> ActionPlan {
    ActionPlan::Forward(vec![WeightedCluster {
        cluster: cluster.key.clone(),
        weight: 1,
    }])
}

fn finding(
    severity: Severity,
    fragment: &HostFragment,
    field: &str,
    code: Code,
    message: String,
) -> Diagnostic {
    let object = fragment.origin.to_string().into();
    Diagnostic::new(severity, &object, field, code, message)
}

/// Where load balancers look whether requests are answered.
const HEALTH_CHECK: &str = "/healthz";
