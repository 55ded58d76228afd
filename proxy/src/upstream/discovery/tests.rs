use super::{Discovery, EndpointSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

const A: u16 = 1;
const CNAME: u16 = 5;
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// A record whose name is the question's.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// What is said of a name, by its first label; `None`: nothing.
fn answer(label: &str, kind: u16, turn: usize) -> Option<(u8, Vec<Vec<u8>>)> {
    let addresses = |list: &[[u8; 4]]| (0, list.iter().map(|address| record(A, 60, address)).collect());
    if !matches!(kind, A) && !matches!(label, "absent" | "broken" | "circle" | "silent") {
        return Some((0, Vec::new()));
    }
    Some(match label {
        "good" => addresses(&[[10, 0, 0, 1]]),
        "loopback" => addresses(&[[127, 0, 0, 1]]),
        "metadata" => addresses(&[[169, 254, 169, 254]]),
        "mixed" => addresses(&[[169, 254, 169, 254], [10, 0, 0, 2], [127, 0, 0, 1]]),
        "unspecified" => addresses(&[[0, 0, 0, 0]]),
        // As many as fit into the smallest message over UDP.
        "many" => addresses(&(0..25).map(|last| [10, 0, 1, last]).collect::<Vec<_>>()),
        "at-once" => (0, vec![record(A, 0, &[10, 0, 0, 3])]),
        "rebinds" if turn > 0 => (0, vec![record(A, 0, &[169, 254, 169, 254])]),
        "rebinds" => (0, vec![record(A, 0, &[10, 0, 0, 4])]),
        "absent" => (NXDOMAIN, Vec::new()),
        "broken" => (SERVFAIL, Vec::new()),
        // An alias of itself.
        "circle" => (0, vec![record(CNAME, 60, &[0xc0, 12])]),
        "garbled" => (0, vec![vec![0xc0]]),
        _ => return None,
    })
}

async fn nameserver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let mut rebinds = 0;
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.expect("received");
            let query = &buffer[..length];
            let label = String::from_utf8_lossy(&query[13..13 + usize::from(query[12])]).to_lowercase();
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
            let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
            let Some((code, records)) = answer(&label, kind, rebinds) else { continue };
            rebinds += usize::from(label == "rebinds" && kind == A);
            let count = (records.len() as u16).to_be_bytes();
            let header = [query[0], query[1], 0x81, 0x80 | code, 0, 1, count[0], count[1], 0, 0, 0, 0];
            let bytes = [&header[..], &query[12..end], &records.concat()].concat();
            socket.send_to(&bytes, client).await.expect("sent");
        }
    });
    address
}

async fn discovery() -> Arc<Discovery> {
    let discovery = Arc::new(Discovery::new(Handle::current()));
    discovery.ask(&[nameserver().await]);
    discovery
}

async fn first_answer(discovery: &Arc<Discovery>, name: &str, of_template: bool) -> (Arc<EndpointSet>, Vec<Ipv4Addr>) {
    let set = discovery.resolve(&Arc::from(name), 80, of_template).expect("room");
    set.first_answer(Duration::from_secs(3)).await;
    (set.clone(), addresses(&set))
}

fn addresses(set: &EndpointSet) -> Vec<Ipv4Addr> {
    let v4 = |address: &SocketAddr| if let SocketAddr::V4(v4) = address { Some(*v4.ip()) } else { None };
    set.addresses().iter().filter_map(v4).collect()
}

#[tokio::test]
async fn nw_07_answers_are_used_as_far_as_they_may_be() {
    let discovery = discovery().await;
    for (label, of_request, of_file) in [
        ("good", &["10.0.0.1"][..], &["10.0.0.1"][..]),
        // The owner of a name must not be able to turn it to what this host alone reaches.
        ("metadata", &[], &[]),
        ("mixed", &["10.0.0.2"], &["10.0.0.2", "127.0.0.1"]),
        ("loopback", &[], &["127.0.0.1"]),
        ("unspecified", &[], &["0.0.0.0"]),
        ("at-once", &["10.0.0.3"], &["10.0.0.3"]),
        ("absent", &[], &[]),
        ("broken", &[], &[]),
        ("circle", &[], &[]),
    ] {
        for (of_template, expected) in [(true, of_request), (false, of_file)] {
            let started = Instant::now();
            let (_set, found) = first_answer(&discovery, &format!("{label}.test."), of_template).await;
            let expected: Vec<Ipv4Addr> = expected.iter().map(|text| text.parse().expect("an address")).collect();
            assert_eq!(found, expected, "{label}, of a request: {of_template}");
            assert!(started.elapsed() < Duration::from_secs(2), "{label} took {:?}", started.elapsed());
        }
    }
    let (_set, many) = first_answer(&discovery, "many.test.", true).await;
    assert_eq!(many.len(), 25);
}

/// Nobody waits longer than he said, and nothing is asked without end.
#[tokio::test]
async fn nw_07_silence_and_garbage_have_an_end() {
    let discovery = discovery().await;
    for label in ["silent", "garbled"] {
        let set = discovery.resolve(&Arc::from(format!("{label}.test.")), 80, true).expect("room");
        let started = Instant::now();
        set.first_answer(Duration::from_millis(300)).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{label}");
        assert!(set.addresses().is_empty() && set.generation() == 0, "{label}");
    }
}

/// A name that was harmless when it was first asked for.
#[tokio::test]
async fn nw_07_a_name_that_turns_to_a_metadata_service_leads_nowhere_any_more() {
    let discovery = discovery().await;
    let (set, found) = first_answer(&discovery, "rebinds.test.", false).await;
    assert_eq!(found, [Ipv4Addr::new(10, 0, 0, 4)]);
    let end = Instant::now() + Duration::from_secs(5);
    while !set.addresses().is_empty() {
        assert!(Instant::now() < end, "{:?}", set.addresses());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
