//! Certificates by ACME in a cluster: a real API server, a real authority, and replicas that it comes
//! to. Cases are numbered as in the test plan of the certificate manager.

mod asking;
mod cert_manager;
mod documented;
mod issuing;
mod leaders;
mod moving;
mod rights;
mod targets;
mod tenants;

use std::net::Ipv4Addr;

use gatehouse_tests::acme::fault::{Fault, Seen};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::backend::Backend;
use gatehouse_tests::gateway::Gateway;
use gatehouse_tests::kubernetes::{ApiServer, Space, cluster, leak};
use gatehouse_tests::manifests::{self, Scratch};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::wait;
use serde_json::Value;

/// Lines of an issuer that may issue what the tests ask for.
pub(super) const ALLOW: &str = "      allow: [{hosts: ['*.example.test']}]\n";

/// An installation in a namespace of its own for the Ingresses of another, and its authority.
pub(super) struct Stand<'a> {
    pub(super) space: Space<'a>,
    pub(super) pebble: Pebble,
    pub(super) authority: Fault,
    /// Namespace of the installation.
    pub(super) own: String,
    scratch: Scratch,
    _backend: Backend,
}

impl<'a> Stand<'a> {
    pub(super) fn new(server: &'a ApiServer, name: &str) -> Self {
        Self::with(server, name, Setup::default(), ALLOW)
    }

    /// `issuer` are further lines of the issuer `main`.
    pub(super) fn with(server: &'a ApiServer, name: &str, setup: Setup, issuer: &str) -> Self {
        let space = Space::new(server, name);
        let own = format!("{name}-own");
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {own}}}}}");
        space.kubectl().apply(&namespace);
        let pebble = Pebble::start_with(setup);
        let authority = Fault::before(&pebble);
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.file("secrets/authority")).expect("a folder");
        scratch.write("secrets/authority/ca.crt", pebble.bundle());
        let issuers = format!(
            "acme:\n  issuers:\n    main:\n      directory: {}\n      acceptTerms: true\n      \
             caBundle: authority\n      limits: {{ordersPerMinute: 1000, ordersPerThreeHours: 1000, \
             renewalsPerMinute: 1000}}\n{issuer}",
            authority.directory()
        );
        scratch.write("issuers.yaml", issuers);
        let backend = space.backend("app");
        Self {
            space,
            pebble,
            authority,
            own,
            scratch,
            _backend: backend,
        }
    }

    /// An Ingress that asks for a certificate in a Secret of its name.
    pub(super) fn want(&self, name: &str, host: &str) {
        self.space.apply(&wish(name, host));
    }

    /// A replica where the authority looks unless a name was led elsewhere.
    pub(super) fn replica(&self) -> Gateway {
        self.replica_at(self.pebble.address(), &[])
    }

    /// One more replica, at an address of its own.
    pub(super) fn another(&self, extra: &[&str]) -> Replica {
        let address = cluster::address();
        Replica {
            gateway: self.replica_at(address, extra),
            address,
        }
    }

    pub(super) fn replica_at(&self, address: Ipv4Addr, extra: &[&str]) -> Gateway {
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (plain, tls) = (
            format!("{address}:{}", Pebble::HTTP),
            format!("{address}:{}", Pebble::TLS),
        );
        let listen = [plain.as_str(), &tls, "127.0.0.1:0"];
        self.space.gateway_at(listen, &[&flags, extra].concat())
    }

    /// What every replica is started with.
    pub(super) fn flags(&self) -> Vec<String> {
        vec![
            format!("--acme={}", self.scratch.file("issuers.yaml").display()),
            format!("--pod-namespace={}", self.own),
        ]
    }

    /// A Secret of the user, if it is there.
    pub(super) fn secret(&self, name: &str) -> Option<Value> {
        self.look(&self.space.name, &format!("secret/{name}"))
    }

    /// An object, if it is there.
    pub(super) fn look(&self, namespace: &str, object: &str) -> Option<Value> {
        let flags = [
            "-n",
            namespace,
            "get",
            object,
            "-o",
            "json",
            "--ignore-not-found",
        ];
        let text = self.space.kubectl().run(&flags).success();
        serde_json::from_str(&text).ok()
    }

    /// Waits until the Secret holds a certificate.
    pub(super) fn wait_secret(&self, name: &str) -> Value {
        wait::until("the Secret is written", || {
            self.secret(name).filter(holds_certificate)
        })
    }

    /// Requests to the authority so far.
    pub(super) fn journal(&self) -> Vec<Seen> {
        self.authority.journal()
    }
}

impl Drop for Stand<'_> {
    /// Whatever the test was about: nothing but a Secret holds a private key.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let found = leak(&self.space.kubectl(), &[&self.space.name, &self.own]);
            assert_eq!(found, None);
        }
    }
}

/// A replica and its address.
pub(super) struct Replica {
    pub(super) gateway: Gateway,
    pub(super) address: Ipv4Addr,
}

/// An Ingress with a redirect to https and a catch-all that asks for a certificate.
pub(super) fn wish(name: &str, host: &str) -> String {
    let tls = manifests::tls(host, name);
    let text = manifests::ingress_with(name, host, &tls, &[("/", "Prefix", "app")]);
    let annotated = "namespace: demo, annotations: {gatehouse.dev/issuer: main}";
    text.replacen("namespace: demo", annotated, 1)
}

pub(super) fn holds_certificate(secret: &Value) -> bool {
    let entry = |name: &str| {
        secret["data"][name]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    };
    entry("tls.crt") && entry("tls.key")
}

/// Whether a certificate for exactly this name is served.
pub(super) fn serves(gateway: &Gateway, host: &str) -> bool {
    let shown = Handshake::new(host).connect(gateway.https);
    shown.is_ok_and(|secured| secured.names() == [host])
}

pub(super) fn wait_serves(gateway: &Gateway, host: &str) {
    wait::until("the certificate is served", || {
        serves(gateway, host).then_some(())
    });
}
