//! Values of settings as people write them: durations, sizes, networks, header fields.
//!
//! Pure. Every function takes the text of a value and gives the typed one, or `None`; the caller
//! knows the name of the setting and says what was expected. The forms are those of nginx, so
//! that the values of an ingress-nginx ConfigMap read the same here.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use gatehouse_gateway::model::Balance;
use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

/// `true` or `false`, and the spellings that YAML 1.1 knows.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `5` (seconds), `500ms`, `5s`, `2m`, `1h`, `1d`. Longer than zero, shorter than a year:
/// deadlines that never come do not exist here.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = split_unit(text)?;
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3_600)?),
        "d" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    };
    (duration <= Duration::from_secs(365 * 86_400)).then_some(duration)
}

/// As [`duration`], but longer than zero.
pub(super) fn deadline(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| !duration.is_zero())
}

/// Bytes: `1024`, `8k`, `16m`, `1g`; 0 means no limit where the setting says so.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) = split_unit(&text)?;
    let factor = match unit {
        "" | "b" => 1,
        "k" | "kb" | "ki" => 1 << 10,
        "m" | "mb" | "mi" => 1 << 20,
        "g" | "gb" | "gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Networks separated by commas or white space; an address stands for itself alone.
pub(super) fn networks(text: &str) -> Option<Vec<IpNet>> {
    let mut networks: Vec<IpNet> = words(text)
        .map(|word| {
            word.parse::<IpNet>()
                .ok()
                .or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
                .map(|network| network.trunc())
        })
        .collect::<Option<_>>()?;
    networks.sort_unstable();
    networks.dedup();
    Some(networks)
}

/// Name of a header field.
pub(super) fn header_name(text: &str) -> Option<HeaderName> {
    text.trim().parse().ok()
}

/// `Name: value`, one a line.
pub(super) fn header_lines(text: &str) -> Option<super::settings::HeaderLines> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let name: HeaderName = name.trim().parse().ok()?;
            let value = value.trim();
            HeaderValue::from_str(value).ok()?;
            Some((name.as_str().into(), value.into()))
        })
        .collect()
}

/// A redirect status that keeps or changes the method as its number says.
pub(super) fn redirect_status(text: &str) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(text.trim().as_bytes()).ok()?;
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308).then_some(status)
}

/// A way of balancing; `ewma` is the name ingress-nginx has for it.
pub(super) fn balance(text: &str) -> Option<Balance> {
    match text.trim() {
        "round_robin" => Some(Balance::RoundRobin),
        "least_request" => Some(Balance::LeastRequest),
        "ewma" => Some(Balance::PeakEwma),
        "client_hash" => Some(Balance::ClientHash),
        _ => None,
    }
}

/// Path prefixes separated by commas.
pub(super) fn paths(text: &str) -> Option<Vec<Arc<str>>> {
    words(text)
        .map(|word| word.starts_with('/').then(|| word.into()))
        .collect()
}

/// `namespace/name`.
pub(super) fn namespaced_name(text: &str) -> Result<(Arc<str>, Arc<str>), String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_dns_label(namespace) && is_subdomain(name) => {
            Ok((namespace.into(), name.into()))
        }
        _ => Err(
            "write it as namespace/name, for example `web/shop`: each of lower-case letters, \
             digits and `-`, the name with `.` as well, between letters or digits"
                .into(),
        ),
    }
}

/// A DNS label, as names of namespaces and most others are.
pub(super) fn label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(
        "use lower-case letters, digits and `-`, at most 63 of them, the first and the last a letter \
         or digit"
            .into(),
    )
}

/// A DNS label, or nothing: a variable of the environment may be set and empty.
pub(super) fn label_if_any(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    label(text)
}

/// A DNS name, as names of pods are, or nothing.
pub(super) fn subdomain_if_any(text: &str) -> Result<String, String> {
    if text.is_empty() || is_subdomain(text) {
        return Ok(text.to_owned());
    }
    Err(
        "use lower-case letters, digits, `-` and `.`, at most 253 of them, with a letter or digit \
         first, last and around each `.`"
            .into(),
    )
}

/// `HOST:PORT`, with an address or a name such as `localhost`; port 0 takes a free one.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    const REMEDY: &str =
        "write HOST:PORT, for example `127.0.0.1:8080`, `[::]:8080` or `0.0.0.0:0`";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.rsplit_once(':') {
        Some(("", _)) => Err(format!("the host is missing; {REMEDY}")),
        Some((host, port)) if port.parse::<u16>().is_err() => Err(format!(
            "`{port}` is no port (0 to 65535) of host `{host}`; {REMEDY}"
        )),
        Some((host, _)) => text
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| format!("host `{host}` does not resolve; {REMEDY}")),
        None => Err(format!("the port is missing; {REMEDY}")),
    }
}

/// RFC 1123 label: the name of a namespace.
fn is_dns_label(text: &str) -> bool {
    is_label(text, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
    })
}

/// RFC 1123 subdomain: the name of most objects. Kubernetes bounds the whole, not its labels.
pub(super) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty()
            && part.bytes().all(known)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// 1 to 63 of these letters, no `-` at the ends.
pub(super) fn is_label(text: &str, known: impl Fn(u8) -> bool) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(known)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number, unit.trim_start()))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\n'])
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_units_of_nginx() {
        assert_eq!(duration("60"), Some(Duration::from_secs(60)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration(" 2m "), Some(Duration::from_secs(120)));
        for bad in ["", "s", "5 parsecs", "-1", "1.5s", "99999999999d", "0x5"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(deadline("0"), None);
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_follows() {
        assert_eq!(size("8k"), Some(8192));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("16M"), Some(16 << 20));
        assert_eq!(size("17179869184g"), None);
        assert_eq!(size("8x"), None);
    }

    #[test]
    fn one_bad_network_spoils_the_list() {
        assert_eq!(
            networks("10.0.0.7/8, 192.0.2.1").map(|list| list.len()),
            Some(2)
        );
        assert_eq!(networks("10.0.0.0/8,10.0.0.0/33"), None);
        assert_eq!(networks("example.com"), None);
    }

    #[test]
    fn listen_addresses_say_what_is_missing() {
        assert!(listen_address("127.0.0.1:0").is_ok());
        assert!(listen_address("[::1]:80").is_ok());
        let missing = [
            ("8080", "port is missing"),
            (":8080", "host is missing"),
            ("127.0.0.1:99999", "no port"),
        ];
        for (bad, why) in missing {
            let message = listen_address(bad).unwrap_err();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }
}
