//! Looks for private keys where none may be.
//!
//! A key is known in every form in which it could slip out: the lines of its PEM, its DER in base64
//! and in hexadecimal, the DER's secret number alone, and as a list of bytes, which is what `Debug`
//! prints.

use std::fs;
use std::ops::Range;
use std::path::Path;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

/// Private keys of one or more vaults.
#[derive(Default)]
pub struct Keys {
    /// Where it is from, and its DER.
    keys: Vec<(String, Vec<u8>)>,
}

impl Keys {
    /// All keys that were ever in this directory vault and still are, versions before included.
    pub fn of(vault: &Path) -> Self {
        let mut keys = Self::default();
        keys.collect(vault);
        keys
    }

    /// One more, as PEM.
    pub fn add(&mut self, place: &str, pem: &str) {
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        let text: String = lines.collect();
        let der = BASE64_STANDARD.decode(text.trim()).expect("PEM of a key");
        if !self.keys.iter().any(|(_, known)| *known == der) {
            self.keys.push((place.to_owned(), der));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The first key that this text gives away, and in which form. One that is not known is found
    /// where its beginning is.
    pub fn found_in(&self, text: &str) -> Option<String> {
        let mut patterns: Vec<String> = BEGINNINGS.iter().map(ToString::to_string).collect();
        let mut meanings = vec!["a private key".to_owned(); patterns.len()];
        for (place, der) in &self.keys {
            for (form, mut secret) in forms(der) {
                secret.truncate(ENOUGH);
                patterns.push(secret);
                meanings.push(format!("the key of {place} as {form}"));
            }
        }
        let search = AhoCorasick::new(patterns).expect("patterns");
        let dense: String = text.split_whitespace().collect();
        let escaped = dense.replace("\\n", "");
        let small = dense.to_ascii_lowercase();
        [dense, escaped, small].iter().find_map(|text| {
            let hit = search.find(text)?;
            Some(meanings[hit.pattern().as_usize()].clone())
        })
    }

    /// Panics if the text of this name gives a key away.
    pub fn assert_not_in(&self, what: &str, text: &str) {
        if let Some(found) = self.found_in(text) {
            panic!("{what} gives away {found}:\n{text}");
        }
    }

    fn collect(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder of the vault") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.collect(&path);
                continue;
            }
            // Written aside and renamed meanwhile, or being removed.
            let text = fs::read(&path).unwrap_or_default();
            let Ok(sheet) = serde_json::from_slice::<Value>(&text) else {
                continue;
            };
            for file in sheet["files"].as_array().into_iter().flatten() {
                let name = file[0].as_str().unwrap_or_default();
                let text = file[1].as_str().unwrap_or_default();
                if text.contains("PRIVATE KEY") {
                    self.add(&format!("{} {name}", path.display()), text);
                }
            }
        }
    }
}

/// How every private key begins, without white space: as PEM, and in PKCS#8 those of P-256, P-384 and RSA
/// in base64, P-256 in hexadecimal and as a list of bytes.
const BEGINNINGS: &[&str] = &[
    "PRIVATEKEY-----",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0w",
    "MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGb",
    "IBADANBgkqhkiG9w0BAQEFAASC",
    "308187020100301306072a8648ce3d",
    "48,129,135,2,1,0,48,19,6,7,42,134,72,206,61",
];

/// How much of a form is looked for.
const ENOUGH: usize = 48;

/// What of a key would give it away.
fn forms(der: &[u8]) -> Vec<(&'static str, String)> {
    let bytes: Vec<String> = der.iter().map(u8::to_string).collect();
    let mut forms = vec![
        ("base64", BASE64_STANDARD_NO_PAD.encode(der)),
        ("base64url", BASE64_URL_SAFE_NO_PAD.encode(der)),
        ("hexadecimal", hex(der)),
        ("a list of bytes", bytes.join(",")),
    ];
    let secret = secret(der);
    if let Some(number) = der.get(secret.clone()).filter(|number| number.len() <= 66) {
        forms.push((
            "the number in base64",
            BASE64_STANDARD_NO_PAD.encode(number),
        ));
        forms.push((
            "the number in base64url",
            BASE64_URL_SAFE_NO_PAD.encode(number),
        ));
        forms.push(("hexadecimal", hex(number)));
    }
    // A line of PEM that has a part of the secret, wherever it was cut. The others are in the
    // certificate, too.
    let whole = BASE64_STANDARD.encode(der);
    let lines = whole.as_bytes().chunks(64).enumerate();
    forms.extend(lines.filter_map(|(index, line)| {
        let (start, end) = (index * 48, index * 48 + 48);
        let inside = start < secret.end.saturating_sub(8) && end > secret.start + 8;
        let line = String::from_utf8_lossy(line).into_owned();
        (inside && line.len() >= 32).then_some(("a line of PEM", line))
    }));
    forms
}

/// Where the secret is: the number of an EC key, which PKCS#8 holds as an octet string behind a version
/// (RFC 5915), and the second half of an RSA key, whose first half has what is public.
fn secret(der: &[u8]) -> Range<usize> {
    if der.len() > 300 {
        return der.len() / 2..der.len();
    }
    let mark = [0x02, 0x01, 0x01, 0x04];
    let at = der
        .windows(4)
        .position(|part| part == mark)
        .expect("an EC key in PKCS#8");
    let length = usize::from(der[at + 4]);
    at + 5..at + 5 + length
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Pair;

    fn number(der: &[u8]) -> String {
        let mut forms = forms(der).into_iter();
        let found = forms.find(|(form, _)| *form == "the number in base64url");
        found.expect("the number").1
    }

    #[test]
    fn a_planted_key_is_found_in_every_form() {
        let pair = Pair::new(&["a.test"]);
        let mut keys = Keys::default();
        keys.add("here", &pair.key);
        let der = keys.keys[0].1.clone();
        let lines: Vec<&str> = pair.key.lines().collect();
        let without: String = lines[1..lines.len() - 1].join("\n");
        let planted = [
            pair.key.clone(),
            without,
            format!("key={}", BASE64_STANDARD.encode(&der)),
            format!("{{\"d\": \"{}\"}}", number(&der)),
            format!("{der:?}"),
            format!("{der:#?}"),
            format!("key: {}", hex(&der).to_uppercase()),
            format!("\"{}\"", pair.key.replace('\n', "\\n")),
            lines[2].to_owned(),
            format!("{:?}", Some(lines[2])),
        ];
        for text in planted {
            assert!(
                keys.found_in(&format!("before {text} after")).is_some(),
                "{text}"
            );
        }
        for text in [
            &pair.key,
            &BASE64_STANDARD.encode(&der),
            &format!("{der:?}"),
        ] {
            assert!(Keys::default().found_in(text).is_some(), "{text}");
        }
        assert_eq!(keys.found_in(&pair.certificate), None);
        assert_eq!(keys.found_in(""), None);
    }
}
