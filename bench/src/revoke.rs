//! From a word at the admin socket to the last byte of a thousand live connections: how long trust that is taken back lives on.
//!
//! One server sidecar and, in this process, callers of two identities that hold connections of five kinds open. One identity is
//! denied; what is measured is when each of its connections has ended here, callers' own work included. Those of the other identity
//! have to go on: each is asked for one more exchange.

use crate::compare::certificates::{Certificates, Pems};
use crate::compare::process::{Program, Running, ourselves};
use crate::compare::setting::{CLIENT_ID, SERVER_ID, SERVER_NAME, Side, free_ports};
use crate::load::http1;
use crate::load::mesh::{Mesh, PemFiles};
use anyhow::{Context as _, ensure};
use clap::Args;
use http::Request;
use serde_json::json;
use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::{JoinHandle, LocalSet};

/// After it, a connection that still lives is a failure and not a slow one.
const END: Duration = Duration::from_secs(20);
const HANDSHAKES_AT_ONCE: usize = 32;

#[derive(Args)]
pub struct RevokeArguments {
    /// Of the identity that is denied, in all; a fifth of each kind.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Of the identity that is not.
    #[arg(long, default_value_t = 100)]
    bystanders: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value = "target/dist/postern")]
    postern: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Http1,
    Http2,
    Grpc,
    WebSocket,
    Tcp,
}

const KINDS: [Kind; 5] = [Kind::Http1, Kind::Http2, Kind::Grpc, Kind::WebSocket, Kind::Tcp];

/// Where the sidecar listens: HTTP/1.1, HTTP/2, upgrades, L4.
#[derive(Clone, Copy)]
struct Doors([SocketAddr; 4]);

impl Doors {
    fn of(self, kind: Kind) -> SocketAddr {
        match kind {
            Kind::Http1 => self.0[0],
            Kind::Http2 | Kind::Grpc => self.0[1],
            Kind::WebSocket => self.0[2],
            Kind::Tcp => self.0[3],
        }
    }
}

type Ended = Pin<Box<dyn Future<Output = ()>>>;
type Asked = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// A live connection: its end, or one more exchange on it.
struct Live {
    ended: Ended,
    again: Asked,
}

pub fn run(arguments: &RevokeArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("| round | connections | p50 | p99 | last | ended falsely |\n|---|--:|--:|--:|--:|--:|");
    let mut all = Vec::new();
    for round in 1..=arguments.rounds {
        let (mut ends, false_cuts) = LocalSet::new().block_on(&runtime, measure(arguments))?;
        println!("| {round} | {} |{} {false_cuts} of {} |", ends.len(), row(&mut ends), arguments.bystanders);
        ensure!(false_cuts == 0, "connections that nobody denied ended");
        all.append(&mut ends);
    }
    println!("| all | {} |{} |", all.len(), row(&mut all));
    Ok(())
}

fn row(ends: &mut [Duration]) -> String {
    ends.sort_unstable();
    let at = |per_cent: usize| ends[(ends.len() * per_cent / 100).min(ends.len() - 1)];
    format!(" {:.1?} | {:.1?} | {:.1?} |", at(50), at(99), at(100))
}

