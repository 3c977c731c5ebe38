//! A vault in a directory.
//!
//! `certs/<namespace>/<secret>/record`, `accounts/<issuer>/record`, `board/record`: one file per
//! object, with its version and a checksum. Directories are 0700, files 0600.
//!
//! Invariants:
//! - A file appears under its name only when it is whole and on the disk: written aside, synced,
//!   renamed, and the directory synced.
//! - The version before stays beside it as `record.old`: a file that a power cut or a person
//!   damaged falls back to it, and the next write mends it.
//! - Only the process with the lock on `lock` writes; the kernel frees it when the process ends.
//! - One entry that cannot be read costs that entry only: the sentence about it names its path.
//! - Nothing but plain files is opened, and what nobody could look at is not replaced.
//! - Whoever reads what that one writes shares a lock on `followers`, so it knows whether to wait.
//! - Everything that blocks runs on threads for that.

mod campaign;
mod open;
mod sheet;
mod words;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use self::campaign::{Told, campaign};
use self::sheet::{Flaw, Sheet, load};
use super::{Key, Listing, Stored, Unread, Vault, VaultError, Version};
use crate::Answer;
use crate::leaf::fingerprint;
use crate::plan::Target;
use crate::secrets::Entries;

/// The folders of certificates, and sentences about those that could not be looked into.
#[derive(Debug, Default, PartialEq, Eq)]
struct Inventory {
    folders: Vec<(Target, PathBuf)>,
    unread: Vec<String>,
}

/// A directory that this process reads, and writes while it has the lock.
#[derive(Debug)]
pub struct DirectoryVault {
    folder: Arc<Folder>,
    told: Told,
    /// Tries for the lock, watches what others write; ends with the vault.
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    /// The locked file; held across every write, so writes of one process follow each other.
    lock: Mutex<Option<File>>,
    /// The last epoch in which this process led, in whichever directory.
    led: AtomicU64,
}

impl DirectoryVault {
    /// Opens or creates the directory and begins to try for the lock. Needs a runtime.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        furnish(&root)?;
        // What could not be listed would be taken for empty.
        let certs = root.join("certs");
        fs::read_dir(&certs).map_err(|error| words::wrapped(&certs, &error))?;
        let folder = Arc::new(Folder {
            root,
            lock: Mutex::new(None),
            led: AtomicU64::default(),
        });
        if let Some(error) = folder.open_to_others() {
            tracing::warn!(error, "keys are not private");
        }
        if let Some(error) = folder.changeable_by_others() {
            tracing::warn!(error, "what is kept is not safe");
        }
        let told = Told::new();
        // Before anything else runs: who is alone leads from the start.
        told.tried(folder.try_lock());
        let task = tokio::spawn(campaign(Arc::clone(&folder), told.clone()));
        Ok(Self { folder, told, task })
    }
}

/// Whether there is a vault, or a directory that somebody made for one and that is still empty.
pub fn is_meant(root: &Path) -> bool {
    let empty = || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
    root.join("certs").is_dir() || empty()
}

/// All certificates of a directory, for who only looks: nothing is created, locked or mended.
pub fn look(root: &Path) -> io::Result<Listing> {
    let folder = Folder {
        root: root.to_owned(),
        lock: Mutex::new(None),
        led: AtomicU64::default(),
    };
    // An entry that cannot be read is one of the listing; this is about the directory itself.
    let certs = folder.root.join("certs");
    fs::read_dir(&certs).map_err(|error| words::wrapped(&certs, &error))?;
    folder.list()
}

