//! The documents as tests execute them: what a person copies from them is what runs here.

use std::fs;

use jiff::Timestamp;

use crate::gateway;

/// The part of a document below one of its headings, up to the next of the same rank or a higher one.
pub fn section(file: &str, heading: &str) -> String {
    let path = gateway::workspace().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let rank = heading.chars().take_while(|letter| *letter == '#').count();
    let mut found = Vec::new();
    let mut code = false;
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{file} has no heading {heading:?}");
    for line in lines {
        code ^= line.starts_with("```");
        let other = line.chars().take_while(|letter| *letter == '#').count();
        if !code && (1..=rank).contains(&other) {
            break;
        }
        found.push(line);
    }
    found.join("\n")
}

/// The blocks of code in a text that are written in a language; those of none have the name "".
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| !line.starts_with("```"))
            .collect();
        if name == language {
            found.push(block.join("\n"));
        }
    }
    found
}

/// The commands of a block: a line, and those that it goes on in.
pub fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// A text without what differs from one time to the next: moments, how long until then, serial numbers,
/// tokens and thumbprints.
pub fn without_chance(text: &str) -> String {
    let mut spans = text.split("(in ");
    let mut timeless = spans.next().unwrap_or_default().to_owned();
    for span in spans {
        let (_, rest) = span.split_once(')').unwrap_or(("", span));
        timeless.push_str("(SOON)");
        timeless.push_str(rest);
    }
    let words = timeless.split_inclusive(char::is_whitespace);
    words
        .map(|word| {
            let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric());
            if bare.parse::<Timestamp>().is_ok() {
                return word.replace(bare, "MOMENT");
            }
            word.split_inclusive(|letter| !in_token(letter))
                .map(without_token)
                .collect()
        })
        .collect()
}

/// Random where a word would have neither digits nor capitals.
fn without_token(part: &str) -> String {
    let token = part.trim_end_matches(|letter| !in_token(letter));
    let random = |letter: char| letter.is_ascii_digit() || letter.is_ascii_uppercase();
    if token.len() >= 12 && token.contains(random) {
        return part.replace(token, "TOKEN");
    }
    part.to_owned()
}

/// Letters of base64url, and so of hexadecimal numbers.
fn in_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-' || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_taken_out_and_what_is_meant_stays() {
        let shown = "The one with 6ca51c18307bf4d7 is served until 2027-02-25T13:32:27Z (in 89 days).\n\
                     https://localhost:14000/my-account/504e925ab04da2f3. tls-alpn-01: 127.0.0.99:8443 (os error 111)";
        let left = "The one with TOKEN is served until MOMENT (SOON).\n\
                    https://localhost:14000/my-account/TOKEN. tls-alpn-01: 127.0.0.99:8443 (os error 111)";
        assert_eq!(without_chance(shown), left);
    }

    #[test]
    fn blocks_and_commands_are_found_where_they_are() {
        let text = "a\n```sh\n# about\none \\\n  two\nthree\n```\nb\n```\nfour\n```\n";
        let found = blocks(text, "sh");
        assert_eq!(found.len(), 1);
        assert_eq!(commands(&found[0]), ["one    two", "three"]);
        assert_eq!(blocks(text, ""), ["four"]);
        let own = section("docs/certificates.md", "## Try it");
        assert!(!own.contains("\n## ") && blocks(&own, "sh").len() > 1);
    }
}
