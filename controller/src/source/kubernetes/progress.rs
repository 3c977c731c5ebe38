//! How far a watch is in the history of its kind.
//!
//! Invariant: it never goes back. What belongs to a version that was passed already, because a proxy
//! or a cache repeats itself, is not obeyed: the world would show what is long over, and the next
//! watch would begin there.
//!
//! Versions are compared as numbers, which Kubernetes allows within one resource (decision 0028). A
//! version that is no number is passed on as it is.

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    version: String,
    number: Option<u64>,
}

impl Progress {
    /// From the version of a list on.
    pub(super) fn from(version: String) -> Self {
        let number = version.parse().ok();
        Self { version, number }
    }

    /// Where to go on.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Notes a version that was heard; says whether what came with it is to be obeyed. The version
    /// itself may come again: a bookmark has that of the event before it.
    pub(super) fn hear(&mut self, version: String) -> bool {
        let number = version.parse().ok();
        if let (Some(known), Some(new)) = (self.number, number)
            && new < known
        {
            return false;
        }
        *self = Self { version, number };
        true
    }

    /// Whether history, which is this far, has been set back behind what was heard: it goes on from
    /// another past then.
    pub(super) fn is_ahead_of(&self, history: Option<&str>) -> bool {
        let now = history.and_then(|version| version.parse::<u64>().ok());
        now.zip(self.number).is_some_and(|(now, known)| now < known)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A history of writes and deletions; after each event any earlier ones come again.
        #[test]
        fn whatever_is_repeated_the_end_is_that_of_the_history(
            history in prop::collection::vec((0_u8..4, any::<bool>(), 1_u64..3), 1..24),
            repeats in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 24),
        ) {
            let mut version = 100;
            let events: Vec<(u64, u8, bool)> = history
                .iter()
                .map(|(object, written, step)| {
                    version += step;
                    (version, *object, *written)
                })
                .collect();
            let mut truth = BTreeMap::new();
            let mut world = BTreeMap::new();
            let mut progress = Progress::from("100".to_owned());
            let obey = |world: &mut BTreeMap<u8, u64>, event: (u64, u8, bool)| match event {
                (version, object, true) => drop(world.insert(object, version)),
                (_, object, false) => drop(world.remove(&object)),
            };
            for (place, event) in events.iter().enumerate() {
                obey(&mut truth, *event);
                let repeated = repeats[place].iter().map(|index| &events[index.index(place + 1)]);
                for heard in std::iter::once(event).chain(repeated) {
                    if progress.hear(heard.0.to_string()) {
                        obey(&mut world, *heard);
                    }
                }
                prop_assert_eq!(&world, &truth);
                prop_assert_eq!(progress.version(), event.0.to_string());
            }
        }
    }

    #[test]
    fn versions_that_are_no_numbers_are_passed_on() {
        let mut progress = Progress::from("a7".to_owned());
        assert!(progress.hear("a3".to_owned()));
        assert_eq!(progress.version(), "a3");
        assert!(!progress.is_ahead_of(Some("1")));
        let mut progress = Progress::from("10".to_owned());
        assert!(!progress.hear("9".to_owned()), "not as text");
        assert!(progress.is_ahead_of(Some("9")));
        assert!(!progress.is_ahead_of(None));
    }
}
