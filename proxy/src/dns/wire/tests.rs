use super::{Code, Edns, HEADER_BYTES, Query, Reply, ReplyError, UDP_BYTES_MAX, Unanswerable, flag, kind};
use crate::dns::answer;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use std::net::IpAddr;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(30);

/// A name in wire form.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// A message of a header, a question and whatever stands behind it.
pub(in crate::dns) fn message(flags: u16, counts: [u16; 4], host: &str, kind: u16, behind: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x1234, flags].into_iter().chain(counts) {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(name(host));
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(behind);
    bytes
}

pub(in crate::dns) fn query(host: &str, kind: u16) -> Query {
    Query::read(&message(flag::RECURSION_DESIRED, [1, 0, 0, 0], host, kind, &[])).expect("a query")
}

/// A record whose name is the question's.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub(in crate::dns) fn address_record(ttl: u32, address: [u8; 4]) -> Vec<u8> {
    record(kind::A, ttl, &address)
}

fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut data = vec![0, 0];
    for number in [1, 2, 3, 4, minimum] {
        data.extend(number.to_be_bytes());
    }
    record(kind::SOA, ttl, &data)
}

const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];

#[test]
fn reads_queries_and_names_the_rule_that_others_break() {
    let good = message(0x0130, [1, 0, 0, 1], "Payments.Shop", kind::AAAA, &OPT);
    let query = Query::read(&good).expect("a query");
    assert_eq!(query.host().as_deref(), Some("payments.shop"));
    assert_eq!((query.id, query.kind, query.class), (0x1234, kind::AAAA, 1));
    assert_eq!(query.edns, Some(Edns { udp_bytes: 1232, dnssec_ok: true }));
    assert_eq!(query.flags, flag::RECURSION_DESIRED | flag::AUTHENTIC | flag::CHECKING_DISABLED);

    let with_version = [0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0];
    let named = [1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let signed = record(kind::TSIG, 0, &[]);
    let twice = [OPT, OPT].concat();
    let plain = |counts, behind: &[u8]| message(0, counts, "a", kind::A, behind);
    for (bytes, expected) in [
        (vec![], Unanswerable::Short),
        (vec![0; 11], Unanswerable::Short),
        (message(flag::RESPONSE, [1, 0, 0, 0], "a", kind::A, &[]), Unanswerable::Response),
        (message(0x2000, [1, 0, 0, 0], "a", kind::A, &[]), Unanswerable::Unsupported),
        (message(0x2800, [1, 0, 0, 0], "a", kind::SOA, &[]), Unanswerable::Unsupported),
        (plain([0, 0, 0, 0], &[]), Unanswerable::Malformed),
        (plain([2, 0, 0, 0], &[]), Unanswerable::Malformed),
        (plain([1, 1, 0, 0], &soa(1, 1)), Unanswerable::Malformed),
        (plain([1, 0, 0, 1], &[]), Unanswerable::Malformed),
        (plain([1, 0, 0, 1], &OPT[..10]), Unanswerable::Malformed),
        (plain([1, 0, 0, 2], &twice), Unanswerable::Malformed),
        (plain([1, 0, 0, 1], &named), Unanswerable::Malformed),
        (plain([1, 0, 0, 1], &with_version), Unanswerable::EdnsVersion),
        (plain([1, 0, 0, 1], &signed), Unanswerable::Unsupported),
        (message(0, [1, 0, 0, 0], "a", kind::AXFR, &[]), Unanswerable::Transfer),
        (message(0, [1, 0, 0, 0], "a", kind::IXFR, &[]), Unanswerable::Transfer),
        (message(0, [1, 0, 0, 0], "a", kind::OPT, &[]), Unanswerable::Malformed),
        (plain([1, 0, 0, 0], &[])[..HEADER_BYTES + 4].to_vec(), Unanswerable::Malformed),
        // A question's name that points, a label of 64 bytes, and a name of more than 255.
        ([&[0; 4][..], &[0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]].concat(), Unanswerable::Malformed),
        ([&[0; 4][..], &[0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0xc0, 0, 0, 1, 0, 1]].concat(), Unanswerable::Malformed),
        (
            [&[0; 4][..], &[0, 1, 0, 0, 0, 0, 0, 0, 64], &[b'a'; 64][..], &[0, 0, 1, 0, 1]].concat(),
            Unanswerable::Malformed,
        ),
        (message(0, [1, 0, 0, 0], &"abcdefg.".repeat(32), kind::A, &[]), Unanswerable::Malformed),
    ] {
        assert_eq!(Query::read(&bytes), Err(expected), "{bytes:?}");
    }
}

#[test]
fn only_what_a_host_may_be_called_is_a_host() {
    for (text, expected) in [
        ("a", Some("a")),
        ("A-b_1.C.", Some("a-b_1.c")),
        ("", None),
        ("a b", None),
        ("a*.b", None),
        ("caf\u{e9}", None),
    ] {
        assert_eq!(query(text, kind::A).host().as_deref(), expected, "{text:?}");
    }
    // A dot within a label is no border of one.
    let mut bytes = message(0, [1, 0, 0, 0], "a-b", kind::A, &[]);
    bytes[HEADER_BYTES + 2] = b'.';
    assert_eq!(Query::read(&bytes).expect("a query").host(), None);
}

#[test]
fn the_size_of_answers_is_the_clients_within_bounds() {
    let with = |size: u16| {
        let mut opt = OPT;
        opt[3..5].copy_from_slice(&size.to_be_bytes());
        Query::read(&message(0, [1, 0, 0, 1], "a", kind::A, &opt)).expect("a query").udp_bytes()
    };
    assert_eq!(query("a", kind::A).udp_bytes(), 512);
    assert_eq!([with(0), with(512), with(1232), with(65_535)], [512, 512, 1232, UDP_BYTES_MAX]);
}

#[test]
fn what_goes_upstream_is_the_question_alone() {
    let cookie = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let query = Query::read(&message(0x0100, [1, 0, 0, 1], "Shop.example", kind::A, &cookie)).expect("a query");
    let forwarded = Message::from_vec(&query.forwarded(7)).expect("well-formed");
    assert_eq!((forwarded.metadata.id, forwarded.metadata.recursion_desired), (7, true));
    assert_eq!(forwarded.queries.len(), 1);
    let edns = forwarded.edns.as_ref().expect("EDNS");
    assert!(edns.flags().dnssec_ok);
    assert!(edns.options().as_ref().is_empty());
}

fn read(query: &Query, flags: u16, counts: [u16; 4], behind: &[u8]) -> Result<Reply, ReplyError> {
    let host = query.host().unwrap_or_default();
    Reply::read(&message(flag::RESPONSE | flags, counts, &host, query.kind, behind), query, 0x1234)
}

#[test]
fn messages_that_are_no_answer_to_the_question_are_not_believed() {
    let asked = query("shop.example", kind::A);
    let good = message(flag::RESPONSE, [1, 1, 0, 0], "SHOP.example", kind::A, &address_record(60, [10, 0, 0, 1]));
    assert!(Reply::read(&good, &asked, 0x1234).is_ok());
    assert_eq!(Reply::read(&good, &asked, 0x1235), Err(ReplyError::OtherId));
    for (bytes, expected) in [
        (vec![0x12, 0x34], ReplyError::Malformed),
        (message(0, [1, 0, 0, 0], "shop.example", kind::A, &[]), ReplyError::NotAResponse),
        (message(flag::RESPONSE | 0x2800, [1, 0, 0, 0], "shop.example", kind::A, &[]), ReplyError::NotAResponse),
        (message(flag::RESPONSE, [1, 0, 0, 0], "shop.exampla", kind::A, &[]), ReplyError::OtherQuestion),
        (message(flag::RESPONSE, [1, 0, 0, 0], "shop.example", kind::AAAA, &[]), ReplyError::OtherQuestion),
        (message(flag::RESPONSE, [0, 0, 0, 0], "shop.example", kind::A, &[]), ReplyError::OtherQuestion),
        (message(flag::RESPONSE, [1, 1, 0, 0], "shop.example", kind::A, &[0xc0]), ReplyError::Malformed),
        (message(flag::RESPONSE, [1, 2, 0, 0], "shop.example", kind::A, &soa(1, 1)), ReplyError::Malformed),
        (message(flag::RESPONSE, [1, 1, 0, 0], "shop.example", kind::A, &OPT), ReplyError::Malformed),
        (
            message(flag::RESPONSE, [1, 0, 0, 1], "shop.example", kind::A, &[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]),
            ReplyError::ExtendedError(1),
        ),
    ] {
        assert_eq!(Reply::read(&bytes, &asked, 0x1234), Err(expected), "{bytes:?}");
    }
}

/// RFC 2308 §5, RFC 2181 §8.
#[test]
fn answers_live_as_long_as_their_shortest_ttl_and_negative_ones_as_their_soa_says() {
    let asked = query("shop.example", kind::A);
    let name_error = Code::NameError as u16;
    let one = address_record(60, [10, 0, 0, 1]);
    let two = [one.clone(), address_record(30, [10, 0, 0, 2])].concat();
    let with_soa = [one.clone(), soa(20, 900)].concat();
    let alias = record(kind::CNAME, 60, &[1, b'b', 0]);
    let alias_to_nothing = [alias.clone(), soa(90, 45)].concat();
    for (flags, counts, behind, expected, what) in [
        (0, [1, 1, 0, 0], &one[..], 60, "a TTL"),
        (0, [1, 2, 0, 0], &two, 30, "the shorter one"),
        (0, [1, 1, 1, 0], &with_soa, 20, "the shorter one, of any section"),
        (0, [1, 1, 0, 0], &address_record(0, [0; 4]), 0, "not at all"),
        (0, [1, 1, 0, 0], &address_record(1 << 31, [0; 4]), 0, "RFC 2181: no TTL that is negative"),
        (0, [1, 1, 0, 0], &address_record(1 << 30, [0; 4]), 3600, "bounded"),
        (name_error, [1, 0, 1, 0], &soa(60, 45), 45, "MINIMUM"),
        (name_error, [1, 0, 1, 0], &soa(20, 45), 20, "the SOA's own TTL"),
        (name_error, [1, 0, 1, 0], &soa(86_400, 86_400), 300, "negative ones are bounded"),
        (name_error, [1, 0, 0, 0], &[], 0, "negative without SOA"),
        (0, [1, 0, 1, 0], &soa(60, 45), 45, "no data"),
        (0, [1, 0, 0, 0], &[], 0, "no data without SOA"),
        (0, [1, 1, 1, 0], &alias_to_nothing, 45, "an alias of a name without data"),
        (0, [1, 1, 0, 0], &alias, 0, "an alias of which nothing more is known"),
        (flag::TRUNCATED, [1, 1, 0, 0], &one, 0, "cut short"),
        (Code::ServerFailure as u16, [1, 0, 1, 0], &soa(60, 60), 0, "a failure"),
    ] {
        let reply = read(&asked, flags, counts, behind).expect(what);
        assert_eq!(reply.lifetime, Duration::from_secs(expected), "{what}");
    }
    assert!(read(&asked, 0, [1, 2, 0, 0], &two).expect("read").has_address);
    assert!(!read(&asked, 0, [1, 1, 0, 0], &alias).expect("read").has_address);
}

#[test]
fn an_answer_passed_on_is_the_clients_own_and_older() {
    let mut asked = query("Shop.Example", kind::A);
    let records = [address_record(60, [10, 0, 0, 1]), OPT.to_vec()].concat();
    let reply = read(&asked, 0x0480, [1, 1, 0, 1], &records).expect("read");
    asked.id = 7;
    for edns in [None, Some(Edns { udp_bytes: 1232, dnssec_ok: true })] {
        asked.edns = edns;
        let bytes = answer::passed_on(&reply, &asked, Duration::from_secs(25));
        let parsed = Message::from_vec(&bytes).expect("well-formed");
        assert_eq!((parsed.metadata.id, parsed.answers[0].ttl), (7, 35));
        assert_eq!(parsed.edns.is_some(), edns.is_some());
        assert!(!parsed.metadata.authoritative && parsed.metadata.recursion_available);
        assert_eq!(bytes[HEADER_BYTES..HEADER_BYTES + asked.question.len()], *asked.question);
    }
    let old = answer::passed_on(&reply, &asked, Duration::from_secs(100));
    assert_eq!(Message::from_vec(&old).expect("well-formed").answers[0].ttl, 0);
}

#[test]
fn what_is_too_long_for_udp_says_so_and_nothing_else() {
    let asked = query("shop.example", kind::A);
    let many = address_record(60, [10, 0, 0, 1]).repeat(40);
    let reply = read(&asked, 0, [1, 40, 0, 0], &many).expect("read");
    let whole = answer::passed_on(&reply, &asked, Duration::ZERO);
    assert!(whole.len() > 512);
    let short = Message::from_vec(&answer::for_udp(whole.clone(), &asked)).expect("well-formed");
    assert!(short.metadata.truncation && short.answers.is_empty() && short.queries.len() == 1);
    let large = Query { edns: Some(Edns { udp_bytes: 4096, dnssec_ok: false }), ..asked };
    assert_eq!(answer::for_udp(whole.clone(), &large), whole);
}

#[test]
fn our_own_answers_are_what_others_read() {
    let addresses: [IpAddr; 2] = ["240.240.0.7".parse().expect("v4"), "fd00::7".parse().expect("v6")];
    let asked = query("shop.example", kind::ANY);
    let parsed = Message::from_vec(&answer::addresses(&asked, &addresses, TTL)).expect("well-formed");
    let found: Vec<IpAddr> = parsed.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    assert_eq!(found, addresses);
    assert!(parsed.answers.iter().all(|record| record.ttl == 30));
    assert!(parsed.metadata.authoritative);

    for (code, expected) in [(Code::NoError, ResponseCode::NoError), (Code::NameError, ResponseCode::NXDomain)] {
        let parsed = Message::from_vec(&answer::negative(&asked, code, TTL)).expect("well-formed");
        assert_eq!((parsed.metadata.response_code, parsed.answers.len()), (expected, 0));
        let RData::SOA(soa) = &parsed.authorities[0].data else { panic!("no SOA") };
        assert_eq!((soa.minimum, parsed.authorities[0].ttl), (30, 30));
    }

    let asked = query("7.0.240.240.in-addr.arpa", kind::PTR);
    let parsed = Message::from_vec(&answer::name(&asked, "payments.shop", TTL)).expect("well-formed");
    let RData::PTR(host) = &parsed.answers[0].data else { panic!("no PTR") };
    assert_eq!(host.0, Name::from_ascii("payments.shop.").expect("a name"));

    let bad_version = message(0, [1, 0, 0, 1], "a", kind::A, &[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0]);
    let parsed = answer::unreadable(&bad_version, Code::BadVersion).expect("an answer");
    // BADVERS; the number has another name where a signature is concerned.
    assert_eq!(u16::from(Message::from_vec(&parsed).expect("well-formed").metadata.response_code), 16);
    assert_eq!(answer::unreadable(&[0; 11], Code::FormatError), None);
}

/// Bytes that look like messages more often than chance would make them.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![Just(kind::A), Just(kind::AAAA), Just(kind::PTR), Just(kind::ANY), any::<u16>()];
    let counts = [0..3_u16, 0..3_u16, 0..3_u16, 0..3_u16];
    let like = (any::<u16>(), counts, "[a-zA-Z0-9._-]{0,40}", kinds, vec(any::<u8>(), 0..60));
    prop_oneof![
        vec(any::<u8>(), 0..200),
        like.prop_map(|(flags, counts, host, kind, behind)| message(flags, counts, &host, kind, &behind)),
        ("[a-zA-Z0-9._-]{0,40}", any::<u16>(), vec(any::<u8>(), 0..20)).prop_map(|(host, kind, behind)| {
            let behind = [&OPT[..], &behind].concat();
            message(0x0100, [1, 0, 0, 1], &host, kind, &behind)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever comes in: no panic, and what goes out, upstream or back, is a message that others can read.
    #[test]
    fn any_bytes_are_answered_with_what_is_well_formed_or_not_at_all(bytes in messages()) {
        match Query::read(&bytes) {
            Err(error) => {
                if let Some(answer) = error.code().and_then(|code| answer::unreadable(&bytes, code)) {
                    prop_assert!(Message::from_vec(&answer).is_ok());
                }
            }
            Ok(query) => {
                let forwarded = Message::from_vec(&query.forwarded(1)).expect("well-formed");
                prop_assert_eq!(forwarded.queries.len(), 1);
                let addresses = ["240.240.0.7".parse().expect("v4"), "fd00::7".parse().expect("v6")];
                for answer in [
                    answer::addresses(&query, &addresses, TTL),
                    answer::negative(&query, Code::NameError, TTL),
                    answer::failure(&query, Code::ServerFailure),
                ] {
                    let parsed = Message::from_vec(&answer).expect("well-formed");
                    prop_assert_eq!(parsed.metadata.id, query.id);
                    prop_assert_eq!(&parsed.queries, &forwarded.queries);
                    prop_assert_eq!(parsed.edns.is_some(), query.edns.is_some());
                    prop_assert!(answer::for_udp(answer, &query).len() <= query.udp_bytes());
                }
            }
        }
    }

    /// Whatever an upstream sends: no panic, and what is passed on has the same records as what came.
    #[test]
    fn any_bytes_from_upstream_are_passed_on_whole_or_not_at_all(
        bytes in messages(),
        records in vec((0..200_u32, any::<[u8; 4]>()), 0..5),
        cut in 0..100_usize,
    ) {
        let asked = query("shop.example", kind::A);
        let body: Vec<u8> = records.iter().flat_map(|(ttl, address)| address_record(*ttl, *address)).collect();
        let made = message(flag::RESPONSE, [1, records.len() as u16, 0, 0], "shop.example", kind::A, &body);
        let made = &made[..made.len() - cut.min(made.len())];
        for bytes in [&bytes[..], made] {
            if let Ok(reply) = Reply::read(bytes, &asked, 0x1234) {
                let passed_on = answer::passed_on(&reply, &asked, Duration::from_secs(1));
                if let Ok(before) = Message::from_vec(bytes) {
                    let after = Message::from_vec(&passed_on).expect("well-formed");
                    prop_assert_eq!(before.answers.len(), after.answers.len());
                    let kinds = |message: &Message| message.answers.iter().map(|record| record.record_type()).collect::<Vec<RecordType>>();
                    prop_assert_eq!(kinds(&before), kinds(&after));
                }
            }
        }
    }
}
