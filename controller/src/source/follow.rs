//! Follows a directory: when to look at it again, and sending what changed.
//!
//! Invariants: reports of the system only decide when to look, never what is there; a file that is
//! being written is not looked at before it is closed (or [`PATIENCE`] is over); the directory is
//! looked at every [`POLL`] without any report.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Change;
use super::directory::{Directory, Touched};

/// Sends everything the directory holds, then [`Change::Synced`], then every change, until the
/// receiver is gone.
///
/// As long as the directory cannot be read at all, nothing is complete and `Synced` waits.
pub async fn watch(root: PathBuf, changes: mpsc::Sender<Change>) {
    let (report, mut reports) = mpsc::channel(QUEUE);
    let overflow = Arc::new(AtomicBool::new(false));
    let mut watcher = Reports {
        root: root.clone(),
        report,
        overflow: Arc::clone(&overflow),
        armed: None,
        watcher: None,
    };
    let mut directory = Directory::new(root);
    let mut touched = Touched::default();
    let mut synced = false;
    loop {
        // Armed before the scan, so that nothing falls between the two.
        watcher.arm();
        let started = Instant::now();
        let scan = tokio::task::spawn_blocking(move || {
            let found = directory.scan(&touched);
            (directory, found)
        });
        let Ok((scanned, found)) = scan.await else {
            tracing::error!("reading the manifests failed; changes are no longer followed");
            return;
        };
        directory = scanned;
        let effort = directory.take_effort();
        tracing::trace!(
            directories = effort.directories,
            files = effort.files,
            "looked at the manifests"
        );
        let poll = POLL.max(started.elapsed() * SHARE);
        for change in found {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        if !synced && directory.identity().is_some() {
            synced = true;
            if changes.send(Change::Synced).await.is_err() {
                return;
            }
        }
        touched = tokio::select! {
            touched = quiet(&mut reports, &overflow, poll) => touched,
            () = changes.closed() => return,
        };
    }
}

/// Waits for reports and until they cease, or for the next poll.
async fn quiet(
    reports: &mut mpsc::Receiver<notify::Event>,
    overflow: &AtomicBool,
    poll: Duration,
) -> Touched {
    let mut touched = Touched::default();
    let mut open = HashSet::new();
    let Ok(Some(first)) = timeout(poll, reports.recv()).await else {
        touched.all = overflow.swap(false, Ordering::Relaxed);
        return touched;
    };
    note(first, &mut touched, &mut open);
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = if open.is_empty() {
            QUIET.min(left)
        } else {
            left
        };
        match timeout(wait, reports.recv()).await {
            Ok(Some(event)) => note(event, &mut touched, &mut open),
            Ok(None) | Err(_) => break,
        }
    }
    touched.all = overflow.swap(false, Ordering::Relaxed);
    touched
}

fn note(event: notify::Event, touched: &mut Touched, open: &mut HashSet<PathBuf>) {
    for path in event.paths {
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                open.insert(path.clone());
            }
            EventKind::Access(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => {
                open.remove(&path);
            }
            _ => {}
        }
        touched.paths.insert(path);
    }
}

/// Reports of the system about changes below the root.
struct Reports {
    root: PathBuf,
    report: mpsc::Sender<notify::Event>,
    overflow: Arc<AtomicBool>,
    /// Which directory the watcher watches: the root can be replaced by another one.
    armed: Option<(u64, u64)>,
    watcher: Option<RecommendedWatcher>,
}

impl Reports {
    fn arm(&mut self) {
        let now = identity(&self.root);
        if now.is_none() || now == self.armed {
            return;
        }
        self.armed = now;
        self.watcher = match self.start() {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the system reports no changes of the manifests, they are looked at every two seconds"
                );
                None
            }
        };
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let report = self.report.clone();
        let overflow = Arc::clone(&self.overflow);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let Ok(event) = event else { return };
                if event.need_rescan() || (is_change(event.kind) && report.try_send(event).is_err())
                {
                    overflow.store(true, Ordering::Relaxed);
                }
            })?;
        watcher.watch(&self.root, RecursiveMode::Recursive)?;
        Ok(watcher)
    }
}

/// Reading a file is reported, too; answering that with another read would never end.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Reports have ceased when none came for this long: files that are written together are read
/// together mostly; the engine's hold-off gathers what is not.
const QUIET: Duration = Duration::from_millis(2);

/// How long to wait for a file that is being written, and for reports to cease.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often to look without a report, unless looking takes long.
pub const POLL: Duration = Duration::from_secs(2);

/// Looking without a report may take one part in this many of the time.
const SHARE: u32 = 500;

/// Reports that may wait; when more come, every file is read.
const QUEUE: usize = 1024;
