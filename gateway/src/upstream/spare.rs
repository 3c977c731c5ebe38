//! A copy of a request's head, for another try.
//!
//! Nearly every copy is dropped unused, so making and dropping it is what must be cheap: all fields
//! lie end to end in one buffer. A copied header map would allocate two tables and count a
//! reference for each value.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};

/// See the module.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    /// `name:value\n` for each field: no name has a colon, no value a line feed.
    fields: Vec<u8>,
}

impl Spare {
    /// Copies method, target and fields.
    pub(super) fn of(head: &request::Parts) -> Self {
        let mut fields = Vec::with_capacity(USUAL);
        for (name, value) in &head.headers {
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.push(b':');
            fields.extend_from_slice(value.as_bytes());
            fields.push(b'\n');
        }
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            fields,
        }
    }

    /// The head again.
    pub(super) fn into_head(self) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method;
        head.uri = self.uri;
        head.headers = self
            .fields
            .split(|byte| *byte == b'\n')
            .filter_map(field)
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            });
        head
    }
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
    Some((
        HeaderName::from_bytes(name).ok()?,
        HeaderValue::from_bytes(value).ok()?,
    ))
}

/// Room for the fields of most requests.
const USUAL: usize = 960;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_head() {
        let (head, ()) = Request::put("/a?b=c:d")
            .header("host", "shop.test:8080")
            .header("cookie", "a=b")
            .header("x-empty", "")
            .header("cookie", "c=d: e")
            .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
            .body(())
            .unwrap()
            .into_parts();
        let copy = Spare::of(&head).into_head();
        assert_eq!(copy.method, head.method);
        assert_eq!(copy.uri, head.uri);
        assert_eq!(copy.headers, head.headers);
    }
}
