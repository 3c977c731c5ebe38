//! Signatures of requests to Amazon's interfaces (AWS Signature Version 4).
//!
//! Pure: time and request are given. Checked against the examples that Amazon publishes.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::secrets::Secret;

/// Who signs, and for what.
pub(super) struct Signer<'a> {
    pub(super) key_id: &'a str,
    pub(super) secret: &'a Secret,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// What is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// Path, with what needs it percent-encoded.
    pub(super) path: &'a str,
    /// Query, its parameters encoded and sorted.
    pub(super) query: &'a str,
    /// Fields in lower case, sorted by name.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// The time as `X-Amz-Date` has it.
pub(super) fn date(now: Timestamp) -> String {
    let now = now.to_zoned(TimeZone::UTC);
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

impl Signer<'_> {
    /// Value of `Authorization`; `date` is that of the field `x-amz-date`.
    pub(super) fn authorization(&self, date: &str, request: &Signed<'_>) -> String {
        let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut headers = String::new();
        for (name, value) in request.headers {
            writeln!(headers, "{name}:{}", value.trim()).ok();
        }
        let canonical = format!(
            "{}\n{}\n{}\n{headers}\n{names}\n{}",
            request.method,
            request.path,
            request.query,
            hashed(request.body)
        );
        let day = date.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            hashed(canonical.as_bytes())
        );

        let first = [b"AWS4", self.secret.expose().trim_ascii()].concat();
        let parts = [day, self.region, self.service, "aws4_request"];
        let key = parts
            .iter()
            .fold(first, |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key_id
        )
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text).as_ref().to_vec()
}

fn hashed(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the published examples: name, method, query, signature.
    const EXAMPLES: &[(&str, &str, &str, &str)] = &[
        (
            "get-vanilla",
            "GET",
            "",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "Param1=value1&Param2=value2",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "post-vanilla",
            "POST",
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
    ];

    #[test]
    fn the_published_examples_have_the_published_signatures() {
        let secret = Secret::new(*b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let signer = Signer {
            key_id: "AKIDEXAMPLE",
            secret: &secret,
            region: "us-east-1",
            service: "service",
        };
        let date = "20150830T123600Z";
        for (name, method, query, signature) in EXAMPLES {
            let request = Signed {
                method,
                path: "/",
                query,
                headers: &[("host", "example.amazonaws.com"), ("x-amz-date", date)],
                body: b"",
            };
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={signature}"
            );
            assert_eq!(signer.authorization(date, &request), expected, "{name}");
        }
    }

    #[test]
    fn the_time_is_written_in_universal_time_without_punctuation() {
        let now: Timestamp = "2015-08-30T12:36:00Z".parse().expect("a time");
        assert_eq!(date(now), "20150830T123600Z");
    }
}
