//! HTTP/1 towards upstreams: what an answer is, where it ends, and which connections carry another request (THREATS SM-14, SM-23).

use http::HeaderMap;
use postern_tests::app_raw::OK;
use postern_tests::client_http::{empty, with_trailers};
use postern_tests::pair::{inbound_section, outbound_section, service_section};
use postern_tests::{H1Client, H2Client, Mesh, Pair, RawApp, RawClient, Sidecar, TcpApp, eventually, ports, within};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A sidecar whose application calls `app` in plaintext, by connections that wait a second for the next request.
struct Caller {
    web: Sidecar,
    listen: SocketAddr,
    _mesh: Mesh,
}

impl Caller {
    async fn of(app: SocketAddr) -> Self {
        let (mesh, listen) = (Mesh::start(), ports::free());
        let lines = format!("endpoints: [\"{app}\"]\ntls: off\nprotocol: http");
        let sections = format!("workers: 1\n{}", service_section(listen, &lines));
        let web = mesh.sidecar("web", &sections).await;
        Self { web, listen, _mesh: mesh }
    }
}

#[tokio::test]
async fn sm_23_an_answer_whose_end_can_be_told_in_two_ways_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded: b\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let app =
            RawApp::answering(move |request| Some(if request.contains("/bad") { answer.into() } else { OK.to_vec() }))
                .await;
        let it = Caller::of(app.address).await;
        let mut client = RawClient::connect(it.listen).await;
        assert_eq!(client.get("a", "/bad").await.status, 502, "{answer:?}");
        assert_eq!(client.get("a", "/good").await.text(), "ok");
        let record = &it.web.records_of("request", 2).await[0];
        assert_eq!(record["refusal"], "upstream_protocol", "{record}");
        let with_bad = app.connections().into_iter().find(|bytes| bytes.starts_with(b"GET /bad")).unwrap();
        assert!(!String::from_utf8_lossy(&with_bad).contains("/good"), "{answer:?}");
    }
}

/// A sidecar in front of `app`, which is spoken to in HTTP/1 whatever its callers speak.
async fn in_front_of(app: SocketAddr) -> (Mesh, Sidecar, SocketAddr) {
    let (mesh, listen) = (Mesh::start(), ports::free());
    let port = "protocol: http\napp_http: 1\ntls: off\nallow: [{ anonymous: true }]";
    let orders = mesh.sidecar("orders", &inbound_section(listen, &app.to_string(), port)).await;
    (mesh, orders, listen)
}

#[tokio::test]
async fn sm_23_broken_chunks_of_an_answer_never_end_cleanly() {
    for body in ["3\r\nabcd\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\n\r\n", "xyz\r\n", "3\r\nabc\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n{body}");
        let app = RawApp::answering(move |request| {
            let is_broken = request.contains("/broken");
            Some(if is_broken { answer.clone().into_bytes() } else { OK.to_vec() })
        })
        .await;
        let (_mesh, _orders, listen) = in_front_of(app.address).await;
        // The last one waits for more, which never comes.
        let mut client = RawClient::connect(listen).await;
        client.send("GET /broken HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answered = tokio::time::timeout(Duration::from_millis(500), client.try_response()).await;
        assert!(!matches!(answered, Ok(Ok(_))), "{body:?}: {answered:?}");
        let mut http2 = H2Client::connect(listen).await;
        let answered = tokio::time::timeout(Duration::from_millis(500), http2.get("/broken")).await;
        assert!(!matches!(answered, Ok(Ok(_))), "{body:?}: {answered:?}");
        assert_eq!(RawClient::connect(listen).await.get("a", "/next").await.text(), "ok");
    }
}

/// Reads the head of a request.
async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn sm_23_what_comes_before_a_request_does_not_answer_it() {
    // As servers do that tell idle callers to go, and as one might that was talked into it.
    let said = Arc::new(Notify::new());
    let of_app = said.clone();
    let app = TcpApp::start(move |mut stream, _, number| {
        let said = of_app.clone();
        async move {
            head(&mut stream).await?;
            stream.write_all(OK).await?;
            if number == 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await?;
                said.notify_one();
            }
            head(&mut stream).await?;
            stream.write_all(OK).await
        }
    })
    .await;
    let it = Caller::of(app.address).await;
    let mut client = RawClient::connect(it.listen).await;
    assert_eq!(client.get("a", "/1").await.text(), "ok");
    within("it is said", said.notified()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.get("a", "/2").await.text(), "ok");
    assert_eq!(client.get("a", "/3").await.text(), "ok");
}

