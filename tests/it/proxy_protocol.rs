//! What others say a caller is: the PROXY protocol is not spoken, whoever begins with it (THREATS NW-10), and the word that
//! the Workload API wants of its callers is nobody's to say through us (NW-09).

use postern_tests::client_http::empty;
use postern_tests::mesh::WEB;
use postern_tests::pair::inbound_section;
use postern_tests::{H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, eventually, ports};

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Headers of both versions, whole, cut short, and with a length that is a lie; each before a request.
fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let v2 = |command_family_length: &[u8], rest: &[u8]| [V2_SIGNATURE, command_family_length, rest].concat();
    let request = b"GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n";
    [
        ("v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n".to_vec()),
        ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v1, cut short", b"PROXY TCP4 192.0.2.1".to_vec()),
        ("v2", v2(&[0x21, 0x11, 0, 12], &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 80])),
        ("v2, local", v2(&[0x20, 0, 0, 0], &[])),
        (
            "v2, a TLV beyond its end",
            v2(&[0x21, 0x11, 0, 15], &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 80, 4, 0xff, 0xff]),
        ),
        ("v2, cut short", v2(&[0x21, 0x11], &[])),
        ("v2, longer than anything", v2(&[0x21, 0x11, 0xff, 0xff], &[])),
    ]
    .map(|(name, header)| (name, [header.as_slice(), request].concat()))
    .to_vec()
}

/// Nothing at the application, one record with the reason.
async fn assert_refused(orders: &Sidecar, app: &RawApp, to: std::net::SocketAddr, reasons: &[&str]) {
    for (name, bytes) in headers() {
        let before = refusals(orders).len();
        let mut client = RawClient::connect(to).await;
        client.send(&bytes).await;
        let told = client.until_ended_or_response().await;
        assert!(!told.starts_with(b"HTTP/1.1 200"), "{name}: {}", String::from_utf8_lossy(&told));
        drop(client);
        eventually(name, || (refusals(orders).len() > before).then_some(())).await;
        let new = refusals(orders).split_off(before);
        assert_eq!(new.len(), 1, "{name}: {new:?}");
        assert!(reasons.contains(&new[0].as_str()), "{name}: {new:?}");
        app.assert_nothing_arrived();
    }
}

fn refusals(sidecar: &Sidecar) -> Vec<String> {
    let records = sidecar.records();
    records.iter().filter_map(|record| record["refusal"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn nw_10_a_proxy_header_is_refused_in_plaintext() {
    for (tls, reason) in [("strict", "plaintext_refused"), ("off", "bad_request")] {
        let (mesh, app, listen) = (Mesh::start(), RawApp::ok().await, ports::free());
        let who = if tls == "off" { "anonymous: true".to_owned() } else { format!("spiffe: {WEB}") };
        let lines = format!("protocol: http\ntls: {tls}\nallow: [{{ {who} }}]");
        let orders = mesh.sidecar("orders", &inbound_section(listen, &app.address.to_string(), &lines)).await;
        assert_refused(&orders, &app, listen, &[reason, "protocol_refused"]).await;
        if tls == "off" {
            assert_eq!(RawClient::connect(listen).await.get("orders.shop.svc", "/x").await.status, 200);
        }
    }
}

/// Inside the TLS of a peer that may call.
#[tokio::test]
async fn nw_10_a_proxy_header_of_a_peer_is_refused() {
    let app = RawApp::ok().await;
    let pair = Pair::raw_to_http(app.address).await;
    assert_refused(&pair.orders, &app, pair.outbound, &["bad_request", "protocol_refused"]).await;
    assert_eq!(RawClient::connect(pair.outbound).await.get("orders.shop.svc", "/x").await.status, 200);
}

#[tokio::test]
async fn nw_09_the_workload_apis_header_is_not_passed_on() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    for name in ["workload.spiffe.io", "Workload.SPIFFE.io", "workload-spiffe-io"] {
        let request = format!("POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nhost: x\r\n{name}: true\r\n\r\n");
        assert_eq!(client.response_to(&request).await.status, 200);
        assert!(app.last().all(&name.to_ascii_lowercase()).is_empty(), "{name}");
    }
    let mut client = H2Client::connect(pair.outbound).await;
    let request = client.request("GET", "/x").header("workload.spiffe.io", "true").body(empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 200);
    assert!(app.last().all("workload.spiffe.io").is_empty());
}
