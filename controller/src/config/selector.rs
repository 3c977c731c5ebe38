//! Label selectors, in the grammar of `kubectl get -l`: `team=shop,tier!=test,stage in (a,b),!old`.
//!
//! Pure. The server has the same grammar and refuses a list whose selector it cannot read, and then
//! nothing would be served: so whatever is accepted here is accepted there. Neither kube nor
//! k8s-openapi reads one from text. The rules are those of `labels.Parse` in apimachinery.

use std::iter::Peekable;
use std::str::CharIndices;

use super::values::{is_label, is_subdomain};

/// The text without white space around it, or what is wrong with it, where, and what is right.
pub(super) fn selector(text: &str) -> Result<String, String> {
    let mut reader = Reader {
        text,
        tokens: tokens(text).into_iter().peekable(),
    };
    reader
        .requirements()
        .map(|()| text.trim().to_owned())
        .map_err(|why| format!("{why}; write it as `kubectl get -l` takes it, such as {EXAMPLE}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'a> {
    /// In letters, from 1.
    at: usize,
    text: &'a str,
}

/// Signs and words; what is neither sign nor white space is part of a word.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut letters = text.char_indices().peekable();
    let mut at = 1;
    while let Some((start, letter)) = letters.next() {
        let mut length = 1;
        match letter {
            ' ' | '\t' | '\r' | '\n' => {
                at += 1;
                continue;
            }
            '=' => length += usize::from(letters.next_if(|(_, next)| *next == '=').is_some()),
            '!' => length += usize::from(letters.next_if(|(_, next)| *next == '=').is_some()),
            '(' | ')' | ',' | '<' | '>' => {}
            _ => {
                while letters.next_if(|(_, next)| !ends_word(*next)).is_some() {
                    length += 1;
                }
            }
        }
        let end = end(&mut letters, text);
        tokens.push(Token {
            at,
            text: text.get(start..end).unwrap_or_default(),
        });
        at += length;
    }
    tokens
}

fn end(letters: &mut Peekable<CharIndices<'_>>, text: &str) -> usize {
    letters.peek().map_or(text.len(), |(place, _)| *place)
}

fn ends_word(letter: char) -> bool {
    " \t\r\n=!(),<>".contains(letter)
}

struct Reader<'a, I: Iterator<Item = Token<'a>>> {
    text: &'a str,
    tokens: Peekable<I>,
}

impl<'a, I: Iterator<Item = Token<'a>>> Reader<'a, I> {
    fn requirements(&mut self) -> Result<(), String> {
        loop {
            self.requirement()?;
            match self.tokens.next() {
                None => return Ok(()),
                Some(token) if token.text == "," => {}
                found => return Err(self.expected("`,` or the end", found)),
            }
        }
    }

    fn requirement(&mut self) -> Result<(), String> {
        if self.skip("!") {
            return self.key();
        }
        self.key()?;
        if self.ends() {
            return Ok(());
        }
        let operator = self.tokens.next();
        match operator.map(|token| token.text) {
            Some("=" | "==" | "!=") if self.ends() => Ok(()),
            Some("=" | "==" | "!=") => self.value(),
            Some("in" | "notin") => self.values(),
            Some("<" | ">") => self.number(),
            _ => Err(self.expected("`=`, `==`, `!=`, `in` or `notin`", operator)),
        }
    }

    fn key(&mut self) -> Result<(), String> {
        let token = self.word("a key")?;
        let (prefix, name) = match token.text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, token.text),
        };
        if is_word(name) && prefix.is_none_or(is_subdomain) {
            return Ok(());
        }
        Err(format!(
            "`{}` at letter {} is no key of a label: at most 63 letters, digits, `-`, `_` and `.`, \
             the first and the last a letter or digit, behind an optional DNS name with a slash",
            token.text, token.at
        ))
    }

    fn value(&mut self) -> Result<(), String> {
        let token = self.word("a value")?;
        if is_word(token.text) {
            return Ok(());
        }
        Err(format!(
            "`{}` at letter {} is no value of a label: at most 63 letters, digits, `-`, `_` and `.`, \
             the first and the last a letter or digit",
            token.text, token.at
        ))
    }

    fn number(&mut self) -> Result<(), String> {
        let token = self.word("a whole number")?;
        match token.text.parse::<i64>() {
            Ok(_) if is_word(token.text) => Ok(()),
            _ => Err(self.expected("a whole number", Some(token))),
        }
    }

    /// A value may be empty, but not the only one of `()`.
    fn values(&mut self) -> Result<(), String> {
        let open = self.tokens.next();
        if open.is_none_or(|token| token.text != "(") {
            return Err(self.expected("`(`", open));
        }
        if self.tokens.peek().is_some_and(|token| token.text == ")") {
            let close = self.tokens.next();
            return Err(self.expected("a value", close));
        }
        loop {
            let empty = [",", ")"];
            let next = self.tokens.peek();
            if !next.is_some_and(|token| empty.contains(&token.text)) {
                self.value()?;
            }
            match self.tokens.next() {
                Some(token) if token.text == ")" => return Ok(()),
                Some(token) if token.text == "," => {}
                found => return Err(self.expected("`,` or `)`", found)),
            }
        }
    }

    fn word(&mut self, what: &str) -> Result<Token<'a>, String> {
        match self.tokens.next() {
            Some(token) if !token.text.starts_with(ends_word) => Ok(token),
            found => Err(self.expected(what, found)),
        }
    }

    fn skip(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| token.text == sign).is_some()
    }

    /// Nothing more belongs to this requirement.
    fn ends(&mut self) -> bool {
        self.tokens.peek().is_none_or(|token| token.text == ",")
    }

    fn expected(&self, what: &str, found: Option<Token<'_>>) -> String {
        match found {
            Some(token) => format!(
                "{what} is expected at letter {}, and there is `{}`",
                token.at, token.text
            ),
            None => format!(
                "{what} is expected at letter {}, and there it ends",
                self.text.chars().count() + 1
            ),
        }
    }
}

