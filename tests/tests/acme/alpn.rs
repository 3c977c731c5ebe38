//! TLS-ALPN-01: the authority accepts what the data plane shows, made of what a board tells.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gatehouse_acme::ca::{ChallengeKind, OrderStatus};
use gatehouse_gateway::access_log::{AccessLog, Format};
use gatehouse_gateway::metrics::Metrics;
use gatehouse_gateway::model::{
    ChallengePlan, HandshakePlan, Identifier, ListenerPlan, ListenerProtocol, ServerId,
};
use gatehouse_gateway::publish::{Published, Publisher};
use gatehouse_gateway::server::{Gateway, GatewayConfig};
use gatehouse_tests::acme::Pebble;
use gatehouse_tests::kubernetes::cluster::alone;

use crate::customer::{Customer, challenges, names, with};

/// The data plane with nothing but an HTTPS listener where the authority looks.
fn gateway(at: SocketAddr) -> (Gateway, Published) {
    let metrics = Metrics::new();
    let (_, published) = Publisher::new(Arc::clone(&metrics));
    let config = GatewayConfig {
        listeners: vec![ListenerPlan {
            name: "https".into(),
            address: at,
            protocol: ListenerProtocol::Https,
            server: ServerId::SHARED,
            public_port: None,
        }],
        workers: 2,
        access_log: AccessLog::to(Format::Json, std::io::sink(), &metrics).expect("log"),
    };
    let gateway = Gateway::start(config, published.clone(), metrics).expect("a gateway");
    (gateway, published)
}

#[test]
fn a_name_and_an_address_are_proven_by_a_handshake_of_the_data_plane() {
    alone(|| {
        for address in [false, true] {
            let pebble = Pebble::start();
            let name = if address {
                pebble.address().to_string()
            } else {
                "shop.example.test".to_owned()
            };
            let at = SocketAddr::new(IpAddr::V4(pebble.address()), Pebble::TLS);
            let (_gateway, published) = gateway(at);
            with(async || {
                let customer = Customer::new(&pebble, &pebble.directory()).await;
                let (ca, account) = (&customer.ca, &customer.account);
                let order = customer.ordered(&names(&[&name])).await;
                let read = ca.authorizations(account, &order.url).await;
                let read = read.expect("authorizations");
                let mut offered = read[0].challenges.iter();
                let challenge = offered.find(|each| each.kind == ChallengeKind::TlsAlpn01);
                let digest = account.key.digest(&challenge.expect("offered").token);
                let plan = ChallengePlan {
                    handshakes: vec![HandshakePlan {
                        identifier: Identifier::of_host(&name),
                        digest,
                    }],
                    ..ChallengePlan::default()
                };
                assert!(published.challenges().publish(plan));
                let wanted = challenges(&read, ChallengeKind::TlsAlpn01);
                ca.answer(account, &order.url, &wanted)
                    .await
                    .expect("answered");
                let ready = customer.until(&order.url, OrderStatus::Ready).await;
                let ready = ready.expect("an order");
                assert_eq!(ready.status, OrderStatus::Ready, "{name}: {ready:?}");
            });
        }
    });
}
