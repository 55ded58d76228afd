//! Name queries and the answers of other nameservers: what we write can be read, belongs to its query, and is in bounds.

use postern::dns::answer;
use postern::dns::wire::{Code, Query, Reply};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A query, and behind a length byte a message that claims to answer it.
pub(super) fn check(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (question, message) = rest.split_at(usize::from(*length).min(rest.len()));
    let query = match Query::read(question) {
        Ok(query) => query,
        Err(unanswerable) => {
            if let Some(answer) = unanswerable.code().and_then(|code| answer::unreadable(question, code)) {
                assert_eq!(answer.get(..2), question.get(..2), "the id is the query's");
                assert!(answer[2] & 0x80 != 0 && answer.len() <= 512, "it is an answer");
            }
            return;
        }
    };
    let forwarded = query.forwarded(0x1234);
    let again = Query::read(&forwarded).expect("what we ask can be read");
    assert_eq!(
        (again.id, &again.question, again.kind, again.class),
        (0x1234, &query.question, query.kind, query.class)
    );
    assert_eq!(again.host(), query.host());
    if let Some(host) = query.host() {
        assert!(host.len() <= 253 && host == host.to_ascii_lowercase() && !host.contains(".."), "{host:?}");
    }
    own_answers(&query);
    let Some(id) = message.first_chunk() else { return };
    if let Ok(reply) = Reply::read(message, &query, u16::from_be_bytes(*id)) {
        for age in [Duration::ZERO, Duration::from_secs(7200)] {
            let passed_on = answer::passed_on(&reply, &query, age);
            belongs(&passed_on, &query);
            belongs(&answer::for_udp(passed_on, &query), &query);
        }
    }
}

fn own_answers(query: &Query) {
    let addresses = [IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let ttl = Duration::from_secs(30);
    for bytes in [
        answer::addresses(query, &addresses, ttl),
        answer::addresses(query, &[], ttl),
        answer::name(query, "orders.shop.svc", ttl),
        answer::negative(query, Code::NoError, ttl),
        answer::failure(query, Code::ServerFailure),
    ] {
        belongs(&bytes, query);
        let cut = answer::for_udp(bytes, query);
        assert!(cut.len() <= query.udp_bytes().max(512), "an answer over UDP of {} bytes", cut.len());
        belongs(&cut, query);
    }
}

fn belongs(answer: &[u8], query: &Query) {
    Reply::read(answer, query, query.id).unwrap_or_else(|error| panic!("our answer is none: {error}"));
}
