//! The files of a directory, without reading them.
//!
//! Invariants: paths are relative to the root, with `/`, and sorted; symbolic links are followed,
//! loops, depth and the number of entries are bounded; names that begin with a dot are left out
//! (hidden files, editors' locks, and the `..data` layout of mounted ConfigMaps, which is read
//! through its links). What has the name of a manifest and is neither a file nor a directory is told
//! and never opened: a pipe would wait for ever, a device need not end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostics::{Code, Diagnostic, Severity};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Identity of the root, when it could be read.
    pub(super) identity: Option<Identity>,
    pub(super) files: BTreeMap<Arc<str>, Found>,
    pub(super) complaints: Vec<Diagnostic>,
    /// Directories that were listed.
    pub(super) directories: usize,
    /// Whether a symbolic link was met: then a file may be seen under several names.
    pub(super) links: bool,
    /// What could not be read, and with it whatever is below.
    hidden: Vec<String>,
    /// Entries that were looked at.
    entries: usize,
}

/// A manifest file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) signature: Signature,
}

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// Changes whenever a file is written or replaced; two writes in the same tick of the clock may
/// be missed, which is why reports of the system are not checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    identity: Identity,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Walk {
    /// Whether the path may exist although it was not found.
    pub(super) fn hides(&self, path: &str) -> bool {
        self.hidden.iter().any(|above| {
            let rest = path.strip_prefix(above.as_str());
            rest.is_some_and(|rest| {
                let whole = above.is_empty() || above.ends_with('/');
                whole || rest.is_empty() || rest.starts_with('/')
            })
        })
    }

    /// Whether there is nothing at all, not even a hidden file.
    pub(super) fn is_bare(&self) -> bool {
        self.entries == 0 && self.hidden.is_empty()
    }

    /// Nothing is not believed: whatever was read before may still be meant.
    pub(super) fn doubt(&mut self) {
        self.hidden.push(String::new());
        self.complaints.push(unreadable(
            ".",
            "another directory, an empty one, is in its place, as when its volume is not mounted; what was read from it before keeps serving: mount or restore it, or put any file into it if nothing shall be served"
                .into(),
        ));
    }

    /// There is more than is looked at: whatever was read before may be in it.
    fn cut_short(&mut self) {
        self.hidden.push(String::new());
        self.complaints.push(unreadable(
            ".",
            format!(
                "more than {MAX_ENTRIES} files and directories, each counted again through every link to it; the rest is not read, and what was read from it before keeps serving: remove links between directories or split the manifests"
            ),
        ));
    }

    fn fail(&mut self, relative: &str, error: &io::Error) {
        let name = if relative.is_empty() { "." } else { relative };
        self.hidden.push(relative.to_owned());
        self.complaints.push(unreadable(
            name,
            format!(
                "cannot be read: {error}; what was read from it before keeps serving, correct its permissions or remove it"
            ),
        ));
    }

    /// There is no file behind the name of a manifest.
    fn no_file(&mut self, relative: &str, what: &str, remedy: &str) {
        self.hidden.push(relative.to_owned());
        self.complaints.push(unreadable(
            relative,
            format!(
                "cannot be read: it is {what}; what was read from it before keeps serving, {remedy}"
            ),
        ));
    }
}

fn unreadable(place: &str, message: String) -> Diagnostic {
    Diagnostic::new(
        Severity::Error,
        &place.into(),
        "",
        Code::FileUnreadable,
        message,
    )
}

/// Walks the directory.
pub(super) fn walk(root: &Path) -> Walk {
    let mut walk = Walk::default();
    match std::fs::metadata(root) {
        Ok(metadata) => {
            walk.identity = Some(identity(&metadata));
            visit(&mut walk, root, "", &mut vec![identity(&metadata)]);
            if walk.hidden.iter().any(String::is_empty) {
                walk.identity = None;
            }
            if walk.entries >= MAX_ENTRIES {
                walk.cut_short();
            }
        }
        Err(error) => walk.fail("", &error),
    }
    walk
}

/// One directory; `above` holds it and the directories above it, against loops of links.
fn visit(walk: &mut Walk, directory: &Path, relative: &str, above: &mut Vec<Identity>) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // Gone since its parent was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !relative.is_empty() => return,
        Err(error) => return walk.fail(relative, &error),
    };
    walk.directories += 1;
    for entry in entries {
        if walk.entries >= MAX_ENTRIES {
            return;
        }
        walk.entries += 1;
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return walk.fail(relative, &error),
        };
        // A file system that does not tell the type here costs walks, nothing else.
        walk.links |= entry.file_type().map_or(true, |kind| kind.is_symlink());
        let name = entry.file_name();
        let name = readable(&name);
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let inner = format!("{relative}{name}");
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                let identity = identity(&metadata);
                if above.len() < MAX_DEPTH && !above.contains(&identity) {
                    above.push(identity);
                    visit(walk, &path, &format!("{inner}/"), above);
                    above.pop();
                }
            }
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => {
                let signature = signature(&metadata);
                match walk.files.entry(inner.into()) {
                    Entry::Vacant(place) => {
                        place.insert(Found { path, signature });
                    }
                    // Only a name written to look like that of another.
                    Entry::Occupied(taken) => walk.complaints.push(unreadable(
                        taken.key(),
                        "two files have this name when what is not UTF-8 is written out, and one of them is not read; rename it".into(),
                    )),
                }
            }
            Ok(metadata) if is_manifest(&path) => {
                let remedy = "put a file in its place or remove it";
                walk.no_file(&inner, other_kind(metadata.file_type()), remedy);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What is no link is gone meanwhile.
                if let Ok(target) = std::fs::read_link(&path)
                    && is_manifest(&path)
                {
                    let target = readable(target.as_os_str());
                    let what = format!("a link to `{}`, where nothing is", target.escape_debug());
                    walk.no_file(&inner, &what, "create what it leads to or remove the link");
                }
            }
            Err(error) => walk.fail(&inner, &error),
        }
    }
}

/// What is neither a file, nor a directory, nor a link.
fn other_kind(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else {
        "no file"
    }
}

/// A name as text. What is not UTF-8 in it is written as `\xFF`, so that two such names stay two.
fn readable(name: &OsStr) -> Cow<'_, str> {
    if let Some(text) = name.to_str() {
        return text.into();
    }
    let mut text = String::new();
    for part in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(part.valid());
        for byte in part.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text.into()
}

/// A single file, if it is one and no link to one: a link can be changed by what it leads to.
pub(super) fn plain_file(path: &Path) -> io::Result<Option<Found>> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(metadata.is_file().then(|| Found {
        path: path.to_owned(),
        signature: signature(&metadata),
    }))
}

/// Whether a walk takes a plain file with this relative path for a manifest.
pub(super) fn is_read(relative: &str) -> bool {
    let mut names = relative.split('/');
    names.clone().count() <= MAX_DEPTH
        && names.all(|name| !name.starts_with('.'))
        && is_manifest(Path::new(relative))
}

/// The root as it is now.
pub(super) fn identity_of(root: &Path) -> Option<Identity> {
    std::fs::metadata(root).ok().as_ref().map(identity)
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn signature(metadata: &Metadata) -> Signature {
    Signature {
        identity: identity(metadata),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Deeper directories are not read.
const MAX_DEPTH: usize = 32;

/// More entries are not looked at: a few directories full of links to each other have more paths
/// than anybody can walk.
const MAX_ENTRIES: usize = 1 << 18;
