//! Several replicas: one orders, all answer and serve; what one began the next one ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatehouse_tests::acme::fault::{Endpoint, Rule, Seen};
use gatehouse_tests::acme::rules::SlowFinalize;
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, cluster};
use gatehouse_tests::raw::Answer;
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use serde_json::Value;
use tokio::time::Instant;

use super::{ALLOW, Replica, Stand, serves, wait_serves, wish};

/// Orders that are ready are said to be pending, as long as this is set.
struct Held(Arc<AtomicBool>);

impl Rule for Held {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        let order: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let ready = seen.endpoint == Endpoint::Order && order["status"] == "ready";
        if ready && self.0.load(Ordering::SeqCst) {
            let text = String::from_utf8_lossy(&answer.body);
            answer.body = text.replacen("\"ready\"", "\"pending\"", 1).into_bytes();
        }
    }
}

/// How many challenges of this type a replica has answered.
fn answered(gateway: &Gateway, kind: &str) -> u64 {
    let (_, metrics) = gateway.admin_get("/metrics");
    let series = format!("type=\"{kind}\",result=\"answered\"}} ");
    let line = metrics.lines().find(|line| line.contains(&series));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn leads(gateway: &Gateway) -> bool {
    let (_, metrics) = gateway.admin_get("/metrics");
    metrics.lines().any(|line| line == "gatehouse_leader 1")
}

/// A Service in the namespace of the installation whose endpoints are these replicas.
fn service(stand: &Stand<'_>, replicas: &[&Replica]) {
    let endpoints: Vec<String> = replicas
        .iter()
        .map(|replica| format!("{{addresses: [{}]}}", replica.address))
        .collect();
    let (own, plain, tls) = (&stand.own, Pebble::HTTP, Pebble::TLS);
    stand.space.kubectl().apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: replicas, namespace: {own}}}\nspec: {{clusterIP: \
         None, ports: [{{name: http, port: 80}}, {{name: https, port: 443}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: replicas, namespace: \
         {own}, labels: {{kubernetes.io/service-name: replicas}}}}\naddressType: IPv4\nports: [{{name: \
         http, port: {plain}}}, {{name: https, port: {tls}}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    ));
}

#[test]
fn case_02_a_replica_that_does_not_lead_answers() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-other");
        let leader = stand.another(&[]);
        wait::until("it leads", || leads(&leader.gateway).then_some(()));
        let other = stand.another(&[]);
        stand.pebble.lead(host, other.address);
        stand.want("shop", host);
        wait_serves(&leader.gateway, host);
        wait_serves(&other.gateway, host);
        assert!(answered(&other.gateway, "http-01") > 0);
        assert_eq!(answered(&leader.gateway, "http-01"), 0);
        assert!(leads(&leader.gateway) && !leads(&other.gateway));
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn case_05_a_replica_that_does_not_lead_shakes_hands_and_every_replica_is_asked_before() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let more = format!("      challenges: [tls-alpn-01]\n{ALLOW}");
        let stand = Stand::with(server, "acme-alpn", Setup::default(), &more);
        let flag = format!("--acme-replicas-service={}/replicas", stand.own);
        let leader = stand.another(&[&flag]);
        wait::until("it leads", || leads(&leader.gateway).then_some(()));
        let other = stand.another(&[&flag]);
        service(&stand, &[&leader, &other]);
        stand.pebble.lead(host, other.address);
        stand.want("shop", host);
        wait_serves(&leader.gateway, host);
        wait_serves(&other.gateway, host);
        // The authority comes three times, to the one; the leader has asked both.
        assert!(answered(&other.gateway, "tls-alpn-01") >= 4);
        assert_eq!(answered(&leader.gateway, "tls-alpn-01"), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
        let said = leader.gateway.process.stderr.all().join("\n");
        assert!(!said.contains("not every replica answers"), "{said}");
    });
}

