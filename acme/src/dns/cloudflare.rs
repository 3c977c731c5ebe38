//! Records written at Cloudflare.
//!
//! A record is found by its value before it is added or removed: both may be repeated.

use ::http::Method;
use serde_json::{Value, json};

use super::api::{Api, encoded};
use super::provider::{Writer, entry, zone};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::secrets::Entries;

const BASE: &str = "https://api.cloudflare.com/client/v4";

pub(super) struct Cloudflare {
    api: Api,
    ttl: u32,
}

impl Cloudflare {
    pub(super) fn new(spec: &SolverSpec, entries: &Entries) -> Result<Self, String> {
        let token = format!("Bearer {}", entry(entries, "api-token")?);
        let base = spec.url.as_deref().unwrap_or(BASE);
        Ok(Self {
            api: Api::new(base, &[("authorization", token)])?,
            // It takes nothing shorter.
            ttl: spec.ttl.max(60),
        })
    }

    async fn zone_id(&self, record: &TxtRecord) -> Result<String, DnsError> {
        let name = zone(record)?;
        let target = format!("/zones?name={}", encoded(name));
        let found = self.api.json(Method::GET, &target, None).await?;
        let id = found.pointer("/result/0/id").and_then(Value::as_str);
        id.map(encoded).ok_or_else(|| {
            DnsError::Configuration(format!(
                "the token sees no zone {name} at {}",
                self.api.base()
            ))
        })
    }

    /// Identifiers of the records with exactly this value.
    async fn ids(&self, zone: &str, record: &TxtRecord) -> Result<Vec<String>, DnsError> {
        let target = format!(
            "/zones/{zone}/dns_records?type=TXT&name={}&per_page=100",
            encoded(&record.fqdn)
        );
        let found = self.api.json(Method::GET, &target, None).await?;
        let records = found
            .get("result")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let same = records.filter(|found| {
            let content = found
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or_default();
            content.trim_matches('"') == record.value
        });
        let ids = same.filter_map(|found| found.get("id")?.as_str());
        Ok(ids.map(encoded).collect())
    }

    async fn added(&self, record: &TxtRecord) -> Result<(), DnsError> {
        let zone = self.zone_id(record).await?;
        if !self.ids(&zone, record).await?.is_empty() {
            return Ok(());
        }
        let body = json!({
            "type": "TXT",
            "name": record.fqdn,
            "content": format!("\"{}\"", record.value),
            "ttl": self.ttl,
        });
        let target = format!("/zones/{zone}/dns_records");
        self.api.json(Method::POST, &target, Some(&body)).await?;
        Ok(())
    }

    async fn removed(&self, record: &TxtRecord) -> Result<(), DnsError> {
        let zone = self.zone_id(record).await?;
        for id in self.ids(&zone, record).await? {
            let target = format!("/zones/{zone}/dns_records/{id}");
            self.api.json(Method::DELETE, &target, None).await?;
        }
        Ok(())
    }
}

impl Writer for Cloudflare {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.added(record))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.removed(record))
    }
}
