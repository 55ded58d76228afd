//! The audit log of a running sidecar: what it says of decisions and credentials, and that nothing in it can be changed
//! without a trace.

use http_body_util::BodyExt;
use postern::cli::audit::{VerifyArgs, examine};
use postern_tests::client_http::empty;
use postern_tests::mesh::{ORDERS, STRANGER, WEB};
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Sidecar, TcpApp, eventually, ports, within};
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `orders` with an audit log, an HTTP and an L4 port; `web` and `stranger`, who call both.
struct Scene {
    mesh: Mesh,
    orders: Sidecar,
    web: Sidecar,
    _stranger: Sidecar,
    http: SocketAddr,
    /// Where the applications of `web` and `stranger` call: HTTP, then L4.
    web_calls: [SocketAddr; 2],
    stranger_calls: [SocketAddr; 2],
    app: HttpApp,
    raw: SocketAddr,
    echo: TcpApp,
    log: PathBuf,
}

impl Scene {
    async fn start(lines: &str) -> Self {
        let (mesh, app, echo) = (Mesh::start(), HttpApp::start().await, TcpApp::echo().await);
        let (http, raw) = (ports::free(), ports::free());
        let log = mesh.directory().join("audit.json");
        let orders = mesh.sidecar("orders", &section(http, raw, &app, &echo, WEB, &log, lines)).await;
        let (web_calls, stranger_calls) = ([ports::free(), ports::free()], [ports::free(), ports::free()]);
        let calls = |to: [SocketAddr; 2]| {
            let raw = format!(
                "  - {{ name: raw, listen: \"{}\", endpoints: [\"{raw}\"], identity: {ORDERS}, protocol: tcp }}\n",
                to[1]
            );
            format!("{}{raw}", outbound_section(to[0], http, "protocol: http"))
        };
        let web_log = mesh.directory().join("web-audit.json");
        let web_section = format!("{}audit: {{ to: {{ file: {} }} }}\n", calls(web_calls), web_log.display());
        let web = mesh.sidecar("web", &web_section).await;
        let stranger = mesh.sidecar("stranger", &calls(stranger_calls)).await;
        Self { mesh, orders, web, _stranger: stranger, http, web_calls, stranger_calls, app, raw, echo, log }
    }

    fn section(&self, caller: &str, lines: &str) -> String {
        section(self.http, self.raw, &self.app, &self.echo, caller, &self.log, lines)
    }

    fn records(&self) -> Vec<Value> {
        self.orders.shared.audit.flush();
        read(&self.log)
    }

    async fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.records().into_iter().find(&wanted)).await
    }
}

fn section(
    http: SocketAddr,
    raw: SocketAddr,
    app: &HttpApp,
    echo: &TcpApp,
    caller: &str,
    log: &Path,
    lines: &str,
) -> String {
    let allow = format!("protocol: http\nallow: [{{ spiffe: {caller}, name: callers }}]");
    format!(
        "{}  - {{ name: raw, port: 9000, listen: \"{raw}\", app: \"{}\", protocol: tcp, allow: [{{ spiffe: {caller} }}] }}\n\
         audit:\n  to: {{ file: {} }}\n{lines}",
        inbound_section(http, &app.address.to_string(), &allow),
        echo.address,
        log.display()
    )
}

fn read(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("a record: {line}"))).collect()
}

/// Exit code, and what is printed of `files` for whoever trusts the mesh's own authority.
fn verified(files: &[PathBuf]) -> u8 {
    let args = VerifyArgs { files: files.to_vec(), whole: true, ..VerifyArgs::default() };
    let examined = examine(&args).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(examined.report.findings, [], "{:?}", examined.report);
    examined.exit_code()
}

async fn echoes(address: SocketAddr) -> bool {
    let mut client = RawClient::connect(address).await;
    client.send("ping").await;
    client.take(4).await.is_ok_and(|bytes| bytes == b"ping")
}

