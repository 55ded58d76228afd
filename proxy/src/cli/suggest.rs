//! `postern suggest`: the least that has to be allowed for what an audit log recorded, and what of a file nothing used.

use super::output::print;
use super::recorded::{self, Recorded, RecordedRequest, Was};
use clap::Args;
use postern_config::{Config, PathPattern};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// `postern suggest …`
#[derive(Args, Debug)]
pub struct SuggestArgs {
    /// Files of an audit log, oldest first. It has to record what was allowed, too (`decisions: { allows: 100% }`)
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// The file that was in force: names its rules and routes that nothing used
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// So many different texts in one place of a path are a parameter.
const SEGMENTS_MAX: usize = 8;
/// Paths of one caller that are kept; beyond it everything below their first segment is meant.
const PATHS_MAX: usize = 10_000;

/// What one caller did at one port.
#[derive(Default)]
struct Used {
    decisions: u64,
    /// Let through by `mode: observe` although the rules of then refuse it.
    observed: u64,
    connections: u64,
    /// Segments of a path, and the methods.
    paths: BTreeMap<Vec<String>, BTreeSet<String>>,
}

/// By port, then who it was.
type ByPort = BTreeMap<String, BTreeMap<Who, Used>>;

/// The peer, and for whom it spoke. Without a peer: an anonymous caller.
type Who = (Option<String>, Option<String>);

#[derive(Default)]
struct Seen {
    used: ByPort,
    /// Port and rule, port and route.
    rules: BTreeSet<(String, String)>,
    routes: BTreeSet<(String, String)>,
    refused: u64,
}

/// Exit 0: it is written; 2: a file cannot be read.
pub fn run(arguments: &SuggestArgs) -> anyhow::Result<ExitCode> {
    let config = match arguments.config.as_deref().map(Config::load).transpose() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut seen = Seen::default();
    if let Err(error) = recorded::read(&arguments.audit, |record| seen.add(record)) {
        eprintln!("{error:#}");
        return Ok(ExitCode::from(2));
    }
    print(&render(&seen, config.as_ref()));
    Ok(ExitCode::SUCCESS)
}

impl Seen {
    fn add(&mut self, record: Recorded) {
        let Recorded { port, peer, caller, route, rule, request, was, .. } = record;
        self.rules.extend(rule.map(|rule| (port.clone(), rule)));
        self.routes.extend(route.map(|route| (port.clone(), route)));
        if was == Was::Refused {
            self.refused += 1;
            return;
        }
        let who = (peer.map(|id| id.to_string()), caller.map(|id| id.to_string()));
        let used = self.used.entry(port).or_default().entry(who).or_default();
        used.decisions += 1;
        used.observed += u64::from(was == Was::Observed);
        match request {
            None => used.connections += 1,
            Some(RecordedRequest { method, path, .. }) => {
                let segments: Vec<String> = path.trim_start_matches('/').split('/').map(general).collect();
                let segments =
                    if used.paths.len() < PATHS_MAX { segments } else { vec![segments[0].clone(), "**".into()] };
                used.paths.entry(segments).or_default().insert(method.to_string());
            }
        }
    }
}

/// A segment as a pattern: what looks like an identifier is one.
fn general(segment: &str) -> String {
    let is_number = segment.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = segment.len() >= 8 && segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    // Of these nobody can say how an application reads them; a pattern's own marks cannot be written literally.
    let is_odd = segment.contains(['*', '{', '}', '%', ';']);
    match !segment.is_empty() && (is_number || is_hex || is_odd) {
        true => "*".to_owned(),
        false => segment.to_owned(),
    }
}

/// Puts `*` where too many different texts stand in one place.
fn generalize(paths: &BTreeMap<Vec<String>, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let longest = paths.keys().map(Vec::len).max().unwrap_or(0);
    let mut paths: Vec<(Vec<String>, BTreeSet<String>)> =
        paths.iter().map(|(path, methods)| (path.clone(), methods.clone())).collect();
    for depth in 0..longest {
        let mut texts: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
        for (path, _) in paths.iter().filter(|(path, _)| path.len() > depth) {
            texts.entry(path[..depth].to_vec()).or_default().insert(path[depth].clone());
        }
        for (path, _) in paths.iter_mut().filter(|(path, _)| path.len() > depth) {
            let is_parameter = texts.get(&path[..depth]).is_some_and(|texts| texts.len() > SEGMENTS_MAX);
            if is_parameter && path[depth] != "**" && !path[depth].is_empty() {
                path[depth] = "*".to_owned();
            }
        }
    }
    let mut general: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, methods) in paths {
        general.entry(format!("/{}", path.join("/"))).or_default().extend(methods);
    }
    general
}

fn render(seen: &Seen, config: Option<&Config>) -> String {
    let decisions: u64 = seen.used.values().flat_map(BTreeMap::values).map(|used| used.decisions).sum();
    let mut text = format!(
        "# From {decisions} decisions that let something through; {} that rules refused are left out.\n\
         # It is what happened, and not what should: read it before you use it.\n",
        seen.refused
    );
    if seen.used.is_empty() {
        text += "inbound: []\n";
    } else {
        text += "inbound:\n";
    }
    for (port, callers) in &seen.used {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  - name: {port}\n    allow:");
        for (caller, used) in callers {
            write_caller(&mut text, caller, used);
        }
    }
    if let Some(config) = config {
        write_unused(&mut text, seen, config);
    }
    text
}

