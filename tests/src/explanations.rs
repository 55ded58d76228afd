//! Whatever rules refuse in the suite, `postern explain` refuses by the same rule: asked about every record of every sidecar,
//! when that ends. A record has neither headers nor the query: where rules ask for those, the test asks by itself, with
//! `Sidecar::explains`.

use postern::cli::explain;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What routes and rules decide; the others come before or after them.
const BY_RULES: [&str; 5] = ["not_allowed", "denied", "requirement_unmet", "no_route", "ambiguous_route"];

/// The texts of a sidecar's configurations, each with the generation of the policy that it made.
#[derive(Default)]
pub struct Explanations {
    texts: Mutex<Vec<(u64, String)>>,
    /// Ids of decisions that the test asked about.
    by_test: Mutex<HashSet<String>>,
}

impl Explanations {
    pub fn in_force(&self, text: String, generation: u64) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).push((generation, text));
    }

    pub fn by_test(&self, record: &Value) {
        let id = record["decision"].as_str().unwrap_or_default().to_owned();
        self.by_test.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// # Panics
    /// Something was refused, and `explain` says otherwise.
    pub fn check(&self, directory: &Path, records: &[Value]) {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let by_test = self.by_test.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = HashSet::new();
        for record in records {
            let Some(question) = Question::of(record) else { continue };
            let is_by_test = record["decision"].as_str().is_some_and(|id| by_test.contains(id));
            if is_by_test || !asked.insert(question.clone()) {
                continue;
            }
            let Some((_, text)) = texts.iter().rfind(|(generation, _)| *generation <= question.generation) else {
                panic!("no configuration was in force: {record:#}");
            };
            let explained = question.ask(directory, text, record);
            for (key, expected) in
                [("refusal", &question.refusal), ("rule", &question.rule), ("route", &question.route)]
            {
                let said = explained[key].as_str().unwrap_or_default();
                assert_eq!(said, expected, "explain says another {key} of {record:#}\n{explained:#}\n{text}");
            }
        }
    }
}

/// What a record of a refusal says that the decision depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    generation: u64,
    port: String,
    peer: Option<String>,
    source: String,
    method: String,
    path: Option<String>,
    host: String,
    refusal: String,
    rule: String,
    route: String,
}

impl Question {
    /// `None`: rules refused nothing.
    fn of(record: &Value) -> Option<Self> {
        let field = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let refusal = record["refusal"].as_str().or_else(|| record["observed"].as_str())?;
        if record["direction"] != "inbound" || !BY_RULES.contains(&refusal) {
            return None;
        }
        let is_request = record["kind"] == "request";
        Some(Self {
            generation: record["policy.generation"].as_u64().unwrap_or_default(),
            port: field("listener"),
            peer: record["peer.spiffe_id"].as_str().map(str::to_owned),
            source: field("network.peer.address"),
            method: field("http.request.method"),
            path: is_request.then(|| field("url.path")),
            host: field("server.address"),
            refusal: refusal.to_owned(),
            rule: field("rule"),
            route: field("route"),
        })
    }

    fn ask(&self, directory: &Path, text: &str, record: &Value) -> Value {
        let file = directory.join("explained.yaml");
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let file = file.display().to_string();
        let mut arguments =
            vec!["--config", &*file, "--port", &self.port, "--at", record["time"].as_str().unwrap_or_default()];
        if !self.source.is_empty() {
            arguments.extend(["--source", &self.source]);
        }
        if let Some(peer) = &self.peer {
            arguments.extend(["--peer", peer]);
        }
        if let Some(path) = &self.path {
            arguments.extend(["--method", &self.method, "--path", path, "--host", &self.host]);
        }
        explain::answer(&arguments).unwrap_or_else(|error| panic!("{error:#}: {record:#}\n{text}"))
    }
}
