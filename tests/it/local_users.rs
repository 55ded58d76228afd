//! Which local user calls: what each may use, and that records say who it was.

use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, HttpApp, Mesh, RawApp, RawClient, Sidecar, TcpApp, ports};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// In nobody's user database.
const OTHER: u32 = 61_007;

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

async fn orders(mesh: &Mesh, app: SocketAddr, protocol: &str) -> (Sidecar, SocketAddr) {
    let listen = ports::free();
    let lines = format!("protocol: {protocol}\nallow: [{{ spiffe: {WEB} }}]");
    (mesh.sidecar("orders", &inbound_section(listen, &app.to_string(), &lines)).await, listen)
}

/// The first line of the answer to a request that `uid` makes, from a process of its own.
async fn status_line_for(uid: u32, listen: SocketAddr, host: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; printf 'GET / HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n' >&3; head -n 1 <&3",
        listen.ip(),
        listen.port()
    );
    let asked = tokio::task::spawn_blocking(move || {
        Command::new("bash").args(["-c", &script]).uid(uid).gid(uid).stderr(Stdio::inherit()).output().unwrap()
    });
    String::from_utf8(asked.await.unwrap().stdout).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn a_service_is_for_its_users_only() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (_orders, endpoint) = orders(&mesh, app.address, "http").await;
    let own = own_uid();
    for (users, expected) in [
        (format!("users: {own}"), 200),
        (format!("users: [{OTHER}, {own}]"), 200),
        (format!("users: [{OTHER}]"), 403),
        (String::new(), 200),
    ] {
        let listen = ports::free();
        let web = mesh.sidecar("web", &outbound_section(listen, endpoint, &format!("protocol: http\n{users}"))).await;
        let mut client = H1Client::connect(listen).await;
        for path in ["/1", "/2"] {
            let reply = client.get(path).await.unwrap();
            assert_eq!(reply.status, expected, "{users}");
        }
        drop(client);
        for record in web.records_of("request", 2).await.iter().chain(&web.records_of("connection", 1).await) {
            assert_eq!(record["process.user.id"], own, "{record}");
        }
        let refusals =
            web.records_of("request", 2).await.into_iter().filter_map(|record| record.get("refusal").cloned());
        let refusals: Vec<_> = refusals.collect();
        assert_eq!(refusals, vec!["local_user_refused"; if expected == 403 { 2 } else { 0 }], "{users}");
    }
    assert_eq!(app.seen().len(), 6, "what was refused reached nobody");
}

#[tokio::test]
async fn a_stream_of_another_user_is_closed_before_anybody_is_called() {
    let (mesh, app) = (Mesh::start(), RawApp::ok().await);
    let (_orders, endpoint) = orders(&mesh, app.address, "tcp").await;
    for protocol in ["tcp", "detect"] {
        let listen = ports::free();
        let lines = format!("protocol: {protocol}\nusers: [{OTHER}]");
        let web = mesh.sidecar("web", &outbound_section(listen, endpoint, &lines)).await;
        let mut client = RawClient::connect(listen).await;
        client.send("\x01\x02 not HTTP").await;
        assert!(client.until_ended().await.is_empty());
        let record = web.record("connection", |_| true).await;
        assert_eq!(record["refusal"], "local_user_refused", "{protocol}: {record}");
        assert_eq!(record["process.user.id"], own_uid());
        assert!(
            record["refusal.detail"].as_str().is_some_and(|text| text.contains(&own_uid().to_string())),
            "{record}"
        );
        assert_eq!(record.get("upstream.address"), None, "{record}");
    }
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn on_a_shared_listener_each_request_is_decided_by_its_service() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (_orders, endpoint) = orders(&mesh, app.address, "http").await;
    let (own, listen) = (own_uid(), ports::free());
    let service = |name: &str, users: u32| {
        format!(
            "  - {{ name: {name}, hosts: [{name}.shop.svc], endpoints: [\"{endpoint}\"], identity: {ORDERS}, protocol: http, users: [{users}] }}\n"
        )
    };
    let section =
        format!("outbound:\n  listen: {listen}\n  services:\n{}{}", service("mine", own), service("theirs", OTHER));
    let web = mesh.sidecar("web", &section).await;
    for (host, expected) in [("mine.shop.svc", 200), ("theirs.shop.svc", 403)] {
        assert_eq!(H1Client::named(listen, host).await.get("/").await.unwrap().status, expected, "{host}");
    }
    if own != 0 {
        eprintln!("SKIPPED a request of another user: not root");
        return;
    }
    for (host, expected) in [("mine.shop.svc", "HTTP/1.1 403 Forbidden"), ("theirs.shop.svc", "HTTP/1.1 200 OK")] {
        assert_eq!(status_line_for(OTHER, listen, host).await, expected, "{host}");
    }
    let record = web.record("request", |record| record["process.user.id"] == OTHER && record.get("refusal").is_none());
    assert_eq!(record.await["service"], "theirs");
}

#[tokio::test]
async fn users_that_are_taken_away_are_cut() {
    let (mesh, app) = (Mesh::start(), TcpApp::echo().await);
    let (_orders, endpoint) = orders(&mesh, app.address, "tcp").await;
    let listen = ports::free();
    let section = |users: &str| outbound_section(listen, endpoint, &format!("protocol: tcp\n{users}"));
    let web = mesh.sidecar("web", &section("")).await;
    let mut tunnel = RawClient::connect(listen).await;
    for users in [String::new(), format!("users: [{}]", own_uid())] {
        web.apply(&section(&users)).await.unwrap();
        tunnel.send("ping").await;
        assert_eq!(tunnel.take(4).await.unwrap(), b"ping", "still allowed with {users:?}");
    }
    web.apply(&section(&format!("users: [{OTHER}]"))).await.unwrap();
    assert!(tunnel.until_ended().await.is_empty());
    let record = web.record("connection", |_| true).await;
    assert_eq!(record["end"], "policy_changed", "{record}");
}

#[tokio::test]
async fn a_name_that_stands_for_nobody_is_an_error_and_replaces_nothing() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    let (_orders, endpoint) = orders(&mesh, app.address, "http").await;
    let listen = ports::free();
    let section = |users: &str| outbound_section(listen, endpoint, &format!("protocol: http\nusers: [{users}]"));
    let web = mesh.sidecar("web", &section(&format!("root, {}", own_uid()))).await;
    let error = web.apply(&section("no-such-user-here")).await.unwrap_err();
    assert!(error.contains("orders") && error.contains("no-such-user-here"), "{error}");
    assert_eq!(H1Client::connect(listen).await.get("/").await.unwrap().status, 200);
}
