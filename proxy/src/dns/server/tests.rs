use super::{Bound, TCP_CONNECTIONS_MAX};
use crate::dns::forward::tests::{Nameserver, nameserver, nothing, one_address};
use crate::dns::forward::with_length;
use crate::dns::wire::tests::message;
use crate::dns::wire::{flag, kind};
use crate::identity::IdentityStore;
use crate::identity::tokens::OwnTokens;
use crate::policy::Policy;
use crate::shared::Shared;
use crate::telemetry::{AccessLog, DnsResult, Metrics};
use crate::upstream::discovery::Discovery;
use hickory_proto::op::{Message, ResponseCode};
use postern_config::Config;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::timeout;

struct Scene {
    shared: Arc<Shared>,
    _open: super::Open,
    _upstream: Nameserver,
    address: SocketAddr,
}

/// A server on IPv4's loopback, before a nameserver that knows an address for every name.
async fn scene() -> Scene {
    let upstream = nameserver(one_address, nothing).await;
    let text = format!(
        "capture: {{ outbound: 15001, dns: {{ listen: 15053, upstreams: \"{}\", search: cluster.local }} }}\n\
         outbound:\n  services:\n  - {{ name: db, hosts: [db.shop], protocol: tcp, identity: spiffe://td/db }}\n\
         \x20 - {{ name: mesh, hosts: [\"*.mesh\"], identity: spiffe://td/mesh }}\n",
        upstream.address
    );
    let config = Config::from_str(Path::new("f"), &text).expect("right");
    let metrics = Arc::new(Metrics::new());
    let policy = Policy::compile(&config, None, &metrics).expect("compiled");
    let access_log = AccessLog::start(&postern_config::AccessLog::Off, &metrics).expect("off");
    let discovery = Arc::new(Discovery::new(Handle::current()));
    let own_tokens = OwnTokens::new(tokio::runtime::Handle::current(), metrics.identity_counters());
    let shared =
        Arc::new(Shared::new(Arc::new(IdentityStore::default()), policy, metrics, access_log, discovery, own_tokens));
    // A port that is free for TCP may be taken for UDP.
    let bound = (0..32).find_map(|_| Bound::new(0).ok()).expect("bound");
    let address = bound.sockets[0].0.local_addr().expect("bound");
    let open = bound.open(&shared).expect("open");
    Scene { shared, _open: open, _upstream: upstream, address }
}

fn query(host: &str, kind: u16) -> Vec<u8> {
    message(flag::RECURSION_DESIRED, [1, 0, 0, 0], host, kind, &[])
}

/// `None`: silence.
async fn over_udp(address: SocketAddr, bytes: &[u8]) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    socket.connect(address).await.expect("connected");
    socket.send(bytes).await.expect("sent");
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await.ok()?.expect("received");
    Some(Message::from_vec(&buffer[..length]).expect("well-formed"))
}

async fn read_tcp(stream: &mut TcpStream) -> Message {
    let length = stream.read_u16().await.expect("a length");
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.expect("a message");
    Message::from_vec(&bytes).expect("well-formed")
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[tokio::test]
async fn a_declared_host_s_address_leads_back_to_its_service() {
    let scene = scene().await;
    let policy = scene.shared.policy().load_full();
    let virtual_addresses = &policy.dns.as_ref().expect("captured").addresses;
    for host in ["db.shop", "web.mesh"] {
        let found = addresses(&over_udp(scene.address, &query(host, kind::A)).await.expect("an answer"));
        let (_, means) = virtual_addresses.service_of(found[0]).expect("known");
        assert_eq!(&*means, host);
    }
}

#[tokio::test]
async fn names_of_others_are_asked_upstream_and_counted() {
    let scene = scene().await;
    for _ in 0..2 {
        let answer = over_udp(scene.address, &query("example.com", kind::A)).await.expect("an answer");
        assert_eq!(addresses(&answer), ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
    }
    let answer = over_udp(scene.address, &query("db.shop.cluster.local", kind::A)).await.expect("an answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let count = |result| scene.shared.metrics.dns_queries(result);
    let counts = [DnsResult::Forwarded, DnsResult::Cached, DnsResult::Expansion, DnsResult::Declared].map(count);
    assert_eq!(counts, [1, 1, 1, 0]);
}

#[tokio::test]
async fn what_is_no_query_gets_a_format_error_or_silence_and_the_next_is_answered() {
    let scene = scene().await;
    let broken = message(0, [1, 0, 0, 1], "a", kind::A, &[0]);
    let answer = over_udp(scene.address, &broken).await.expect("an answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    for silent in [&[][..], &[0; 11], &message(flag::RESPONSE, [1, 0, 0, 0], "a", kind::A, &[])] {
        assert!(over_udp(scene.address, silent).await.is_none(), "{silent:?}");
    }
    assert!(over_udp(scene.address, &query("db.shop", kind::A)).await.is_some());
    assert_eq!(scene.shared.metrics.dns_queries(DnsResult::Malformed), 4);
}

#[tokio::test]
async fn several_queries_go_over_one_connection() {
    let scene = scene().await;
    let mut stream = TcpStream::connect(scene.address).await.expect("connected");
    let hosts = ["db.shop", "example.com", "db.shop.cluster.local"];
    let all: Vec<u8> = hosts.iter().flat_map(|host| with_length(&query(host, kind::A))).collect();
    stream.write_all(&all).await.expect("sent");
    let mut counts = Vec::new();
    for _ in hosts {
        counts.push(read_tcp(&mut stream).await.answers.len());
    }
    assert_eq!(counts, [1, 1, 0]);
}

#[tokio::test]
async fn connections_are_bounded() {
    let scene = scene().await;
    let mut held = Vec::new();
    for _ in 0..TCP_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(scene.address).await.expect("connected");
        stream.write_all(&with_length(&query("db.shop", kind::A))).await.expect("sent");
        read_tcp(&mut stream).await;
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(scene.address).await.expect("connected");
    assert_eq!(one_more.read(&mut [0; 2]).await.unwrap_or(0), 0);
    assert_eq!(scene.shared.metrics.dns_queries(DnsResult::OverLimit), 1);
    drop(held);
    // A place that was given back is seen when the next one connects.
    let mut served = false;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(scene.address).await.expect("connected");
        let sent = stream.write_all(&with_length(&query("db.shop", kind::A))).await;
        served = sent.is_ok() && stream.read_u16().await.is_ok();
        if served {
            break;
        }
    }
    assert!(served);
}
