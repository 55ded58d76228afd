//! One sidecar: the whole program but its command line, on a thread of its own.

use crate::client_raw::RawClient;
use crate::explanations::Explanations;
use crate::wait::{BOUND, eventually, within};
use postern::admin::ConnectionInfo;
use postern::app::{App, Surroundings};
use postern::cli::explain;
use postern::identity::Snapshot;
use postern::shared::Shared;
use postern::telemetry::LogHandle;
use postern_config::Config;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

enum Order {
    Apply(Box<Config>, oneshot::Sender<Result<(), String>>),
    Drain(Duration, oneshot::Sender<()>),
    Missing(oneshot::Sender<Vec<&'static str>>),
    Connections(oneshot::Sender<Vec<ConnectionInfo>>),
    Stop,
}

/// A running sidecar. Dropped, it is stopped at once.
pub struct Sidecar {
    pub shared: Arc<Shared>,
    pub log: PathBuf,
    /// The admin socket.
    pub admin: PathBuf,
    /// What stands before the sections of the test.
    preamble: String,
    directory: PathBuf,
    explanations: Explanations,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) async fn start_sidecar(
    directory: &Path,
    workload: &str,
    agent: &Path,
    identity: &str,
    sections: &str,
) -> Sidecar {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Relaxed);
    let log = directory.join(format!("{workload}-{number}.log"));
    let admin = directory.join(format!("{workload}-{number}.admin"));
    let preamble = format!(
        "identity:\n  workload_api: unix://{}\n{}\ntelemetry: {{ metrics: off, readiness: off, access_log: {{ file: {} }} }}\nadmin: {{ socket: {} }}\n",
        agent.display(),
        identity.lines().map(|line| format!("  {line}\n")).collect::<String>(),
        log.display(),
        admin.display(),
    );
    let config = read(directory, &preamble, sections);
    let explanations = Explanations::default();
    explanations.in_force(format!("{preamble}{sections}"), 0);
    let (orders, queue) = mpsc::unbounded_channel();
    let (started, start) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("sidecar-{workload}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(config, started, queue));
    });
    let shared = within("the sidecar starts", start).await.expect("its thread lives").expect("the sidecar starts");
    let (directory, thread) = (directory.to_owned(), Some(thread.unwrap()));
    Sidecar { shared, log, admin, preamble, directory, explanations, orders, thread }
}