#[tokio::test]
async fn a_pooled_connection_that_the_other_side_ends_is_let_go_of() {
    let (ended, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let of_app = (ended.clone(), seen.clone());
    let app = TcpApp::start(move |mut stream, _, _| {
        let (ended, seen) = of_app.clone();
        async move {
            head(&mut stream).await?;
            stream.write_all(OK).await?;
            ended.notified().await;
            stream.shutdown().await?;
            assert_eq!(stream.read(&mut [0]).await?, 0);
            seen.notify_one();
            Ok(())
        }
    })
    .await;
    let it = Caller::of(app.address).await;
    assert_eq!(RawClient::connect(it.listen).await.get("a", "/1").await.text(), "ok");
    ended.notify_one();
    within("our end", seen.notified()).await;
}

#[tokio::test]
async fn a_body_ends_with_its_connection_where_nothing_else_tells_its_end() {
    for version in ["1.0", "1.1"] {
        let app = TcpApp::start(move |mut stream, _, _| async move {
            head(&mut stream).await?;
            stream.write_all(format!("HTTP/{version} 200 OK\r\n\r\nfirst, ").as_bytes()).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(b"second").await
        })
        .await;
        let it = Caller::of(app.address).await;
        for _ in 0..2 {
            let reply = H1Client::connect(it.listen).await.get("/x").await.unwrap();
            assert_eq!(reply.body, "first, second");
        }
        assert_eq!(app.connections().len(), 2, "none is used again");
    }
}

#[tokio::test]
async fn an_http_1_0_server_that_keeps_its_connections_is_taken_at_its_word() {
    let app = TcpApp::start(|mut stream, _, _| async move {
        loop {
            head(&mut stream).await?;
            stream.write_all(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await;
    let it = Caller::of(app.address).await;
    let mut client = H1Client::connect(it.listen).await;
    for _ in 0..3 {
        assert_eq!(client.get("/x").await.unwrap().body, "ok");
    }
    assert_eq!(app.connections().len(), 1);
}

#[tokio::test]
async fn trailers_go_through_in_both_directions_without_what_may_be_none() {
    let app = RawApp::answering(|request| {
        let is_whole = request.contains("\r\n0\r\n");
        let answer =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\nhost: evil\r\n\r\n";
        is_whole.then(|| answer.as_bytes().to_vec())
    })
    .await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "9".parse().unwrap());
    trailers.insert("authorization", "stolen".parse().unwrap());
    let (_mesh, _orders, listen) = in_front_of(app.address).await;
    let mut client = H2Client::connect(listen).await;
    let request = client.request("POST", "/x").body(with_trailers("body", trailers)).unwrap();
    let reply = client.send(request).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]));
    let trailers = reply.trailers.unwrap();
    assert!(trailers["x-sum"] == "7" && !trailers.contains_key("host"), "{trailers:?}");
    let text = app.text();
    assert!(text.ends_with("4\r\nbody\r\n0\r\nx-checksum: 9\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn sm_14_an_upload_goes_on_behind_a_whole_answer() {
    const LENGTH: usize = 4 << 20;
    let (answered, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let of_app = (answered.clone(), arrived.clone());
    let app = TcpApp::start(move |mut stream, _, _| {
        let (answered, arrived) = of_app.clone();
        async move {
            head(&mut stream).await?;
            stream.write_all(OK).await?;
            answered.notified().await;
            let mut body = vec![0; LENGTH];
            stream.read_exact(&mut body).await?;
            assert!(body.iter().all(|byte| *byte == b'x'));
            arrived.notify_one();
            Ok(())
        }
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send(format!("POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
    assert_eq!(client.response().await.text(), "ok");
    answered.notify_one();
    client.send(vec![b'x'; LENGTH]).await;
    within("the whole body", arrived.notified()).await;
}

#[tokio::test]
async fn sm_14_a_connection_whose_request_broke_off_behind_the_answers_head_carries_no_other() {
    // What the application still waits for would be taken from the next request.
    for (kind, part, end) in [
        ("content-length: 100\r\n\r\n", "ten bytes.", ""),
        ("transfer-encoding: chunked\r\n\r\n", "a\r\nten bytes.\r\n", "zz\r\n"),
    ] {
        let go_on = Arc::new(Notify::new());
        let of_app = go_on.clone();
        let app = TcpApp::start(move |mut stream, _, number| {
            let go_on = of_app.clone();
            async move {
                if number > 0 {
                    loop {
                        head(&mut stream).await?;
                        stream.write_all(OK).await?;
                    }
                }
                head(&mut stream).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await?;
                go_on.notified().await;
                stream.write_all(b"lf").await?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await?;
                assert!(!String::from_utf8_lossy(&rest).contains("GET"), "{}", String::from_utf8_lossy(&rest));
                Ok(())
            }
        })
        .await;
        let it = Caller::of(app.address).await;
        let mut client = RawClient::connect(it.listen).await;
        client.send(format!("POST /early HTTP/1.1\r\nhost: a\r\n{kind}{part}")).await;
        assert_eq!(client.head().await.unwrap().status, 200);
        client.send(end).await;
        client.end().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        go_on.notify_one();
        let _ = within("an end", client.until_ended()).await;
        for _ in 0..3 {
            assert_eq!(RawClient::connect(it.listen).await.get("a", "/next").await.text(), "ok", "{kind:?}");
        }
    }
}

/// Answers without end; `blocked` is told when nobody takes more of it, `ended` when its connection is gone.
async fn endless(blocked: Arc<Notify>, ended: Arc<Notify>) -> TcpApp {
    TcpApp::start(move |mut stream, _, _| {
        let (blocked, ended) = (blocked.clone(), ended.clone());
        async move {
            head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await?;
            let chunk = vec![b'x'; 1 << 16];
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
                written?;
            }
            blocked.notify_one();
            while stream.write(&chunk).await.is_ok_and(|written| written > 0) {}
            ended.notify_one();
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_is_cut_ends_the_request_of_a_caller_that_does_not_read() {
    for through in ["direct", "tunnel"] {
        let (blocked, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let app = endless(blocked.clone(), ended.clone()).await;
        let (mesh, listen, door, tunnel) = (Mesh::start(), ports::free(), ports::free(), ports::free());
        let port = format!("protocol: http\nallow: [{{ spiffe: {} }}]", postern_tests::mesh::WEB);
        let sections =
            format!("tunnel: {{ listen: {tunnel} }}\n{}", inbound_section(door, &app.address.to_string(), &port));
        let _orders = mesh.sidecar("orders", &sections).await;
        let (endpoint, via) = match through {
            "tunnel" => ("127.0.0.1:8080".parse().unwrap(), format!("\nvia: tunnel\ntunnel_port: {}", tunnel.port())),
            _ => (door, String::new()),
        };
        let service = |lines: &str| outbound_section(listen, endpoint, &format!("protocol: http{via}{lines}"));
        let web = mesh.sidecar("web", &service("")).await;
        let mut client = RawClient::connect(listen).await;
        client.send("GET /endless HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap().status, 200, "{through}");
        within("nothing moves any more", blocked.notified()).await;
        // Another identity is expected there now.
        let others = service("").replace(postern_tests::mesh::ORDERS, postern_tests::mesh::STRANGER);
        web.apply(&others).await.unwrap();
        let record = &web.records_of("request", 1).await[0];
        assert_eq!(record["end"], "policy_changed", "{through}: {record}");
        within("the application sees its end", ended.notified()).await;
        eventually("the caller's connection is gone", || {
            web.records()
                .iter()
                .any(|record| record["kind"] == "connection" && record["direction"] == "outbound")
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_without_a_body_says_so_where_one_might_be_expected() {
    let app = RawApp::ok().await;
    let it = Caller::of(app.address).await;
    let mut client = H1Client::connect(it.listen).await;
    for (method, says_so) in [("GET", false), ("POST", true), ("PUT", true), ("DELETE", false), ("PATCH", true)] {
        let path = format!("/{}", method.to_lowercase());
        let request = client.request(method, &path).body(empty()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 200);
        let text = app.text();
        let seen = &text[text.find(&path).unwrap()..];
        assert_eq!(seen.contains("content-length: 0\r\n"), says_so, "{seen}");
    }
}