impl Drop for DirectoryVault {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Folder {
    /// Takes the lock if nobody has it, and counts the epoch up.
    /// The error says what is in the way.
    fn try_lock(&self) -> Result<Option<u64>, String> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.root.exists() {
            return Err(words::gone(&self.root));
        }
        let path = self.root.join("lock");
        let file = open_private(&path, OpenOptions::new().create(true).truncate(false))
            .map_err(|error| words::at(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(words::at(&path, &error)),
        }
        // Who emptied the directory has taken them away.
        furnish(&self.root).map_err(|error| words::told(&error))?;
        let path = self.root.join("epoch");
        let last = words::open(&path).and_then(io::read_to_string);
        let last = last.unwrap_or_default();
        let epoch = self.next_epoch(last.trim().parse().ok());
        replace(&path, epoch.to_string().as_bytes(), None)
            .map_err(|error| words::at(&path, &error))?;
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "what was removed before a crash is still there");
        }
        *held = Some(file);
        self.led.store(epoch, Ordering::Relaxed);
        Ok(Some(epoch))
    }

    /// Ends removals that a crash interrupted: there is a key in what they leave.
    fn sweep(&self) -> io::Result<()> {
        for (_, namespace) in folders(&self.root.join("certs"))? {
            for entry in fs::read_dir(namespace)? {
                let path = entry?.path();
                if path.extension().is_some_and(|mark| mark == REMOVED) {
                    fs::remove_dir_all(path)?;
                }
            }
        }
        Ok(())
    }

    /// Says that this process reads what another one writes, as long as the file is open.
    fn follow(&self) -> io::Result<File> {
        let path = self.root.join("followers");
        let file = open_private(&path, OpenOptions::new().create(true).truncate(false))?;
        file.lock_shared()?;
        Ok(file)
    }

    /// Whether another process says so.
    fn is_followed(&self) -> io::Result<bool> {
        let path = self.root.join("followers");
        let file = open_private(&path, OpenOptions::new().create(true).truncate(false))?;
        match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Changes whenever an object is written: names and times of all files, as one text.
    fn newest(&self) -> String {
        let mut marks = Vec::new();
        let inventory = self.certificates();
        for (_, folder) in inventory.folders {
            marks.push(mark(&folder.join(RECORD)));
        }
        marks.extend(inventory.unread);
        marks.push(mark(&self.root.join("board").join(RECORD)));
        fingerprint(marks.join("|").as_bytes())
    }

    /// Whether this process has the lock of the directory that is there.
    fn holds(&self, held: Option<&File>) -> Result<(), VaultError> {
        let held = held.ok_or_else(not_leader)?;
        let lost = self.lost(held);
        lost.map_or(Ok(()), |why| Err(VaultError::NotLeader(why)))
    }

    fn folder(&self, key: &Key) -> PathBuf {
        match key {
            Key::Certificate(target) => self
                .root
                .join("certs")
                .join(component(&target.namespace))
                .join(component(&target.secret)),
            Key::Account(issuer) => self.root.join("accounts").join(component(issuer)),
            Key::Board => self.root.join("board"),
        }
    }

    fn certificates(&self) -> Inventory {
        let mut found = Inventory::default();
        let inside = |path: &Path, unread: &mut Vec<String>| {
            folders(path).unwrap_or_else(|error| {
                // What has just been removed is not there, and that is all.
                if error.kind() != io::ErrorKind::NotFound {
                    unread.push(words::at(path, &error));
                }
                Vec::new()
            })
        };
        for (namespace, path) in inside(&self.root.join("certs"), &mut found.unread) {
            for (secret, path) in inside(&path, &mut found.unread) {
                let namespace = namespace.clone();
                found.folders.push((Target { namespace, secret }, path));
            }
        }
        found.folders.sort();
        found
    }

    /// Reads all certificates; whoever leads mends what is damaged and has a good version beside it.
    fn list(&self) -> io::Result<Listing> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not there would be taken for empty, and nothing would be served any more.
        let certs = self.root.join("certs");
        fs::read_dir(&certs)
            .map_err(|error| io::Error::new(error.kind(), words::at(&certs, &error)))?;
        let mut listing = Listing::default();
        let inventory = self.certificates();
        let parts = inventory.unread.into_iter();
        let parts = parts.map(|why| Unread { target: None, why });
        listing.unread.extend(parts);
        for (target, folder) in inventory.folders {
            let (sheet, flaw) = load(&folder);
            let key = Key::Certificate(target.clone());
            match (flaw, &sheet) {
                (None, _) => {}
                (Some(Flaw::Barred(why)), _) => {
                    let target = Some(target);
                    listing.unread.push(Unread { target, why });
                }
                (Some(Flaw::Damaged(why)), Some(sheet)) => {
                    if held.is_some() {
                        mend(&folder, sheet)?;
                    }
                    let told = format!("{key}: {why}; the version before is used");
                    listing.damaged.push(told);
                }
                (Some(Flaw::Damaged(why)), None) => listing.damaged.push(format!(
                    "{key}: {why}; there is no version before: it is ordered anew"
                )),
            }
            if let Some(sheet) = sheet {
                listing.stored.push(sheet.stored(key));
            }
        }
        Ok(listing)
    }

    /// Reads one object; the version before, if the newest is damaged. A certificate can be ordered anew
    /// and the board filled again, but another key is another account.
    fn read(&self, key: &Key) -> Result<Option<Stored>, VaultError> {
        let folder = self.folder(key);
        match load(&folder) {
            // Whether there is one is not known.
            (None, Some(Flaw::Barred(why))) => Err(VaultError::Unavailable(why)),
            (None, Some(Flaw::Damaged(why))) if matches!(key, Key::Account(_)) => {
                Err(VaultError::Damaged(format!(
                    "{key}: {why}, and there is no version before: put it back from a backup, or \
                     remove {} to register another account",
                    folder.display()
                )))
            }
            (sheet, flaw) => {
                if let Some(Flaw::Damaged(error) | Flaw::Barred(error)) = flaw {
                    tracing::warn!(%key, error, "the vault is damaged; the version before is used, if there is one");
                }
                Ok(sheet.map(|sheet| sheet.stored(key.clone())))
            }
        }
    }

    /// What has no version at all, not even the one before; in another directory nothing is missing.
    fn missing(&self, mut targets: Vec<Target>) -> Result<Vec<Target>, VaultError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.holds(held.as_ref())?;
        targets.retain(|target| {
            let folder = self.folder(&Key::Certificate(target.clone()));
            [RECORD, OLD].iter().all(|name| is_gone(&folder.join(name)))
        });
        Ok(targets)
    }

    fn write(
        &self,
        key: &Key,
        expected: Option<&Version>,
        entries: &Entries,
    ) -> Result<Version, VaultError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.holds(held.as_ref())?;
        let folder = self.folder(key);
        let (found, flaw) = load(&folder);
        if let Some(Flaw::Barred(why)) = flaw {
            return Err(VaultError::Unavailable(why));
        }
        let version = found.as_ref().map(Sheet::version);
        if version.as_ref() != expected {
            return Err(VaultError::Conflict(key.clone()));
        }
        let number = found.map_or(0, |sheet| sheet.version) + 1;
        let sheet = Sheet::new(number, entries)?;
        let text = Zeroizing::new(serde_json::to_vec(&sheet).map_err(unavailable)?);
        let parent = folder.parent().unwrap_or(&self.root);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| unavailable(words::at(&path, &error))
        };
        self.create_inside(&folder).map_err(at(&folder))?;
        let record = folder.join(RECORD);
        // A damaged file must not replace the good one beside it.
        let keep = (flaw.is_none() && record.exists()).then(|| folder.join(OLD));
        replace(&record, &text, keep.as_deref()).map_err(at(&record))?;
        if number == 1 {
            // The entry of the object, and that of its namespace, which may be new as well. What lies above
            // the directory itself is none of its business, and has no name where that is a relative one.
            let above = parent.parent();
            let above = above.filter(|above| above.starts_with(&self.root));
            let above = above.unwrap_or(&self.root);
            sync(parent).map_err(at(parent))?;
            sync(above).map_err(at(above))?;
        }
        Ok(sheet.version())
    }

    /// Makes the folders of an object, and never the directory itself: if that was removed a moment ago,
    /// one in its place would be taken for another vault, with this object alone.
    fn create_inside(&self, folder: &Path) -> io::Result<()> {
        let inside = folder.strip_prefix(&self.root).unwrap_or(folder);
        let mut path = self.root.clone();
        for part in inside {
            path.push(part);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(_) if path.is_dir() => {}
                made => made?,
            }
        }
        Ok(())
    }

    fn remove(&self, key: &Key, expected: &Version) -> Result<(), VaultError> {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.holds(held.as_ref())?;
        let folder = self.folder(key);
        let (found, _) = load(&folder);
        if found.as_ref().map(Sheet::version).as_ref() != Some(expected) {
            return Err(VaultError::Conflict(key.clone()));
        }
        // Renamed first, so that no reader sees a part of it.
        let mut aside = folder.clone().into_os_string();
        aside.push(format!(".{REMOVED}"));
        drop(fs::remove_dir_all(&aside));
        fs::rename(&folder, &aside)
            .and_then(|()| fs::remove_dir_all(&aside))
            .map_err(unavailable)
    }
}

