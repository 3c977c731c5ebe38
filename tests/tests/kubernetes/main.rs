//! The real binary as a controller, on a real Kubernetes API server.
//!
//! The tests of this binary run beside each other and share one API server; each has a namespace,
//! an `IngressClass` and a controller name of its own. Those that break the server have their own.

mod answers;
mod certificates;
mod chart;
mod classes;
mod clock;
mod conformance;
mod endpoints;
mod events;
mod faults;
mod following;
mod leader;
mod load;
mod privilege;
mod quickstart;
mod rights;
mod server;
mod status;
