//! A proxy between a client and Pebble: keeps a journal of every request by endpoint, and plays the
//! rules it is given.
//!
//! It keeps the `Host` of the client, of which Pebble makes its URLs and which it compares with the
//! signed one: so everything after the directory comes here, too. A rule sees requests in the order
//! of their arrival, one at a time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::acme::Pebble;
use crate::raw::{Answer, Client, find};
use crate::tls::Handshake;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The directory.
    Directory,
    /// A fresh nonce.
    Nonce,
    /// Registration.
    NewAccount,
    /// An account.
    Account,
    /// A new order.
    NewOrder,
    /// An order.
    Order,
    /// Finalize: what creates a certificate.
    Finalize,
    /// An authorization.
    Authorization,
    /// A challenge.
    Challenge,
    /// A certificate.
    Certificate,
    /// Another chain of a certificate.
    Alternate,
    /// Revocation.
    Revoke,
    /// Another key for the account.
    KeyChange,
    /// When to renew.
    Renewal,
    /// None of these.
    Other,
}

impl Endpoint {
    fn of(target: &str) -> Self {
        let starts = |prefix| target.starts_with(prefix);
        match target {
            "/dir" => Self::Directory,
            "/nonce-plz" => Self::Nonce,
            "/sign-me-up" => Self::NewAccount,
            "/order-plz" => Self::NewOrder,
            "/revoke-cert" => Self::Revoke,
            "/rollover-account-key" => Self::KeyChange,
            _ if starts("/my-account/") => Self::Account,
            _ if starts("/my-order/") => Self::Order,
            _ if starts("/finalize-order/") => Self::Finalize,
            _ if starts("/authZ/") => Self::Authorization,
            _ if starts("/chalZ/") => Self::Challenge,
            _ if starts("/certZ/") && target.contains("/alternate/") => Self::Alternate,
            _ if starts("/certZ/") => Self::Certificate,
            _ if target.contains("/renewalInfo/") => Self::Renewal,
            _ => Self::Other,
        }
    }
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it was for.
    pub endpoint: Endpoint,
    /// Method.
    pub method: String,
    /// Path.
    pub target: String,
    /// Its fields.
    pub headers: Vec<(String, String)>,
    /// Who signed it: the URL of the account, or nothing.
    pub account: String,
    /// What was signed; null for a read.
    pub payload: Value,
    /// Status of the answer; 0 as long as there is none.
    pub status: u16,
    body: Vec<u8>,
}

/// What a rule makes of a request before the authority sees it.
pub enum Verdict {
    /// Nothing.
    Pass,
    /// This answer, and the authority never learns.
    Answer(Answer),
    /// No answer at all, on a connection that stays open.
    Silence,
}

/// Something the authority does in the tests and not by itself.
pub trait Rule: Send {
    /// Judges a request.
    fn before(&mut self, _: &Seen) -> Verdict {
        Verdict::Pass
    }

    /// Changes an answer of the authority.
    fn after(&mut self, _: &Seen, _: &mut Answer) {}
}

/// A running proxy; it ends with the test process.
pub struct Fault {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Vec<Box<dyn Rule>>>,
    journal: Mutex<Vec<Seen>>,
}

impl Fault {
    /// Starts one in front of this authority, on its address and with its certificate.
    pub fn before(pebble: &Pebble) -> Self {
        let read = |name: &str| std::fs::read(pebble.folder().join(name)).expect("a file");
        let chain = CertificateDer::from_pem_slice(&read("server.crt")).expect("certificate");
        let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);

        let any = SocketAddr::new(pebble.acme().ip(), 0);
        let listener = TcpListener::bind(any).expect("bind the proxy");
        let address = listener.local_addr().expect("address of the proxy");
        let shared = Arc::new(Shared {
            upstream: pebble.acme(),
            rules: Mutex::default(),
            journal: Mutex::default(),
        });
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (state, config) = (Arc::clone(&state), Arc::clone(&config));
                std::thread::spawn(move || serve(&state, config, socket));
            }
        });
        Self { address, shared }
    }

    /// URL of the directory behind it.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Adds a rule; all of them see every request, in the order in which they were added.
    pub fn rule(&self, rule: impl Rule + 'static) {
        self.shared
            .rules
            .lock()
            .expect("rules")
            .push(Box::new(rule));
    }

    /// Removes every rule.
    pub fn heal(&self) {
        self.shared.rules.lock().expect("rules").clear();
    }

    /// Every request so far.
    pub fn journal(&self) -> Vec<Seen> {
        self.shared.journal.lock().expect("journal").clone()
    }

    /// How many requests an endpoint got.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        let seen = self.journal().into_iter();
        seen.filter(|seen| seen.endpoint == endpoint).count()
    }
}

