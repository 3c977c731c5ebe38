//! TLS-ALPN-01: the authority accepts the certificate that is made of what a board tells.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use gatehouse_acme::alpn;
use gatehouse_acme::ca::{ChallengeKind, OrderStatus};
use gatehouse_acme::names::Name;
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection};

use crate::customer::{Customer, challenges, names, with};

/// Shows the challenge certificate to whoever asks for the protocol.
fn serve(at: SocketAddr, name: &str, digest: &[u8; 32]) {
    let name = Name::parse(name).expect("a name");
    let (certificate, key) = alpn::certificate(&name, digest).expect("a certificate");
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let certified = CertifiedKey::new(vec![certificate], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![alpn::PROTOCOL.to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind(at).expect("bind");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            while session.is_handshaking() && session.complete_io(&mut socket).is_ok() {}
        }
    });
}

#[test]
fn a_name_and_an_address_are_proven_by_a_certificate_made_of_name_and_digest() {
    alone(|| {
        for address in [false, true] {
            let pebble = Pebble::start_with(Setup::default());
            let name = if address {
                pebble.address().to_string()
            } else {
                "shop.example.test".to_owned()
            };
            with(async || {
                let customer = Customer::new(&pebble, &pebble.directory()).await;
                let (ca, account) = (&customer.ca, &customer.account);
                let order = ca
                    .new_order(account, &names(&[&name]))
                    .await
                    .expect("an order");
                let read = ca.authorizations(account, &order.url).await;
                let read = read.expect("authorizations");
                let mut offered = read[0].challenges.iter();
                let challenge = offered.find(|each| each.kind == ChallengeKind::TlsAlpn01);
                let digest = account.key.digest(&challenge.expect("offered").token);
                let at = SocketAddr::new(IpAddr::V4(pebble.address()), Pebble::TLS);
                serve(at, &name, &digest);
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
