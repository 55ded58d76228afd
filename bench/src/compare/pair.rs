//! One measurement: a fresh pair of sidecars, an application, a load, and what the kernel says of them.

use super::certificates::Certificates;
use super::cpu;
use super::peers::Product;
use super::process::{Load, Program, Running};
use super::scenario::{Figure, Scenario};
use super::setting::{CLIENT_ID, Place, Protocol, Setting, Side, free_address};
use crate::load::{Report, http1};
use anyhow::{Context as _, ensure};
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The path without sidecars, for what they add to latency.
pub const DIRECT: &str = "direct";
const WARM_UP: &str = "1";
const PROBE: Duration = Duration::from_secs(2);

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

/// The figures of one measurement.
#[derive(Serialize, Clone, Debug)]
pub struct Round {
    /// The one that is compared; its unit is the scenario's.
    pub main: f64,
    /// Units of work a second; bytes a second for bulk.
    pub rate: f64,
    /// CPU-µs per unit of work of the pair, of the client sidecar, and of load and application together.
    pub cpu: f64,
    pub cpu_client: f64,
    pub cpu_ends: f64,
    pub p50: u32,
    pub p99: u32,
    pub p999: u32,
    /// Resident memory after the load.
    pub client_mib: f64,
    pub server_mib: f64,
    /// KiB per idle connection.
    pub client_kib: f64,
    pub server_kib: f64,
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.2} (cpu {:.1}, rate {:.0}, p50 {} p99 {} p99.9 {} µs, {:.1} + {:.1} MiB)",
            self.main, self.cpu, self.rate, self.p50, self.p99, self.p999, self.client_mib, self.server_mib
        )
    }
}

struct Sidecars {
    client: Running,
    server: Running,
}

/// A path that is up.
pub struct Stage {
    sidecars: Option<Sidecars>,
    app: Running,
    entry: SocketAddr,
    /// Last, so that nobody misses it.
    _folder: TempDir,
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
    let mut scene = Scene::start(plan, scenario, product, &["--seconds", &plan.seconds.to_string()])?;
    let _perf = match (plan.perf, &scene.stage.sidecars, product) {
        (Some(folder), Some(pair), Some(product)) => Some(start_perf(folder, scenario, product, pair, plan)?),
        _ => None,
    };
    let before = scene.spent()?;
    let held = scene.resident();
    let report = scene.report()?;
    let spent = scene.spent()?.since(&before);
    // What idle connections hold is there while they are open.
    let memory = if scenario.figure == Figure::Memory { held } else { scene.resident() };
    Ok(round(scenario, &report, &spent, scene.memory_before, memory))
}

impl Stage {
    pub fn start(plan: &Plan<'_>, scenario: &Scenario, product: Option<&dyn Product>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("round-").tempdir_in(plan.folder)?;
        let addresses = Addresses::free()?;
        let setting = &scenario.setting;
        let app = start_app(plan, &addresses, folder.path(), product.is_some())?;
        let mut sidecars = match product {
            Some(product) => Some(start_pair(plan, setting, product, &addresses, folder.path())?),
            None => None,
        };
        let entry = if sidecars.is_some() { addresses.entry } else { addresses.app(setting.protocol) };
        if let Some(pair) = &mut sidecars {
            pair.wait_until_useful(scenario, entry)?;
        }
        Ok(Self { sidecars, app, entry, _folder: folder })
    }

    /// A load that has printed `start`.
    pub fn load(&self, plan: &Plan<'_>, scenario: &Scenario, flags: &[&str]) -> anyhow::Result<Load> {
        let program = load_program(plan, scenario, self.entry, flags)?;
        let mut load = Load::start(program.command(&[], &plan.load_cores))?;
        ensure!(load.line()? == "start", "the load did not start");
        Ok(load)
    }

    pub fn pid(&self, side: Side) -> Option<u32> {
        let sidecars = self.sidecars.as_ref()?;
        Some(match side {
            Side::Client => sidecars.client.pid(),
            Side::Server => sidecars.server.pid(),
        })
    }

