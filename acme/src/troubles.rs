//! What is wrong with the vault, for people: told as long as it is so, and logged once per change.
//!
//! Invariants: every sentence names the place and what to do; a sentence that goes says that it is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::plan::Target;

/// One thing that is wrong with the vault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// What cannot be done.
    pub kind: Kind,
    /// With which certificate; none if it is about more.
    pub target: Option<Target>,
    /// Why, and what to do.
    pub why: String,
}

/// What cannot be done with a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nobody can lead.
    Lead,
    /// It cannot be listed.
    List,
    /// A part of it cannot be read, or not be understood.
    Read,
    /// A record cannot be written.
    Write,
}

/// All of them, sorted.
pub type Troubles = BTreeSet<Trouble>;

/// Collects them, and shows them to readers.
#[derive(Debug, Default)]
pub(crate) struct Complaints(watch::Sender<Arc<Troubles>>);

impl Complaints {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Troubles>> {
        self.0.subscribe()
    }

    /// Whether a part of the vault cannot be read.
    pub(crate) fn are_about_parts(&self) -> bool {
        self.0.borrow().iter().any(|known| known.kind == Kind::Read)
    }

    /// From now on this is so of a certificate, or of the vault; nothing, if all is well.
    pub(crate) fn put(&self, kind: Kind, target: Option<&Target>, why: Option<String>) {
        let same = |known: &Trouble| known.kind == kind && known.target.as_ref() == target;
        let now = why.map(|why| Trouble {
            kind,
            target: target.cloned(),
            why,
        });
        self.renew(same, now.into_iter().collect());
    }

    /// From now on these are all of their kind; whether others were before.
    pub(crate) fn put_all(&self, kind: Kind, now: Troubles) -> bool {
        self.renew(|known| known.kind == kind, now)
    }

    /// What is told of a certificate.
    pub(crate) fn why(&self, kind: Kind, target: &Target) -> Option<String> {
        let all = self.0.borrow();
        let of = |known: &&Trouble| known.kind == kind && known.target.as_ref() == Some(target);
        all.iter().find(of).map(|known| known.why.clone())
    }

    fn renew(&self, concerned: impl Fn(&Trouble) -> bool, now: Troubles) -> bool {
        self.0.send_if_modified(|shown| {
            let before: Troubles = shown.iter().filter(|one| concerned(one)).cloned().collect();
            if before == now {
                return false;
            }
            for trouble in now.difference(&before) {
                trouble.log();
            }
            for trouble in before.difference(&now) {
                let (namespace, name) = trouble.named();
                tracing::info!(namespace, name, was = trouble.why, "the vault was mended");
            }
            let all = Arc::make_mut(shown);
            all.retain(|known| !concerned(known));
            all.extend(now);
            true
        })
    }
}

impl Trouble {
    fn named(&self) -> (Option<&str>, Option<&str>) {
        let target = self.target.as_ref();
        target
            .map(|target| (target.namespace.as_str(), target.secret.as_str()))
            .unzip()
    }

    fn log(&self) {
        let (namespace, name) = self.named();
        let error = self.why.as_str();
        match self.kind {
            Kind::Lead => tracing::error!(error, "nobody can work in the vault"),
            Kind::List => tracing::warn!(error, "the vault was not read"),
            Kind::Read => {
                tracing::error!(namespace, name, error, "a part of the vault is left alone");
            }
            Kind::Write => tracing::warn!(namespace, name, error, "record not stored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_as_long_as_it_is_the_same() {
        let complaints = Complaints::default();
        let mut shown = complaints.subscribe();
        let why = || Some("no room".to_owned());
        complaints.put(Kind::Write, None, why());
        assert!(shown.has_changed().expect("open"));
        shown.mark_unchanged();
        complaints.put(Kind::Write, None, why());
        complaints.put(Kind::Lead, None, None);
        assert!(!shown.has_changed().expect("open"));
        complaints.put(Kind::Write, None, None);
        assert!(shown.borrow_and_update().is_empty());
    }
}
