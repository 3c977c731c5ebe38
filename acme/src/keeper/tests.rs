//! A keeper without an authority: what it reads and shows.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;

use super::*;
use crate::board::Thumbprint;
use crate::failure::Class;
use crate::issuers::{Http01, KeyKind};
use crate::plan::Wanted;
use crate::record::{Asked, Wait};
use crate::secrets::SecretFolder;
use crate::vault::memory::{MemoryVault, away};

fn issuers(more: &str) -> Issuers {
    let text = format!(
        "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      \
         acceptTerms: true\n{more}  default: main\n"
    );
    Issuers::parse(&text).expect("issuers")
}

fn start(vault: Arc<dyn Vault>, issuers: watch::Receiver<Arc<Issuers>>) -> Keeper {
    Keeper::start(Config::alone(
        issuers,
        vault,
        Arc::new(SecretFolder::new("/nowhere")),
        Arc::new(|_| Err("no authority in this test".to_owned())),
        Arc::new(|_, _| Err("no DNS in this test".to_owned())),
    ))
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_shall_answer_published_tokens_only_does_so_from_then_on() {
    let vault = MemoryVault::new();
    let pen = Pen::new(Arc::new(vault.clone()), watch::Sender::default());
    let account = Thumbprint {
        thumbprint: "thumb".to_owned(),
        answers: Http01::Stateless,
    };
    pen.introduce("main", account).await.expect("stored");
    let (file, followed) = watch::channel(Arc::new(issuers("")));
    let keeper = start(Arc::new(vault.clone()), followed);
    // Whatever was to be done at the start is done, since time passes.
    tokio::time::advance(Duration::from_secs(1)).await;
    keeper.shown().await;
    let answered = async |more: &str, wanted: Http01| {
        file.send_replace(Arc::new(issuers(more)));
        let mut board = keeper.board.clone();
        let answered = board.wait_for(|board| {
            let main = board.accounts.get("main");
            main.is_some_and(|account| account.answers == wanted)
        });
        let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
        drop(answered.expect("in time").expect("a keeper"));
    };
    answered("", Http01::Stateless).await;
    answered("      http01: published\n", Http01::Published).await;
    answered("", Http01::Stateless).await;
}

#[tokio::test(start_paused = true)]
async fn accounts_that_could_not_be_read_are_looked_at_again_until_they_are() {
    let (_issuers, issuers) = watch::channel(Arc::new(issuers("")));
    // The first looks of a follower and of a leader, and one more.
    let left = Arc::new(AtomicUsize::new(3));
    let fails = Arc::clone(&left);
    let vault = MemoryVault::new().guarded(move |key, written| {
        let order = Ordering::SeqCst;
        let less = |left: usize| left.checked_sub(1);
        let look = matches!(key, Key::Account(_)) && written.is_none();
        if look && fails.fetch_update(order, order, less).is_ok() {
            return Err(away());
        }
        Ok(())
    });
    let keeper = start(Arc::new(vault), issuers);
    let asker = keeper.asker();
    keeper.shown().await;
    let early = asker.accounts().expect_err("nobody has read them");
    assert!(early.contains("not been read yet"), "{early}");
    let mut sheets = keeper.sheets.clone();
    sheets.mark_unchanged();
    let looked = tokio::time::timeout(Duration::from_secs(30), sheets.changed()).await;
    looked.expect("in time").expect("a keeper");
    assert_eq!(left.load(Ordering::SeqCst), 0);
    assert_eq!(asker.accounts().expect("accounts").len(), 1);
}

/// A certificate that waits for a change of the configuration.
fn waiting(owed: bool) -> Flow {
    let wanted = Wanted {
        target: Target {
            namespace: "shop".to_owned(),
            secret: "tls".to_owned(),
        },
        namespace_uid: String::new(),
        names: Vec::new(),
        issuer: "main".to_owned(),
        profile: None,
        key: KeyKind::P256,
        challenges: Vec::new(),
    };
    let mut record = Record::new(&wanted, 1);
    record.state.wait = Some(Wait {
        class: Class::Spec,
        since: None,
        until: None,
        scope: None,
        paced: false,
        spec_hash: wanted.hash(),
        kinds: Vec::new(),
        owed,
    });
    Flow {
        record,
        version: None,
        wanted: Some(wanted),
        kept: false,
        epoch: 1,
        memo: Memo::default(),
    }
}

/// Two flows for each authority.
fn two(issuers: &Issuers) -> Share<'_> {
    Share { issuers, most: 2 }
}

