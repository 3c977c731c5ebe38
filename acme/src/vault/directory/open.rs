//! Whether others than its user can get at the keys in a directory.
//!
//! Everything is made so that nobody else can, but modes are changed by people, backups and copies.
//!
//! Invariants: nothing is changed, for whoever opened it may depend on that; a group is not looked at,
//! because a volume may be given to a process by its group; what others cannot come to is open to nobody,
//! whatever its own mode says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Folder, OLD, RECORD, folders};

impl Folder {
    /// Which files with keys every user of the machine can read or change, and what to do.
    pub(super) fn open_to_others(&self) -> Option<String> {
        if !reachable(&self.root) {
            return None;
        }
        let certificates = enterable(&[self.root.clone(), self.root.join("certs")]);
        let namespaces = certificates.into_iter().flat_map(|path| below(&path));
        let accounts = enterable(&[self.root.clone(), self.root.join("accounts")]);
        let objects = namespaces.chain(accounts).flat_map(|path| below(&path));
        let files = objects.flat_map(|object| [object.join(RECORD), object.join(OLD)]);
        let open: Vec<PathBuf> = files
            .filter(|file| mode(file) & (READ | WRITE) != 0)
            .collect();
        let first = open.first()?;
        Some(format!(
            "{} of the files with keys can be read or changed by every user of this machine, {} (mode {:03o}) \
             for one: `chmod -R o= {}`; a key that others may have read is replaced with `gatehouse cert \
             revoke --reason key-compromise`, that of an account with `gatehouse account rotate`",
            open.len(),
            first.display(),
            mode(first),
            self.root.display(),
        ))
    }

    /// The first of the folders, above the directory or in it, in which every user of the machine could put
    /// other ones in the place of what is there, and what to do.
    pub(super) fn changeable_by_others(&self) -> Option<String> {
        if !reachable(&self.root) {
            return None;
        }
        let whole = fs::canonicalize(&self.root).ok()?;
        let mut above: Vec<PathBuf> = whole.ancestors().map(Path::to_owned).collect();
        above.reverse();
        let inside = ["certs", "accounts"].map(|name| self.root.join(name));
        let inside = inside.map(|folder| enterable(&[self.root.clone(), folder]));
        let inside: Vec<PathBuf> = inside.into_iter().flatten().collect();
        let below: Vec<PathBuf> = inside.iter().flat_map(|folder| below(folder)).collect();
        let objects = below
            .iter()
            .flat_map(|folder| self::below(folder))
            .collect();
        let mut folders = [above, inside, below, objects].into_iter().flatten();
        let folder =
            folders.find(|folder| mode(folder) & (WRITE | ENTER | STICKY) == (WRITE | ENTER))?;
        Some(format!(
            "every user of this machine can replace what is in {} (mode {:03o}), so certificates and accounts \
             could be somebody else's: `chmod o-w {}`",
            folder.display(),
            mode(&folder),
            folder.display(),
        ))
    }
}

/// Whether others can come to a folder at all.
fn reachable(folder: &Path) -> bool {
    let whole = fs::canonicalize(folder);
    whole.is_ok_and(|whole| {
        let mut above = whole.ancestors().skip(1);
        above.all(|folder| mode(folder) & ENTER != 0)
    })
}

/// The last folder, if others can enter all of them.
fn enterable(path: &[PathBuf]) -> Option<PathBuf> {
    let enter = path.iter().all(|folder| mode(folder) & ENTER != 0);
    path.last().filter(|_| enter).cloned()
}

/// Folders in this one that others can enter.
fn below(path: &Path) -> Vec<PathBuf> {
    // Whoever reads it says what is wrong with it.
    let found = folders(path).unwrap_or_default().into_iter();
    let found = found.map(|(_, path)| path);
    found.filter(|path| mode(path) & ENTER != 0).collect()
}

/// What is not there is open to nobody.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0, |about| about.permissions().mode() & 0o1777)
}

/// What everybody else may do.
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const ENTER: u32 = 0o1;

/// Only who owns something in a folder may replace it.
const STICKY: u32 = 0o1000;
