//! Whatever rules refuse in the suite, `postern explain` refuses by the same rule: asked about every record of every sidecar,
//! when that ends. A record has neither headers nor the query: where rules ask for those, the test says them, with
//! `Sidecar::shown`.

use postern::cli::explain;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What routes and rules decide; the others come before or after them.
const BY_RULES: [&str; 5] = ["not_allowed", "denied", "requirement_unmet", "no_route", "ambiguous_route"];

/// The texts of a sidecar's configurations, each with the generation of the policy that it made.
#[derive(Default)]
pub struct Explanations {
    texts: Mutex<Vec<(u64, String)>>,
    /// By the decision's id: a query, and more words for `explain`.
    shown: Mutex<HashMap<String, (String, Vec<String>)>>,
}

impl Explanations {
    pub fn in_force(&self, text: String, generation: u64) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).push((generation, text));
    }

    /// What the request of `record` showed beside what is recorded.
    pub fn shown(&self, record: &Value, query: &str, more: &[&str]) {
        let id = record["decision"].as_str().unwrap_or_default().to_owned();
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (query.to_owned(), more));
    }

    /// # Panics
    /// Something was refused, and `explain` says otherwise.
    pub fn check(&self, directory: &Path, records: &[Value]) {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (nothing, mut asked) = (Default::default(), HashSet::new());
        for record in records {
            let Some(question) = Question::of(record) else { continue };
            let (query, more) = record["decision"].as_str().and_then(|id| shown.get(id)).unwrap_or(&nothing);
            if !asked.insert((question.clone(), query, more)) {
                continue;
            }
            let Some((_, text)) = texts.iter().rfind(|(generation, _)| *generation <= question.generation) else {
                panic!("no configuration was in force: {record:#}");
            };
            let explained = question.ask(directory, text, record, query, more);
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
    caller: Option<String>,
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
            caller: record["caller.spiffe_id"].as_str().map(str::to_owned),
            source: field("network.peer.address"),
            method: field("http.request.method"),
            path: is_request.then(|| field("url.path")),
            host: field("server.address"),
            refusal: refusal.to_owned(),
            rule: field("rule"),
            route: field("route"),
        })
    }

    fn ask(&self, directory: &Path, text: &str, record: &Value, query: &str, more: &[String]) -> Value {
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
        if let Some(caller) = &self.caller {
            arguments.extend(["--caller", caller]);
        }
        let path = self.path.as_ref().map(|path| format!("{path}{query}"));
        if let Some(path) = &path {
            arguments.extend(["--method", &self.method, "--path", path, "--host", &self.host]);
        }
        arguments.extend(more.iter().map(String::as_str));
        explain::answer(&arguments).unwrap_or_else(|error| panic!("{error:#}: {record:#}\n{text}"))
    }
}