/// Takes what is due, which is one certificate at the most.
fn take_one(slots: &mut Slots, issuers: &Issuers) -> Option<Flow> {
    let taken = slots.take_due(Timestamp::UNIX_EPOCH, two(issuers));
    assert!(taken.len() < 2, "one at a time");
    taken.into_iter().map(|(flow, _)| flow).next()
}

#[test]
fn a_renewal_that_is_owed_is_made_when_the_configuration_has_changed() {
    for owed in [true, false] {
        let mut slots = Slots::default();
        slots.insert(waiting(owed));
        slots.reconsider();
        let issuers = Issuers::default();
        let flow = take_one(&mut slots, &issuers).expect("due");
        let state = &flow.record.state;
        assert_eq!(state.wait, None);
        assert_eq!(state.asked, owed.then_some(Asked::Renew));
    }
}

#[test]
fn what_fails_by_a_configuration_that_has_changed_meanwhile_is_tried_once_more() {
    let issuers = Issuers::default();
    let mut slots = Slots::default();
    let failed = waiting(false).record.state.wait;
    let mut flow = waiting(false);
    flow.record.state.wait = None;
    slots.insert(flow);
    let mut flow = take_one(&mut slots, &issuers).expect("due");
    slots.reconsider();
    flow.record.state.wait.clone_from(&failed);
    slots.insert(flow);
    let mut flow = take_one(&mut slots, &issuers).expect("tried once more");
    flow.record.state.wait = failed;
    slots.insert(flow);
    let third = take_one(&mut slots, &issuers);
    assert!(third.is_none(), "by the one that holds");
}

#[test]
fn each_authority_has_its_own_flows_and_who_waits_for_one_is_not_due() {
    let text = "acme:\n  issuers:\n    main: {directory: 'https://a.test/', acceptTerms: true}\n    \
                other: {directory: 'https://b.test/', acceptTerms: true}\n  default: main\n";
    let (now, issuers) = (
        Timestamp::UNIX_EPOCH,
        Issuers::parse(text).expect("issuers"),
    );
    let mut slots = Slots::default();
    for (secret, issuer) in [("a", "main"), ("b", "main"), ("c", "main"), ("z", "other")] {
        let mut flow = waiting(false);
        secret.clone_into(&mut flow.record.state.target.secret);
        flow.record.state.wait = None;
        let wanted = flow.wanted.as_mut().expect("a wish");
        issuer.clone_into(&mut wanted.issuer);
        slots.insert(flow);
    }
    let taken = slots.take_due(now, two(&issuers));
    let names = taken.iter().map(|(flow, _)| &*flow.target().secret);
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "z"]);
    assert!(slots.take_due(now, two(&issuers)).is_empty());
    assert_eq!(
        slots.next_due(now, two(&issuers)),
        None,
        "c waits for a flow"
    );
    slots.remove(taken[0].0.target());
    assert_eq!(slots.next_due(now, two(&issuers)), Some(now));
}

