//! A customer of an authority: an account, and the steps from an order to a certificate, so that a
//! test can do them one by one or all at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use gatehouse_acme::ca::{
    self, Account, AccountKey, Authorization, Ca, Chain, ChallengeKind, Endpoint, Exchange,
    NewOrder, Order, OrderStatus, Refusal, Registration,
};
use gatehouse_acme::names::Name;
use gatehouse_tests::acme::Pebble;
use gatehouse_tests::backend::{self, Backend, Step};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

/// Steps that a test lets pass before it takes an order for stuck.
const PATIENCE: usize = 400;

pub(crate) struct Customer {
    pub(crate) ca: Arc<dyn Ca>,
    pub(crate) account: Account,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

/// Speaks to a directory that this authority's certificate is good for.
pub(crate) fn connect(
    pebble: &Pebble,
    directory: &str,
) -> (Arc<dyn Ca>, Arc<Mutex<Vec<Exchange>>>) {
    let exchanges = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&exchanges);
    let endpoint = Endpoint {
        directory: directory.to_owned(),
        roots: Some(pebble.bundle()),
    };
    let observer = move |exchange: &Exchange| sink.lock().expect("sink").push(exchange.clone());
    let ca = ca::connect(&endpoint, Arc::new(observer)).expect("an authority");
    (ca, exchanges)
}

/// A registration with nothing but a key.
pub(crate) fn registration(key: &AccountKey) -> Registration {
    Registration {
        key: key.clone(),
        contact: vec!["mailto:ops@example.org".to_owned()],
        terms_agreed: true,
        external: None,
        existing: false,
    }
}

/// DNS names as an order wants them.
pub(crate) fn names(texts: &[&str]) -> NewOrder {
    let name = |text: &&str| Name::parse(text).expect("a name");
    NewOrder {
        names: texts.iter().map(name).collect(),
        profile: None,
        replaces: None,
    }
}

/// A key in DER and the request for these names.
pub(crate) fn request(key: &KeyPair, texts: &[&str]) -> Vec<u8> {
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(texts).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(key)
        .expect("a request")
        .der()
        .to_vec()
}

impl Customer {
    /// Registers a new key.
    pub(crate) async fn new(pebble: &Pebble, directory: &str) -> Self {
        let (ca, exchanges) = connect(pebble, directory);
        let key = AccountKey::generate().expect("a key");
        let account = ca.register(&registration(&key)).await.expect("an account");
        Self {
            ca,
            account,
            exchanges,
        }
    }

    /// Answers HTTP-01 for every name that leads to the authority's own address.
    pub(crate) fn answers_http(&self, pebble: &Pebble) -> Backend {
        let at = SocketAddr::new(IpAddr::V4(pebble.address()), Pebble::HTTP);
        let key = self.account.key.clone();
        Backend::at(at, move |request| {
            let token = request.target().rsplit('/').next().unwrap_or_default();
            backend::ok(&key.authorization(token))
                .into_iter()
                .chain([Step::Close])
                .collect()
        })
    }

    /// Every request so far.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect("sink").clone()
    }

    /// A new order that the authority takes.
    pub(crate) async fn ordered(&self, order: &NewOrder) -> Order {
        let made = self.ca.new_order(&self.account, order).await;
        made.expect("an order")
    }

    /// Orders and answers every HTTP-01 challenge; the order as it is then.
    pub(crate) async fn order(&self, order: &NewOrder) -> Result<Order, Refusal> {
        let order = self.ca.new_order(&self.account, order).await?;
        let read = self.ca.authorizations(&self.account, &order.url).await?;
        let wanted = challenges(&read, ChallengeKind::Http01);
        self.ca.answer(&self.account, &order.url, &wanted).await?;
        Ok(order)
    }

    /// Reads the order until it is in this state, or in one that it never leaves.
    pub(crate) async fn until(&self, url: &str, status: OrderStatus) -> Result<Order, Refusal> {
        for _ in 0..PATIENCE {
            let order = self.ca.order(&self.account, url).await?;
            if order.status == status || order.status == OrderStatus::Invalid {
                return Ok(order);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{url} never became {status:?}");
    }

    /// From the order to the certificate, for a key of P-256.
    pub(crate) async fn issue(&self, order: &NewOrder) -> Result<Chain, Refusal> {
        let key = KeyPair::generate().expect("a key");
        self.issue_for(order, &key).await
    }

    /// The same for a given key.
    pub(crate) async fn issue_for(
        &self,
        order: &NewOrder,
        key: &KeyPair,
    ) -> Result<Chain, Refusal> {
        let texts: Vec<String> = order.names.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let url = self.order(order).await?.url;
        let ready = self.until(&url, OrderStatus::Ready).await?;
        assert_eq!(ready.status, OrderStatus::Ready, "{ready:?}");
        let csr = request(key, &texts);
        self.ca.finalize(&self.account, &url, &csr).await?;
        let valid = self.until(&url, OrderStatus::Valid).await?;
        assert_eq!(valid.status, OrderStatus::Valid, "{valid:?}");
        self.ca.certificate(&self.account, &url).await
    }
}

/// URLs of the challenges of a type.
pub(crate) fn challenges(read: &[Authorization], kind: ChallengeKind) -> Vec<String> {
    let all = read
        .iter()
        .flat_map(|authorization| &authorization.challenges);
    let wanted = all.filter(|challenge| challenge.kind == kind);
    wanted.map(|challenge| challenge.url.clone()).collect()
}

/// Runs a test on a real authority, in the namespace.
pub(crate) fn with<F: AsyncFnOnce()>(test: F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test());
}
