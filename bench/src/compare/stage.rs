//! A path that is up: an application, and a fresh pair of sidecars in front of it.

use super::cpu;
use super::pair::Plan;
use super::peers::Product;
use super::process::{Load, Program, Running, ourselves};
use super::quota::{Periods, Quota, group_name};
use super::round::Spent;
use super::scenario::{Door, Figure, Scenario};
use super::setting::{CLIENT_ID, Place, Protocol, Setting, Side, free_ports};
use crate::load::http1;
use anyhow::{Context as _, ensure};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const WARM_UP: &str = "1";
/// With a tenth of a core, the handshakes of all connections take some seconds.
const WARM_UP_WITH_QUOTA: &str = "6";
const PROBE: Duration = Duration::from_secs(2);

/// A path that is up.
pub struct Stage {
    sidecars: Option<Sidecars>,
    app: Running,
    /// Where the load goes.
    target: SocketAddr,
    /// Last, so that nobody misses it.
    _folder: TempDir,
}

struct Sidecars {
    client: Sidecar,
    server: Sidecar,
}

struct Sidecar {
    process: Running,
    /// After its process, which has to end first.
    quota: Option<Quota>,
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
        if let Some(pair) = &mut sidecars {
            pair.wait_until_useful(scenario, addresses.entry)?;
        }
        let target = match (&sidecars, scenario.door) {
            (None, _) => addresses.app(setting.protocol),
            (Some(_), Door::Client) => addresses.entry,
            (Some(_), Door::Server) => addresses.mesh,
        };
        Ok(Self { sidecars, app, target, _folder: folder })
    }

    /// A load that has printed `start`.
    pub fn load(&self, plan: &Plan<'_>, scenario: &Scenario, flags: &[&str]) -> anyhow::Result<Load> {
        let program = load_program(plan, scenario, self.target, flags)?;
        let mut load = Load::start(program.command(&[], &plan.load_cores))?;
        ensure!(load.line()? == "start", "the load did not start");
        Ok(load)
    }

    pub fn pid(&self, side: Side) -> Option<u32> {
        let sidecars = self.sidecars.as_ref()?;
        Some(match side {
            Side::Client => sidecars.client.process.pid(),
            Side::Server => sidecars.server.process.pid(),
        })
    }

    /// KiB of client and server.
    pub fn resident(&self) -> [f64; 2] {
        self.sidecars.as_ref().map(Sidecars::resident).unwrap_or_default()
    }

    /// CPU until now, the load's too.
    pub fn spent(&self, load: u32) -> anyhow::Result<Spent> {
        let ends = cpu::time(self.app.pid())? + cpu::time(load)?;
        let Some(Sidecars { client, server }) = &self.sidecars else { return Ok(Spent { ends, ..Spent::default() }) };
        Ok(Spent {
            client: cpu::time(client.process.pid())?,
            server: cpu::time(server.process.pid())?,
            user: cpu::user_time(client.process.pid()) + cpu::user_time(server.process.pid()),
            ends,
            periods: [client.periods()?, server.periods()?],
        })
    }
}

impl Sidecars {
    fn wait_until_useful(&mut self, scenario: &Scenario, entry: SocketAddr) -> anyhow::Result<()> {
        let (host, path) = scenario.target();
        let request = http1::request(&host, &path, 0);
        let mut last = None;
        let ready = self.client.process.wait_until("the pair", || {
            let answer = probe(entry, scenario.setting.protocol, &request);
            let ready = answer.is_ok();
            last = answer.err();
            ready
        });
        ready.with_context(|| format!("last answer: {last:?}; the server said: {}", self.server.process.said()))
    }

    /// KiB of client and server.
    fn resident(&self) -> [f64; 2] {
        [&self.client, &self.server].map(|sidecar| cpu::resident_kib(sidecar.process.pid()) as f64)
    }
}

impl Sidecar {
    fn periods(&self) -> anyhow::Result<Periods> {
        self.quota.as_ref().map_or(Ok(Periods::default()), Quota::periods)
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
        let [entry, mesh, one, other, http1, http2, tcp] = free_ports()?;
        Ok(Self { entry, mesh, extra: [one, other], http1, http2, tcp })
    }

    fn app(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 | Protocol::Grpc => self.http2,
            Protocol::Tcp => self.tcp,
        }
    }
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
        let quota = setting.cpu_percent_max.map(|percent| Quota::new(&group_name(side.name()), percent)).transpose()?;
        let prefix = quota.as_ref().map(Quota::prefix).unwrap_or_default();
        let process = Running::start(program.command(&prefix, cores), &folder.join("log"))?;
        let mut sidecar = Sidecar { process, quota };
        sidecar.process.wait_until(&format!("{} as {}", product.name(), side.name()), || {
            TcpStream::connect(place.listen(side)).is_ok()
        })?;
        anyhow::Ok(sidecar)
    };
    let server = start(Side::Server, at.extra[0])?;
    let client = start(Side::Client, at.extra[1])?;
    Ok(Sidecars { client, server })
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

fn load_program(plan: &Plan<'_>, scenario: &Scenario, target: SocketAddr, flags: &[&str]) -> anyhow::Result<Program> {
    let (host, path) = scenario.target();
    let warm_up = scenario.setting.cpu_percent_max.map_or(WARM_UP, |_| WARM_UP_WITH_QUOTA);
    let mut words: Vec<String> = ["load", "--warm-up", warm_up].map(str::to_owned).into();
    words.extend(["--to".to_owned(), target.to_string()]);
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    words.extend(["--host".to_owned(), host, "--path".to_owned(), path]);
    words.extend(scenario.load.iter().map(|word| (*word).to_owned()));
    if scenario.figure == Figure::Memory {
        words.extend(["--connections".to_owned(), plan.idle_connections.to_string()]);
    }
    if scenario.door == Door::Server {
        let pems = plan.certificates.of(Side::Client);
        for (flag, path) in
            [("--certificate", &pems.certificate), ("--key", &pems.key), ("--bundle", &plan.certificates.bundle)]
        {
            words.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    ourselves(words)
}
