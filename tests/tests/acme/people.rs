//! What people ask a keeper for: another key for an account, a certificate from elsewhere, a revocation.

use std::sync::Arc;

use gatehouse_acme::ca::AccountKey;
use gatehouse_acme::failure::Class;
use gatehouse_acme::issuers::{Issuers, KeyKind};
use gatehouse_acme::keeper::Command;
use gatehouse_acme::leaf;
use gatehouse_acme::record::Phase;
use gatehouse_acme::secrets::Secret;
use gatehouse_acme::vault::directory::DirectoryVault;
use gatehouse_acme::vault::memory::MemoryVault;
use gatehouse_acme::vault::{Key, Vault as _};
use gatehouse_tests::acme::fault::{Endpoint, Fault, Rule, Seen, Verdict};
use gatehouse_tests::acme::rules::{On, edge_unavailable, problem};
use gatehouse_tests::acme::{Pebble, Setup};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::raw::Answer;
use gatehouse_tests::tls::Pair;
use jiff::{SignedDuration, Timestamp};

use crate::customer::{connect, registration, with};
use crate::stand::{Stand, insist, request, served, target, until, valid, want};

#[test]
fn an_account_gets_another_key_and_orders_go_on() {
    alone(|| {
        let pebble = Pebble::start();
        let stand = Stand::new(&pebble, &pebble.directory(), "");
        let _answers = stand.serve(&pebble);
        with(async || {
            let keeper = stand.keeper();
            let asker = keeper.asker();
            let none = asker.rotate("other".to_owned()).await;
            assert!(none.expect_err("no issuer").contains("other"));
            want(&keeper, vec![request("one", &["one.example.test"])]);
            valid(&keeper, "one").await;
            let before = asker.accounts().expect("accounts").remove(0);
            let rotate = async || asker.rotate("main".to_owned()).await;
            let said = insist(rotate).await.expect("another key");
            let after = asker.accounts().expect("accounts").remove(0);
            assert_eq!(before.url, after.url);
            assert!(
                said.contains(after.url.as_deref().expect("an account")),
                "{said}"
            );
            assert_ne!(before.thumbprint, after.thumbprint);
            assert!(!after.rotating);
            let board = keeper.board.borrow().accounts["main"].thumbprint.clone();
            assert_eq!(
                Some(board),
                after.thumbprint,
                "every replica answers with it"
            );
            let two = request("two", &["two.example.test"]);
            want(&keeper, vec![request("one", &["one.example.test"]), two]);
            valid(&keeper, "two").await;
            // A restart reads the new key.
            drop((keeper, asker));
            let keeper = stand.keeper();
            let names = ["one", "two", "three"];
            let all = names.map(|name| request(name, &[&format!("{name}.example.test")]));
            want(&keeper, all.to_vec());
            valid(&keeper, "three").await;
            assert_eq!(pebble.issued().len(), 3);
        });
    });
}

/// The authority does this, and its answer is lost.
struct Unheard(Endpoint);

impl Rule for Unheard {
    fn after(&mut self, seen: &Seen, answer: &mut Answer) {
        if seen.endpoint == self.0 {
            "HTTP/1.1 503 Service Unavailable".clone_into(&mut answer.line);
            answer.status = 503;
            answer.body = b"<html>try later</html>".to_vec();
        }
    }
}

#[test]
fn a_change_of_the_key_whose_answer_is_lost_is_ended_by_the_next_order() {
    alone(|| {
        let pebble = Pebble::start();
        let proxy = Fault::before(&pebble);
        let stand = Stand::new(&pebble, &proxy.directory(), "");
        let _answers = stand.serve(&pebble);
        with(async || {
            let keeper = stand.keeper();
            want(&keeper, vec![request("one", &["one.example.test"])]);
            valid(&keeper, "one").await;
            let asker = keeper.asker();
            let before = asker.accounts().expect("accounts").remove(0);
            // The authority does what it is asked, and nobody hears of it.
            proxy.rule(Unheard(Endpoint::KeyChange));
            let rotate = async || asker.rotate("main".to_owned()).await;
            let failed = insist(rotate).await.expect_err("no answer");
            assert!(failed.contains("503"), "{failed}");
            assert!(failed.contains("not known whether"), "{failed}");
            let between = asker.accounts().expect("accounts").remove(0);
            assert!(between.rotating);
            assert_eq!(between.thumbprint, before.thumbprint);
            proxy.heal();
            let said = insist(rotate).await;
            said.expect("ended, and another one");
            let after = asker.accounts().expect("accounts").remove(0);
            assert!(!after.rotating);
            assert_eq!(after.url, before.url);
            assert_ne!(after.thumbprint, before.thumbprint);
        });
    });
}

