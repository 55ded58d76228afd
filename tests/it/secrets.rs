//! No credential that passes through appears in anything that a sidecar says (THREATS HD-19).

use postern::telemetry::process_log;
use postern_config::telemetry::LogFormat;
use postern_tests::client_http::{empty, with_trailers};
use postern_tests::mesh::WEB;
use postern_tests::negative::CANARY;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawClient, ports};
use std::net::SocketAddr;

/// Set for the process that this test starts, to be the test: its log has to be its own.
const WITH_LOG: &str = "POSTERN_TEST_WITH_LOG";

#[tokio::test]
async fn hd_19_no_credential_is_logged_recorded_or_counted_at_any_level() {
    if std::env::var_os(WITH_LOG).is_some() {
        return carry_credentials().await;
    }
    let test = "secrets::hd_19_no_credential_is_logged_recorded_or_counted_at_any_level";
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(WITH_LOG, "1").output().await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("DEBUG") && text.contains("configuration applied"), "the log is there: {text}");
    for secret in [CANARY, &CANARY.to_uppercase()] {
        if let Some(at) = text.find(secret) {
            let around: String = text[..at].lines().rev().take(1).collect();
            panic!("a credential is in the log: …{around}[HERE]");
        }
    }
}

async fn carry_credentials() {
    process_log::init(Some("trace"), LogFormat::Text).unwrap();
    let app = HttpApp::start().await;
    let pair = audited_pair(app.address).await;
    pair.orders.apply(&sections(&pair, &app)).await.unwrap();
    let fields = [
        ("authorization", format!("Bearer {CANARY}")),
        ("proxy-authorization", format!("Basic {CANARY}")),
        ("cookie", format!("session={CANARY}")),
        ("x-api-key", CANARY.to_owned()),
        ("x-forwarded-client-cert", format!("Hash={CANARY}")),
    ];
    let query = format!("/x?access_token={CANARY}");
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    for target in [query.as_str(), "/forged", "/status/500", "/%zz", "/admin/../../x"] {
        let mut one = http1.request("GET", target);
        let mut two = http2.request("POST", target);
        for (name, value) in &fields {
            one = one.header(*name, value);
            two = two.header(*name, value);
        }
        // Some are refused, and end their connection.
        if http1.send(one.body(empty()).unwrap()).await.is_err() || http1.sender.is_closed() {
            http1 = H1Client::connect(pair.outbound).await;
        }
        let trailers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, CANARY.parse().unwrap())]);
        drop(http2.send(two.body(with_trailers("body", trailers)).unwrap()).await);
    }
    // Heads that are refused before they are requests.
    for head in ["GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "GET /x\x01 HTTP/1.1\r\n", "GET /x HTTP/1.1\r\nx(: y\r\n"]
    {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("{head}authorization: Bearer {CANARY}\r\n\r\n")).await;
        client.until_ended().await;
    }
    assert!(app.seen().iter().any(|seen| seen.all("authorization") == [format!("Bearer {CANARY}")]));
    for (sidecar, name) in [(&pair.web, "web"), (&pair.orders, "orders")] {
        let records: String = sidecar.records().iter().map(|record| record.to_string()).collect();
        let connections = format!("{:?}", sidecar.connections().await);
        sidecar.shared.audit.flush();
        let audit = std::fs::read_to_string(pair.mesh.directory().join(format!("{name}.audit"))).unwrap();
        assert!(audit.matches("\"kind\":\"request\"").count() > 5, "{audit}");
        for text in [records, audit, sidecar.metrics(), connections] {
            assert!(!text.contains("canary-7f3a"), "{text}");
        }
    }
}

/// As [`Pair::http`], and what it may not say it may not say in its audit logs either.
async fn audited_pair(app: SocketAddr) -> Pair {
    let mesh = Mesh::start();
    let (inbound, outbound) = (ports::free(), ports::free());
    let audit = |name: &str| {
        let log = mesh.directory().join(format!("{name}.audit"));
        format!("audit: {{ to: {{ file: {} }} }}\n", log.display())
    };
    let allow = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let section = inbound_section(inbound, &app.to_string(), &allow) + &audit("orders");
    let orders = mesh.sidecar("orders", &section).await;
    let section = outbound_section(outbound, inbound, "protocol: http") + &audit("web");
    let web = mesh.sidecar("web", &section).await;
    Pair { web, orders, outbound, inbound, mesh }
}

fn sections(pair: &Pair, app: &HttpApp) -> String {
    let allow = format!("protocol: http\nallow: [{{ spiffe: {} }}]", WEB);
    inbound_section(pair.inbound, &app.address.to_string(), &allow)
}
