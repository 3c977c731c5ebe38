//! [`Ca`] over HTTP: each call one step of RFC 8555.
//!
//! Invariants:
//! - What an order told us, its authorizations and where it is finalized, is remembered by its URL to
//!   save a read, within a bound; forgotten, it is read again.
//! - A challenge is touched only while it is pending.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, Observer, location};
use super::jws::{self, Signer};
use super::reply::{links, parsed, refusal, retry_after};
use super::wire::{LONGEST_URL, WireAccount, WireAuthorization, WireOrder, WireRenewal};
use super::{
    Account, AccountKey, Authorization, AuthorizationStatus, Ca, Cause, Chain, Directory, Endpoint,
    NewOrder, Order, Problem, Refusal, Registration, RenewalWindow, Step,
};
use crate::Answer;
use crate::http::Reply;
use crate::names::Name;

/// Orders whose links are remembered.
const ORDERS: usize = 1_000;

/// Most names of one order that is read; no authority allows more.
const NAMES: usize = 250;

/// Authorizations of one order that are asked for at the same time.
const AT_ONCE: usize = 4;

/// Speaks to the authority at this endpoint, and tells the observer about every request.
pub fn connect(endpoint: &Endpoint, observer: Observer) -> Result<Arc<dyn Ca>, String> {
    Ok(Arc::new(Authority {
        client: Client::new(endpoint, observer)?,
        orders: Mutex::default(),
    }))
}

struct Authority {
    client: Client,
    orders: Mutex<Remembered>,
}

/// What an order links to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Links {
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
}

#[derive(Default)]
struct Remembered {
    links: HashMap<String, Links>,
    /// URLs, oldest first.
    order: VecDeque<String>,
}

impl Remembered {
    fn keep(&mut self, url: &str, links: Links) {
        if self.links.insert(url.to_owned(), links).is_some() {
            return;
        }
        self.order.push_back(url.to_owned());
        if self.order.len() > ORDERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.links.remove(&oldest);
        }
    }
}

impl Authority {
    fn orders(&self) -> MutexGuard<'_, Remembered> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order in an answer; its links are remembered.
    fn order_in(&self, step: Step, url: String, reply: &Reply) -> Result<Order, Refusal> {
        let wire: WireOrder = parsed(step, reply)?;
        let links = Links {
            authorizations: wire.authorizations.iter().take(NAMES).cloned().collect(),
            finalize: wire.finalize.clone(),
            certificate: wire.certificate.clone(),
        };
        self.orders().keep(&url, links);
        Ok(wire.order(url, retry_after(&reply.headers)))
    }

    async fn read_order(&self, account: &Account, url: &str) -> Result<Order, Refusal> {
        let reply = self.client.post(Step::Order, account, url, None).await?;
        self.order_in(Step::Order, url.to_owned(), &reply)
    }

    async fn links(&self, account: &Account, order: &str) -> Result<Links, Refusal> {
        let known = self.orders().links.get(order).cloned();
        if let Some(links) = known {
            return Ok(links);
        }
        self.read_order(account, order).await?;
        let read = self.orders().links.get(order).cloned();
        Ok(read.unwrap_or_default())
    }

    async fn read_authorization(
        &self,
        account: &Account,
        url: &str,
    ) -> Result<Authorization, Refusal> {
        let step = Step::Authorization;
        let reply = self.client.post(step, account, url, None).await?;
        let wire: WireAuthorization = parsed(step, &reply)?;
        wire.authorization(url.to_owned()).map_err(|text| {
            let cause = Cause::Answer(reply.status.as_u16(), text);
            refusal(step, cause, &reply.headers)
        })
    }

    async fn read_authorizations(
        &self,
        account: &Account,
        order: &str,
    ) -> Result<Vec<Authorization>, Refusal> {
        let links = self.links(account, order).await?;
        let mut reads: Vec<Answer<'_, Result<Authorization, Refusal>>> = Vec::new();
        for url in &links.authorizations {
            reads.push(Box::pin(self.read_authorization(account, url)));
        }
        let read: Vec<Result<Authorization, Refusal>> =
            stream::iter(reads).buffered(AT_ONCE).collect().await;
        read.into_iter().collect()
    }

    async fn answer_challenges(
        &self,
        account: &Account,
        order: &str,
        challenges: &[String],
    ) -> Result<Vec<Authorization>, Refusal> {
        let read = self.read_authorizations(account, order).await?;
        for authorization in &read {
            for challenge in &authorization.challenges {
                let pending = authorization.status == AuthorizationStatus::Pending
                    && challenge.status == AuthorizationStatus::Pending;
                if pending && challenges.contains(&challenge.url) {
                    self.answer_one(account, authorization, &challenge.url)
                        .await?;
                }
            }
        }
        Ok(read)
    }

