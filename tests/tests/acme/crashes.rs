//! The program dies, with SIGKILL, at every request to the authority: what is started again, or what
//! stood by, finishes the same certificate, and whoever wants another one notices nothing.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::acme::fault::{Endpoint, Fault};
use gatehouse_tests::acme::rules::{Kills, Moment, Side};
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::cluster::{self, alone};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;

use crate::home::{Home, PATIENCE, address, issuer, wait_served};

/// What a client of another certificate sees, wherever it is sent.
#[derive(Clone, Default)]
struct Client {
    at: Arc<Mutex<Option<(SocketAddr, String)>>>,
    seen: Arc<Mutex<(usize, Vec<String>)>>,
}

impl Client {
    /// Goes to this address from now on, or nowhere.
    fn go(&self, to: Option<(SocketAddr, &str)>) {
        let to = to.map(|(address, host)| (address, host.to_owned()));
        *self.at.lock().expect("a place") = to;
    }

    /// One handshake, if there is somewhere to go; it is over before the client can be sent away.
    fn shake(&self) {
        let at = self.at.lock().expect("a place");
        let Some((address, host)) = &*at else { return };
        let outcome = match Handshake::new(host).connect(*address) {
            Ok(secured) if secured.names() == [host.as_str()] => None,
            Ok(secured) => Some(format!("{address} shows {:?}", secured.common_name())),
            Err(error) => Some(format!("{address}: {error}")),
        };
        let mut seen = self.seen.lock().expect("what was seen");
        seen.0 += 1;
        seen.1.extend(outcome);
    }
}

/// What the names lead to: passes connections on to the first process that takes them.
struct Balancer {
    address: Ipv4Addr,
    order: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Balancer {
    /// In front of the port where the authority looks; it ends with the test process.
    fn start() -> Self {
        let address = cluster::address();
        let order: Arc<Mutex<Vec<Ipv4Addr>>> = Arc::default();
        let behind = Arc::clone(&order);
        let listener = TcpListener::bind((address, Pebble::HTTP)).expect("a port");
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let order = behind.lock().expect("an order").clone();
                let mut order = order.into_iter();
                let taken = order.find_map(|at| TcpStream::connect((at, Pebble::HTTP)).ok());
                if let Some(process) = taken {
                    std::thread::spawn(move || pass(&client, &process));
                }
            }
        });
        Self { address, order }
    }

    fn prefers(&self, order: &[Ipv4Addr]) {
        *self.order.lock().expect("an order") = order.to_vec();
    }
}

/// Both ways, until both have ended.
fn pass(client: &TcpStream, process: &TcpStream) {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, process));
        one_way(process, client);
    });
}

/// One installation whose processes are killed.
struct Lane<'a> {
    pebble: &'a Pebble,
    home: Home,
    proxy: Fault,
    balancer: Balancer,
    host: String,
    other: String,
    client: Client,
    victims: Sender<u32>,
    killed: Receiver<Moment>,
    /// Keys that the record would have been finalized with, after each crash.
    keys: BTreeSet<String>,
}

impl<'a> Lane<'a> {
    fn new(pebble: &'a Pebble, number: usize, side: impl Fn(Moment) -> Side) -> Self {
        let proxy = Fault::before(pebble);
        // The other certificate is of another issuer, whose conversation nobody cuts.
        let issuers = [
            issuer("calm", &pebble.directory(), ""),
            issuer("main", &proxy.directory(), "      challenges: [http-01]\n"),
        ];
        let (victims, victims_of_rule) = mpsc::channel();
        let (killed_by_rule, killed) = mpsc::channel();
        let moments = Moment::ALL.map(|moment| (moment, side(moment)));
        proxy.rule(Kills::at(moments, victims_of_rule, killed_by_rule));
        Self {
            pebble,
            home: Home::with(pebble, &issuers),
            proxy,
            balancer: Balancer::start(),
            host: format!("h{number}.example.test"),
            other: format!("other{number}.example.test"),
            client: Client::default(),
            victims,
            killed,
            keys: BTreeSet::new(),
        }
    }

    /// The first process; it has the other certificate, and is about to order.
    fn first(&self, address: Ipv4Addr) -> Gateway {
        self.balancer.prefers(&[address]);
        let front = self.balancer.address;
        self.pebble.lead(&self.host, front);
        self.pebble.lead(&self.other, front);
        self.home.ask("other", "calm", &[&self.other], "");
        let gateway = self.home.start(address);
        wait_served(&gateway, &self.other);
        gateway
    }

    fn client_goes(&self, to: &Gateway) {
        self.client.go(Some((to.https, &self.other)));
    }

