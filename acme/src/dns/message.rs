//! DNS messages (RFC 1035), as far as finding zones and writing TXT records needs them.
//!
//! Pure. Everything that is read comes from outside: no byte is believed to be there, a compressed
//! name cannot loop, and the number of records is bounded by the length of the message.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Types of records.
pub(super) mod kind {
    pub(in crate::dns) const A: u16 = 1;
    pub(in crate::dns) const NS: u16 = 2;
    pub(in crate::dns) const CNAME: u16 = 5;
    pub(in crate::dns) const SOA: u16 = 6;
    pub(in crate::dns) const TXT: u16 = 16;
    pub(in crate::dns) const AAAA: u16 = 28;
    pub(in crate::dns) const TSIG: u16 = 250;
}

/// Classes: of data, of a removal (RFC 2136, section 2.5.4), of everything.
pub(super) const IN: u16 = 1;
pub(super) const NONE: u16 = 254;
pub(super) const ANY: u16 = 255;

/// Codes of an answer that mean something here.
pub(super) mod rcode {
    pub(in crate::dns) const SUCCESS: u8 = 0;
    pub(in crate::dns) const NO_NAME: u8 = 3;
    pub(in crate::dns) const REFUSED: u8 = 5;
    pub(in crate::dns) const NOT_AUTH: u8 = 9;
    pub(in crate::dns) const NOT_ZONE: u8 = 10;
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) rcode: u8,
    pub(super) answers: Vec<Record>,
    pub(super) additional: Vec<Record>,
}

/// A record that was read. Names are lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) data: Data,
    /// Where the record begins in the message.
    pub(super) offset: usize,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// NS or CNAME.
    Name(String),
    /// The strings of one record, put together.
    Txt(Vec<u8>),
    /// Anything else, as it came.
    Other(Vec<u8>),
}

/// What is done with one TXT value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add { ttl: u32 },
    Remove,
}

/// A question, to a resolver (which then looks further) or to a server of the zone.
pub(super) fn query(id: u16, name: &str, kind: u16, recurse: bool) -> Result<Vec<u8>, String> {
    let flags: u16 = if recurse { 0x0100 } else { 0 };
    let mut out = header(id, flags, [1, 0, 0, 0]);
    put_name(&mut out, name)?;
    put(&mut out, kind);
    put(&mut out, IN);
    Ok(out)
}

/// An update of one value of one name (RFC 2136). Other values of the name stay as they are.
pub(super) fn update(
    id: u16,
    zone: &str,
    name: &str,
    value: &str,
    change: Change,
) -> Result<Vec<u8>, String> {
    let mut out = header(id, 5 << 11, [1, 0, 1, 0]);
    put_name(&mut out, zone)?;
    put(&mut out, kind::SOA);
    put(&mut out, IN);

    let (class, ttl) = match change {
        Change::Add { ttl } => (IN, ttl),
        Change::Remove => (NONE, 0),
    };
    let length = u8::try_from(value.len()).map_err(|_| {
        format!(
            "a TXT string has at most 255 bytes, this one {}",
            value.len()
        )
    })?;
    put_name(&mut out, name)?;
    put(&mut out, kind::TXT);
    put(&mut out, class);
    out.extend_from_slice(&ttl.to_be_bytes());
    put(&mut out, u16::from(length) + 1);
    out.push(length);
    out.extend_from_slice(value.as_bytes());
    Ok(out)
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    put(&mut out, id);
    put(&mut out, flags);
    for count in counts {
        put(&mut out, count);
    }
    out
}

pub(super) fn put(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A name in wire form, lower case, never compressed.
pub(super) fn put_name(out: &mut Vec<u8>, name: &str) -> Result<(), String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let begin = out.len();
    for label in name.split('.').filter(|_| !name.is_empty()) {
        let length = u8::try_from(label.len()).ok();
        let length = length.filter(|length| (1..=63).contains(length));
        let length = length.ok_or_else(|| format!("{name:?} is not a DNS name"))?;
        out.push(length);
        out.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    out.push(0);
    if out.len() - begin > 255 {
        return Err(format!("{name:?} is longer than DNS allows"));
    }
    Ok(())
}

/// Reads an answer to a question.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader { bytes, at: 0 };
    let id = reader.short()?;
    let flags = reader.short()?;
    let mut counts = [0; 4];
    for count in &mut counts {
        *count = reader.short()?;
    }
    let [questions, answers, authority, additional] = counts;
    for _ in 0..questions {
        reader.name()?;
        reader.take(4)?;
    }
    let answers = reader.records(answers)?;
    reader.records(authority)?;
    let additional = reader.records(additional)?;
    // The highest bit marks an answer.
    (flags & 0x8000 != 0).then_some(Message {
        id,
        rcode: (flags & 15) as u8,
        answers,
        additional,
    })
}

