//! Listeners of every kind come, go and move with a reload, whole or not at all, and what lives on them goes on.

use postern_tests::mesh::ORDERS;
use postern_tests::pair::{inbound_section, service_section};
use postern_tests::{H1Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, ports};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Plaintext HTTP for everybody.
fn open_port(listen: &str, app: SocketAddr) -> String {
    let lines = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    inbound_section(ports::free(), &app.to_string(), lines)
        .lines()
        .map(|line| {
            if line.trim_start().starts_with("listen:") { format!("    listen: \"{listen}\"") } else { line.to_owned() }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_open(address: SocketAddr) -> bool {
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

#[tokio::test]
async fn a_listener_that_becomes_a_wildcard_keeps_its_connections() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let address = ports::free();
    let port = address.port();
    let orders = mesh.sidecar("orders", &open_port(&address.to_string(), app.address)).await;
    let mut kept = H1Client::connect(address).await;
    assert_eq!(kept.get("/first").await.unwrap().status, 200);
    let dual_stack = std::net::TcpListener::bind("[::]:0").is_ok();
    let wildcards = ["0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1"];
    for ip in wildcards.into_iter().filter(|ip| dual_stack || *ip != "[::]") {
        orders.apply(&open_port(&format!("{ip}:{port}"), app.address)).await.unwrap();
        assert_eq!(kept.get("/kept").await.unwrap().status, 200, "{ip}");
        assert_eq!(H1Client::connect(address).await.get("/new").await.unwrap().status, 200, "{ip}");
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
        assert_eq!(is_open(elsewhere), ip != "127.0.0.1", "{ip}");
    }
    // What stands under another name is not what it was.
    let renamed = open_port(&address.to_string(), app.address).replace("name: orders", "name: other");
    orders.apply(&renamed.replace(&port.to_string(), &ports::free().port().to_string())).await.unwrap();
    assert!(!kept.get("/gone").await.is_ok_and(|reply| reply.status == 200));
}

#[tokio::test]
async fn a_listener_that_was_closed_for_nothing_is_opened_again() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let address = ports::free();
    let orders = mesh.sidecar("orders", &open_port(&address.to_string(), app.address)).await;
    let mut kept = H1Client::connect(address).await;
    assert_eq!(kept.get("/first").await.unwrap().status, 200);
    // Somebody else has the port on another address, so the wildcard is not to be had.
    let _taken = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], address.port()))).unwrap();
    let error = orders.apply(&open_port(&format!("0.0.0.0:{}", address.port()), app.address)).await.unwrap_err();
    assert!(error.contains(&format!("0.0.0.0:{}", address.port())), "{error}");
    assert_eq!(kept.get("/kept").await.unwrap().status, 200);
    assert_eq!(H1Client::connect(address).await.get("/new").await.unwrap().status, 200);
}

#[tokio::test]
async fn tunnels_go_on_when_their_listener_moves() {
    let (mesh, echo) = (Mesh::start(), TcpApp::echo().await);
    let (first, second) = (ports::free(), ports::free());
    let section = |listen| {
        let lines = format!("endpoints: [\"{}\"]\ntls: off\nprotocol: tcp", echo.address);
        service_section(listen, &lines)
    };
    let web = mesh.sidecar("web", &section(first)).await;
    let mut tunnel = RawClient::connect(first).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    web.apply(&section(second)).await.unwrap();
    assert!(!is_open(first), "closed when the change has been applied");
    tunnel.send("pong").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"pong");
    assert!(is_open(second));
    // Protected in another way, it is not the service that it was allowed to reach.
    let meshed = format!("endpoints: [\"{}\"]\nidentity: {ORDERS}\nprotocol: tcp", echo.address);
    web.apply(&service_section(second, &meshed)).await.unwrap();
    assert!(tunnel.until_ended().await.is_empty());
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn is_answered(address: SocketAddr, path: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    ask(stream, path).await.starts_with("HTTP/1.1 200")
}

/// The file with other lines for what the harness turns off.
async fn apply(sidecar: &Sidecar, telemetry: &str, admin: &str, sections: &str) -> Result<(), String> {
    let edit = |preamble: &str| {
        let identity = preamble.split("telemetry:").next().unwrap();
        format!("{identity}telemetry: {{ {telemetry} }}\nadmin: {{ {admin} }}\n")
    };
    sidecar.apply_edited(edit, sections).await
}

