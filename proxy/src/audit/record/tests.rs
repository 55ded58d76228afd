use super::{Decision, Event, GAP, Outcome, Process, Resumed, write_closed, write_missing};
use crate::admin::tests::svid;
use crate::capture::Remote;
use crate::identity::AuthorityId;
use crate::refusal::Refusal;
use crate::telemetry::Direction;
use crate::telemetry::record::{
    ConnectionFacts, ConnectionRecord, Outcome as Ended, RequestRecord, TokenFacts, Upstream,
};
use crate::tls::Peer;
use postern_config::{Mode, SpiffeId, TrustDomain};
use proptest::prelude::*;
use std::time::{Duration, SystemTime};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_309_323 + seconds)
}

fn peer() -> Peer {
    Peer {
        id: SpiffeId::parse("spiffe://shop.example/web").unwrap(),
        chain: Vec::new(),
        fingerprint: [1; 32],
        chain_fingerprint: [0xab; 32],
        serial: "0c".to_owned(),
        not_after: at(60),
        authority: AuthorityId([0xcd; 32]),
        issued: Vec::new(),
        generation: 3,
        rendered: Default::default(),
    }
}

fn facts(name: &str) -> ConnectionFacts<'_> {
    ConnectionFacts {
        time: Some(at(0)),
        direction: Direction::Inbound,
        name,
        connection: 7,
        remote: Some(Remote::Ip("[2001:db8::1]:4711".parse().unwrap())),
        carrier: Some(5),
        protocol: Some("http"),
        ..ConnectionFacts::default()
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut body = b"what was there".to_vec();
    write(&mut body);
    String::from_utf8(body).unwrap()
}

#[test]
fn a_decision_reads_as_documented() {
    let (peer, own) = (peer(), svid("orders", at(30)));
    let decision =
        Decision { outcome: Outcome::Refused, mode: Mode::Enforce, policy: "d1", peer: Some(&peer), own: Some(&own) };
    let record = RequestRecord {
        connection: facts("orders"),
        decision: "0badcafe-7",
        method: "DELETE",
        path: "/orders/17",
        host: Some("orders.shop.svc"),
        http_version: Some("2"),
        status: Some(403),
        grpc_status: None,
        caller: None,
        token: Some(TokenFacts {
            subject: "spiffe://shop.example/web",
            issuer: None,
            audience: &["spiffe://shop.example/orders".to_owned()],
            id_hash: &[0xcd; 32],
        }),
        authorizer: None,
        outcome: Ended { route: Some("read-orders"), refusal: Some(Refusal::NotAllowed), ..Ended::default() },
        upstream: Upstream { address: Some("127.0.0.1:8080"), identity: None },
    };
    let ab = "ab".repeat(32);
    let cd = "cd".repeat(32);
    let expected = format!(
        "{}{}{}{}{}{}{}",
        r#""kind":"request","time":"2026-11-22T01:02:03.000000Z","outcome":"refused","mode":"enforce","#,
        r#""decision":"0badcafe-7","direction":"inbound","listener":"orders","connection":7,"#,
        r#""network.peer.address":"2001:db8::1","network.peer.port":4711,"tunnel.connection":5,"network.protocol.name":"http","#,
        format_args!(
            r#""peer.spiffe_id":"spiffe://shop.example/web","peer.trust_domain":"shop.example","peer.chain.sha256":"{ab}","peer.serial":"0c","peer.not_after":"2026-11-22T01:03:03.000000Z","peer.authority":"{cd}","#
        ),
        r#""bundle.generation":3,"own.spiffe_id":"spiffe://shop.example/orders","own.serial":"0a","own.not_after":"2026-11-22T01:02:33.000000Z","#,
        r#""policy.digest":"d1","http.request.method":"DELETE","url.path":"/orders/17","#,
        r#""server.address":"orders.shop.svc","http.response.status_code":403,"token.subject":"spiffe://shop.example/web","token.audience":"spiffe://shop.example/orders","token.hash.sha256":"CDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCD","route":"read-orders","refusal":"not_allowed","upstream.address":"127.0.0.1:8080""#,
    );
    assert_eq!(text(|body| decision.write_request(&record, body)), expected);
}

