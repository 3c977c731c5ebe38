//! Everything of Gatehouse that talks to a certificate authority.
//!
//! Somebody who knows the objects says which certificates are wanted; this crate orders them, keeps
//! them in a vault, renews them, and hands them out. It knows neither Kubernetes nor the gateway: a
//! cluster and a directory differ in the vault and in who asks.
//!
//! Invariants:
//! - Only `finalize` creates a certificate: one finalize per certificate and revision.
//! - Key, CSR and order URL are stored before the authority needs them.
//! - Nothing is ordered that cannot be stored or is not allowed.
//! - Serving depends neither on the leader nor on the authority.
//! - Every call to the outside has a deadline; every wait is stored before it begins.
//! - An issued certificate is never thrown away.
//! - A private key shows up in no log, error, event or `Debug`.

use std::pin::Pin;

pub mod accounts;
pub mod board;
pub mod ca;
pub mod clock;
pub mod dns;
pub mod driver;
pub mod events;
pub mod failure;
mod http;
pub mod import;
pub mod issuers;
pub mod journal;
pub mod keeper;
pub mod leaf;
mod listing;
pub mod names;
pub mod pace;
pub mod plan;
pub mod probe;
pub mod record;
pub mod schedule;
pub mod secrets;
pub mod served;
mod standing;
pub mod stock;
pub mod troubles;
pub mod vault;

/// What a call to the outside returns, where an implementation is chosen at run time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