#[test]
fn replicas_that_take_each_other_for_balancers_are_asked_with_a_proxy_header() {
    cluster::shared(|server| {
        let setup = Setup::default().trusting();
        let stand = Stand::with(server, "acme-proxied", setup, ALLOW);
        let flag = format!("--acme-replicas-service={}/replicas", stand.own);
        let flags = [
            flag.as_str(),
            "--set=use-proxy-protocol=true",
            "--set=proxy-protocol-cidr=10.99.0.0/16",
        ];
        let replicas = [stand.another(&flags), stand.another(&flags)];
        service(&stand, &[&replicas[0], &replicas[1]]);
        let begun = Instant::now();
        stand.want("shop", "shop.example.test");
        stand.wait_secret("shop");
        assert!(begun.elapsed() < Duration::from_secs(8));
        for replica in &replicas {
            assert_eq!(answered(&replica.gateway, "http-01"), 1);
        }
    });
}

#[test]
fn a_replica_that_does_not_answer_is_named_and_waited_for_ten_seconds() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-mute");
        let flag = format!("--acme-replicas-service={}/replicas", stand.own);
        let leader = stand.another(&[&flag]);
        let nobody = cluster::address();
        let mute = Replica {
            gateway: stand.replica_at(cluster::address(), &[&flag]),
            address: nobody,
        };
        service(&stand, &[&leader, &mute]);
        stand.pebble.lead(host, leader.address);
        let begun = Instant::now();
        stand.want("shop", host);
        wait_serves(&leader.gateway, host);
        assert!(begun.elapsed() > Duration::from_secs(10));
        let all = [&leader.gateway, &mute.gateway];
        let said: Vec<String> = all
            .iter()
            .flat_map(|gateway| gateway.process.stderr.all())
            .filter(|line| line.contains("not every replica answers"))
            .collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&nobody.to_string()), "{said:?}");
    });
}

#[test]
fn who_follows_serves_what_is_kept_without_a_leader_and_without_the_secret() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-follower");
        let leader = stand.another(&[]);
        wait::until("it leads", || leads(&leader.gateway).then_some(()));
        let other = stand.another(&[]);
        stand.pebble.lead(host, leader.address);
        stand.want("shop", host);
        stand.wait_secret("shop");
        wait_serves(&other.gateway, host);
        leader.gateway.process.signal("STOP");
        stand.space.delete("secret/shop");
        let kept = wait::holds(Duration::from_secs(2), || serves(&other.gateway, host));
        assert!(kept);
        // One that starts now has never seen the Secret.
        let late = stand.another(&[]);
        wait_serves(&late.gateway, host);
        assert!(stand.secret("shop").is_none(), "nobody leads yet");
        // And whoever leads next puts it back.
        stand.wait_secret("shop");
        assert_eq!(stand.pebble.issued().len(), 1);
        leader.gateway.process.signal("CONT");
    });
}

#[test]
fn case_25_three_replicas_and_twenty_hosts_are_twenty_orders_of_one_account() {
    cluster::shared(|server| {
        let stand = Stand::new(server, "acme-twenty");
        let hosts: Vec<String> = (0..20)
            .map(|number| format!("h{number:02}.example.test"))
            .collect();
        let wishes: Vec<String> = hosts
            .iter()
            .enumerate()
            .map(|(number, host)| wish(&format!("h{number:02}"), host))
            .collect();
        stand.space.apply(&wishes.concat());
        let addresses = [(); 3].map(|()| cluster::address());
        for (number, host) in hosts.iter().enumerate() {
            stand.pebble.lead(host, addresses[number % 3]);
        }
        let replicas: Vec<Gateway> = std::thread::scope(|scope| {
            let starts = addresses.map(|at| {
                let stand = &stand;
                scope.spawn(move || stand.replica_at(at, &[]))
            });
            starts.map(|start| start.join().expect("a replica")).into()
        });
        for host in &hosts {
            for gateway in &replicas {
                wait_serves(gateway, host);
            }
        }
        assert_eq!(stand.pebble.issued().len(), 20);
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 20);
        assert_eq!(stand.authority.count(Endpoint::Finalize), 20);
        assert_eq!(stand.authority.count(Endpoint::NewAccount), 1);
        // All three show the same certificate.
        for host in &hosts {
            let shown = replicas.iter().map(|gateway| {
                let secured = Handshake::new(host).connect(gateway.https);
                secured.expect("TLS handshake").certificate()
            });
            let mut shown: Vec<_> = shown.collect();
            shown.dedup();
            assert_eq!(shown.len(), 1, "{host}");
        }
    });
}

