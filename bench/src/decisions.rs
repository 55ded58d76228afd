//! What deciding costs a request: the pair with one rule, with a thousand and an audit log, and with tokens beside.
//!
//! A token is attached by the client's sidecar, and looked at and taken off by the server's: what either costs is what its side
//! spends more. (A token that is attached and not looked at would go on to the application, which is another thing, and costs
//! the server's side more than it does to check one.)
//!
//! All variants of a scenario are up at once and take turns, as `compare --turns` has it, so that they meet the same machine.

use crate::compare::Outcome;
use crate::compare::certificates::Certificates;
use crate::compare::pair::Plan;
use crate::compare::peers::Product;
use crate::compare::peers::postern::Postern;
use crate::compare::process::{Program, Running};
use crate::compare::report::median;
use crate::compare::round::Round;
use crate::compare::scenario::Scenario;
use crate::compare::setting::{CLIENT_ID, Place, Protocol, SERVER_ID, Setting, Side};
use crate::compare::turns;
use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const RULES: usize = 1000;
const CONDITIONS: usize = 50;

#[derive(Args)]
pub struct DecisionsArguments {
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only this one of the scenarios.
    #[arg(long, value_parser = ["http1", "http2"])]
    scenario: Option<String>,
    /// How long each variant has the machine in each round.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// The program to measure.
    #[arg(long, default_value = "target/dist/postern")]
    postern: PathBuf,
    /// The core of both sidecars.
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// The core of load and application.
    #[arg(long, default_value = "1")]
    load_core: String,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario::new(
        "http1",
        "HTTP/1.1 keep-alive, 64 connections",
        Setting::of(Protocol::Http1),
        &["http1", "--connections", "64"],
    ),
    Scenario::new(
        "http2",
        "HTTP/2, 8 connections × 16 streams",
        Setting::of(Protocol::Http2),
        &["http2", "--connections", "8", "--streams", "16"],
    ),
];

/// What is decided, and how it is recorded. Each does what the one before does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Variant {
    /// One rule, as in `compare`.
    One,
    /// Every decision in the audit log.
    Audit,
    /// A thousand rules, fifty of which have a condition; one of these is the caller's.
    Rules,
    /// The caller's sidecar attaches a JWT-SVID, and it is checked: its audience, and that it is the caller's own.
    Token,
    /// Instead of that, all fifty conditions are asked for every request, and the last one holds.
    Conditions,
}

const VARIANTS: [(Variant, &str); 5] = [
    (Variant::One, "one rule"),
    (Variant::Audit, "audit log of every decision"),
    (Variant::Rules, "audit log; 1,000 rules, 50 with conditions, of which one is asked"),
    (Variant::Token, "the same; a JWT-SVID attached by the client's side, checked by the server's"),
    (Variant::Conditions, "audit log; 1,000 rules, 50 with conditions, all asked"),
];

struct Deciding {
    postern: Postern,
    variant: Variant,
    name: &'static str,
    /// Where the embedded identity provider has its sockets.
    sockets: PathBuf,
}

/// # Errors
/// A variant does not answer every request.
pub fn run(arguments: &DecisionsArguments) -> anyhow::Result<()> {
    ensure!(arguments.postern.is_file(), "{} is not there: build it, or say --postern", arguments.postern.display());
    let folder = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let plan = Plan {
        folder: folder.path(),
        certificates: &certificates,
        proxy_cores: arguments.proxy_core.clone(),
        load_cores: arguments.load_core.clone(),
        seconds: arguments.seconds,
        idle_connections: 0,
        perf: None,
    };
    let sockets = folder.path().join("identity");
    let _provider = start_provider(arguments, &sockets)?;
    let products: Vec<Deciding> = VARIANTS
        .iter()
        .map(|(variant, name)| Deciding {
            postern: Postern::new("postern", &arguments.postern),
            variant: *variant,
            name,
            sockets: sockets.clone(),
        })
        .collect();
    for scenario in SCENARIOS.iter().filter(|it| arguments.scenario.as_ref().is_none_or(|name| name == it.name)) {
        let outcome = measure(&plan, scenario, &products, arguments.rounds)?;
        println!("{}", table(&outcome));
    }
    Ok(())
}

fn measure<'a>(
    plan: &Plan<'_>,
    scenario: &'a Scenario,
    products: &[Deciding],
    rounds: usize,
) -> anyhow::Result<Outcome<'a>> {
    let mut taken: Vec<Vec<Round>> = products.iter().map(|_| Vec::new()).collect();
    let asked: Vec<Option<&dyn Product>> = products.iter().map(|product| Some(product as _)).collect();
    for round in 1..=rounds {
        for (index, figure) in turns::measure(plan, scenario, &asked).into_iter().enumerate() {
            let name = products[index].name;
            let figure = figure.context("every variant is asked")?;
            let figure = figure.with_context(|| format!("{} round {round}, {name}", scenario.name))?;
            eprintln!("{} round {round} {name}: {figure}", scenario.name);
            taken[index].push(figure);
        }
    }
    let products = products.iter().zip(taken).map(|(product, rounds)| (product.name, Ok(rounds)));
    Ok(Outcome { scenario, products: products.collect() })
}

