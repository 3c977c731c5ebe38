//! Records written by an acme-dns server, which has one name for each of its accounts; a CNAME leads
//! there from the names that are proven.
//!
//! It keeps the two newest values, enough for a wildcard and its apex, and nothing is ever removed.

use ::http::Method;
use serde_json::json;

use super::api::Api;
use super::provider::{Writer, entry, needed};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::secrets::Entries;

pub(super) struct AcmeDns {
    api: Api,
    subdomain: String,
    fulldomain: String,
}

impl AcmeDns {
    pub(super) fn new(spec: &SolverSpec, entries: &Entries) -> Result<Self, String> {
        let fields = [
            ("x-api-user", entry(entries, "username")?.to_owned()),
            ("x-api-key", entry(entries, "password")?.to_owned()),
        ];
        let fulldomain = entry(entries, "fulldomain")?.trim_end_matches('.');
        Ok(Self {
            api: Api::new(needed(spec.url.as_ref(), "url")?, &fields)?,
            subdomain: entry(entries, "subdomain")?.to_owned(),
            fulldomain: fulldomain.to_ascii_lowercase(),
        })
    }
}

impl Writer for AcmeDns {
    fn fixed(&self) -> Option<&str> {
        Some(&self.fulldomain)
    }

    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(async move {
            let body = json!({"subdomain": self.subdomain, "txt": record.value});
            self.api.json(Method::POST, "/update", Some(&body)).await?;
            Ok(())
        })
    }

    fn remove<'a>(&'a self, _: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(async { Ok(()) })
    }
}