#[test]
fn a_command_for_a_record_that_has_to_be_read_first_is_told_so() {
    let mut slots = Slots::default();
    let flow = waiting(false);
    let target = flow.target().clone();
    slots.lose(flow);
    let why = slots.take(&target).err().expect("nothing to work on");
    let shown = format!("`gatehouse cert show {target}` says what stands in the way, if anything");
    for part in [
        "has to be read from the vault",
        "by itself",
        "in a minute",
        &shown,
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(!why.contains("worked on"), "{why}");
    let issuers = Issuers::default();
    take_one(&mut slots, &issuers).expect("read again");
    let why = slots.take(&target).err().expect("nothing to work on");
    assert!(why.contains("worked on"), "{why}");
}

/// Issuer `main` for these hosts.
fn allowing(host: &str) -> Arc<Issuers> {
    let text = format!(
        "acme:\n  issuers:\n    main:\n      directory: https://ca.test/dir\n      acceptTerms: true\n      \
         allow: [{{hosts: ['{host}']}}]\n  default: main\n"
    );
    Arc::new(Issuers::parse(&text).expect("issuers"))
}

fn request(target: &Target) -> Request {
    let hosts = vec!["a.example.test".to_owned()];
    Request {
        namespace_uid: "one".to_owned(),
        ..Request::new("Ingress/shop/web".to_owned(), target.clone(), hosts)
    }
}

/// A certificate from elsewhere for the request.
fn import() -> Command {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["a.example.test".to_owned()]).expect("names");
    Command::Import {
        chain: params.self_signed(&key).expect("a certificate").pem(),
        key: crate::secrets::Secret::new(key.serialize_pem()),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_and_refused_is_kept_and_served_and_not_ordered() {
    let (configured, issuers) = watch::channel(allowing("*.example.test"));
    let vault = MemoryVault::new();
    let keeper = Keeper::start(Config {
        tombstone: SignedDuration::ZERO,
        ..Config::alone(
            issuers,
            Arc::new(vault.clone()),
            Arc::new(SecretFolder::new("/nowhere")),
            Arc::new(|_| Err("no authority in this test".to_owned())),
            Arc::new(|_, _| Err("no DNS in this test".to_owned())),
        )
    });
    let target = Target {
        namespace: "shop".to_owned(),
        secret: "tls".to_owned(),
    };
    keeper.shown().await;
    let imported = keeper.command(target.clone(), import()).await;
    imported.expect("imported before anything asks for it");
    let ask = |requests| keeper.wanted.send_replace(Some(Arc::new(requests)));
    ask(vec![request(&target)]);
    let rests = || tokio::time::sleep(Duration::from_secs(600));
    rests().await;
    let serves = || keeper.certificates.borrow().contains_key(&target);
    assert!(serves());
    // A slip of the operator, and another one.
    let mut other = Issuers::clone(&allowing("*.example.test"));
    let spec = other.issuers.remove("main").expect("an issuer");
    other.issuers.insert("renamed".to_owned(), spec);
    for slip in [allowing("*.typo.test"), Arc::new(other)] {
        configured.send_replace(slip);
        rests().await;
        assert_eq!(keeper.findings.borrow().len(), 1);
        assert!(serves(), "{:?}", keeper.reports.borrow());
        let phase = keeper.reports.borrow()[&target].phase;
        assert_eq!(phase, crate::record::Phase::Valid);
        let renew = keeper.command(target.clone(), Command::Renew { force: true });
        let refused = renew.await.expect_err("it would not be renewed");
        assert!(refused.contains("refused"), "{refused}");
    }
    let writes = vault.writes();
    rests().await;
    assert_eq!(vault.writes(), writes, "it rests");
    // What is kept is stored again as well if somebody removes it.
    let key = Key::Certificate(target.clone());
    let stored = vault.read(&key).await.expect("read").expect("a record");
    let removed = vault.remove(&key, &stored.version).await;
    removed.expect("removed");
    rests().await;
    let again = vault.read(&key).await.expect("read").expect("a record");
    assert_eq!(again.entries, stored.entries);
    // Mended; what another tenant asks for and what nobody asks for goes.
    configured.send_replace(allowing("*.example.test"));
    rests().await;
    assert!(serves() && keeper.findings.borrow().is_empty());
    configured.send_replace(allowing("*.typo.test"));
    ask(vec![Request {
        namespace_uid: "two".to_owned(),
        ..request(&target)
    }]);
    rests().await;
    assert!(!serves(), "of another tenant");
}

#[tokio::test(start_paused = true)]
async fn who_follows_knows_what_is_wanted_also_if_it_heard_of_that_last() {
    let vault = MemoryVault::new();
    let target = Target {
        namespace: "shop".to_owned(),
        secret: "tls".to_owned(),
    };
    let record = Record::new(
        &Wanted {
            names: vec![crate::names::Name::parse("old.example.test").expect("a name")],
            ..waiting(false).wanted.expect("a wish")
        },
        1,
    );
    let entries = record.to_entries().expect("entries");
    let key = Key::Certificate(target.clone());
    vault.write(&key, None, &entries).await.expect("stored");
    let (_configured, issuers) = watch::channel(allowing("*.example.test"));
    let keeper = start(Arc::new(vault.follower()), issuers);
    keeper.shown().await;
    let stands = async |wanted: bool| {
        let mut reports = keeper.reports.clone();
        let stands =
            reports.wait_for(|all| all.get(&target).is_some_and(|one| one.wanted == wanted));
        let stands = tokio::time::timeout(Duration::from_secs(30), stands).await;
        let all = stands.expect("in time").expect("a keeper").clone();
        all[&target]
            .names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    stands(false).await;
    keeper
        .wanted
        .send_replace(Some(Arc::new(vec![request(&target)])));
    assert_eq!(stands(true).await, ["a.example.test"]);
    keeper.wanted.send_replace(Some(Arc::new(Vec::new())));
    stands(false).await;
}
