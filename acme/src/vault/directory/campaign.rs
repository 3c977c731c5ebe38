//! How a process gets the lock of a directory, and how it learns that it has it no longer.
//!
//! Invariants:
//! - Who cannot lead says why, for as long as that is so.
//! - Who leads looks whether the directory is still the one that it locked. If it was removed, or
//!   another one is in its place, it leads no longer: whoever has that one writes there.
//! - An epoch is above that of every record, and no process has the same one twice.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::sheet::load;
use super::{Folder, Inventory, LOOK, words};

/// What a process says of itself.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// The epoch, while it leads.
    pub(super) epoch: watch::Sender<Option<u64>>,
    /// Changes whenever others may have written.
    pub(super) changes: watch::Sender<u64>,
    /// Why it cannot lead, although nobody else does.
    pub(super) trouble: watch::Sender<Option<String>>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self {
            epoch: watch::Sender::new(None),
            changes: watch::Sender::new(0),
            trouble: watch::Sender::new(None),
        }
    }

    /// What became of a try for the lock.
    pub(super) fn tried(&self, tried: Result<Option<u64>, String>) {
        let trouble = match tried {
            Ok(epoch) => {
                if epoch.is_some() {
                    self.epoch.send_replace(epoch);
                }
                None
            }
            Err(why) => Some(why),
        };
        self.trouble.send_if_modified(|told| {
            let changed = *told != trouble;
            *told = trouble;
            changed
        });
    }
}

/// Tries for the lock and tells that others may have written; while this process leads, looks whether
/// the directory is still there.
pub(super) async fn campaign(folder: Arc<Folder>, told: Told) {
    // Without it, who leads does not wait for this one.
    let mut place: Option<File> = None;
    let mut seen = None;
    loop {
        let leads = told.epoch.borrow().is_some();
        let here = Arc::clone(&folder);
        if leads {
            place = None;
            tokio::time::sleep(LOOK).await;
            let lost = spawn_blocking(move || here.let_go_if_gone()).await;
            if let Ok(Some(why)) = lost {
                // In this order: whoever hears of the one finds the other.
                told.trouble.send_replace(Some(why));
                told.epoch.send_replace(None);
            }
            continue;
        }
        if place.is_none() {
            let here = Arc::clone(&folder);
            let followed = spawn_blocking(move || here.follow().ok()).await;
            place = followed.ok().flatten();
        }
        tokio::time::sleep(LOOK).await;
        let looked = spawn_blocking(move || (here.try_lock(), here.newest())).await;
        let Ok((tried, newest)) = looked else {
            return;
        };
        told.tried(tried);
        if seen.as_ref() != Some(&newest) {
            seen = Some(newest);
            told.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Folder {
    /// Counts on from the last leader. Records may be older than the count, where they were put back from
    /// a backup, and must be writable all the same; and what this process read in its last term, perhaps
    /// in another directory, is read anew.
    pub(super) fn next_epoch(&self, last: Option<u64>) -> u64 {
        let found = self.certificates();
        let last = match last {
            Some(last) => last,
            None if found == Inventory::default() => 0,
            // The count is lost: the seconds of the clock are more than it ever was.
            None => u64::try_from(Timestamp::now().as_second()).unwrap_or(0),
        };
        let records = found.folders.iter();
        let written = records.filter_map(|(_, folder)| load(folder).0?.epoch());
        let own = self.led.load(Ordering::Relaxed);
        let newest = written.fold(last.max(own), u64::max);
        newest.saturating_add(1)
    }

    /// Gives the lock back if it is that of a directory which is not there any more, and says so.
    fn let_go_if_gone(&self) -> Option<String> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost(held.as_ref()?)?;
        *held = None;
        Some(lost)
    }

    /// Why a lock is worth nothing any more.
    pub(super) fn lost(&self, held: &File) -> Option<String> {
        let path = self.root.join("lock");
        match is_at(held, &path) {
            Ok(false) => Some(format!(
                "{} is another directory than the one that this process worked in",
                self.root.display()
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(if self.root.exists() {
                format!("{} was removed while this process runs", path.display())
            } else {
                words::gone(&self.root)
            }),
            // Whatever that is, nobody else has the lock because of it.
            Ok(true) | Err(_) => None,
        }
    }
}

/// Whether a path leads to an open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, there) = (file.metadata()?, fs::metadata(path)?);
    Ok((open.dev(), open.ino()) == (there.dev(), there.ino()))
}