#[test]
fn a_key_from_before_a_change_that_was_put_back_gets_an_account_of_its_own() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let stand = Stand::new(&pebble, &pebble.directory(), "");
        with(async || {
            let keeper = stand.keeper();
            let one = || request("one", &["one.example.test"]);
            want(&keeper, vec![one()]);
            valid(&keeper, "one").await;
            let asker = keeper.asker();
            let before = asker.accounts().expect("accounts").remove(0);
            let file = stand.vault().join("accounts/main/record");
            let backup = std::fs::read(&file).expect("an account");
            let rotate = async || asker.rotate("main".to_owned()).await;
            insist(rotate).await.expect("another key");
            drop(keeper);
            std::fs::write(&file, backup).expect("put back");
            let keeper = stand.keeper();
            want(&keeper, vec![one(), request("two", &["two.example.test"])]);
            valid(&keeper, "two").await;
            let after = keeper.asker().accounts().expect("accounts").remove(0);
            assert_ne!(after.url, before.url);
            assert_eq!(after.thumbprint, before.thumbprint);
        });
    });
}

#[test]
fn an_account_is_kept_while_nobody_may_look_which_of_its_keys_is_right() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        let stand = Stand::new(&pebble, &proxy.directory(), "");
        with(async || {
            let keeper = stand.keeper();
            let one = || request("one", &["one.example.test"]);
            want(&keeper, vec![one()]);
            valid(&keeper, "one").await;
            let asker = keeper.asker();
            let before = asker.accounts().expect("accounts").remove(0);
            // An order that is planned, and waits for an authority that is away.
            proxy.rule(On::these(&[Endpoint::NewOrder], edge_unavailable(3_600)).times(1));
            want(&keeper, vec![one(), request("two", &["two.example.test"])]);
            until(&keeper, "two", |report| report.waiting.is_some()).await;
            // The change does not reach the authority, so the old key is the right one.
            proxy.rule(On::these(&[Endpoint::KeyChange], edge_unavailable(1)).times(1));
            let rotate = async || asker.rotate("main".to_owned()).await;
            insist(rotate).await.expect_err("no answer");
            let refused = problem(403, "unauthorized", "not now");
            proxy.rule(On::these(&[Endpoint::NewAccount], refused).times(1));
            let retry = async || keeper.command(target("two"), Command::Retry).await;
            insist(retry).await.expect("tried");
            until(&keeper, "two", |report| {
                report.waiting == Some(Class::Issuer)
            })
            .await;
            let between = asker.accounts().expect("accounts").remove(0);
            assert!(between.rotating);
            assert_eq!(between.url, before.url);
            assert_eq!(between.thumbprint, before.thumbprint);
            insist(rotate).await.expect("ended, and another one");
            let after = asker.accounts().expect("accounts").remove(0);
            assert!(!after.rotating);
            assert_eq!(after.url, before.url);
            assert_ne!(after.thumbprint, before.thumbprint);
            assert_eq!((after.refused, after.until), (None, None));
        });
    });
}

#[test]
fn an_account_that_lost_its_url_in_a_change_of_the_key_is_found_by_either_key() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let stand = Stand::new(&pebble, &pebble.directory(), "");
        with(async || {
            let keeper = stand.keeper();
            want(&keeper, vec![request("one", &["one.example.test"])]);
            valid(&keeper, "one").await;
            let before = keeper.asker().accounts().expect("accounts").remove(0);
            drop(keeper);
            // As a program before this one left it.
            let vault = DirectoryVault::open(stand.vault()).expect("a vault");
            let leads = vault.epoch().wait_for(Option::is_some).await.is_ok();
            assert!(leads);
            let key = Key::Account("main".to_owned());
            let stored = vault.read(&key).await.expect("read").expect("an account");
            let mut entries = stored.entries;
            let next = leaf::generate(KeyKind::P256).expect("a key");
            entries.insert("next.pem".to_owned(), next);
            let sheet = Secret::new(r#"{"accounts": {}}"#);
            entries.insert("account.json".to_owned(), sheet);
            let written = vault.write(&key, Some(&stored.version), &entries).await;
            written.expect("written");
            drop(vault);
            let keeper = stand.keeper();
            let names = ["one", "two"];
            let all = names.map(|name| request(name, &[&format!("{name}.example.test")]));
            want(&keeper, all.to_vec());
            valid(&keeper, "two").await;
            let after = keeper.asker().accounts().expect("accounts").remove(0);
            assert_eq!(after.url, before.url);
            assert_ne!(after.thumbprint, before.thumbprint);
            assert!(!after.rotating);
        });
    });
}

