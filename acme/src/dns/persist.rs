//! Answering dns-persist-01: a record that stays, made by a person, names the authority and the account.
//! Nothing is written here; before the authority is told, the record is read and judged as it will be.
//!
//! Invariant: what is missing or wrong is said with the line that has to be written.

use std::net::SocketAddr;

use hickory_proto::rr::RecordType;
use jiff::Timestamp;

use super::message;
use super::resolve::Resolver;
use crate::Answer;

/// What a standing record has to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name without `*.`.
    pub domain: String,
    /// Whether a wildcard is asked for.
    pub wildcard: bool,
    /// Names of the authority, any of which may stand in the record; any at all if it says none.
    pub issuers: Vec<String>,
    /// URL of the account.
    pub account: String,
}

/// Reads standing records.
pub trait Persist: Send + Sync {
    /// Whether the authority will find what it looks for; the error says what to write.
    fn judge<'a>(&'a self, claim: &'a Claim, now: Timestamp) -> Answer<'a, Result<(), String>>;
}

/// Leaves the judgement to the authority.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unread;

impl Persist for Unread {
    fn judge<'a>(&'a self, _: &'a Claim, _: Timestamp) -> Answer<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Asks these servers.
#[derive(Debug, Clone)]
pub struct Lookup(Vec<SocketAddr>);

impl Lookup {
    /// Asks the first that answers; without any, the judgement is left to the authority.
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self(resolvers)
    }
}

impl Persist for Lookup {
    fn judge<'a>(&'a self, claim: &'a Claim, now: Timestamp) -> Answer<'a, Result<(), String>> {
        Box::pin(async move {
            let Ok(resolver) = Resolver::new(self.0.clone()) else {
                return Ok(());
            };
            let asked = resolver.ask(&claim.place(), RecordType::TXT).await;
            let answer = asked.map_err(|error| format!("{}: {error}", claim.place()))?;
            let texts: Vec<String> = answer.answers.iter().filter_map(message::text).collect();
            claim.judge(&texts, now)
        })
    }
}

impl Claim {
    /// Where the record stands.
    pub fn place(&self) -> String {
        format!("_validation-persist.{}", self.domain)
    }

    /// The value that proves it.
    pub fn line(&self) -> String {
        let issuer = self
            .issuers
            .first()
            .map_or("<the authority's name>", |name| name);
        let policy = if self.wildcard {
            "; policy=wildcard"
        } else {
            ""
        };
        format!("{issuer}; accounturi={}{policy}", self.account)
    }

    fn judge(&self, texts: &[String], now: Timestamp) -> Result<(), String> {
        let mut wrong = None;
        for text in texts {
            match self.judge_one(text, now) {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => wrong = wrong.or(Some(why)),
            }
        }
        let why = wrong.unwrap_or_else(|| "no record there names the authority".to_owned());
        Err(format!(
            "{why}: write \"{}\" at {}",
            self.line(),
            self.place()
        ))
    }

    /// Nothing for a record that is for another authority.
    fn judge_one(&self, text: &str, now: Timestamp) -> Option<Result<(), String>> {
        let mut parts = text.split(';').map(str::trim);
        let issuer = parts.next()?.trim_end_matches('.');
        let known = |name: &String| name.trim_end_matches('.').eq_ignore_ascii_case(issuer);
        if !self.issuers.is_empty() && !self.issuers.iter().any(known) {
            return None;
        }
        let (mut account, mut policy, mut until) = (None, None, None);
        for (tag, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim();
            match tag.trim().to_ascii_lowercase().as_str() {
                "accounturi" => account = Some(value),
                "policy" => policy = Some(value),
                "persistuntil" => until = Some(value),
                _ => {}
            }
        }
        Some(self.judge_parts(account, policy, until, now))
    }

    fn judge_parts(
        &self,
        account: Option<&str>,
        policy: Option<&str>,
        until: Option<&str>,
        now: Timestamp,
    ) -> Result<(), String> {
        match account {
            None => return Err("the record lacks accounturi".to_owned()),
            Some(account) if account != self.account => {
                return Err(format!("the record is for the account {}", shown(account)));
            }
            Some(_) => {}
        }
        let wildcard = policy.is_some_and(|policy| policy.eq_ignore_ascii_case("wildcard"));
        if self.wildcard && !wildcard {
            return Err("the record is for no wildcard".to_owned());
        }
        let Some(until) = until else { return Ok(()) };
        let seconds: Option<i64> = until.parse().ok();
        match seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
            None => Err(format!(
                "its persistUntil {:?} is no number of seconds since 1970",
                shown(until)
            )),
            Some(end) if end < now => Err(format!("the record ended at {end} (persistUntil)")),
            Some(_) => Ok(()),
        }
    }
}

/// A text of somebody else, short enough to be told.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(wildcard: bool) -> Claim {
        Claim {
            domain: "shop.example".into(),
            wildcard,
            issuers: vec!["ca.example".into()],
            account: "https://ca.example/acct/1".into(),
        }
    }

    fn judged(wildcard: bool, texts: &[&str]) -> Result<(), String> {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        claim(wildcard).judge(&texts, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_record_for_the_authority_and_the_account_is_enough() {
        for good in [
            "ca.example; accounturi=https://ca.example/acct/1",
            "CA.example. ;AccountURI = https://ca.example/acct/1;persistUntil=0;x=y",
            "ca.example;accounturi=https://ca.example/acct/1; policy=other",
        ] {
            assert_eq!(judged(false, &["other.example", good]), Ok(()), "{good}");
        }
        let wild = "ca.example; accounturi=https://ca.example/acct/1; policy=WildCard";
        assert_eq!(judged(true, &[wild]), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        let account = "accounturi=https://ca.example/acct/1";
        for (text, word) in [
            ("other.example; accounturi=x".to_owned(), "no record"),
            ("ca.example".to_owned(), "lacks accounturi"),
            ("ca.example; accounturi=x".to_owned(), "for the account x"),
            (format!("ca.example; {account}"), "no wildcard"),
            (
                format!("ca.example; {account}; policy=wildcard; persistUntil=-1"),
                "ended at",
            ),
            (
                format!("ca.example; {account}; policy=wildcard; persistUntil=x"),
                "no number",
            ),
        ] {
            let why = judged(true, &[&text]).expect_err("wrong");
            assert!(why.contains(word), "{text}: {why}");
            let line = format!("\"ca.example; {account}; policy=wildcard\"");
            assert!(why.contains(&line), "{why}");
            assert!(why.contains("_validation-persist.shop.example"), "{why}");
        }
    }
}
