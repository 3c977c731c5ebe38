//! Objects from a directory of manifests, followed live.
//!
//! Invariants:
//! - What is sent is the difference: an object that did not change is not sent again, and a file
//!   whose content did not change is not decoded again.
//! - A file that is gone takes its objects with it, unless all are gone because the directory is
//!   another one, without any entry: most likely a volume that is not mounted. A file that cannot
//!   be read, is empty, or holds a broken document keeps the last good version of what it can no
//!   longer tell, and so does an Ingress that an API server would refuse.
//! - Of an object that stands in several places, the first by path and position counts.
//! - Objects are sent as they stand: places and times of files say nothing about their age.
//! - Nothing is lost if the system reports no changes: the directory is looked at every
//!   [`POLL`] anyway.
//!
//! A mounted ConfigMap swaps a symbolic link named `..data`; names that begin with a dot are never
//! read themselves, only through the links beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{Decoded, Entry, MAX_FILE, decode};
use super::walk::{Found, Identity, Signature, identity_of, is_read, plain_file, walk};
use super::{Change, Object, ObjectKey};
use crate::diagnostics::{Code, Diagnostic, Severity};
use crate::translate::form::{self, Fault};

pub use super::follow::{POLL, watch};

/// Everything that the directory holds now, as a source would send it.
pub fn read(directory: &Path) -> Vec<Change> {
    let mut directory = Directory::new(directory.to_owned());
    let mut changes = directory.scan(&Touched::default());
    changes.push(Change::Synced);
    changes
}

/// What is wrong with a path that shall be read as a directory, and what to do.
pub fn unusable(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some("it is a file; name the directory that it is in".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some("there is no such directory; create it or name another one".into())
        }
        Err(error) => Some(format!(
            "it cannot be read: {error}; correct its permissions"
        )),
    }
}

/// Files that were reported as changed: they are read even if they look the same.
#[derive(Debug, Default, Clone)]
pub(super) struct Touched {
    pub(super) paths: HashSet<PathBuf>,
    /// Reports were lost: every file may have changed.
    pub(super) all: bool,
}

/// What scans cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort {
    /// Directories listed.
    pub(super) directories: usize,
    /// Files read.
    pub(super) files: usize,
}

/// What became of the touched paths.
#[derive(Debug, Default)]
struct Glance {
    present: Vec<(Arc<str>, Found)>,
    gone: Vec<Arc<str>>,
}

/// What is known about the directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    identity: Option<Identity>,
    /// The last walk met a symbolic link.
    links: bool,
    effort: Effort,
    files: BTreeMap<Arc<str>, File>,
    /// Where each object stands, in order; the first place counts.
    claims: HashMap<ObjectKey, BTreeSet<(Arc<str>, usize)>>,
    sent: HashMap<ObjectKey, Object>,
    /// The file that was named for each object sent.
    placed: HashMap<ObjectKey, Arc<str>>,
    /// What the last walk over the whole directory could not read.
    walk_complaints: Vec<Diagnostic>,
    complaints: Vec<Diagnostic>,
}

#[derive(Debug, Default)]
struct File {
    signature: Option<Signature>,
    content: Option<u64>,
    /// The objects of the file, present or last good.
    held: Vec<Entry>,
    skipped: BTreeMap<String, usize>,
    complaints: Vec<Diagnostic>,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            identity: None,
            links: false,
            effort: Effort::default(),
            files: BTreeMap::new(),
            claims: HashMap::new(),
            sent: HashMap::new(),
            placed: HashMap::new(),
            walk_complaints: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Identity of the directory at the last scan; `None` when it could not be read.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// What the scans since the last question cost.
    pub(super) fn take_effort(&mut self) -> Effort {
        std::mem::take(&mut self.effort)
    }

    /// Looks at the directory and says what is different.
    pub(super) fn scan(&mut self, touched: &Touched) -> Vec<Change> {
        match self.glance(touched) {
            Some(glance) => self.take(&glance, touched),
            None => self.scan_all(touched),
        }
    }

