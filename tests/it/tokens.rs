//! Tokens that callers bring, on the wire: the verdict, its reason in the record, and no token at the application.

use crate::oracle_jwt::cases::{self, AUDIENCE, World, all};
use http::HeaderValue;
use http_body_util::BodyExt;
use postern::identity::Snapshot;
use postern::token::{KeySet, Origin};
use postern_config::TrustDomain;
use postern_tests::client_http::{empty, with_trailers};
use postern_tests::mesh::{ORDERS, STRANGER, WEB, trust_domain};
use postern_tests::pair::{Pair, inbound_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Reply, eventually, within};
use serde_json::Value;
use spiffe::WorkloadApiClient;
use std::sync::Arc;
use std::time::SystemTime;

const LINES: &str = "\
protocol: http
allow: [{ name: mesh, trust_domain: shop.example }]
routes:
  - name: own
    match: { path: \"/own/**\" }
    audience: [spiffe://shop.example/ns/shop/sa/orders, \"https://orders.example\"]
    binding: peer
    token: { headers: { x-token-subject: sub, x-token-audience: aud, x-token-missing: nothing } }
  - name: passed-on
    match: { path: \"/passed-on/**\" }
    audience: spiffe://shop.example/ns/shop/sa/orders
    binding: { forwarders: [spiffe://shop.example/ns/web/sa/*] }
  - name: anybodys
    match: { path: \"/anybodys/**\" }
    audience: spiffe://shop.example/ns/shop/sa/orders
    binding: bearer
  - name: once
    match: { path: \"/once/**\" }
    audience: spiffe://shop.example/ns/shop/sa/orders
    binding: bearer
    token: { once: true }
  - name: rest
    match: {}
";

async fn pair(app: &HttpApp) -> Pair {
    let pair = Pair::with(Mesh::start(), app.address, LINES, "protocol: http").await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    pair
}

/// As the library of the SPIFFE project gets it.
async fn token(mesh: &Mesh, workload: &str, audience: &str) -> String {
    let socket = format!("unix:{}", mesh.provider.socket(workload).unwrap().display());
    let client = WorkloadApiClient::connect_to(socket).await.unwrap();
    within("a token", client.fetch_jwt_token([audience], None)).await.unwrap()
}

async fn get(client: &mut H2Client, path: &str, authorization: &[&str]) -> Reply {
    let mut request = client.request("GET", path);
    for value in authorization {
        request = request.header("authorization", *value);
    }
    client.send(request.body(empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn jw_20_a_token_is_checked_removed_and_recorded() {
    let app = HttpApp::start().await;
    let pair = pair(&app).await;
    let token = token(&pair.mesh, "web", ORDERS).await;
    let bearer = format!("Bearer {token}");
    let mut client = H2Client::connect(pair.outbound).await;
    let request = client
        .request("GET", "/own/a")
        .header("authorization", &bearer)
        .header("x-token-subject", "forged")
        .header("x_token.subject", "forged")
        .header("x-token-missing", "forged");
    let reply = client.send(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = app.last();
    assert!(seen.all("authorization").is_empty());
    assert_eq!(seen.all("x-token-subject"), [WEB]);
    assert_eq!(seen.all("x-token-audience"), [ORDERS]);
    assert!(seen.all("x-token-missing").is_empty() && seen.all("x_token.subject").is_empty());
    let record = &pair.orders.records_of("request", 1).await[0];
    assert_eq!(record["token.subject"], WEB);
    assert_eq!(record["token.audience"], ORDERS);
    assert_eq!(record["token.hash.sha256"].as_str().map(str::len), Some(64));

    // Shown once more it is good once more (JWT-SVID §7.1), over HTTP/1 too.
    let mut http1 = H1Client::connect(pair.outbound).await;
    let request = http1.request("GET", "/own/b").header("authorization", bearer.to_uppercase().replace("BEARER", "x"));
    assert_eq!(http1.send(request.body(empty()).unwrap()).await.unwrap().status, 401, "of another scheme");
    let request = http1.request("GET", "/own/b").header("authorization", &bearer);
    assert_eq!(http1.send(request.body(empty()).unwrap()).await.unwrap().status, 200);
    // Where no token is wanted, `Authorization` is the application's.
    assert_eq!(get(&mut client, "/else", &["Basic YTpi"]).await.status, 200);
    assert_eq!(app.last().all("authorization"), ["Basic YTpi"]);

    let secret = token.rsplit('.').next().unwrap();
    for sidecar in [&pair.web, &pair.orders] {
        let records: String = sidecar.records().iter().map(Value::to_string).collect();
        assert!(!records.contains(secret) && !sidecar.metrics().contains(secret), "a token in what a sidecar says");
    }
}

#[tokio::test]
async fn jw_20_each_refusal_has_its_reason_and_nothing_reaches_the_application() {
    let app = HttpApp::start().await;
    let pair = pair(&app).await;
    let own = format!("Bearer {}", token(&pair.mesh, "web", ORDERS).await);
    let captured = format!("Bearer {}", token(&pair.mesh, "stranger", ORDERS).await);
    let elsewhere = format!("Bearer {}", token(&pair.mesh, "web", "spiffe://shop.example/ns/shop/sa/payments").await);
    let unknown = format!("Bearer {}", token(&pair.mesh, "guest", ORDERS).await);
    let broken = format!("{}A", &own[..own.len() - 2]);
    let missing = ("token_missing", 401, "Bearer");
    let invalid = ("token_invalid", 401, "Bearer error=\"invalid_token\"");
    let cases = [
        ("/own/a", vec![], missing, "no `Authorization`"),
        ("/own/a", vec!["Basic YTpi"], missing, "another scheme"),
        ("/own/a", vec!["Bearer"], missing, "no token"),
        ("/own/a", vec!["Bearer not.a.token"], invalid, "header_encoding"),
        ("/own/a", vec![broken.as_str()], invalid, "signature_"),
        ("/own/a", vec![elsewhere.as_str()], invalid, "audience_wrong"),
        ("/own/a", vec![unknown.as_str()], invalid, "no_bundle"),
        ("/own/a", vec![own.as_str(), own.as_str()], invalid, "two fields"),
        ("/own/a", vec![captured.as_str()], ("token_not_bound", 403, ""), STRANGER),
        // JW-21: a token that nobody would have to show has to be good as well.
        ("/anybodys/a", vec![elsewhere.as_str()], invalid, "audience_wrong"),
    ];
    let mut client = H2Client::connect(pair.outbound).await;
    for (index, (path, authorization, (refusal, status, challenge), detail)) in cases.iter().enumerate() {
        let reply = get(&mut client, path, authorization).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("www-authenticate")),
            (*status, *challenge),
            "{index} {detail}"
        );
        let record = &pair.orders.records_of("request", index + 1).await[index];
        assert_eq!(record["refusal"], *refusal, "{record:#}");
        assert!(record["refusal.detail"].as_str().is_some_and(|it| it.contains(detail)), "{detail}: {record:#}");
    }
    assert!(app.seen().is_empty());
    // Both who showed it and whose it is are known.
    let record = &pair.orders.records_of("request", cases.len()).await[8];
    assert_eq!((&record["peer.spiffe_id"], &record["token.subject"]), (&Value::from(WEB), &Value::from(STRANGER)));
    // A forwarder may, and so may whoever has it, where that is spelt out.
    for path in ["/passed-on/a", "/anybodys/a"] {
        assert_eq!(get(&mut client, path, &[&captured]).await.status, 200, "{path}");
    }
    let grpc = client.request("POST", "/own/grpc").header("content-type", "application/grpc").header("te", "trailers");
    let reply = client.send(grpc.body(empty()).unwrap()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "16"));
}

#[tokio::test]
async fn jw_17_a_token_ends_with_its_key_also_when_it_is_remembered() {
    let app = HttpApp::start().await;
    let pair = pair(&app).await;
    let bearer = format!("Bearer {}", token(&pair.mesh, "web", ORDERS).await);
    let mut client = H2Client::connect(pair.outbound).await;
    assert_eq!(get(&mut client, "/own/a", &[&bearer]).await.status, 200);
    // The keys alone change: certificates stay trusted.
    let before = pair.orders.shared.identity.load().token_keys.clone();
    pair.orders.shared.identity.publish(|snapshot| Snapshot { token_keys: Arc::default(), ..snapshot.clone() });
    let reply = eventually_status(&mut client, "/own/a", &bearer, 401).await;
    assert_eq!(reply.header("www-authenticate"), "Bearer error=\"invalid_token\"");
    pair.orders.shared.identity.publish(|snapshot| Snapshot { token_keys: before, ..snapshot.clone() });
    eventually_status(&mut client, "/own/a", &bearer, 200).await;
    // And the provider's own rotation: what the old authority signed is no longer believed.
    let shop = trust_domain("shop.example");
    pair.mesh.provider.publish_new_authority(&shop).unwrap();
    pair.mesh.provider.reissue(&shop).unwrap();
    let newer = format!("Bearer {}", token(&pair.mesh, "web", ORDERS).await);
    eventually_status(&mut client, "/own/a", &newer, 200).await;
    assert_eq!(get(&mut client, "/own/a", &[&bearer]).await.status, 200, "both are published");
    pair.mesh.provider.remove_old_authorities(&shop).unwrap();
    let mut later = H2Client::connect(pair.outbound).await;
    eventually_status(&mut later, "/own/a", &bearer, 401).await;
    eventually_status(&mut later, "/own/a", &newer, 200).await;
}

async fn eventually_status(client: &mut H2Client, path: &str, bearer: &str, status: u16) -> Reply {
    let mut last = None;
    for _ in 0..200 {
        let reply = get(client, path, &[bearer]).await;
        if reply.status == status {
            return reply;
        }
        last = Some(reply);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never {status}: {last:?}");
}

#[tokio::test]
async fn a_stream_whose_token_would_not_do_any_more_is_cut_and_no_other() {
    let app = HttpApp::start().await;
    let lines = |audience: &str| {
        format!(
            "protocol: http\nallow: [{{ trust_domain: shop.example }}]\nroutes:\n  - {{ name: s, match: {{ path: /stream }}, \
             audience: [{audience}], binding: peer }}\n  - {{ name: rest, match: {{}} }}"
        )
    };
    let mesh = Mesh::start();
    let pair = Pair::with(mesh, app.address, &lines("a, b"), "protocol: http").await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    let mut streams = Vec::new();
    for audience in ["a", "b"] {
        let bearer = format!("Bearer {}", token(&pair.mesh, "web", audience).await);
        let mut client = H2Client::connect(pair.outbound).await;
        let request = client.request("GET", "/stream").header("authorization", bearer).body(empty()).unwrap();
        let mut body = within("a head", client.sender.send_request(request)).await.unwrap().into_body();
        assert!(within("a chunk", body.frame()).await.unwrap().is_ok());
        streams.push((client, body));
    }
    pair.orders.apply(&inbound_section(pair.inbound, &app.address.to_string(), &lines("b"))).await.unwrap();
    let (_b, mut of_b) = streams.pop().unwrap();
    let (_a, of_a) = streams.pop().unwrap();
    assert!(within("the one for `a` ends", of_a.collect()).await.is_err());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), of_b.frame()).await.is_err());
    // Keys that go cut it too.
    pair.orders.shared.identity.publish(|snapshot| Snapshot { token_keys: Arc::default(), ..snapshot.clone() });
    assert!(within("the one for `b` ends", of_b.collect()).await.is_err());
    let record = pair.orders.record("request", |record| record["end"] == "authority_removed").await;
    assert_eq!(record["token.audience"], "b");
}

/// The conformance cases and rows of the catalogue, through a running sidecar.
#[tokio::test]
async fn jw_01_to_16_the_conformance_cases_end_alike_in_a_running_sidecar() {
    let app = HttpApp::start().await;
    let lines = format!(
        "protocol: http\nallow: [{{ trust_domain: shop.example }}]\nroutes:\n  - {{ match: {{ path: /t }}, audience: {AUDIENCE}, \
         binding: bearer }}"
    );
    let pair = Pair::with(Mesh::start(), app.address, &lines, "protocol: http").await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let cases = all(&World::new(now));
    assert!(cases.len() > 100, "{}", cases.len());
    let mut client = H2Client::connect(pair.outbound).await;
    let (mut records, mut accepted) = (0, 0);
    for case in &cases {
        let Ok(value) = HeaderValue::try_from(format!("Bearer {}", case.token)) else { continue };
        // A value that ends with a blank is no field of HTTP, and heads have a bound: both are refused before (HD-25, HD-23).
        let is_of_its_second = case.name.ends_with("in 31 s");
        if is_of_its_second || case.token.len() > 16 * 1024 || case.token.trim() != case.token || case.token.is_empty()
        {
            continue;
        }
        let origin = if case.spiffe_bundles { Origin::SpiffeBundle } else { Origin::WorkloadApi };
        let keys = case.bundles.iter().filter_map(|(name, document)| {
            let keys = KeySet::parse(document.to_string().as_bytes(), origin).ok()?;
            Some((TrustDomain::parse(name).unwrap(), Arc::new(keys)))
        });
        let keys = Arc::new(keys.collect());
        pair.orders.shared.identity.publish(|snapshot| Snapshot { token_keys: keys, ..snapshot.clone() });
        let request = client.request("GET", "/t").header("authorization", value).body(empty()).unwrap();
        let reply = client.send(request).await.unwrap();
        records += 1;
        match case.verdict {
            cases::Accepted => {
                assert_eq!(reply.status, 200, "{}", case.name);
                accepted += 1;
            }
            cases::Refused(code) => {
                assert_eq!(reply.status, 401, "{}", case.name);
                let record = &pair.orders.records_of("request", records).await[records - 1];
                let detail = record["refusal.detail"].as_str().unwrap_or_default();
                assert!(detail.starts_with(code), "{}: {detail}, expected {code}", case.name);
            }
        }
    }
    assert_eq!(app.seen().len(), accepted);
    assert!(records > 100, "{records}");
}

#[tokio::test]
async fn jw_22_where_a_token_is_taken_once_a_second_time_is_refused() {
    let app = HttpApp::start().await;
    let pair = pair(&app).await;
    let mut client = H2Client::connect(pair.outbound).await;
    for round in 0..2 {
        let bearer = format!("Bearer {}", token(&pair.mesh, "web", ORDERS).await);
        assert_eq!(get(&mut client, "/once/a", &[&bearer]).await.status, 200);
        for _ in 0..3 {
            let reply = get(&mut client, "/once/b", &[&bearer]).await;
            assert_eq!(
                (reply.status.as_u16(), reply.header("www-authenticate")),
                (401, "Bearer error=\"invalid_token\"")
            );
        }
        // Elsewhere it is as good as before.
        assert_eq!(get(&mut client, "/own/a", &[&bearer]).await.status, 200, "round {round}");
    }
    let record = pair.orders.record("request", |record| record["url.path"] == "/once/b").await;
    assert_eq!((&record["refusal"], &record["token.subject"]), (&Value::from("token_replayed"), &Value::from(WEB)));
    assert_eq!(app.seen().len(), 4);
}

#[tokio::test]
async fn jw_17_a_request_that_waits_for_its_answer_when_its_key_goes_is_told_that_trust_ended() {
    let app = HttpApp::start().await;
    let lines = "protocol: http\nallow: [{ trust_domain: shop.example }]\nroutes:\n  - { match: {}, audience: a, binding: peer }";
    let pair = Pair::with(Mesh::start(), app.address, lines, "protocol: http").await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    let bearer = format!("Bearer {}", token(&pair.mesh, "web", "a").await);
    let mut client = H2Client::connect(pair.outbound).await;
    let request = client.request("GET", "/hang").header("authorization", bearer).body(empty()).unwrap();
    let waiting = tokio::spawn(async move { client.send(request).await.unwrap().status.as_u16() });
    eventually("the application has it", || (!app.seen().is_empty()).then_some(())).await;
    pair.orders.shared.identity.publish(|snapshot| Snapshot { token_keys: Arc::default(), ..snapshot.clone() });
    assert_eq!(within("an answer", waiting).await.unwrap(), 503);
    assert_eq!(pair.orders.records_of("request", 1).await[0]["refusal"], "trust_ended");
}

#[tokio::test]
async fn hd_10_no_trailer_passes_for_a_claim() {
    let app = HttpApp::start().await;
    let pair = pair(&app).await;
    let bearer = format!("Bearer {}", token(&pair.mesh, "web", ORDERS).await);
    let mut client = H2Client::connect(pair.outbound).await;
    let trailers = [("x-token-subject", "forged"), ("x_token_missing", "forged"), ("x-checksum", "1")];
    let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
    let request = client.request("POST", "/own/a").header("authorization", bearer);
    let reply =
        client.send(request.body(with_trailers("body", trailers.into_iter().collect())).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = app.last();
    assert_eq!(seen.all("x-token-subject"), [WEB]);
    let names: Vec<_> = seen.trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-checksum"]);
}
