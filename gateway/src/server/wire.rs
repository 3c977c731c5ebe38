//! The two canonical forms that matching and policy share: host and path.
//!
//! Invariants: what matches here is what policies see; the raw target is what is forwarded. A
//! spelling that a lenient backend might read as another path than the canonical one, and that
//! cannot be made canonical, is refused instead of guessed (RFC 3986, section 6; decision 0008).

use std::borrow::Cow;
use std::net::IpAddr;

/// A host as the client named it.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHost<'a> {
    /// Lower case, no port, no trailing dot: for matching.
    pub canonical: Cow<'a, str>,
    /// As sent, without its port: for redirects.
    pub as_sent: &'a str,
    /// The port, when one was named.
    pub port: Option<u16>,
}

/// Parses `uri-host [":" port]` (RFC 9112, section 3.2). `None` is a bad request: user info,
/// lists, blanks, an empty name or label, a port that is no number.
pub fn canonical_host(raw: &[u8]) -> Option<RequestHost<'_>> {
    let text = std::str::from_utf8(raw).ok()?;
    let (name, port) = split_port(text)?;
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse::<u16>().ok()?)
        }
        Some(_) => return None,
    };
    if let Some(inner) = name.strip_prefix('[') {
        let address: IpAddr = inner.strip_suffix(']')?.parse().ok()?;
        return address.is_ipv6().then_some(RequestHost {
            canonical: Cow::Owned(name.to_ascii_lowercase()),
            as_sent: name,
            port,
        });
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > 253 {
        return None;
    }
    let canonical = match letter_case(bare)? {
        Case::Lower => Cow::Borrowed(bare),
        Case::Mixed => Cow::Owned(bare.to_ascii_lowercase()),
    };
    Some(RequestHost {
        canonical,
        as_sent: name,
        port,
    })
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let (host, rest) = text
            .split_once(']')
            .map(|(host, rest)| (host.len() + 1, rest))?;
        let name = text.get(..host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, Some(port))),
            None if rest.is_empty() => Some((name, None)),
            None => None,
        };
    }
    match memchr::memchr(b':', text.as_bytes()) {
        Some(colon) => Some((text.get(..colon)?, text.get(colon + 1..))),
        None => Some((text, None)),
    }
}

enum Case {
    Lower,
    Mixed,
}

/// The case of a host name, in one pass; `None` when it is no host name.
fn letter_case(name: &str) -> Option<Case> {
    let (mut seen, mut previous) = (0, DOT);
    for byte in name.bytes() {
        let kind = KINDS.get(usize::from(byte)).copied().unwrap_or(OTHER);
        // An empty label has two dots in a row.
        seen |= kind | (kind & previous & DOT) << 1;
        previous = kind;
    }
    if seen & (OTHER | EMPTY) != 0 || previous == DOT {
        None
    } else if seen & UPPER != 0 {
        Some(Case::Mixed)
    } else {
        Some(Case::Lower)
    }
}

const LOWER: u8 = 1;
const UPPER: u8 = 2;
const DOT: u8 = 4;
const EMPTY: u8 = DOT << 1;
const OTHER: u8 = 16;

/// What the bytes of a host name are. Underscores are not allowed in one (RFC 1123) and are in
/// use all the same.
const KINDS: [u8; 256] = {
    let mut kinds = [OTHER; 256];
    let mut byte = 0;
    while byte < 128u8 {
        #[expect(
            clippy::indexing_slicing,
            reason = "in range, and evaluated when compiled"
        )]
        let kind = &mut kinds[byte as usize];
        *kind = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'.' => DOT,
            _ => OTHER,
        };
        byte += 1;
    }
    kinds
};

/// The path that routes and policies see: percent-decoded, slashes merged, dot segments resolved,
/// as nginx does before it chooses a location.
///
/// Octets that do not decode to UTF-8 stay encoded (upper-case hex), so the result is text and
/// the mapping is still one to one. `None` is a bad request: a broken escape, a NUL, a path that
/// climbs above its root, and dot segments hidden behind a backslash or a path parameter
/// (`..;x`, `..\`), which some backends resolve and others do not.
pub fn canonical_path(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.starts_with('/') {
        return None;
    }
    if is_canonical(raw.as_bytes()) {
        return Some(Cow::Borrowed(raw));
    }
    let decoded = decode(raw.as_bytes())?;
    resolve(&decoded).map(Cow::Owned)
}

/// Whether nothing in the path needs a second look: the usual case, one scan and no copy.
fn is_canonical(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        let suspicious = match byte {
            b'%' | b'\\' | b';' | 0x80.. => true,
            b'/' | b'.' => previous == b'/',
            _ => false,
        };
        if suspicious {
            return false;
        }
        previous = byte;
    }
    true
}

