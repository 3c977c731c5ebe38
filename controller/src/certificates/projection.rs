//! From the vault into the Secrets of users, by server-side apply: labels and annotations of others
//! stay.
//!
//! Invariants:
//! - A Secret that Gatehouse did not write is never written, unless it is empty or its owner hands it
//!   over by an annotation.
//! - Whether it may be written is tried with the API server's own dry run before anything is ordered, with
//!   a pair of the size that is to come: what has no room for it, or is refused empty, would be refused
//!   after the order.
//! - Chain and key go in one request, and only onto the version that was judged.
//! - What cert-manager has written over ours is not written over.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gatehouse_acme::Answer;
use gatehouse_acme::driver::Projector;
use gatehouse_acme::leaf::stand_in;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::Material;
use gatehouse_acme::secrets::Secret as Value;
use gatehouse_acme::served::Reports;
use gatehouse_acme::vault::Key;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Map, Value as Json, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::request::ISSUER;
use super::targets::{Mark, RECORD, RENEW_AT, TLS, is_ours};
use super::vault::{MANAGED_BY, is_record, name_of};
use crate::leader::{Clients, Leadership};
use crate::source::kubernetes::plain;

/// Writes Secrets of users.
pub(super) struct Projection {
    clients: Clients,
    leadership: Leadership,
    /// Namespace of our records, which nobody names as a target.
    own: String,
    /// What is said of the certificates, for the annotations.
    reports: OnceLock<watch::Receiver<Arc<Reports>>>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It was written.
    Now,
    /// Exactly this was there.
    Before,
}

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The Secret, or the right to it: a sentence for its owner.
    Refused(String),
    /// Somebody else goes on writing the Secret, who would answer with a write of his own: a sentence for
    /// its owner.
    Contested(String),
    /// Somebody else was faster, each time.
    Overtaken(String),
    /// The write did not succeed although the API server has just answered: what stands in the way, a
    /// webhook that is away for one, need not be in the way of others. Again soon.
    Unwritten(String),
    /// The API server does not answer: again soon.
    Away(String),
}

impl Trouble {
    pub(super) fn words(self) -> String {
        match self {
            Self::Refused(why)
            | Self::Contested(why)
            | Self::Overtaken(why)
            | Self::Unwritten(why)
            | Self::Away(why) => why,
        }
    }
}

impl Projection {
    /// `own` is the namespace of the records.
    pub(super) fn new(clients: &Clients, own: &str, leadership: Leadership) -> Self {
        Self {
            own: own.to_owned(),
            clients: Arc::clone(clients),
            leadership,
            reports: OnceLock::new(),
        }
    }

    /// Learns what is said of the certificates.
    pub(super) fn follow(&self, reports: watch::Receiver<Arc<Reports>>) {
        self.reports.set(reports).ok();
    }

    /// Writes the target unless it is as it should be. Whoever was overtaken looks at what is there now.
    pub(super) async fn write(
        &self,
        target: &Target,
        material: &Material,
    ) -> Result<Written, Trouble> {
        for _ in 1..TRIES {
            match self.write_once(target, material).await {
                Err(Trouble::Overtaken(_)) => {}
                done => return done,
            }
        }
        self.write_once(target, material).await
    }

    async fn write_once(&self, target: &Target, material: &Material) -> Result<Written, Trouble> {
        let found = self.find(target).await?;
        judge(&self.own, target, found.as_ref()).map_err(Trouble::Refused)?;
        let there = found.as_ref().map(|secret| Mark::of(target, secret));
        if there.is_some_and(|there| there.is(&Mark::due(material))) {
            return Ok(Written::Before);
        }
        if let Some(found) = &found
            && let Some(why) = taken_back(target, found)
        {
            return Err(Trouble::Contested(why));
        }
        if self.leadership.epoch().is_none() {
            return Err(Trouble::Away("this replica leads no longer".to_owned()));
        }
        let (chain, key) = (Value::new(material.chain.as_bytes()), material.key.clone());
        let applied = self.applied(target, found.as_ref(), &chain, &key);
        let applied = self.apply(target, &applied, found.is_some(), false).await;
        applied.map_err(|trouble| match trouble {
            Trouble::Away(why) => Trouble::Unwritten(why),
            trouble => trouble,
        })?;
        Ok(Written::Now)
    }

    /// Writes what is said about the certificate once more, if it is the one that is there.
    pub(super) async fn note(&self, target: &Target, material: &Material) -> Result<(), Trouble> {
        let found = self.find(target).await?;
        let due = Mark::due(material);
        let there = |secret: &Secret| Mark::of(target, secret).is(&due);
        if !found.as_ref().is_some_and(there) || self.leadership.epoch().is_none() {
            return Ok(());
        }
        let (chain, key) = (Value::new(material.chain.as_bytes()), material.key.clone());
        let applied = self.applied(target, found.as_ref(), &chain, &key);
        self.apply(target, &applied, true, false).await
    }