async fn measure(arguments: &RevokeArguments) -> anyhow::Result<(Vec<Duration>, usize)> {
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let upgrades = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let upgrade_app = upgrades.local_addr()?;
    tokio::task::spawn_local(serve_upgrades(upgrades));
    let [http1, http2, tcp, doors @ ..]: [SocketAddr; 7] = free_ports()?;
    let (apps, doors) = ([http1, http2, upgrade_app, tcp], Doors(doors));
    let _app = start_app(folder.path(), apps)?;
    let admin = folder.path().join("admin.sock");
    let _sidecar = start_sidecar(arguments, folder.path(), &certificates, apps, doors, &admin)?;

    let bundle = certificates.bundle.as_path();
    let denied = open(arguments.connections, certificates.of(Side::Client), bundle, doors).await?;
    let others = open(arguments.bystanders, certificates.of(Side::Server), bundle, doors).await?;
    let mut ends: Vec<JoinHandle<Instant>> = Vec::with_capacity(denied.len());
    for live in denied {
        ends.push(tokio::task::spawn_local(async move {
            live.ended.await;
            Instant::now()
        }));
    }
    // They wait for their ends, before the clock runs.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut socket = UnixStream::connect(&admin).await?;
    let event = Instant::now();
    let target = format!("/deny?spiffe={CLIENT_ID}&reason=measured&for=1h&confirm=true");
    socket.write_all(format!("POST {target} HTTP/1.1\r\nhost: postern\r\n\r\n").as_bytes()).await?;
    let mut latencies = Vec::with_capacity(ends.len());
    for end in ends {
        let at = tokio::time::timeout(END, end).await.context("a connection that was denied lives on")??;
        latencies.push(at.duration_since(event));
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "the sidecar would not: {answer}");
    let mut false_cuts = 0;
    for other in others {
        false_cuts += usize::from(tokio::time::timeout(END, other.again).await.is_ok_and(|asked| asked.is_err()));
    }
    Ok((latencies, false_cuts))
}

