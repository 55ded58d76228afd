use super::{ANSWER_BYTES_MAX, BYTES_MAX, Cache, ENTRIES_MAX, Key};
use crate::dns::wire::tests::{address_record, message, query};
use crate::dns::wire::{Edns, Query, Reply, flag, kind};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn reply(query: &Query, ttl: u32, records: usize) -> Arc<Reply> {
    let host = query.host().unwrap_or_default();
    let body = address_record(ttl, [10, 0, 0, 1]).repeat(records);
    let bytes = message(flag::RESPONSE, [1, records as u16, 0, 0], &host, query.kind, &body);
    Arc::new(Reply::read(&bytes, query, 0x1234).expect("an answer"))
}

#[test]
fn answers_are_kept_for_their_ttl() {
    let (mut cache, start, asked) = (Cache::default(), Instant::now(), query("a.example", kind::A));
    cache.insert(Key::of(&asked), reply(&asked, 60, 1), start);
    for (after, age) in [(0, Some(0)), (59, Some(59)), (60, None), (0, None)] {
        let found = cache.get(&Key::of(&asked), start + Duration::from_secs(after));
        assert_eq!(found.map(|(_, age)| age.as_secs()), age, "after {after} s");
    }
    cache.insert(Key::of(&asked), reply(&asked, 0, 1), start);
    assert!(cache.get(&Key::of(&asked), start).is_none());
}

#[test]
fn only_queries_that_may_share_an_answer_do() {
    let asked = query("a.example", kind::A);
    let edns = |dnssec_ok| Some(Edns { udp_bytes: 1232, dnssec_ok });
    for (other, expected) in [
        (query("A.Example", kind::A), true),
        (Query { id: 7, ..asked.clone() }, true),
        (query("b.example", kind::A), false),
        (query("a.example", kind::AAAA), false),
        (Query { flags: 0, ..asked.clone() }, false),
        (Query { flags: asked.flags | flag::CHECKING_DISABLED, ..asked.clone() }, false),
        (Query { edns: edns(false), ..asked.clone() }, false),
        (Query { edns: edns(true), ..asked.clone() }, false),
    ] {
        assert_eq!(Key::of(&other) == Key::of(&asked), expected, "{other:?}");
    }
}

#[test]
fn entries_and_bytes_are_bounded_and_the_oldest_goes_first() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let name = |number: usize| query(&format!("h{number}.example"), kind::A);
    for number in 0..=ENTRIES_MAX {
        cache.insert(Key::of(&name(number)), reply(&name(number), 60, 1), now);
    }
    assert_eq!(cache.entries.len(), ENTRIES_MAX);
    assert!(cache.get(&Key::of(&name(0)), now).is_none());
    assert!(cache.get(&Key::of(&name(1)), now).is_some());

    for number in 0..600 {
        cache.insert(Key::of(&name(number)), reply(&name(number), 60, 600), now);
    }
    assert!(cache.bytes <= BYTES_MAX);
    assert_eq!(cache.bytes, cache.entries.values().map(|entry| entry.reply.bytes.len()).sum::<usize>());
    let large = reply(&name(1), 60, 1100);
    assert!(large.bytes.len() > ANSWER_BYTES_MAX);
    cache.insert(Key::of(&query("large.example", kind::A)), large, now);
    assert!(cache.get(&Key::of(&query("large.example", kind::A)), now).is_none());
}

#[test]
fn one_name_again_and_again_does_not_grow_the_order() {
    let (mut cache, now, asked) = (Cache::default(), Instant::now(), query("a.example", kind::A));
    let answer = reply(&asked, 60, 1);
    for _ in 0..3 * ENTRIES_MAX {
        cache.insert(Key::of(&asked), answer.clone(), now);
    }
    assert!(cache.order.len() <= 2 * ENTRIES_MAX);
    assert!(cache.get(&Key::of(&asked), now).is_some());
}