    /// What became of the touched paths, when nothing else can have changed: files that were
    /// written, came or went, and drafts that were there for a moment only. The usual change is
    /// seen without a walk over thousands of other files. Directories and links are left to the
    /// walk, because more may have changed with them than was reported.
    fn glance(&self, touched: &Touched) -> Option<Glance> {
        if touched.all || touched.paths.is_empty() || !self.walk_complaints.is_empty() {
            return None;
        }
        // A file that is missing in another root, or in none, is not a file that went.
        if self.identity.is_none() || self.identity != identity_of(&self.root) {
            return None;
        }
        let mut glance = Glance::default();
        for path in &touched.paths {
            let relative = path.strip_prefix(&self.root).ok()?.to_str()?;
            if relative.is_empty() || relative.split('/').any(|name| name.starts_with("..")) {
                return None;
            }
            let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            match (self.files.contains_key(relative), plain_file(path)) {
                (true, Ok(Some(found))) => glance.present.push((relative.into(), found)),
                (false, Err(error)) if missing(&error) && !self.holds_below(relative) => {}
                // A link elsewhere may lead to a file that comes or goes.
                _ if self.links => return None,
                (true, Err(error)) if missing(&error) => glance.gone.push(relative.into()),
                (false, Ok(Some(found))) if is_read(relative) => {
                    glance.present.push((relative.into(), found));
                }
                (false, Ok(Some(_))) => {}
                _ => return None,
            }
        }
        Some(glance)
    }

    /// Whether files are known in a directory of this name.
    fn holds_below(&self, relative: &str) -> bool {
        let inside = format!("{relative}/");
        let from = (Bound::Included(inside.as_str()), Bound::Unbounded);
        let mut below = self.files.range::<str, _>(from);
        below
            .next()
            .is_some_and(|(path, _)| path.starts_with(&inside))
    }

    fn take(&mut self, glance: &Glance, touched: &Touched) -> Vec<Change> {
        let mut affected = BTreeSet::new();
        for (path, file) in &glance.present {
            self.visit(path, file, touched, &mut affected);
        }
        self.drop_files(&glance.gone, &mut affected);
        self.conclude(affected)
    }

    fn scan_all(&mut self, touched: &Touched) -> Vec<Change> {
        let mut found = walk(&self.root);
        if found.is_bare() && !self.sent.is_empty() && found.identity != self.identity {
            // The one that was believed last stays known, so that the doubt lasts.
            found.identity = self.identity;
            found.doubt();
        }
        self.identity = found.identity;
        self.links = found.links;
        self.effort.directories += found.directories;
        let mut affected = BTreeSet::new();
        for (path, file) in &found.files {
            self.visit(path, file, touched, &mut affected);
        }
        let gone: Vec<Arc<str>> = self
            .files
            .keys()
            .filter(|path| !found.files.contains_key(*path) && !found.hides(path))
            .map(Arc::clone)
            .collect();
        self.drop_files(&gone, &mut affected);
        self.walk_complaints = found.complaints;
        self.conclude(affected)
    }

    fn drop_files(&mut self, gone: &[Arc<str>], affected: &mut BTreeSet<ObjectKey>) {
        for path in gone {
            if let Some(file) = self.files.remove(path) {
                self.unclaim(path, &file.held, affected);
            }
        }
    }

    fn conclude(&mut self, affected: BTreeSet<ObjectKey>) -> Vec<Change> {
        let mut changes = self.settle(affected);
        let complaints = self.collect_complaints();
        if complaints != self.complaints {
            self.complaints.clone_from(&complaints);
            changes.push(Change::Complaints(complaints));
        }
        changes
    }

