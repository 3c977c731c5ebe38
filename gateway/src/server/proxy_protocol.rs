//! The PROXY protocol, versions 1 and 2, as a balancer sends it before anything else.
//!
//! A peer that is trusted to send it must send it: were it optional, a client behind the balancer
//! could forge one. Everybody else's bytes are taken as they are, and make a bad request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxied {
    /// Source and destination, or `None` when the balancer speaks for itself (a health check) or
    /// does not know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Length of the header in bytes.
    pub length: usize,
}

/// State of reading a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// So far so good; more bytes are needed.
    Partial,
    /// The whole header.
    Header(Proxied),
    /// Not a PROXY protocol header.
    Malformed,
}

/// Reads a header from the start of a connection.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(V2) {
        return parse_v2(bytes).unwrap_or(Parsed::Malformed);
    }
    if V2.starts_with(bytes) || V1.starts_with(bytes) {
        return Parsed::Partial;
    }
    if bytes.starts_with(V1) {
        parse_v1(bytes)
    } else {
        Parsed::Malformed
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = bytes.get(..V1_LONGEST).unwrap_or(bytes);
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        return if bytes.len() < V1_LONGEST {
            Parsed::Partial
        } else {
            Parsed::Malformed
        };
    };
    let line = window
        .get(..end)
        .and_then(|line| std::str::from_utf8(line).ok());
    match line.and_then(v1_addresses) {
        Some(V1Line::Known(source, destination)) => Parsed::Header(Proxied {
            addresses: Some((source, destination)),
            length: end + 2,
        }),
        Some(V1Line::Unknown) => Parsed::Header(Proxied {
            addresses: None,
            length: end + 2,
        }),
        None => Parsed::Malformed,
    }
}

enum V1Line {
    Unknown,
    Known(SocketAddr, SocketAddr),
}

fn v1_addresses(line: &str) -> Option<V1Line> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(V1Line::Unknown);
    }
    let source: IpAddr = words.next()?.parse().ok()?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let ports = (port(words.next()?)?, port(words.next()?)?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (fits && words.next().is_none())
        .then(|| V1Line::Known((source, ports.0).into(), (destination, ports.1).into()))
}

fn port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// `None` is a malformed header.
fn parse_v2(bytes: &[u8]) -> Option<Parsed> {
    let Some((head, rest)) = bytes.split_at_checked(V2_HEAD) else {
        return Some(Parsed::Partial);
    };
    let &[command, family, high, low] = head.get(V2.len()..)? else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_LONGEST {
        return None;
    }
    let Some(payload) = rest.get(..length) else {
        return Some(Parsed::Partial);
    };
    let (addresses, tlvs) = match (command, family) {
        (0x20, _) | (0x21, 0x00) => (None, &[][..]),
        (0x21, 0x11) => v2_addresses(payload, v4)?,
        (0x21, 0x21) => v2_addresses(payload, v6)?,
        _ => return None,
    };
    tlvs_fit(tlvs).then_some(Parsed::Header(Proxied {
        addresses,
        length: V2_HEAD + length,
    }))
}

/// What was read, and what is behind it.
type Read<'a, T> = Option<(T, &'a [u8])>;

/// Source and destination; `address` reads one of this family.
fn v2_addresses(
    payload: &[u8],
    address: fn(&[u8]) -> Read<'_, IpAddr>,
) -> Read<'_, Option<(SocketAddr, SocketAddr)>> {
    let (source, payload) = address(payload)?;
    let (destination, payload) = address(payload)?;
    let ([sh, sl, dh, dl], tlvs) = payload.split_first_chunk::<4>()?;
    let source = SocketAddr::new(source, u16::from_be_bytes([*sh, *sl]));
    let destination = SocketAddr::new(destination, u16::from_be_bytes([*dh, *dl]));
    Some((Some((source, destination)), tlvs))
}

fn v4(payload: &[u8]) -> Read<'_, IpAddr> {
    let (octets, rest) = payload.split_first_chunk::<4>()?;
    Some((Ipv4Addr::from(*octets).into(), rest))
}

fn v6(payload: &[u8]) -> Read<'_, IpAddr> {
    let (octets, rest) = payload.split_first_chunk::<16>()?;
    Some((Ipv6Addr::from(*octets).into(), rest))
}

/// We use no TLV, but one that overruns the header shows that sender and we disagree.
fn tlvs_fit(mut tlvs: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = tlvs.split_first_chunk::<3>() {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) => tlvs = next,
            None => return false,
        }
    }
    tlvs.is_empty()
}

const V1: &[u8] = b"PROXY ";
/// The longest legal line, with its end.
const V1_LONGEST: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
const V2_LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [V2, &[command, family]].concat();
        bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn version_one_tells_both_addresses() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /";
        let addresses = Some((
            "192.0.2.1:56324".parse().unwrap(),
            "192.0.2.2:443".parse().unwrap(),
        ));
        assert_eq!(
            parse(line),
            Parsed::Header(Proxied {
                addresses,
                length: 42
            })
        );
        for end in 0..42 {
            assert_eq!(parse(&line[..end]), Parsed::Partial, "{end}");
        }
        assert_eq!(
            parse(b"PROXY UNKNOWN\r\n"),
            Parsed::Header(Proxied {
                addresses: None,
                length: 15
            })
        );
    }

    #[test]
    fn malformed_headers_are_refused() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Parsed::Malformed, "{line}");
        }
        assert_eq!(
            parse(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()),
            Parsed::Malformed
        );
    }

    #[test]
    fn version_two_checks_its_lengths() {
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 1, 0xbb];
        let with_tlv = [&addresses[..], &[4, 0, 2, 1, 2]].concat();
        let Parsed::Header(header) = parse(&v2(0x21, 0x11, &with_tlv)) else {
            panic!()
        };
        let (source, destination) = header.addresses.unwrap();
        assert_eq!(source.to_string(), "192.0.2.1:8080");
        assert_eq!(destination.port(), 443);
        assert_eq!(header.length, 33);
        let overrun = [&addresses[..], &[4, 0, 9, 1, 2]].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &overrun)), Parsed::Malformed);
        assert_eq!(parse(&v2(0x21, 0x11, &addresses[..8])), Parsed::Malformed);
        assert_eq!(parse(&v2(0x22, 0x11, &addresses)), Parsed::Malformed);
        let local = parse(&v2(0x20, 0x00, &[]));
        assert_eq!(
            local,
            Parsed::Header(Proxied {
                addresses: None,
                length: 16
            })
        );
    }
}
