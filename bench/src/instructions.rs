//! Instructions of user code for one request or connection in one sidecar, and for one call of each part of the request path,
//! counted by callgrind: the same on every machine to a per cent or two, whatever else it does. What CI compares with
//! `bench/budget.json`.
//!
//! It says nothing of the kernel, nor of caches: `compare` does.

pub mod parts;

use crate::compare::certificates::Certificates;
use crate::compare::pair::Plan;
use crate::compare::peers::Product;
use crate::compare::peers::postern::Postern;
use crate::compare::process::{Program, find};
use crate::compare::scenario::Scenario;
use crate::compare::setting::{Place, Protocol, Setting, Side};
use crate::compare::stage::Stage;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const BUDGET: &str = "bench/budget.json";
/// Of a figure, before it counts as another: threads beside the workers have their share in it, by the clock, and so have the
/// machine's C library and compiler.
const NOISE: f64 = 0.05;
const WARM_UPS_MAX: usize = 20;
const WARM_UP_PAUSE: Duration = Duration::from_secs(1);
/// Of what is counted, how much is a warm-up.
const WARM_SHARE: u32 = 10;

#[derive(Args)]
pub struct InstructionsArguments {
    /// The program to measure: the build that the budget is of.
    #[arg(long, default_value = "target/release/postern")]
    postern: PathBuf,
    /// Only the parts, which are of this program's own build.
    #[arg(long)]
    parts: bool,
    /// Write what was counted into the budget.
    #[arg(long)]
    write: bool,
}

/// With how many answers are counted. A handshake takes as much as forty requests.
const SCENARIOS: [(Scenario, u32); 3] = [
    (Scenario::new("http1", "HTTP/1.1", Setting::of(Protocol::Http1), &["http1", "--connections", "1"]), 2000),
    (
        Scenario::new(
            "http2",
            "HTTP/2",
            Setting::of(Protocol::Http2),
            &["http2", "--connections", "1", "--streams", "8"],
        ),
        2000,
    ),
    (Scenario::new("connect", "an L4 connection each", Setting::of(Protocol::Tcp), &["connect", "--at-once", "1"]), 50),
];

/// # Errors
/// A figure is above its budget, or cannot be had.
pub fn run(arguments: &InstructionsArguments) -> anyhow::Result<()> {
    for program in ["valgrind", "callgrind_control"] {
        find(program).with_context(|| format!("{program} is not installed: apt-get install valgrind"))?;
    }
    let mut counted = if arguments.parts { BTreeMap::new() } else { count_sidecars(&arguments.postern)? };
    let parts = parts::count()?;
    if cfg!(debug_assertions) {
        counted.extend(parts);
    } else {
        parts.iter().for_each(|(name, count)| println!("{name:<24} {count:>10} (the budget is of a debug build)"));
    }
    let budget = fs::read_to_string(BUDGET).with_context(|| format!("{BUDGET}: run this from the project's root"))?;
    let mut budget: BTreeMap<String, u64> = serde_json::from_str(&budget).context(BUDGET)?;
    if arguments.write {
        budget.extend(counted.clone());
        fs::write(BUDGET, serde_json::to_string_pretty(&budget)? + "\n")?;
    }
    compare(&counted, &budget)
}

fn count_sidecars(postern: &Path) -> anyhow::Result<BTreeMap<String, u64>> {
    ensure!(postern.is_file(), "{} is not there: build it, or say --postern", postern.display());
    let mut counted = BTreeMap::new();
    for (scenario, answers) in &SCENARIOS {
        for side in [Side::Server, Side::Client] {
            counted.insert(format!("{}-{}", scenario.name, side.name()), count(postern, scenario, *answers, side)?);
        }
    }
    Ok(counted)
}

fn compare(counted: &BTreeMap<String, u64>, budget: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    println!("{:<24} {:>10} {:>10} {:>7}", "instructions", "counted", "budget", "");
    let mut above = Vec::new();
    for (name, count) in counted {
        let allowed = *budget.get(name).with_context(|| format!("{BUDGET} says nothing of {name}"))?;
        let ratio = *count as f64 / allowed as f64;
        println!("{name:<24} {count:>10} {allowed:>10} {ratio:>7.3}");
        if ratio > 1.0 + NOISE {
            above.push(name.as_str());
        } else if ratio < 1.0 - NOISE {
            println!("  lower the budget to what is counted now: `--write`");
        }
    }
    ensure!(above.is_empty(), "above the budget: {}. Find out why; `--write` makes it the new one", above.join(", "));
    Ok(())
}

