//! The file of one object: its entries with a version and a checksum.
//!
//! Invariants: a file is opened once for all that is asked of it, and what is given back is whole.

use std::fmt::Display;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{OLD, RECORD, unavailable, words};
use crate::leaf::fingerprint;
use crate::secrets::{Entries, Secret};
use crate::vault::{Key, Stored, VaultError, Version};

/// The file of one object.
#[derive(Serialize, Deserialize)]
pub(super) struct Sheet {
    pub(super) version: u64,
    sum: String,
    files: Vec<(String, Zeroizing<String>)>,
}

/// What is wrong with the newest version of an object. Both hold a sentence.
pub(super) enum Flaw {
    /// It is not what was written.
    Damaged(String),
    /// Nobody may even look at it. Then nobody knows what it holds, so nothing may take its place.
    Barred(String),
}

impl Sheet {
    pub(super) fn new(version: u64, entries: &Entries) -> Result<Self, VaultError> {
        let mut files = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let text = std::str::from_utf8(value.expose()).map_err(unavailable)?;
            files.push((name.clone(), Zeroizing::new(text.to_owned())));
        }
        let mut sheet = Self {
            version,
            sum: String::new(),
            files,
        };
        sheet.sum = sheet.sum();
        Ok(sheet)
    }

    fn sum(&self) -> String {
        let mut bytes = Zeroizing::new(self.version.to_string().into_bytes());
        for (name, text) in &self.files {
            for part in [name.as_str(), text.as_str()] {
                bytes.extend_from_slice(part.len().to_string().as_bytes());
                bytes.push(b':');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        fingerprint(&bytes)
    }

    pub(super) fn version(&self) -> Version {
        Version(self.version.to_string())
    }

    /// In which epoch it was written, if it is the record of a certificate.
    pub(super) fn epoch(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Epoch {
            epoch: u64,
        }
        let state = self.files.iter().find(|(name, _)| name == STATE)?;
        let state: Epoch = serde_json::from_str(&state.1).ok()?;
        Some(state.epoch)
    }

    pub(super) fn stored(self, key: Key) -> Stored {
        let entry =
            |(name, text): (String, Zeroizing<String>)| (name, Secret::new(text.as_bytes()));
        Stored {
            key,
            version: self.version(),
            entries: self.files.into_iter().map(entry).collect(),
        }
    }
}

/// What can be read of an object, and what is wrong with its newest version.
pub(super) fn load(folder: &Path) -> (Option<Sheet>, Option<Flaw>) {
    let old = || read(&folder.join(OLD));
    match read(&folder.join(RECORD)) {
        Ok(Some(sheet)) => (Some(sheet), None),
        // Cut between two renames: the version before is the newest.
        Ok(None) => match old() {
            Ok(sheet) => (sheet, None),
            Err(flaw) => (None, Some(flaw)),
        },
        Err(flaw) => (old().ok().flatten(), Some(flaw)),
    }
}

fn read(path: &Path) -> Result<Option<Sheet>, Flaw> {
    let damaged =
        |why: &dyn Display| Flaw::Damaged(format!("{} is damaged ({why})", path.display()));
    let file = match words::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Flaw::Barred(words::at(path, &error))),
    };
    let mut text = Zeroizing::new(Vec::new());
    let read = file.take(LARGEST).read_to_end(&mut text);
    read.map_err(|error| damaged(&error))?;
    let sheet: Sheet = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
    if sheet.sum() != sheet.sum {
        return Err(damaged(&"its checksum does not fit"));
    }
    Ok(Some(sheet))
}

/// The part of a record that says in which epoch it was written.
const STATE: &str = "state.json";

/// Largest object: a record with a hundred names and three chains has about 40 KB.
const LARGEST: u64 = 4 << 20;