#[test]
fn an_account_that_cannot_be_read_is_told_by_its_file_and_no_other_is_made() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        let stand = Stand::new(&pebble, &proxy.directory(), "");
        let account = stand.vault().join("accounts/main");
        with(async || {
            let keeper = stand.keeper();
            want(&keeper, vec![request("one", &["one.example.test"])]);
            valid(&keeper, "one").await;
        });
        let record = std::fs::read(account.join("record")).expect("the account");
        for file in ["record", "record.old"] {
            std::fs::write(account.join(file), "{").expect("damaged");
        }
        with(async || {
            let keeper = stand.keeper();
            let two = request("two", &["two.example.test"]);
            let one = request("one", &["one.example.test"]);
            want(&keeper, vec![one, two]);
            let report = until(&keeper, "two", |report| report.waiting.is_some()).await;
            let detail = report.detail.clone().expect("the reason");
            let file = account.join("record").display().to_string();
            assert!(detail.contains(&file), "{detail}");
            let shown = keeper.asker().accounts().expect("accounts").remove(0);
            assert_eq!(shown.unreadable.as_ref(), Some(&detail));
            assert_eq!(proxy.count(Endpoint::NewAccount), 1, "no other account");
            // Whoever puts it back has the account again.
            std::fs::write(account.join("record"), &record).expect("put back");
            let retry = async || keeper.command(target("two"), Command::Retry).await;
            insist(retry).await.expect("tried");
            valid(&keeper, "two").await;
            assert_eq!(proxy.count(Endpoint::NewAccount), 1);
        });
    });
}

#[test]
fn whoever_only_looks_for_an_account_makes_none() {
    alone(|| {
        let pebble = Pebble::start();
        with(async || {
            let (ca, _) = connect(&pebble, &pebble.directory());
            let key = AccountKey::generate().expect("a key");
            let mut look = registration(&key);
            look.existing = true;
            let refused = ca.register(&look).await.expect_err("nobody has this key");
            assert!(refused.is("accountDoesNotExist"), "{refused}");
            look.existing = false;
            let made = ca.register(&look).await.expect("an account");
            look.existing = true;
            let found = ca.register(&look).await.expect("the account");
            assert_eq!(made.url, found.url);
        });
    });
}

#[test]
fn a_certificate_from_elsewhere_is_served_and_renewed_without_an_order_before() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default());
        let stand = Stand::new(&pebble, &pebble.directory(), "");
        let _answers = stand.serve(&pebble);
        let pair = Pair::new(&["shop.example.test", "www.example.test"]);
        let import = |key: &str| Command::Import {
            chain: pair.certificate.clone(),
            key: Secret::new(key),
        };
        with(async || {
            let keeper = stand.keeper();
            let asker = keeper.asker();
            // Before anybody wants it: kept, and taken over by the wish that comes.
            let said = asker.command(target("tls"), import(&pair.key)).await;
            assert!(
                said.as_ref()
                    .is_ok_and(|said| said.contains("nothing asks")),
                "{said:?}"
            );
            until(&keeper, "tls", |report| report.serial.is_some()).await;
            want(&keeper, vec![request("tls", &["shop.example.test"])]);
            let report = until(&keeper, "tls", |report| report.issuer == "main").await;
            assert_eq!(report.phase, Phase::Valid);
            let kept = served(&keeper, "tls").expect("a certificate");
            assert_eq!(kept.material.chain.trim(), pair.certificate.trim());
            assert!(pebble.issued().is_empty(), "nothing was ordered");
            // One that lacks a name is refused, and so is one whose key is another.
            let other = request("tls", &["shop.example.test", "pay.example.test"]);
            want(&keeper, vec![other]);
            let report = until(&keeper, "tls", |report| {
                report.phase == Phase::Valid && report.names.len() == 2
            });
            report.await;
            let again = async || asker.command(target("tls"), import(&pair.key)).await;
            let refused = insist(again).await.expect_err("a name lacks");
            assert!(refused.contains("pay.example.test"), "{refused}");
            let foreign = Pair::new(&["a.test"]).key;
            let again = async || asker.command(target("tls"), import(&foreign)).await;
            let refused = insist(again).await;
            assert!(refused.expect_err("another key").contains("key"));
            assert_eq!(
                pebble.issued().len(),
                1,
                "another set of names is another certificate"
            );
        });
    });
}

