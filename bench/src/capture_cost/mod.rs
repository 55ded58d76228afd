//! What capture adds: the same pair of sidecars in two pods, reached captured and by explicit listeners, in turn.
//!
//! A round is a fresh pair with both doors open, so that captured and explicit requests meet the same processes, the same
//! pools and the same namespaces, rules and connection tracking. Both loads are there all the time, and one of them is stopped
//! (SIGSTOP): they take turns of a fraction of a second, so that whatever else the machine does, it does to both. A third
//! measurement, explicit with the rules removed, says what it costs that rules are there at all.
//!
//! Work of the network stack in softirqs is charged to whoever was running. Address rewriting of what the load sends is
//! charged to the load, of what the application sends to the application. So beside the sidecars' CPU stands the sum of
//! everything: sidecars, load, application, and `ksoftirqd` of both cores.

mod pods;

use crate::compare::certificates::Certificates;
use crate::compare::cpu;
use crate::compare::process::{Load, Program, Running, find, ourselves};
use crate::compare::report::median;
use crate::compare::setting::{CLIENT_ID, SERVER_ID, SERVER_NAME, Side};
use crate::load::Report;
use anyhow::{Context as _, ensure};
use clap::Args;
use pods::{Pod, USER};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(200);

const WEB: &str = "10.77.9.1";
const ORDERS: &str = "10.77.9.2";
const APP: &str = "8080";
const APP_HTTP2: &str = "8081";
/// Where callers find the server sidecar without capture, for each version of HTTP.
const MESH: [u16; 2] = [15007, 15008];
/// Where the client sidecar listens without capture.
const ENTRY: [u16; 2] = [9001, 9002];

#[derive(Args)]
pub struct CaptureCostArguments {
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value = "target/dist/postern")]
    postern: PathBuf,
    /// The core of both sidecars.
    #[arg(long, default_value = "0")]
    proxy_core: String,
    /// The core of load and application.
    #[arg(long, default_value = "1")]
    load_core: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Captured,
    Explicit,
    /// Explicit, and no rules are installed.
    Bare,
}

#[derive(Clone, Copy)]
struct Version {
    index: usize,
    title: &'static str,
    app: &'static str,
    load: &'static [&'static str],
}

const VERSIONS: [Version; 2] = [
    Version { index: 0, title: "HTTP/1.1, 64 connections", app: APP, load: &["http1", "--connections", "64"] },
    Version {
        index: 1,
        title: "HTTP/2, 8 × 16",
        app: APP_HTTP2,
        load: &["http2", "--connections", "8", "--streams", "16"],
    },
];

/// CPU-µs a request.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    pair: f64,
    all: f64,
}

struct Scene {
    web: Pod,
    orders: Pod,
    binary: PathBuf,
    configs: [PathBuf; 2],
    client: Running,
    server: Running,
    app: Running,
}

pub fn run(arguments: &CaptureCostArguments) -> anyhow::Result<()> {
    for program in ["unshare", "nsenter", "setpriv", "ip", "taskset", "prlimit"] {
        find(program).with_context(|| format!("{program} is not installed"))?;
    }
    let folder = tempfile::Builder::new().prefix("postern-capture-").tempdir()?;
    // The sidecars run as a user of their own, who is the one that the rules exempt.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let certificates = Certificates::make(folder.path())?;
    for side in [Side::Client, Side::Server] {
        let pems = certificates.of(side);
        for file in [&pems.certificate, &pems.key, &certificates.bundle] {
            chown(file, Some(USER), Some(USER))?;
        }
    }
    let binary = folder.path().join("postern");
    fs::copy(&arguments.postern, &binary).with_context(|| arguments.postern.display().to_string())?;
    for version in VERSIONS {
        let mut rounds: Vec<[Cost; 3]> = Vec::new();
        for number in 0..arguments.rounds {
            let mut scene = Scene::start(arguments, folder.path(), &binary, &certificates)?;
            let mut costs = [Cost::default(); 3];
            scene.redirect("install")?;
            let mut order = [Way::Captured, Way::Explicit];
            if number % 2 == 1 {
                order.reverse();
            }
            scene.take_turns(arguments, version, &order, &mut costs)?;
            scene.redirect("remove")?;
            scene.take_turns(arguments, version, &[Way::Bare], &mut costs)?;
            eprintln!("{} round {}: {}", version.title, number + 1, describe(&costs));
            rounds.push(costs);
        }
        report(version.title, &rounds);
    }
    Ok(())
}

