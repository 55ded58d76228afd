use super::{
    AuthorizerFacts, ConnectionFacts, ConnectionRecord, Outcome, RequestRecord, TlsFacts, TokenFacts, Upstream,
};
use crate::capture::Remote;
use crate::refusal::Refusal;
use crate::telemetry::Direction;
use crate::telemetry::json::Rendered;
use postern_config::SpiffeId;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut line = Vec::new();
    write(&mut line);
    String::from_utf8(line).unwrap()
}

#[test]
fn a_request_record_reads_as_documented() {
    let (web, orders, rendered) = (id("web"), id("orders"), Rendered::default());
    let record = RequestRecord {
        connection: ConnectionFacts {
            rendered: Some(&rendered),
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_309_323)),
            direction: Direction::Inbound,
            name: "orders",
            connection: 7,
            remote: Some(Remote::Ip("[2001:db8::1]:4711".parse().unwrap())),
            socket: None,
            caller_uid: None,
            original: Some("[2001:db8::2]:8080".parse().unwrap()),
            carrier: Some(5),
            protocol: Some("http"),
            tls: Some(TlsFacts {
                version: Some("1.3"),
                cipher: Some("TLS_AES_128_GCM_SHA256"),
                curve: Some("X25519MLKEM768"),
            }),
            peer: Some(&web),
            peer_fingerprint: Some(&[0xab; 32]),
            own: Some(&orders),
            identity_generation: Some(3),
            policy_generation: Some(1),
            bytes_received: 12,
            bytes_sent: 3456,
            duration: Duration::from_micros(1042),
        },
        decision: "4f2a90d1c3b5e677",
        method: "GET",
        path: "/orders/17",
        host: Some("orders.shop.svc"),
        http_version: Some("2"),
        status: Some(200),
        grpc_status: None,
        caller: None,
        token: Some(TokenFacts {
            subject: "spiffe://shop.example/web",
            issuer: Some("https://issuer.example"),
            audience: &["a".to_owned(), "b".to_owned()],
            id_hash: &[0xcd; 32],
        }),
        authorizer: Some(AuthorizerFacts { name: "opa", verdict: "allowed", duration: Duration::from_micros(970) }),
        outcome: Outcome { rule: Some("web"), route: Some("read-orders"), ..Outcome::default() },
        upstream: Upstream { address: Some("127.0.0.1:8080"), identity: None },
    };
    let expected = concat!(
        r#"{"time":"2026-11-22T01:02:03.000000Z","kind":"request","direction":"inbound","listener":"orders","#,
        r#""connection":7,"network.peer.address":"2001:db8::1","network.peer.port":4711,"#,
        r#""capture.destination":"[2001:db8::2]:8080","tunnel.connection":5,"network.protocol.name":"http","#,
        r#""peer.spiffe_id":"spiffe://shop.example/web","#,
        r#""tls.client.hash.sha256":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","#,
        r#""own.spiffe_id":"spiffe://shop.example/orders","identity.generation":3,"policy.generation":1,"#,
        r#""tls.protocol.version":"1.3","tls.cipher":"TLS_AES_128_GCM_SHA256","tls.curve":"X25519MLKEM768","#,
        r#""decision":"4f2a90d1c3b5e677","http.request.method":"GET","url.path":"/orders/17","#,
        r#""server.address":"orders.shop.svc","network.protocol.version":"2","http.response.status_code":200,"#,
        r#""token.subject":"spiffe://shop.example/web","token.issuer":"https://issuer.example","token.audience":"a b","#,
        r#""token.hash.sha256":"CDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCDCD","#,
        r#""authorizer":"opa","authorizer.verdict":"allowed","authorizer.duration_ms":0.970,"#,
        r#""rule":"web","route":"read-orders","upstream.address":"127.0.0.1:8080","#,
        r#""http.request.body.size":12,"http.response.body.size":3456,"duration_ms":1.042}"#,
        "\n"
    );
    for _first_and_then_as_it_was_kept in 0..2 {
        assert_eq!(text(|line| record.write(line)), expected);
    }
}

#[test]
fn a_refused_connection_record_reads_as_documented() {
    let record = ConnectionRecord {
        connection: ConnectionFacts {
            time: Some(SystemTime::UNIX_EPOCH),
            direction: Direction::Outbound,
            name: "payments",
            connection: 8,
            remote: Some(Remote::Unix),
            socket: Some(Path::new("/run/postern/payments.sock")),
            caller_uid: Some(1000),
            protocol: Some("tcp"),
            ..ConnectionFacts::default()
        },
        decision: Some("d"),
        outcome: Outcome {
            refusal: Some(Refusal::WrongUpstreamIdentity),
            refusal_detail: Some("spiffe://shop.example/evil is not spiffe://shop.example/payments"),
            remote_refusal: Some("not_allowed"),
            end: Some("refused"),
            ..Outcome::default()
        },
        upstream: Upstream { address: Some("10.0.0.7:8443"), identity: Some(&id("evil")) },
        ..ConnectionRecord::default()
    };
    let expected = concat!(
        r#"{"time":"1970-01-01T00:00:00.000000Z","kind":"connection","direction":"outbound","service":"payments","#,
        r#""connection":8,"network.transport":"unix","network.local.address":"/run/postern/payments.sock","#,
        r#""process.user.id":1000,"network.protocol.name":"tcp","decision":"d","refusal":"wrong_upstream_identity","#,
        r#""refusal.detail":"spiffe://shop.example/evil is not spiffe://shop.example/payments","#,
        r#""refusal.remote":"not_allowed","end":"refused","upstream.address":"10.0.0.7:8443","#,
        r#""upstream.spiffe_id":"spiffe://shop.example/evil","bytes.received":0,"bytes.sent":0,"duration_ms":0.000}"#,
        "\n"
    );
    assert_eq!(text(|line| record.write(line)), expected);
}

/// THREATS HD-22: whatever a peer sends, one event is one line, bounded, and no field of ours can be forged.
#[test]
fn hd_22_peers_cannot_inject_lines_or_fields() {
    let evil = "\n{\"decision\":\"allow\"}\u{1b}[2J\"".repeat(3000);
    let record = RequestRecord {
        decision: "mine",
        method: &evil,
        path: &evil,
        host: Some(&evil),
        outcome: Outcome { refusal_detail: Some(&evil), remote_refusal: Some(&evil), ..Outcome::default() },
        ..RequestRecord::default()
    };
    let line = text(|line| record.write(line));
    assert_eq!(line.matches('\n').count(), 1);
    assert!(!line.contains('\u{1b}'));
    assert!(line.len() < 6 * 2048 + 1024, "{} bytes", line.len());
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["decision"], "mine");
    assert_eq!(value["url.path"].as_str().unwrap().chars().filter(|c| *c == '…').count(), 1);
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.example/{name}")).unwrap()
}