    /// Lets this process die at the next moment.
    fn kill(&mut self, gateway: Gateway) {
        self.victims.send(gateway.process.id()).expect("a rule");
        let killed = self.killed.recv_timeout(PATIENCE);
        let mut gateway = gateway;
        killed.unwrap_or_else(|_| panic!("{:#?}", gateway.process.stderr.all()));
        let ended = gateway.process.wait_end(PATIENCE);
        assert!(ended.is_some(), "it is dead");
        let key = self.home.entry("certs/demo/web-tls", "next.key");
        self.keys.extend(key);
    }

    /// The same process is started again and again.
    fn restarted(mut self) -> Self {
        let address = cluster::address();
        let mut gateway = self.first(address);
        self.home.ask("web", "main", &[&self.host], "");
        for _ in Moment::ALL {
            self.kill(gateway);
            gateway = self.home.start(address);
            self.client_goes(&gateway);
            self.client.shake();
            self.client.go(None);
        }
        self.check(&[&gateway]);
        self
    }

    /// Another process stands by, takes over, and the dead one comes back to stand by.
    fn relieved(mut self) -> Self {
        let addresses = [cluster::address(), cluster::address()];
        let mut leader = self.first(addresses[0]);
        let mut standby = self.home.start(addresses[1]);
        wait_served(&standby, &self.other);
        for _ in Moment::ALL {
            // Whoever stands by is the only one that is certain to answer.
            let place = address(&leader);
            self.balancer.prefers(&[address(&standby), place]);
            self.client_goes(&standby);
            self.home.ask("web", "main", &[&self.host], "");
            let epoch = self.home.epoch();
            self.kill(leader);
            wait::until("the other process leads", || {
                (self.home.epoch() != epoch).then_some(())
            });
            leader = standby;
            standby = self.home.start(place);
        }
        self.client.go(None);
        self.check(&[&leader, &standby]);
        self
    }

    /// One certificate, for the one key, by one finalize, served by everyone; nothing is left.
    fn check(&mut self, gateways: &[&Gateway]) {
        // From now on everything passes.
        self.victims = mpsc::channel().0;
        for gateway in gateways {
            wait_served(gateway, &self.host);
        }
        wait::until("the record is at rest", || {
            (self.home.phase("web-tls") == "Valid").then_some(())
        });
        assert_eq!(self.home.published(), 0, "no challenge is left");
        self.keys
            .extend(self.home.entry("certs/demo/web-tls", "current.key"));
        assert_eq!(self.keys.len(), 1, "one key");
        let journal = self.proxy.journal();
        let answered = journal.iter().filter(|seen| seen.status == 200);
        let finalized = answered.filter(|seen| seen.endpoint == Endpoint::Finalize);
        assert_eq!(finalized.count(), 1, "one finalize");
        let accounts: BTreeSet<&str> = journal
            .iter()
            .map(|seen| seen.account.as_str())
            .filter(|account| !account.is_empty())
            .collect();
        assert_eq!(accounts.len(), 1, "one account");
    }
}

/// A validation that begins while nobody lives to answer it fails: there, the request is lost.
fn side_of(after: bool, relieved: bool) -> impl Fn(Moment) -> Side {
    move |moment| match moment {
        Moment::Challenge if !relieved => Side::Before,
        _ if after => Side::After,
        _ => Side::Before,
    }
}

#[test]
fn the_program_is_killed_at_every_request_twenty_times_and_nobody_notices() {
    alone(|| {
        let pebble = Pebble::start();
        let over = AtomicBool::new(false);
        let lanes: Vec<(Lane<'_>, bool)> = (0..TIMES)
            .map(|number| {
                let (after, relieved) = (number % 2 == 0, number % 4 < 2);
                let lane = Lane::new(&pebble, number, side_of(after, relieved));
                (lane, relieved)
            })
            .collect();
        let clients: Vec<Client> = lanes.iter().map(|(lane, _)| lane.client.clone()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    clients.iter().for_each(Client::shake);
                    wait::holds(Duration::from_millis(20), || true);
                }
            });
            let running: Vec<_> = lanes
                .into_iter()
                .map(|(lane, relieved)| {
                    scope.spawn(move || {
                        if relieved {
                            lane.relieved();
                        } else {
                            lane.restarted();
                        }
                    })
                })
                .collect();
            let ends: Vec<_> = running.into_iter().map(ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            assert!(ends.iter().all(Result::is_ok), "a lane failed, see above");
        });
        let mut handshakes = 0;
        for client in clients {
            let (count, failures) = client.seen.lock().expect("what was seen").clone();
            assert_eq!(failures, Vec::<String>::new());
            handshakes += count;
        }
        let kills = TIMES * Moment::ALL.len();
        println!("{kills} kills, {handshakes} handshakes of other clients, none failed");
        assert!(handshakes > kills, "somebody looked");
        assert_eq!(pebble.issued().len(), 2 * TIMES, "no certificate too many");
    });
}

/// Crashes at each moment.
const TIMES: usize = 20;
