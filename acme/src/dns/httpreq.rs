//! Records written by a server that speaks lego's `httpreq` protocol: in front of it stands any of the
//! providers that lego knows.

use ::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::api::Api;
use super::provider::{Writer, entry, needed};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::secrets::Entries;

pub(super) struct HttpReq(Api);

impl HttpReq {
    pub(super) fn new(spec: &SolverSpec, entries: &Entries) -> Result<Self, String> {
        let mut fields = Vec::new();
        if entries.contains_key("username") || entries.contains_key("password") {
            let (user, password) = (entry(entries, "username")?, entry(entries, "password")?);
            let basic = STANDARD.encode(format!("{user}:{password}"));
            fields.push(("authorization", format!("Basic {basic}")));
        }
        Ok(Self(Api::new(needed(spec.url.as_ref(), "url")?, &fields)?))
    }

    async fn call(&self, action: &str, record: &TxtRecord) -> Result<(), DnsError> {
        let body = json!({"fqdn": format!("{}.", record.fqdn), "value": record.value});
        let target = format!("/{action}");
        let kind = [("content-type", "application/json".to_owned())];
        // The protocol says nothing about the content of an answer.
        self.0
            .call(Method::POST, &target, &kind, body.to_string())
            .await?;
        Ok(())
    }
}

impl Writer for HttpReq {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.call("present", record))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.call("cleanup", record))
    }
}