fn describe(costs: &[Cost; 3]) -> String {
    let each = [Way::Captured, Way::Explicit, Way::Bare].map(|way| {
        let cost = costs[way as usize];
        format!("{way:?} {:.2} (all {:.2})", cost.pair, cost.all)
    });
    each.join(", ").to_lowercase()
}

fn report(title: &str, rounds: &[[Cost; 3]]) {
    println!(
        "### {title}\n\n| CPU-µs a request | captured | explicit | explicit, no rules | captured : explicit (least to most) | captured : no rules |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for (name, get) in
        [("pair", (|cost: &Cost| cost.pair) as fn(&Cost) -> f64), ("pair, load, app, ksoftirqd", |cost| cost.all)]
    {
        let of = |way: Way| median(rounds.iter().map(|costs| get(&costs[way as usize])));
        let ratios = |other: Way| rounds.iter().map(move |costs| get(&costs[0]) / get(&costs[other as usize]));
        let least = ratios(Way::Explicit).fold(f64::INFINITY, f64::min);
        let most = ratios(Way::Explicit).fold(0.0, f64::max);
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.3} ({least:.3} to {most:.3}) | {:.3} |",
            of(Way::Captured),
            of(Way::Explicit),
            of(Way::Bare),
            median(ratios(Way::Explicit)),
            median(ratios(Way::Bare)),
        );
    }
    println!();
}

impl Scene {
    fn start(
        arguments: &CaptureCostArguments,
        folder: &Path,
        binary: &Path,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let (web, orders) = pods::connected(WEB, ORDERS)?;
        let app_words = ["app", "--http1", "127.0.0.1:8080", "--http2", "127.0.0.1:8081", "--tcp", "127.0.0.1:8082"];
        let app_words = app_words.into_iter().chain(["--expect-identity", CLIENT_ID]).map(str::to_owned).collect();
        let app = ourselves(app_words)?.command(&orders.prefix(None), &arguments.load_core);
        let app = Running::start(app, &folder.join("app.log"))?;
        let mut configs = Vec::new();
        for (side, config) in [(Side::Client, client_config()), (Side::Server, server_config())] {
            let pems = certificates.of(side);
            let mut config = config;
            config["identity"] =
                json!({ "files": { "certificate": pems.certificate, "key": pems.key, "bundle": certificates.bundle } });
            let path = folder.join(format!("{}.yaml", side.name()));
            fs::write(&path, serde_json::to_string_pretty(&config)?)?;
            configs.push(path);
        }
        let [client_config, server_config] = configs.try_into().ok().context("two sides")?;
        let start = |pod: &Pod, config: &Path, log: &str| {
            let words = ["run".into(), "--config".into(), config.as_os_str().to_owned()];
            let command = Program::new(binary, words).command(&pod.prefix(Some(USER)), &arguments.proxy_core);
            let mut sidecar = Running::start(command, &folder.join(log))?;
            sidecar.wait_until("the sidecar", || false_until_listening(pod))?;
            anyhow::Ok(sidecar)
        };
        let server = start(&orders, &server_config, "server.log")?;
        let client = start(&web, &client_config, "client.log")?;
        Ok(Self {
            web,
            orders,
            binary: binary.to_owned(),
            configs: [client_config, server_config],
            client,
            server,
            app,
        })
    }

    /// `postern redirect install` or `remove`, in both pods.
    fn redirect(&self, action: &str) -> anyhow::Result<()> {
        for (pod, config) in [(&self.web, &self.configs[0]), (&self.orders, &self.configs[1])] {
            let mut words: Vec<_> = vec!["redirect".into(), action.into()];
            if action == "install" {
                words.extend(["--config".into(), config.as_os_str().to_owned()]);
            }
            let output = Program::new(&self.binary, words).command(&pod.prefix(None), "0-1").output()?;
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            ensure!(output.status.success(), "redirect {action}: {said}");
        }
        Ok(())
    }

