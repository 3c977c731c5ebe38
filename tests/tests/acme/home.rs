//! What a process on its own has beside each other: manifests, issuers, secrets and a vault.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatehouse_tests::acme::Pebble;
use gatehouse_tests::acme::keys::Keys;
use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::{Gateway, Process};
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;

/// The folder of one installation; several processes may run on it.
pub(crate) struct Home {
    pub(crate) scratch: Scratch,
    pub(crate) backend: Backend,
}

/// YAML of one issuer at this directory, with more fields.
pub(crate) fn issuer(name: &str, directory: &str, more: &str) -> String {
    format!(
        "    {name}:\n      directory: {directory}\n      acceptTerms: true\n      \
         caBundle: authority\n      allow: [{{hosts: ['*.example.test', '10.99.0.0/16']}}]\n{more}"
    )
}

impl Home {
    /// One issuer `main` at the authority itself; `more` are further lines of it.
    pub(crate) fn new(pebble: &Pebble, more: &str) -> Self {
        Self::with(pebble, &[issuer("main", &pebble.directory(), more)])
    }

    /// These issuers, all of which this authority's own certificate is good for.
    pub(crate) fn with(pebble: &Pebble, issuers: &[String]) -> Self {
        let home = Self {
            scratch: Scratch::new(),
            backend: Backend::plain(),
        };
        std::fs::create_dir_all(home.scratch.file("manifests")).expect("a folder");
        home.secret("authority", "ca.crt", &pebble.bundle());
        let text = format!("acme:\n  issuers:\n{}", issuers.concat());
        home.scratch.write("issuers.yaml", text);
        let text = manifests::class() + &manifests::service("app", &[home.backend.address]);
        home.scratch.write("manifests/app.yaml", text);
        home
    }

    /// Writes other issuers, as an editor does.
    pub(crate) fn issuers(&self, issuers: &[String]) {
        let text = format!("acme:\n  issuers:\n{}", issuers.concat());
        self.scratch.replace("issuers.yaml", text);
    }

    /// Searches what the gateway printed and serves for keys of the vault.
    pub(crate) fn keeps_quiet(&self, gateway: &Gateway) {
        let keys = Keys::of(&self.vault());
        let lines = [gateway.process.stderr.all(), gateway.process.stdout.all()].concat();
        keys.assert_not_in("the log", &lines.join("\n"));
        for page in [
            "/api/snapshot",
            "/api/diagnostics",
            "/api/certificates",
            "/metrics",
        ] {
            keys.assert_not_in(page, &gateway.admin_get(page).1);
        }
    }

    /// Writes an entry of a secret that issuers name.
    pub(crate) fn secret(&self, name: &str, entry: &str, value: &str) {
        std::fs::create_dir_all(self.scratch.file(&format!("secrets/{name}"))).expect("a folder");
        self.scratch
            .write(&format!("secrets/{name}/{entry}"), value);
    }

    /// An Ingress with a catch-all and a redirect to https that asks for a certificate.
    pub(crate) fn want(&self, host: &str) {
        self.ask("web", "main", &[host], "");
    }

    /// The same in the Ingress `name` for several hosts, in the Secret `name-tls`; more annotations
    /// begin with a comma.
    pub(crate) fn ask(&self, name: &str, issuer: &str, hosts: &[&str], more: &str) {
        let quoted: Vec<String> = hosts.iter().map(|host| format!("'{host}'")).collect();
        let tls = format!(
            "  tls: [{{hosts: [{}], secretName: {name}-tls}}]\n",
            quoted.join(", ")
        );
        // Rules are for names; an address alone has every host.
        let mut names = hosts.iter().filter(|host| host.parse::<IpAddr>().is_err());
        let host = names.next().copied().unwrap_or_default();
        let text = manifests::ingress_with(name, host, &tls, &[("/", "Prefix", "app")]);
        let annotated =
            format!("namespace: demo, annotations: {{gatehouse.dev/issuer: {issuer}{more}}}");
        let text = text.replace("namespace: demo", &annotated);
        let manifests = self.scratch.file("manifests");
        let aside = manifests.join(format!(".{name}.new"));
        std::fs::write(&aside, text).expect("written");
        std::fs::rename(&aside, manifests.join(format!("{name}.yaml"))).expect("renamed");
    }

