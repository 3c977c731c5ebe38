//! A vault in a directory, without the process that works in it.
//!
//! Invariants: who only looks locks nothing; who writes has the lock, or writes nothing; no directory is
//! made; a private key goes into a new file that only its owner may read; no file is overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use gatehouse_acme::events::Report;
use gatehouse_acme::import::imported;
use gatehouse_acme::plan::Target;
use gatehouse_acme::record::{Material, Phase, Record};
use gatehouse_acme::secrets::Secret;
use gatehouse_acme::vault::directory::{DirectoryVault, is_meant, look};
use gatehouse_acme::vault::{Key, Vault as _};
use k8s_openapi::jiff::Timestamp;

use crate::certificates::view::View;
use crate::diagnostics::Printable;
use crate::run::Failure;

/// All certificates.
pub(super) fn views(path: &Path) -> Result<Vec<View>, Failure> {
    let (records, unusable) = records(path)?;
    let records = records
        .iter()
        .map(|record| View::of(&Report::stored(record)));
    let unusable = unusable.iter();
    let unusable = unusable.map(|(target, why)| View::unusable(target, why));
    let mut views: Vec<View> = records.chain(unusable).collect();
    views.sort_by(|one, other| {
        let name = |view: &View| (view.namespace.clone(), view.secret.clone());
        name(one).cmp(&name(other))
    });
    Ok(views)
}

/// One certificate.
pub(super) fn view(path: &Path, target: &Target) -> Result<View, Failure> {
    let mut views = views(path)?.into_iter();
    let same = |view: &View| view.namespace == target.namespace && view.secret == target.secret;
    views.find(same).ok_or_else(|| missing(path, target))
}

/// Its chain and its key.
pub(super) fn material(path: &Path, target: &Target) -> Result<Material, Failure> {
    record(path, target)?.current.ok_or_else(|| {
        Failure::System(format!(
            "nothing is issued yet for {target}: `gatehouse cert show {target} --certs {}` says why",
            path.display()
        ))
    })
}

/// Stores a certificate that somebody else ordered.
pub(super) fn import(
    path: &Path,
    target: &Target,
    chain: &str,
    key: &Secret,
) -> Result<String, Failure> {
    let bad = |why: String| Failure::System(format!("{target} is not imported: {why}"));
    let fresh = imported(target, chain, key, (Timestamp::now(), 0)).map_err(bad)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::System(error.to_string()))?;
    runtime.block_on(store(path, target, fresh))?;
    Ok(format!(
        "{target} has the imported certificate; `gatehouse run` serves it when an Ingress asks for it, \
         and renews it in time"
    ))
}

async fn store(path: &Path, target: &Target, mut fresh: Record) -> Result<(), Failure> {
    let failed = |why: String| Failure::System(format!("{target} is not imported: {why}"));
    // Opening makes what is missing: at a path that is mistyped nobody would ever look for it.
    if !is_meant(path) {
        let why = if path.exists() {
            "there is no vault, but something else; name the directory that `gatehouse run` has, or an \
             empty one"
                .to_owned()
        } else {
            let place = path.display();
            format!("there is no vault; if the gateway has not run yet, make it: `mkdir {place}`")
        };
        return Err(unusable(path, &why));
    }
    let vault = DirectoryVault::open(path).map_err(|error| unusable(path, &error.to_string()))?;
    let Some(epoch) = *vault.epoch().borrow() else {
        if let Some(why) = &*vault.trouble().borrow() {
            return Err(failed(why.clone()));
        }
        return Err(Failure::System(format!(
            "a process works in {} (--certs): ask it with --admin instead",
            path.display()
        )));
    };
    let key = Key::Certificate(target.clone());
    let found = vault
        .read(&key)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if let Some(found) = &found {
        let before = Record::from_entries(&found.entries).map_err(failed)?;
        if before.state.phase.is_awaited() {
            return Err(failed(
                "its order is being finished; start the gateway first".into(),
            ));
        }
        fresh
            .state
            .namespace_uid
            .clone_from(&before.state.namespace_uid);
        fresh.take_place_of(&before);
        // Takes what is left of an order from the board.
        if before.state.phase.is_busy() {
            fresh.state.phase = Phase::Delivering;
        }
    }
    fresh.state.epoch = epoch;
    let entries = fresh.to_entries().map_err(failed)?;
    let version = found.as_ref().map(|found| &found.version);
    let written = vault.write(&key, version, &entries).await;
    written
        .map(|_| ())
        .map_err(|error| failed(error.to_string()))
}

/// What is written to a file, and who asked for that.
pub(super) struct Written<'a> {
    pub(super) path: &'a Path,
    pub(super) flag: &'static str,
    pub(super) bytes: &'a [u8],
    pub(super) mode: u32,
}

