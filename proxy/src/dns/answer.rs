//! Answers as bytes: our own, and those of others as one client gets them. Pure.

use super::wire::{CLASS_IN, Code, HEADER_BYTES, Header, OPT_BYTES, Query, Reply, flag, kind, opt_record};
use std::net::IpAddr;
use std::time::Duration;

/// The name that every record of ours has: a pointer to the question's (RFC 1035 §4.1.4).
const QUESTION_NAME: [u8; 2] = [0xc0, HEADER_BYTES as u8];
/// Everything of a record but name and data.
const RECORD_BYTES: usize = 10;

/// The addresses of a name; none: the name exists, and has nothing of this type.
pub fn addresses(query: &Query, addresses: &[IpAddr], ttl: Duration) -> Vec<u8> {
    if addresses.is_empty() {
        return negative(query, Code::NoError, ttl);
    }
    let mut message = Message::new(query, Code::NoError);
    for address in addresses {
        match address {
            IpAddr::V4(address) => message.answer(kind::A, ttl, &address.octets()),
            IpAddr::V6(address) => message.answer(kind::AAAA, ttl, &address.octets()),
        }
    }
    message.finish()
}

/// The name of an address.
pub fn name(query: &Query, host: &str, ttl: Duration) -> Vec<u8> {
    let mut data = Vec::with_capacity(host.len() + 2);
    for label in host.split('.') {
        // A host of the configuration or of a query: its labels fit (RFC 1035 §2.3.4).
        data.push(label.len().min(63) as u8);
        data.extend(label.bytes().take(63));
    }
    data.push(0);
    let mut message = Message::new(query, Code::NoError);
    message.answer(kind::PTR, ttl, &data);
    message.finish()
}

/// The name is not there, or has nothing of this type. With the SOA record that says for how long (RFC 2308 §5); that its
/// owner is the name itself makes it hold for this name alone.
pub fn negative(query: &Query, code: Code, ttl: Duration) -> Vec<u8> {
    let mut message = Message::new(query, code);
    // MNAME and RNAME are the root; serial, refresh, retry, expire, minimum.
    let mut data = vec![0, 0];
    for number in [1, 3600, 600, 86_400, seconds(ttl)] {
        data.extend(number.to_be_bytes());
    }
    message.record(kind::SOA, ttl, &data);
    message.authorities += 1;
    message.finish()
}

/// No answer is to be had.
pub fn failure(query: &Query, code: Code) -> Vec<u8> {
    Message::new(query, code).finish()
}

/// To a message of which nothing but the header could be read; `None` where there is nothing to answer to.
pub fn unreadable(bytes: &[u8], code: Code) -> Option<Vec<u8>> {
    let header = Header::read(bytes)?;
    let flags = flag::RESPONSE | (header.flags & (flag::OPCODE | flag::RECURSION_DESIRED)) | (code as u16 & flag::CODE);
    let with_opt = code as u16 > flag::CODE;
    let mut answer = Vec::with_capacity(HEADER_BYTES + OPT_BYTES);
    for word in [header.id, flags, 0, 0, 0, u16::from(with_opt)] {
        answer.extend(word.to_be_bytes());
    }
    if with_opt {
        answer.extend(opt_record(false, code));
    }
    Some(answer)
}

/// Somebody else's answer, `age` old, for the client that asked `query`.
pub fn passed_on(reply: &Reply, query: &Query, age: Duration) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(reply.bytes.len() + OPT_BYTES);
    bytes.extend(&reply.bytes);
    let before = u16::from_be_bytes([bytes[2], bytes[3]]);
    // Whoever answers from a cache is no authority (RFC 1035 §4.1.1).
    let kept = before & (flag::AUTHENTIC | flag::CODE | flag::TRUNCATED);
    let flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | kept | asked(query);
    bytes[0..2].copy_from_slice(&query.id.to_be_bytes());
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    // The letters' case of this client, who may compare it. Both questions have the same length, or would not be the same.
    bytes[HEADER_BYTES..HEADER_BYTES + query.question.len()].copy_from_slice(&query.question);
    for at in &reply.ttls {
        let ttl = u32::from_be_bytes([bytes[*at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let left = ttl.saturating_sub(seconds(age));
        bytes[*at..at + 4].copy_from_slice(&left.to_be_bytes());
    }
    // What fills a message already has no room for it, and is worth more.
    let fits = bytes.len() + OPT_BYTES <= usize::from(u16::MAX);
    if let Some(edns) = query.edns.filter(|_| fits) {
        let additionals = u16::from_be_bytes([bytes[10], bytes[11]]).saturating_add(1);
        bytes[10..12].copy_from_slice(&additionals.to_be_bytes());
        bytes.extend(opt_record(edns.dnssec_ok, Code::NoError));
    }
    bytes
}

/// `answer` as it goes out over UDP: whole, or, where the client does not take that much, a header that sends it to TCP.
/// Nothing of the records stays: half an answer would be taken for a whole one (RFC 2181 §9).
pub fn for_udp(answer: Vec<u8>, query: &Query) -> Vec<u8> {
    if answer.len() <= query.udp_bytes() {
        return answer;
    }
    let flags = u16::from_be_bytes([answer[2], answer[3]]) | flag::TRUNCATED;
    let mut short = Message::new(query, Code::NoError);
    short.bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    short.finish()
}

fn asked(query: &Query) -> u16 {
    query.flags & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// An answer of ours while it is written.
struct Message<'q> {
    query: &'q Query,
    code: Code,
    bytes: Vec<u8>,
    answers: u16,
    authorities: u16,
}

impl<'q> Message<'q> {
    fn new(query: &'q Query, code: Code) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        let authority = if matches!(code, Code::NoError | Code::NameError) { flag::AUTHORITATIVE } else { 0 };
        let flags = flag::RESPONSE | authority | flag::RECURSION_AVAILABLE | asked(query) | (code as u16 & flag::CODE);
        bytes[0..2].copy_from_slice(&query.id.to_be_bytes());
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes.extend(&query.question);
        Self { query, code, bytes, answers: 0, authorities: 0 }
    }

    fn answer(&mut self, kind: u16, ttl: Duration, data: &[u8]) {
        self.record(kind, ttl, data);
        self.answers += 1;
    }

    fn record(&mut self, kind: u16, ttl: Duration, data: &[u8]) {
        self.bytes.reserve(QUESTION_NAME.len() + RECORD_BYTES + data.len());
        self.bytes.extend(QUESTION_NAME);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(CLASS_IN.to_be_bytes());
        self.bytes.extend(seconds(ttl).to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
    }

    fn finish(mut self) -> Vec<u8> {
        let additionals = u16::from(self.query.edns.is_some());
        for (index, count) in [1, self.answers, self.authorities, additionals].into_iter().enumerate() {
            let at = 4 + index * 2;
            self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        // RFC 6891 §6.1.1: an answer has an OPT record if the query has one, and else none.
        if let Some(edns) = self.query.edns {
            self.bytes.extend(opt_record(edns.dnssec_ok, self.code));
        }
        self.bytes
    }
}
