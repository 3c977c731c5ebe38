//! What is said of a file or folder of the vault that cannot be used.
//!
//! Pure but for looking at the file system. Invariant: every sentence names the path and what to do.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// What went wrong at a path, and what to do.
pub(super) fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}; {}", path.display(), remedy(error.kind()))
}

/// The same as an error, for who passes errors on.
pub(super) fn wrapped(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Such an error in words, and what to do.
pub(super) fn told(error: &io::Error) -> String {
    format!("{error}; {}", remedy(error.kind()))
}

/// Nothing but a file is opened: to open a pipe may wait for ever, and to open a device does something.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(io::Error::new(NO_FILE, "it is no file"))
}

/// What is said when the directory is not there any more.
pub(super) fn gone(root: &Path) -> String {
    format!(
        "{} was removed while this process runs: put it back. Meanwhile what was served is served on; \
         another directory in its place is taken without a restart, and what it lacks is ordered anew",
        root.display()
    )
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    match kind {
        PermissionDenied => "give it to the user of this process",
        ReadOnlyFilesystem => "mount it so that it can be written",
        StorageFull | QuotaExceeded => "make room",
        IsADirectory | NotADirectory => "move it away",
        NotFound => "put it back",
        kind if kind == NO_FILE => "move it away",
        _ => "look at the disk",
    }
}

/// What a pipe, a device or a folder is in place of a file.
const NO_FILE: io::ErrorKind = io::ErrorKind::InvalidInput;
