//! Answers to certificate authorities that check whether a host is ours (RFC 8555, section 8.3, and
//! RFC 8737): the board of challenges that every worker reads.
//!
//! Invariants:
//! - The board has a swap of its own beside the snapshot: a challenge compiles nothing, and it can
//!   be read by every worker as soon as [`Challenges::publish`] has returned.
//! - A request that is not for a challenge costs one comparison of its path.
//! - A path that somebody has written out to its token belongs to its route: another solver in
//!   the cluster goes on working. No shorter path of a user hides a challenge.
//! - Only what is on the board is answered; a token is checked before it is echoed.
//! - `explain` asks [`Board::http`], as requests do.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::Method;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::metrics::ChallengeAnswer;
use crate::model::{ChallengePlan, HandshakePlan, Identifier, ServerId, Thumbprint};
use crate::table::Snapshot;
use crate::tls::canonical_name;

/// The protocol of a TLS-ALPN-01 validation.
pub const ALPN: &[u8] = b"acme-tls/1";

/// The token that a request asks for, if it asks for one. The path is the raw one: an authority
/// has no reason to encode any of it.
pub fn token<'a>(method: &Method, path: &'a str) -> Option<&'a str> {
    let token = path.strip_prefix(PATH)?;
    let asked = matches!(*method, Method::GET | Method::HEAD) && is_token(token);
    asked.then_some(token)
}

fn is_token(text: &str) -> bool {
    (SHORTEST..=LONGEST).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// What is answered now; cheap to clone, every clone is the same board.
#[derive(Clone, Default)]
pub struct Challenges(Arc<Shared>);

#[derive(Default)]
struct Shared {
    board: ArcSwap<Board>,
    /// One writer at a time.
    plan: Mutex<ChallengePlan>,
}

impl Challenges {
    /// Replaces everything. When this returns, every worker answers by it. False when nothing
    /// changed.
    pub fn publish(&self, plan: ChallengePlan) -> bool {
        let mut published = self.0.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if *published == plan {
            return false;
        }
        let board = Board::new(&plan, &self.0.board.load());
        self.0.board.store(Arc::new(board));
        *published = plan;
        true
    }

    /// The board as it is now.
    pub fn load(&self) -> Arc<Board> {
        self.0.board.load_full()
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

/// Everything that is answered at one moment.
#[derive(Default)]
pub struct Board {
    accounts: HashMap<Identifier, Thumbprint>,
    tokens: HashMap<(Identifier, Arc<str>), Thumbprint>,
    /// By server name.
    handshakes: HashMap<Box<str>, Handshake>,
}

struct Handshake {
    digest: [u8; 32],
    certificate: Arc<CertifiedKey>,
}

/// What becomes of a request for a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered with this text.
    Answer(String),
    /// A route is written out to the token: it answers.
    Route,
    /// Nothing is known of it: it goes the way of other requests.
    Unknown,
}

impl Verdict {
    pub(crate) fn counted(&self) -> ChallengeAnswer {
        match self {
            Self::Answer(_) => ChallengeAnswer::HttpAnswered,
            Self::Route => ChallengeAnswer::HttpRoute,
            Self::Unknown => ChallengeAnswer::HttpUnknown,
        }
    }
}

impl Board {
    fn new(plan: &ChallengePlan, old: &Self) -> Self {
        let tokens = plan.tokens.iter().map(|challenge| {
            let key = (challenge.identifier.clone(), Arc::clone(&challenge.token));
            (key, challenge.account.clone())
        });
        let handshakes = plan.handshakes.iter().filter_map(|challenge| {
            let name = challenge.identifier.server_name();
            let kept = old.handshakes.get(&name);
            let kept = kept.filter(|kept| kept.digest == challenge.digest);
            let certificate = match kept {
                Some(kept) => Arc::clone(&kept.certificate),
                None => certificate(challenge)
                    .inspect_err(|error| {
                        tracing::error!(host = %challenge.identifier, %error, "no certificate can be made for a TLS-ALPN-01 challenge");
                    })
                    .ok()?,
            };
            let digest = challenge.digest;
            Some((name, Handshake { digest, certificate }))
        });
        Self {
            accounts: plan.accounts.iter().cloned().collect(),
            tokens: tokens.collect(),
            handshakes: handshakes.collect(),
        }
    }

    /// What becomes of a request for the token of this canonical host.
    pub fn http(&self, snapshot: &Snapshot, server: ServerId, host: &str, token: &str) -> Verdict {
        let Some(text) = self.key_authorization(host, token) else {
            return Verdict::Unknown;
        };
        let path = format!("{PATH}{token}");
        match snapshot.lookup(server, host, &path, &mut ()) {
            Some(route) if *route.key.path.path == *path => Verdict::Route,
            _ => Verdict::Answer(text),
        }
    }

    fn key_authorization(&self, host: &str, token: &str) -> Option<String> {
        if self.tokens.is_empty() && self.accounts.is_empty() {
            return None;
        }
        let key = (Identifier::of_host(host), token.into());
        let account = self.tokens.get(&key).or_else(|| self.accounts.get(&key.0));
        account.map(|Thumbprint(account)| format!("{token}.{account}"))
    }

    /// The certificate that proves a canonical server name.
    pub fn certificate(&self, server_name: &str) -> Option<Arc<CertifiedKey>> {
        let found = self.handshakes.get(server_name)?;
        Some(Arc::clone(&found.certificate))
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("accounts", &self.accounts.len())
            .field("tokens", &self.tokens.len())
            .field("handshakes", &self.handshakes.len())
            .finish()
    }
}

/// The TLS configuration for authorities: nothing but the certificates of the board, and no
/// session that could be resumed.
pub(crate) fn server_config(challenges: Challenges) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(challenges)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Resolver(Challenges);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = canonical_name(hello.server_name()?);
        self.0.load().certificate(&name)
    }
}

