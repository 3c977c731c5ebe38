//! Several processes with one directory of certificates: one orders, all of them answer and serve.

use std::sync::mpsc::{self, Receiver};

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen, Verdict};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::http2::Session;
use gatehouse_tests::kubernetes::cluster::{self, alone};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use x509_parser::extensions::GeneralName;

use crate::home::{Home, PATIENCE, address, answered, issuer, serves, wait_served};

/// Holds requests of one endpoint until it is told, or nobody can tell it any more.
struct Gate(Endpoint, Receiver<()>);

impl Rule for Gate {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint == self.0 {
            self.1.recv().ok();
        }
        Verdict::Pass
    }
}

/// The one that leads, and two more.
fn three(home: &Home) -> [Gateway; 3] {
    let leader = home.start(cluster::address());
    let epoch = home.epoch();
    assert_eq!(epoch, "1", "the first one leads");
    [
        leader,
        home.start(cluster::address()),
        home.start(cluster::address()),
    ]
}

/// What is shown to a client without a server name.
fn shown_without_a_name(gateway: &Gateway) -> Vec<String> {
    let client = Handshake::with(None, &["http/1.1"], gatehouse_tests::tls::VERSIONS);
    let secured = client.connect(gateway.https).expect("a handshake");
    let certificate = secured.certificate();
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("names");
    let names = names.map(|names| names.value.general_names.clone());
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => format!("{other:?}"),
    };
    names.unwrap_or_default().iter().map(text).collect()
}

#[test]
fn case_02_a_process_that_does_not_lead_answers_http_01_for_the_one_that_does() {
    alone(|| {
        let pebble = Pebble::start();
        let home = Home::new(&pebble, "      challenges: [http-01]\n");
        let gateways = three(&home);
        // The authority comes to the second for the first name, to the third for the other one.
        for (at, host) in [(1, "first.example.test"), (2, "second.example.test")] {
            pebble.lead(host, address(&gateways[at]));
            home.ask(&format!("web{at}"), "main", &[host], "");
            for gateway in &gateways {
                wait_served(gateway, host);
            }
            assert!(answered(&gateways[at], "http-01") > 0, "{at} answered");
        }
        assert_eq!(answered(&gateways[0], "http-01"), 0);
        assert_eq!(pebble.issued().len(), 2);
        assert_eq!(home.epoch(), "1", "nobody else led");
    });
}

#[test]
fn case_05_a_name_and_an_address_in_one_order_are_proven_by_a_process_that_does_not_lead() {
    alone(|| {
        let pebble = Pebble::start();
        let more = "      challenges: [tls-alpn-01]\n      profile: shortlived\n";
        let home = Home::new(&pebble, more);
        let gateways = three(&home);
        let (name, there) = ("shop.example.test", address(&gateways[1]));
        pebble.lead(name, there);
        let ip = there.to_string();
        home.ask("web", "main", &[name, &ip], "");
        wait::until("the route is there", || {
            let answer = Session::open(gateways[1].https, Some(&Handshake::h2(name)));
            let mut answer = answer;
            answer
                .get(name, "/")
                .is_ok_and(|answer| answer.status == 200)
                .then_some(())
        });
        // Ordinary clients of the process that is being asked, all the while.
        let mut open = Session::open(gateways[1].https, Some(&Handshake::h2(name)));
        let served = wait::within(PATIENCE, || {
            let answer = open.get(name, "/").expect("an answer on the connection");
            assert_eq!(answer.status, 200);
            let secured = Handshake::h2(name).connect(gateways[1].https);
            let secured = secured.expect("a handshake of an ordinary client");
            assert_eq!(secured.protocol(), "h2");
            serves(&gateways[1], name).then_some(())
        });
        assert!(served.is_some(), "{}", gateways[0].diagnostics());
        assert!(answered(&gateways[1], "tls-alpn-01") >= 2);
        assert_eq!(answered(&gateways[0], "tls-alpn-01"), 0);
        assert_eq!(pebble.issued().len(), 1, "one order for both");
        let names = shown_without_a_name(&gateways[1]);
        assert_eq!(names, [name.to_owned(), format!("{:?}", there.octets())]);
    });
}

#[test]
fn case_51_a_process_that_was_started_after_the_order_answers_the_authority() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        let (open, gate) = mpsc::channel();
        proxy.rule(Gate(Endpoint::Challenge, gate));
        let more = "      challenges: [http-01]\n";
        let home = Home::with(&pebble, &[issuer("main", &proxy.directory(), more)]);
        let host = "shop.example.test";
        home.want(host);
        let leader = home.start(cluster::address());
        wait::until("the authority is about to be told", || {
            (proxy.count(Endpoint::Challenge) > 0).then_some(())
        });
        let late = home.start(cluster::address());
        pebble.lead(host, address(&late));
        drop(open);
        for gateway in [&leader, &late] {
            wait_served(gateway, host);
        }
        assert!(answered(&late, "http-01") > 0);
        assert_eq!(answered(&leader, "http-01"), 0);
        assert_eq!(proxy.count(Endpoint::NewOrder), 1);
    });
}

#[test]
fn case_60_of_two_processes_with_one_directory_one_works_and_both_answer_and_serve() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        let home = Home::with(&pebble, &[issuer("main", &proxy.directory(), "")]);
        let gateways = [
            home.start(cluster::address()),
            home.start(cluster::address()),
        ];
        for (at, gateway) in gateways.iter().enumerate() {
            let host = format!("h{at}.example.test");
            pebble.lead(&host, address(gateway));
            home.ask(&format!("web{at}"), "main", &[&host], "");
            let shown = gateways.each_ref().map(|gateway| {
                wait_served(gateway, &host);
                let secured = Handshake::new(&host).connect(gateway.https);
                secured.expect("a handshake").certificate()
            });
            assert_eq!(shown[0], shown[1], "the same one");
            assert!(answered(gateway, "http-01") > 0, "{at} answered");
        }
        assert_eq!(proxy.count(Endpoint::Finalize), 2);
        assert_eq!(proxy.count(Endpoint::NewOrder), 2);
        assert_eq!(proxy.count(Endpoint::NewAccount), 1);
        assert_eq!(home.epoch(), "1", "one of them led from the start");
    });
}