    async fn answer_one(
        &self,
        account: &Account,
        authorization: &Authorization,
        url: &str,
    ) -> Result<(), Refusal> {
        let step = Step::Challenge;
        let said = self.client.post(step, account, url, Some(&json!({}))).await;
        let Err(refused) = said else { return Ok(()) };
        if refused.is("malformed") {
            // Somebody else, or we before a crash, may have been faster: then it is on its way.
            let now = self.read_authorization(account, &authorization.url).await?;
            let mut challenges = now.challenges.iter();
            let this = challenges.find(|challenge| challenge.url == url);
            if this.is_some_and(|challenge| challenge.status != AuthorizationStatus::Pending) {
                return Ok(());
            }
        }
        Err(refused)
    }

    async fn registered(&self, request: &Registration) -> Result<Account, Refusal> {
        let step = Step::Account;
        let local = |text| Refusal::new(step, Cause::Local(text));
        let url = self.client.directory().await?.new_account.clone();
        let mut payload = json!({"termsOfServiceAgreed": request.terms_agreed});
        if !request.contact.is_empty() {
            add(&mut payload, "contact", json!(request.contact));
        }
        if let Some(external) = &request.external {
            let bound = jws::binding(external, &request.key, &url).map_err(local)?;
            add(&mut payload, "externalAccountBinding", bound);
        }
        if request.existing {
            payload = json!({"onlyReturnExisting": true});
        }
        let signer = Signer::Key(&request.key);
        let reply = self
            .client
            .signed(step, &signer, &url, Some(&payload))
            .await?;
        let account: WireAccount = parsed(step, &reply)?;
        if account.status != "valid" {
            let problem = Problem {
                kind: "unauthorized".to_owned(),
                detail: format!("the account of this key is {}", account.status),
                subproblems: Vec::new(),
            };
            let cause = Cause::Problem(reply.status.as_u16(), problem);
            return Err(refusal(step, cause, &reply.headers));
        }
        Ok(Account {
            url: located(step, &reply)?,
            key: request.key.clone(),
        })
    }

    async fn ordered(&self, account: &Account, request: &NewOrder) -> Result<Order, Refusal> {
        let step = Step::NewOrder;
        let url = self.client.directory().await?.new_order.clone();
        let identifier = |name: &Name| match name {
            Name::Dns(name) => json!({"type": "dns", "value": name}),
            Name::Ip(address) => json!({"type": "ip", "value": address}),
        };
        let names: Vec<Value> = request.names.iter().map(identifier).collect();
        let mut payload = json!({"identifiers": names});
        if let Some(profile) = &request.profile {
            add(&mut payload, "profile", json!(profile));
        }
        if let Some(replaces) = &request.replaces {
            add(&mut payload, "replaces", json!(replaces));
        }
        let reply = self
            .client
            .post(step, account, &url, Some(&payload))
            .await?;
        self.order_in(step, located(step, &reply)?, &reply)
    }

    async fn finalized(
        &self,
        account: &Account,
        order: &str,
        csr: &[u8],
    ) -> Result<Order, Refusal> {
        let url = self.links(account, order).await?.finalize;
        let payload = json!({"csr": URL_SAFE_NO_PAD.encode(csr)});
        let step = Step::Finalize;
        let reply = self
            .client
            .post(step, account, &url, Some(&payload))
            .await?;
        self.order_in(step, order.to_owned(), &reply)
    }

    async fn downloaded(&self, account: &Account, order: &str) -> Result<Chain, Refusal> {
        let step = Step::Certificate;
        let mut url = self.links(account, order).await?.certificate;
        if url.is_none() {
            // Remembered from before it was issued.
            self.read_order(account, order).await?;
            url = self.links(account, order).await?.certificate;
        }
        let url = url.ok_or_else(|| {
            let text = "the order has no certificate".to_owned();
            Refusal::new(step, Cause::Answer(200, text))
        })?;
        let reply = self.client.post(step, account, &url, None).await?;
        Ok(Chain {
            pem: pem(step, &reply)?,
            alternates: links(&reply.headers, "alternate"),
        })
    }

    async fn window(&self, certificate: &str) -> Result<RenewalWindow, Refusal> {
        let step = Step::RenewalInfo;
        let directory = self.client.directory().await?;
        let base = directory.renewal_info.as_deref();
        let base = base.ok_or_else(|| missing(step, "renewal windows"))?;
        let url = format!("{}/{certificate}", base.trim_end_matches('/'));
        let reply = self.client.get(step, &url).await?;
        let wire: WireRenewal = parsed(step, &reply)?;
        Ok(wire.window(retry_after(&reply.headers)))
    }

    async fn revoked(
        &self,
        account: &Account,
        certificate: &[u8],
        reason: u8,
    ) -> Result<(), Refusal> {
        let step = Step::Revoke;
        let directory = self.client.directory().await?;
        let url = directory.revoke_cert.as_deref();
        let url = url.ok_or_else(|| missing(step, "revocation"))?;
        let certificate = URL_SAFE_NO_PAD.encode(certificate);
        let payload = json!({"certificate": certificate, "reason": reason});
        self.client.post(step, account, url, Some(&payload)).await?;
        Ok(())
    }

