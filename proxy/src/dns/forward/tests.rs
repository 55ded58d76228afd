use super::{Failure, Forwarder, IN_FLIGHT_MAX, Source, with_length};
use crate::dns::wire::tests::{address_record, message, query};
use crate::dns::wire::{Code, Query, flag, kind};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// A nameserver on loopback, on the same port of UDP and TCP.
pub(in crate::dns) struct Nameserver {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    _tasks: tokio::task::JoinSet<()>,
}

/// What it answers, over UDP and over TCP: each answer is sent as it is, but for its id.
pub(in crate::dns) type Answers = fn(&Query) -> Vec<Vec<u8>>;

pub(in crate::dns) async fn nameserver(over_udp: Answers, over_tcp: Answers) -> Nameserver {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = udp.local_addr().expect("bound");
        // Its port may be another's over TCP.
        if let Ok(tcp) = TcpListener::bind(address).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().expect("bound");
    let asked = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    let count = asked.clone();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.expect("received");
            count.fetch_add(1, Relaxed);
            let query = Query::read(&buffer[..length]).expect("a query");
            for answer in over_udp(&query) {
                udp.send_to(&answer, client).await.expect("sent");
            }
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.expect("accepted");
            let length = stream.read_u16().await.expect("a length");
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.expect("a message");
            let query = Query::read(&bytes).expect("a query");
            for answer in over_tcp(&query) {
                stream.write_all(&with_length(&answer)).await.expect("sent");
            }
        }
    });
    Nameserver { address, asked, _tasks: tasks }
}

/// An answer to `query` with its id.
fn answer_to(query: &Query, flags: u16, records: u16, body: &[u8]) -> Vec<u8> {
    let host = query.host().unwrap_or_default();
    let mut bytes = message(flag::RESPONSE | flags, [1, records, 0, 0], &host, query.kind, body);
    bytes[..2].copy_from_slice(&query.id.to_be_bytes());
    bytes
}

pub(in crate::dns) fn one_address(query: &Query) -> Vec<Vec<u8>> {
    vec![answer_to(query, 0, 1, &address_record(60, [10, 0, 0, 1]))]
}

pub(in crate::dns) fn nothing(_: &Query) -> Vec<Vec<u8>> {
    Vec::new()
}

fn many_addresses(query: &Query) -> Vec<Vec<u8>> {
    vec![answer_to(query, 0, 300, &address_record(60, [10, 0, 0, 1]).repeat(300))]
}

fn cut_short(query: &Query) -> Vec<Vec<u8>> {
    vec![answer_to(query, flag::TRUNCATED, 0, &[])]
}

fn failure(query: &Query) -> Vec<Vec<u8>> {
    vec![answer_to(query, Code::ServerFailure as u16, 0, &[])]
}

/// Guesses first: another id, another name, a query; then the truth.
fn guesses(query: &Query) -> Vec<Vec<u8>> {
    let body = address_record(60, [6, 6, 6, 6]);
    let other_id = answer_to(&Query { id: query.id ^ 1, ..query.clone() }, 0, 1, &body);
    let mut other_name = message(flag::RESPONSE, [1, 1, 0, 0], "evil.example", query.kind, &body);
    other_name[..2].copy_from_slice(&query.id.to_be_bytes());
    vec![other_id, other_name, query.forwarded(query.id), one_address(query).remove(0)]
}

fn forwarder(upstreams: &[SocketAddr]) -> Arc<Forwarder> {
    Arc::new(Forwarder::new(upstreams.to_vec(), NonZeroU32::MIN))
}

/// An address of which the port is closed.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound")
}

#[tokio::test]
async fn asks_once_and_remembers() {
    let upstream = nameserver(one_address, nothing).await;
    let forwarder = forwarder(&[upstream.address]);
    let (reply, _, source) = forwarder.resolve(&query("shop.example", kind::A)).await.expect("an answer");
    assert!(reply.has_address);
    assert_eq!(source, Source::Upstream);
    let (_, _, source) = forwarder.resolve(&query("SHOP.example", kind::A)).await.expect("an answer");
    assert_eq!((source, upstream.asked.load(Relaxed)), (Source::Cache, 1));
}

#[tokio::test]
async fn one_question_of_many_goes_out_once() {
    let upstream = nameserver(one_address, nothing).await;
    let forwarder = forwarder(&[upstream.address]);
    let question = query("shop.example", kind::A);
    let all = futures_util::future::join_all((0..100).map(|_| forwarder.resolve(&question))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(upstream.asked.load(Relaxed), 1);
    assert!(super::lock(&forwarder.in_flight).is_empty());
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_believed() {
    let upstream = nameserver(guesses, nothing).await;
    let (reply, ..) = forwarder(&[upstream.address]).resolve(&query("shop.example", kind::A)).await.expect("an answer");
    assert!(reply.bytes.ends_with(&[10, 0, 0, 1]));
}

#[tokio::test]
async fn what_is_cut_short_is_asked_for_over_tcp() {
    let upstream = nameserver(cut_short, many_addresses).await;
    let (reply, ..) = forwarder(&[upstream.address]).resolve(&query("shop.example", kind::A)).await.expect("an answer");
    assert_eq!((reply.truncated, reply.ttls.len()), (false, 300));
}

#[tokio::test]
async fn the_next_nameserver_is_asked_and_then_first() {
    let good = nameserver(one_address, nothing).await;
    let failing = nameserver(failure, nothing).await;
    for first in [nobody().await, failing.address] {
        let forwarder = forwarder(&[first, good.address]);
        for host in ["a.example", "b.example"] {
            let (reply, ..) = forwarder.resolve(&query(host, kind::A)).await.expect("an answer");
            assert!(reply.has_address);
        }
    }
    // The second question went to the one that had answered.
    assert_eq!(failing.asked.load(Relaxed), 1);
}

#[tokio::test]
async fn a_failure_of_all_is_passed_on_at_once() {
    let failing = nameserver(failure, nothing).await;
    let (reply, ..) = forwarder(&[failing.address]).resolve(&query("a.example", kind::A)).await.expect("an answer");
    assert_eq!((reply.code, failing.asked.load(Relaxed)), (Code::ServerFailure as u16, 1));
}

#[tokio::test]
async fn nobody_there_is_said_soon() {
    let forwarder = forwarder(&[nobody().await]);
    let question = query("a.example", kind::A);
    let outcome = tokio::time::timeout(Duration::from_secs(3), forwarder.resolve(&question)).await.expect("soon");
    assert_eq!(outcome.map(drop), Err(Failure::NoAnswer));
}

/// F-20 (THREATS): no queue builds up behind a nameserver that is silent.
#[tokio::test]
async fn f_20_questions_under_way_are_bounded_and_end() {
    let silent = nameserver(nothing, nothing).await;
    let forwarder = forwarder(&[silent.address]);
    let questions: Vec<Query> = (0..=IN_FLIGHT_MAX).map(|number| query(&format!("h{number}.a"), kind::A)).collect();
    let all = futures_util::future::join_all(questions.iter().map(|question| forwarder.resolve(question)));
    let outcomes = tokio::time::timeout(Duration::from_secs(10), all).await.expect("within the deadline");
    let busy = outcomes.iter().filter(|outcome| matches!(outcome, Err(Failure::Busy))).count();
    assert_eq!((outcomes.iter().filter(|outcome| outcome.is_ok()).count(), busy), (0, 1));
    assert!(super::lock(&forwarder.in_flight).is_empty());
}

#[test]
fn a_message_over_tcp_begins_with_its_length() {
    assert_eq!(with_length(&[7; 300])[..3], [1, 44, 7]);
}