    /// What the owner of the target hands over, if it is there and not ours yet.
    async fn offered(&self, target: &Target) -> Result<Option<Material>, Trouble> {
        let Some(secret) = self.find(target).await? else {
            return Ok(None);
        };
        judge(&self.own, target, Some(&secret)).map_err(Trouble::Refused)?;
        if is_ours(target, &secret) || is_empty(&secret) {
            return Ok(None);
        }
        Ok(Some(material(&secret)))
    }

    async fn try_out(&self, target: &Target) -> Result<(), Trouble> {
        let found = self.find(target).await?;
        judge(&self.own, target, found.as_ref()).map_err(Trouble::Refused)?;
        let there = found.as_ref().filter(|found| is_ours(target, found));
        let pair = match there.and_then(pair_in) {
            Some(pair) => pair,
            None => stand_in().map_err(Trouble::Away)?,
        };
        let (chain, key) = (Value::new(pair.chain), pair.key);
        let applied = self.applied(target, found.as_ref(), &chain, &key);
        self.apply(target, &applied, found.is_some(), true).await
    }

    /// The Secret as it is now. A list of one: that right is there for serving already.
    async fn find(&self, target: &Target) -> Result<Option<Secret>, Trouble> {
        let params = ListParams::default()
            .fields(&format!("metadata.name={}", target.secret))
            .limit(1);
        let list = answer(self.api(target).list(&params)).await?;
        Ok(list.items.into_iter().next())
    }

    async fn apply(
        &self,
        target: &Target,
        applied: &Json,
        over: bool,
        dry: bool,
    ) -> Result<(), Trouble> {
        let params = PatchParams {
            dry_run: dry,
            // Where there is nothing, nobody has to give way: whoever makes it meanwhile keeps it.
            force: over,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(target);
        answer(api.patch(&target.secret, &params, &Patch::Apply(applied))).await?;
        Ok(())
    }

    fn applied(&self, target: &Target, found: Option<&Secret>, chain: &Value, key: &Value) -> Json {
        let entry = |value: &Value| json!(ByteString(value.expose().to_vec()));
        let mut metadata = json!({
            "name": target.secret,
            "namespace": target.namespace,
            "labels": {MANAGED_BY: "gatehouse"},
            "annotations": self.annotations(target),
        });
        if let (Some(found), Some(fields)) = (found, metadata.as_object_mut()) {
            fields.insert(
                "resourceVersion".to_owned(),
                json!(found.metadata.resource_version),
            );
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": TLS,
            "data": {"tls.crt": entry(chain), "tls.key": entry(key)},
        })
    }

    fn annotations(&self, target: &Target) -> Map<String, Json> {
        let mut annotations = Map::new();
        let mut say = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                annotations.insert(name.to_owned(), Json::String(value));
            }
        };
        say(RECORD, Some(name_of(&Key::Certificate(target.clone()))));
        let reports = self.reports.get().map(|reports| reports.borrow().clone());
        if let Some(report) = reports.as_ref().and_then(|all| all.get(target)) {
            let names: Vec<String> = report.names.iter().map(ToString::to_string).collect();
            say(ISSUER, Some(report.issuer.clone()));
            say("gatehouse.dev/alt-names", Some(names.join(",")));
            say("gatehouse.dev/serial", report.serial.clone());
            let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
            say("gatehouse.dev/not-after", time(report.not_after));
            say(RENEW_AT, time(report.renew_at));
        }
        annotations
    }

    fn api(&self, target: &Target) -> Api<Secret> {
        Api::namespaced((self.clients)(), &target.namespace)
    }
}

impl Projector for Projection {
    fn handed_over<'a>(
        &'a self,
        target: &'a Target,
    ) -> Answer<'a, Result<Option<Material>, String>> {
        Box::pin(async move { self.offered(target).await.map_err(Trouble::words) })
    }

    fn preflight<'a>(&'a self, target: &'a Target) -> Answer<'a, Result<(), String>> {
        Box::pin(async move { self.try_out(target).await.map_err(Trouble::words) })
    }

    fn project<'a>(
        &'a self,
        target: &'a Target,
        material: &'a Material,
    ) -> Answer<'a, Result<(), String>> {
        Box::pin(async move {
            match self.write(target, material).await {
                // Whoever mends tells of it; the certificate is served from what is kept, and renewed.
                Ok(_) | Err(Trouble::Contested(_)) => Ok(()),
                Err(trouble) => Err(trouble.words()),
            }
        })
    }
}

