//! Conformance C-5, the bundle-endpoint client: real TLS and HTTP on loopback, polls in virtual time.

use super::c_05::encode;
use super::endpoint_scene::{
    Endpoint, POLLS, SERVER, Scene, authorities, document, failed, is, ok, partner_domain, redirect, tls, unavailable,
    web_certificate,
};
use super::fixtures::Ca;
use super::support::Follower;
use crate::identity::{Counters, IdentityStore, Snapshot, spawn};
use postern_config::TrustDomain;
use postern_config::identity::{BundleUrl, EndpointProfile, Identity};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds from one visit to the next.
fn gaps(visits: &[(Instant, String)]) -> Vec<f64> {
    visits.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect()
}

/// 300, 60 (clamped), 300, 300 s, each up to a tenth earlier but never under a minute.
#[tokio::test(start_paused = true)]
async fn b_13_polls_as_the_bundle_advises() {
    for (hint, least, most) in [
        (json!({"spiffe_refresh_hint": 0}), 270.0, 301.0),
        (json!({"spiffe_refresh_hint": 1}), 60.0, 61.0),
        (json!({"spiffe_refresh_hint": 300}), 270.0, 301.0),
        (json!({}), 270.0, 301.0),
        (json!({"spiffe_refresh_hint": u64::MAX}), 77_760.0, 86_401.0),
    ] {
        let mut scene = Scene::new("https://unused/");
        let body = ok(&document(&[&scene.partner], hint.clone()));
        let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [body]).await;
        scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
        let follower = scene.follow();
        let visits = endpoint.visited(4).await;
        assert!(gaps(&visits).iter().all(|gap| (least..most).contains(gap)), "{hint}: {:?}", gaps(&visits));
        assert!(is(&follower.store.load(), &[&scene.partner]));
    }
}

