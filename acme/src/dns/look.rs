//! What DNS says about a host before anybody orders for it: its addresses, and who may issue (CAA,
//! RFC 8659). Reads only.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::{RData, RecordType};
use serde::{Deserialize, Serialize};

use super::message::address;
use super::resolve::Resolver;
use crate::http::shown;
use crate::names::Name;

/// The records that decide who may issue for a name, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caa {
    /// The name itself, or the nearest one above that has such records.
    pub at: String,
    /// The records, at most sixteen.
    pub records: Vec<CaaRecord>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaaRecord {
    /// `issue`, `issuewild` or another property.
    pub tag: String,
    /// Its value.
    pub value: String,
    /// Whether an authority that does not know the property must not issue.
    pub critical: bool,
}

/// All addresses of a host, sorted. The error is a sentence.
pub async fn addresses(servers: &[SocketAddr], host: &str) -> Result<Vec<IpAddr>, String> {
    let resolver = Resolver::new(servers.to_vec())?;
    let mut found = BTreeSet::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = resolver.ask(host, kind).await;
        let answer = answer.map_err(|error| error.to_string())?;
        found.extend(answer.answers.iter().filter_map(address));
    }
    Ok(found.into_iter().take(MOST).collect())
}

/// Who may issue for a host; `None` if no record says anything. The error is a sentence.
pub async fn caa(servers: &[SocketAddr], host: &str) -> Result<Option<Caa>, String> {
    let resolver = Resolver::new(servers.to_vec())?;
    let mut candidate = Some(host);
    while let Some(name) = candidate.filter(|name| !name.is_empty()) {
        let answer = resolver.ask(name, RecordType::CAA).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let records = answer
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::CAA(caa) => Some(CaaRecord {
                    tag: shown(&caa.tag.to_ascii_lowercase(), LONGEST),
                    value: shown(&String::from_utf8_lossy(&caa.value), LONGEST),
                    critical: caa.issuer_critical,
                }),
                _ => None,
            });
        let records: Vec<CaaRecord> = records.take(MOST).collect();
        if !records.is_empty() {
            let at = name.to_owned();
            return Ok(Some(Caa { at, records }));
        }
        candidate = name.split_once('.').map(|(_, rest)| rest);
    }
    Ok(None)
}

impl Caa {
    /// Authorities that may issue for a name: none at all, if the list is empty; all, if `None`.
    pub fn may(&self, name: &Name) -> Option<Vec<&str>> {
        let has = |tag: &str| self.records.iter().any(|record| record.tag == tag);
        let tag = if name.is_wildcard() && has("issuewild") {
            "issuewild"
        } else {
            "issue"
        };
        let records = self.records.iter().filter(|record| record.tag == tag);
        // Parameters such as `accounturi` follow a semicolon.
        let authorities =
            records.map(|record| record.value.split(';').next().unwrap_or_default().trim());
        has(tag).then(|| {
            authorities
                .filter(|authority| !authority.is_empty())
                .collect()
        })
    }
}

/// Records and addresses of one name that are looked at.
const MOST: usize = 16;

/// Letters of a value.
const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_decide_who_may_issue() {
        let caa = |records: &[(&str, &str)]| Caa {
            at: "example.org".into(),
            records: records
                .iter()
                .map(|(tag, value)| CaaRecord {
                    tag: (*tag).into(),
                    value: (*value).into(),
                    critical: false,
                })
                .collect(),
        };
        let name = Name::parse("a.example.org").expect("a name");
        let wild = Name::parse("*.example.org").expect("a name");
        let one = caa(&[("issue", "ca.example; accounturi=https://ca.example/1")]);
        assert_eq!(one.may(&name), Some(vec!["ca.example"]));
        assert_eq!(one.may(&wild), Some(vec!["ca.example"]));
        let two = caa(&[("issue", "ca.example"), ("issuewild", ";")]);
        assert_eq!(two.may(&name), Some(vec!["ca.example"]));
        assert_eq!(two.may(&wild), Some(vec![]));
        assert_eq!(caa(&[("iodef", "mailto:a@b")]).may(&name), None);
        assert_eq!(caa(&[("issuewild", "ca.example")]).may(&name), None);
    }
}