/// Puts the version before in the place of a damaged record.
fn mend(folder: &Path, sheet: &Sheet) -> io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec(sheet)?);
    let record = folder.join(RECORD);
    if let Err(error) = replace(&record, &text, None) {
        let why = words::at(&record, &error);
        tracing::warn!(error = why, "a damaged record was not mended");
    }
    Ok(())
}

/// Writes aside, syncs, renames, syncs the directory. `keep` is where the version before goes.
fn replace(path: &Path, bytes: &[u8], keep: Option<&Path>) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = open_private(&aside, OpenOptions::new().create(true).truncate(true))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    if let Some(keep) = keep {
        fs::rename(path, keep)?;
    }
    fs::rename(&aside, path)?;
    sync(path.parent().unwrap_or(path))
}

/// Makes the folders that are missing.
fn furnish(root: &Path) -> io::Result<()> {
    for folder in ["", "certs", "accounts", "board"] {
        let path = root.join(folder);
        create(&path).map_err(|error| words::wrapped(&path, &error))?;
    }
    Ok(())
}

fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.read(true).write(true).mode(0o600).open(path)
}

fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn mark(path: &Path) -> String {
    let time = fs::metadata(path).and_then(|file| file.modified());
    format!("{} {time:?}", path.display())
}

/// Whether it is certain that nothing is there.
fn is_gone(path: &Path) -> bool {
    let looked = fs::symlink_metadata(path);
    looked.is_err_and(|error| {
        // A file may stand where a folder was.
        let kinds = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        kinds.contains(&error.kind())
    })
}