/// The endpoint has to be exactly whom the relationship names.
#[tokio::test(start_paused = true)]
async fn b_17_another_identity_of_the_same_domain_is_refused() {
    let mut scene = Scene::new("https://unused/");
    let other = tls(&scene.partner, "spiffe://partner.example/ns/web/sa/frontend");
    let endpoint = Endpoint::start(other, [ok(&document(&[&scene.partner], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("which is not the expected spiffe://partner.example/spire/server"), "{error}");
    assert_eq!(authorities(&follower.store.load()), None, "the bootstrap bundle vouches for nobody but the endpoint");
    assert_eq!(endpoint.visits(), [], "nothing was asked");
    endpoint.present(tls(&scene.partner, SERVER));
    follower.until_within(POLLS, "the right one", |snapshot| is(snapshot, &[&scene.partner])).await;
}

/// An authority of another trust domain does not vouch for the endpoint, whatever ID it signs.
#[tokio::test(start_paused = true)]
async fn an_endpoint_of_another_authority_is_refused() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("partner.example");
    let endpoint = Endpoint::start(tls(&stranger, SERVER), [ok(&document(&[&stranger], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    failed(&follower, 2).await;
    assert_eq!((authorities(&follower.store.load()), endpoint.visits().len()), (None, 0));
}

/// Each fetch believes the one before it (SPIFFE Federation §5.2.2.4), also after a restart.
#[tokio::test(start_paused = true)]
async fn b_18_follows_a_self_serving_rotation() {
    let mut scene = Scene::new("https://unused/");
    let (next, last) = (Ca::new("partner.example"), Ca::new("partner.example"));
    let endpoint =
        Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner, &next], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.keep = Some(scene.path("kept.json"));
    let follower = scene.follow();
    follower.until_within(POLLS, "both", |snapshot| is(snapshot, &[&scene.partner, &next])).await;
    endpoint.present(tls(&next, SERVER));
    endpoint.say([ok(&document(&[&next], json!({})))]);
    follower
        .until_within(POLLS, "the second fetch, signed by the fetched one alone", |snapshot| is(snapshot, &[&next]))
        .await;
    endpoint.say([ok(&document(&[&last], json!({"spiffe_sequence": 9})))]);
    follower.until_within(POLLS, "one that replaces it", |snapshot| is(snapshot, &[&last])).await;
    wait_for(&scene.path("kept.json"), &last).await;
    drop(follower);

    // The next process: the bootstrap bundle vouches no more, the kept one does.
    endpoint.present(tls(&last, SERVER));
    endpoint.say([unavailable()]);
    let follower = scene.follow();
    follower.until_within(POLLS, "the kept one, before any answer", |snapshot| is(snapshot, &[&last])).await;
    let error = failed(&follower, 1).await;
    assert!(error.contains("503"), "TLS was believed: {error}");
    endpoint.say([ok(&document(&[&last, &next], json!({"spiffe_sequence": 10})))]);
    follower.until_within(POLLS, "what the endpoint says now", |snapshot| is(snapshot, &[&last, &next])).await;
}

async fn wait_for(kept: &Path, ca: &Ca) {
    let wanted = encode(&ca.der);
    let waiting = async {
        while !std::fs::read_to_string(kept).is_ok_and(|text| text.contains(&wanted)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("kept");
}

/// How an operator mends a relationship that lost its trust: another bootstrap file. What the former led to is not
/// believed any more, nor is its sequence, and not after a restart either.
#[tokio::test(start_paused = true)]
async fn another_bootstrap_file_goes_before_what_was_fetched() {
    let mut scene = Scene::new("https://unused/");
    let first = ok(&document(&[&scene.partner], json!({"spiffe_sequence": 7})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [first]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.keep = Some(scene.path("kept.json"));
    let follower = scene.follow();
    follower.until_within(POLLS, "the first", |snapshot| is(snapshot, &[&scene.partner])).await;
    wait_for(&scene.path("kept.json"), &scene.partner).await;
    let anew = Ca::new("partner.example");
    endpoint.present(tls(&anew, SERVER));
    endpoint.say([ok(&document(&[&anew], json!({"spiffe_sequence": 1})))]);
    failed(&follower, 2).await;
    assert!(is(&follower.store.load(), &[&scene.partner]), "what was fetched stays");
    std::fs::write(scene.path("bootstrap.json"), document(&[&anew], json!({}))).unwrap();
    follower.until_within(POLLS, "mended", |snapshot| is(snapshot, &[&anew])).await;
    wait_for(&scene.path("kept.json"), &anew).await;
    drop(follower);

    let third = Ca::new("partner.example");
    std::fs::write(scene.path("bootstrap.json"), document(&[&third], json!({}))).unwrap();
    let follower = scene.follow();
    failed(&follower, 1).await;
    assert_eq!(authorities(&follower.store.load()), None, "what was kept goes back to another bootstrap bundle");
}

/// To `http`, to somebody else, to nowhere; and the next poll begins at the configured address again.
#[tokio::test(start_paused = true)]
async fn b_19_redirects_keep_the_rules_and_are_not_remembered() {
    let mut scene = Scene::new("https://unused/");
    let bundle = ok(&document(&[&scene.partner], json!({})));
    let elsewhere = Endpoint::start(tls(&scene.partner, "spiffe://partner.example/other"), [bundle.clone()]).await;
    let moved = Endpoint::start(tls(&scene.partner, SERVER), [bundle]).await;
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [redirect("http://127.0.0.1:9/bundle")]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/first")).unwrap();
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("has a scheme other than `https`"), "{error}");

    endpoint.say([redirect(&elsewhere.url("/"))]);
    let error = failed(&follower, 2).await;
    assert!(error.contains("the peer is spiffe://partner.example/other, which is not the expected"), "{error}");
    assert_eq!(elsewhere.visits(), []);

    endpoint.say([redirect("/first")]);
    let error = failed(&follower, 3).await;
    assert!(error.contains("more than 5 redirects"), "{error}");

    endpoint.say([redirect(&moved.url("/second?x=1"))]);
    follower.until_within(POLLS, "the bundle", |snapshot| is(snapshot, &[&scene.partner])).await;
    let polls = moved.visited(2).await;
    assert!(polls.iter().all(|(_, line)| line == "GET /second?x=1 HTTP/1.1"), "{polls:?}");
    assert!(endpoint.visits().iter().all(|(_, line)| line == "GET /first HTTP/1.1"));
    let asked: Vec<Instant> = endpoint.visits().iter().map(|(at, _)| *at).collect();
    assert!(polls.iter().all(|(at, _)| asked.iter().any(|asked| asked <= at && *at - *asked < Duration::from_secs(5))));
}

#[tokio::test(start_paused = true)]
async fn redirects_can_be_refused() {
    let mut scene = Scene::new("https://unused/");
    let moved = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner], json!({})))]).await;
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [redirect(&moved.url("/"))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.follow_redirects = false;
    let follower = scene.follow();
    let error = failed(&follower, 1).await;
    assert!(error.contains("`follow_redirects` is false"), "{error}");
    assert_eq!(moved.visits(), []);
}

/// After a failure, the next interval; `retry-after` and haste change nothing (SPIFFE Federation §6.2).
#[tokio::test(start_paused = true)]
async fn b_20_a_failing_endpoint_is_asked_again_at_the_next_interval() {
    let mut scene = Scene::new("https://unused/");
    let good = ok(&document(&[&scene.partner], json!({"spiffe_refresh_hint": 600})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [good, unavailable()]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    let visits = endpoint.visited(4).await;
    assert!(gaps(&visits).iter().all(|gap| (540.0..602.0).contains(gap)), "{:?}", gaps(&visits));
    assert!(is(&follower.store.load(), &[&scene.partner]), "what was fetched stays");
    let fetches = follower.counters.fetches()[&partner_domain()].clone();
    assert_eq!(fetches.succeeded, 1);
    assert!(fetches.last_error.is_some_and(|error| error.contains("503")));
}

/// What is not a whole, newer bundle changes nothing; an empty one takes the trust away.
#[tokio::test(start_paused = true)]
async fn bad_documents_change_nothing_and_an_empty_one_revokes() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("partner.example");
    let first = ok(&document(&[&scene.partner], json!({"spiffe_sequence": 5})));
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [first]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let follower = scene.follow();
    follower.until_within(POLLS, "the first", |snapshot| is(snapshot, &[&scene.partner])).await;
    let torn = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"keys\": []".to_owned();
    let unreadable = json!({"keys": [{"use": "x509-svid", "kty": "EC", "x5c": [encode(b"no certificate")]}]});
    let bad = [
        (ok("<html>"), "no SPIFFE bundle"),
        (ok("{}"), "no `keys`"),
        (torn, "cannot be read to its end"),
        (ok(&unreadable.to_string()), "none of the bundle's authorities can be read"),
        (ok(&document(&[&stranger], json!({"spiffe_sequence": 4}))), "older than the 5"),
    ];
    for (times, (answer, expected)) in (1..).zip(bad) {
        endpoint.say([answer]);
        let error = failed(&follower, times).await;
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(is(&follower.store.load(), &[&scene.partner]), "{expected}");
    }
    endpoint.say([ok(&document(&[], json!({"spiffe_sequence": 6})))]);
    follower.until_within(POLLS, "nobody vouches", |snapshot| is(snapshot, &[])).await;
}

/// SPIFFE Federation §6.3, and what the identity source says of that trust domain in the meantime.
#[tokio::test(start_paused = true)]
async fn a_relationship_that_ends_takes_its_bundle_with_it() {
    let mut scene = Scene::new("https://unused/");
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    let (store, counters) = (Arc::new(IdentityStore::default()), Arc::<Counters>::default());
    let source = spawn(&scene.config(), None, store.clone(), counters.clone()).unwrap();
    let follower = Follower::from_parts(store.clone(), counters.clone(), source);
    let both = |snapshot: &Snapshot| is(snapshot, &[&scene.partner]) && !snapshot.svids.is_empty();
    follower.until_within(POLLS, "both", both).await;
    // The source rotates our SVID; the fetched bundle is not its to remove.
    let before = follower.store.load().svids[0].serial.clone();
    let config = scene.config();
    let after = follower.until_within(POLLS, "rotated", |snapshot| snapshot.svids[0].serial != before).await;
    assert!(is(&after, &[&scene.partner]));

    drop(follower);
    let ended = Identity { federation: Vec::new(), ..config };
    let source = spawn(&ended, None, store.clone(), counters.clone()).unwrap();
    let follower = Follower::from_parts(store, counters, source);
    assert_eq!(authorities(&follower.store.load()), None, "at once");
    assert!(follower.counters.fetches().is_empty());
}

/// Our own trust domain's bundle comes from the source that gives our SVID, and from nowhere else.
#[tokio::test(start_paused = true)]
async fn our_own_trust_domain_is_not_fetched() {
    let mut scene = Scene::new("https://unused/");
    let stranger = Ca::new("example.org");
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&stranger], json!({})))]).await;
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.trust_domain = TrustDomain::parse("example.org").unwrap();
    let follower = scene.follow();
    follower.until_within(POLLS, "our SVID", |snapshot| !snapshot.svids.is_empty()).await;
    endpoint.visited(3).await;
    let snapshot = follower.store.load();
    let own = &snapshot.bundles[&TrustDomain::parse("example.org").unwrap()];
    assert_eq!(own.anchors.len(), 1);
    assert_eq!(own.anchors[0].der.as_ref(), scene.own.der);
}

