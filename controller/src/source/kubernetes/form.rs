//! Answers of the server, of which one object may have a form that this version cannot read.
//!
//! Invariant: such an object harms only itself. A page is decoded as it is, and object by object
//! only if that fails: what is rare shall cost nothing where ten thousand objects are read.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A page of a list. Go writes an empty list as null.
#[derive(Deserialize)]
pub(super) struct Page<K> {
    pub(super) metadata: PageMetadata,
    pub(super) items: Option<Vec<K>>,
}

/// What a page says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub(super) rest: Option<String>,
}

/// An object.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Item<K> {
    /// As it should be.
    Read(K),
    /// Only its name can be read.
    Unread {
        /// The name.
        metadata: Identity,
    },
}

/// Which object it is, and when.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) resource_version: Option<String>,
}

/// Decodes a page.
pub(super) fn page<K: DeserializeOwned>(text: &str) -> Result<Page<Item<K>>, kube::Error> {
    let Ok(page) = serde_json::from_str::<Page<K>>(text) else {
        return serde_json::from_str(text).map_err(kube::Error::SerdeError);
    };
    let items = page.items.into_iter().flatten().map(Item::Read);
    Ok(Page {
        metadata: page.metadata,
        items: Some(items.collect()),
    })
}