    async fn key_changed(&self, account: &Account, next: &AccountKey) -> Result<Account, Refusal> {
        let step = Step::KeyChange;
        let local = |text| Refusal::new(step, Cause::Local(text));
        let directory = self.client.directory().await?;
        let url = directory.key_change.as_deref();
        let url = url.ok_or_else(|| missing(step, "another key for an account"))?;
        // RFC 8555, section 7.3.5: the new key signs who changes to it, the old key signs that.
        let old = jws::public(&account.key).map_err(local)?;
        let inner = json!({"account": account.url, "oldKey": old});
        let inner = Signer::Key(next)
            .sign(url, None, Some(&inner))
            .map_err(local)?;
        self.client.post(step, account, url, Some(&inner)).await?;
        Ok(Account {
            url: account.url.clone(),
            key: next.clone(),
        })
    }
}

impl Ca for Authority {
    fn directory(&self) -> Answer<'_, Result<Directory, Refusal>> {
        Box::pin(async { Ok(self.client.directory().await?.shown()) })
    }

    fn register<'a>(&'a self, request: &'a Registration) -> Answer<'a, Result<Account, Refusal>> {
        Box::pin(self.registered(request))
    }

    fn new_order<'a>(
        &'a self,
        account: &'a Account,
        request: &'a NewOrder,
    ) -> Answer<'a, Result<Order, Refusal>> {
        Box::pin(self.ordered(account, request))
    }

    fn order<'a>(
        &'a self,
        account: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<Order, Refusal>> {
        Box::pin(self.read_order(account, url))
    }

    fn authorizations<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>> {
        Box::pin(self.read_authorizations(account, order))
    }

    fn answer<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
        challenges: &'a [String],
    ) -> Answer<'a, Result<Vec<Authorization>, Refusal>> {
        Box::pin(self.answer_challenges(account, order, challenges))
    }

    fn finalize<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
        csr: &'a [u8],
    ) -> Answer<'a, Result<Order, Refusal>> {
        Box::pin(self.finalized(account, order, csr))
    }

    fn certificate<'a>(
        &'a self,
        account: &'a Account,
        order: &'a str,
    ) -> Answer<'a, Result<Chain, Refusal>> {
        Box::pin(self.downloaded(account, order))
    }

    fn alternate<'a>(
        &'a self,
        account: &'a Account,
        url: &'a str,
    ) -> Answer<'a, Result<String, Refusal>> {
        Box::pin(async move {
            let reply = self
                .client
                .post(Step::Certificate, account, url, None)
                .await?;
            pem(Step::Certificate, &reply)
        })
    }

    fn renewal_info<'a>(
        &'a self,
        _: &'a Account,
        certificate: &'a str,
    ) -> Answer<'a, Result<RenewalWindow, Refusal>> {
        Box::pin(self.window(certificate))
    }

    fn revoke<'a>(
        &'a self,
        account: &'a Account,
        certificate: &'a [u8],
        reason: u8,
    ) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(self.revoked(account, certificate, reason))
    }

    fn change_key<'a>(
        &'a self,
        account: &'a Account,
        next: &'a AccountKey,
    ) -> Answer<'a, Result<Account, Refusal>> {
        Box::pin(self.key_changed(account, next))
    }

    fn deactivate<'a>(&'a self, account: &'a Account) -> Answer<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let payload = json!({"status": "deactivated"});
            let url = &account.url;
            self.client
                .post(Step::Account, account, url, Some(&payload))
                .await?;
            Ok(())
        })
    }

    fn look(&self) -> Answer<'_, Result<(), Refusal>> {
        Box::pin(self.client.look())
    }

    fn date(&self) -> Option<(Timestamp, Instant)> {
        self.client.date()
    }
}

fn missing(step: Step, what: &str) -> Refusal {
    Refusal::new(
        step,
        Cause::Local(format!("the authority does not offer {what}")),
    )
}

fn located(step: Step, reply: &Reply) -> Result<String, Refusal> {
    let unusable = |text: &str| {
        let cause = Cause::Answer(reply.status.as_u16(), text.to_owned());
        refusal(step, cause, &reply.headers)
    };
    match location(&reply.headers) {
        None => Err(unusable("an answer without Location")),
        Some(url) if url.len() > LONGEST_URL => Err(unusable("a Location that is too long")),
        Some(url) => Ok(url),
    }
}

fn pem(step: Step, reply: &Reply) -> Result<String, Refusal> {
    String::from_utf8(reply.body.to_vec()).map_err(|_| {
        let text = "a chain that is no text".to_owned();
        refusal(
            step,
            Cause::Answer(reply.status.as_u16(), text),
            &reply.headers,
        )
    })
}

fn add(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_orders_has_a_bound_and_the_oldest_goes() {
        let mut remembered = Remembered::default();
        for number in 0..=ORDERS {
            remembered.keep(&number.to_string(), Links::default());
            remembered.keep(&number.to_string(), Links::default());
        }
        assert_eq!(remembered.links.len(), ORDERS);
        assert_eq!(remembered.order.len(), ORDERS);
        assert!(!remembered.links.contains_key("0"));
        assert!(remembered.links.contains_key("1"));
    }
}
