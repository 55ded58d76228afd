//! Tokens that a sidecar attaches for its application: whose, for whom, and what becomes of requests when there is none.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use postern::identity::Snapshot;
use postern_tests::client_http::{empty, with_trailers};
use postern_tests::mesh::{ORDERS, STRANGER, WEB, trust_domain};
use postern_tests::pair::{Pair, inbound_section, service_section};
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, RawClient, Reply, eventually, ports, within};
use serde_json::Value;
use std::time::Duration;

/// A port that takes tokens for itself alone, of their owners alone.
const CHECKED: &str = "\
protocol: http
allow: [{ trust_domain: shop.example }]
routes:
  - { name: own, match: {}, audience: spiffe://shop.example/ns/shop/sa/orders, binding: peer }
";
/// One that leaves tokens to the application.
const UNCHECKED: &str = "protocol: http\nallow: [{ trust_domain: shop.example }]";

async fn pair(mesh: Mesh, app: &HttpApp, port: &str, credential: &str) -> Pair {
    let pair = Pair::with(mesh, app.address, port, &format!("protocol: http\n{credential}")).await;
    pair.orders.until_identity("keys for tokens", |snapshot| !snapshot.token_keys.is_empty()).await;
    pair
}

fn claims(authorization: &str) -> Value {
    let payload =
        authorization.strip_prefix("Bearer ").expect("a bearer token").split('.').nth(1).expect("three parts");
    let mut bits = Vec::new();
    for byte in payload.bytes() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let value = alphabet.iter().position(|digit| *digit == byte).expect("base64url");
        bits.extend((0..6).rev().map(|bit| (value >> bit & 1) as u8));
    }
    let bytes: Vec<u8> = bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
    serde_json::from_slice(&bytes).expect("JSON")
}

async fn get(client: &mut H2Client, path: &str) -> Reply {
    within("an answer", client.get(path)).await.unwrap()
}

#[tokio::test]
async fn hd_20_neither_application_sees_the_token_that_goes_between_their_sidecars() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, CHECKED, "credential: jwt_svid").await;
    let (mut http2, mut http1) = (H2Client::connect(pair.outbound).await, H1Client::connect(pair.outbound).await);
    for number in 0..5 {
        assert_eq!(get(&mut http2, &format!("/two/{number}")).await.status, 200);
        assert_eq!(http1.get(&format!("/one/{number}")).await.unwrap().status, 200);
    }
    assert_eq!(app.seen().len(), 10);
    assert!(app.seen().iter().all(|seen| seen.all("authorization").is_empty()));
    let record = &pair.orders.records_of("request", 10).await[9];
    assert_eq!((record["token.subject"].as_str(), record["token.audience"].as_str()), (Some(WEB), Some(ORDERS)));
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"success\"}"), 1.0);

    // Another workload's sidecar that sends what it captured is refused; with its own it would have been served.
    let token = pair.web.shared.own_tokens.get(&pair.web.shared.identity.load().svids[0].id, ORDERS).await.unwrap();
    let outbound = ports::free();
    let lines = format!("endpoints: [\"{}\"]\nidentity: {ORDERS}\nprotocol: http", pair.inbound);
    let stranger = pair.mesh.sidecar("stranger", &service_section(outbound, &lines)).await;
    let mut thief = H1Client::connect(outbound).await;
    let request = thief.request("GET", "/stolen").header("authorization", &token).body(empty()).unwrap();
    assert_eq!(thief.send(request).await.unwrap().status, 403);
    assert_eq!(pair.orders.record("request", |it| it["url.path"] == "/stolen").await["refusal"], "token_not_bound");
    assert_eq!(app.seen().len(), 10);
    let secret = token.to_str().unwrap().rsplit('.').next().unwrap();
    for sidecar in [&pair.web, &pair.orders, &stranger] {
        let said: String = sidecar.records().iter().map(Value::to_string).collect();
        assert!(!said.contains(secret) && !sidecar.metrics().contains(secret), "a token in what a sidecar says");
    }
}

