//! What becomes of a write that does not succeed.

use std::future::pending;
use std::sync::Mutex;

use gatehouse_acme::record::Material;
use gatehouse_acme::secrets::Secret as Value;
use kube::Client;
use kube::client::Body;
use serde_json::{Value as Json, json};

use super::*;

/// Statuses of the answers to the next lists and writes; then 200.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(Vec<u16>, Vec<u16>)>>);

impl Script {
    fn of(lists: &[u16], writes: &[u16]) -> Self {
        Self(Arc::new(Mutex::new((lists.to_vec(), writes.to_vec()))))
    }

    fn status(&self, writes: bool) -> u16 {
        let mut left = self.0.lock().unwrap();
        let left = if writes { &mut left.1 } else { &mut left.0 };
        if left.is_empty() {
            return 200;
        }
        left.remove(0)
    }

    fn answer(&self, method: &http::Method) -> (u16, Json) {
        let writes = *method == http::Method::PATCH;
        let status = self.status(writes);
        let body = match (status, writes) {
            (200, true) => {
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}})
            }
            (200, false) => {
                json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": []})
            }
            (status, _) => json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status,
                "reason": "Nothing", "message": "as it was told"
            }),
        };
        (status, body)
    }
}

fn target() -> Target {
    Target {
        namespace: "shop".to_owned(),
        secret: "tls".to_owned(),
    }
}

/// A healer before an API server that answers by the script.
fn healer(script: &Script) -> Healer {
    let script = script.clone();
    let server = tower::service_fn(move |request: http::Request<Body>| {
        let script = script.clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("labelSelector") {
                // What lies in the Secrets is never heard of here.
                pending::<()>().await;
            }
            let (status, body) = script.answer(request.method());
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            let answer = http::Response::builder().status(status).body(body);
            Ok::<_, std::convert::Infallible>(answer.unwrap())
        }
    });
    let client = Client::new(server, "default");
    let clients: crate::leader::Clients = Arc::new(move || client.clone());
    let leadership = Leadership::unquestioned();
    Healer {
        projection: Arc::new(Projection::new(&clients, "own", leadership.clone())),
        targets: Arc::new(Targets::follow(&clients, &[])),
        leadership,
        certificates: watch::channel(Arc::default()).1,
        reports: watch::channel(Arc::default()).1,
        planned: watch::channel(Arc::default()).1,
        findings: watch::Sender::default(),
    }
}

fn certificate() -> Arc<Certificate> {
    Arc::new(Certificate {
        namespace_uid: "uid".to_owned(),
        material: Material {
            chain: "chain".to_owned(),
            key: Value::new("key"),
        },
    })
}

/// Treats one again and again, without the pauses: whether the API server was away, and whether
/// something was said.
async fn treated(script: &Script, times: usize) -> Vec<(bool, bool)> {
    let healer = healer(script);
    let (certificate, mut patient) = (certificate(), Patient::default());
    let mut seen = Vec::new();
    for _ in 0..times {
        patient.not_before = None;
        let away = healer.treat(&target(), &certificate, &mut patient).await;
        seen.push((away, patient.finding.is_some()));
    }
    seen
}

#[tokio::test]
async fn who_was_overtaken_by_another_writer_looks_again_at_once_and_says_nothing() {
    let script = Script::of(&[], &[409]);
    assert_eq!(treated(&script, 1).await, [(false, false)]);
    assert_eq!(script.status(true), 200, "the second write went through");
    let script = Script::of(&[], &[409; 30]);
    let seen = treated(&script, 3).await;
    assert_eq!(seen, [(false, false), (false, false), (false, true)]);
}

#[tokio::test]
async fn a_write_that_fails_is_told_when_it_goes_on_failing_and_holds_no_other() {
    let seen = treated(&Script::of(&[], &[503; 3]), 4).await;
    let told = [
        (false, false),
        (false, false),
        (false, true),
        (false, false),
    ];
    assert_eq!(seen, told);
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    assert_eq!(
        treated(&Script::of(&[], &[403]), 2).await,
        [(false, true), (false, false)]
    );
}

#[tokio::test]
async fn who_cannot_even_look_leaves_the_others_alone() {
    let seen = treated(&Script::of(&[503; 3], &[]), 4).await;
    let away = [(true, false), (true, false), (true, true), (false, false)];
    assert_eq!(seen, away);
}
