//! F-07: messages with something wrong in them, two thousand times.

use super::fixtures::{Ca, federated, message};
use super::support::Follower;
use crate::identity::Snapshot;
use crate::identity::message::check_svids;
use crate::identity::proto::X509svidResponse;
use crate::identity::publisher::Publisher;
use crate::tls::{Role, Strictness, verify_svid};
use fastrand::Rng;
use prost::Message;
use std::time::SystemTime;

const MUTATIONS: usize = 2000;

/// Never a panic, and whatever is applied is an identity that works with the bundles beside it.
#[test]
fn mutated_messages_never_replace_a_good_state_by_a_bad_one() {
    let (ca, foreign) = (Ca::new("example.org"), Ca::new("other.org"));
    let good = federated(
        message([ca.svid("spiffe://example.org/a"), ca.svid("spiffe://example.org/b")]),
        "other.org",
        &foreign.der,
    );
    let encoded = good.encode_to_vec();
    let publisher = Publisher { store: Default::default(), counters: Default::default() };
    let now = SystemTime::now();
    publisher.apply(check_svids(good, now, Strictness::Strict).unwrap_or_else(|fault| panic!("{fault}")), now);

    let mut random = Rng::with_seed(7);
    let (mut undecodable, mut discarded, mut applied) = (0, 0, 0);
    for round in 0..MUTATIONS {
        let decoded = if round % 2 == 0 {
            X509svidResponse::decode(mutate(&encoded, &mut random).as_slice())
        } else {
            X509svidResponse::decode(encoded.as_slice()).map(|message| mutate_field(message, &mut random))
        };
        let Ok(message) = decoded else {
            undecodable += 1;
            continue;
        };
        match check_svids(message, now, Strictness::Strict) {
            Ok(update) => {
                publisher.apply(update, now);
                applied += 1;
                require_working(&publisher.store.load(), now, round);
            }
            Err(fault) => {
                publisher.discard(&fault);
                discarded += 1;
            }
        }
    }
    require_working(&publisher.store.load(), now, MUTATIONS);
    println!("{undecodable} undecodable, {discarded} discarded, {applied} applied");
    assert!(discarded > MUTATIONS / 10 && applied > 0, "the mutations are too tame or too wild");
}

fn require_working(snapshot: &Snapshot, now: SystemTime, round: usize) {
    assert!(!snapshot.svids.is_empty(), "round {round}");
    for svid in &snapshot.svids {
        svid.certified.keys_match().unwrap_or_else(|error| panic!("round {round}: {error}"));
        for role in [Role::Client, Role::Server] {
            let verified = verify_svid(&svid.certified.cert, &snapshot.bundles, 0, role, now, Strictness::Strict);
            let peer = verified.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(peer.id, svid.id, "round {round}");
        }
    }
}

/// One to three changes of the kinds that faults and attackers make.
fn mutate(original: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _change in 0..random.usize(1..=3) {
        let at = random.usize(..bytes.len());
        let to = (at + random.usize(1..64)).min(bytes.len());
        match random.u8(..6) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(at..to)),
            4 => bytes.extend_from_within(at..to),
            _ => bytes.insert(at, random.u8(..)),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// The frame is whole and one field is not: what a protocol buffer's lengths would have caught otherwise.
fn mutate_field(mut message: X509svidResponse, random: &mut Rng) -> X509svidResponse {
    let index = random.usize(..message.svids.len());
    let svid = &mut message.svids[index];
    let field = match random.u8(..4) {
        0 => &mut svid.x509_svid,
        1 => &mut svid.x509_svid_key,
        2 => &mut svid.bundle,
        _ => message.federated_bundles.values_mut().next().expect("one federated bundle"),
    };
    *field = mutate(field, random);
    message
}

/// The same through the wire: the embedded provider sends nonsense, and then the truth.
#[tokio::test]
async fn nonsense_on_the_wire_is_followed_by_the_truth() {
    let directory = tempfile::tempdir().unwrap();
    let provider = super::dev_provider::provider(directory.path());
    let follower = Follower::of_socket(&provider.socket("db").unwrap());
    let first = follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    let stranger = Ca::new("example.org");
    provider.push_raw("db", message([])).unwrap();
    let mut mixed = stranger.svid("spiffe://example.org/db");
    mixed.x509_svid_key = stranger.svid("spiffe://example.org/db").x509_svid_key;
    provider.push_raw("db", message([mixed])).unwrap();
    provider.rotate_svid("db").unwrap();
    let next = follower.until("the truth", |snapshot| snapshot.svids[0].serial != first.svids[0].serial).await;
    assert_eq!(next.svids[0].authority, first.svids[0].authority);
    assert_eq!(follower.counters.discarded_in_all(), 2);
}
