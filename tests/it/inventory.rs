//! `GET /inventory` and `postern inventory`: what is held and seen is there, and what nobody registered is named.

use postern::cli::inventory::{InventoryArgs, run};
use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::{H1Client, HttpApp, Pair};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

async fn inventory(pair: &Pair) -> Value {
    let (status, body) = pair.orders.ask("GET", "/inventory").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn what_is_held_and_seen_is_in_the_inventory_and_compared_with_what_is_registered() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    assert_eq!(inventory(&pair).await["peers"], json!([]));
    let mut client = H1Client::connect(pair.outbound).await;
    assert_eq!(client.get("/a").await.unwrap().status, 200);

    let found = inventory(&pair).await;
    let peer = &found["peers"][0];
    assert_eq!((&peer["spiffe_id"], &peer["connections"]), (&WEB.into(), &1.into()), "{found:#}");
    let sha256: String = pair.web.own_fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(peer["sha256"], sha256);
    assert!(peer["expires_in_seconds"].as_i64().unwrap() > 0 && !peer["serial"].as_str().unwrap().is_empty());
    assert_eq!(found["seen"][0]["spiffe_id"], WEB);
    assert_eq!(found["identities"]["svids"][0]["spiffe_id"], ORDERS);
    let digest = found["policy"]["digest"].as_str().unwrap();
    assert!(pair.orders.metrics().contains(&format!("policy_digest=\"{digest}\"")), "the one that a fleet compares");
    assert!(!found.to_string().contains("PRIVATE KEY"));

    let entry = |id: &str| {
        let path = id.strip_prefix("spiffe://shop.example").unwrap();
        json!({ "spiffe_id": { "trust_domain": "shop.example", "path": path }, "expires_at": "0" })
    };
    let file = pair.mesh.directory().join("entries.json");
    for (entries, expected) in [
        (vec![entry(ORDERS), entry(WEB), entry("spiffe://shop.example/unused")], ExitCode::SUCCESS),
        (vec![entry(ORDERS)], ExitCode::FAILURE),
        (vec![entry(WEB)], ExitCode::FAILURE),
    ] {
        std::fs::write(&file, json!({ "entries": entries }).to_string()).unwrap();
        let code = ask(&pair, Some(file.clone())).await;
        // Exit codes have no equality.
        assert_eq!(format!("{code:?}"), format!("{expected:?}"), "{entries:?}");
    }
    assert_eq!(format!("{:?}", ask(&pair, None).await), format!("{:?}", ExitCode::SUCCESS));
}

async fn ask(pair: &Pair, against: Option<PathBuf>) -> ExitCode {
    run(InventoryArgs { admin: pair.orders.admin.clone(), json: false, against, with: Vec::new() }).await.unwrap()
}
