//! `postern replay`: what a candidate file would decide otherwise of what an audit log recorded, by the data plane's own code.

use super::output::{print, table};
use super::recorded::{self, Recorded, RecordedRequest, Was};
use crate::authz::explain::principal_text;
use crate::authz::{Asked, ConnectionFacts, Principal, RequestFacts, Site};
use crate::http::target::read_target;
use crate::policy::{Judged, PortRules};
use crate::refusal::{Refusal, Refused};
use clap::Args;
use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
use postern_config::{Config, Inbound, Rules};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;

/// `postern replay …`
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Files of an audit log, oldest first
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// The candidate
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const DIFFERS: u8 = 1;

/// What the candidate says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Would {
    Allow,
    Observe(String),
    Refuse(String),
    /// Its rules ask for what is not recorded: headers, the query, tokens, server names, labels, conditions.
    CannotTell,
}

/// Decisions that differ in the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    peer: String,
    port: String,
    route: String,
    was: Was,
    would: Would,
}

struct Seen {
    count: u64,
    example: String,
}

/// Exit 0: it would decide the same; 1: it would not, or cannot tell of some; 2: a file cannot be read.
pub fn run(arguments: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(2));
        }
    };
    let candidate = Candidate::compile(&config);
    let mut differences: BTreeMap<Difference, Seen> = BTreeMap::new();
    let tally = recorded::read(&arguments.audit, |record| {
        let Some(would) = candidate.differs(&record) else { return };
        let peer = record.peer.as_ref().map_or(Principal::Anonymous, Principal::Spiffe);
        let route = record.route.clone().unwrap_or_else(|| "-".to_owned());
        let key = Difference { peer: principal_text(&peer), port: record.port.clone(), route, was: record.was, would };
        let seen = differences.entry(key).or_insert_with(|| Seen { count: 0, example: example(&record) });
        seen.count += 1;
    });
    let tally = match tally {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("{error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    match arguments.json {
        true => print(&format!("{:#}\n", to_json(&differences, &tally))),
        false => print(&to_text(&differences, &tally)),
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

fn example(record: &Recorded) -> String {
    match &record.request {
        Some(RecordedRequest { method, path, .. }) => format!("{method} {path}"),
        None => "a connection".to_owned(),
    }
}

struct Candidate<'a> {
    ports: HashMap<&'a str, (&'a Inbound, PortRules)>,
}

impl<'a> Candidate<'a> {
    fn compile(config: &'a Config) -> Self {
        let port = |port: &'a Inbound| (port.name.as_str(), (port, PortRules::compile(port, &Site::default(), &[])));
        Self { ports: config.inbound.iter().map(port).collect() }
    }

    /// What it would decide, where that is something else.
    fn differs(&self, record: &Recorded) -> Option<Would> {
        let would = self.decide(record);
        let same = matches!(
            (&would, record.was),
            (Would::Allow, Was::Allowed) | (Would::Observe(_), Was::Observed) | (Would::Refuse(_), Was::Refused)
        );
        (!same).then_some(would)
    }

    fn decide(&self, record: &Recorded) -> Would {
        let Some((port, rules)) = self.ports.get(record.port.as_str()) else {
            return Would::Refuse("the port is gone".to_owned());
        };
        let principal = record.peer.as_ref().map_or(Principal::Anonymous, Principal::Spiffe);
        let connection = ConnectionFacts::default();
        let (source, now) = (record.source, record.at);
        let asked = Asked { principal, source, port: Some(port.port), connection, now, request: None };
        let Some(request) = &record.request else {
            if port.is_about_requests() {
                return Would::Refuse("the port carries HTTP alone".to_owned());
            }
            if asks_for_more(port, None) {
                return Would::CannotTell;
            }
            return judged(rules.judge(None, &asked));
        };
        let Some(head) = head(request) else { return Would::CannotTell };
        let Ok(target) = read_target(&head, None, None) else { return Would::CannotTell };
        let (route, readings) = match rules.route(&target, &head.method) {
            Ok(found) => found,
            Err(refused) if rules.lets_through(refused.refusal, &head.method) => {
                return Would::Observe(words(&refused));
            }
            Err(refused) => return Would::Refuse(words(&refused)),
        };
        let of_route = route.and_then(|route| port.routes.iter().find(|other| *other.name == *route.name));
        if of_route.is_some_and(|route| route.token.is_some()) || asks_for_more(port, of_route.map(|it| &it.rules)) {
            return Would::CannotTell;
        }
        let facts = RequestFacts::new(&head.method, &head.uri, &target.host, &readings, None, None);
        // Of whom is no forwarder any more, nobody would look for whom it speaks.
        let is_forwarder = |peer| port.forwarders.iter().any(|forwarder| forwarder.is(peer));
        let caller = record.caller.as_ref().filter(|_| record.peer.as_ref().is_some_and(is_forwarder));
        if caller.is_some_and(|caller| !port.forwarders.iter().any(|forwarder| forwarder.may_speak_for(caller))) {
            return Would::Refuse(Refusal::ForwardedCallerRefused.code().to_owned());
        }
        let facts = facts.for_caller(caller);
        judged(rules.judge(route, &Asked { request: Some(facts), ..asked }))
    }
}

