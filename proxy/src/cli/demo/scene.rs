//! The demo's stage: provider, application, two sidecar processes, and their files.

use crate::identity::dev::{DevConfig, DevProvider, DevWorkload};
use crate::tasks;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_config::{SpiffeId, TrustDomain};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const READY_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Free ports, all on 127.0.0.1.
pub struct Ports {
    pub as_web: SocketAddr,
    pub as_batch: SocketAddr,
    pub as_stranger: SocketAddr,
    pub ledger: SocketAddr,
    orders_mtls: SocketAddr,
    ledger_mtls: SocketAddr,
    server_ready: SocketAddr,
    client_ready: SocketAddr,
}

pub struct Scene {
    pub directory: PathBuf,
    pub ports: Ports,
    pub provider: DevProvider,
    pub trust_domain: TrustDomain,
    keep: Cell<bool>,
    /// Killed with the scene.
    _sidecars: [Child; 2],
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.provider.stop();
        if !self.keep.get() {
            // What stays behind in the temporary directory does no harm.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

impl Scene {
    pub async fn build() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("postern-demo-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let trust_domain = TrustDomain::parse("shop.example")?;
        let provider = provider(&directory, &trust_domain)?;
        println!("The embedded identity provider serves the SPIFFE Workload API in {}", directory.display());

        let orders = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let ledger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let apps = (orders.local_addr()?, ledger.local_addr()?);
        tasks::spawn(serve_orders(orders));
        tasks::spawn(serve_ledger(ledger));
        println!("The application listens on {} (HTTP) and {} (TCP). It knows nothing of TLS.", apps.0, apps.1);

        let ports = Ports::free()?;
        let server = start(&directory, "server", &server_file(&directory, &ports, apps))?;
        let client = start(&directory, "client", &client_file(&directory, &ports))?;
        let mut sidecars = [server, client];
        for (sidecar, ready) in sidecars.iter_mut().zip([ports.server_ready, ports.client_ready]) {
            wait_ready(sidecar, ready, &directory).await?;
        }
        Ok(Self { directory, ports, provider, trust_domain, keep: Cell::new(false), _sidecars: sidecars })
    }

    /// For somebody who wants to see what went wrong.
    pub fn keep_files(&self) {
        self.keep.set(true);
    }

    /// Waits for a record of the server's sidecar.
    pub async fn server_record(&self, at_most: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.record("server", at_most, wanted).await
    }

    pub async fn client_record(&self, at_most: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.record("client", at_most, wanted).await
    }

    async fn record(&self, side: &str, at_most: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let started = Instant::now();
        while started.elapsed() < at_most {
            if let Some(found) = self.records(side).into_iter().find(|record| wanted(record)) {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("no such record in the access log of the {side}'s sidecar");
    }

    fn records(&self, side: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(access_log(&self.directory, side)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many SVIDs of the server the caller's sidecar met for its allowed requests.
    pub fn server_svids_seen(&self) -> usize {
        let records = self.records("client");
        let of_load = records.iter().filter(|it| it["service"] == "orders" && it["http.response.status_code"] == 200);
        of_load.map(|record| record["tls.server.hash.sha256"].to_string()).collect::<BTreeSet<_>>().len()
    }

    pub fn print_commands(&self) {
        let (directory, ports) = (self.directory.display(), &self.ports);
        println!("\nIt stays up until Ctrl-C. To try:\n");
        println!("  curl -i http://{}/orders/7          # as spiffe://shop.example/web: allowed", ports.as_web);
        println!("  curl -i http://{}/orders/7          # as spiffe://shop.example/batch: refused", ports.as_batch);
        println!("  curl -ik https://{}/orders/7        # without an SVID: no handshake", ports.orders_mtls);
        println!("  tail -f {directory}/server.access.log");
        println!("  postern status --admin {directory}/server.admin.sock");
        println!("  postern check --print {directory}/server.yaml");
    }
}

fn provider(directory: &Path, trust_domain: &TrustDomain) -> anyhow::Result<DevProvider> {
    let id = |text: &str| SpiffeId::parse(text).map(|id| (id, None));
    let workload =
        |name: &str, svids| DevWorkload { name: name.to_owned(), socket: None, svids, federates_with: Vec::new() };
    let provider = DevProvider::start(DevConfig {
        state_dir: directory.join("identity"),
        trust_domains: vec![trust_domain.clone(), TrustDomain::parse("other.example")?],
        workloads: vec![
            workload("orders", vec![id("spiffe://shop.example/orders")?]),
            workload(
                "callers",
                vec![
                    id("spiffe://shop.example/web")?,
                    id("spiffe://shop.example/batch")?,
                    id("spiffe://other.example/stranger")?,
                ],
            ),
        ],
        svid_ttl: Duration::from_secs(3600),
        ca_ttl: Duration::from_secs(24 * 3600),
    });
    provider.context("the identity provider cannot start")
}

impl Ports {
    fn free() -> anyhow::Result<Self> {
        // All are held at once, so that no two are the same.
        let held: Vec<_> = (0..8)
            .map(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()
            .context("no free ports")?;
        let at = |index: usize| held[index].local_addr();
        Ok(Self {
            as_web: at(0)?,
            as_batch: at(1)?,
            as_stranger: at(2)?,
            ledger: at(3)?,
            orders_mtls: at(4)?,
            ledger_mtls: at(5)?,
            server_ready: at(6)?,
            client_ready: at(7)?,
        })
    }
}

fn access_log(directory: &Path, side: &str) -> PathBuf {
    directory.join(format!("{side}.access.log"))
}

fn server_file(directory: &Path, ports: &Ports, (orders, ledger): (SocketAddr, SocketAddr)) -> String {
    format!(
        r#"identity:
  workload_api: unix://{directory}/identity/orders.sock
inbound:
  - name: orders
    port: {orders_port}
    listen: {orders_mtls}
    app: {orders}
    protocol: http
    routes:
      - name: read-orders
        match: {{ path: "/orders/**", methods: [GET] }}
        allow:
          - spiffe: spiffe://shop.example/web
  - name: ledger
    port: {ledger_port}
    listen: {ledger_mtls}
    app: {ledger}
    protocol: tcp
    allow:
      - spiffe: spiffe://shop.example/web
{telemetry}"#,
        directory = directory.display(),
        orders_port = orders.port(),
        ledger_port = ledger.port(),
        orders_mtls = ports.orders_mtls,
        ledger_mtls = ports.ledger_mtls,
        telemetry = telemetry(directory, "server", ports.server_ready),
    )
}

fn client_file(directory: &Path, ports: &Ports) -> String {
    let service = |name: &str, listen: SocketAddr, to: SocketAddr, protocol: &str, svid: &str| {
        format!(
            "    - name: {name}\n      listen: {listen}\n      endpoints: [\"{to}\"]\n      protocol: {protocol}\n      \
             identity: spiffe://shop.example/orders\n      svid: {{ id: {svid} }}\n"
        )
    };
    let (orders, ledger) = (ports.orders_mtls, ports.ledger_mtls);
    format!(
        "identity:\n  workload_api: unix://{directory}/identity/callers.sock\noutbound:\n  services:\n{}{}{}{}{telemetry}",
        service("orders", ports.as_web, orders, "http", "spiffe://shop.example/web"),
        service("orders-as-batch", ports.as_batch, orders, "http", "spiffe://shop.example/batch"),
        service("orders-as-stranger", ports.as_stranger, orders, "http", "spiffe://other.example/stranger"),
        service("ledger", ports.ledger, ledger, "tcp", "spiffe://shop.example/web"),
        directory = directory.display(),
        telemetry = telemetry(directory, "client", ports.client_ready),
    )
}

fn telemetry(directory: &Path, side: &str, ready: SocketAddr) -> String {
    let (log, directory) = (access_log(directory, side), directory.display());
    format!(
        "telemetry:\n  metrics: off\n  readiness: {ready}\n  access_log: {{ file: {log} }}\nadmin:\n  socket: {directory}/{side}.admin.sock\n",
        log = log.display()
    )
}

fn start(directory: &Path, side: &str, file: &str) -> anyhow::Result<Child> {
    let path = directory.join(format!("{side}.yaml"));
    std::fs::write(&path, file)?;
    println!("\nThe {side}'s sidecar runs with {}:\n", path.display());
    file.lines().for_each(|line| println!("    {line}"));
    let log = File::create(directory.join(format!("{side}.log")))?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--config")
        .arg(&path)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.kill_on_drop(true).spawn().with_context(|| format!("the {side}'s sidecar cannot be started"))
}

async fn wait_ready(sidecar: &mut Child, ready: SocketAddr, directory: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    while started.elapsed() < READY_MAX {
        if super::client::get(ready, "/healthz/ready").await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if let Some(status) = sidecar.try_wait()? {
            bail!("a sidecar ended with {status}; its log is in {}", directory.display());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("a sidecar was not ready within {READY_MAX:?}; its log is in {}", directory.display());
}

/// HTTP: says what it was asked, and by whom, as the sidecar told it.
async fn serve_orders(listener: TcpListener) {
    let answer = |request: Request<Incoming>| async move {
        let caller = request.headers().get("x-spiffe-id").and_then(|value| value.to_str().ok()).unwrap_or("nobody");
        let text = format!("{} {} for {caller}\n", request.method(), request.uri());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    };
    while let Ok((stream, _)) = listener.accept().await {
        let serving =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tasks::spawn(serving);
    }
}

/// TCP: says everything back.
async fn serve_ledger(listener: TcpListener) {
    let echo = |mut stream: TcpStream| async move {
        let (mut from, mut to) = stream.split();
        // Ends with the connection; nobody waits for it.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    };
    while let Ok((stream, _)) = listener.accept().await {
        tasks::spawn(echo(stream));
    }
}
