//! The places for connections, and who has to leave when they are taken.
//!
//! Invariants: there are never more connections than places, of one address never more than its
//! share; a new connection always finds a place. The one that has been silent for longest leaves
//! for it, of the same address when that has its share, so that nobody keeps probes out by holding
//! connections open. One that waits for a command is not silent: it leaves when all others do, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// All places. Used on one thread only; the lock is there because tasks want to be `Send`.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    /// By the moment of the last sign of life: the first has been silent for longest.
    by_age: BTreeMap<u64, Guest>,
    clock: u64,
}

#[derive(Debug)]
struct Guest {
    address: IpAddr,
    task: Option<AbortHandle>,
    /// It waits for the end of a command.
    waits: bool,
}

/// The place of one connection; free when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    age: Mutex<u64>,
}

impl Places {
    /// Takes a place, and ends another connection when there is none left.
    pub(super) fn take(&self, address: IpAddr) -> Arc<Place> {
        let mut taken = self.lock();
        let own = |guest: &Guest| guest.address == address;
        let has_share = taken.by_age.values().filter(|guest| own(guest)).count() >= SHARE;
        let mut leaves = None;
        if has_share || taken.by_age.len() >= ALL {
            let candidates = taken.by_age.iter();
            let candidates = candidates.filter(|(_, guest)| !has_share || own(guest));
            let silent = candidates
                .min_by_key(|(age, guest)| (guest.waits, **age))
                .map(|(age, _)| *age);
            leaves = silent.and_then(|age| taken.by_age.remove(&age));
        }
        let age = taken.insert(Guest {
            address,
            task: None,
            waits: false,
        });
        drop(taken);
        if let Some(task) = leaves.and_then(|guest| guest.task) {
            task.abort();
        }
        Arc::new(Place {
            places: self.clone(),
            age: Mutex::new(age),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn insert(&mut self, guest: Guest) -> u64 {
        self.clock += 1;
        self.by_age.insert(self.clock, guest);
        self.clock
    }
}

impl Place {
    /// The task that ends when somebody else needs the place.
    pub(super) fn held_by(&self, task: AbortHandle) {
        let age = self.age();
        if let Some(guest) = self.places.lock().by_age.get_mut(&age) {
            guest.task = Some(task);
        }
    }

    /// The client has asked for something.
    pub(super) fn touch(&self) {
        let mut age = self.age();
        let mut taken = self.places.lock();
        if let Some(guest) = taken.by_age.remove(&age) {
            *age = taken.insert(guest);
        }
    }

    /// The client waits for the end of a command, as long as this is held.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.set_waits(true);
        Waiting(self)
    }

    fn set_waits(&self, waits: bool) {
        let age = self.age();
        if let Some(guest) = self.places.lock().by_age.get_mut(&age) {
            guest.waits = waits;
        }
    }

    fn age(&self) -> MutexGuard<'_, u64> {
        self.age.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that waits for the end of a command.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Place);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set_waits(false);
        self.0.touch();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let age = *self.age();
        self.places.lock().by_age.remove(&age);
    }
}

/// Connections at a time.
pub(super) const ALL: usize = 64;
/// Connections of one address at a time.
pub(super) const SHARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn here(places: &Places, last: u8) -> usize {
        let taken = places.lock();
        let of = |guest: &&Guest| guest.address == address(last);
        taken.by_age.values().filter(of).count()
    }

    #[test]
    fn the_most_silent_of_an_address_with_its_share_leaves() {
        let places = Places::default();
        let other = places.take(address(2));
        let held: Vec<_> = (0..SHARE).map(|_| places.take(address(1))).collect();
        held[0].touch();
        let next = places.take(address(1));
        assert_eq!((here(&places, 1), here(&places, 2)), (SHARE, 1));
        let known = |place: &Place| places.lock().by_age.contains_key(&*place.age());
        assert!(!known(&held[1]), "the second has been silent for longest");
        assert!(known(&held[0]) && known(&next) && known(&other));
        drop(held);
        assert_eq!(
            here(&places, 1),
            1,
            "a place that was lost is given back once"
        );
    }

    #[test]
    fn who_waits_for_a_command_leaves_last() {
        let places = Places::default();
        let held: Vec<_> = (0..SHARE).map(|_| places.take(address(1))).collect();
        let known = |place: &Place| places.lock().by_age.contains_key(&*place.age());
        let waiting = held[0].wait();
        let next: Vec<_> = (1..SHARE).map(|_| places.take(address(1))).collect();
        assert!(known(&held[0]) && !known(&held[SHARE - 1]));
        // Nobody keeps probes out by commands either.
        let all: Vec<_> = next.iter().map(|place| place.wait()).collect();
        let _probe = places.take(address(1));
        assert!(!known(&held[0]), "the first of those that wait");
        drop((waiting, all));
        let _another = places.take(address(1));
        assert_eq!(here(&places, 1), SHARE);
    }

    #[test]
    fn when_all_places_are_taken_the_most_silent_of_all_leaves() {
        let places = Places::default();
        let held: Vec<_> = (0..ALL)
            .map(|number| places.take(address(u8::try_from(number / SHARE).unwrap())))
            .collect();
        let _probe = places.take(address(200));
        assert_eq!((here(&places, 0), here(&places, 200)), (SHARE - 1, 1));
        assert_eq!(places.lock().by_age.len(), ALL);
        drop(held);
    }
}