/// Folders below a folder, by name; what is being removed is left out.
fn folders(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && !name.ends_with(".removed") {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// A name as one component of a path: as it is, if it is harmless.
fn component(name: &str) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let plain = (1..=200).contains(&name.len())
        && name.bytes().all(harmless)
        && !name.starts_with('.')
        && !name.ends_with(".removed");
    if plain {
        name.to_owned()
    } else {
        format!("_{}", fingerprint(name.as_bytes()))
    }
}

fn not_leader() -> VaultError {
    VaultError::NotLeader("another process has the lock of the directory".to_owned())
}

fn unavailable(error: impl std::fmt::Display) -> VaultError {
    VaultError::Unavailable(error.to_string())
}

impl DirectoryVault {
    /// Runs what blocks where that is allowed.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let folder = Arc::clone(&self.folder);
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|error| Err(unavailable(error)))
    }
}

impl Vault for DirectoryVault {
    fn certificates(&self) -> Answer<'_, Result<Listing, VaultError>> {
        Box::pin(self.on_disk(|folder| folder.list().map_err(unavailable)))
    }

    fn missing(&self, targets: Vec<Target>) -> Answer<'_, Vec<Target>> {
        let looked = self.on_disk(|folder| folder.missing(targets));
        Box::pin(async { looked.await.unwrap_or_default() })
    }

    fn read<'a>(&'a self, key: &'a Key) -> Answer<'a, Result<Option<Stored>, VaultError>> {
        let key = key.clone();
        Box::pin(self.on_disk(move |folder| folder.read(&key)))
    }

    fn write<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        entries: &'a Entries,
    ) -> Answer<'a, Result<Version, VaultError>> {
        let (key, expected, entries) = (key.clone(), expected.cloned(), entries.clone());
        Box::pin(self.on_disk(move |folder| folder.write(&key, expected.as_ref(), &entries)))
    }

    fn remove<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, Result<(), VaultError>> {
        let (key, expected) = (key.clone(), expected.clone());
        Box::pin(self.on_disk(move |folder| folder.remove(&key, &expected)))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.told.changes.subscribe()
    }

    fn lateness(&self) -> Answer<'_, Duration> {
        let looked = self.on_disk(|folder| folder.is_followed().map_err(unavailable));
        Box::pin(async move {
            if looked.await == Ok(true) {
                // One look that had just begun, and one that sees it.
                2 * LOOK
            } else {
                Duration::ZERO
            }
        })
    }

    fn epoch(&self) -> watch::Receiver<Option<u64>> {
        self.told.epoch.subscribe()
    }

    fn place(&self, key: &Key) -> String {
        let record = self.folder.folder(key).join(RECORD);
        record.display().to_string()
    }

    fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.told.trouble.subscribe()
    }
}

/// How often a process without the lock tries for it and looks what was written.
const LOOK: Duration = Duration::from_millis(500);

/// What the folder of an object ends with while it is removed; no name of an object does.
const REMOVED: &str = "removed";

const RECORD: &str = "record";
const OLD: &str = "record.old";

#[cfg(test)]
mod tests;