#[tokio::test]
async fn u2_each_decision_has_one_record_with_who_and_why() {
    let scene = Scene::start("").await;
    assert_eq!(H1Client::connect(scene.web_calls[0]).await.get("/orders/7?token=x").await.unwrap().status, 200);
    let refused = H2Client::connect(scene.stranger_calls[0]).await.get("/orders/8").await.unwrap();
    assert_eq!(refused.status, 403);
    assert!(echoes(scene.web_calls[1]).await);
    assert!(!echoes(scene.stranger_calls[1]).await);

    let allowed = scene.record("an allowed request", |it| it["url.path"] == "/orders/7").await;
    let digest = scene.orders.shared.policy().load().digest.clone();
    for (member, expected) in [
        ("kind", "request"),
        ("outcome", "allowed"),
        ("mode", "enforce"),
        ("direction", "inbound"),
        ("listener", "orders"),
        ("peer.spiffe_id", WEB),
        ("peer.trust_domain", "shop.example"),
        ("own.spiffe_id", ORDERS),
        ("rule", "callers"),
        ("policy.digest", &*digest),
        ("http.request.method", "GET"),
    ] {
        assert_eq!(allowed[member], expected, "{member} of {allowed:#}");
    }
    assert_eq!(allowed["http.response.status_code"], 200);
    for member in ["peer.chain.sha256", "peer.serial", "peer.not_after", "own.serial", "own.not_after", "decision"] {
        assert!(allowed[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {allowed:#}");
    }
    let denied = scene.record("a refused request", |it| it["url.path"] == "/orders/8").await;
    assert_eq!((&denied["outcome"], &denied["refusal"]), (&"refused".into(), &"not_allowed".into()), "{denied:#}");
    assert_eq!(denied["peer.spiffe_id"], STRANGER);
    let tunnel = scene.record("an allowed tunnel", |it| it["listener"] == "raw" && it["outcome"] == "allowed").await;
    assert_eq!((&tunnel["kind"], &tunnel["peer.spiffe_id"]), (&"connection".into(), &WEB.into()), "{tunnel:#}");
    assert_eq!(tunnel["upstream.address"], scene.echo.address.to_string());
    let refused = scene.record("a refused tunnel", |it| it["listener"] == "raw" && it["outcome"] == "refused").await;
    assert_eq!((&refused["refusal"], &refused["peer.spiffe_id"]), (&"not_allowed".into(), &STRANGER.into()));

    // The caller's side knows who answered.
    scene.web.shared.audit.flush();
    let of_web = read(&scene.mesh.directory().join("web-audit.json"));
    let call = of_web.iter().find(|it| it["url.path"] == "/orders/7").expect("a record");
    assert_eq!((&call["direction"], &call["peer.spiffe_id"]), (&"outbound".into(), &ORDERS.into()), "{call:#}");
    assert_eq!((&call["own.spiffe_id"], &call["upstream.spiffe_id"]), (&WEB.into(), &ORDERS.into()), "{call:#}");

    let decisions: Vec<_> = scene.records().into_iter().filter(|it| !it["outcome"].is_null()).collect();
    assert_eq!(decisions.len(), 4, "{decisions:#?}");
    assert!(!std::fs::read_to_string(&scene.log).unwrap().contains("token"), "no query is recorded");
}

#[tokio::test]
async fn credentials_and_policies_leave_records_and_a_restart_goes_on() {
    let scene = Scene::start("").await;
    let shop = postern_tests::mesh::trust_domain("shop.example");
    let events = |name: &'static str| move |it: &Value| it["event"] == name;
    scene.record("the SVID came", events("svid_fetched")).await;
    scene.record("the bundle came", events("bundle_changed")).await;
    scene.record("the policy was loaded", events("policy_loaded")).await;
    let before = scene.orders.own_fingerprint();
    scene.mesh.provider.reissue(&shop).unwrap();
    scene.orders.until_identity("another SVID", |it| it.svids[0].fingerprint != before).await;
    let rotated = scene.record("the SVID was rotated", events("svid_rotated")).await;
    assert_ne!(rotated["own.serial"], rotated["own.serial_before"]);
    scene.orders.apply(&scene.section(STRANGER, "")).await.unwrap();
    let loaded =
        scene.record("another policy", |it| it["event"] == "policy_loaded" && it["policy.generation"] == 2).await;
    assert_eq!(loaded["policy.digest"], *scene.orders.shared.policy().load().digest);

    let log = scene.log.clone();
    let section = scene.section(WEB, "");
    scene.orders.stop().await;
    let last = read(&log).pop().unwrap();
    assert_eq!((&last["kind"], &last["cause"]), (&"seal".into(), &"stop".into()));
    assert_eq!(last["spiffe_id"], ORDERS);
    let again = scene.mesh.sidecar("orders", &section).await;
    again.stop().await;
    let records = read(&log);
    let numbers: Vec<_> = records.iter().map(|it| it["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=records.len() as u64).collect::<Vec<_>>());
    assert_eq!(records.iter().filter(|it| it["kind"] == "resumed").count(), 1);
    assert_eq!(verified(std::slice::from_ref(&log)), 3, "vouched for by the bundle beside it alone");

    // One letter of one record.
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("\"svid_rotated\"", "\"svid_rotates\"", 1)).unwrap();
    let examined =
        examine(&VerifyArgs { files: vec![log], ..VerifyArgs::default() }).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(examined.report.findings.len(), 1, "{:?}", examined.report);
    let number = records.iter().find(|it| it["event"] == "svid_rotated").unwrap()["seq"].as_u64();
    assert_eq!(examined.report.findings[0].number(), number);
}

#[tokio::test]
async fn what_is_cut_because_permission_ended_has_a_record_of_that() {
    let scene = Scene::start("").await;
    let mut http2 = H2Client::connect(scene.web_calls[0]).await;
    let request = http2.request("GET", "/stream").body(empty()).unwrap();
    let in_flight = within("a head", http2.sender.send_request(request)).await.unwrap();
    let mut tunnel = RawClient::connect(scene.web_calls[1]).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.take(4).await.unwrap(), b"ping");
    // It is known while it lasts.
    scene.record("an allowed stream", |it| it["url.path"] == "/stream" && it["outcome"] == "allowed").await;
    scene.orders.apply(&scene.section(STRANGER, "")).await.unwrap();
    assert!(within("the stream ends", in_flight.into_body().collect()).await.is_err());
    let cut = scene.record("a cut stream", |it| it["url.path"] == "/stream" && it["outcome"] == "cut").await;
    assert_eq!(cut["end"], "policy_changed", "{cut:#}");
    let cut = scene.record("a cut tunnel", |it| it["listener"] == "raw" && it["outcome"] == "cut").await;
    assert_eq!((&cut["end"], &cut["peer.spiffe_id"]), (&"policy_changed".into(), &WEB.into()), "{cut:#}");
}

#[tokio::test]
async fn rotated_files_are_one_log() {
    let lines = "  seal: { records: 20 }\n";
    let scene = Scene::start(lines).await;
    let rotating = scene.mesh.directory().join("rotating.json");
    let section = scene.section(WEB, lines).replace(
        &format!("file: {}", scene.log.display()),
        &format!("file: {}, rotate: {{ size: 64KiB, keep: 50 }}", rotating.display()),
    );
    scene.orders.stop().await;
    let orders = scene.mesh.sidecar("orders", &section).await;
    let mut client = H2Client::connect(scene.web_calls[0]).await;
    for number in 0..150 {
        let status = client.get(&format!("/orders/{number}")).await.unwrap().status;
        assert_eq!(status, 200);
    }
    orders.stop().await;
    let mut files = vec![rotating.clone()];
    files.extend(
        (1..).map(|number| PathBuf::from(format!("{}.{number}", rotating.display()))).take_while(|it| it.exists()),
    );
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(verified(&files), 3);
    let paths = files.iter().flat_map(|file| read(file)).filter(|it| it["kind"] == "request").count();
    assert_eq!(paths, 150);
}

#[tokio::test]
async fn whoever_pulls_a_lever_is_recorded() {
    let scene = Scene::start("").await;
    let entries = std::fs::read_dir(scene.mesh.directory()).unwrap().map(|entry| entry.unwrap().path());
    let is_socket =
        |path: &PathBuf| path.to_string_lossy().contains("/orders-") && path.extension() == Some("admin".as_ref());
    let socket = entries.into_iter().find(is_socket).expect("the admin socket of `orders`");
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    stream.write_all(b"POST /drain HTTP/1.1\r\nhost: postern\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let pulled = scene.record("the lever", |it| it["event"] == "lever_used").await;
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    assert_eq!((&pulled["lever"], &pulled["user"]), (&"drain".into(), &own.into()), "{pulled:#}");
}

/// `block`: no request is decided that could not be recorded. It goes on when there is room again.
#[tokio::test]
async fn f_13_with_block_requests_and_tunnels_wait_for_the_log() {
    let mesh = Mesh::start();
    let log = mesh.directory().join("audit.json");
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let (app, echo) = (HttpApp::start().await, TcpApp::echo().await);
    let (http, raw, outbound) = (ports::free(), ports::free(), ports::free());
    let section = section(http, raw, &app, &echo, WEB, &log, "  on_full: block\n");
    let orders = mesh.sidecar("orders", &section).await;
    let _web = mesh.sidecar("web", &outbound_section(outbound, http, "protocol: http")).await;
    let mut client = H1Client::connect(outbound).await;
    assert_eq!(client.get("/while/there/is/room").await.unwrap().status, 200);
    // All places but one of this request.
    let taken = orders.shared.audit.clone();
    let mut places = Vec::new();
    while let Ok(place) = tokio::time::timeout(std::time::Duration::from_millis(50), taken.place()).await {
        places.push(place);
    }
    assert!(places.len() > 1000, "{}", places.len());
    let seen = app.seen().len();
    let mut waiting = std::pin::pin!(client.get("/waits"));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(100), waiting.as_mut()).await;
    assert!(waits.is_err() && app.seen().len() == seen, "it is neither answered nor passed on");
    drop(places);
    assert_eq!(waiting.await.unwrap().status, 200);
    std::fs::remove_file(&log).unwrap();
    orders.stop().await;
    assert_eq!(read(&log).iter().filter(|it| it["kind"] == "request").count(), 2);
    assert_eq!(read(&log).iter().filter(|it| it["kind"] == "gap").count(), 0);
    assert_eq!(verified(&[log]), 3);
}

/// The disk has no room for a record; requests go on, and the log says how many it missed.
#[tokio::test]
async fn f_13_requests_go_on_while_the_audit_log_cannot_be_written() {
    let mesh = Mesh::start();
    let log = mesh.directory().join("audit.json");
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let (app, echo) = (HttpApp::start().await, TcpApp::echo().await);
    let (http, raw, outbound) = (ports::free(), ports::free(), ports::free());
    let orders = mesh.sidecar("orders", &section(http, raw, &app, &echo, WEB, &log, "")).await;
    let _web = mesh.sidecar("web", &outbound_section(outbound, http, "protocol: http")).await;
    let mut client = H1Client::connect(outbound).await;
    for _ in 0..20 {
        assert_eq!(client.get("/orders").await.unwrap().status, 200);
    }
    eventually("failed writes are counted", || (orders.metric("postern_audit_errors_total") > 0.0).then_some(())).await;
    std::fs::remove_file(&log).unwrap();
    orders.stop().await;
    // They waited, and there was a place for all.
    assert_eq!(read(&log).iter().filter(|it| it["kind"] == "request").count(), 20);
    assert_eq!(verified(&[log]), 3);
}

/// `block`: whoever is slow, caller or upstream, holds nothing that others need for their records.
#[tokio::test]
async fn f_13_with_block_slow_callers_and_upstreams_keep_no_places() {
    let mesh = Mesh::start();
    let log = mesh.directory().join("audit.json");
    let silent = TcpApp::start(|stream, _, _| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let (app, echo) = (HttpApp::start().await, TcpApp::echo().await);
    let (http, raw, slow, outbound, to_slow) =
        (ports::free(), ports::free(), ports::free(), ports::free(), ports::free());
    let section = section(http, raw, &app, &echo, WEB, &log, "  on_full: block\n").replace(
        "audit:",
        &format!(
            "  - {{ name: slow, port: 9001, listen: \"{slow}\", app: \"{}\", protocol: http, allow: [{{ spiffe: {WEB} }}] }}\naudit:",
            silent.address
        ),
    );
    let orders = mesh.sidecar("orders", &section).await;
    let slow_service = format!(
        "  - {{ name: slow, listen: \"{to_slow}\", endpoints: [\"{slow}\"], identity: {ORDERS}, protocol: http }}\n"
    );
    let _web =
        mesh.sidecar("web", &format!("{}{slow_service}", outbound_section(outbound, http, "protocol: http"))).await;
    // All places but one.
    let taken = orders.shared.audit.clone();
    let mut places = Vec::new();
    while let Ok(place) = tokio::time::timeout(std::time::Duration::from_millis(50), taken.place()).await {
        places.push(place);
    }
    places.pop();
    // Who says nothing; and a request that the application does not answer.
    let _silent = tokio::net::TcpStream::connect(http).await.unwrap();
    let mut waits = H1Client::connect(to_slow).await;
    let mut waiting = std::pin::pin!(waits.get("/waits"));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "it is under way");
    let mut client = H1Client::connect(outbound).await;
    for _ in 0..3 {
        assert_eq!(within("an answer", client.get("/orders")).await.unwrap().status, 200);
    }
    drop(places);
}

/// What was decided, and what came of it, are two things.
#[tokio::test]
async fn what_was_allowed_and_could_not_be_done_is_not_refused() {
    let scene = Scene::start("").await;
    let section = scene.section(WEB, "");
    let nobody = ports::free();
    for app in [scene.app.address, scene.echo.address] {
        let section = section.replace(&app.to_string(), &nobody.to_string());
        scene.orders.apply(&section).await.unwrap();
        match app == scene.app.address {
            true => assert_eq!(H1Client::connect(scene.web_calls[0]).await.get("/away").await.unwrap().status, 503),
            false => assert!(!echoes(scene.web_calls[1]).await),
        }
        let kind = if app == scene.app.address { "request" } else { "connection" };
        let record = scene.record("a failed one", |it| it["kind"] == kind && it["refusal"] == "app_unreachable").await;
        assert_eq!((&record["outcome"], &record["peer.spiffe_id"]), (&"failed".into(), &WEB.into()), "{record:#}");
        scene.orders.apply(&scene.section(WEB, "")).await.unwrap();
    }
}

/// Somebody changes the log while the sidecar is away. What comes back signs what it writes itself, and not that.
#[tokio::test]
async fn a_log_that_was_changed_while_nobody_wrote_it_is_not_gone_on_with() {
    let scene = Scene::start("").await;
    let refused = H2Client::connect(scene.stranger_calls[0]).await.get("/orders/8").await.unwrap();
    assert_eq!(refused.status, 403);
    let (log, section) = (scene.log.clone(), scene.section(WEB, ""));
    scene.orders.stop().await;
    let written = std::fs::read_to_string(&log).unwrap();
    let changed = written.replacen("\"outcome\":\"refused\"", "\"outcome\":\"allowed\"", 1);
    assert_ne!(written, changed);
    std::fs::write(&log, &changed).unwrap();
    let again = scene.mesh.sidecar("orders", &section).await;
    assert!(again.metric("postern_audit_broken_total") > 0.0);
    again.stop().await;
    let records = read(&log);
    assert_eq!((&records[0]["kind"], &records[1]["kind"]), (&"opened".into(), &"broken".into()), "{records:#?}");
    assert!(records[1]["found"].as_str().unwrap().contains("was changed"), "{:#}", records[1]);
    let aside = PathBuf::from(records[1]["file"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), changed, "it is kept as it was found");
    assert_eq!(verified(&[log, aside.clone()]), 3, "what was set aside is passed over");
    let alone =
        examine(&VerifyArgs { files: vec![aside], ..VerifyArgs::default() }).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(alone.exit_code(), 1);
}