fn serve(shared: &Shared, config: Arc<ServerConfig>, socket: TcpStream) {
    socket.set_nodelay(true).ok();
    let Ok(session) = ServerConnection::new(config) else {
        return;
    };
    let mut client = StreamOwned::new(session, socket);
    let mut upstream = None;
    while let Some(request) = read(&mut client) {
        let Some(answer) = shared.answer(request, &mut upstream) else {
            // Until the client gives up.
            while client.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            return;
        };
        if client.write_all(&bytes(&answer)).is_err() || client.flush().is_err() {
            return;
        }
    }
}

impl Shared {
    fn answer(&self, seen: Seen, upstream: &mut Option<Client>) -> Option<Answer> {
        let at = {
            let mut journal = self.journal.lock().expect("journal");
            journal.push(seen.clone());
            journal.len() - 1
        };
        let verdicts = self
            .rules
            .lock()
            .expect("rules")
            .iter_mut()
            .find_map(|rule| {
                let verdict = rule.before(&seen);
                (!matches!(verdict, Verdict::Pass)).then_some(verdict)
            });
        let mut answer = match verdicts {
            Some(Verdict::Answer(answer)) => answer,
            Some(Verdict::Silence) => return None,
            Some(Verdict::Pass) | None => self.forward(&seen, upstream),
        };
        for rule in self.rules.lock().expect("rules").iter_mut() {
            rule.after(&seen, &mut answer);
        }
        if let Some(kept) = self.journal.lock().expect("journal").get_mut(at) {
            kept.status = answer.status;
        }
        if seen.method == "HEAD" {
            answer.body.clear();
        }
        Some(answer)
    }

    fn forward(&self, seen: &Seen, upstream: &mut Option<Client>) -> Answer {
        let mut request = format!("{} {} HTTP/1.1\r\n", seen.method, seen.target);
        for (name, value) in &seen.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let request = [request.as_bytes(), &seen.body].concat();
        // The connection of the last request may be closed by now; the second try is on a new one.
        for _ in 0..2 {
            if upstream.is_none() {
                let secured = Handshake::new("localhost").connect(self.upstream);
                *upstream = secured.ok().map(|wire| Client::over(Box::new(wire)));
            }
            let Some(client) = upstream else { break };
            client.send(&request);
            if let Ok(answer) = client.answer_to(&seen.method) {
                return answer;
            }
            *upstream = None;
        }
        Answer {
            line: "HTTP/1.1 502 Bad Gateway".into(),
            status: 502,
            ..Answer::default()
        }
    }
}

/// Reads a request; nothing at the end of the connection.
fn read(client: &mut StreamOwned<ServerConnection, TcpStream>) -> Option<Seen> {
    let mut buffer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let mut more = |buffer: &mut Vec<u8>| {
        let count = client.read(&mut chunk).ok().filter(|count| *count > 0)?;
        buffer.extend_from_slice(&chunk[..count]);
        Some(())
    };
    let length = loop {
        if let Some(at) = find(&buffer, b"\r\n\r\n") {
            break at + 4;
        }
        more(&mut buffer)?;
    };
    let head = String::from_utf8_lossy(&buffer[..length - 4]).into_owned();
    let mut body = buffer.split_off(length);
    let mut lines = head.split("\r\n");
    let mut line = lines.next()?.split(' ');
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let size = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    while body.len() < size {
        more(&mut body)?;
    }
    let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
    let signed: Value = serde_json::from_slice(&body).unwrap_or_default();
    let part = |name: &str| {
        let text = signed[name].as_str().unwrap_or_default();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    };
    Some(Seen {
        endpoint: Endpoint::of(&target),
        method,
        target,
        headers,
        account: part("protected")["kid"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        payload: part("payload"),
        status: 0,
        body,
    })
}

/// An answer as it goes over the wire, with a length of its own.
fn bytes(answer: &Answer) -> Vec<u8> {
    let mut head = format!("{}\r\n", answer.line);
    for (name, value) in &answer.headers {
        let framing = ["content-length", "transfer-encoding", "connection"];
        if !framing.contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    [head.as_bytes(), &answer.body].concat()
}
