//! Outbound listeners on unix sockets: everything that goes by TCP, with the caller's user by the kernel's word.

use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::inbound_section;
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, ports};
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::net::UnixStream;

/// In nobody's user database.
const OTHER: u32 = 61_008;

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// `orders` behind mTLS, and a directory for the sockets of `web`.
struct Scene {
    mesh: Mesh,
    _orders: Sidecar,
    endpoint: SocketAddr,
    directory: tempfile::TempDir,
}

impl Scene {
    async fn new(app: SocketAddr, protocol: &str) -> Self {
        let (mesh, endpoint) = (Mesh::start(), ports::free());
        let lines = format!("protocol: {protocol}\nallow: [{{ spiffe: {WEB} }}]");
        let orders = mesh.sidecar("orders", &inbound_section(endpoint, &app.to_string(), &lines)).await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { mesh, _orders: orders, endpoint, directory }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shared socket, and one of the service's own.
    fn section(&self, shared: &str, own: &str, lines: &str) -> String {
        format!(
            "outbound:\n  listen: [\"unix:{}\"]\n  services:\n  - {{ name: orders, hosts: [orders.shop.svc], listen: \
             \"unix:{}\", endpoints: [\"{}\"], identity: {ORDERS}, {lines} }}\n",
            self.socket(shared).display(),
            self.socket(own).display(),
            self.endpoint
        )
    }

    async fn web(&self, lines: &str) -> Sidecar {
        self.mesh.sidecar("web", &self.section("shared.sock", "orders.sock", lines)).await
    }
}

fn assert_came_by(record: &Value, socket: &Path) {
    assert_eq!(record["network.transport"], "unix", "{record}");
    assert_eq!(record["network.local.address"], socket.to_str().unwrap(), "{record}");
    assert_eq!(record["process.user.id"], own_uid(), "{record}");
    assert_eq!(record.get("network.peer.address"), None, "{record}");
}

#[tokio::test]
async fn requests_go_by_a_service_s_socket_and_by_a_shared_one() {
    let app = HttpApp::start().await;
    let scene = Scene::new(app.address, "http").await;
    for name in ["orders.sock", "shared.sock"] {
        let (web, socket) = (scene.web("protocol: http").await, scene.socket(name));
        let connect = || async { UnixStream::connect(&socket).await.unwrap() };
        let mut client = H1Client::over(connect().await, "orders.shop.svc").await;
        for path in ["/1", "/2"] {
            assert_eq!(client.get(path).await.unwrap().status, 200, "{name}");
        }
        drop(client);
        let mut client = H2Client::over(connect().await, "orders.shop.svc").await;
        assert_eq!(client.get("/3").await.unwrap().status, 200, "{name}");
        drop(client);
        for record in web.records_of("request", 3).await.iter().chain(&web.records_of("connection", 2).await) {
            assert_came_by(record, &socket);
        }
        // Whatever is no host of a service is one all the same where the socket names the service.
        let reply = H1Client::over(connect().await, "localhost").await.get("/4").await.unwrap();
        assert_eq!(reply.status, if name == "orders.sock" { 200 } else { 403 }, "{name}");
        let bare = RawClient::at(&socket).await.response_to("GET /5 HTTP/1.0\r\n\r\n").await;
        assert_eq!(bare.status, if name == "orders.sock" { 200 } else { 403 }, "{name}");
        web.stop().await;
        assert!(!socket.exists(), "the file went with the process");
    }
}

#[tokio::test]
async fn a_shared_socket_is_a_forward_proxy() {
    let app = HttpApp::start().await;
    let scene = Scene::new(app.address, "http").await;
    let web = scene.web("protocol: http").await;
    let socket = scene.socket("shared.sock");
    let absolute = "GET http://orders.shop.svc/a HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n";
    assert_eq!(RawClient::at(&socket).await.response_to(absolute).await.status, 200);
    let mut tunnel = RawClient::at(&socket).await;
    tunnel.send("CONNECT orders.shop.svc:80 HTTP/1.1\r\nhost: orders.shop.svc:80\r\n\r\n").await;
    assert_eq!(tunnel.head().await.unwrap().status, 200);
    assert_eq!(tunnel.get("orders.shop.svc", "/b").await.status, 200);
    drop(tunnel);
    for record in web.records_of("connection", 2).await {
        assert_came_by(&record, &socket);
    }
    let reply = RawClient::at(&scene.socket("orders.sock"))
        .await
        .response_to("CONNECT orders.shop.svc:80 HTTP/1.1\r\nhost: orders.shop.svc:80\r\n\r\n")
        .await;
    assert_eq!(reply.status, 405, "a service's own socket is no forward proxy");
}

#[tokio::test]
async fn streams_go_both_ways_and_end_by_halves() {
    let app = TcpApp::echo().await;
    let scene = Scene::new(app.address, "tcp").await;
    for protocol in ["tcp", "detect"] {
        let web = scene.web(&format!("protocol: {protocol}")).await;
        let mut client = RawClient::at(&scene.socket("orders.sock")).await;
        let bytes = vec![7; 300_000];
        client.send("\x01\x02").await;
        assert_eq!(client.take(2).await.unwrap(), b"\x01\x02");
        let (mut reading, mut writing) = client.stream.into_split();
        let sent = async {
            tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut writing).await.unwrap();
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(sent, tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut received));
        read.unwrap();
        assert_eq!(received.len(), bytes.len(), "{protocol}");
        let record = web.record("connection", |_| true).await;
        assert_came_by(&record, &scene.socket("orders.sock"));
        assert_eq!((&record["bytes.received"], &record["bytes.sent"]), (&300_002.into(), &300_002.into()), "{record}");
        web.stop().await;
    }
}

