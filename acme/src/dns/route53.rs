//! Records written at Amazon Route 53.
//!
//! All values of a name are one record set there, and a change replaces the set: so it is read, the one
//! value put in or taken out, and written, one change at a time. What others have in it stays as it is,
//! how long it lives as well: a set is removed only by its exact content.

use std::fmt::Write as _;
use std::sync::Arc;

use ::http::Method;
use tokio::sync::Mutex;

use super::api::{Api, encoded};
use super::provider::{Writer, entry, zone};
use super::sigv4::{Signed, Signer, date};
use super::{DnsError, SolverSpec, TxtRecord};
use crate::Answer;
use crate::clock::Clock;
use crate::secrets::{Entries, Secret};

const BASE: &str = "https://route53.amazonaws.com";

const VERSION: &str = "/2013-04-01";

/// Held while a record set is read and written, whoever asked: two certificates may share a name.
static TURN: Mutex<()> = Mutex::const_new(());

pub(super) struct Route53 {
    api: Api,
    key_id: String,
    secret: Secret,
    session: Option<String>,
    ttl: u32,
    clock: Arc<dyn Clock>,
}

impl Route53 {
    pub(super) fn new(
        spec: &SolverSpec,
        entries: &Entries,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let session = entries.get("session-token").and_then(Secret::text);
        Ok(Self {
            api: Api::new(spec.url.as_deref().unwrap_or(BASE), &[])?,
            key_id: entry(entries, "access-key-id")?.to_owned(),
            secret: Secret::new(entry(entries, "secret-access-key")?),
            session: session.map(str::to_owned),
            ttl: spec.ttl,
            clock: Arc::clone(clock),
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: String,
    ) -> Result<String, DnsError> {
        let host = self
            .api
            .base()
            .split("//")
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let now = date(self.clock.now());
        let mut headers = vec![("host", host.as_str()), ("x-amz-date", &now)];
        if let Some(session) = &self.session {
            headers.push(("x-amz-security-token", session));
        }
        let signer = Signer {
            key_id: &self.key_id,
            secret: &self.secret,
            region: "us-east-1",
            service: "route53",
        };
        let request = Signed {
            method: method.as_str(),
            path,
            query,
            headers: &headers,
            body: body.as_bytes(),
        };
        let mut more = vec![
            ("authorization", signer.authorization(&now, &request)),
            ("x-amz-date", now.clone()),
        ];
        if let Some(session) = &self.session {
            more.push(("x-amz-security-token", session.clone()));
        }
        let target = match query {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        let answer = self.api.call(method, &target, &more, body).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn zone_id(&self, record: &TxtRecord) -> Result<String, DnsError> {
        let name = zone(record)?;
        let path = format!("{VERSION}/hostedzonesbyname");
        let query = format!("dnsname={}&maxitems=10", encoded(name));
        let answer = self.call(Method::GET, &path, &query, String::new()).await?;
        let zones = elements(&answer, "HostedZone");
        // A private zone of the same name is not what the authority sees.
        let public = zones.into_iter().find(|zone| {
            let named =
                element(zone, "Name").is_some_and(|found| found.trim_end_matches('.') == name);
            named && element(zone, "PrivateZone") != Some("true")
        });
        let id = public.and_then(|zone| element(zone, "Id"));
        let id = id.and_then(|id| id.rsplit('/').next());
        id.map(encoded).ok_or_else(|| {
            DnsError::Configuration(format!("the key sees no public zone {name} at Route 53"))
        })
    }

    async fn set(&self, zone: &str, record: &TxtRecord) -> Result<Set, DnsError> {
        let path = format!("{VERSION}/hostedzone/{zone}/rrset");
        let query = format!("maxitems=1&name={}&type=TXT", encoded(&record.fqdn));
        let answer = self.call(Method::GET, &path, &query, String::new()).await?;
        Ok(Set::read(&answer, &record.fqdn).unwrap_or(Set {
            ttl: self.ttl,
            values: Vec::new(),
        }))
    }

    async fn change(&self, record: &TxtRecord, add: bool) -> Result<(), DnsError> {
        let _turn = TURN.lock().await;
        let zone = self.zone_id(record).await?;
        let Set {
            ttl,
            values: before,
        } = self.set(&zone, record).await?;
        let ours = format!("\"{}\"", record.value);
        if before.contains(&ours) == add {
            return Ok(());
        }
        let mut after: Vec<String> = before
            .iter()
            .filter(|value| **value != ours)
            .cloned()
            .collect();
        if add {
            after.push(ours);
        }
        // A set without values is removed, and only by its exact content: also the time that it had
        // before the configuration was changed, or that somebody else gave it.
        let (action, values) = if after.is_empty() {
            ("DELETE", &before)
        } else {
            ("UPSERT", &after)
        };
        let body = batch(action, &record.fqdn, ttl, values);
        let path = format!("{VERSION}/hostedzone/{zone}/rrset");
        self.call(Method::POST, &path, "", body).await?;
        Ok(())
    }
}

/// The TXT records of a name.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    ttl: u32,
    values: Vec<String>,
}

impl Set {
    /// The set of this name in a list of them.
    fn read(answer: &str, fqdn: &str) -> Option<Self> {
        // The list begins at the name, or at the next one there is.
        let set = elements(answer, "ResourceRecordSet")
            .into_iter()
            .find(|set| {
                let name = element(set, "Name").map(|name| name.trim_end_matches('.'));
                name == Some(fqdn) && element(set, "Type") == Some("TXT")
            })?;
        Some(Self {
            ttl: element(set, "TTL")?.trim().parse().ok()?,
            values: elements(set, "Value").into_iter().map(unescaped).collect(),
        })
    }
}

/// The text that stands for itself in XML (XML 1.0, section 4.6).
fn unescaped(text: &str) -> String {
    let marks = [
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let text = marks
        .iter()
        .fold(text.to_owned(), |text, (mark, own)| text.replace(mark, own));
    // Last: what it brings is no mark.
    text.replace("&amp;", "&")
}

fn batch(action: &str, name: &str, ttl: u32, values: &[String]) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let mut records = String::new();
    for value in values {
        let value = escaped(value);
        // Writing to a string cannot fail.
        write!(
            records,
            "<ResourceRecord><Value>{value}</Value></ResourceRecord>"
        )
        .ok();
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
         <ChangeBatch><Changes><Change><Action>{action}</Action><ResourceRecordSet>\
         <Name>{}.</Name><Type>TXT</Type><TTL>{ttl}</TTL>\
         <ResourceRecords>{records}</ResourceRecords>\
         </ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>",
        escaped(name)
    )
}

/// Contents of all elements of this name. These answers nest none of them in itself and give them no
/// attributes, which is all that is asked of XML here.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open.as_str()) {
        let Some((content, next)) = after.split_once(close.as_str()) else {
            break;
        };
        found.push(content);
        rest = next;
    }
    found
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    elements(text, name).into_iter().next()
}

impl Writer for Route53 {
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, true))
    }

    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        Box::pin(self.change(record, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_in_a_set_is_written_as_it_was_read() {
        let value = "<ResourceRecord><Value>VALUE</Value></ResourceRecord>";
        let records: Vec<String> = [
            "&quot;a&amp;b&quot;",
            "&quot;&amp;quot; &lt;c&gt; &apos;&quot;",
        ]
        .map(|text| value.replace("VALUE", text))
        .into();
        let answer = format!(
            "<ResourceRecordSets><ResourceRecordSet><Name>x.example.test.</Name><Type>TXT</Type>\
             <TTL>300</TTL><ResourceRecords>{}</ResourceRecords></ResourceRecordSet>\
             </ResourceRecordSets>",
            records.concat()
        );
        let set = Set::read(&answer, "x.example.test").expect("the set");
        assert_eq!(set.ttl, 300);
        assert_eq!(set.values, ["\"a&b\"", "\"&quot; <c> '\""]);
        let body = batch("UPSERT", "x.example.test", set.ttl, &set.values);
        let written: Vec<String> = elements(&body, "Value")
            .into_iter()
            .map(unescaped)
            .collect();
        assert_eq!(written, set.values);
        assert!(body.contains("<TTL>300</TTL>"), "{body}");
        assert_eq!(Set::read(&answer, "y.example.test"), None);
    }
}
