//! Notices that the configuration's files changed, once what is in them has settled.
//!
//! A file is taken when it arrived by rename (editors, Kubernetes' `..data` link) or has been the same for a second: a
//! writer that truncates and writes in pieces is never read half-way (DESIGN, rulings; THREATS CF-02). The truth is the
//! content's hash, looked at every half second as well: notifications can be lost.

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use postern_config::{Config, Transport};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// What a configuration is read from: its own files, and those of Web PKI roots and labels that it names. (PEM files of our identity
/// are watched by their source.)
pub fn watched(config: &Config) -> Vec<PathBuf> {
    let roots = config.outbound.services.iter().filter_map(|service| match &service.transport {
        Transport::WebTls { roots, .. } => roots.clone(),
        Transport::Mesh { .. } | Transport::Plaintext => None,
    });
    config.sources.iter().cloned().chain(roots).chain(config.workload.labels_file.clone()).collect()
}

pub struct Watcher {
    sources: Vec<PathBuf>,
    taken: [u8; 32],
    /// What was seen last, and since when.
    seen: ([u8; 32], Instant),
    renamed: mpsc::Receiver<()>,
    _notify: Option<RecommendedWatcher>,
}

impl Watcher {
    /// Watches what [`watched`] names.
    pub fn new(sources: &[PathBuf]) -> Self {
        let taken = fingerprint(sources);
        let (rename, renamed) = mpsc::channel(1);
        let notify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_rename = event.is_ok_and(|event| matches!(event.kind, EventKind::Modify(ModifyKind::Name(_))));
            if is_rename {
                // Full: somebody is told already.
                let _ = rename.try_send(());
            }
        });
        let notify = notify.and_then(|mut watcher| {
            directories(sources)
                .iter()
                .try_for_each(|directory| watcher.watch(directory, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        let notify = notify
            .inspect_err(|error| tracing::warn!(%error, "file notifications are not to be had; looking twice a second"))
            .ok();
        Self { sources: sources.to_vec(), taken, seen: (taken, Instant::now()), renamed, _notify: notify }
    }

    /// Resolves when there is something new to load.
    ///
    /// # Cancellation
    /// Loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let renamed = tokio::select! {
                told = self.renamed.recv(), if self._notify.is_some() => told.is_some(),
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            if self.look(renamed, Instant::now()) {
                return;
            }
        }
    }

    fn look(&mut self, renamed: bool, now: Instant) -> bool {
        let found = fingerprint(&self.sources);
        if found != self.seen.0 {
            self.seen = (found, now);
        }
        let settled = renamed || now.duration_since(self.seen.1) >= SETTLED_AFTER;
        if found == self.taken || !settled {
            return false;
        }
        // Whether it loads or not: a bad file is reported once, not twice a second.
        self.taken = found;
        true
    }

    /// Somebody else loads what is there now (SIGHUP): it is not reported a second time.
    pub fn take(&mut self) {
        self.taken = fingerprint(&self.sources);
    }

    /// Follows a configuration that includes other files than the one before.
    pub fn follow(&mut self, sources: &[PathBuf]) {
        if self.sources != sources {
            *self = Self::new(sources);
        }
    }
}

/// Directories, because a watch on a file dies with the file that a rename replaces.
fn directories(sources: &[PathBuf]) -> BTreeSet<PathBuf> {
    let directory_of = |path: &PathBuf| {
        if path.is_dir() {
            path.clone()
        } else {
            path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
        }
    };
    sources.iter().map(directory_of).collect()
}

/// SHA-256 over names and contents; what cannot be read counts as absent.
fn fingerprint(sources: &[PathBuf]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut add = |path: &Path, content: &[u8]| {
        for part in [path.as_os_str().as_encoded_bytes(), content] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    };
    for source in sources {
        if source.is_dir() {
            let mut names: Vec<_> =
                std::fs::read_dir(source).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            names.sort_unstable();
            names.iter().for_each(|name| add(name, b""));
        } else {
            add(source, &std::fs::read(source).unwrap_or_default());
        }
    }
    context.finish().as_ref().try_into().expect("SHA-256 is 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::{SETTLED_AFTER, Watcher, watched};
    use postern_config::Config;
    use std::fs;
    use std::time::{Duration, Instant};

    #[test]
    fn cf_02_f_12_a_torn_write_is_not_taken_before_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postern.yaml");
        fs::write(&file, "one").unwrap();
        let mut watcher = Watcher::new(std::slice::from_ref(&file));
        let start = Instant::now();
        assert!(!watcher.look(false, start + SETTLED_AFTER * 2), "nothing changed");

        fs::write(&file, "tw").unwrap();
        assert!(!watcher.look(false, start + Duration::from_secs(10)), "just changed");
        fs::write(&file, "two").unwrap();
        assert!(!watcher.look(false, start + Duration::from_millis(10_900)), "changed again");
        assert!(!watcher.look(false, start + Duration::from_millis(11_800)), "0.9 s");
        assert!(watcher.look(false, start + Duration::from_millis(11_900)), "1 s");
        assert!(!watcher.look(false, start + Duration::from_secs(20)), "taken once");
    }

    #[test]
    fn cf_02_f_12_a_renamed_file_is_taken_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postern.yaml");
        fs::write(&file, "one").unwrap();
        let mut watcher = Watcher::new(std::slice::from_ref(&file));
        fs::write(directory.path().join("new"), "two").unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(watcher.look(true, Instant::now()));
    }

    #[test]
    fn roots_and_labels_are_watched_with_the_files_that_name_them() {
        let directory = tempfile::tempdir().unwrap();
        let (file, roots) = (directory.path().join("postern.yaml"), directory.path().join("roots.pem"));
        let service = "{ name: a, hosts: a.example, tls: web, roots: roots.pem }";
        let service = service.replace("roots.pem", roots.to_str().unwrap());
        let labels = directory.path().join("labels");
        let workload = format!("workload: {{ labels_file: {} }}", labels.display());
        let text = format!(
            "identity: {{ workload_api: \"unix:///a\" }}\n{workload}\noutbound:\n  services:\n    - {service}\n"
        );
        fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(watched(&config), [file, roots, labels]);
    }
}