/// Of each round, a variant's figures by those of the first one and of the one before; then the medians. What each side adds is
/// in percent of the pair, so that the two columns sum up to the one before them.
fn table(outcome: &Outcome<'_>) -> String {
    let rounds: Vec<(&str, &[Round])> =
        outcome.products.iter().map(|(name, rounds)| (*name, rounds.as_deref().unwrap_or_default())).collect();
    let by = |these: &[Round], those: &[Round], of: fn(&Round) -> f64| {
        median(these.iter().zip(those).map(|(this, that)| 100.0 * (of(this) - of(that)) / that.cpu))
    };
    let mut text = format!(
        "### {}: {}\n\n| | CPU-µs of the pair per request | more than one rule, % | more than the row above, % | by the client's side | by the server's |\n|---|---:|---:|---:|---:|---:|\n",
        outcome.scenario.name, outcome.scenario.title
    );
    let mut before = rounds.first().map(|(_, first)| *first).unwrap_or_default();
    let first = before;
    for (name, these) in rounds {
        let cpu = median(these.iter().map(|round| round.cpu));
        let pair = |round: &Round| round.cpu;
        let (client, server) = (|round: &Round| round.cpu_client, |round: &Round| round.cpu - round.cpu_client);
        text += &format!(
            "| {name} | {cpu:.1} | {:+.1} | {:+.1} | {:+.1} | {:+.1} |\n",
            by(these, first, pair),
            by(these, before, pair),
            by(these, before, client),
            by(these, before, server)
        );
        before = these;
    }
    text
}

fn start_provider(arguments: &DecisionsArguments, state: &Path) -> anyhow::Result<Running> {
    fs::create_dir(state)?;
    let client = format!("client={CLIENT_ID}");
    let server = format!("server={SERVER_ID}");
    let mut words = vec!["dev-identity".to_owned(), "--state".to_owned(), state.display().to_string()];
    for (flag, value) in
        [("--trust-domain", "shop.example"), ("--workload", &*client), ("--workload", &*server), ("--ttl", "12h")]
    {
        words.extend([flag.to_owned(), value.to_owned()]);
    }
    let program = Program::new(&arguments.postern, words);
    let mut provider = Running::start(program.command(&[], &arguments.load_core), &state.join("log"))?;
    provider.wait_until("the identity provider", || socket(state, Side::Server).exists())?;
    Ok(provider)
}

fn socket(state: &Path, side: Side) -> PathBuf {
    state.join(format!("{}.sock", side.name()))
}

impl Product for Deciding {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        self.postern.version()
    }

    fn lacks(&self, setting: &Setting) -> Option<&'static str> {
        self.postern.lacks(setting)
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        self.postern.prepare_with(side, setting, place, |config| {
            config["identity"] = json!({ "workload_api": format!("unix://{}", socket(&self.sockets, side).display()) });
            match side {
                Side::Client => self.variant.ask(&mut config["outbound"]["services"][0]),
                Side::Server => self.variant.decide(config, place.folder),
            }
        })
    }
}

impl Variant {
    fn ask(self, service: &mut Value) {
        if self == Self::Token {
            service["credential"] = json!("jwt_svid");
        }
    }

    fn decide(self, config: &mut Value, folder: &Path) {
        if self >= Self::Audit {
            config["audit"] = json!({ "to": { "file": folder.join("audit.json") }, "decisions": { "denials": true, "allows": "100%" } });
        }
        let route = &mut config["inbound"][0]["routes"][0];
        if self >= Self::Rules {
            route["allow"] = rules(self == Self::Conditions);
        }
        if self == Self::Token {
            route["audience"] = json!(SERVER_ID);
            route["binding"] = json!("peer");
        }
    }
}

/// The last one is the caller's, and holds. `asked`: so is every other condition, and does not.
fn rules(asked: bool) -> Value {
    let plain = (0..RULES - CONDITIONS)
        .map(|n| json!({ "spiffe": format!("spiffe://shop.example/ns/n{n}/sa/*"), "methods": ["GET", "POST"] }));
    let conditions = (1..=CONDITIONS).map(|n| {
        let spiffe =
            if asked || n == CONDITIONS { CLIENT_ID.to_owned() } else { format!("spiffe://shop.example/ns/c{n}/sa/*") };
        let ends = if n == CONDITIONS { "items".to_owned() } else { format!("shard-{n}") };
        let when = format!(
            "request.method == 'GET' && request.url_path.startsWith('/orders/') && request.url_path.endsWith('/{ends}')"
        );
        json!({ "spiffe": spiffe, "when": when })
    });
    plain.chain(conditions).collect()
}