fn decode(raw: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let high = hex_digit(*rest.next()?)?;
            let low = hex_digit(*rest.next()?)?;
            bytes.push(high << 4 | low);
        } else {
            bytes.push(byte);
        }
    }
    if bytes.contains(&0) || has_overlong(&bytes) {
        return None;
    }
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => keep_encoded(error.as_bytes()),
    })
}

/// Dots, slashes and backslashes written with more octets than they need. No encoder makes them,
/// and lenient decoders read them as the plain character.
fn has_overlong(bytes: &[u8]) -> bool {
    OVERLONG
        .iter()
        .any(|form| memchr::memmem::find(bytes, form).is_some())
}

/// Valid UTF-8 as it is, everything else as `%XX`.
fn keep_encoded(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn resolve(path: &str) -> Option<String> {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in path.split('/').skip(1) {
        directory = false;
        match segment {
            "" | "." => directory = true,
            ".." => {
                segments.pop()?;
                directory = true;
            }
            hidden if hides_dots(hidden) => return None,
            plain => segments.push(plain),
        }
    }
    let mut canonical = String::with_capacity(path.len());
    for segment in &segments {
        canonical.push('/');
        canonical.push_str(segment);
    }
    if directory || segments.is_empty() {
        canonical.push('/');
    }
    Some(canonical)
}

fn hides_dots(segment: &str) -> bool {
    segment
        .split('\\')
        .map(|part| part.split_once(';').map_or(part, |(name, _)| name))
        .any(|name| matches!(name, "." | ".."))
}

/// `.`, `/` and `\\` in two, three and four octets.
const OVERLONG: [&[u8]; 9] = [
    b"\xc0\xae",
    b"\xc0\xaf",
    b"\xc1\x9c",
    b"\xe0\x80\xae",
    b"\xe0\x80\xaf",
    b"\xe0\x81\x9c",
    b"\xf0\x80\x80\xae",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x80\x81\x9c",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn host(raw: &str) -> Option<(String, Option<u16>)> {
        canonical_host(raw.as_bytes()).map(|h| (h.canonical.into_owned(), h.port))
    }

    #[test]
    fn hosts_lose_case_port_and_trailing_dot() {
        assert_eq!(host("Example.TEST"), Some(("example.test".into(), None)));
        assert_eq!(
            host("example.test:8080"),
            Some(("example.test".into(), Some(8080)))
        );
        assert_eq!(host("example.test."), Some(("example.test".into(), None)));
        assert_eq!(host("a_b.test:"), Some(("a_b.test".into(), None)));
        assert_eq!(host("[::1]:80"), Some(("[::1]".into(), Some(80))));
        assert_eq!(host("127.0.0.1"), Some(("127.0.0.1".into(), None)));
    }

    #[test]
    fn hosts_that_are_no_host_are_refused() {
        for raw in [
            "",
            ".",
            "a..b",
            "a@b",
            "a/b",
            "a b",
            "a,b",
            "a:b",
            "a:-1",
            "a:99999",
            "a:80:80",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "a\u{e9}.test",
            "*.test",
            ":80",
        ] {
            assert_eq!(host(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn paths_take_the_form_that_nginx_matches() {
        for (raw, canonical) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/%75uid", "/uuid"),
            ("/a%2Fb", "/a/b"),
            ("/a%2f%2e%2e%2fb", "/b"),
            ("/a;b=c", "/a;b=c"),
            ("/a\\b", "/a\\b"),
            ("/...", "/..."),
            ("/.well-known", "/.well-known"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/caf%e9", "/caf%E9"),
            ("/sp%20ace", "/sp ace"),
            ("/sp%2520ace", "/sp%20ace"),
        ] {
            assert_eq!(canonical_path(raw).as_deref(), Some(canonical), "{raw}");
        }
    }

    #[test]
    fn paths_without_a_canonical_form_are_refused() {
        for raw in [
            "",
            "a",
            "*",
            "/%",
            "/%z",
            "/%zz",
            "/a%00b",
            "/..",
            "/a/../..",
            "/%2e%2e/x",
            "/a/..;/b",
            "/a/.;x/b",
            "/a/..\\b",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/a/%c0%ae%c0%ae/b",
            "/a%e0%80%afb",
        ] {
            assert_eq!(canonical_path(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn a_canonical_path_is_its_own_canonical_form() {
        for raw in ["/", "/a/b/", "//x//..//y", "/a/%2e/b"] {
            let once = canonical_path(raw).unwrap().into_owned();
            assert_eq!(canonical_path(&once).as_deref(), Some(once.as_str()));
        }
    }
}