/// Reads bytes from the front; nothing beyond the end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub(super) fn short(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    }

    /// A name, which may go on anywhere before.
    pub(super) fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        let mut end = None;
        // 128 labels are the most that fit into 255 bytes; more steps are a loop.
        for _ in 0..256 {
            let length = usize::from(*self.bytes.get(at)?);
            at += 1;
            match length {
                0 => {
                    self.at = end.unwrap_or(at);
                    return Some(name);
                }
                1..=63 => {
                    let label = self.bytes.get(at..at + length)?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    let lower = label.iter().map(u8::to_ascii_lowercase);
                    name.extend(lower.map(char::from));
                    at += length;
                }
                192.. => {
                    let low = usize::from(*self.bytes.get(at)?);
                    end = end.or(Some(at + 1));
                    at = (length & 63) << 8 | low;
                }
                _ => return None,
            }
            if name.len() > 1_000 {
                return None;
            }
        }
        None
    }

    fn records(&mut self, count: u16) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(self.record()?);
        }
        Some(records)
    }

    fn record(&mut self) -> Option<Record> {
        let offset = self.at;
        let name = self.name()?;
        let kind = self.short()?;
        self.take(6)?;
        let length = usize::from(self.short()?);
        let begin = self.at;
        let content = self.take(length)?;
        let data = match kind {
            kind::A => Data::A(<[u8; 4]>::try_from(content).ok()?.into()),
            kind::AAAA => Data::Aaaa(<[u8; 16]>::try_from(content).ok()?.into()),
            kind::NS | kind::CNAME => {
                let mut inner = Reader {
                    bytes: self.bytes,
                    at: begin,
                };
                Data::Name(inner.name()?)
            }
            kind::TXT => Data::Txt(strings(content)?),
            _ => Data::Other(content.to_vec()),
        };
        Some(Record {
            name,
            kind,
            data,
            offset,
        })
    }
}

fn strings(content: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(content);
    let mut text = Vec::new();
    while reader.at < content.len() {
        let length = usize::from(*reader.take(1)?.first()?);
        text.extend_from_slice(reader.take(length)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_with_compressed_names_is_read() {
        let mut bytes = query(7, "WWW.example.org", kind::CNAME, true).expect("a query");
        bytes[2] |= 0x80;
        bytes[7] = 1;
        // The owner points to the question, the target to its second label.
        bytes.extend_from_slice(&[
            0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 6, 3, b'c', b'd', b'n', 0xc0, 16,
        ]);
        let message = parse(&bytes).expect("a message");
        assert_eq!(message.id, 7);
        assert_eq!(message.answers[0].name, "www.example.org");
        assert_eq!(
            message.answers[0].data,
            Data::Name("cdn.example.org".into())
        );
    }

    #[test]
    fn a_name_that_points_at_itself_is_refused() {
        let mut bytes = header(1, 0x8000, [1, 0, 0, 0]);
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(parse(&bytes), None);
    }

    #[test]
    fn a_question_is_no_answer() {
        let bytes = query(1, "example.org", kind::A, true).expect("a query");
        assert_eq!(parse(&bytes), None);
    }

    #[test]
    fn what_is_no_name_or_too_long_a_value_is_not_sent() {
        for name in ["a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(query(1, name, kind::A, true).is_err(), "{name}");
        }
        let long = "v".repeat(256);
        assert!(update(1, "a.b", "c.a.b", &long, Change::Remove).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What matters is that it comes back.
            drop(parse(&bytes));
        }

        #[test]
        fn a_name_that_was_written_reads_as_itself(name in "([a-z0-9_-]{1,20}\\.){0,5}[a-z]{1,10}") {
            let mut bytes = Vec::new();
            put_name(&mut bytes, &name).expect("a name");
            prop_assert_eq!(Reader::new(&bytes).name(), Some(name));
        }
    }
}
