//! Pebble with `pebble-challtestsrv` as the DNS server it asks. Both forget everything when they end.
//!
//! The oracle of every test is the authority's own word: it prints one line per certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::daemon::{self, Daemon};
use crate::kubernetes::cluster;
use crate::manifests::Scratch;
use crate::pki::Authority;
use crate::raw::{Answer, Client};
use crate::tls::Handshake;

/// Which Pebble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The one that `tests/tools/pebble` pins.
    Current,
    /// 2.4 of the distribution: no renewal information, no profiles.
    Old,
}

/// What differs from [`Pebble::start`].
pub struct Setup {
    /// Which Pebble.
    pub version: Version,
    /// Added to its configuration.
    pub config: Value,
    /// Set in its environment, over our own choice.
    pub environment: Vec<(&'static str, String)>,
    /// The DNS server to ask; its own one unless named.
    pub dns: Option<SocketAddr>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            version: Version::Current,
            config: json!({}),
            environment: Vec::new(),
            dns: None,
        }
    }
}

impl Setup {
    /// Sets a variable of its environment.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }

    /// Accepts every validation without looking.
    pub fn trusting(self) -> Self {
        self.with("PEBBLE_VA_ALWAYS_VALID", 1)
    }
}

/// A running authority.
pub struct Pebble {
    // Dropped in this order.
    authority: Daemon,
    names: Daemon,
    address: Ipv4Addr,
    scratch: Scratch,
}

impl Pebble {
    /// Where challenges are looked for: not the usual ports, so that no test needs a privilege.
    pub const HTTP: u16 = 5002;
    /// The same over TLS.
    pub const TLS: u16 = 5001;

    const ACME: u16 = 14000;
    const MANAGEMENT: u16 = 15000;
    const DNS: u16 = 8053;
    const NAMES: u16 = 8055;

    /// No pauses, no refused nonces, no authorization used twice: what a test wants of these, it
    /// says.
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// The same, and something else.
    pub fn start_with(setup: Setup) -> Self {
        let scratch = Scratch::new();
        let address = cluster::address();
        Authority::new(&scratch).server(&scratch, "pebble", &[address.into()], &["localhost"]);
        scratch.write("pebble.json", config(&scratch, address, &setup).to_string());

        let at = |port| SocketAddr::new(address.into(), port);
        let names = Daemon::start(
            tool("pebble-challtestsrv"),
            &scratch.file("names.log"),
            [
                ["-dnsserver", &at(Self::DNS).to_string()],
                ["-management", &at(Self::NAMES).to_string()],
                ["-defaultIPv4", &address.to_string()],
                ["-defaultIPv6", ""],
                ["-http01", ""],
                ["-https01", ""],
                ["-tlsalpn01", ""],
                ["-doh", ""],
            ]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        );
        let program = match setup.version {
            Version::Current => tool("pebble"),
            Version::Old => PathBuf::from("/usr/bin/pebble"),
        };
        let dns = setup.dns.unwrap_or(at(Self::DNS));
        let config = scratch.file("pebble.json").display().to_string();
        let authority = Daemon::start_with(
            program,
            &scratch.file("pebble.log"),
            ["-config", &config, "-dnsserver", &dns.to_string()]
                .map(str::to_owned)
                .to_vec(),
            environment(&setup),
        );
        let mut pebble = Self {
            authority,
            names,
            address,
            scratch,
        };
        pebble.wait_ready();
        pebble
    }

    fn wait_ready(&mut self) {
        let names = self.at(Self::NAMES);
        self.names
            .wait_ready(|| std::net::TcpStream::connect(names).is_ok());
        let address = self.at(Self::ACME);
        self.authority.wait_ready(|| {
            ask(address, "GET", "/dir", "").is_some_and(|answer| answer.status == 200)
        });
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// Its address; every name that was not set leads there.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where it speaks ACME.
    pub fn acme(&self) -> SocketAddr {
        self.at(Self::ACME)
    }

    /// The DNS server it asks unless told otherwise.
    pub fn dns(&self) -> SocketAddr {
        self.at(Self::DNS)
    }

    /// URL of the directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.acme())
    }

    /// What a client must trust to talk to it, as PEM.
    pub fn bundle(&self) -> String {
        std::fs::read_to_string(self.scratch.file("ca.crt")).expect("certificate of the authority")
    }