    fn resident(&self) -> [f64; 2] {
        self.sidecars.as_ref().map(Sidecars::resident).unwrap_or_default()
    }
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
        let report = Report { seconds, p50: 0, p99: 0, p999: 0, ..self.report()? };
        Ok(round(scenario, &report, spent, self.memory_before, self.resident()))
    }

    fn report(&mut self) -> anyhow::Result<Report> {
        self.load.report()
    }

    fn resident(&self) -> [f64; 2] {
        self.stage.resident()
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let ends = cpu::time(self.stage.app.pid())? + cpu::time(self.load.pid())?;
        let Some(sidecars) = &self.stage.sidecars else { return Ok(Spent { ends, ..Spent::default() }) };
        Ok(Spent { client: cpu::time(sidecars.client.pid())?, server: cpu::time(sidecars.server.pid())?, ends })
    }
}

fn round(scenario: &Scenario, report: &Report, spent: &Spent, idle: [f64; 2], after: [f64; 2]) -> Round {
    let gigabytes = report.bytes as f64 / 1e9;
    let units = if scenario.figure == Figure::CpuPerGigabyte { gigabytes } else { report.work as f64 };
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / units;
    let growth = |side: usize| (after[side] - idle[side]) / units;
    let cpu = micros(spent.client + spent.server);
    Round {
        main: match scenario.figure {
            Figure::CpuPerUnit => cpu,
            Figure::CpuPerGigabyte => cpu / 1e6,
            Figure::P99 => f64::from(report.p99),
            Figure::Memory => growth(0) + growth(1),
        },
        rate: if report.bytes > 0 { report.bytes as f64 } else { report.work as f64 } / report.seconds,
        cpu,
        cpu_client: micros(spent.client),
        cpu_ends: micros(spent.ends),
        p50: report.p50,
        p99: report.p99,
        p999: report.p999,
        client_mib: after[0] / 1024.0,
        server_mib: after[1] / 1024.0,
        client_kib: growth(0),
        server_kib: growth(1),
    }
}

impl Sidecars {
    fn wait_until_useful(&mut self, scenario: &Scenario, entry: SocketAddr) -> anyhow::Result<()> {
        let (host, path) = scenario.target();
        let request = http1::request(&host, &path, 0);
        let mut last = None;
        let ready = self.client.wait_until("the pair", || {
            let answer = probe(entry, scenario.setting.protocol, &request);
            let ready = answer.is_ok();
            last = answer.err();
            ready
        });
        ready.with_context(|| format!("last answer: {last:?}; the server said: {}", self.server.said()))
    }

    /// KiB of client and server.
    fn resident(&self) -> [f64; 2] {
        [&self.client, &self.server].map(|sidecar| cpu::resident_kib(sidecar.pid()) as f64)
    }
}

#[derive(Default, Debug)]
pub struct Spent {
    pub client: Duration,
    pub server: Duration,
    /// Load and application.
    pub ends: Duration,
}

impl Spent {
    pub fn add(&mut self, more: &Self) {
        self.client += more.client;
        self.server += more.server;
        self.ends += more.ends;
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            client: self.client.saturating_sub(before.client),
            server: self.server.saturating_sub(before.server),
            ends: self.ends.saturating_sub(before.ends),
        }
    }
}

struct Addresses {
    entry: SocketAddr,
    mesh: SocketAddr,
    extra: [SocketAddr; 2],
    http1: SocketAddr,
    http2: SocketAddr,
    tcp: SocketAddr,
}

impl Addresses {
    fn free() -> anyhow::Result<Self> {
        let free = || free_address(Ipv4Addr::LOCALHOST);
        Ok(Self {
            entry: free()?,
            mesh: free()?,
            extra: [free()?, free()?],
            http1: free()?,
            http2: free()?,
            tcp: free()?,
        })
    }

    fn app(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 | Protocol::Grpc => self.http2,
            Protocol::Tcp => self.tcp,
        }
    }
}

/// This program, with another subcommand.
pub fn ourselves(arguments: Vec<String>) -> anyhow::Result<Program> {
    Ok(Program::new(std::env::current_exe()?, arguments))
}

