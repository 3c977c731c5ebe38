//! Which watches the objects that are asked for need.
//!
//! Pure. Of Secrets the key pairs are watched by their type, only in namespaces where something
//! refers to one; what is no key pair, or lies where no namespace is watched, by its name.
//! ConfigMaps and the Endpoints of services without a slice are watched by name. Both numbers are
//! bounded: above [`NAMESPACES`] one watch over all key pairs of the cluster takes the place of
//! many, if the rights allow it, and names above [`NAMES`] are left out and said to be. Namespaces
//! take turns for them, so that none takes the places of the others by naming much.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Kind, ObjectKey};
use super::target::Target;

/// The watches, and the names that are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) targets: BTreeSet<Target>,
    /// Those by name, in the order in which they are started: the operator's, then in turn.
    pub(super) names: Vec<Target>,
    pub(super) left_out: BTreeSet<Target>,
}

/// What a watch over key pairs has found.
pub(super) trait Pairs {
    /// Whether the watch has listed everything and this Secret was not among it.
    fn lacks(&self, watch: &Target, secret: &ObjectKey) -> bool;
    /// Whether the server refuses this watch.
    fn refused(&self, watch: &Target) -> bool;
}

/// The watches for these objects. `namespaces` are those that are watched; empty means all.
pub(super) fn wanted(keys: &[ObjectKey], namespaces: &[Arc<str>], pairs: &impl Pairs) -> Wanted {
    let is_watched =
        |key: &&ObjectKey| namespaces.is_empty() || namespaces.contains(&key.namespace);
    let secrets = || keys.iter().filter(|key| key.kind == Kind::Secret);
    let within: BTreeSet<&Arc<str>> = secrets()
        .filter(is_watched)
        .map(|key| &key.namespace)
        .collect();
    let cluster = Target::all(Kind::Secret);
    let everywhere = namespaces.is_empty() && within.len() > NAMESPACES && !pairs.refused(&cluster);
    let by_type = |namespace: &Arc<str>| {
        if everywhere {
            cluster.clone()
        } else {
            Target::within(Kind::Secret, namespace)
        }
    };
    let mut targets: BTreeSet<Target> = within.into_iter().map(by_type).collect();

    let named = |key: &ObjectKey| Target::one(key.kind, &key.namespace, &key.name);
    let settings = keys.iter().filter(|key| key.kind == Kind::ConfigMap);
    let others =
        secrets().filter(|key| !is_watched(key) || pairs.lacks(&by_type(&key.namespace), key));
    let endpoints = keys
        .iter()
        .filter(|key| key.kind == Kind::Endpoints && is_watched(key));
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut in_turn: Vec<(usize, Target)> = others
        .chain(endpoints)
        .map(|key| {
            let turn = turns.entry(&*key.namespace).or_default();
            *turn += 1;
            (*turn, named(key))
        })
        .collect();
    in_turn.sort_unstable();
    let in_turn = in_turn.into_iter().map(|(_, name)| name);
    // The settings are the operator's: they come first.
    let mut names: Vec<Target> = settings.map(named).chain(in_turn).collect();
    let left_out = names
        .split_off(names.len().min(NAMES))
        .into_iter()
        .collect();
    targets.extend(names.iter().cloned());
    Wanted {
        targets,
        names,
        left_out,
    }
}

/// Namespaces whose key pairs are watched one by one. Each is a connection.
const NAMESPACES: usize = 64;

/// Objects that are watched one by one.
const NAMES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    /// The Secrets found, and whether anything was listed.
    struct Found(Vec<ObjectKey>, bool);

    impl Pairs for Found {
        fn lacks(&self, _: &Target, secret: &ObjectKey) -> bool {
            self.1 && !self.0.contains(secret)
        }

        fn refused(&self, _: &Target) -> bool {
            false
        }
    }

    fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn names(wanted: &Wanted) -> Vec<String> {
        wanted.targets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn secrets_are_watched_by_type_and_by_name_what_is_no_pair() {
        let keys = [
            key(Kind::ConfigMap, "own", "settings"),
            key(Kind::Endpoints, "shop", "old"),
            key(Kind::Secret, "shop", "tls"),
            key(Kind::Secret, "shop", "users"),
        ];
        let first = wanted(&keys, &[], &Found(Vec::new(), false));
        let common = ["endpoints shop/old", "secrets in shop"];
        assert_eq!(names(&first)[..2], common);
        assert_eq!(names(&first)[2], "configmaps own/settings");
        let found = Found(vec![key(Kind::Secret, "shop", "tls")], true);
        let then = wanted(&keys, &[], &found);
        assert!(names(&then).contains(&"secrets shop/users".to_owned()));
        assert_eq!(then.targets.len(), 4);
    }

    #[test]
    fn what_lies_outside_the_watched_namespaces_is_watched_by_name_only() {
        let keys = [
            key(Kind::Secret, "own", "default"),
            key(Kind::Secret, "shop", "tls"),
        ];
        let watches = wanted(&keys, &["shop".into()], &Found(Vec::new(), false));
        assert_eq!(names(&watches), ["secrets own/default", "secrets in shop"]);
    }

    #[test]
    fn many_namespaces_become_one_watch_and_too_many_names_are_counted() {
        let keys: Vec<ObjectKey> = (0..200)
            .map(|number| key(Kind::Secret, &format!("n{number:03}"), "tls"))
            .collect();
        let found = Found(keys.clone(), true);
        assert_eq!(names(&wanted(&keys, &[], &found)), ["secrets"]);
        let none = wanted(&keys, &[], &Found(Vec::new(), true));
        assert_eq!(none.left_out.len(), 200 - NAMES);
        assert_eq!(none.targets.len(), 1 + NAMES);
        // One that names much is left out before others are.
        let many = |number| key(Kind::Secret, "greedy", &format!("s{number:03}"));
        let others = ["a", "z"].map(|namespace| key(Kind::Secret, namespace, "users"));
        let mut crowd: Vec<ObjectKey> = (0..500).map(many).chain(others).collect();
        crowd.sort_unstable();
        let fair = wanted(&crowd, &[], &Found(Vec::new(), true));
        assert_eq!(fair.left_out.len(), 502 - NAMES);
        for name in ["secrets a/users", "secrets z/users"] {
            assert!(names(&fair).contains(&name.to_owned()), "{name}");
        }
        let first: Vec<String> = fair.names[..3].iter().map(ToString::to_string).collect();
        let in_turn = ["secrets a/users", "secrets greedy/s000", "secrets z/users"];
        assert_eq!(first, in_turn, "nobody waits for all of another namespace");
        // Whoever names the namespaces gets no watch over the cluster.
        let named: Vec<Arc<str>> = keys.iter().map(|key| Arc::clone(&key.namespace)).collect();
        assert_eq!(wanted(&keys, &named, &found).targets.len(), 200);
    }
}
