//! A real certificate authority for the ACME tests: Pebble with its DNS server, BIND for zones that
//! take updates, and a proxy in front of the authority that plays what Let's Encrypt does and
//! Pebble does not.
//!
//! Runs where the tests of [`crate::kubernetes::cluster`] run, in a network namespace of their own:
//! each server has an address of [`cluster::address`], so ports are the usual ones and never collide.
//!
//! [`cluster::address`]: crate::kubernetes::cluster::address

mod bind;
pub mod fault;
pub mod keys;
mod pebble;
pub mod rules;

pub use bind::{Bind, Zone};
pub use pebble::{Pebble, Setup, Version};
