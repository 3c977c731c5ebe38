//! Hosts of rules. A host is a DNS name or one leading `*.`; it never is an address or a port.

use std::net::IpAddr;

use gatehouse_gateway::model::HostPattern;

/// Parses the host of a rule; the empty one is every host. The error says what is wrong.
pub fn parse(host: &str) -> Result<HostPattern, &'static str> {
    if host.is_empty() {
        return Ok(HostPattern::Any);
    }
    let lower = host.to_ascii_lowercase();
    if let Some(suffix) = lower.strip_prefix("*.") {
        check(suffix)?;
        return Ok(HostPattern::Wildcard(suffix.into()));
    }
    check(&lower)?;
    Ok(HostPattern::Exact(lower.into()))
}

/// RFC 1123 labels. An underscore is tolerated: such names resolve and real clusters use them.
fn check(name: &str) -> Result<(), &'static str> {
    if name.parse::<IpAddr>().is_ok() || name.starts_with('[') {
        return Err("it is an address: leave the host out to serve requests for addresses");
    }
    if name == "*" || name.contains('*') {
        return Err("a wildcard is one leading `*.`: leave the host out to serve every host");
    }
    if name.contains(':') {
        return Err("it has a port: a rule is for every port");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("a label between two dots has 1 to 63 characters");
        }
        if !label.bytes().all(fits) || label.starts_with('-') || label.ends_with('-') {
            return Err("a label is made of letters, digits and inner `-`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lower_case_names_with_at_most_one_wildcard() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        assert_eq!(parse("Shop.Example"), exact("shop.example"));
        assert_eq!(parse("a_b.example"), exact("a_b.example"));
        assert_eq!(parse("localhost"), exact("localhost"));
        let wildcard = HostPattern::Wildcard("shop.example".into());
        assert_eq!(parse("*.shop.example"), Ok(wildcard));
        assert_eq!(parse(""), Ok(HostPattern::Any));
        let long = "a".repeat(64);
        for bad in [
            "*", "a.*.b", "*.*.b", "*x.b", "10.0.0.1", "::1", "[::1]", "a:80", "a..b", ".a", "a.",
            "-a.b", "a-.b", "a b", "ä.b", "a/b", "*.", &long,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