    /// A load for each of `ways`, turn by turn until each has had its seconds.
    fn take_turns(
        &mut self,
        arguments: &CaptureCostArguments,
        version: Version,
        ways: &[Way],
        costs: &mut [Cost; 3],
    ) -> anyhow::Result<()> {
        let mut running: Vec<(Way, Load, [Duration; 2])> = Vec::new();
        for &way in ways {
            // Its first turn begins when it is warm; those before it are stopped.
            let load = self.start_load(arguments, version, way)?;
            let spent = self.turn(&load)?;
            running.push((way, load, spent));
        }
        let turns = (arguments.seconds / TURN.as_secs_f64()) as usize;
        for _ in 1..turns {
            for (_, load, spent) in &mut running {
                let more = self.turn(load)?;
                *spent = [spent[0] + more[0], spent[1] + more[1]];
            }
        }
        for (way, mut load, spent) in running {
            load.tell()?;
            load.signal("CONT")?;
            let report: Report = serde_json::from_str(&load.line()?)?;
            ensure!(
                report.errors == 0 && report.work > 0,
                "{way:?}: {} errors in {} requests: {}\n{}\n{}",
                report.errors,
                report.work,
                report.first_error.unwrap_or_default(),
                self.client.said(),
                self.server.said()
            );
            let [pair, ends] = spent.map(|time| time.as_secs_f64() * 1e6 / report.work as f64);
            costs[way as usize] = Cost { pair, all: pair + ends };
        }
        Ok(())
    }

    fn start_load(&self, arguments: &CaptureCostArguments, version: Version, way: Way) -> anyhow::Result<Load> {
        let to = match way {
            Way::Captured => format!("{ORDERS}:{}", version.app),
            Way::Explicit | Way::Bare => format!("127.0.0.1:{}", ENTRY[version.index]),
        };
        let words = ["load", "--warm-up", "1", "--to", &to, "--until-told", "--host", SERVER_NAME];
        let words = words.into_iter().chain(version.load.iter().copied()).map(str::to_owned).collect();
        let mut load = Load::start(ourselves(words)?.command(&self.web.prefix(None), &arguments.load_core))?;
        let started =
            load.line().with_context(|| format!("{way:?}: {}\n{}", self.client.said(), self.server.said()))?;
        ensure!(started == "start", "the load did not start");
        Ok(load)
    }

    /// What is spent while this load runs for a turn, and for what is then still under way.
    fn turn(&self, load: &Load) -> anyhow::Result<[Duration; 2]> {
        let before = self.spent(load)?;
        load.signal("CONT")?;
        std::thread::sleep(TURN);
        load.signal("STOP")?;
        cpu::settled(|| self.spent(load).map(|spent| spent[0]))?;
        let after = self.spent(load)?;
        Ok([after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])])
    }

    /// Of the sidecars, and of everything else on the path.
    fn spent(&self, load: &Load) -> anyhow::Result<[Duration; 2]> {
        let sidecars = cpu::time(self.client.pid())? + cpu::time(self.server.pid())?;
        let ends = cpu::time(self.app.pid())? + cpu::time(load.pid())?;
        Ok([sidecars, ends + cpu::ksoftirqd()?])
    }
}

/// The last thing that is opened is the captured listener.
fn false_until_listening(pod: &Pod) -> bool {
    let mut command = Command::new("nsenter");
    command.arg(pod.net()).args(["cat", "/proc/net/tcp"]);
    let table = command.output().map(|output| output.stdout).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    // 15001 or 15006, in state LISTEN.
    table.lines().any(|line| (line.contains(":3A99 ") || line.contains(":3A9E ")) && line.contains(" 0A "))
}

fn common() -> Value {
    json!({
        "telemetry": { "metrics": "off", "readiness": "off", "access_log": "off" },
        "workers": 1,
        "capture": { "redirect": { "exempt_users": [USER.to_string()] } },
    })
}

fn client_config() -> Value {
    let mut config = common();
    config["capture"]["outbound"] = json!(15001);
    let versions = VERSIONS.map(|version| {
        let captured = json!({
            "name": format!("captured-{}", version.app),
            "addresses": [format!("{ORDERS}:{}", version.app)],
            "protocol": "http",
            "identity": SERVER_ID,
        });
        let explicit = json!({
            "name": format!("explicit-{}", version.app),
            "listen": format!("127.0.0.1:{}", ENTRY[version.index]),
            "endpoints": [format!("{ORDERS}:{}", MESH[version.index])],
            "protocol": "http",
            "identity": SERVER_ID,
        });
        [captured, explicit]
    });
    config["outbound"] = json!({ "services": versions.concat() });
    config
}

fn server_config() -> Value {
    let mut config = common();
    config["capture"]["inbound"] = json!(15006);
    let ports = VERSIONS.map(|version| {
        json!({
            "name": format!("port-{}", version.app),
            "port": version.app.parse::<u16>().unwrap_or_default(),
            "listen": format!("0.0.0.0:{}", MESH[version.index]),
            "protocol": "http",
            "allow": [{ "spiffe": CLIENT_ID }],
        })
    });
    config["inbound"] = json!(ports);
    config
}
