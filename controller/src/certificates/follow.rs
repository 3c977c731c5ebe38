//! Follows the file of issuers: what is written there holds without a restart.
//!
//! Invariants: a broken file changes nothing but the diagnostics, the last good one holds; a file that
//! is just being written is not taken for a broken one.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gatehouse_acme::dns::spec::Provider;
use gatehouse_acme::issuers::Issuers;
use tokio::sync::watch;

use crate::diagnostics::{Code, Diagnostic, Severity};

/// What is wrong with the file now.
pub(super) type Complaints = Arc<Vec<Diagnostic>>;

/// Begins to follow; ends when nobody wants the issuers any more.
pub(super) fn start(
    path: PathBuf,
    surroundings: Surroundings,
    issuers: watch::Sender<Arc<Issuers>>,
) -> watch::Receiver<Complaints> {
    let complaints = watch::Sender::new(Complaints::default());
    let complained = complaints.subscribe();
    tokio::spawn(follow(path, surroundings, issuers, complaints));
    complained
}

async fn follow(
    path: PathBuf,
    surroundings: Surroundings,
    issuers: watch::Sender<Arc<Issuers>>,
    complaints: watch::Sender<Complaints>,
) {
    let mut taken = None;
    let mut seen = None;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = issuers.closed() => return,
        }
        let found = Some(mark(&path));
        // Taken when it is as it was at the look before: whoever writes it has ended.
        let settled = found == seen;
        seen = found;
        if !settled || seen == taken {
            continue;
        }
        taken = seen;
        let list = match read(&path, surroundings) {
            Ok(new) => {
                let changed = issuers.send_if_modified(|known| {
                    let changed = **known != new;
                    if changed {
                        *known = Arc::new(new);
                    }
                    changed
                });
                if changed {
                    tracing::info!(file = %path.display(), "the issuers are those of the file now");
                }
                Vec::new()
            }
            Err(list) => list.iter().map(|why| complaint(&path, why)).collect(),
        };
        complaints.send_if_modified(|known| {
            let changed = **known != list;
            if changed {
                *known = Arc::new(list);
            }
            changed
        });
    }
}

/// Where the issuers are to work.
#[derive(Debug, Clone, Copy)]
pub(super) enum Surroundings {
    /// A process on its own.
    Alone,
    /// A cluster.
    Cluster {
        /// Whether only some namespaces are read.
        namespaces: bool,
    },
}

/// Reads the file; every complaint is a sentence.
pub(super) fn read(path: &Path, surroundings: Surroundings) -> Result<Issuers, Vec<String>> {
    let issuers = Issuers::parse(&text(path).map_err(|why| vec![why])?)?;
    if let Surroundings::Cluster { namespaces } = surroundings {
        clustered(&issuers, namespaces).map_err(|why| vec![why])?;
    }
    Ok(issuers)
}

/// The file's text, within a bound; the error says what to do.
fn text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "write it there, or name another one with --acme",
            io::ErrorKind::PermissionDenied => "let the user of this process read it",
            io::ErrorKind::InvalidData => "save it as UTF-8",
            _ => "name a file with --acme that this process can read",
        };
        format!("the file of issuers {shown} cannot be read: {error}; {remedy}")
    };
    let about = fs::metadata(path).map_err(unreadable)?;
    // To open a pipe waits for whoever writes into it.
    if !about.is_file() && !about.is_dir() {
        return Err(format!(
            "the file of issuers {shown} is no file, but a pipe, a device or a socket: name a file with --acme"
        ));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!(
            "the file of issuers {shown} is longer than {LARGEST} bytes, which none is: name another \
             one with --acme"
        ));
    }
    String::from_utf8(bytes)
        .map_err(|error| unreadable(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// What a cluster does not have: programs of the operator, and with `--watch-namespace` the labels of
/// namespaces.
fn clustered(issuers: &Issuers, namespaces: bool) -> Result<(), String> {
    for (name, issuer) in &issuers.issuers {
        if issuer.dns.iter().any(|dns| dns.provider == Provider::Exec) {
            return Err(format!(
                "acme.issuers.{name}.dns: provider exec runs a program of this machine, which a \
                 cluster does not have; use another provider, such as httpreq"
            ));
        }
        let labelled = |rule: &gatehouse_acme::issuers::Allow| {
            namespaces && !rule.namespaces.match_labels.is_empty()
        };
        if issuer.allow.iter().flatten().any(labelled) {
            return Err(format!(
                "acme.issuers.{name}.allow: labels of namespaces are not read with \
                 --watch-namespace; write names instead of matchLabels"
            ));
        }
    }
    Ok(())
}

fn complaint(path: &Path, why: &str) -> Diagnostic {
    let object: Arc<str> = path.display().to_string().into();
    // Complaints about a field begin with its name.
    let named = why
        .split_once(": ")
        .filter(|(field, _)| field.starts_with("acme.") && !field.contains(char::is_whitespace));
    let (field, why) = named.unwrap_or(("", why));
    let message = format!("{why}; the issuers that were read before hold until it is mended");
    Diagnostic::new(
        Severity::Error,
        &object,
        field,
        Code::CertificateIssuersInvalid,
        message,
    )
}

/// Equal for a file that is as it was; also through links, as mounted ConfigMaps are.
fn mark(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let of = |file: Metadata| {
        let (seconds, nanos) = (file.mtime(), file.mtime_nsec());
        (file.dev(), file.ino(), file.len(), seconds, nanos)
    };
    fs::metadata(path).ok().map(of)
}

/// How often to look: once more after a change, so it holds after about a second.
const LOOK: Duration = Duration::from_millis(500);

/// Largest file: as much as a ConfigMap holds.
const LARGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_reason_and_what_to_do() {
        let folder = std::env::temp_dir().join(format!("gatehouse-issuers-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, content).expect("written");
            path
        };
        let pipe = |name: &str| {
            let path = folder.join(name);
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.expect("mkfifo").success());
            path
        };
        let long = "# long\n".repeat(200_000);
        for (path, reason, remedy) in [
            (folder.join("none.yaml"), "No such file", "--acme"),
            (folder.clone(), "directory", "--acme"),
            (pipe("pipe.yaml"), "is no file", "--acme"),
            (file("bytes.yaml", &[0xff, 0xfe, 0x00]), "UTF-8", "save it"),
            (
                file("long.yaml", long.as_bytes()),
                "1048576 bytes",
                "--acme",
            ),
        ] {
            let said = read(&path, Surroundings::Alone).expect_err("unreadable");
            let said = said.join("; ");
            let name = path.display().to_string();
            for part in [&name, reason, remedy] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
        fs::remove_dir_all(&folder).expect("removed");
    }
}