/// Writes new files, all or none: whatever is there already stays as it is.
pub(super) fn write_new(files: &[Written<'_>]) -> Result<(), Failure> {
    let mut made = Vec::with_capacity(files.len());
    let written = files
        .iter()
        .try_for_each(|each| write_one(each, &mut made))
        .inspect_err(|_| {
            for path in &made {
                // What cannot be removed is told by the next try, which refuses it.
                fs::remove_file(path).ok();
            }
        });
    written.map_err(|(each, error)| {
        let why = if error.kind() == io::ErrorKind::AlreadyExists {
            "it exists already, and nothing is overwritten".to_owned()
        } else {
            error.to_string()
        };
        Failure::System(format!(
            "{} ({}) cannot be written: {why}; name another file",
            each.path.display(),
            each.flag
        ))
    })
}

fn write_one<'a>(
    each: &'a Written<'a>,
    made: &mut Vec<&'a Path>,
) -> Result<(), (&'a Written<'a>, io::Error)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(each.mode);
    let opened = options.open(each.path);
    let mut file = opened.map_err(|error| (each, error))?;
    made.push(each.path);
    let stored = file.write_all(each.bytes).and_then(|()| file.sync_all());
    stored.map_err(|error| (each, error))
}

/// Whether two paths lead to one file, which need not be there.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    one == other || place(one).is_some_and(|one| place(other) == Some(one))
}

fn record(path: &Path, target: &Target) -> Result<Record, Failure> {
    let (records, unusable) = records(path)?;
    if let Some((_, why)) = unusable.iter().find(|(known, _)| known == target) {
        return Err(Failure::System(format!("{target}: {why}")));
    }
    let mut records = records.into_iter();
    records
        .find(|record| record.state.target == *target)
        .ok_or_else(|| missing(path, target))
}

fn missing(path: &Path, target: &Target) -> Failure {
    Failure::System(format!(
        "there is no certificate {target} in {} (--certs); `gatehouse cert list` names those that are",
        path.display()
    ))
}

/// What can be understood, and why the rest cannot.
type Records = (Vec<Record>, Vec<(Target, String)>);

fn records(path: &Path) -> Result<Records, Failure> {
    let listing = look(path).map_err(|error| unusable(path, &error.to_string()))?;
    let (mut records, mut unusable) = (Vec::new(), Vec::new());
    for stored in listing.stored {
        let Key::Certificate(target) = stored.key else {
            continue;
        };
        match Record::from_entries(&stored.entries) {
            Ok(record) => records.push(record),
            Err(why) => {
                let why = format!(
                    "this program does not understand it ({why}): run a newer program, or remove it"
                );
                unusable.push((target, why));
            }
        }
    }
    for unread in listing.unread {
        match unread.target {
            // One of which the version before is read has a record.
            Some(target) if records.iter().any(|known| known.state.target == target) => {}
            Some(target) => unusable.push((target, unread.why)),
            None => beside(&unread.why),
        }
    }
    for why in &listing.damaged {
        beside(why);
    }
    Ok((records, unusable))
}

/// What has no line of its own, beside the answer: a program that reads that is not disturbed.
fn beside(why: &str) {
    // Nobody has to listen.
    writeln!(io::stderr(), "{}", Printable(why)).ok();
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::Usage(format!(
        "invalid value '{}' for '--certs <PATH>': {why}; name the directory that `run --certs` has",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("gatehouse-ask-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn written<'a>(path: &'a Path, flag: &'static str) -> Written<'a> {
        Written {
            path,
            flag,
            bytes: b"text",
            mode: 0o600,
        }
    }

    #[test]
    fn what_is_there_already_stays_and_nothing_of_the_rest_does() {
        let folder = Folder::new("written");
        let (key, chain) = (folder.file("key"), folder.file("chain"));
        fs::write(&chain, "precious").expect("a file");
        let refused = write_new(&[written(&key, "--key"), written(&chain, "--chain")]);
        let Err(Failure::System(why)) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            why.contains("--chain") && why.contains("exists already"),
            "{why}"
        );
        assert_eq!(fs::read_to_string(&chain).expect("a file"), "precious");
        assert!(!key.exists());
        fs::remove_file(&chain).expect("a file");
        write_new(&[written(&key, "--key"), written(&chain, "--chain")]).expect("two files");
        assert_eq!(fs::read(&key).expect("a file"), b"text");
    }

    #[test]
    fn one_file_is_known_by_whatever_path() {
        let folder = Folder::new("same");
        let file = folder.file("x");
        assert!(is_same(
            &file,
            &folder
                .file("../")
                .join(folder.0.file_name().expect("a name"))
                .join("x")
        ));
        assert!(is_same(Path::new("x"), Path::new("./x")));
        assert!(!is_same(&file, &folder.file("y")));
        let nowhere = folder.file("none").join("x");
        assert!(is_same(&nowhere, &nowhere) && !is_same(&nowhere, &file));
    }
}