fn start_app(plan: &Plan<'_>, at: &Addresses, folder: &Path, behind_pair: bool) -> anyhow::Result<Running> {
    let mut words = vec!["app".to_owned()];
    for (flag, address) in [("--http1", at.http1), ("--http2", at.http2), ("--tcp", at.tcp)] {
        words.extend([flag.to_owned(), address.to_string()]);
    }
    if behind_pair {
        words.extend(["--expect-identity".to_owned(), CLIENT_ID.to_owned()]);
    }
    let mut app = Running::start(ourselves(words)?.command(&[], &plan.load_cores), &folder.join("app.log"))?;
    app.wait_until("the application", || TcpStream::connect(at.http1).is_ok())?;
    Ok(app)
}

fn start_pair(
    plan: &Plan<'_>,
    setting: &Setting,
    product: &dyn Product,
    at: &Addresses,
    folder: &Path,
) -> anyhow::Result<Sidecars> {
    // More workers than cores of the proxies would only take turns.
    let both = format!("{},{}", plan.proxy_cores, plan.load_cores);
    let cores = if setting.workers > 1 { &both } else { &plan.proxy_cores };
    let start = |side: Side, extra: SocketAddr| {
        let folder = folder.join(side.name());
        fs::create_dir(&folder)?;
        let app = at.app(setting.protocol);
        let place =
            Place { folder: &folder, certificates: plan.certificates, entry: at.entry, mesh: at.mesh, app, extra };
        let program = product.prepare(side, setting, &place)?;
        let mut running = Running::start(program.command(&[], cores), &folder.join("log"))?;
        running.wait_until(&format!("{} as {}", product.name(), side.name()), || {
            TcpStream::connect(place.listen(side)).is_ok()
        })?;
        anyhow::Ok(running)
    };
    let server = start(Side::Server, at.extra[0])?;
    let client = start(Side::Client, at.extra[1])?;
    Ok(Sidecars { client, server })
}

/// Samples by the CPU clock, which virtual machines have too.
fn start_perf(
    folder: &Path,
    scenario: &Scenario,
    product: &dyn Product,
    pair: &Sidecars,
    plan: &Plan<'_>,
) -> anyhow::Result<Running> {
    let processes = [&pair.client, &pair.server].map(|sidecar| cpu::family(sidecar.pid())).concat();
    let processes: Vec<String> = processes.iter().map(u32::to_string).collect();
    let round = fs::read_dir(folder)?.count();
    let data = folder.join(format!("{}-{}-{round}.data", scenario.name, product.name()));
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-o"]).arg(data);
    command.args(["-p", &processes.join(","), "--", "sleep", &plan.seconds.to_string()]);
    let mut perf = Running::start(command, &folder.join("perf.log"))?;
    perf.wait_until("perf", || true)?;
    Ok(perf)
}

/// Does a whole exchange get through? HTTP/2 is not spoken here: it is enough that the listener is there, and the load fails
/// on the first answer that is not 200.
fn probe(entry: SocketAddr, protocol: Protocol, request: &[u8]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(entry)?;
    stream.set_read_timeout(Some(PROBE))?;
    let mut buffer = [0; 4096];
    match protocol {
        Protocol::Http1 => {
            stream.write_all(request)?;
            let length = stream.read(&mut buffer)?;
            http1::answer_length(&buffer[..length])?.context("no answer")?;
        }
        Protocol::Tcp => {
            stream.write_all(&[crate::app::ECHO])?;
            ensure!(stream.read(&mut buffer)? == 1, "no echo");
        }
        Protocol::Http2 | Protocol::Grpc => {}
    }
    Ok(())
}

fn load_program(plan: &Plan<'_>, scenario: &Scenario, entry: SocketAddr, flags: &[&str]) -> anyhow::Result<Program> {
    let (host, path) = scenario.target();
    let mut words: Vec<String> = ["load", "--warm-up", WARM_UP].map(str::to_owned).into();
    words.extend(["--to".to_owned(), entry.to_string()]);
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    words.extend(["--host".to_owned(), host, "--path".to_owned(), path]);
    words.extend(scenario.load.iter().map(|word| (*word).to_owned()));
    if scenario.figure == Figure::Memory {
        words.extend(["--connections".to_owned(), plan.idle_connections.to_string()]);
    }
    ourselves(words)
}
