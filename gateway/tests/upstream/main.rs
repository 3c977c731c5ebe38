//! The way to the endpoints, against scripted backends on real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the functions that the tests share"
)]

mod answers;
mod bench;
mod pooling;
mod protocols;
mod replay;