/// A leader whose order the authority answers no further while it is held, and the replica that comes next,
/// where the authority looks.
fn in_mid_order(stand: &Stand<'_>, host: &str) -> (Arc<AtomicBool>, Replica, Replica) {
    let held = Arc::new(AtomicBool::new(true));
    stand.authority.rule(Held(Arc::clone(&held)));
    let first = stand.another(&[]);
    wait::until("it leads", || leads(&first.gateway).then_some(()));
    let second = stand.another(&[]);
    stand.pebble.lead(host, second.address);
    stand.want("shop", host);
    wait::until("the authority is told", || {
        (stand.authority.count(Endpoint::Order) > 2).then_some(())
    });
    (held, first, second)
}

#[test]
fn case_26_the_next_leader_continues_the_same_order_within_five_seconds() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-next");
        let (held, first, second) = in_mid_order(&stand, host);
        first.gateway.process.signal("TERM");
        let begun = Instant::now();
        held.store(false, Ordering::SeqCst);
        wait::until("the order goes on", || {
            (stand.authority.count(Endpoint::Finalize) > 0).then_some(())
        });
        let took = begun.elapsed();
        println!("the next leader went on {took:?} after SIGTERM");
        assert!(took < Duration::from_secs(5), "{took:?}");
        wait_serves(&second.gateway, host);
        stand.wait_secret("shop");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        assert_eq!(stand.authority.count(Endpoint::Finalize), 1);
        assert_eq!(stand.authority.count(Endpoint::NewAccount), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

#[test]
fn a_leader_that_was_stopped_for_long_does_nothing_when_it_wakes_up() {
    cluster::shared(|server| {
        let host = "shop.example.test";
        let stand = Stand::new(server, "acme-asleep");
        let (held, first, second) = in_mid_order(&stand, host);
        first.gateway.process.signal("STOP");
        wait::until("the other one leads", || {
            leads(&second.gateway).then_some(())
        });
        held.store(false, Ordering::SeqCst);
        wait_serves(&second.gateway, host);
        stand.wait_secret("shop");
        wait::until("nothing is going on", || {
            (stand.authority.count(Endpoint::Renewal) == 1).then_some(())
        });
        let requests = stand.journal().len();
        first.gateway.process.signal("CONT");
        wait_serves(&first.gateway, host);
        let quiet = wait::holds(Duration::from_secs(3), || stand.journal().len() == requests);
        assert!(quiet, "{:#?}", stand.journal().last());
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 1);
        assert_eq!(stand.authority.count(Endpoint::Finalize), 1);
        assert_eq!(stand.pebble.issued().len(), 1);
    });
}

/// Shorter than the two minutes of the plan, and long enough for the Lease to lapse twice.
const AWAY: Duration = Duration::from_secs(25);

#[test]
fn case_27_without_the_api_server_everything_is_served_and_the_order_goes_on_afterwards() {
    cluster::alone(|| {
        let (old, new) = ("old.example.test", "new.example.test");
        let server = ApiServer::start();
        let stand = Stand::new(&server, "acme-away");
        let gateway = stand.replica();
        stand.want("old", old);
        wait_serves(&gateway, old);
        stand.wait_secret("old");
        stand.authority.rule(SlowFinalize { answers: 3 });
        stand.want("new", new);
        wait::until("the certificate is asked for", || {
            (stand.authority.count(Endpoint::Finalize) == 2).then_some(())
        });
        server.pause();
        let unharmed = wait::holds(AWAY, || {
            let shown = Handshake::new(old).connect(gateway.https);
            shown.is_ok_and(|secured| secured.names() == [old])
        });
        assert!(unharmed);
        server.resume();
        wait_serves(&gateway, new);
        stand.wait_secret("new");
        assert_eq!(stand.authority.count(Endpoint::NewOrder), 2);
        assert_eq!(stand.authority.count(Endpoint::Finalize), 2);
        assert_eq!(stand.pebble.issued().len(), 2);
    });
}