#[tokio::test]
async fn jw_24_whom_a_token_is_for_is_the_proven_peer_or_the_file_and_never_the_application() {
    let app = HttpApp::start().await;
    for (credential, audience) in [
        ("credential: jwt_svid", ORDERS),
        ("credential: { jwt_svid: { audience: \"https://orders.example\" } }", "https://orders.example"),
    ] {
        let pair = pair(Mesh::start(), &app, UNCHECKED, credential).await;
        let mut client = H1Client::named(pair.outbound, "evil.example").await;
        let request = client
            .request("GET", "/a")
            .header("authorization", "Bearer of-the-application")
            .header("x-aud", "evil")
            .header("x-audience", "spiffe://shop.example/evil");
        assert_eq!(client.send(request.body(empty()).unwrap()).await.unwrap().status, 200);
        let sent = app.last().all("authorization");
        assert_eq!(sent.len(), 1, "one, and ours");
        let claims = claims(&sent[0]);
        assert_eq!((claims["sub"].as_str(), claims["aud"][0].as_str()), (Some(WEB), Some(audience)));
        assert_eq!(claims["aud"].as_array().map(Vec::len), Some(1));
        assert_eq!(pair.web.metric("postern_app_tokens_removed_total"), 1.0);
        // A redirect goes to the application as it came, and nobody follows it with a token.
        let seen = app.seen().len();
        assert_eq!(client.get("/status/302").await.unwrap().status, 302);
        assert_eq!(app.seen().len(), seen + 1);
    }
}

#[tokio::test]
async fn hd_16_whatever_the_application_writes_there_one_authorization_goes_out_and_it_is_ours() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, UNCHECKED, "credential: jwt_svid").await;
    let trailers: HeaderMap = [(AUTHORIZATION, "Bearer c"), (HeaderName::from_static("x-checksum"), "1")]
        .into_iter()
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect();
    let mut http2 = H2Client::connect(pair.outbound).await;
    let request = http2.request("POST", "/two");
    let request = request.header("authorization", "Bearer a").header("authorization", "Basic Yg==");
    let request = request.header("proxy-authorization", "Bearer b").body(with_trailers("body", trailers)).unwrap();
    assert_eq!(http2.send(request).await.unwrap().status, 200);
    let seen = app.last();
    assert_eq!(seen.trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-checksum"]);
    let mut http1 = H1Client::connect(pair.outbound).await;
    let request = http1.request("GET", "/one").header("authorization", "Bearer a").header("authorization", "Bearer b");
    let request = request.body(empty()).unwrap();
    assert_eq!(http1.send(request).await.unwrap().status, 200);
    for seen in app.seen() {
        let sent = seen.all("authorization");
        assert_eq!((sent.len(), claims(&sent[0])["sub"].as_str()), (1, Some(WEB)));
        assert!(seen.all("proxy-authorization").is_empty());
    }
    assert_eq!(pair.web.metric("postern_app_tokens_removed_total"), 2.0, "requests");
}

#[tokio::test]
async fn hd_18_who_is_not_expected_gets_no_token_and_none_is_asked_for() {
    let app = HttpApp::start().await;
    let mesh = Mesh::start();
    let (inbound, outbound) = (ports::free(), ports::free());
    let stranger = mesh.sidecar("stranger", &inbound_section(inbound, &app.address.to_string(), UNCHECKED)).await;
    let lines = format!("endpoints: [\"{inbound}\"]\nidentity: {ORDERS}\nprotocol: http\ncredential: jwt_svid");
    let web = mesh.sidecar("web", &service_section(outbound, &lines)).await;
    assert_eq!(H1Client::connect(outbound).await.get("/one").await.unwrap().status, 502);
    assert_eq!(get(&mut H2Client::connect(outbound).await, "/two").await.status, 502);
    assert!(app.seen().is_empty() && stranger.records_of("request", 0).await.is_empty());
    assert!(web.shared.own_tokens.held().is_empty(), "none is asked for before it is known for whom");
}