/// The name in a key, or a value that is not empty.
fn is_word(text: &str) -> bool {
    is_label(text, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
    }) && !text.starts_with(['_', '.'])
        && !text.ends_with(['_', '.'])
}

const EXAMPLE: &str = "`team=shop,tier!=test,stage in (green,blue),!old`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_takes_is_taken_as_it_is_written() {
        let longest = "a".repeat(63);
        for good in [
            "team=shop",
            " team == shop , tier != test ",
            "stage in (green, blue),tier notin (a)",
            "team",
            "!team",
            "! example.com/team,a",
            "example.com/team=",
            "a!=",
            "a=,b",
            "a in (,b)",
            "a in (b,)",
            "a in (,)",
            "in in (in,notin)",
            "in",
            "notin=in",
            "n > 3,m<5",
            "A_b.c-d=X_y.z-0",
            &format!("{longest}={longest}"),
            &format!("{}/a", "b.".repeat(126) + "b"),
        ] {
            assert_eq!(selector(good).as_deref(), Ok(good.trim()));
        }
    }

    #[test]
    fn what_it_would_refuse_is_refused_with_the_place_and_an_example() {
        let long = "a".repeat(64);
        for (bad, why) in [
            ("", "a key is expected at letter 1, and there it ends"),
            (
                "a in (",
                "a value is expected at letter 7, and there it ends",
            ),
            ("a in ()", "a value is expected at letter 7"),
            ("a in b", "`(` is expected at letter 6, and there is `b`"),
            (
                "a in (b c)",
                "`,` or `)` is expected at letter 9, and there is `c`",
            ),
            ("=x", "a key is expected at letter 1, and there is `=`"),
            (
                "a==b==c",
                "`,` or the end is expected at letter 5, and there is `==`",
            ),
            ("a=b,", "a key is expected at letter 5"),
            (",a", "a key is expected at letter 1"),
            ("a b", "`notin` is expected at letter 3, and there is `b`"),
            ("!a=b", "`,` or the end is expected at letter 3"),
            ("!!a", "a key is expected at letter 2"),
            ("a=!b", "a value is expected at letter 3"),
            ("a===b", "a value is expected at letter 4"),
            ("a>b", "a whole number is expected at letter 3"),
            ("a>-1", "a whole number is expected at letter 3"),
            ("-a=b", "`-a` at letter 1 is no key"),
            ("ä, ö=b", "`ä` at letter 1 is no key"),
            ("Example.com/a", "`Example.com/a` at letter 1 is no key"),
            ("/a", "is no key"),
            ("a/", "is no key"),
            ("a/b/c", "is no key"),
            ("a=b.", "`b.` at letter 3 is no value"),
            ("a in (b, c:d)", "`c:d` at letter 10 is no value"),
            (&format!("a={long}"), "is no value"),
            (&long, "is no key"),
        ] {
            let message = selector(bad).unwrap_err();
            assert!(message.contains(why), "{bad}: {message}");
            assert!(message.contains(EXAMPLE), "{bad}: {message}");
        }
    }
}
