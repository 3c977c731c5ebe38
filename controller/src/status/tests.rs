//! What the tests of the duties share, and the loop around them.

use http::{Request, Response};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Client;
use kube::client::Body;

use super::*;
use crate::diagnostics::Diagnostic;
use crate::source::ObjectKey;

/// Clients of a server that is never asked.
pub(super) fn offline() -> Clients {
    let service = tower::service_fn(async |_: Request<Body>| {
        std::future::pending::<()>().await;
        Ok::<_, kube::Error>(Response::new(Body::empty()))
    });
    let client = Client::new(service, "default");
    Arc::new(move || client.clone())
}

pub(super) fn scene<const N: usize>(
    owned: [(ObjectKey, Arc<Ingress>); N],
    diagnostics: Vec<Diagnostic>,
) -> Report {
    Report {
        generation: 1,
        synced: true,
        owned: Arc::new(owned.into()),
        diagnostics: diagnostics.into(),
        ..Report::default()
    }
}