    /// Folder of its files: `ca.crt`, `server.crt|key`, its logs.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Serials of the certificates it issued, in order.
    pub fn issued(&self) -> Vec<String> {
        const MARK: &str = "Issued certificate serial ";
        self.log()
            .lines()
            .filter_map(|line| {
                let (_, rest) = line.split_once(MARK)?;
                rest.split(' ').next().map(str::to_owned)
            })
            .collect()
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.file("pebble.log")).unwrap_or_default()
    }

    /// The root of chain number `index`, as PEM.
    pub fn root(&self, index: usize) -> String {
        self.management("GET", &format!("/roots/{index}"), "")
            .text()
    }

    /// What it says about the state of a certificate.
    pub fn status_of(&self, serial: &str) -> Value {
        self.management("GET", &format!("/cert-status-by-serial/{serial}"), "")
            .json()
    }

    /// Sets what is answered about the renewal of a certificate: any text, sense or nonsense.
    pub fn set_renewal(&self, certificate: &str, answer: &str) {
        let body = json!({"Certificate": certificate, "ARIResponse": answer});
        let set = self.management("POST", "/set-renewal-info/", &body.to_string());
        assert_eq!(set.status, 200, "{}", set.text());
    }

    fn management(&self, method: &str, target: &str, body: &str) -> Answer {
        ask(self.at(Self::MANAGEMENT), method, target, body).expect("an answer of Pebble")
    }

    /// Leads a name to one address.
    pub fn lead(&self, name: &str, address: Ipv4Addr) {
        // What is added comes behind what is there, and the first one is asked.
        self.name("clear-a", &json!({"host": name}));
        self.name("add-a", &json!({"host": name, "addresses": [address]}));
    }

    /// A call of the DNS server's management interface, such as `set-txt`.
    pub fn name(&self, call: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let mut client = Client::plain(self.at(Self::NAMES));
        client.send(request(
            self.at(Self::NAMES),
            "POST",
            &format!("/{call}"),
            &body,
        ));
        let answer = client.answer().expect("an answer of the DNS server");
        assert_eq!(answer.status, 200, "{call}: {}", answer.text());
        answer
    }

    /// Stops it without closing anything: it accepts and never answers.
    pub fn pause(&self) {
        self.authority.signal("STOP");
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.authority.signal("CONT");
    }

    /// Kills it: connections are refused.
    pub fn kill(&mut self) {
        self.authority.kill();
    }

    /// Starts it again, with new roots and without any account, order or certificate.
    pub fn restart(&mut self) {
        self.authority.kill();
        self.authority.restart();
        self.wait_ready();
    }
}

/// A tool of the ACME tests; `GATEHOUSE_ACME_TOOLS` names another folder.
fn tool(name: &str) -> PathBuf {
    daemon::tool("acme", "GATEHOUSE_ACME_TOOLS", name)
}

fn config(scratch: &Scratch, address: Ipv4Addr, setup: &Setup) -> Value {
    let mut config = json!({
        "listenAddress": format!("{address}:{}", Pebble::ACME),
        "managementListenAddress": format!("{address}:{}", Pebble::MANAGEMENT),
        "certificate": scratch.file("server.crt"),
        "privateKey": scratch.file("server.key"),
        "httpPort": Pebble::HTTP,
        "tlsPort": Pebble::TLS,
        "domainBlocklist": ["blocked-domain.example"],
        "retryAfter": {"authz": 1, "order": 1},
    });
    if setup.version == Version::Current {
        config["keyAlgorithm"] = json!("ecdsa");
        config["profiles"] = json!({
            "classic": {"description": "90 days", "validityPeriod": 7_776_000},
            "shortlived": {"description": "6 days", "validityPeriod": 518_400},
        });
    }
    if let Value::Object(more) = &setup.config {
        for (key, value) in more {
            config[key] = value.clone();
        }
    }
    json!({"pebble": config})
}

fn environment(setup: &Setup) -> Vec<(String, String)> {
    let ours = [
        ("PEBBLE_VA_NOSLEEP", "1"),
        ("PEBBLE_WFE_NONCEREJECT", "0"),
        ("PEBBLE_AUTHZREUSE", "0"),
    ];
    let ours = ours.map(|(name, value)| (name, value.to_owned()));
    ours.into_iter()
        .chain(setup.environment.iter().cloned())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn request(at: SocketAddr, method: &str, target: &str, body: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: gatehouse-tests\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One request over TLS; nothing when nobody answers.
fn ask(at: SocketAddr, method: &str, target: &str, body: &str) -> Option<Answer> {
    let mut client = Client::over(Box::new(Handshake::new("localhost").connect(at).ok()?));
    client.send(request(at, method, target, body));
    client.answer().ok()
}