/// A certificate of the Web PKI for the host, from the roots that are named; an SVID does not do (§5.2.1.2).
#[tokio::test(start_paused = true)]
async fn https_web_believes_the_web_pki_alone() {
    let mut scene = Scene::new("https://unused/");
    let (root, good) = web_certificate("127.0.0.1");
    let (_, of_other_host) = web_certificate("127.0.0.2");
    let endpoint = Endpoint::start(tls(&scene.partner, SERVER), [ok(&document(&[&scene.partner], json!({})))]).await;
    std::fs::write(scene.path("roots.pem"), root).unwrap();
    scene.federation.url = BundleUrl::parse(&endpoint.url("/")).unwrap();
    scene.federation.profile = EndpointProfile::HttpsWeb { roots: Some(scene.path("roots.pem")) };
    let follower = scene.follow();
    for (times, wrong) in [(1, tls(&scene.partner, SERVER)), (2, of_other_host)] {
        endpoint.present(wrong);
        let error = failed(&follower, times).await;
        assert!(error.contains("does not prove who it is"), "{error}");
    }
    assert_eq!((endpoint.visits(), authorities(&follower.store.load())), (Vec::new(), None));
    endpoint.present(good);
    follower.until_within(POLLS, "the right one", |snapshot| is(snapshot, &[&scene.partner])).await;
}