#[derive(Debug, thiserror::Error)]
enum Unmade {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Key(#[from] rustls::Error),
}

/// The self-signed certificate of RFC 8737, section 3, with a key that is used for nothing else.
fn certificate(challenge: &HandshakePlan) -> Result<Arc<CertifiedKey>, Unmade> {
    // An address in text form becomes an address among the names (RFC 8738, section 6).
    let mut params = rcgen::CertificateParams::new(vec![challenge.identifier.to_string()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(
        &challenge.digest,
    )];
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signer = aws_lc_rs::sign::any_supported_type(&private)?;
    // Not `from_der`: it refuses a critical extension that it does not know.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signer);
    Ok(Arc::new(certified))
}

const PATH: &str = "/.well-known/acme-challenge/";
/// RFC 8555, section 8.3: at least 128 bits, which are 22 letters; some authorities take less.
const SHORTEST: usize = 16;
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::model::TokenPlan;
    use crate::publish::Publisher;

    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

    fn name(host: &str) -> Identifier {
        Identifier::of_host(host)
    }

    fn handshake(host: &str, digest: u8) -> ChallengePlan {
        ChallengePlan {
            handshakes: vec![HandshakePlan {
                identifier: name(host),
                digest: [digest; 32],
            }],
            ..ChallengePlan::default()
        }
    }

    #[test]
    fn only_a_token_in_its_alphabet_is_one() {
        let path = |token: &str| format!("{PATH}{token}");
        assert_eq!(token(&Method::GET, &path(TOKEN)), Some(TOKEN));
        assert_eq!(token(&Method::HEAD, &path(TOKEN)), Some(TOKEN));
        assert_eq!(token(&Method::POST, &path(TOKEN)), None);
        for bad in [
            "",
            "short",
            "fifteen-letters",
            "sixteen.letters.",
            "with/a/slash/in/it",
            "with%2Fan%2Fescape",
            "umlaut-ä-umlaut-ä",
            &"x".repeat(129),
        ] {
            assert_eq!(token(&Method::GET, &path(bad)), None, "{bad}");
        }
        for other in ["/", "/.well-known/acme-challenge", "/x", TOKEN] {
            assert_eq!(token(&Method::GET, other), None, "{other}");
        }
    }

    #[test]
    fn a_published_token_wins_over_the_account_of_its_host() {
        let account = |text: &str| Thumbprint(text.into());
        let (_publisher, published) = Publisher::new(Metrics::new());
        let challenges = published.challenges();
        let ask = |host, token| {
            let board = challenges.load();
            board.http(&published.load(), ServerId::SHARED, host, token)
        };
        assert_eq!(ask("a.test", TOKEN), Verdict::Unknown);
        let plan = ChallengePlan {
            accounts: vec![
                (name("a.test"), account("old")),
                (name("[::1]"), account("six")),
            ],
            tokens: vec![TokenPlan {
                identifier: name("a.test"),
                token: TOKEN.into(),
                account: account("new"),
            }],
            ..ChallengePlan::default()
        };
        assert!(challenges.publish(plan.clone()));
        assert!(!challenges.publish(plan), "nothing new");
        let answer = |text: &str| Verdict::Answer(text.into());
        assert_eq!(ask("a.test", TOKEN), answer(&format!("{TOKEN}.new")));
        let other = "another-token-of-a-test";
        assert_eq!(ask("a.test", other), answer(&format!("{other}.old")));
        assert_eq!(ask("[0::1]", other), answer(&format!("{other}.six")));
        assert_eq!(ask("b.test", TOKEN), Verdict::Unknown);
        assert!(challenges.publish(ChallengePlan::default()));
        assert_eq!(ask("a.test", TOKEN), Verdict::Unknown);
    }

    #[test]
    fn a_certificate_is_made_once_for_each_digest() {
        let challenges = Challenges::default();
        let made = |host| challenges.load().certificate(host);
        challenges.publish(handshake("a.test", 1));
        let first = made("a.test").unwrap();
        let mut two = handshake("a.test", 1);
        two.handshakes.extend(handshake("192.0.2.1", 1).handshakes);
        challenges.publish(two);
        assert!(Arc::ptr_eq(&first, &made("a.test").unwrap()));
        assert!(made("1.2.0.192.in-addr.arpa").is_some());
        assert!(made("192.0.2.1").is_none());
        challenges.publish(handshake("a.test", 2));
        assert!(!Arc::ptr_eq(&first, &made("a.test").unwrap()));
    }
}