fn start_app(folder: &Path, apps: [SocketAddr; 4]) -> anyhow::Result<Running> {
    let [http1, http2, _, tcp] = apps.map(|address| address.to_string());
    let words = ["app", "--http1", &http1, "--http2", &http2, "--tcp", &tcp].map(str::to_owned).to_vec();
    let log = folder.join("app.log");
    let mut app = Running::start(start(&ourselves(words)?), &log)?;
    app.wait_until("the application", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")))?;
    Ok(app)
}

fn start_sidecar(
    arguments: &RevokeArguments,
    folder: &Path,
    certificates: &Certificates,
    apps: [SocketAddr; 4],
    doors: Doors,
    admin: &Path,
) -> anyhow::Result<Running> {
    let own = certificates.of(Side::Server);
    let ports = apps.into_iter().zip(doors.0).enumerate().map(|(index, (app, door))| {
        let protocol = if index == 3 { "tcp" } else { "http" };
        let allow = json!([{ "spiffe": [CLIENT_ID, SERVER_ID] }]);
        json!({ "name": format!("port-{index}"), "port": app.port(), "listen": door, "app": app, "protocol": protocol, "allow": allow })
    });
    let config = json!({
        "identity": { "files": { "certificate": own.certificate, "key": own.key, "bundle": certificates.bundle } },
        "inbound": ports.collect::<Vec<_>>(),
        "telemetry": { "metrics": "off", "readiness": "off", "access_log": "off" },
        "admin": { "socket": admin },
        "limits": { "connections": 8000 },
    });
    let path = folder.join("postern.yaml");
    // JSON is YAML.
    fs::write(&path, serde_json::to_string_pretty(&config)?)?;
    let program = Program::new(&arguments.postern, ["run".into(), "--config".into(), path.into_os_string()]);
    let mut sidecar = Running::start(start(&program), &folder.join("sidecar.log"))?;
    sidecar.wait_until("the sidecar", || is_ready(admin).unwrap_or(false))?;
    Ok(sidecar)
}

/// It has an identity, which files give when they have been the same for a second.
fn is_ready(admin: &Path) -> std::io::Result<bool> {
    let mut socket = std::os::unix::net::UnixStream::connect(admin)?;
    socket.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: postern\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// On every core: a pair is not what is measured.
fn start(program: &Program) -> std::process::Command {
    let mut command = std::process::Command::new(&program.path);
    command.args(&program.arguments).stdin(std::process::Stdio::null());
    command
}

async fn open(count: usize, own: &Pems, bundle: &Path, doors: Doors) -> anyhow::Result<Vec<Live>> {
    let mut live = Vec::with_capacity(count);
    let files = PemFiles { certificate: &own.certificate, key: &own.key, bundle };
    let (http1, http2) = (Mesh::of(&files, SERVER_NAME, b"http/1.1")?, Mesh::of(&files, SERVER_NAME, b"h2")?);
    let kinds: Vec<Kind> = (0..count).map(|index| KINDS[index % KINDS.len()]).collect();
    for some in kinds.chunks(HANDSHAKES_AT_ONCE) {
        let opening = some.iter().map(|kind| {
            let mesh = if matches!(kind, Kind::Http2 | Kind::Grpc) { http2.clone() } else { http1.clone() };
            tokio::task::spawn_local(open_one(*kind, mesh, doors.of(*kind)))
        });
        for opened in opening.collect::<Vec<_>>() {
            live.push(opened.await??);
        }
    }
    Ok(live)
}

async fn open_one(kind: Kind, mesh: Mesh, to: SocketAddr) -> anyhow::Result<Live> {
    match kind {
        Kind::Http1 => {
            let request = Rc::new(http1::request("orders.shop.svc", "/a", 0));
            let stream = http1::used(mesh.connect(to).await?, request.clone()).await?;
            Ok(shared(stream, request.to_vec()))
        }
        Kind::WebSocket => {
            let mut stream = mesh.connect(to).await?;
            let head = "GET /a HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            while http1::find_head(&answer).is_none() {
                ensure!(stream.read_buf(&mut answer).await? > 0, "no upgrade");
            }
            ensure!(answer.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", String::from_utf8_lossy(&answer));
            Ok(shared(stream, b"e".to_vec()))
        }
        Kind::Tcp => {
            let mut stream = mesh.connect(to).await?;
            stream.write_all(b"e").await?;
            ensure!(stream.read_u8().await? == b'e', "no echo");
            Ok(shared(stream, b"e".to_vec()))
        }
        Kind::Http2 | Kind::Grpc => open_http2(kind, mesh, to).await,
    }
}

/// A stream on which whatever is sent is answered.
fn shared<S>(stream: S, again: Vec<u8>) -> Live
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let stream = Rc::new(tokio::sync::Mutex::new(stream));
    let of_end = stream.clone();
    let ended = Box::pin(async move {
        let mut buffer = [0; 4096];
        let mut stream = of_end.lock().await;
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    });
    let again = Box::pin(async move {
        let mut stream = stream.lock().await;
        stream.write_all(&again).await?;
        ensure!(stream.read(&mut [0; 4096]).await? > 0, "it has ended");
        Ok(())
    });
    Live { ended, again }
}

async fn open_http2(kind: Kind, mesh: Mesh, to: SocketAddr) -> anyhow::Result<Live> {
    let (sender, connection) = h2::client::handshake(mesh.connect(to).await?).await?;
    let driving = tokio::task::spawn_local(connection);
    let mut asking = sender.clone().ready().await?;
    let request = |kind: Kind| {
        let request = Request::builder().uri("http://orders.shop.svc/a");
        match kind {
            Kind::Grpc => request.method("POST").header("content-type", "application/grpc").header("te", "trailers"),
            _ => request,
        }
        .body(())
    };
    // A call of gRPC stays open; the answer's head is all that an idle one has.
    let (answer, mut sending) = asking.send_request(request(kind)?, kind == Kind::Http2)?;
    if kind == Kind::Grpc {
        sending.send_data(crate::app::grpc_message(b"hello"), false)?;
    }
    let answer = answer.await?;
    ensure!(answer.status() == 200, "answered {}", answer.status());
    let ended = Box::pin(async move {
        let _open = (sending, answer, asking);
        // However it ends.
        let _ = driving.await;
    });
    let again = Box::pin(async move {
        let (answer, _) = sender.clone().ready().await?.send_request(request(Kind::Http2)?, true)?;
        ensure!(answer.await?.status() == 200, "refused");
        Ok(())
    });
    Ok(Live { ended, again })
}

/// Answers every upgrade, and echoes what comes behind it.
async fn serve_upgrades(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let mut head: Vec<u8> = Vec::new();
            while http1::find_head(&head).is_none() {
                if stream.read_buf(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer).await?;
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await?;
            std::io::Result::Ok(())
        });
    }
}