fn write_caller(text: &mut String, (peer, caller): &Who, used: &Used) {
    let mut who = peer.as_ref().map_or_else(|| "anonymous: true".to_owned(), |id| format!("spiffe: {id}"));
    if let Some(caller) = caller {
        let _ = write!(who, "\n        caller: {caller}");
    }
    let observed = match used.observed {
        0 => String::new(),
        observed => format!(", {observed} of them refused by the rules of then, and observed"),
    };
    let plural = if used.decisions == 1 { "" } else { "s" };
    let _ = writeln!(text, "      # {} decision{plural}{observed}", used.decisions);
    if used.connections > 0 {
        let _ = writeln!(text, "      - {who}");
    }
    // One rule for the paths that were called with the same methods: no rule allows more than what was seen.
    let mut by_methods: BTreeMap<BTreeSet<String>, Vec<String>> = BTreeMap::new();
    for (path, methods) in generalize(&used.paths) {
        by_methods.entry(methods).or_default().push(path);
    }
    for (methods, paths) in by_methods {
        let (writable, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| PathPattern::parse(path).is_ok());
        for path in others {
            let _ = writeln!(text, "      # no pattern fits {path:?}");
        }
        if writable.is_empty() {
            continue;
        }
        let methods: Vec<_> = methods.into_iter().collect();
        let paths: Vec<_> = writable.iter().map(|path| format!("{path:?}")).collect();
        let _ = writeln!(
            text,
            "      - {who}\n        methods: [{}]\n        paths: [{}]",
            methods.join(", "),
            paths.join(", ")
        );
    }
}

fn write_unused(text: &mut String, seen: &Seen, config: &Config) {
    for port in &config.inbound {
        let is_used =
            |used: &BTreeSet<(String, String)>, name: &str| used.contains(&(port.name.clone(), name.to_owned()));
        let mut told = BTreeSet::new();
        for rule in port.rule_sets().flat_map(|rules| rules.deny.iter().chain(&rules.allow)) {
            if !is_used(&seen.rules, &rule.name) && told.insert(rule.name.clone()) {
                let _ = writeln!(text, "# unused: rule `{}` of port `{}` ({})", rule.name, port.name, rule.place);
            }
        }
        for route in port.routes.iter().filter(|route| !is_used(&seen.routes, &route.name)) {
            let _ = writeln!(text, "# unused: route `{}` of port `{}` ({})", route.name, port.name, route.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, general, render};
    use crate::cli::recorded::{Recorded, RecordedRequest, Was};
    use http::Method;
    use postern_config::{Config, SpiffeId};
    use std::path::Path;

    fn record(peer: &str, method: Method, path: &str, was: Was) -> Recorded {
        Recorded {
            at: 0,
            port: "orders".to_owned(),
            peer: Some(SpiffeId::parse(peer).unwrap()),
            caller: None,
            source: None,
            route: Some("read".to_owned()),
            rule: Some("web".to_owned()),
            request: Some(RecordedRequest { method, path: path.to_owned(), host: "orders.svc".to_owned() }),
            was,
        }
    }

    #[test]
    fn what_looks_like_an_identifier_is_one() {
        for (segment, expected) in [
            ("orders", "orders"),
            ("7", "*"),
            ("cafe", "cafe"),
            ("deadbeef", "*"),
            ("0b7e3c5e-7e1d-4f55-9d4c-6f2f5f0b2a11", "*"),
            ("a%20b", "*"),
            ("a;b", "*"),
            ("", ""),
        ] {
            assert_eq!(general(segment), expected, "{segment}");
        }
    }

    #[test]
    fn suggests_no_more_than_what_was_seen_and_names_what_nothing_used() {
        let (web, ops) = ("spiffe://shop.example/web", "spiffe://shop.example/ops");
        let mut seen = Seen::default();
        for order in 0..20 {
            seen.add(record(web, Method::GET, &format!("/orders/{order}"), Was::Allowed));
            seen.add(record(web, Method::GET, &format!("/by-name/n{order}x"), Was::Allowed));
        }
        seen.add(record(web, Method::POST, "/orders", Was::Observed));
        seen.add(record(ops, Method::GET, "/orders/", Was::Allowed));
        let caller = Some(SpiffeId::parse("spiffe://shop.example/user").unwrap());
        seen.add(Recorded { caller, ..record(ops, Method::GET, "/orders/", Was::Allowed) });
        seen.add(record(ops, Method::DELETE, "/orders/7", Was::Refused));
        let file = r#"
identity: { workload_api: "unix:///a" }
inbound:
  - name: orders
    port: 8080
    listen: 127.0.0.1:15006
    deny: [{ name: never, spiffe: spiffe://shop.example/gone }]
    allow: [{ name: web, spiffe: spiffe://shop.example/web }]
    routes: [{ name: read, match: {} }, { name: other, match: { path: /b } }]
"#;
        let config = Config::from_str(Path::new("postern.yaml"), file).unwrap();
        let expected = r#"# From 43 decisions that let something through; 1 that rules refused are left out.
# It is what happened, and not what should: read it before you use it.
inbound:
  - name: orders
    allow:
      # 1 decision
      - spiffe: spiffe://shop.example/ops
        methods: [GET]
        paths: ["/orders/"]
      # 1 decision
      - spiffe: spiffe://shop.example/ops
        caller: spiffe://shop.example/user
        methods: [GET]
        paths: ["/orders/"]
      # 41 decisions, 1 of them refused by the rules of then, and observed
      - spiffe: spiffe://shop.example/web
        methods: [GET]
        paths: ["/by-name/*", "/orders/*"]
      - spiffe: spiffe://shop.example/web
        methods: [POST]
        paths: ["/orders"]
# unused: rule `never` of port `orders` (postern.yaml:7:12)
# unused: route `other` of port `orders` (postern.yaml:9:41)
"#;
        assert_eq!(render(&seen, Some(&config)), expected);
    }
}
