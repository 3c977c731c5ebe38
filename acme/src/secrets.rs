//! Secrets that an operator's configuration names: EAB keys, credentials of DNS providers, roots.
//!
//! Invariants:
//! - Values are wiped when dropped, and `Debug` prints their length only.
//! - A name is one path component: nothing outside the store can be named.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::Answer;

/// Bytes that nobody may print: a key, a password, a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are wiped when the last copy is dropped.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes, to be handed to what needs them and to nothing that prints.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text without surrounding white space, as people write files.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok().map(str::trim)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{} secret bytes]", self.0.len())
    }
}

/// The entries of one secret by name.
pub type Entries = BTreeMap<String, Secret>;

/// Where secrets named in the configuration are read: a directory, or a namespace.
pub trait Secrets: Send + Sync {
    /// All entries of one secret. The error is a sentence for the operator.
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Result<Entries, String>>;
}

/// Secrets as folders of a directory: `<root>/<name>/<entry>`.
#[derive(Debug, Clone)]
pub struct SecretFolder {
    root: std::path::PathBuf,
}

impl SecretFolder {
    /// Folders below `root`.
    pub fn new(root: impl Into<std::path::PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Secrets for SecretFolder {
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Result<Entries, String>> {
        let folder = self.root.join(name);
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        Box::pin(async move {
            if !plain {
                return Err(format!("{name:?} is no name of a secret"));
            }
            let read = tokio::task::spawn_blocking(move || read_folder(&folder)).await;
            read.unwrap_or_else(|error| Err(error.to_string()))
        })
    }
}

fn read_folder(folder: &std::path::Path) -> Result<Entries, String> {
    let say =
        |path: &std::path::Path, error: &std::io::Error| format!("{}: {error}", path.display());
    let mut entries = Entries::new();
    let files = std::fs::read_dir(folder).map_err(|error| say(folder, &error))?;
    for file in files {
        let path = file.map_err(|error| say(folder, &error))?.path();
        let size = std::fs::metadata(&path).map_err(|error| say(&path, &error))?;
        // Mounted Secrets hold folders and links beside the entries.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !size.is_file() || name.starts_with('.') {
            continue;
        }
        if size.len() > LARGEST || entries.len() >= MOST {
            return Err(format!("{}: too large for a secret", path.display()));
        }
        let bytes = std::fs::read(&path).map_err(|error| say(&path, &error))?;
        entries.insert(name.to_owned(), Secret::new(bytes));
    }
    Ok(entries)
}

/// As a Secret of Kubernetes.
const LARGEST: u64 = 1 << 20;

const MOST: usize = 100;
