//! Certificates: against a real authority (Pebble), real DNS (BIND), and the faults between.
//!
//! A test that plays a case of the plan bears its number: `case_22_…`. All of them run in a network
//! namespace of their own, each with servers of its own.

mod accounts;
mod alpn;
mod answering;
mod asking;
mod beside;
mod bridges;
mod clock;
mod covered;
mod crashes;
mod customer;
mod damage;
mod dns;
mod documented;
mod home;
mod issuing;
mod keys;
mod kills;
mod neighbours;
mod orders;
mod outages;
mod people;
mod persist;
mod removed;
mod renewing;
mod rig;
mod settings;
mod stand;
mod standalone;
mod tenants;
mod together;
mod waits;
mod windows;
mod wishes;
