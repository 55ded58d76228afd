//! The provider over simulated time: what it renews by itself, and when.

use super::validate::validate;
use super::*;
use crate::identity::message::check_svids;
use crate::identity::proto::ValidateJwtsvidRequest;
use crate::tls::{Role, Strictness, still_trusted, verify_svid};
use crate::token::{self, Expectation, KeySet, Origin, Presenter, Trust};
use futures_util::{FutureExt, StreamExt};

const SVID_TTL: Duration = Duration::from_secs(3600);
const CA_TTL: Duration = Duration::from_secs(24 * 3600);

fn message_now(provider: &DevProvider) -> X509svidResponse {
    let mut stream = provider.workload("web").unwrap().open_svids().unwrap();
    stream.next().now_or_never().flatten().expect("a first message").unwrap()
}

/// Three lives of a CA in steps of a quarter of an SVID's. At every step the SVID is valid with the bundle of the same
/// moment, and the one of the step before is still trusted with it: a rotation by itself loses nothing either.
#[test]
fn renews_svids_and_authorities_before_they_end_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
    let provider = DevProvider::start(DevConfig {
        state_dir: directory.path().to_owned(),
        trust_domains: vec![trust_domain.clone()],
        workloads: vec![DevWorkload {
            name: "web".to_owned(),
            socket: None,
            svids: vec![(id, None)],
            federates_with: Vec::new(),
        }],
        svid_ttl: SVID_TTL,
        ca_ttl: CA_TTL,
    })
    .unwrap();
    // Without its own clock: this test is the only one that says what time it is.
    provider.stop();
    let start = SystemTime::now();
    let (mut leaves, mut authorities) = (Vec::new(), Vec::new());
    let mut before = None;
    for step in 0..(3 * CA_TTL.as_secs() / (SVID_TTL.as_secs() / 4)) {
        let now = start + (SVID_TTL / 4) * step as u32;
        provider.shared.maintain(now).unwrap();
        let update = check_svids(message_now(&provider), now, Strictness::Strict)
            .unwrap_or_else(|fault| panic!("step {step}: {fault:?}"));
        let svid = &update.svids[0];
        assert!(svid.not_after > now + SVID_TTL / 8, "step {step}: too close to its end");
        assert!(update.bundles[&trust_domain].anchors.len() <= 2, "step {step}");
        if let Some(peer) = &before {
            still_trusted(peer, &update.bundles, Role::Client, now, Strictness::Strict)
                .unwrap_or_else(|error| panic!("step {step}: {error}"));
        }
        before = verify_svid(&svid.certified.cert, &update.bundles, 0, Role::Client, now, Strictness::Strict).ok();
        leaves.push(svid.fingerprint);
        authorities.push(svid.authority);
    }
    leaves.dedup();
    authorities.dedup();
    // Half of an hour each for three days, and half of a day each for three.
    assert!((140..=170).contains(&leaves.len()), "{} leaves", leaves.len());
    assert!((5..=7).contains(&authorities.len()), "{} authorities", authorities.len());
}

/// As FetchJWTSVID and FetchJWTBundles give them: what is issued is believed, and no longer than its authority is published.
#[test]
fn issues_tokens_that_are_believed_while_their_authority_is() {
    let directory = tempfile::tempdir().unwrap();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
    let config = DevConfig {
        state_dir: directory.path().to_owned(),
        trust_domains: vec![trust_domain.clone()],
        workloads: vec![DevWorkload {
            name: "web".to_owned(),
            socket: None,
            svids: vec![(id.clone(), None)],
            federates_with: Vec::new(),
        }],
        svid_ttl: SVID_TTL,
        ca_ttl: CA_TTL,
    };
    let issue = |provider: &DevProvider, now| {
        let authorities = provider.shared.authorities();
        authorities[&trust_domain].issue_token(&id, &["svc".to_owned()], Duration::from_secs(300), now).unwrap()
    };
    let judge = |provider: &DevProvider, token: &str, now| {
        let mut stream = provider.workload("web").unwrap().open_token_keys().unwrap();
        let message = stream.next().now_or_never().flatten().expect("a first message").unwrap();
        let keys = KeySet::parse(&message.bundles["spiffe://example.org"], Origin::WorkloadApi).unwrap();
        assert!(keys.ignored().is_empty());
        let bundles = HashMap::from([(trust_domain.clone(), Arc::new(keys))]);
        let expected = Expectation {
            audiences: &["svc".to_owned()],
            leeway: Duration::ZERO,
            presenter: Presenter::Certificate([0; 32]),
        };
        token::judge(token.as_bytes(), &Trust::TrustDomains(&bundles), &expected, now).map_err(|problem| problem.code())
    };
    let provider = DevProvider::start(config.clone()).unwrap();
    let now = SystemTime::now();
    let token = issue(&provider, now);
    let verified = judge(&provider, &token, now).unwrap();
    assert_eq!(verified.subject.as_str(), id.as_str());
    assert_eq!(judge(&provider, &token, now + Duration::from_secs(301)).unwrap_err(), "expired");
    assert_ne!(issue(&provider, now), token, "each has an id of its own");
    let validate = |audience: &str, at| {
        let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.clone() };
        validate(provider.workload("web").unwrap(), &request, at)
    };
    let answer = validate("svc", now).unwrap();
    assert_eq!((answer.spiffe_id.as_str(), answer.claims.unwrap().fields.contains_key("exp")), (id.as_str(), true));
    for (audience, at, words) in [
        ("other", now, "audience"),
        ("", now, "audience must be specified"),
        ("svc", now + Duration::from_secs(600), "expired"),
    ] {
        let status = validate(audience, at).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(words), "{status}");
    }
    // Keys are kept: a token outlives the provider.
    drop(provider);
    let provider = DevProvider::start(config).unwrap();
    judge(&provider, &token, now).unwrap();
    provider.publish_new_authority(&trust_domain).unwrap();
    provider.reissue(&trust_domain).unwrap();
    judge(&provider, &token, now).unwrap();
    judge(&provider, &issue(&provider, now), now).unwrap();
    provider.remove_old_authorities(&trust_domain).unwrap();
    assert_eq!(judge(&provider, &token, now).unwrap_err(), "key_unknown");
    judge(&provider, &issue(&provider, now), now).unwrap();
}

/// Files that were written before there were tokens get a key for them.
#[test]
fn old_state_gets_a_key_for_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let now = SystemTime::now();
    let open = || TrustDomainAuthorities::open(directory.path(), trust_domain.clone(), CA_TTL, now).unwrap();
    let bundle = open().bundle();
    let file = directory.path().join("example.org.json");
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    stored["authorities"][0].as_object_mut().unwrap().remove("token_key").unwrap();
    std::fs::write(&file, stored.to_string()).unwrap();
    let opened = open();
    assert_eq!(opened.bundle(), bundle);
    let keys = opened.token_keys();
    assert_eq!(open().token_keys(), keys, "it is kept from then on");
}
