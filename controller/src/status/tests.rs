//! What the tests of the duties share, and the loop around them.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::diagnostics::Diagnostic;
use crate::source::kubernetes::contact::Contacts;
use crate::source::{Kind, ObjectKey};

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
    mut diagnostics: Vec<Diagnostic>,
) -> Report {
    diagnostics.sort_unstable();
    Report {
        generation: 1,
        synced: true,
        owned: Arc::new(owned.into()),
        diagnostics: diagnostics.into(),
        ..Report::default()
    }
}

/// An API server that counts what is written, takes its time and can be told to refuse.
#[derive(Default)]
struct Counting {
    written: AtomicUsize,
    refused: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    /// The status it answers with; 0 means that it takes everything.
    refuses: AtomicU16,
}

impl Counting {
    fn clients(self: &Arc<Self>) -> Clients {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |_: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let now = server.under_way.fetch_add(1, Ordering::Relaxed) + 1;
                server.most.fetch_max(now, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
                server.under_way.fetch_sub(1, Ordering::Relaxed);
                let code = server.refuses.load(Ordering::Relaxed);
                let (counter, status, body) = match StatusCode::from_u16(code) {
                    Ok(status) => (&server.refused, status, refusal(code)),
                    Err(_) => (&server.written, StatusCode::OK, json!({"metadata": {}})),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                let body = Body::from(body.to_string().into_bytes());
                let response = Response::builder().status(status).body(body).unwrap();
                Ok::<_, kube::Error>(response)
            }
        });
        let client = Client::new(service, "default");
        Arc::new(move || client.clone())
    }

    fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }
}

fn refusal(code: u16) -> Value {
    let why = r#"ingresses is forbidden: User "a" cannot patch resource "ingresses/status""#;
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": if code == 403 { "Forbidden" } else { "" }, "message": why})
}

fn many(count: usize) -> Arc<Report> {
    let owned = (0..count).map(|number| {
        let key = ObjectKey {
            kind: Kind::Ingress,
            namespace: "shop".into(),
            name: number.to_string().into(),
        };
        (key, Arc::new(Ingress::default()))
    });
    Arc::new(Report {
        generation: 1,
        owned: Arc::new(owned.collect()),
        ..Report::default()
    })
}

fn told() -> Addresses {
    Address::parse("203.0.113.7").map(|address| [address].into())
}

/// A desk whose addresses are known; the senders keep it going.
fn desk(
    report: Arc<Report>,
    leadership: Leadership,
) -> (Desk, watch::Sender<Arc<Report>>, watch::Sender<Addresses>) {
    let (reports, addresses) = (watch::channel(report), watch::channel(told()));
    let desk = Desk {
        what: "the status",
        act: Act::Status,
        refusals: Refusals::default(),
        reports: reports.1,
        addresses: addresses.1,
        leadership,
        pace: Pace::new(STATUS_INTERVAL, STATUS_BURST),
    };
    (desk, reports.0, addresses.0)
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_are_written_once_each_a_few_at_a_time() {
    let server = Arc::<Counting>::default();
    let clients = server.clients();
    let (desk, reports, _addresses) = desk(many(10_000), Leadership::unquestioned());
    tokio::spawn(desk.serve(move || Balancer::new(Arc::clone(&clients))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        (20..=60).contains(&server.written()),
        "{}",
        server.written()
    );
    // Endpoints change fifty times a second meanwhile: nothing of it is about status.
    for generation in 2..20_000 {
        reports.send_modify(|report| Arc::make_mut(report).generation = generation);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.written(), 10_000);
    assert_eq!(server.most.load(Ordering::Relaxed), 8);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_ever_less_and_everything_is_written_in_the_end() {
    let server = Arc::<Counting>::default();
    server.refuses.store(503, Ordering::Relaxed);
    let clients = server.clients();
    let (desk, _reports, _addresses) = desk(many(10), Leadership::unquestioned());
    tokio::spawn(desk.serve(move || Balancer::new(Arc::clone(&clients))));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let refused = server.refused.load(Ordering::Relaxed);
    assert!(
        (10 * 10..=10 * 17).contains(&refused),
        "{refused} in ten minutes"
    );
    server.refuses.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(server.written(), 10);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_end_of_leading() {
    let server = Arc::<Counting>::default();
    let clients = server.clients();
    let (leadership, end) = Leadership::ending();
    let (desk, _reports, _addresses) = desk(many(1_000), leadership);
    tokio::spawn(desk.serve(move || Balancer::new(Arc::clone(&clients))));
    tokio::time::sleep(Duration::from_secs(5)).await;
    end();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let written = server.written();
    assert!((100..1_000).contains(&written), "{written}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        server.written(),
        written,
        "what was under way is cut off, too"
    );
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_told_until_it_is_there_or_another_replica_leads() {
    let contacts = Contacts::default();
    let told = || contacts.complaints();
    let server = Arc::<Counting>::default();
    server.refuses.store(403, Ordering::Relaxed);
    let clients = server.clients();
    let (leadership, end) = Leadership::ending();
    let (mut desk, _reports, _addresses) = desk(many(10), leadership);
    desk.refusals = contacts.refusals().clone();
    tokio::spawn(desk.serve(move || Balancer::new(Arc::clone(&clients))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = told();
    assert_eq!(first.len(), 1, "one line for all of them");
    for word in [
        "RequestForbidden",
        "refuses to patch it in namespace `shop`",
        "ingresses.networking.k8s.io/status",
        "generate rbac",
    ] {
        let text = first[0].to_string();
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(told(), first, "it stands, in the same words");
    server.refuses.store(503, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(
        told(),
        first,
        "a server in trouble says nothing about rights"
    );
    server.refuses.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(told(), []);

    let (mut desk, _reports, _addresses) = self::desk(many(1), Leadership::unquestioned());
    server.refuses.store(403, Ordering::Relaxed);
    let (leadership, end_again) = Leadership::ending();
    (desk.leadership, desk.refusals) = (leadership, contacts.refusals().clone());
    let clients = server.clients();
    tokio::spawn(desk.serve(move || Balancer::new(Arc::clone(&clients))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told().len(), 1);
    end();
    end_again();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(told(), [], "whoever leads now finds out");
}

#[derive(Debug, clap::Parser)]
struct Flags {
    #[command(flatten)]
    status: StatusArgs,
}

#[test]
fn what_will_not_be_done_at_the_end_is_said_at_the_start() {
    let said = |flags: &str| {
        let words = std::iter::once("run").chain(flags.split_whitespace());
        let args = <Flags as clap::Parser>::parse_from(words).status;
        let replica = Replica::new(&args, true);
        doubt(&args, &replica, &origin(&args, &replica))
    };
    let at_the_end = "--update-status-on-shutdown --publish-status-address=203.0.113.7";
    let pod = "--pod-name=web-0 --pod-namespace=own";
    for unknown in ["--pod-name=", "--pod-name=web-0 --pod-namespace="] {
        let text = said(&format!("{at_the_end} {unknown}")).unwrap();
        for word in ["--update-status-on-shutdown", "--pod-name", "POD_NAMESPACE"] {
            assert!(text.contains(word), "{word} is missing in: {text}");
        }
    }
    assert_eq!(said(&format!("{at_the_end} {pod}")), None);
    let without = said(&format!("{at_the_end} {pod} --update-status=false")).unwrap();
    assert!(without.contains("has no effect"), "{without}");
    assert_eq!(said("--publish-status-address=203.0.113.7"), None);
    let nowhere = said("--pod-name= --pod-namespace=").unwrap();
    assert!(nowhere.contains("--publish-service"), "{nowhere}");
}
