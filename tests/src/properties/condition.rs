//! A condition is refused with places within its file, or evaluated in no time, and means what it means to the crate that
//! evaluates CEL when all its variables are plain maps.

use super::tokens::spell;
use cel::{Context, Env, Program, Value};
use postern_config::Config;
use postern_config::authz::{Fact, Facts, NamedTexts, Variable};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

const VOCABULARY: &[&str] = &[
    "request.method",
    "request.headers",
    "request.path",
    "source.port",
    "connection.mtls",
    "token.scopes",
    "token.subject",
    "workload.labels",
    " == ",
    " && ",
    "\n",
    " || ",
    "!",
    " in ",
    "has(",
    ".exists(x, ",
    ".all(x, x",
    "['x-env']",
    "[?'none']",
    ".orValue('a')",
    ".size()",
    ".startsWith('",
    " ? ",
    " : ",
    "'GET'",
    "[1, 2]",
    "(",
    ")",
    " < 1024",
    "true",
    ".x",
    ".matches('^a')",
];

/// Some thousand times of what it takes: whoever runs this has other things to do besides.
const SECONDS_MAX: Duration = Duration::from_secs(2);

pub(super) fn check(bytes: &[u8]) {
    let Ok(text) = String::from_utf8(spell(bytes, VOCABULARY)) else { return };
    // JSON's quotes are YAML's.
    let when = serde_json::to_string(&text).expect("text");
    let file = format!("inbound: [{{ port: 80, allow: [{{ trust_domain: td, when: {when} }}] }}]\n");
    let begun = Instant::now();
    let config = match Config::from_str(Path::new("f"), &file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems.0 {
                let (line, column) = (problem.place.line, problem.place.column);
                assert!(line <= 2 && column <= file.chars().count() + 1, "{problem} of {file}");
            }
            assert!(begun.elapsed() < SECONDS_MAX, "{text:?} took {:?} to be refused", begun.elapsed());
            return;
        }
    };
    let when = config.inbound[0].rules.allow[0].when.as_ref().expect("it was read");
    let ours = when.holds(&Known);
    assert!(begun.elapsed() < SECONDS_MAX, "{text:?} took {:?}", begun.elapsed());
    // The crate has functions of these names in features that are off.
    if !["matches", "lowerAscii", "timestamp", "request.time"].iter().any(|name| text.contains(name)) {
        assert_eq!(ours.as_ref().ok().copied(), plain(&text), "{text:?}: {ours:?}");
    }
}

struct Known;

#[derive(Debug)]
struct Pairs(&'static [(&'static str, &'static str)]);

const HEADERS: Pairs = Pairs(&[("x-env", "prod"), ("x", "")]);
const LABELS: Pairs = Pairs(&[("environment", "prod"), ("x", "1")]);

impl NamedTexts for Pairs {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(*value))
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Facts for Known {
    fn fact(&self, variable: Variable) -> Option<Fact<'_>> {
        Some(match variable {
            Variable::Method => Fact::Text("GET".into()),
            Variable::Path => Fact::Text("/orders/7?a=b".into()),
            Variable::Headers => Fact::Fields(&HEADERS),
            Variable::SourcePort => Fact::Number(40_000),
            Variable::Mtls => Fact::Truth(true),
            Variable::TokenScopes => Fact::Texts(&[]),
            Variable::Labels => Fact::Fields(&LABELS),
            _ => return None,
        })
    }
}

/// `None`: an error, or no truth value.
fn plain(text: &str) -> Option<bool> {
    let map = |pairs: &Pairs| Value::from(pairs.0.iter().copied().collect::<HashMap<_, _>>());
    let request =
        HashMap::from([("method", "GET".into()), ("path", "/orders/7?a=b".into()), ("headers", map(&HEADERS))]);
    std::thread::scope(|scope| {
        let evaluate = || {
            let mut context = Context::with_env(Env::stdlib().into());
            context.add_variable_from_value("request", request);
            context.add_variable_from_value("source", HashMap::from([("port", Value::from(40_000_i64))]));
            context.add_variable_from_value("connection", HashMap::from([("mtls", Value::from(true))]));
            context.add_variable_from_value("token", HashMap::from([("scopes", Value::from(Vec::<String>::new()))]));
            context.add_variable_from_value("workload", HashMap::from([("labels", map(&LABELS))]));
            let program = Env::stdlib().compile(text).expect("what we took is CEL");
            match Program::execute(&program, &context) {
                Ok(Value::Bool(truth)) => Some(truth),
                _ => None,
            }
        };
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        thread.spawn_scoped(scope, evaluate).expect("a thread").join().expect("no panic")
    })
}
