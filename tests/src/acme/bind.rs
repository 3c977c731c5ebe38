//! BIND as the authoritative server of zones that take signed updates (RFC 2136, RFC 8945).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::daemon::Daemon;
use crate::kubernetes::cluster;
use crate::manifests::Scratch;
use crate::namespace;

/// A zone of a server.
pub struct Zone<'a> {
    /// Its name, without the final dot.
    pub name: &'a str,
    /// Addresses of its name servers, `ns0` and so on; this server is not one of them by itself.
    pub servers: Vec<Ipv4Addr>,
    /// More records, in the form of a zone file.
    pub records: &'a str,
}

/// A running server.
pub struct Bind {
    daemon: Daemon,
    address: Ipv4Addr,
    scratch: Scratch,
}

impl Bind {
    /// Name of the key that may change TXT records of every zone.
    pub const KEY: &'static str = "gatehouse";
    /// Its secret, in base64: for HMAC-SHA-256.
    pub const SECRET: &'static str = "Z2F0ZWhvdXNlLXRlc3RzLWFuZC1ub3RoaW5nLWVsc2U=";

    /// The primary server of these zones, at this address.
    pub fn primary(address: Ipv4Addr, zones: &[Zone<'_>]) -> Self {
        let scratch = Scratch::new();
        let mut text = String::new();
        for Zone {
            name,
            servers,
            records,
        } in zones
        {
            let file = scratch.file(&format!("{name}.zone"));
            scratch.write(&format!("{name}.zone"), zone_file(servers, records));
            text.push_str(&format!(
                "zone \"{name}\" {{ type primary; file \"{}\"; allow-transfer {{ any; }};\n\
                 update-policy {{ grant {} zonesub TXT; }}; }};\n",
                file.display(),
                Self::KEY
            ));
        }
        Self::start(address, scratch, &text)
    }

    /// A server that copies a zone of `primary` every few seconds and is never told to.
    pub fn late(address: Ipv4Addr, primary: Ipv4Addr, zone: &str) -> Self {
        let text = format!(
            "zone \"{zone}\" {{ type secondary; primaries {{ {primary}; }};\n\
             min-refresh-time 3; max-refresh-time 3; }};\n"
        );
        Self::start(address, Scratch::new(), &text)
    }

    fn start(address: Ipv4Addr, scratch: Scratch, zones: &str) -> Self {
        // BIND listens on addresses that an interface has; that the whole prefix is ours it ignores.
        namespace::add_addresses([address.to_string()]);
        let folder = scratch.path().display();
        // A root of its own: it follows CNAMEs between its zones, and asks nobody about the rest.
        let root = scratch.file("root.zone");
        scratch.write("root.zone", zone_file(&[address], ""));
        scratch.write(
            "named.conf",
            format!(
                "options {{ directory \"{folder}\"; pid-file none; session-keyfile \"{folder}/session.key\";\n\
                 listen-on port 53 {{ {address}; }}; listen-on-v6 {{ none; }};\n\
                 recursion yes; allow-recursion {{ any; }}; dnssec-validation no; notify no; query-source address {address};\n\
                 transfer-source {address}; }};\n\
                 controls {{ }};\n\
                 key \"{}\" {{ algorithm hmac-sha256; secret \"{}\"; }};\n\
                 zone \".\" {{ type primary; file \"{}\"; }};\n{zones}",
                Self::KEY,
                Self::SECRET,
                root.display()
            ),
        );
        let config = scratch.file("named.conf").display().to_string();
        let mut daemon = Daemon::start(
            program(),
            &scratch.file("named.log"),
            ["-g", "-4", "-n", "1", "-c", &config]
                .map(str::to_owned)
                .to_vec(),
        );
        let log = scratch.file("named.log");
        daemon.wait_ready(|| {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("all zones loaded"))
        });
        Self {
            daemon,
            address,
            scratch,
        }
    }

    /// An address for a server that does not run yet, so that zones can name it.
    pub fn address() -> Ipv4Addr {
        cluster::address()
    }

    /// Where it answers, over UDP and TCP.
    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), 53)
    }

    /// Everything it printed, updates included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.file("named.log")).unwrap_or_default()
    }

    /// Stops it without closing anything.
    pub fn pause(&self) {
        self.daemon.signal("STOP");
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.daemon.signal("CONT");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }
}

/// Records live for a second only, so that nobody waits for a cache.
fn zone_file(servers: &[Ipv4Addr], records: &str) -> String {
    let mut text = String::from("$TTL 1\n@ SOA ns0 hostmaster 1 3 1 60 1\n");
    for (index, server) in servers.iter().enumerate() {
        text.push_str(&format!("@ NS ns{index}\nns{index} A {server}\n"));
    }
    text.push_str(records);
    text.push('\n');
    text
}

fn program() -> PathBuf {
    let path = PathBuf::from("/usr/sbin/named");
    assert!(
        path.is_file(),
        "BIND is missing: run scripts/test-setup acme, which installs it"
    );
    path
}
