//! All diagnostics, by who found them; and the one sorted list of them.
//!
//! The same finding of several computations (a broken Secret that many use) is listed once, and of
//! one object at most [`MOST`]: an object may have as many mistakes as it has bytes. The list is
//! made only when asked for and only when something changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use gatehouse_gateway::model::HostPattern;

use super::graph::Node;
use crate::diagnostics::{Code, Diagnostic};
use crate::source::ObjectKey;

/// Who found something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A computation over the world.
    Node(Node),
    /// Merging a host.
    Host(HostPattern),
    /// Choosing the certificate of an address.
    Address(IpAddr),
    /// The source.
    Source,
    /// The values of the ConfigMap.
    Settings,
    /// The ConfigMap itself.
    ConfigMap,
    /// The clock.
    Time,
    /// The certificate manager.
    Certificates,
}

/// See the module.
#[derive(Default)]
pub(super) struct Findings {
    by_origin: HashMap<Origin, Vec<Diagnostic>>,
    counted: BTreeMap<Diagnostic, usize>,
    listed: Option<Arc<[Diagnostic]>>,
    /// Files by the name of the object.
    places: HashMap<Arc<str>, Arc<str>>,
}

impl Findings {
    /// Replaces what somebody found; says whether that is something new.
    pub(super) fn set(&mut self, origin: Origin, list: Vec<Diagnostic>) -> bool {
        if self.of(&origin) == list {
            return false;
        }
        for diagnostic in &list {
            *self.counted.entry(diagnostic.clone()).or_default() += 1;
        }
        let old = if list.is_empty() {
            self.by_origin.remove(&origin)
        } else {
            self.by_origin.insert(origin, list)
        };
        for diagnostic in old.iter().flatten() {
            if let Some(count) = self.counted.get_mut(diagnostic) {
                *count -= 1;
                if *count == 0 {
                    self.counted.remove(diagnostic);
                }
            }
        }
        self.listed = None;
        true
    }

    /// What somebody found.
    pub(super) fn of(&self, origin: &Origin) -> &[Diagnostic] {
        self.by_origin
            .get(origin)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Notes where objects stand; says whether a finding may read differently now.
    pub(super) fn place(&mut self, places: Vec<(ObjectKey, Arc<str>)>) -> bool {
        for (key, file) in places {
            self.places.insert(key.to_string().into(), file);
        }
        self.listed = None;
        !self.counted.is_empty()
    }

    /// Forgets where an object stood.
    pub(super) fn displace(&mut self, key: &ObjectKey) {
        if !self.places.is_empty() && self.places.remove(&*key.to_string()).is_some() {
            self.listed = None;
        }
    }

    /// Takes over where objects stand.
    pub(super) fn place_like(&mut self, other: &Self) {
        self.places.clone_from(&other.places);
        self.listed = None;
    }

    /// Everything, sorted, each once.
    pub(super) fn list(&mut self) -> Arc<[Diagnostic]> {
        let (counted, places) = (&self.counted, &self.places);
        let list = self.listed.get_or_insert_with(|| {
            let placed = counted.keys().map(|diagnostic| {
                // Findings of the source name the file in their own words.
                let known = places.get(&diagnostic.object);
                let file = known.filter(|file| !diagnostic.message.contains(&***file));
                Diagnostic {
                    file: file.cloned(),
                    ..diagnostic.clone()
                }
            });
            bounded(&placed.collect::<Vec<_>>()).into()
        });
        Arc::clone(list)
    }
}

/// The findings with at most [`MOST`] of each object, the worst first to stay. Sorted, as they are.
fn bounded(list: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut kept = Vec::with_capacity(list.len());
    for about in list.chunk_by(|one, other| one.object == other.object) {
        let start = kept.len();
        kept.extend_from_slice(about);
        if about.len() <= MOST {
            continue;
        }
        let mut worst = kept.split_off(start);
        // Stable: of equally bad ones the first stay.
        worst.sort_by_key(|diagnostic| diagnostic.severity);
        let left_out = worst.split_off(MOST);
        worst.extend(left_out.first().map(|first| {
            Diagnostic::new(
                first.severity,
                &first.object,
                "",
                Code::FindingsLeftOut,
                format!(
                    "{} more findings about this object are not listed: correct those that are",
                    left_out.len()
                ),
            )
        }));
        worst.sort_unstable();
        kept.append(&mut worst);
    }
    kept
}

/// Findings of one object that are listed.
const MOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Severity;

    fn about(object: &str, number: usize, severity: Severity) -> Diagnostic {
        let field = format!("spec.rules[{number:04}]");
        Diagnostic::new(
            severity,
            &object.into(),
            field,
            Code::PathInvalid,
            "a mistake",
        )
    }

    #[test]
    fn an_object_with_many_mistakes_has_its_worst_listed_and_the_others_counted() {
        let many = |severity| move |number| about("Ingress/web/many", number, severity);
        let few = (0..MOST).map(|number| about("Ingress/web/few", number, Severity::Info));
        let mut list: Vec<Diagnostic> = few.collect();
        list.extend((0..300).map(many(Severity::Warning)));
        list.push(about("Ingress/web/many", 9999, Severity::Error));
        let kept = bounded(&list);
        assert!(kept.is_sorted());
        assert_eq!(kept.len(), MOST + MOST + 1);
        assert_eq!(kept[..MOST], list[..MOST], "those of others stay");
        let rest: Vec<_> = kept
            .iter()
            .filter(|d| d.code == Code::FindingsLeftOut)
            .collect();
        assert!(
            rest[0].message.starts_with("201 more"),
            "{}",
            rest[0].message
        );
        let error = kept.iter().find(|d| d.severity == Severity::Error);
        assert!(error.is_some(), "the worst stays");
    }
}
