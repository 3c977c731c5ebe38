//! The documents as tests execute them: what a person copies from them is what runs here.

use std::fs;

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

#[cfg(test)]
mod tests {
    use super::*;

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