#[tokio::test]
async fn metrics_readiness_and_admin_move_with_a_reload() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let section = open_port(&ports::free().to_string(), app.address);
    let orders = mesh.sidecar("orders", &section).await;
    let (one, other, admin) = (ports::free(), ports::free(), ports::free());
    let (socket, moved) = (mesh.directory().join("one.sock"), mesh.directory().join("other.sock"));
    let telemetry = |metrics: &str, readiness: &str| {
        format!("metrics: {metrics}, readiness: {readiness}, access_log: {{ file: {} }}", orders.log.display())
    };
    let quoted = |address: SocketAddr| format!("\"{address}\"");

    let first = telemetry(&quoted(one), &quoted(other));
    apply(&orders, &first, &format!("socket: {}, listen: {}", socket.display(), quoted(admin)), &section)
        .await
        .unwrap();
    assert!(is_answered(one, "/metrics").await && is_answered(other, "/healthz/ready").await);
    assert!(is_answered(admin, "/connections").await);
    assert!(ask(UnixStream::connect(&socket).await.unwrap(), "/connections").await.starts_with("HTTP/1.1 200"));

    // They change places, which needs each to be closed first.
    let swapped = telemetry(&quoted(other), &quoted(one));
    apply(&orders, &swapped, &format!("socket: {}", moved.display()), &section).await.unwrap();
    assert!(is_answered(other, "/metrics").await && is_answered(one, "/healthz/ready").await);
    assert!(!is_open(admin) && !socket.exists());
    assert!(ask(UnixStream::connect(&moved).await.unwrap(), "/connections").await.starts_with("HTTP/1.1 200"));

    // A socket that cannot be had refuses the whole file.
    let nowhere = "socket: /nowhere/at/all/admin.sock";
    assert!(apply(&orders, &telemetry("off", "off"), nowhere, &section).await.is_err());
    assert!(is_answered(other, "/metrics").await && is_answered(one, "/healthz/ready").await);

    apply(&orders, &telemetry("off", "off"), &format!("socket: {}", moved.display()), &section).await.unwrap();
    assert!(!is_open(one) && !is_open(other));
    assert!(ask(UnixStream::connect(&moved).await.unwrap(), "/connections").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_access_log_moves_with_a_reload() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let address = ports::free();
    let section = open_port(&address.to_string(), app.address);
    let orders = mesh.sidecar("orders", &section).await;
    let mut client = H1Client::connect(address).await;
    assert_eq!(client.get("/one").await.unwrap().status, 200);
    orders.records_of("request", 1).await;

    let moved = mesh.directory().join("moved.log");
    let target = |text: &str| format!("metrics: off, readiness: off, access_log: {text}");
    let error = apply(&orders, &target("{ file: /nowhere/at/all.log }"), "", &section).await.unwrap_err();
    assert!(error.contains("access log"), "{error}");
    assert_eq!(client.get("/two").await.unwrap().status, 200);
    orders.records_of("request", 2).await;

    apply(&orders, &target(&format!("{{ file: {} }}", moved.display())), "", &section).await.unwrap();
    assert_eq!(client.get("/three").await.unwrap().status, 200);
    let text = eventually("a record in the new file", || {
        std::fs::read_to_string(&moved).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    assert!(text.contains("/three"), "{text}");
    orders.records_of("request", 2).await;

    apply(&orders, &target("off"), "", &section).await.unwrap();
    assert_eq!(client.get("/four").await.unwrap().status, 200);
    apply(&orders, &target(&format!("{{ file: {} }}", orders.log.display())), "", &section).await.unwrap();
    assert_eq!(client.get("/five").await.unwrap().status, 200);
    let records = orders.records_of("request", 3).await;
    assert_eq!(records[2]["url.path"], "/five");
}

#[tokio::test]
async fn the_log_filter_follows_the_file_and_not_a_bad_one() {
    let mesh = Mesh::start();
    let (section, admin) = (open_port(&ports::free().to_string(), ports::free()), ports::free());
    let orders = mesh.sidecar("orders", &section).await;
    let telemetry = |log: &str| format!("metrics: off, readiness: off, access_log: off, log: {log}");
    let listen = format!("listen: \"{admin}\"");
    apply(&orders, &telemetry("debug"), &listen, &section).await.unwrap();
    let answer = ask(TcpStream::connect(admin).await.unwrap(), "/log").await;
    assert!(answer.contains("debug"), "{answer}");
    assert!(apply(&orders, &telemetry("\"postern=loudest\""), &listen, &section).await.is_err());
    let answer = ask(TcpStream::connect(admin).await.unwrap(), "/log").await;
    assert!(answer.contains("debug"), "{answer}");
}