fn read(directory: &Path, preamble: &str, sections: &str) -> Config {
    let text = format!("{preamble}{sections}");
    Config::from_str(&directory.join("postern.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

async fn serve(
    config: Config,
    started: oneshot::Sender<Result<Arc<Shared>, String>>,
    mut queue: mpsc::UnboundedReceiver<Order>,
) {
    let mut app = match App::start(
        config,
        Surroundings {
            endpoint: None,
            log: LogHandle::detached(),
            log_filter: None,
            variable: |_| None,
            hardened: None,
        },
    )
    .await
    {
        Ok(app) => app,
        Err(error) => return drop(started.send(Err(format!("{error:#}")))),
    };
    drop(started.send(Ok(app.shared.clone())));
    loop {
        let order = tokio::select! {
            order = queue.recv() => order,
            () = app.held_may_act() => {
                app.apply_held().await.expect("what was held can be applied");
                continue;
            }
        };
        let Some(order) = order else { break };
        match order {
            Order::Apply(config, reply) => {
                drop(reply.send(app.apply(*config).await.map_err(|error| format!("{error:#}"))));
            }
            Order::Drain(at_most, reply) => {
                app.drain(at_most).await;
                // The asker may have gone.
                let _ = reply.send(());
            }
            Order::Missing(reply) => {
                let missing = app.readiness.missing().into_iter().map(|(what, _why)| what).collect();
                drop(reply.send(missing));
            }
            Order::Connections(reply) => drop(reply.send((app.state().connections)().await)),
            Order::Stop => break,
        }
    }
    app.stop().await;
}

impl Sidecar {
    /// What it lacks to be ready; empty when it is.
    ///
    /// # Panics
    /// It has been stopped.
    pub async fn missing(&self) -> Vec<&'static str> {
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Missing(reply)));
        within("the readiness", answer).await.expect("the sidecar lives")
    }

    /// Asks at the admin socket: the status, and the body.
    ///
    /// # Panics
    /// Nobody answers.
    pub async fn ask(&self, method: &str, target: &str) -> (u16, String) {
        let mut client = RawClient::at(&self.admin).await;
        let request = format!("{method} {target} HTTP/1.1\r\nhost: postern\r\n\r\n");
        let response = client.response_to(&request).await;
        (response.status, response.text())
    }

    /// What lives on its workers.
    ///
    /// # Panics
    /// It has been stopped.
    pub async fn connections(&self) -> Vec<ConnectionInfo> {
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Connections(reply)));
        within("the connections", answer).await.expect("the sidecar lives")
    }

    /// Every worker has seen what was published before: a worker that answers twice has run its other tasks in between.
    pub async fn until_settled(&self) {
        self.connections().await;
        self.connections().await;
    }

    pub async fn until_ready(&self) {
        self.until_identity("an identity", |snapshot| !snapshot.svids.is_empty()).await;
        assert_eq!(self.missing().await, Vec::<&str>::new(), "ready with an identity");
    }

    /// The first identity snapshot, now or later, that `wanted` says yes to.
    ///
    /// # Panics
    /// There is none in time.
    pub async fn until_identity(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let store = &self.shared.identity;
        let mut changes = store.subscribe();
        let waiting = async {
            loop {
                let snapshot = store.load();
                if wanted(&snapshot) {
                    return snapshot;
                }
                changes.changed().await.expect("the store lives");
            }
        };
        match tokio::time::timeout(BOUND, waiting).await {
            Ok(snapshot) => snapshot,
            Err(_elapsed) => panic!("{what}: not within {BOUND:?}; source {:?}", store.load().source),
        }
    }

    /// SHA-256 of the leaf that new handshakes show.
    ///
    /// # Panics
    /// It has no identity.
    pub fn own_fingerprint(&self) -> [u8; 32] {
        self.shared.identity.load().svids[0].fingerprint
    }

    /// Replaces the configuration.
    ///
    /// # Errors
    /// As `App::apply`: nothing has changed.
    ///
    /// # Panics
    /// The text has problems.
    pub async fn apply(&self, sections: &str) -> Result<(), String> {
        self.apply_edited(str::to_owned, sections).await
    }

    /// As [`Sidecar::apply`], with an edited `identity:`, `telemetry:` and `admin:`.
    ///
    /// # Errors
    /// As [`Sidecar::apply`].
    ///
    /// # Panics
    /// The text has problems.
    pub async fn apply_edited(&self, edit: impl FnOnce(&str) -> String, sections: &str) -> Result<(), String> {
        let preamble = edit(&self.preamble);
        let config = read(&self.directory, &preamble, sections);
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Apply(Box::new(config), reply)));
        let applied = within("the configuration is applied", answer).await.expect("the sidecar lives");
        if applied.is_ok() {
            self.explanations.in_force(format!("{preamble}{sections}"), self.shared.policy().load().generation);
        }
        applied
    }

    /// Starts a drain; the receiver is told when it has ended.
    pub fn drain(&self, at_most: Duration) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        drop(self.orders.send(Order::Drain(at_most, reply)));
        answer
    }

    /// What `postern explain` says about a request or L4 connection that was recorded, with these sections in force: `more` is what a record does not
    /// have, such as headers; a query goes with the path.
    ///
    /// # Panics
    /// It cannot tell.
    pub fn explain(&self, sections: &str, record: &Value, query: &str, more: &[&str]) -> Value {
        let file = self.directory.join("explained.yaml");
        std::fs::write(&file, format!("{}{sections}", self.preamble)).expect("a file");
        let field = |key: &str| record[key].as_str().unwrap_or_default();
        let (file, path) = (file.display().to_string(), format!("{}{query}", field("url.path")));
        let mut arguments = vec!["--config", &file, "--source", field("network.peer.address")];
        if record["kind"] == "request" {
            let (method, host) = (field("http.request.method"), field("server.address"));
            arguments.extend(["--method", method, "--path", &path, "--host", host]);
        }
        if let Some(peer) = record["peer.spiffe_id"].as_str() {
            arguments.extend(["--peer", peer]);
        }
        let answer = explain::answer(&[&arguments, more].concat());
        answer.unwrap_or_else(|error| panic!("{error:#}: {record:#}"))
    }

    /// What a request showed that its record does not have: its query, and more words for `explain`, which is asked about it in
    /// the end.
    pub fn shown(&self, record: &Value, query: &str, more: &[&str]) {
        self.explanations.shown(record, query, more);
    }

    /// As [`Sidecar::explain`], of a request that was refused: the same words in the same places.
    ///
    /// # Panics
    /// It says something else than the record.
    pub fn explains(&self, sections: &str, record: &Value, query: &str, more: &[&str]) -> Value {
        let explained = self.explain(sections, record, query, more);
        self.shown(record, query, more);
        for key in ["refusal", "rule", "route"] {
            assert_eq!(explained[key], record.get(key).cloned().unwrap_or_default(), "{key}: {record:#} {explained:#}");
        }
        assert!(!explained["nearest"].is_null(), "{explained:#}");
        explained
    }

    /// Everything that it has recorded so far, in order.
    ///
    /// # Panics
    /// A line is not JSON.
    pub fn records(&self) -> Vec<Value> {
        self.shared.access_log.flush();
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("a record: {line}"))).collect()
    }

    /// The records of one kind, `request` or `connection`, once there are `count` of them.
    ///
    /// # Panics
    /// There are fewer for too long, or more.
    pub async fn records_of(&self, kind: &str, count: usize) -> Vec<Value> {
        let end = std::time::Instant::now() + BOUND;
        loop {
            let found: Vec<_> = self.records().into_iter().filter(|record| record["kind"] == kind).collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "{kind} records: {found:#?}");
                return found;
            }
            assert!(std::time::Instant::now() < end, "{count} {kind} records, found {found:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first record of `kind` that `wanted` says yes to.
    pub async fn record(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a {kind} record in {}", self.log.display()), || {
            self.records().into_iter().find(|record| record["kind"] == kind && wanted(record))
        })
        .await
    }

    /// The metrics as they are scraped.
    pub fn metrics(&self) -> String {
        self.shared.metrics.render()
    }

    /// The value of one sample, named as it is scraped with all its labels.
    ///
    /// # Panics
    /// There is none.
    pub fn metric(&self, sample: &str) -> f64 {
        let metrics = self.metrics();
        let value = metrics.lines().find_map(|line| line.strip_prefix(sample));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{sample} in {metrics}"))
    }

    /// Ends it as a second SIGTERM does, and waits until it has ended.
    pub async fn stop(mut self) {
        drop(self.orders.send(Order::Stop));
        if let Some(thread) = self.thread.take() {
            tokio::task::spawn_blocking(move || thread.join()).await.expect("joins").expect("ends without a panic");
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // The receiver is gone only if the thread has ended.
        let _ = self.orders.send(Order::Stop);
        if !std::thread::panicking() {
            self.explanations.check(&self.directory, &self.records());
        }
    }
}
