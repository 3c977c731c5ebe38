//! DNS messages, as far as finding zones and writing TXT records needs them. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Message, OpCode, Query, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What is done with one TXT value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add { ttl: u32 },
    Remove,
}

/// A question, to a resolver (which then looks further) or to a server of the zone.
pub(super) fn query(text: &str, kind: RecordType, recurse: bool) -> Result<Message, String> {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = recurse;
    message.add_query(Query::query(name(text)?, kind));
    Ok(message)
}

/// An update of one value of one name (RFC 2136). Other values of the name stay as they are.
pub(super) fn update(
    zone: &str,
    fqdn: &str,
    value: &str,
    change: Change,
) -> Result<Message, String> {
    let (origin, owner) = (name(zone)?, name(fqdn)?);
    if !origin.zone_of(&owner) {
        return Err(format!("{fqdn} is not in the zone {zone}"));
    }
    // The library cuts nothing: a longer string would become a broken message.
    if value.len() > 255 {
        let length = value.len();
        return Err(format!(
            "a TXT string has at most 255 bytes, this one {length}"
        ));
    }
    let record = |ttl| {
        let data = RData::TXT(TXT::new(vec![value.to_owned()]));
        Record::from_rdata(owner, ttl, data)
    };
    Ok(match change {
        Change::Add { ttl } => update_message::append(record(ttl).into(), origin, false, false),
        Change::Remove => update_message::delete_by_rdata(record(0).into(), origin, false),
    })
}

/// A name as the library has it, absolute.
pub(super) fn name(text: &str) -> Result<Name, String> {
    let mut name =
        Name::from_ascii(text).map_err(|error| format!("{text:?} is not a DNS name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// A name as it is kept: lower case, without the final dot.
pub(super) fn shown(name: &Name) -> String {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// Where a record of this type says the name leads.
pub(super) fn target(record: &Record, kind: RecordType) -> Option<String> {
    match &record.data {
        RData::CNAME(target) if kind == RecordType::CNAME => Some(shown(target)),
        RData::NS(target) if kind == RecordType::NS => Some(shown(target)),
        _ => None,
    }
}

/// The address in a record.
pub(super) fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// The text of a record, in one string or several.
pub(super) fn text(record: &Record) -> Option<String> {
    match &record.data {
        RData::TXT(text) => String::from_utf8(text.txt_data.concat()).ok(),
        _ => None,
    }
}

/// Whether a record has exactly this text, in one string or several.
pub(super) fn says(record: &Record, value: &str) -> bool {
    match &record.data {
        RData::TXT(text) => text.txt_data.concat() == value.as_bytes(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_absolute_inside_and_plain_outside() {
        let absolute = name("_acme-challenge.Example.ORG").expect("a name");
        assert!(absolute.is_fqdn());
        assert_eq!(shown(&absolute), "_acme-challenge.example.org");
        for broken in ["a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(name(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_no_update_of_the_zone_is_not_sent() {
        let change = Change::Add { ttl: 60 };
        assert!(update("example.org", "a.example.org", "v", change).is_ok());
        assert!(update("example.org", "a.example.net", "v", change).is_err());
        assert!(update("example.org", "a.example.org", &"v".repeat(256), change).is_err());
    }

    #[test]
    fn a_value_in_several_strings_is_the_same_value() {
        let record = |strings: &[&str]| {
            let strings = strings.iter().map(ToString::to_string).collect();
            let data = RData::TXT(TXT::new(strings));
            Record::from_rdata(name("a.example.org").expect("a name"), 60, data)
        };
        assert!(says(&record(&["one", "two"]), "onetwo"));
        assert!(!says(&record(&["one"]), "onetwo"));
    }
}