/// Whom a request reaches is known when it is sent: at the second attempt too.
#[tokio::test]
async fn jw_24_each_attempt_takes_the_token_for_the_peer_that_it_goes_to() {
    let (one, other) = (HttpApp::start().await, HttpApp::start().await);
    let mesh = Mesh::start();
    let (at_orders, at_stranger, outbound) = (ports::free(), ports::free(), ports::free());
    let orders = mesh.sidecar("orders", &inbound_section(at_orders, &one.address.to_string(), UNCHECKED)).await;
    let _stranger =
        mesh.sidecar("stranger", &inbound_section(at_stranger, &other.address.to_string(), UNCHECKED)).await;
    let lines = format!(
        "endpoints: [\"{at_orders}\", \"{at_stranger}\"]\nidentity: [\"{ORDERS}\", \"{STRANGER}\"]\n\
         protocol: http\ncredential: jwt_svid"
    );
    let _web = mesh.sidecar("web", &service_section(outbound, &lines)).await;
    let (mut http1, mut http2) = (H1Client::connect(outbound).await, H2Client::connect(outbound).await);
    let are_for = |app: &HttpApp, audience: &str| {
        let sent = app.seen().iter().map(|seen| seen.all("authorization")).collect::<Vec<_>>();
        assert!(sent.iter().all(|sent| sent.len() == 1 && claims(&sent[0])["aud"][0] == audience));
        sent.len()
    };
    for number in 0..20 {
        assert_eq!(http1.get(&format!("/one/{number}")).await.unwrap().status, 200);
        assert_eq!(get(&mut http2, &format!("/two/{number}")).await.status, 200);
    }
    let (of_orders, of_stranger) = (are_for(&one, ORDERS), are_for(&other, STRANGER));
    assert!(of_orders > 0 && of_stranger > 0, "{of_orders} and {of_stranger}");
    assert_eq!(of_orders + of_stranger, 40);
    orders.stop().await;
    for number in 0..20 {
        assert_eq!(http1.get(&format!("/one/{number}")).await.unwrap().status, 200);
        assert_eq!(get(&mut http2, &format!("/two/{number}")).await.status, 200);
    }
    assert_eq!((are_for(&one, ORDERS), are_for(&other, STRANGER)), (of_orders, of_stranger + 40));
}

/// Without waiting for half of its life, in which nobody would believe it.
#[tokio::test]
async fn a_token_whose_key_is_removed_is_not_sent_again() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, CHECKED, "credential: jwt_svid").await;
    let domain = trust_domain("shop.example");
    let keys_at_both = async |count: usize| {
        for sidecar in [&pair.web, &pair.orders] {
            let keys = |snapshot: &Snapshot| snapshot.token_keys.get(&domain).map_or(0, |set| set.keys().len());
            sidecar.until_identity("keys", |snapshot| keys(snapshot) == count).await;
        }
    };
    keys_at_both(1).await;
    assert_eq!(H1Client::connect(pair.outbound).await.get("/old").await.unwrap().status, 200);
    pair.mesh.provider.publish_new_authority(&domain).unwrap();
    pair.mesh.provider.reissue(&domain).unwrap();
    keys_at_both(2).await;
    assert_eq!(H1Client::connect(pair.outbound).await.get("/staged").await.unwrap().status, 200);
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"success\"}"), 1.0);
    pair.mesh.provider.remove_old_authorities(&domain).unwrap();
    keys_at_both(1).await;
    let is_gone = || pair.web.shared.own_tokens.held()[0].expires_at.is_none().then_some(());
    eventually("the token is let go of", is_gone).await;
    assert_eq!(H1Client::connect(pair.outbound).await.get("/new").await.unwrap().status, 200);
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"success\"}"), 2.0);
}

#[tokio::test]
async fn an_application_that_must_have_no_credential_is_told_so() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, CHECKED, "credential: { jwt_svid: { app_token: refuse } }").await;
    let mut client = H1Client::connect(pair.outbound).await;
    let request = client.request("GET", "/a").header("authorization", "Basic YTpi").body(empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 400);
    assert_eq!(pair.web.records_of("request", 1).await[0]["refusal"], "app_token_refused");
    assert!(app.seen().is_empty());
    assert_eq!(client.get("/b").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_service_without_a_credential_leaves_authorization_alone() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, UNCHECKED, "").await;
    let mut client = H1Client::connect(pair.outbound).await;
    let request = client.request("GET", "/a").header("authorization", "Basic YTpi").body(empty()).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 200);
    assert_eq!(app.last().all("authorization"), ["Basic YTpi"]);
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"success\"}"), 0.0);
}

#[tokio::test]
async fn jw_26_a_thousand_requests_at_once_are_one_fetch() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, CHECKED, "credential: jwt_svid").await;
    let mut requests = Vec::new();
    for _ in 0..10 {
        let client = H2Client::connect(pair.outbound).await;
        for number in 0..100 {
            let request = client.request("GET", &format!("/burst/{number}")).body(empty()).unwrap();
            let mut sender = client.sender.clone();
            requests.push(tokio::spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                let status = response.status();
                response.into_body().collect().await.unwrap();
                status.as_u16()
            }));
        }
    }
    for request in requests {
        assert_eq!(within("an answer", request).await.unwrap(), 200);
    }
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"success\"}"), 1.0);
    assert_eq!(pair.web.metric("postern_token_fetches_total{result=\"failure\"}"), 0.0);
}

