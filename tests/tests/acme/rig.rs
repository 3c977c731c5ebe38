//! The rig itself: what the other tests believe of it.

use std::net::SocketAddr;

use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{DirectoryExtra, On, edge_unavailable};
use gatehouse_tests::acme::{Bind, Pebble, Setup, Version, Zone};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::{Answer, Client};
use gatehouse_tests::tls::Handshake;

fn read(directory: &str, target: &str) -> Answer {
    let host = directory
        .trim_start_matches("https://")
        .trim_end_matches("/dir");
    let at: SocketAddr = host.parse().expect("an address");
    let mut client = Handshake::new("localhost")
        .connect(at)
        .expect("TLS")
        .client();
    client.send(format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gatehouse-tests\r\n\r\n"
    ));
    client.answer().expect("an answer")
}

#[test]
fn both_versions_of_the_authority_start_and_only_the_current_one_has_renewal_windows() {
    alone(|| {
        let old = Setup {
            version: Version::Old,
            ..Setup::default()
        };
        for (setup, offers) in [(Setup::default(), true), (old, false)] {
            let pebble = Pebble::start_with(setup);
            let directory = read(&pebble.directory(), "/dir").json();
            assert_eq!(directory["renewalInfo"].is_string(), offers, "{directory}");
            assert!(pebble.root(0).starts_with("-----BEGIN CERTIFICATE"));
            assert_eq!(pebble.issued(), Vec::<String>::new());
        }
    });
}

#[test]
fn the_proxy_keeps_the_host_writes_a_journal_and_plays_its_rules() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        let plain = read(&proxy.directory(), "/dir").json();
        let host = proxy.directory().trim_end_matches("/dir").to_owned();
        let order = plain["newOrder"].as_str().expect("a URL");
        assert!(order.starts_with(&host), "{order} lies behind {host}");

        proxy.rule(DirectoryExtra);
        proxy.rule(
            On::these(&[Endpoint::Directory], edge_unavailable(7))
                .after(1)
                .times(1),
        );
        let extra = read(&proxy.directory(), "/dir").json();
        let members = |value: &serde_json::Value| value.as_object().expect("an object").len();
        assert_eq!(members(&extra), members(&plain) + 1);
        let refused = read(&proxy.directory(), "/dir");
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("7"));
        assert_eq!(read(&proxy.directory(), "/dir").status, 200);

        let statuses: Vec<u16> = proxy.journal().iter().map(|seen| seen.status).collect();
        assert_eq!(statuses, [200, 200, 503, 200]);
        assert_eq!(proxy.count(Endpoint::Directory), 4);
        proxy.heal();
        assert_eq!(
            members(&read(&proxy.directory(), "/dir").json()),
            members(&plain)
        );
    });
}

#[test]
fn the_name_server_of_a_zone_answers_over_tcp() {
    alone(|| {
        let address = Bind::address();
        let zone = Zone {
            name: "example.test",
            servers: vec![address],
            records: "www A 192.0.2.7",
        };
        let bind = Bind::primary(address, &[zone]);
        // www.example.test A, in wire form, with its length before it.
        let mut query = vec![0, 34, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["www", "example", "test", ""] {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 1, 0, 1]);
        let mut client = Client::plain(bind.at());
        client.send(&query);
        let head = client.exactly(2).expect("a length");
        let answer = client
            .exactly(usize::from(u16::from_be_bytes([head[0], head[1]])))
            .expect("an answer");
        assert_eq!(answer[3] & 15, 0, "no error: {answer:?}");
        let found = answer.windows(4).any(|bytes| bytes == [192, 0, 2, 7]);
        assert!(found, "the address is in {answer:?}");
    });
}