fn judged(judged: Judged) -> Would {
    match judged {
        Judged::Off | Judged::Overridden { .. } => Would::Allow,
        Judged::By(decision) => {
            decision.into_result().map_or_else(|refused| Would::Refuse(words(&refused)), |()| Would::Allow)
        }
        Judged::Observed(decision) => {
            decision.into_result().map_or_else(|refused| Would::Observe(words(&refused)), |()| Would::Allow)
        }
    }
}

/// Of what records do not hold.
fn asks_for_more(port: &Inbound, route: Option<&Rules>) -> bool {
    let own = route.unwrap_or(&port.rules);
    let of_port = port.rules.deny.iter().chain(&port.rules.require);
    own.all().chain(of_port).any(|rule| {
        let of_request = !rule.headers.is_empty() || !rule.query.is_empty() || rule.token.is_some();
        of_request || !rule.sni.is_empty() || !rule.labels.is_empty() || rule.when.is_some()
    })
}

fn head(request: &RecordedRequest) -> Option<http::request::Parts> {
    let uri: Uri = request.path.parse().ok()?;
    let mut built = Request::builder().method(request.method.clone()).uri(uri).body(()).ok()?;
    built.headers_mut().insert(HOST, HeaderValue::from_str(&request.host).ok()?);
    Some(built.into_parts().0)
}

fn words(refused: &Refused) -> String {
    match refused.detail.is_empty() {
        true => refused.refusal.code().to_owned(),
        false => format!("{} {}", refused.refusal.code(), refused.detail),
    }
}

impl Would {
    fn text(&self) -> String {
        match self {
            Self::Allow => "allow".to_owned(),
            Self::Observe(why) => format!("observe: {why}"),
            Self::Refuse(why) => format!("refuse: {why}"),
            Self::CannotTell => "cannot tell: its rules ask for what is not recorded".to_owned(),
        }
    }
}

fn to_text(differences: &BTreeMap<Difference, Seen>, tally: &recorded::Tally) -> String {
    let mut text = String::new();
    if differences.is_empty() {
        text += "the candidate decides the same\n";
    } else {
        let mut rows =
            vec![["COUNT", "CALLER", "PORT", "ROUTE", "WAS", "WOULD", "SUCH AS"].map(str::to_owned).to_vec()];
        for (difference, seen) in differences {
            let Difference { peer, port, route, was, would } = difference;
            let row = [&seen.count.to_string(), peer, port, route, was.as_str(), &would.text(), &seen.example];
            rows.push(row.map(str::to_owned).to_vec());
        }
        text += &table(&rows);
    }
    let differ: u64 = differences.values().map(|seen| seen.count).sum();
    text += &format!("{} decisions by rules, {differ} differ; {} others left out\n", tally.records, tally.not_by_rules);
    // Paths are callers'; a terminal obeys control characters.
    text.replace(|character: char| character.is_control() && character != '\n', "?")
}

fn to_json(differences: &BTreeMap<Difference, Seen>, tally: &recorded::Tally) -> serde_json::Value {
    let each = differences.iter().map(|(difference, seen)| {
        let (would, why) = match &difference.would {
            Would::Allow => ("allow", None),
            Would::Observe(why) => ("observe", Some(why)),
            Would::Refuse(why) => ("refuse", Some(why)),
            Would::CannotTell => ("cannot_tell", None),
        };
        json!({
            "caller": difference.peer,
            "port": difference.port,
            "route": difference.route,
            "was": difference.was.as_str(),
            "would": would,
            "why": why,
            "count": seen.count,
            "example": seen.example,
        })
    });
    json!({ "decisions": tally.records, "left_out": tally.not_by_rules, "differences": each.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests;
