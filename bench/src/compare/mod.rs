//! The comparison: load → client sidecar =mTLS=> server sidecar → application, for each product in turn, round by round.
//!
//! One run of this is the unit in which figures may be compared: all products are measured within the same minutes on the
//! same machine, one after the other in every round, each time with fresh processes. Both sidecars are pinned to one core,
//! load and application to another. The main figure is CPU time per unit of work, from the kernel's accounting, because it
//! hardly depends on what else the machine does; rates and latencies do.

pub mod certificates;
pub mod cpu;
pub mod pair;
pub mod peers;
mod plot;
pub mod process;
pub mod quota;
pub mod report;
pub mod round;
pub mod scenario;
pub mod setting;
pub mod stage;
pub mod turns;

use anyhow::{Context as _, bail, ensure};
use certificates::Certificates;
use clap::Args;
use pair::Plan;
use peers::Product;
use quota::Quota;
use round::Round;
use scenario::{SCENARIOS, Scenario};
use std::path::PathBuf;

#[derive(Args)]
pub struct CompareArguments {
    /// Only these scenarios, by name. `--scenario list` prints them all.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each measurement takes, after a second of warm-up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Only these: envoy, haproxy, haproxy-new, nginx, nginx-new. Postern is always there.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// The program to measure.
    #[arg(long, default_value = "target/dist/postern")]
    postern: PathBuf,
    /// A second program of ours, as `postern-before`: what a change did, in the same run.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Access log on in every scenario.
    #[arg(long)]
    logs: bool,
    /// Session resumption off for all, in every scenario.
    #[arg(long)]
    no_resumption: bool,
    /// Connections of the idle scenarios without a number in their name. Each takes two descriptors of a sidecar, of which
    /// 20,000 are asked for.
    #[arg(long, default_value_t = 2000)]
    idle_connections: usize,
    /// The core of both sidecars.
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// The core of load and application.
    #[arg(long, default_value = "1")]
    load_core: String,
    /// Where the CPU time goes: `perf record` of both sidecars while the load runs, into this folder, a file for each
    /// scenario, product and round. The figures of such a run are no good for anything else.
    #[arg(long)]
    perf: Option<PathBuf>,
    /// On a busy machine: all products of a round are up at once and take turns of a quarter of a second, so that neighbours
    /// disturb all alike. There are no latencies then; scenarios of latency, memory and bulk are measured as ever.
    #[arg(long, conflicts_with = "perf")]
    turns: bool,
    /// Write table, plot and raw figures under this name into `bench/results/`.
    #[arg(long)]
    save: Option<String>,
}

/// What came of one scenario: `rounds[product]`, or why there are none.
pub struct Outcome<'a> {
    pub scenario: &'a Scenario,
    pub products: Vec<(&'static str, Result<Vec<Round>, String>)>,
}

pub fn run(arguments: &CompareArguments) -> anyhow::Result<()> {
    if arguments.scenario.iter().any(|name| name == "list") {
        SCENARIOS.iter().for_each(|scenario| println!("{:<20} {}", scenario.name, scenario.title));
        return Ok(());
    }
    let scenarios = chosen(&arguments.scenario)?;
    ensure!(arguments.postern.is_file(), "{} is not there: build it, or say --postern", arguments.postern.display());
    if let Some(folder) = &arguments.perf {
        std::fs::create_dir_all(folder)?;
        process::find("perf").context("perf is not installed")?;
    }
    for program in ["taskset", "prlimit", "kill"] {
        process::find(program).with_context(|| format!("{program} is not installed"))?;
    }
    let mut found = peers::find(&arguments.postern, &arguments.peers);
    if let Some(before) = &arguments.before {
        found.products.insert(1, peers::before(before));
    }
    for absent in &found.absent {
        eprintln!("ABSENT, left out: {absent}");
    }
    let folder = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let plan = Plan {
        folder: folder.path(),
        certificates: &certificates,
        proxy_cores: arguments.proxy_core.clone(),
        load_cores: arguments.load_core.clone(),
        seconds: arguments.seconds,
        idle_connections: arguments.idle_connections,
        perf: arguments.perf.as_deref(),
    };
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        let mut setting = scenario.setting;
        setting.logs |= arguments.logs;
        setting.resumption &= !arguments.no_resumption;
        let scenario = &*Box::leak(Box::new(Scenario { setting, load: scenario.load, ..*scenario }));
        let outcome = compare(&plan, scenario, &found.products, arguments);
        println!("{}", report::table(&outcome));
        outcomes.push(outcome);
    }
    if let Some(name) = &arguments.save {
        report::save(name, &outcomes, &found)?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let one = |name: &String| match SCENARIOS.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name}; --scenario list prints them"),
    };
    names.iter().map(one).collect()
}

fn compare<'a>(
    plan: &Plan<'_>,
    scenario: &'a Scenario,
    products: &[Box<dyn Product>],
    arguments: &CompareArguments,
) -> Outcome<'a> {
    let mut outcome = Outcome { scenario, products: Vec::new() };
    let quota = scenario.setting.cpu_percent_max.map(|percent| Quota::new(&quota::group_name("try"), percent));
    let no_quota = quota.and_then(Result::err).map(|error| format!("{error:#}"));
    for product in products {
        let lacks = product.lacks(&scenario.setting).map(str::to_owned).or_else(|| no_quota.clone());
        outcome.products.push((product.name(), lacks.map_or(Ok(Vec::new()), Err)));
    }
    if scenario.figure == scenario::Figure::P99 {
        outcome.products.push((pair::DIRECT, Ok(Vec::new())));
    }
    for number in 1..=arguments.rounds {
        let asked: Vec<bool> = outcome.products.iter().map(|(_, so_far)| so_far.is_ok()).collect();
        let product = |index: usize| products.get(index).map(|product| &**product);
        if arguments.turns && turns::suits(scenario) {
            let those: Vec<_> =
                asked.iter().enumerate().map(|(index, asked)| product(index).filter(|_| *asked)).collect();
            let figures = turns::measure(plan, scenario, &those);
            figures.into_iter().enumerate().for_each(|(index, figure)| outcome.take(number, index, figure));
        } else {
            for (index, _) in asked.iter().enumerate().filter(|(_, asked)| **asked) {
                outcome.take(number, index, Some(pair::measure(plan, scenario, product(index))));
            }
        }
    }
    outcome
}

impl Outcome<'_> {
    fn take(&mut self, number: usize, index: usize, figure: Option<anyhow::Result<Round>>) {
        let (name, so_far) = &mut self.products[index];
        match (figure, so_far) {
            (Some(Ok(round)), Ok(rounds)) => {
                eprintln!("{} round {number} {name}: {round}", self.scenario.name);
                rounds.push(round);
            }
            (Some(Err(error)), so_far) => {
                eprintln!("{} round {number} {name}: FAILED: {error:#}", self.scenario.name);
                let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                *so_far = Err(format!("failed: {first}"));
            }
            _ => {}
        }
    }
}
