//! What the end-to-end tests share: the real binary as a child process, manifests in scratch
//! folders, clients that send exactly the bytes they are given, and backends that keep exactly the
//! bytes they receive.
//!
//! Invariants: every port is chosen by the kernel; nothing here sleeps to synchronise, it polls a
//! condition until a deadline ([`wait`]); whatever was started is ended when its owner is dropped.

pub mod acme;
pub mod backend;
mod daemon;
pub mod documents;
pub mod frames;
pub mod gateway;
pub mod http2;
pub mod kubernetes;
pub mod manifests;
pub mod namespace;
mod pki;
pub mod preload;
pub mod raw;
pub mod tls;
pub mod trial;
pub mod wait;
pub mod websocket;