    /// Reads one file if it may have changed.
    fn visit(
        &mut self,
        path: &Arc<str>,
        found: &Found,
        touched: &Touched,
        affected: &mut BTreeSet<ObjectKey>,
    ) {
        let known = self.files.get(path);
        let same = known.is_some_and(|file| file.signature == Some(found.signature));
        if same && !touched.all && !touched.paths.contains(&found.path) {
            return;
        }
        self.effort.files += 1;
        let bytes = match read_file(found) {
            Ok(bytes) => bytes,
            // Gone between the walk and now; the next scan sees it gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.keep_all(path, &error),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let content = hasher.finish();
        if let Some(file) = self.files.get_mut(path)
            && file.content == Some(content)
        {
            file.signature = Some(found.signature);
            return;
        }
        let previous = self.files.remove(path).unwrap_or_default();
        self.unclaim(path, &previous.held, affected);
        let mut file = File {
            signature: Some(found.signature),
            content: Some(content),
            ..File::default()
        };
        file.fill(path, &bytes, &previous.held);
        for (position, held) in file.held.iter().enumerate() {
            affected.insert(held.key.clone());
            self.claims
                .entry(held.key.clone())
                .or_default()
                .insert((Arc::clone(path), position));
        }
        self.files.insert(Arc::clone(path), file);
    }

    /// A file that cannot be read keeps everything.
    fn keep_all(&mut self, path: &Arc<str>, error: &io::Error) {
        let file = self.files.entry(Arc::clone(path)).or_default();
        file.signature = None;
        file.content = None;
        file.complaints = vec![Diagnostic::new(
            Severity::Error,
            path,
            "",
            Code::FileUnreadable,
            format!("cannot be read: {error}; correct its permissions or size"),
        )];
        let kept = file.held.iter().map(|held| last_good(path, &held.key));
        file.complaints.extend(kept.collect::<Vec<_>>());
    }

    fn unclaim(&mut self, path: &Arc<str>, held: &[Entry], affected: &mut BTreeSet<ObjectKey>) {
        for (position, held) in held.iter().enumerate() {
            let key = &held.key;
            affected.insert(key.clone());
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(&(Arc::clone(path), position));
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
    }

    /// The difference between what was sent and what counts now.
    fn settle(&mut self, affected: BTreeSet<ObjectKey>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut places = Vec::new();
        for key in affected {
            let object = self
                .claims
                .get(&key)
                .and_then(BTreeSet::first)
                .and_then(|(path, at)| Some((path, self.files.get(path)?.held.get(*at)?)))
                .map(|(path, held)| (path, held.object.clone()));
            if let Some((path, object)) = object {
                if self.placed.get(&key) != Some(path) {
                    self.placed.insert(key.clone(), Arc::clone(path));
                    places.push((key.clone(), Arc::clone(path)));
                }
                if self.sent.get(&key).is_none_or(|sent| !equal(sent, &object)) {
                    self.sent.insert(key.clone(), object.clone());
                    changes.push(Change::Apply(key, object));
                }
            } else {
                self.placed.remove(&key);
                if self.sent.remove(&key).is_some() {
                    changes.push(Change::Delete(key));
                }
            }
        }
        if !places.is_empty() {
            changes.insert(0, Change::Places(places));
        }
        changes
    }

    fn collect_complaints(&self) -> Vec<Diagnostic> {
        let mut complaints: Vec<Diagnostic> = self.walk_complaints.clone();
        let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
        for file in self.files.values() {
            complaints.extend_from_slice(&file.complaints);
            for (kind, count) in &file.skipped {
                *skipped.entry(kind).or_default() += count;
            }
        }
        for (key, claims) in self.claims.iter().filter(|(_, claims)| claims.len() > 1) {
            complaints.push(duplicate(key, claims));
        }
        if !skipped.is_empty() {
            let kinds: Vec<String> = skipped
                .iter()
                .map(|(kind, count)| format!("{count} {}", kind.escape_debug()))
                .collect();
            complaints.push(Diagnostic::new(
                Severity::Info,
                &".".into(),
                "",
                Code::KindSkipped,
                format!("objects of other kinds are not read: {}", kinds.join(", ")),
            ));
        }
        complaints.sort();
        complaints.dedup();
        complaints
    }
}

impl File {
    /// Takes the content over, and of the previous objects those that it can no longer tell.
    fn fill(&mut self, path: &Arc<str>, bytes: &[u8], previous: &[Entry]) {
        let mut decoded = decode(path, bytes);
        if bytes.is_empty() && !previous.is_empty() {
            // Most likely somebody is just writing it, or could not because the disk is full.
            decoded.unreadable = true;
            decoded.complaints.push(Diagnostic::new(
                Severity::Warning,
                path,
                "",
                Code::FileUnreadable,
                "the file became empty; remove it if its objects shall go",
            ));
        }
        let Decoded {
            entries,
            complaints,
            skipped,
            broken,
            unreadable,
        } = decoded;
        self.skipped = skipped;
        self.complaints = complaints;
        let present: HashSet<ObjectKey> = entries.iter().map(|entry| entry.key.clone()).collect();
        self.held = entries;
        for entry in &mut self.held {
            self.complaints.extend(give_way(path, entry, previous));
        }
        for old in previous {
            let key = &old.key;
            if !present.contains(key) && (unreadable || broken.contains(key)) {
                self.complaints.push(last_good(path, key));
                self.held.push(old.clone());
            }
        }
    }
}

/// An Ingress that no API server would have taken gives way to its last version that was good: in a
/// cluster that one would still be served, too. What is wrong with it.
fn give_way(path: &str, entry: &mut Entry, previous: &[Entry]) -> Vec<Diagnostic> {
    let faults = faults(&entry.object);
    if faults.is_empty() {
        return Vec::new();
    }
    let mut olds = previous.iter().filter(|old| old.key == entry.key);
    let Some(old) = olds.find(|old| self::faults(&old.object).is_empty()) else {
        return Vec::new();
    };
    entry.object = old.object.clone();
    let object = entry.key.to_string().into();
    let mut complaints = vec![last_good(path, &entry.key)];
    complaints.extend(faults.into_iter().map(|fault| {
        let message = fault.sentence("it is not taken over");
        Diagnostic::new(Severity::Error, &object, fault.field, fault.code, message)
    }));
    complaints
}

fn faults(object: &Object) -> Vec<Fault> {
    match object {
        Object::Ingress(ingress) => {
            let slips = form::slips(ingress).into_iter().map(|(slip, _)| slip);
            form::faults(ingress).into_iter().chain(slips).collect()
        }
        _ => Vec::new(),
    }
}

fn last_good(path: &str, key: &ObjectKey) -> Diagnostic {
    Diagnostic::new(
        Severity::Warning,
        &key.to_string().into(),
        "",
        Code::LastGoodServed,
        format!("its last good version keeps serving until `{path}` is correct again"),
    )
}

fn duplicate(key: &ObjectKey, claims: &BTreeSet<(Arc<str>, usize)>) -> Diagnostic {
    let mut files: Vec<String> = claims.iter().map(|(path, _)| format!("`{path}`")).collect();
    files.dedup();
    let message = match files.split_first() {
        Some((first, others)) if !others.is_empty() => format!(
            "also stands in {}; the one in {first} counts, remove the others",
            others.join(", ")
        ),
        _ => format!(
            "stands {} times in {}; the first counts, remove the others",
            claims.len(),
            files.join(", ")
        ),
    };
    Diagnostic::new(
        Severity::Warning,
        &key.to_string().into(),
        "",
        Code::ObjectDuplicate,
        message,
    )
}

fn read_file(found: &Found) -> io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    // It was a file when it was looked at. The flag means nothing to one; of a pipe that has taken its
    // place meanwhile it keeps the opening from waiting for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(&found.path)?;
    if !file.metadata()?.is_file() {
        let why = "it is no file any more";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let limit = MAX_FILE >> 20;
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} MiB; split it"),
        ));
    }
    Ok(bytes)
}

fn equal(left: &Object, right: &Object) -> bool {
    match (left, right) {
        (Object::Ingress(left), Object::Ingress(right)) => left == right,
        (Object::IngressClass(left), Object::IngressClass(right)) => left == right,
        (Object::Service(left), Object::Service(right)) => left == right,
        (Object::EndpointSlice(left), Object::EndpointSlice(right)) => left == right,
        (Object::Endpoints(left), Object::Endpoints(right)) => left == right,
        (Object::Secret(left), Object::Secret(right)) => left == right,
        (Object::ConfigMap(left), Object::ConfigMap(right)) => left == right,
        (Object::Namespace(left), Object::Namespace(right)) => left == right,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
