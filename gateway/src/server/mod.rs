//! server

pub mod wire;
