//! Nothing that we receive comes back to us, however our own addresses are spelled (THREATS NW-01), and what goes in a circle
//! through several sidecars ends (NW-11).

use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section, service_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawClient, Sidecar, ports};
use serde_json::Value;
use std::net::SocketAddr;

/// One refusal with the reason, and no second round.
async fn assert_refused_once(web: &Sidecar, what: &str) {
    let looped = |record: &Value| record["refusal"] == "loop";
    web.record(if what == "http" { "request" } else { "connection" }, looped).await;
    // Whatever went on would go on at once.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let records = web.records();
    assert_eq!(records.iter().filter(|record| looped(record)).count(), 1, "{records:#?}");
}

/// The other spellings are `policy::ourselves`' to tell, and a name's addresses the test's beside `endpoints_by_name`.
#[tokio::test]
async fn nw_01_a_service_at_our_own_outbound_listener_is_a_loop_in_every_spelling() {
    let (mesh, app) = (Mesh::start(), HttpApp::start().await);
    for protocol in ["http", "tcp"] {
        let (listen, fine) = (ports::free(), ports::free());
        let lines = format!("endpoints: [\"[::ffff:127.0.0.1]:{}\"]\ntls: off\nprotocol: {protocol}", listen.port());
        let web = mesh.sidecar("web", &(service_section(listen, &lines) + &plain_service(fine, app.address))).await;
        let mut client = RawClient::connect(listen).await;
        if protocol == "http" {
            assert_eq!(client.get("orders.shop.svc", "/x").await.status, 508);
        } else {
            assert!(client.until_ended().await.is_empty());
        }
        assert_refused_once(&web, protocol).await;
        assert_eq!(H1Client::connect(fine).await.get("/x").await.unwrap().status, 200);
    }
}

/// One more service, without TLS.
fn plain_service(listen: SocketAddr, endpoint: SocketAddr) -> String {
    format!("  - name: fine\n    listen: {listen}\n    endpoints: [\"{endpoint}\"]\n    tls: off\n    protocol: http\n")
}

/// The application of `orders` sends everything on to `web`'s sidecar, which has it back to `orders`.
#[tokio::test]
async fn nw_11_a_request_that_goes_in_a_circle_through_two_sidecars_ends() {
    let mesh = Mesh::start();
    let (inbound, outbound, fine) = (ports::free(), ports::free(), ports::free());
    let app = HttpApp::start().await;
    let port =
        inbound_section(inbound, &outbound.to_string(), &format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]"));
    let orders = mesh.sidecar("orders", &port).await;
    let plain = plain_service(fine, app.address);
    let web = mesh.sidecar("web", &(outbound_section(outbound, inbound, "protocol: http") + &plain)).await;
    for (http2, round) in [(false, 1), (true, 2)] {
        let status = match http2 {
            false => H1Client::named(outbound, "orders.shop.svc").await.get("/round").await.unwrap().status,
            true => H2Client::named(outbound, "orders.shop.svc").await.get("/round").await.unwrap().status,
        };
        assert_eq!(status, 508);
        // Sixteen times through both: not once more, and not without end.
        let (here, there) =
            (web.records_of("request", 17 * round).await, orders.records_of("request", 16 * round).await);
        let refused = |records: &[Value]| records.iter().filter(|record| record["refusal"] == "loop").count();
        assert_eq!((here.len(), there.len()), (17 * round, 16 * round));
        assert_eq!((refused(&here), refused(&there)), (round, 0), "{here:#?}");
    }
    // Healthy as before.
    assert_eq!(H1Client::connect(fine).await.get("/x").await.unwrap().status, 200);
    assert_eq!(app.last().all("x-postern-hops"), ["1"]);
}

/// An application that sends on what it does not know sends on the count; whoever begins anew begins at nothing.
#[tokio::test]
async fn nw_11_the_count_reaches_the_application_and_is_the_only_field_of_ours_that_does() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    let request = |count: &str| {
        format!(
            "GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\n{count}x-postern-decision: forged\r\nx-postern-other: 1\r\n\r\n"
        )
    };
    for (sent, seen) in [("", "2"), ("x-postern-hops: 5\r\n", "7"), ("X-Postern-Hops: 1, 9\r\n", "11")] {
        assert_eq!(client.response_to(&request(sent)).await.status, 200, "{sent}");
        let last = app.last();
        assert_eq!(last.all("x-postern-hops"), [seen], "{sent}");
        assert!(last.all("x-postern-decision").is_empty() && last.all("x-postern-other").is_empty());
    }
    for (sent, count) in [("x-postern-hops: 32\r\n", 1), ("x-postern-hops: one\r\n", 2)] {
        assert_eq!(client.response_to(&request(sent)).await.status, 508, "{sent}");
        let records = pair.web.records_of("request", 3 + count).await;
        assert_eq!(records.iter().filter(|record| record["refusal"] == "loop").count(), count, "{records:#?}");
    }
    assert_eq!(app.seen().len(), 3, "nothing of the refused ones arrived");
    assert_eq!(client.response_to(&request("")).await.status, 200);
}
