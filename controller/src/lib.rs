//! The control plane of Gatehouse: everything that decides.
//!
//! Sources turn a directory (or a cluster) into [`source::Change`]s. The [`engine`] owns the
//! [`world`] of objects; pure functions [`translate`] objects into fragments and diagnostics and
//! merge fragments into plans, which the gateway compiles and serves.

pub mod admin;
pub mod annotations;
pub mod ask;
pub mod certificates;
pub mod config;
pub mod diagnostics;
pub mod echo;
pub mod engine;
pub mod expiry;
pub mod findings;
pub mod leader;
mod pace;
pub mod rbac;
pub mod reference;
pub mod resolver;
pub mod run;
mod signals;
pub mod simulate;
pub mod source;
pub mod status;
mod terminal;
pub mod translate;
pub mod world;