/// Of one side; the other runs as it always does.
fn count(postern: &Path, scenario: &Scenario, answers: u32, side: Side) -> anyhow::Result<u64> {
    let folder = tempfile::Builder::new().prefix("postern-instructions-").tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let plan = Plan {
        folder: folder.path(),
        certificates: &certificates,
        proxy_cores: "0".to_owned(),
        load_cores: "0".to_owned(),
        seconds: 0.0,
        idle_connections: 0,
        perf: None,
    };
    let out = folder.path().join("callgrind.out");
    let product = UnderCallgrind { postern: Postern::new("postern", postern), side, out: out.clone() };
    let stage = Stage::start(&plan, scenario, Some(&product))?;
    let pid = stage.pid(side).context("there is a pair")?;
    // The first handshake, with which the random numbers begin, takes longer under callgrind than a client waits.
    let warm_up = || stage.load(&plan, scenario, &["--answers", &(answers / WARM_SHARE).to_string()])?.report();
    let is_warm = (0..WARM_UPS_MAX).any(|_| {
        let warmed = warm_up();
        std::thread::sleep(WARM_UP_PAUSE);
        warmed.is_ok()
    });
    ensure!(is_warm, "{} {}: no requests go through", scenario.name, side.name());
    collect(pid, "on")?;
    let report = stage.load(&plan, scenario, &["--answers", &answers.to_string()])?.report()?;
    collect(pid, "off")?;
    // The file is written at its end.
    drop(stage);
    Ok(totals(&out)? / report.work)
}

/// What was counted, in a file that callgrind wrote.
fn totals(path: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("callgrind's output {}", path.display()))?;
    let totals = text.lines().rev().find_map(|line| line.strip_prefix("totals: ")).context("callgrind's totals")?;
    Ok(totals.trim().parse()?)
}

/// It counts when it is told to: see [`collect`].
fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(callgrind_flags(out)).stderr(Stdio::null());
    command
}

fn callgrind_flags(out: &Path) -> [String; 3] {
    let out = format!("--callgrind-out-file={}", out.display());
    ["--tool=callgrind".to_owned(), "--instr-atstart=no".to_owned(), out]
}

fn collect(pid: u32, switch: &str) -> anyhow::Result<()> {
    let mut command = Command::new("callgrind_control");
    command.args(["-i", switch, &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status()?;
    if status.success() { Ok(()) } else { bail!("callgrind_control -i {switch}: {status}") }
}

struct UnderCallgrind {
    postern: Postern,
    side: Side,
    out: PathBuf,
}

impl Product for UnderCallgrind {
    fn name(&self) -> &'static str {
        self.postern.name()
    }

    fn version(&self) -> String {
        self.postern.version()
    }

    fn lacks(&self, setting: &Setting) -> Option<&'static str> {
        self.postern.lacks(setting)
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        let program = self.postern.prepare(side, setting, place)?;
        if side != self.side {
            return Ok(program);
        }
        let mut words = callgrind_flags(&self.out).map(Into::into).to_vec();
        words.push(program.path.into_os_string());
        words.extend(program.arguments);
        Ok(Program { arguments: words, ..Program::new("valgrind", [""; 0]) })
    }
}

#[cfg(test)]
mod tests {
    use super::compare;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_above_its_budget_is_named() {
        let table = |one: u64, other: u64| BTreeMap::from([("one".to_owned(), one), ("other".to_owned(), other)]);
        let budget = table(1000, 1000);
        assert!(compare(&table(1049, 500), &budget).is_ok());
        let above = compare(&table(1051, 1000), &budget).unwrap_err().to_string();
        assert!(above.contains("budget: one."), "{above}");
        assert!(compare(&table(1, 1), &BTreeMap::new()).is_err());
    }
}