#[test]
fn a_connection_of_nobody_has_no_peer() {
    let decision = Decision { outcome: Outcome::Cut, mode: Mode::Enforce, policy: "d1", peer: None, own: None };
    let record =
        ConnectionRecord { connection: facts("raw"), decision: Some("0badcafe-7"), ..ConnectionRecord::default() };
    let body = text(|body| decision.write_connection(&record, body));
    assert!(body.starts_with(r#""kind":"connection","#) && body.contains(r#""outcome":"cut""#), "{body}");
    assert!(
        !body.contains("peer.") || body.matches("peer.").count() == body.matches("network.peer.").count(),
        "{body}"
    );
}

#[test]
fn events_and_the_log_s_own_records_read_as_documented() {
    let own = svid("orders", at(30));
    let trust_domain = TrustDomain::parse("partner.example").unwrap();
    for (event, expected) in [
        (
            Event::SvidRotated { svid: &own, serial_before: "09" },
            r#""event":"svid_rotated","own.spiffe_id":"spiffe://shop.example/orders","own.serial":"0a","own.not_after":"2026-11-22T01:02:33.000000Z","own.serial_before":"09""#,
        ),
        (Event::BundleWithdrawn(&trust_domain), r#""event":"bundle_withdrawn","trust_domain":"partner.example""#),
        (Event::SourceLost { why: "gone" }, r#""event":"source_lost","why":"gone""#),
        (
            Event::PolicyLoaded { digest: "d2", generation: 2 },
            r#""event":"policy_loaded","policy.digest":"d2","policy.generation":2"#,
        ),
        (
            Event::LeverUsed { lever: "log", detail: Some("debug"), uid: Some(1000) },
            r#""event":"lever_used","lever":"log","detail":"debug","user":1000"#,
        ),
    ] {
        let start = r#""kind":"event","time":"2026-11-22T01:02:03.000000Z","#;
        assert_eq!(text(|body| event.write(body, at(0))), format!("{start}{expected}"));
    }
    let process = Process { boot: 0xabc, policy: "d1", denials: true, allows_percent: 1 };
    let opened = text(|body| process.write_opened(body, at(0)));
    assert!(
        opened.contains(
            r#""boot":"00000abc","policy.digest":"d1","decisions.denials":true,"decisions.allows_percent":1"#
        )
    );
    let resumed = Resumed { was_closed: false, torn: Some((&[0xab; 32], 12)), verified: Some((1, 4)) };
    let resumed = text(|body| process.write_resumed(&resumed, body, at(0)));
    assert!(resumed.ends_with(&format!(
        r#""was_closed":false,"torn.sha256":"{}","torn.bytes":12,"verified.first":1,"verified.last":4"#,
        "ab".repeat(32)
    )));
    let gap = text(|body| write_missing(GAP, 3, at(1), body, at(2)));
    let expected =
        r#""kind":"gap","time":"2026-11-22T01:02:05.000000Z","count":3,"since":"2026-11-22T01:02:04.000000Z""#;
    assert_eq!(gap, expected);
    assert_eq!(text(|body| write_closed(body, at(0))), r#""kind":"closed","time":"2026-11-22T01:02:03.000000Z""#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn hd_22_whatever_a_peer_says_is_one_line_of_bounded_length(
        path in any::<String>(), host in any::<String>(), method in any::<String>(), detail in any::<String>(),
    ) {
        let path = path.repeat(100);
        let decision = Decision { outcome: Outcome::Allowed, mode: Mode::Enforce, policy: "d1", peer: None, own: None };
        let record = RequestRecord {
            connection: facts("orders"),
            method: &method,
            path: &path,
            host: Some(&host),
            outcome: Ended { refusal_detail: Some(&detail), ..Ended::default() },
            ..RequestRecord::default()
        };
        let body = text(|body| decision.write_request(&record, body));
        prop_assert!(!body.chars().any(char::is_control) && body.len() < 32 << 10);
        let members: serde_json::Value = serde_json::from_str(&format!("{{{body}}}")).unwrap();
        prop_assert_eq!(&members["outcome"], "allowed");
    }
}