#[test]
fn a_certificate_whose_revocation_is_not_known_of_is_replaced() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper();
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            let first = valid(&keeper, "tls").await;
            proxy.rule(Unheard(Endpoint::Revoke));
            let revoke = Command::Revoke { reason: 0 };
            let revoke = async || keeper.command(target("tls"), revoke.clone()).await;
            let said = insist(revoke).await.expect_err("no answer");
            assert!(said.contains("not known whether it is revoked"), "{said}");
            assert!(said.contains("503"), "{said}");
            assert!(said.contains("replaced now either way"), "{said}");
            assert_eq!(pebble.status_of(&first)["Status"], "Revoked");
            until(&keeper, "tls", |report| {
                report.phase == Phase::Valid && report.serial.as_ref() != Some(&first)
            })
            .await;
        });
    });
}

/// The authority refuses to revoke, and the vault is away from then on.
struct Unwilling(MemoryVault);

impl Rule for Unwilling {
    fn before(&mut self, seen: &Seen) -> Verdict {
        if seen.endpoint != Endpoint::Revoke {
            return Verdict::Pass;
        }
        self.0.set_away(true);
        let mut answer = Answer {
            line: "HTTP/1.1 403 Forbidden".into(),
            status: 403,
            ..Answer::default()
        };
        let kind = ("Content-Type", "application/problem+json");
        answer.headers.push((kind.0.into(), kind.1.into()));
        answer.body =
            br#"{"type":"urn:ietf:params:acme:error:unauthorized","detail":"not yours"}"#.to_vec();
        Verdict::Answer(answer)
    }
}

#[test]
fn a_refused_revocation_is_told_also_if_it_cannot_be_noted() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let vault = MemoryVault::new();
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let keeper = stand.keeper_on(Arc::new(vault.clone()));
            want(&keeper, vec![request("tls", &["a.example.test"])]);
            valid(&keeper, "tls").await;
            proxy.rule(Unwilling(vault));
            let revoke = Command::Revoke { reason: 0 };
            let revoke = async || keeper.command(target("tls"), revoke.clone()).await;
            let said = insist(revoke).await.expect_err("refused");
            assert!(said.contains("not yours"), "{said}");
            assert!(said.contains("was not stored"), "{said}");
        });
    });
}

#[test]
fn certificates_of_other_names_do_not_stand_in_the_way_of_a_renewal() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        with(async || {
            let stand = Stand::new(&pebble, &pebble.directory(), "");
            let vault = MemoryVault::new();
            let mut keeper = stand.keeper_on(Arc::new(vault.clone()));
            let hosts = |n: usize| {
                let names = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.example.test"));
                let names: Vec<&str> = names.iter().take(n).map(String::as_str).collect();
                vec![request("tls", &names)]
            };
            for n in 1..=5 {
                want(&keeper, hosts(n));
                until(&keeper, "tls", |report| {
                    report.phase == Phase::Valid && report.rev == n as u64
                })
                .await;
            }
            crate::issuing::renew(&keeper, "tls").await;
            drop(keeper);
            keeper = stand.keeper_on(Arc::new(vault));
            want(&keeper, hosts(5));
            crate::issuing::renew(&keeper, "tls").await;
            assert_eq!(pebble.issued().len(), 7);
            // Those of the same names do, as the authority counts them.
            crate::issuing::renew(&keeper, "tls").await;
            let renew = Command::Renew { force: false };
            let ask = async || keeper.command(target("tls"), renew.clone()).await;
            let refused = insist(ask).await;
            assert!(
                refused
                    .expect_err("four are enough")
                    .contains("4 certificates")
            );
        });
    });
}

#[test]
fn a_pace_that_makes_a_certificate_wait_for_long_is_told() {
    alone(|| {
        let pebble = Pebble::start_with(Setup::default().trusting());
        let proxy = Fault::before(&pebble);
        with(async || {
            let stand = Stand::new(&pebble, &proxy.directory(), "");
            let text = format!(
                "acme:\n  issuers:\n    main:\n      directory: {}\n      acceptTerms: true\n      \
                 caBundle: roots\n      limits: {{ordersPerThreeHours: 1}}\n  default: main\n  \
                 unlisted: allow\n",
                proxy.directory()
            );
            let issuers = Issuers::parse(&text).expect("issuers");
            stand.issuers.send_replace(Arc::new(issuers));
            let keeper = stand.keeper();
            let mut wishes = vec![request("a", &["a.example.test"])];
            want(&keeper, wishes.clone());
            valid(&keeper, "a").await;
            wishes.push(request("b", &["b.example.test"]));
            want(&keeper, wishes);
            let waits = until(&keeper, "b", |report| report.waiting.is_some()).await;
            assert_eq!((waits.waiting, waits.failures), (Some(Class::Limited), 0));
            let next = waits
                .next_attempt
                .expect("an end")
                .duration_since(Timestamp::now());
            assert!(next > SignedDuration::from_mins(170), "{next}");
            assert_eq!(proxy.count(Endpoint::NewOrder), 1);
        });
    });
}