/// Whether Gatehouse may write this; the error is a sentence for the owner.
fn judge(own: &str, target: &Target, secret: Option<&Secret>) -> Result<(), String> {
    if target.namespace == own && is_record(&target.secret) {
        return Err(
            "Gatehouse keeps its own records in Secrets of such names here, so leave it where it is: \
             name another Secret in spec.tls"
                .to_owned(),
        );
    }
    let Some(secret) = secret else { return Ok(()) };
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != TLS {
        return Err(format!(
            "it is there with the type {kind}, which cannot be changed: delete it, or name another \
             Secret in spec.tls"
        ));
    }
    if secret.immutable == Some(true) {
        return Err("it is immutable: delete it, or name another Secret in spec.tls".to_owned());
    }
    if secret.metadata.deletion_timestamp.is_some() {
        return Err("it is being deleted, and a finalizer holds it".to_owned());
    }
    let annotations = secret.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|all| all.get(name));
    let handed_over = annotation(ADOPT).is_some_and(|value| value == "true");
    if is_ours(target, secret) || is_empty(secret) || handed_over {
        return Ok(());
    }
    let whose = match annotation(CERTIFICATE) {
        Some(name) => format!("it belongs to cert-manager's Certificate {name}"),
        None => "it holds a certificate that Gatehouse did not write".to_owned(),
    };
    Err(format!(
        "{whose}, which is served and left as it is: annotate the Secret with {ADOPT}=\"true\" to \
         hand it over, or name another Secret in spec.tls"
    ))
}

/// Whether there is neither certificate nor key in it.
fn is_empty(secret: &Secret) -> bool {
    let mut data = secret.data.iter().flatten();
    data.all(|(name, value)| !ENTRIES.contains(&name.as_str()) || value.0.is_empty())
}

/// Certificate and key as they are there.
fn material(secret: &Secret) -> Material {
    let entry = |name: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(name));
        value.map(|value| value.0.as_slice()).unwrap_or_default()
    };
    Material {
        chain: String::from_utf8_lossy(entry("tls.crt")).into_owned(),
        key: Value::new(entry("tls.key")),
    }
}

/// The same, if there are both.
fn pair_in(secret: &Secret) -> Option<Material> {
    let there = material(secret);
    let both = !there.chain.is_empty() && !there.key.expose().is_empty();
    both.then_some(there)
}

/// Whether cert-manager has written another certificate into a Secret that is ours; the answer says so
/// to its owner. To write over it would make cert-manager order the next one, again and again.
fn taken_back(target: &Target, secret: &Secret) -> Option<String> {
    let entries = secret
        .metadata
        .managed_fields
        .as_deref()
        .unwrap_or_default();
    let writers = entries.iter().filter_map(|entry| {
        let fields = &entry.fields_v1.as_ref()?.0;
        fields.pointer("/f:data/f:tls.crt")?;
        entry.manager.as_deref()
    });
    let writers: Vec<&str> = writers.collect();
    let other = writers
        .iter()
        .find(|writer| writer.starts_with("cert-manager"))?;
    // Who takes a field over with the same value leaves it to the other one as well.
    if !is_ours(target, secret) || writers.contains(&MANAGER) {
        return None;
    }
    let annotations = secret.metadata.annotations.as_ref();
    let name = annotations.and_then(|all| all.get(CERTIFICATE));
    let name = name.map_or_else(String::new, |name| format!(" {name}"));
    Some(format!(
        "cert-manager still writes it (as {other}), so it is left as it is; what is kept goes on \
         serving, and is renewed; take cert-manager's annotation off the Ingress, delete the \
         Certificate{name}, and then the Secret, which is written anew at once"
    ))
}

/// One request with a bound.
async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match &error {
            kube::Error::Api(status) if status.code == 409 => Trouble::Overtaken(format!(
                "somebody else has just written it: {}",
                plain(&error)
            )),
            // A quota refuses with the same status.
            kube::Error::Api(status) if status.message.contains(" cannot ") => {
                Trouble::Refused(format!(
                    "{}; `gatehouse generate rbac --acme` prints the rights it takes",
                    plain(&error)
                ))
            }
            kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
                Trouble::Refused(plain(&error))
            }
            _ => Trouble::Away(plain(&error)),
        }),
        Err(_) => Err(Trouble::Away(format!("no answer in {ANSWER:?}"))),
    }
}

