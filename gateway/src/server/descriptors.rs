//! How many descriptors the process has, and for how many client connections they are enough.
//!
//! Invariants: the process takes all that its hard limit allows, because the soft one is often as
//! low as `select` needs it, which nobody here calls. Clients never take all of them: every
//! request may need one more for its endpoint, and whoever looks what is wrong needs one for the
//! admin server. Who comes beyond that is closed at once, so that a balancer goes elsewhere.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files as far as that is allowed; returns how many connections clients
/// may hold under it.
pub(super) fn claim(workers: usize) -> usize {
    if let Err(error) = raise() {
        tracing::warn!(%error, "the limit on open files cannot be raised to its hard limit");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let clients = share_of_clients(limit, workers);
    if limit < FEW {
        tracing::warn!(
            limit,
            clients,
            "the hard limit on open files is low, clients beyond these are closed at once: set it to 65536 or more (systemd: LimitNOFILE=, containers: --ulimit nofile=, shell: ulimit -Hn)"
        );
    }
    clients
}

fn raise() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Somewhat less than half of what the process does not need for itself: each connection of a
/// client can cost a second one. At least one, or nobody could ever be served.
fn share_of_clients(limit: usize, workers: usize) -> usize {
    let own = OWN.saturating_add(workers.saturating_mul(OWN_PER_WORKER));
    (limit.saturating_sub(own).saturating_mul(45) / 100).max(1)
}

/// With fewer descriptors than these an ordinary load may find all of them taken.
const FEW: usize = 8192;

/// Standard streams, the source, the admin server and its clients.
const OWN: usize = 48;

/// Runtime and listeners of a worker.
const OWN_PER_WORKER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_a_descriptor_for_the_endpoint_of_each_and_some_for_the_process() {
        for limit in [128, 256, 1024, 65_536] {
            for workers in [1, 2, 8] {
                let clients = share_of_clients(limit, workers);
                let rest = limit - 2 * clients;
                assert!(rest >= OWN + workers * OWN_PER_WORKER || clients == 1);
            }
        }
        assert_eq!(share_of_clients(1024, 2), 432);
        assert_eq!(share_of_clients(0, 2), 1);
        assert!(share_of_clients(usize::MAX, 2) > 1 << 50);
    }
}
