//! One measurement: a fresh pair of sidecars, an application, a load, and what the kernel says of them.

use super::certificates::Certificates;
use super::cpu;
use super::peers::Product;
use super::process::{Load, Running};
use super::round::{Round, Spent};
use super::scenario::Scenario;
use super::setting::Side;
use super::stage::Stage;
use crate::load::Report;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The path without sidecars, for what they add to latency.
pub const DIRECT: &str = "direct";

/// What all measurements of a run share.
pub struct Plan<'a> {
    pub folder: &'a Path,
    pub certificates: &'a Certificates,
    pub proxy_cores: String,
    pub load_cores: String,
    pub seconds: f64,
    pub idle_connections: usize,
    /// Where profiles go, if any are wanted.
    pub perf: Option<&'a Path>,
}

/// One with a load whose warm-up is over.
pub struct Scene {
    load: Load,
    stage: Stage,
    /// KiB of client and server before the load.
    memory_before: [f64; 2],
}

/// One product alone, for the plan's seconds.
pub fn measure(plan: &Plan<'_>, scenario: &Scenario, product: Option<&dyn Product>) -> anyhow::Result<Round> {
    let seconds = plan.seconds.max(scenario.seconds_min);
    let mut scene = Scene::start(plan, scenario, product, &["--seconds", &seconds.to_string()])?;
    let _perf = match (plan.perf, product) {
        (Some(folder), Some(product)) => Some(start_perf(folder, scenario, product, &scene.stage, plan)?),
        _ => None,
    };
    let before = scene.spent()?;
    let held = scene.stage.resident();
    let has_quota = scenario.setting.cpu_percent_max.is_some();
    let report = if has_quota { scene.load.report_with_failures()? } else { scene.load.report()? };
    let spent = scene.spent()?.since(&before);
    // What idle connections hold is there while they are open.
    let memory = if scenario.figure.is_memory() { held } else { scene.stage.resident() };
    Ok(Round::of(scenario, &report, &spent, scene.memory_before, memory))
}

impl Scene {
    pub fn start(
        plan: &Plan<'_>,
        scenario: &Scenario,
        product: Option<&dyn Product>,
        load_flags: &[&str],
    ) -> anyhow::Result<Self> {
        let stage = Stage::start(plan, scenario, product)?;
        let memory_before = stage.resident();
        Ok(Self { load: stage.load(plan, scenario, load_flags)?, stage, memory_before })
    }

    /// Lets the load run for `turn` and what is then under way come to its end; what was spent on it.
    pub fn turn(&self, turn: Duration) -> anyhow::Result<Spent> {
        let before = self.spent()?;
        self.load.signal("CONT")?;
        std::thread::sleep(turn);
        self.load.signal("STOP")?;
        cpu::settled(|| self.spent().map(|spent| spent.client + spent.server))?;
        Ok(self.spent()?.since(&before))
    }

    /// The end of a scene that was measured in turns.
    pub fn finish(mut self, scenario: &Scenario, spent: &Spent, seconds: f64) -> anyhow::Result<Round> {
        self.load.tell()?;
        self.load.signal("CONT")?;
        // Requests that were under way when the load was stopped waited for the others' turns.
        let report = Report { seconds, p50: 0, p99: 0, p999: 0, ..self.load.report()? };
        Ok(Round::of(scenario, &report, spent, self.memory_before, self.stage.resident()))
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        self.stage.spent(self.load.pid())
    }
}

/// Samples by the CPU clock, which virtual machines have too.
fn start_perf(
    folder: &Path,
    scenario: &Scenario,
    product: &dyn Product,
    stage: &Stage,
    plan: &Plan<'_>,
) -> anyhow::Result<Running> {
    let sidecars = [Side::Client, Side::Server].into_iter().filter_map(|side| stage.pid(side));
    let processes: Vec<String> = sidecars.flat_map(cpu::family).map(|process| process.to_string()).collect();
    let round = fs::read_dir(folder)?.count();
    let data = folder.join(format!("{}-{}-{round}.data", scenario.name, product.name()));
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-o"]).arg(data);
    command.args(["-p", &processes.join(","), "--", "sleep", &plan.seconds.to_string()]);
    let mut perf = Running::start(command, &folder.join("perf.log"))?;
    perf.wait_until("perf", || true)?;
    Ok(perf)
}
