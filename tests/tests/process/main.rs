//! What the system gives to the process and asks of it: descriptors, ports, output and signals.

mod descriptors;
mod output;
mod signals;

use gatehouse_tests::backend::Backend;
use gatehouse_tests::manifests::{self, Scratch};

/// A folder whose only host, `app.test`, is served by this backend.
fn served_by(backend: &Backend) -> Scratch {
    let scratch = Scratch::new();
    let text = manifests::class()
        + &manifests::service("app", &[backend.address])
        + &manifests::ingress("app", "app.test", &[("/", "Prefix", "app")]);
    scratch.write("all.yaml", text);
    scratch
}
