//! The certificates that are served now, for whoever terminates TLS.
//!
//! Invariants:
//! - A certificate stays until another one takes its place or its record is removed: neither a
//!   failure nor an expiry takes it away.
//! - Equal content is the same `Arc`, so a reader sees by pointer what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::driver::Wishes;
use crate::events::Report;
use crate::plan::{Target, Wanted};
use crate::record::{Material, Record};
use crate::stock::{Stock, Stocks};
use crate::troubles::Complaints;

/// A certificate to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Identity of the namespace that it was ordered for.
    pub namespace_uid: String,
    /// Chain and key, as PEM.
    pub material: Material,
}

/// All of them, by target.
pub type Certificates = BTreeMap<Target, Arc<Certificate>>;

/// How all of them stand, by target.
pub type Reports = BTreeMap<Target, Arc<Report>>;

/// Shows certificates and reports to readers.
#[derive(Debug)]
pub(crate) struct Served {
    shown: watch::Sender<Arc<Certificates>>,
    reports: watch::Sender<Arc<Reports>>,
    stocks: watch::Sender<Arc<Stocks>>,
    /// What is wrong with the vault that all this comes from.
    pub(crate) complaints: Complaints,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self {
            shown: watch::Sender::new(Arc::default()),
            reports: watch::Sender::new(Arc::default()),
            stocks: watch::Sender::new(Arc::default()),
            complaints: Complaints::default(),
        }
    }

    pub(crate) fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.reports.subscribe()
    }

    /// What there is of each certificate.
    pub(crate) fn stocks(&self) -> watch::Receiver<Arc<Stocks>> {
        self.stocks.subscribe()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Certificates>> {
        self.shown.subscribe()
    }

    /// Shows how a record stands, and its certificate, if it has one.
    pub(crate) fn show(&self, record: &Record, wanted: Option<&Wanted>) {
        let wish = wanted.map(|wanted| (wanted.names.as_slice(), wanted.issuer.as_str()));
        let report = Report::of(record, wish);
        let stock = Stock::of(&record.state, record.current.is_some());
        let target = &record.state.target;
        put(&self.stocks, target, stock);
        put(&self.reports, target, Arc::new(report));
        if let Some(certificate) = certificate(record) {
            put(&self.shown, target, Arc::new(certificate));
        }
    }

    /// Says in every report what is wanted now, for who only follows: whoever works on a certificate
    /// shows it anyway.
    pub(crate) fn wish(&self, wishes: &Wishes) {
        self.reports.send_if_modified(|shown| {
            let mut changed = false;
            for (target, old) in Arc::clone(shown).iter() {
                let mut report = Report::clone(old);
                let wanted = wishes.get(target);
                report.wanted = wanted.is_some();
                if let Some(wanted) = wanted {
                    report.names.clone_from(&wanted.names);
                    report.issuer.clone_from(&wanted.issuer);
                }
                if report != **old {
                    Arc::make_mut(shown).insert(target.clone(), Arc::new(report));
                    changed = true;
                }
            }
            changed
        });
    }

    /// Hides what was removed.
    pub(crate) fn hide(&self, target: &Target) {
        take_away(&self.reports, target);
        take_away(&self.stocks, target);
        take_away(&self.shown, target);
    }

    /// Shows these certificates and hides others; what stays equal stays the same. What is asked for, by
    /// the namespace of this identity, and is not there any more stays: whoever leads removes nothing that
    /// is, and stores it again or orders another one.
    pub(crate) fn replace<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
        is_asked_for: impl Fn(&Target, &str) -> bool,
    ) {
        let mut next: Certificates = BTreeMap::new();
        let shown = Arc::clone(&self.shown.borrow());
        let mut known = BTreeSet::new();
        for record in records {
            known.insert(record.state.target.clone());
            let Some(certificate) = certificate(record) else {
                continue;
            };
            let target = record.state.target.clone();
            let same = shown.get(&target).filter(|old| ***old == certificate);
            let entry = same.map_or_else(|| Arc::new(certificate), Arc::clone);
            next.insert(target, entry);
        }
        for (target, certificate) in shown.iter() {
            if is_asked_for(target, &certificate.namespace_uid) {
                known.insert(target.clone());
                let kept = next.entry(target.clone());
                kept.or_insert_with(|| Arc::clone(certificate));
            }
        }
        renew(&self.shown, next);
        keep_only(&self.reports, &known);
        keep_only(&self.stocks, &known);
    }
}

/// Shows this value, if it is another one.
pub(crate) fn renew<T: PartialEq>(shown: &watch::Sender<Arc<T>>, next: T) {
    shown.send_if_modified(|shown| {
        let changed = **shown != next;
        if changed {
            *shown = Arc::new(next);
        }
        changed
    });
}

/// Shows this of a target, if it is another one.
fn put<T: Clone + PartialEq>(
    shown: &watch::Sender<Arc<BTreeMap<Target, T>>>,
    target: &Target,
    value: T,
) {
    shown.send_if_modified(|shown| {
        if shown.get(target) == Some(&value) {
            return false;
        }
        Arc::make_mut(shown).insert(target.clone(), value);
        true
    });
}

/// Hides what is about a target.
fn take_away<T: Clone>(shown: &watch::Sender<Arc<BTreeMap<Target, T>>>, target: &Target) {
    shown.send_if_modified(|shown| {
        shown.contains_key(target) && Arc::make_mut(shown).remove(target).is_some()
    });
}

/// Hides what is about other targets.
fn keep_only<T: Clone>(shown: &watch::Sender<Arc<BTreeMap<Target, T>>>, known: &BTreeSet<Target>) {
    shown.send_if_modified(|shown| {
        let gone = shown.keys().any(|target| !known.contains(target));
        if gone {
            Arc::make_mut(shown).retain(|target, _| known.contains(target));
        }
        gone
    });
}

fn certificate(record: &Record) -> Option<Certificate> {
    Some(Certificate {
        namespace_uid: record.state.namespace_uid.clone(),
        material: record.current.clone()?,
    })
}
