//! The snapshot as people and tools read it (`/api/snapshot`).
//!
//! Invariants: sorted, so that two dumps can be compared; holds names and settings, no counters
//! and no key material.

use serde::ser::{SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use super::{Action, HostIndex, HostTable, Route, Snapshot, Split, VirtualServer};

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Snapshot", 4)?;
        view.serialize_field("generation", &self.generation)?;
        // As text: readers in JavaScript would round a number of 64 bits.
        view.serialize_field("digest", &format_args!("{:016x}", self.digest))?;
        view.serialize_field("settings", &self.settings)?;
        view.serialize_field("servers", &self.servers)?;
        view.end()
    }
}

impl Serialize for VirtualServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("VirtualServer", 1)?;
        view.serialize_field("hosts", &self.hosts)?;
        view.end()
    }
}

impl Serialize for HostIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tables: Vec<&HostTable> = self.tables().map(AsRef::as_ref).collect();
        tables.sort_by_key(|table| table.pattern());
        serializer.collect_seq(tables)
    }
}

impl Serialize for HostTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("HostTable", 3)?;
        view.serialize_field("host", self.pattern())?;
        view.serialize_field("tls", &self.tls())?;
        view.serialize_field("routes", self.routes())?;
        view.end()
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Route", 6)?;
        view.serialize_field("kind", &self.key.path.kind)?;
        view.serialize_field("path", &self.key.path.path)?;
        view.serialize_field("origin", &self.label)?;
        view.serialize_field("field", &self.field)?;
        view.serialize_field("filters", &self.filters)?;
        view.serialize_field("action", &self.action)?;
        view.end()
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_map(Some(1))?;
        match self {
            Self::Forward(split) => view.serialize_entry("forward", split)?,
            Self::NotFound => view.serialize_entry("respond", &404)?,
            Self::Refuse(reason) => view.serialize_entry("refuse", reason)?,
        }
        view.end()
    }
}

impl Serialize for Split {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Share<'a> {
            cluster: &'a str,
            weight: u32,
        }
        let mut view = serializer.serialize_seq(None)?;
        for (cluster, weight) in self.clusters() {
            view.serialize_element(&Share {
                cluster: &cluster.key.0,
                weight,
            })?;
        }
        view.end()
    }
}
