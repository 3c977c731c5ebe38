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