/// What a process of `uid` gets for a request at `socket`.
async fn status_for(uid: u32, socket: &Path) -> String {
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  s.sendall(b'GET / HTTP/1.1\\r\\nhost: orders.shop.svc\\r\\n\\r\\n')\nprint(s.recv(12).decode())";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(socket).uid(uid).gid(uid).stderr(Stdio::inherit());
    let asked = tokio::task::spawn_blocking(move || command.output().expect("python3 runs"));
    String::from_utf8(asked.await.unwrap().stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn users_are_those_whom_the_kernel_names() {
    let app = HttpApp::start().await;
    let scene = Scene::new(app.address, "http").await;
    let own = own_uid();
    for (users, own_status, other_status) in [(own, 200, "HTTP/1.1 403"), (OTHER, 403, "HTTP/1.1 200")] {
        let web = scene.web(&format!("protocol: http, users: [{users}]")).await;
        for name in ["orders.sock", "shared.sock"] {
            let socket = scene.socket(name);
            let stream = UnixStream::connect(&socket).await.unwrap();
            let reply = H1Client::over(stream, "orders.shop.svc").await.get("/").await.unwrap();
            assert_eq!(reply.status, own_status, "{users} {name}");
            if own != 0 {
                eprintln!("SKIPPED a request of another user: not root");
                continue;
            }
            assert_eq!(status_for(OTHER, &socket).await, other_status, "{users} {name}");
            let of_other = web.record("request", |record| record["process.user.id"] == OTHER).await;
            assert_eq!(of_other.get("refusal").is_some(), other_status.ends_with("403"), "{of_other}");
        }
        web.stop().await;
    }
}

#[tokio::test]
async fn a_stream_of_another_user_is_closed_before_anybody_is_called() {
    let app = TcpApp::echo().await;
    let scene = Scene::new(app.address, "tcp").await;
    let web = scene.web(&format!("protocol: tcp, users: [{OTHER}]")).await;
    let mut client = RawClient::at(&scene.socket("orders.sock")).await;
    assert!(client.until_ended().await.is_empty());
    let record = web.record("connection", |_| true).await;
    assert_eq!(record["refusal"], "local_user_refused", "{record}");
    assert_eq!(record.get("upstream.address"), None, "{record}");
    assert_came_by(&record, &scene.socket("orders.sock"));
    assert!(app.connections().is_empty());
}

#[tokio::test]
async fn what_ends_is_cut_at_the_socket() {
    let app = TcpApp::echo().await;
    let scene = Scene::new(app.address, "tcp").await;
    let web = scene.web("protocol: tcp").await;
    let mut tunnel = RawClient::at(&scene.socket("orders.sock")).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    let with_users = format!("protocol: tcp, users: [{OTHER}]");
    web.apply(&scene.section("shared.sock", "orders.sock", &with_users)).await.unwrap();
    assert!(tunnel.until_ended().await.is_empty());
    let record = web.record("connection", |_| true).await;
    assert_eq!(record["end"], "policy_changed", "{record}");
}

#[tokio::test]
async fn sockets_come_go_and_move_with_a_reload() {
    let app = TcpApp::echo().await;
    let scene = Scene::new(app.address, "tcp").await;
    let web = scene.web("protocol: tcp").await;
    let mut tunnel = RawClient::at(&scene.socket("orders.sock")).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");

    // Left by a process that was killed, and replaced.
    drop(std::os::unix::net::UnixListener::bind(scene.socket("moved.sock")).unwrap());
    web.apply(&scene.section("shared.sock", "moved.sock", "protocol: tcp")).await.unwrap();
    assert!(!scene.socket("orders.sock").exists(), "the file goes with the listener");
    tunnel.send("pong").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"pong", "who came by it stays");
    let mut second = RawClient::at(&scene.socket("moved.sock")).await;
    second.send("ping").await;
    assert_eq!(second.take(4).await.unwrap(), b"ping");

    // What cannot be had changes nothing.
    let live = std::os::unix::net::UnixListener::bind(scene.socket("taken.sock")).unwrap();
    std::fs::write(scene.socket("file"), "precious").unwrap();
    for (name, expected) in [
        ("taken.sock", "another process listens there"),
        ("file", "something that is no socket stands there"),
        ("missing/a.sock", "there is no directory"),
    ] {
        // The shared one moves too, and must not stay behind.
        let error = web.apply(&scene.section("new.sock", name, "protocol: tcp")).await.unwrap_err();
        assert!(error.contains(expected) && error.contains(name), "{error}");
        assert!(!scene.socket("new.sock").exists(), "nothing of a refused configuration stays");
        let mut again = RawClient::at(&scene.socket("moved.sock")).await;
        again.send("ping").await;
        assert_eq!(again.take(4).await.unwrap(), b"ping");
    }
    assert_eq!(std::fs::read(scene.socket("file")).unwrap(), b"precious");
    drop(live);
    web.stop().await;
    assert!(!scene.socket("moved.sock").exists() && !scene.socket("shared.sock").exists());
}

/// Whoever waits in the queue connected before the socket was closed.
#[tokio::test]
async fn who_found_the_socket_before_it_went_is_served() {
    let app = HttpApp::start().await;
    let scene = Scene::new(app.address, "http").await;
    let web = scene.web("protocol: http").await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(RawClient::at(&scene.socket("orders.sock")).await);
    }
    web.apply(&scene.section("shared.sock", "moved.sock", "protocol: http")).await.unwrap();
    for client in &mut waiting {
        assert_eq!(client.get("orders.shop.svc", "/").await.status, 200);
    }
    drop(waiting);
    web.records_of("connection", 20).await;
}
