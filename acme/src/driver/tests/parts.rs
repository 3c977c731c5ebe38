//! What stands around the authority in memory: a clock that is set, secrets, DNS and a target.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::*;
use super::double::ready;
use crate::clock::ScaledClock;
use crate::dns::{DnsError, Readiness, TxtRecord};
use crate::secrets::Entries;

/// A clock that can be set, and that ends a test in which nothing but looking at it happens.
pub(super) struct Wound {
    inner: ScaledClock,
    shift: Mutex<SignedDuration>,
    looks: AtomicUsize,
}

impl Wound {
    /// Begins at this time.
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            inner: ScaledClock::new(start, 1),
            shift: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    /// Sets it this far from where it began.
    pub(super) fn set(&self, shift: SignedDuration) {
        *self.shift.lock().expect("a shift") = shift;
    }

    /// How often it was looked at.
    pub(super) fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

impl Clock for Wound {
    fn now(&self) -> Timestamp {
        let looks = self.looks.fetch_add(1, Ordering::SeqCst);
        assert!(looks < MOST_LOOKS, "something goes round without a wait");
        let shift = *self.shift.lock().expect("a shift");
        self.inner.now() + shift
    }
}

/// Secrets as they are just now.
#[derive(Default)]
pub(super) struct Drawer(Mutex<BTreeMap<String, Entries>>);

impl Drawer {
    /// Puts a secret with one entry in.
    pub(super) fn put(&self, name: &str, entry: &str, value: impl Into<Vec<u8>>) {
        let entries = Entries::from([(entry.to_owned(), crate::secrets::Secret::new(value))]);
        let mut secrets = self.0.lock().expect("secrets");
        secrets.insert(name.to_owned(), entries);
    }

    /// Takes a secret out.
    pub(super) fn remove(&self, name: &str) {
        self.0.lock().expect("secrets").remove(name);
    }
}

impl Secrets for Drawer {
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Result<Entries, String>> {
        let found = self.0.lock().expect("secrets").get(name).cloned();
        ready(found.ok_or_else(|| "it is not there".to_owned()))
    }
}

/// DNS that takes records, and gives them back or not.
#[derive(Default)]
pub(super) struct Dns {
    pub(super) refuses: std::sync::atomic::AtomicBool,
    pub(super) cleanups: AtomicUsize,
    /// Looks that do not see a record yet.
    pub(super) hides: AtomicUsize,
}

impl Solver for Dns {
    fn locate<'a>(
        &'a self,
        domain: &'a str,
        value: &'a str,
    ) -> Answer<'a, Result<TxtRecord, DnsError>> {
        ready(Ok(TxtRecord {
            fqdn: format!("_acme-challenge.{domain}"),
            zone: None,
            value: value.to_owned(),
        }))
    }

    fn present<'a>(&'a self, _: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        ready(Ok(()))
    }

    fn cleanup<'a>(&'a self, _: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        self.cleanups.fetch_add(1, Ordering::SeqCst);
        let refused = self.refuses.load(Ordering::SeqCst);
        let answer = if refused {
            Err(DnsError::Configuration("no such token".to_owned()))
        } else {
            Ok(())
        };
        ready(answer)
    }

    fn ready<'a>(&'a self, _: &'a TxtRecord) -> Answer<'a, Result<Readiness, DnsError>> {
        let less = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        let hidden = self.hides.fetch_update(order, order, less).is_ok();
        ready(Ok(if hidden {
            Readiness::Missing("a server".to_owned())
        } else {
            Readiness::Visible
        }))
    }
}

/// A target that takes certificates or not.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) full: std::sync::atomic::AtomicBool,
}

impl Projector for Shelf {
    fn preflight<'a>(&'a self, _: &'a Target) -> Answer<'a, Result<(), String>> {
        ready(Ok(()))
    }

    fn project<'a>(&'a self, _: &'a Target, _: &'a Material) -> Answer<'a, Result<(), String>> {
        let full = self.full.load(Ordering::SeqCst);
        ready(if full { Err("full".to_owned()) } else { Ok(()) })
    }
}

/// More than any test needs.
const MOST_LOOKS: usize = 2_000_000;
