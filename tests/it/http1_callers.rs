//! HTTP/1 with callers: where a request ends, what may follow it, and what an answer looks like (THREATS SM, DS).

use postern_tests::app_raw::OK;
use postern_tests::pair::inbound_section;
use postern_tests::{Mesh, RawApp, RawClient, Sidecar, TcpApp, ports, within};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn in_front_of(app: SocketAddr) -> (Mesh, Sidecar, SocketAddr) {
    let (mesh, listen) = (Mesh::start(), ports::free());
    let port = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    let orders = mesh.sidecar("orders", &inbound_section(listen, &app.to_string(), port)).await;
    (mesh, orders, listen)
}

#[tokio::test]
async fn requests_are_the_same_however_slowly_they_come() {
    let app = RawApp::ok().await;
    let (_mesh, orders, listen) = in_front_of(app.address).await;
    let mut client = RawClient::connect(listen).await;
    let requests = "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
                    POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\ndef\r\n0\r\n\r\n\
                    GET /3 HTTP/1.1\r\nhost: a\r\n\r\n";
    for byte in requests.bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        assert_eq!(client.response().await.text(), "ok");
    }
    let text = app.text();
    assert!(text.contains("\r\n\r\nabc") && text.contains("3\r\ndef\r\n0\r\n\r\n"), "{text}");
    let paths: Vec<_> = orders.records_of("request", 3).await.iter().map(|record| record["url.path"].clone()).collect();
    assert_eq!(paths, ["/1", "/2", "/3"]);
}

#[tokio::test]
async fn an_upgrade_that_is_not_agreed_leaves_the_connection_to_the_next_request() {
    let app = RawApp::ok().await;
    let (_mesh, _orders, listen) = in_front_of(app.address).await;
    let mut client = RawClient::connect(listen).await;
    client.send("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "ok");
    assert_eq!(client.get("a", "/next").await.text(), "ok");
}

#[tokio::test]
async fn an_answer_to_an_http_1_0_caller_that_breaks_off_does_not_look_whole() {
    let app = TcpApp::start(|mut stream, _, number| async move {
        stream.read_exact(&mut [0; 16]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The first one ends in order.
        if number == 0 { stream.write_all(b"0\r\n\r\n").await } else { Ok(()) }
    })
    .await;
    let (_mesh, _orders, listen) = in_front_of(app.address).await;
    let mut whole = RawClient::connect(listen).await;
    whole.send("GET /x HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let answer = String::from_utf8(within("an answer", whole.to_end()).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\npart"), "{answer}");
    let mut broken = RawClient::connect(listen).await;
    broken.send("GET /x HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(within("an end", broken.to_end()).await.is_err(), "a reset, not an end");
}

#[tokio::test]
async fn sm_14_what_follows_a_body_that_nobody_reads_is_no_request() {
    let app = RawApp::answering(|_| Some(OK.to_vec())).await;
    let (_mesh, orders, listen) = in_front_of(app.address).await;
    let mut client = RawClient::connect(listen).await;
    // Refused before its body is asked for.
    client
        .send("POST /%zz HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("connection")), (400, Some("close")));
    client.send_what_is_taken("GET /more HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.until_ended().await.is_empty());
    assert_eq!(orders.records_of("request", 1).await.len(), 1);
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn a_tunnel_may_live_longer_than_an_answer_may_wait() {
    let app = TcpApp::start(|mut stream, _, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    })
    .await;
    let (mesh, listen) = (Mesh::start(), ports::free());
    let port = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    let section = inbound_section(listen, &app.address.to_string(), port);
    let _orders = mesh.sidecar("orders", &format!("{section}timeouts: {{ write_stall: 1s, stream_idle: 1s }}\n")).await;
    let mut client = RawClient::connect(listen).await;
    client.send("GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 101);
    for _ in 0..8 {
        client.send("ping").await;
        assert_eq!(client.take(4).await.unwrap(), b"ping");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn sm_03_a_length_that_no_body_has_is_refused_before_it_is_decided() {
    let app = RawApp::ok().await;
    let (_mesh, orders, listen) = in_front_of(app.address).await;
    let mut client = RawClient::connect(listen).await;
    client.send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    let record = &orders.records_of("request", 1).await[0];
    assert!(record["refusal"] == "bad_request" && record.get("rule").is_none(), "{record}");
    app.assert_nothing_arrived();
}
