//! A burst of callers at once: nobody is refused for it (PEERS D2, `limits.handshakes`).

use postern_tests::mesh::WEB;
use postern_tests::pair::{inbound_section, outbound_section};
use postern_tests::{HttpApp, Mesh, RawClient, ports};
use std::collections::HashMap;

#[tokio::test]
async fn ds_03_callers_at_once_take_turns_to_make_connections() {
    const CALLERS: usize = 900;
    let (mesh, app, door, listen) = (Mesh::start(), HttpApp::start().await, ports::free(), ports::free());
    let port = format!("protocol: http\nallow: [{{ spiffe: {WEB} }}]");
    let section = inbound_section(door, &app.address.to_string(), &port);
    // It is about turns, and not about how many handshakes this machine makes in a second.
    let patient = "workers: 1\ntimeouts: { handshake: 60s, connect: 60s, connect_app: 60s }";
    // Fewer than callers, more than twice the turns: our side of a handshake is over before the peer's is.
    let orders = mesh.sidecar("orders", &format!("{patient}\nlimits: {{ handshakes: 600 }}\n{section}")).await;
    let web = mesh.sidecar("web", &format!("{patient}\n{}", outbound_section(listen, door, "protocol: http"))).await;
    let callers =
        (0..CALLERS).map(|_| async move { RawClient::connect(listen).await.get("orders.shop.svc", "/x").await.status });
    let mut answers: HashMap<u16, usize> = HashMap::new();
    for status in futures_util::future::join_all(callers).await {
        *answers.entry(status).or_default() += 1;
    }
    assert_eq!(answers, HashMap::from([(200, CALLERS)]));
    // Whoever waited for a turn was often given a connection that another one needed no more.
    let made = web.metric("postern_handshake_duration_seconds_count{direction=\"outbound\",name=\"orders\"}");
    assert!(made <= CALLERS as f64, "{made} connections");
    drop(orders);
}
