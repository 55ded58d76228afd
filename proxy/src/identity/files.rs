//! PEM files as a source: watched, read again every few seconds, and taken only when they are whole.
//!
//! A watch alone is not the truth: queues overflow, network file systems send nothing, and Kubernetes replaces a link
//! two directories up. So a watch only makes us look sooner; what counts is the digest of what is read. A change is
//! taken when the content was the same for a second, or at once when something arrived by rename, which is whole by
//! construction. What does not pass the checks never replaces what we have.

use super::events::DiscardReason;
use super::file_content::{ContentFault, FileContents, FilePaths, Sequences, check_contents};
use super::publisher::{Publisher, chain};
use crate::tls::Strictness;
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::Instant;

const REHASH_INTERVAL: Duration = Duration::from_secs(5);
/// A writer that truncates and writes in pieces is done within this, or is seen to go on.
const STABLE_FOR: Duration = Duration::from_secs(1);
/// Something else in the directory may change all the time; that must not keep us reading.
const SETTLE: Duration = Duration::from_millis(100);
/// The kubelet's atomic writer renames this link, and with it all files of a projected volume change at once.
const PROJECTED_VOLUME_LINK: &str = "..data";

pub(crate) struct FilesSource {
    paths: FilePaths,
    strictness: Strictness,
    publisher: Publisher,
    sequences: Sequences,
    /// Digest of what was taken or refused last: it is not judged twice.
    judged: Option<[u8; 32]>,
    /// A digest that differs from it, and since when.
    pending: Option<([u8; 32], Instant)>,
}

impl FilesSource {
    pub(crate) fn new(paths: FilePaths, strictness: Strictness, publisher: Publisher) -> Self {
        Self { paths, strictness, publisher, sequences: Sequences::new(), judged: None, pending: None }
    }

    /// Never returns.
    pub(crate) async fn run(mut self) {
        let signal = Arc::new(Signal::default());
        let _watcher = watch(&self.paths, &signal);
        let mut arrived_whole = true;
        loop {
            let paths = self.paths.clone();
            // Reading may block for as long as a file system likes.
            let Ok(contents) = tokio::task::spawn_blocking(move || FileContents::read(&paths)).await else { return };
            self.look(contents, arrived_whole);
            let delay = if self.pending.is_some() { STABLE_FOR } else { REHASH_INTERVAL };
            tokio::select! {
                () = signal.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(delay) => {}
            }
            arrived_whole = signal.renamed.swap(false, Ordering::Relaxed);
        }
    }

    fn look(&mut self, contents: FileContents, arrived_whole: bool) {
        let digest = contents.digest;
        if self.judged == Some(digest) {
            self.pending = None;
            return;
        }
        let since = match self.pending {
            Some((pending, since)) if pending == digest => since,
            _ => Instant::now(),
        };
        self.pending = Some((digest, since));
        let stable = since.elapsed() >= STABLE_FOR;
        if !stable && !arrived_whole {
            return;
        }
        match self.take(contents) {
            Ok(()) => {}
            // A certificate may have been renamed in before its key: wait for the rest before anybody is alarmed.
            Err(_not_yet) if !stable => return,
            Err(fault) => self.refuse(&fault),
        }
        self.judged = Some(digest);
        self.pending = None;
    }

    fn take(&mut self, contents: FileContents) -> Result<(), ContentFault> {
        let now = SystemTime::now();
        let mut sequences = self.sequences.clone();
        let update = check_contents(&self.paths, contents, &mut sequences, now, self.strictness)?;
        self.sequences = sequences;
        self.publisher.apply(update, now);
        Ok(())
    }

    fn refuse(&self, fault: &ContentFault) {
        match fault {
            ContentFault::Rule(rule) => self.publisher.discard(rule),
            ContentFault::File(file) => self.publisher.discard_unreadable(DiscardReason::Unreadable, file),
        }
        self.publisher.broken(&chain(fault), SystemTime::now());
    }
}

#[derive(Default)]
struct Signal {
    changed: Notify,
    renamed: AtomicBool,
}

/// Watches the directories, not the files: a file that is replaced by rename is another file.
fn watch(paths: &FilePaths, signal: &Arc<Signal>) -> Option<RecommendedWatcher> {
    let signal = signal.clone();
    let names: BTreeSet<OsString> = paths.all().filter_map(|path| path.file_name().map(OsStr::to_owned)).collect();
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading a file is an event as well, and our own would wake us for ever.
        let event = event.unwrap_or_default();
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        let renamed = matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)));
        let arrived = event.paths.last().and_then(|path| path.file_name());
        if renamed && arrived.is_some_and(|name| name == PROJECTED_VOLUME_LINK || names.contains(name)) {
            signal.renamed.store(true, Ordering::Relaxed);
        }
        signal.changed.notify_one();
    };
    let mut watcher = match notify::recommended_watcher(on_event) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the identity files; they are read every {REHASH_INTERVAL:?} instead");
            return None;
        }
    };
    let here = Path::new(".");
    let directories: BTreeSet<&Path> =
        paths.all().map(|path| path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(here)).collect();
    for directory in directories {
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "cannot watch; its files are read every {REHASH_INTERVAL:?} instead");
        }
    }
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives by rename is judged at once, what is written in place only when it has been stable.
    #[tokio::test(start_paused = true)]
    async fn judges_at_once_only_what_arrived_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let paths = FilePaths {
            certificate: path("svid.pem"),
            key: path("key.pem"),
            bundle: path("b.pem"),
            federated: Vec::new(),
        };
        let publisher = Publisher { store: Arc::default(), counters: Arc::default() };
        let mut source = FilesSource::new(paths.clone(), Strictness::Strict, publisher.clone());
        let judged = |source: &FilesSource| source.judged.is_some();

        source.look(FileContents::read(&paths), false);
        assert!(!judged(&source), "new");
        tokio::time::advance(STABLE_FOR - Duration::from_millis(1)).await;
        std::fs::write(path("svid.pem"), "half").unwrap();
        source.look(FileContents::read(&paths), false);
        tokio::time::advance(Duration::from_millis(2)).await;
        source.look(FileContents::read(&paths), false);
        assert!(!judged(&source), "changed since");
        // Arrived whole but not usable: perhaps the rest of it is still to come, so nobody is alarmed yet.
        source.look(FileContents::read(&paths), true);
        assert_eq!((judged(&source), publisher.counters.discarded_in_all()), (false, 0));
        tokio::time::advance(STABLE_FOR).await;
        source.look(FileContents::read(&paths), false);
        assert_eq!((judged(&source), publisher.counters.discarded_in_all()), (true, 1));
        source.look(FileContents::read(&paths), false);
        assert_eq!(publisher.counters.discarded_in_all(), 1, "not judged twice");
    }

    /// An editor's rename and the kubelet's: the link `..data` is replaced, the files' own names never are.
    #[tokio::test]
    async fn notices_arrivals_by_rename() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let paths = FilePaths {
            certificate: path("svid.pem"),
            key: path("key.pem"),
            bundle: path("b.pem"),
            federated: Vec::new(),
        };
        for (name, arrival) in [("svid.pem", true), (PROJECTED_VOLUME_LINK, true), ("unrelated", false)] {
            std::fs::write(path("new"), name).unwrap();
            let signal = Arc::new(Signal::default());
            let _watcher = watch(&paths, &signal);
            std::fs::rename(path("new"), path(name)).unwrap();
            let noticed = async {
                signal.changed.notified().await;
                while signal.renamed.load(Ordering::Relaxed) != arrival {
                    signal.changed.notified().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), noticed).await.expect(name);
        }
    }
}