/// Who owns the fields, at the API server.
const MANAGER: &str = "gatehouse-certificates";
/// By this, the owner of a Secret hands it over.
const ADOPT: &str = "gatehouse.dev/adopt";
/// By this, cert-manager names the object that it writes a Secret for.
const CERTIFICATE: &str = "cert-manager.io/certificate-name";
/// Looks and writes in a row, while others are faster.
const TRIES: usize = 3;
const ENTRIES: [&str; 2] = ["tls.crt", "tls.key"];
/// A request of the leader may not outlive the time after which another may lead.
const ANSWER: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn found(yaml: &str) -> (Target, Secret) {
        let target = Target {
            namespace: "shop".into(),
            secret: "tls".into(),
        };
        let record = name_of(&Key::Certificate(target.clone()));
        let yaml = yaml.replace("RECORD", &format!("gatehouse.dev/record: {record}"));
        (target, serde_saphyr::from_str(&yaml).unwrap())
    }

    fn judged(yaml: &str) -> Result<(), String> {
        let (target, secret) = found(yaml);
        judge("gatehouse", &target, Some(&secret))
    }

    #[test]
    fn a_record_of_ours_is_nobodys_target_whether_it_is_there_or_not() {
        let judged = |namespace: &str, name: &str| {
            let target = Target {
                namespace: namespace.into(),
                secret: name.into(),
            };
            judge("gatehouse", &target, None)
        };
        for name in [
            "gatehouse-acme-board",
            "gatehouse-acme-account-other",
            "gatehouse-cert-0a",
        ] {
            let why = judged("gatehouse", name).unwrap_err();
            assert!(
                why.contains("another Secret") && !why.contains("delete"),
                "{why}"
            );
            assert_eq!(judged("shop", name), Ok(()));
        }
        assert_eq!(judged("gatehouse", "gatehouse-tls"), Ok(()));
    }

    #[test]
    fn what_is_ours_is_left_to_cert_manager_only_where_it_alone_has_written() {
        let ours = "labels: {app.kubernetes.io/managed-by: gatehouse}, annotations: {RECORD}";
        let theirs = "annotations: {cert-manager.io/certificate-name: web}";
        let field = |manager: &str, field: &str| {
            format!(
                "{{manager: {manager}, operation: Apply, fieldsV1: {{'f:data': {{'f:{field}': {{}}}}}}}}"
            )
        };
        let cert_manager = "cert-manager-certificates-issuing";
        for (owner, fields, taken) in [
            (ours, vec![field(cert_manager, "tls.crt")], true),
            (
                ours,
                vec![field(cert_manager, "tls.crt"), field(MANAGER, "tls.crt")],
                false,
            ),
            (ours, vec![field(cert_manager, "ca.crt")], false),
            (ours, vec![field("kubectl-patch", "tls.crt")], false),
            (ours, vec![], false),
            (theirs, vec![field(cert_manager, "tls.crt")], false),
        ] {
            let fields = fields.join(", ");
            let (target, secret) = found(&format!(
                "{{metadata: {{name: tls, {owner}, managedFields: [{fields}]}}}}"
            ));
            let why = taken_back(&target, &secret);
            assert_eq!(why.is_some(), taken, "{owner} {fields}");
        }
    }

    #[test]
    fn only_what_is_ours_or_empty_or_handed_over_is_written() {
        let data = "type: kubernetes.io/tls, data: {tls.crt: QQ==, tls.key: QQ==}";
        let ours = "labels: {app.kubernetes.io/managed-by: gatehouse}, annotations: {RECORD}";
        for good in [
            "{metadata: {name: tls}, type: kubernetes.io/tls, data: {tls.crt: '', tls.key: ''}}"
                .into(),
            format!("{{metadata: {{name: tls, {ours}}}, {data}}}"),
            format!(
                "{{metadata: {{name: tls, annotations: {{gatehouse.dev/adopt: 'true'}}}}, {data}}}"
            ),
        ] {
            assert_eq!(judged(&good), Ok(()), "{good}");
        }
        let other = ours.replace("RECORD", "gatehouse.dev/record: another");
        for (bad, word) in [
            (
                format!("{{metadata: {{name: tls}}, {data}}}"),
                "gatehouse.dev/adopt",
            ),
            (
                format!("{{metadata: {{name: tls, {other}}}, {data}}}"),
                "did not write",
            ),
            (
                format!(
                    "{{metadata: {{name: tls, annotations: {{cert-manager.io/certificate-name: web}}}}, \
                     {data}}}"
                ),
                "cert-manager's Certificate web",
            ),
            (
                format!("{{metadata: {{name: tls, {ours}}}, immutable: true, {data}}}"),
                "immutable",
            ),
            ("{metadata: {name: tls}, type: Opaque}".into(), "Opaque"),
        ] {
            let why = judged(&bad).unwrap_err();
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