#[tokio::test]
async fn jw_26_f_32_a_token_outlives_its_agent_until_shortly_before_its_end_and_then_nothing_is_sent() {
    let app = HttpApp::start().await;
    // Tokens live as long as SVIDs do, up to five minutes.
    let pair = pair(Mesh::with_svid_ttl(Duration::from_secs(12)), &app, CHECKED, "credential: jwt_svid").await;
    let mut client = H2Client::connect(pair.outbound).await;
    assert_eq!(get(&mut client, "/first").await.status, 200);
    pair.mesh.provider.stop();
    let held = || pair.web.shared.own_tokens.held();
    let ends_at = held()[0].expires_at.unwrap();
    let mut served = 0;
    let refused = loop {
        let reply = get(&mut client, "/without-agent").await;
        if reply.status == 200 {
            served += 1;
            assert!(std::time::SystemTime::now() < ends_at, "a token was sent after its end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else {
            break reply;
        }
    };
    // 12 s less a tenth; past half of it the agent was asked, and was not there.
    assert!(served > 100, "{served}");
    assert_eq!(refused.status, 503);
    let seen = app.seen().len();
    let record = pair.web.record("request", |record| record["refusal"].is_string()).await;
    let reason = record["refusal"].as_str().unwrap();
    assert!(["token_unavailable", "identity_expired"].contains(&reason), "{record:#}");
    assert!(pair.web.metric("postern_token_fetches_total{result=\"failure\"}") >= 1.0);
    assert_eq!(get(&mut client, "/refused").await.status, 503);
    assert_eq!(app.seen().len(), seen, "nothing was sent");
    pair.mesh.provider.restart().unwrap();
    pair.mesh.provider.rotate_svids().unwrap();
    for sidecar in [&pair.web, &pair.orders] {
        sidecar.until_ready().await;
    }
    let mut last = None;
    for _ in 0..200 {
        last = Some(get(&mut H2Client::connect(pair.outbound).await, "/again").await.status);
        if last.is_some_and(|status| status == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never again: {last:?}");
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_reason_is_named() {
    let app = HttpApp::start().await;
    let pair = pair(Mesh::start(), &app, CHECKED, "credential: jwt_svid").await;
    // The identity stays until it expires; the agent has gone before the first token was asked for.
    pair.mesh.provider.stop();
    let mut client = H1Client::connect(pair.outbound).await;
    assert_eq!(client.get("/a").await.unwrap().status, 503);
    let record = &pair.web.records_of("request", 1).await[0];
    assert_eq!(record["refusal"], "token_unavailable");
    assert!(record["refusal.detail"].as_str().is_some_and(|it| it.contains("cannot connect")), "{record:#}");
    assert!(app.seen().is_empty());
    assert!(pair.web.metric("postern_tokens_missed_total") >= 1.0);
    let failed = eventually("the failure is held", || pair.web.shared.own_tokens.held().pop()).await;
    assert!(failed.last_error.is_some() && failed.expires_at.is_none());
}

/// A tunnel would carry the application's own.
#[tokio::test]
async fn connect_to_a_service_with_a_credential_is_refused() {
    let app = HttpApp::start().await;
    let (shared, mesh) = (ports::free(), Mesh::start());
    let pair = pair(mesh, &app, UNCHECKED, "credential: jwt_svid").await;
    let service = format!(
        "outbound:\n  listen: {shared}\n  services:\n  - {{ name: orders, hosts: [orders.shop.svc], endpoints: [\"{}\"], identity: {ORDERS}, \
         protocol: http, credential: jwt_svid }}",
        pair.inbound
    );
    pair.web.apply(&service).await.unwrap();
    let mut proxy = RawClient::connect(shared).await;
    proxy.send("CONNECT orders.shop.svc:80 HTTP/1.1\r\nhost: orders.shop.svc:80\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&proxy.until_ended().await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(H1Client::named(shared, "orders.shop.svc").await.get("/a").await.unwrap().status, 200);
}