    /// A process where this authority looks: at this address, at its ports.
    pub(crate) fn start(&self, address: Ipv4Addr) -> Gateway {
        self.start_under(&[], address, &[])
    }

    /// The same with variables in its environment and more flags.
    pub(crate) fn start_under(
        &self,
        variables: &[(&str, &Path)],
        address: Ipv4Addr,
        more: &[&str],
    ) -> Gateway {
        let flags = [
            format!("--http-listen={address}:{}", Pebble::HTTP),
            format!("--https-listen={address}:{}", Pebble::TLS),
        ];
        let flags: Vec<String> = self.flags().into_iter().chain(flags).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let flags = [&flags, more].concat();
        Gateway::start_under(variables, &self.scratch.file("manifests"), &flags)
    }

    fn flags(&self) -> [String; 2] {
        let path = |name: &str| self.scratch.file(name).display().to_string();
        [
            format!("--acme={}", path("issuers.yaml")),
            format!("--certs={}", path("vault")),
        ]
    }

    /// A process that may never get ready, on any ports.
    pub(crate) fn process_under(&self, variables: &[(&str, &Path)]) -> Process {
        let manifests = self.scratch.file("manifests").display().to_string();
        let listen = ["http", "https", "admin"];
        let listen = listen.map(|name| format!("--{name}-listen=127.0.0.1:0"));
        let head = ["run".to_owned(), format!("--dir={manifests}")];
        let flags = head.into_iter().chain(self.flags()).chain(listen);
        Process::start_under(variables, flags)
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.scratch.file("vault")
    }

    /// An entry of an object in the vault, as the file has it.
    pub(crate) fn entry(&self, object: &str, entry: &str) -> Option<String> {
        let folder = self.vault().join(object);
        // Between two renames, and after a death there, the version before is the newest one.
        let text = std::fs::read(folder.join("record"))
            .or_else(|_| std::fs::read(folder.join("record.old")))
            .ok()?;
        let sheet: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let files = sheet["files"].as_array()?.iter();
        let mut found = files.filter(|file| file[0] == entry);
        found.next()?[1].as_str().map(str::to_owned)
    }

    /// The phase that the record of a certificate is in.
    pub(crate) fn phase(&self, secret: &str) -> String {
        let state = self.entry(&format!("certs/demo/{secret}"), "state.json");
        let state: serde_json::Value =
            serde_json::from_str(&state.unwrap_or_default()).unwrap_or_default();
        state["phase"].as_str().unwrap_or_default().to_owned()
    }

    /// How many challenges are on the board.
    pub(crate) fn published(&self) -> usize {
        let board = self.entry("board", "board.json").unwrap_or_default();
        let board: serde_json::Value = serde_json::from_str(&board).unwrap_or_default();
        board["entries"].as_array().map_or(0, Vec::len)
    }

    /// How often somebody took the lead.
    pub(crate) fn epoch(&self) -> String {
        std::fs::read_to_string(self.vault().join("epoch")).unwrap_or_default()
    }
}

/// Whether a certificate for exactly this name is served.
pub(crate) fn serves(gateway: &Gateway, host: &str) -> bool {
    let shown = Handshake::new(host).connect(gateway.https);
    shown.is_ok_and(|secured| secured.names() == [host])
}

/// How many challenges of a type a gateway has answered.
pub(crate) fn answered(gateway: &Gateway, kind: &str) -> u64 {
    let (_, metrics) = gateway.admin_get("/metrics");
    let series =
        format!("gatehouse_acme_challenge_answers_total{{type=\"{kind}\",result=\"answered\"}} ");
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(&series));
    value.expect("a series").parse().expect("a number")
}

/// Waits until a certificate for exactly this name is served.
pub(crate) fn wait_served(gateway: &Gateway, host: &str) {
    let found = wait::within(PATIENCE, || serves(gateway, host).then_some(()));
    assert!(
        found.is_some(),
        "{host} is not served: {}\n{:#?}",
        gateway.diagnostics(),
        gateway.process.stderr.all()
    );
}

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);

/// The address of a gateway, for DNS.
pub(crate) fn address(gateway: &Gateway) -> Ipv4Addr {
    match gateway.https.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is no address of these tests"),
    }
}
