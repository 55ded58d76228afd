//! L7 through a pair: versions, bodies, trailers, and what each side is told of the other.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use postern_tests::client_http::{channel, empty, full, with_trailers};
use postern_tests::mesh::{ORDERS, WEB};
use postern_tests::pair::inbound_section;
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, ports, within};

#[tokio::test]
async fn http1_keeps_its_version_and_the_application_learns_who_called() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H1Client::connect(pair.outbound).await;
    for count in 0..3 {
        let reply = client.get(&format!("/orders/{count}?q=1")).await.unwrap();
        assert_eq!(reply.status, 200);
        let seen = app.last();
        assert_eq!((seen.version, seen.target.as_str()), ("1.1", format!("/orders/{count}?q=1").as_str()));
        assert_eq!(seen.all("host"), ["orders.shop.svc"]);
        assert_eq!(seen.all("x-spiffe-id"), [WEB]);
        let xfcc = seen.all("x-forwarded-client-cert");
        assert_eq!(xfcc.len(), 1);
        assert!(xfcc[0].starts_with(&format!("By={ORDERS};Hash=")), "{xfcc:?}");
        assert!(xfcc[0].ends_with(&format!(";URI={WEB}")), "{xfcc:?}");
    }
    drop(client);

    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.orders, "inbound")] {
        let requests = sidecar.records_of("request", 3).await;
        assert!(requests.iter().all(|it| it["direction"] == direction && it["http.response.status_code"] == 200));
        assert!(requests.iter().all(|it| it["url.path"].as_str().is_some_and(|path| !path.contains('?'))));
    }
    let connection = &pair.web.records_of("connection", 1).await[0];
    assert_eq!(connection["requests"], 3);
    let inbound = &pair.orders.records_of("request", 3).await[0];
    assert_eq!((&inbound["peer.spiffe_id"], &inbound["own.spiffe_id"]), (&WEB.into(), &ORDERS.into()));
}

#[tokio::test]
async fn http2_keeps_its_version_end_to_end() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H2Client::connect(pair.outbound).await;
    let reply = client.get("/orders").await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = app.last();
    assert_eq!((seen.version, seen.target.as_str()), ("2", "http://orders.shop.svc/orders"));
    assert_eq!(seen.all("x-spiffe-id"), [WEB]);
    assert_eq!(pair.orders.records_of("request", 1).await[0]["network.protocol.version"], "2");
}

#[tokio::test]
async fn app_http_translates_the_version_with_host_and_cookies() {
    let app = HttpApp::start().await;
    for (app_http, expected) in [("1", "1.1"), ("2", "2")] {
        let port = format!("protocol: http\napp_http: {app_http}\nallow: [{{ spiffe: {WEB} }}]");
        let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;

        let mut http1 = H1Client::connect(pair.outbound).await;
        let request = http1.request("POST", "/one").header("cookie", "a=1; b=2").body(full("abc")).unwrap();
        assert_eq!(http1.send(request).await.unwrap().status, 200);
        let seen = app.last();
        assert_eq!((seen.version, &seen.body[..]), (expected, &b"abc"[..]));
        assert_eq!(seen.all("cookie").join("; "), "a=1; b=2");

        let mut http2 = H2Client::connect(pair.outbound).await;
        let request = http2.request("POST", "/two").header("cookie", "a=1").header("cookie", "b=2");
        assert_eq!(http2.send(request.body(full("abcd")).unwrap()).await.unwrap().status, 200);
        let seen = app.last();
        assert_eq!((seen.version, &seen.body[..]), (expected, &b"abcd"[..]));
        assert_eq!(seen.all("cookie").join("; "), "a=1; b=2");
        if expected == "1.1" {
            assert_eq!(seen.all("cookie"), ["a=1; b=2"], "HD-24: one line");
            assert_eq!(seen.all("host"), ["orders.shop.svc"]);
            assert_eq!(seen.target, "/two");
        } else {
            assert_eq!(seen.target, "http://orders.shop.svc/two");
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_without_forged_identity() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut trailers = HeaderMap::new();
    for (name, value) in [("x-sum", "42"), ("x-spiffe-id", "spiffe://forged/x"), ("x_forwarded_client_cert", "URI=x")] {
        trailers.insert(name, HeaderValue::from_static(value));
    }
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    for is_http2 in [false, true] {
        let body = with_trailers("body", trailers.clone());
        let reply = if is_http2 {
            let request = http2.request("POST", "/trailers").header("te", "trailers");
            http2.send(request.body(body).unwrap()).await.unwrap()
        } else {
            let request = http1.request("POST", "/trailers").header("te", "trailers");
            let request = request.header("trailer", "x-sum, x-spiffe-id, x_forwarded_client_cert");
            http1.send(request.body(body).unwrap()).await.unwrap()
        };
        let seen = app.last();
        assert_eq!(&seen.body[..], b"body");
        assert_eq!(seen.trailers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-sum"], "http2 {is_http2}");
        assert_eq!(&reply.body[..], b"body");
        let back = reply.trailers.expect("trailers");
        assert_eq!(back.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-checksum"], "http2 {is_http2}");
    }
}

#[tokio::test]
async fn head_204_and_304_have_no_body_and_keep_the_connection() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    for (method, path, status) in [("HEAD", "/bytes/17", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)]
    {
        let request = client.request(method, path).body(empty()).unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.len()), (status, 0), "{method} {path}");
        if method == "HEAD" {
            assert_eq!(reply.header("content-length"), "17");
        }
        let request = http2.request(method, path).body(empty()).unwrap();
        let reply = http2.send(request).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.len()), (status, 0), "HTTP/2 {method} {path}");
    }
    assert_eq!(client.get("/after").await.unwrap().status, 200);
    assert_eq!(pair.web.records_of("request", 7).await.len(), 7);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("GET /old HTTP/1.0\r\nhost: orders.shop.svc\r\n\r\n").await;
    let all = String::from_utf8(client.to_end().await.unwrap()).unwrap();
    assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("ok"), "{all:?}");
    assert!(app.text().starts_with("GET /old HTTP/1.1\r\n"), "{}", app.text());
    assert_eq!(pair.web.records_of("request", 1).await[0]["network.protocol.version"], "1.0");
}

/// The hop's version is ours (RFC 9110 §6.2), so the application may answer in a form that HTTP/1.0 does not know
/// (RFC 9112 §6.1): the caller must not see it.
#[tokio::test]
async fn http_1_0_gets_a_chunked_answer_without_its_chunks() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n";
    let app = RawApp::answering(move |_| Some(chunked.as_bytes().to_vec())).await;
    let pair = Pair::http(app.address).await;
    for connection in ["", "connection: keep-alive\r\n"] {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("GET /old HTTP/1.0\r\nhost: orders.shop.svc\r\n{connection}\r\n")).await;
        // Without a length, its end is the connection's, whatever the caller would have liked.
        let all = String::from_utf8(client.to_end().await.unwrap()).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200"), "{all:?}");
        assert_eq!(body, "hello world", "{connection:?}");
        let head = head.to_lowercase();
        assert!(!head.contains("transfer-encoding") && !head.contains("keep-alive"), "{connection:?} {head:?}");
    }
}

#[tokio::test]
async fn http_1_0_keeps_its_connection_where_it_asks_for_it() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    for count in 0..3 {
        let request = format!("GET /{count} HTTP/1.0\r\nhost: orders.shop.svc\r\nconnection: keep-alive\r\n\r\n");
        client.send(request).await;
        let response = client.response().await;
        assert_eq!((response.status, response.header("connection")), (200, Some("keep-alive")), "{count}");
        assert_eq!(response.body, b"ok");
    }
    client.send("GET /last HTTP/1.0\r\nhost: orders.shop.svc\r\n\r\n").await;
    assert!(String::from_utf8(client.to_end().await.unwrap()).unwrap().ends_with("ok"));
    assert_eq!(pair.web.records_of("connection", 1).await[0]["requests"], 4);
    assert!(!app.text().to_lowercase().contains("keep-alive"), "a word for this hop only: {}", app.text());
}

#[tokio::test]
async fn http_1_0_is_told_when_its_connection_ends_in_order() {
    let app = RawApp::ok().await;
    let (mesh, listen) = (Mesh::start(), ports::free());
    let lines = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    let orders = mesh.sidecar("orders", &inbound_section(listen, &app.address.to_string(), lines)).await;
    let request = "GET /old HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n";
    let mut client = RawClient::connect(listen).await;
    assert_eq!(client.response_to(request).await.header("connection"), Some("keep-alive"));
    let drained = orders.drain(std::time::Duration::from_secs(20));
    // The worker learns of it a moment later.
    let mut response = client.response_to(request).await;
    while response.header("connection") == Some("keep-alive") {
        response = client.response_to(request).await;
    }
    assert_eq!(response.header("connection"), Some("close"), "and nothing that contradicts it");
    assert!(client.until_ended().await.is_empty());
    within("the drain ends", drained).await.unwrap();
}

/// RFC 9110 §15.2: a server must not send 1xx to an HTTP/1.0 client.
#[tokio::test]
async fn http_1_0_gets_no_interim_answer() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let app = RawApp::answering(move |_| Some(early.as_bytes().to_vec())).await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("POST /old HTTP/1.0\r\nhost: orders.shop.svc\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx")
        .await;
    let all = String::from_utf8(client.to_end().await.unwrap()).unwrap();
    assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("ok") && !all.contains("103"), "{all:?}");
}

#[tokio::test]
async fn sm_16_a_get_with_a_body_loses_nothing() {
    let app = HttpApp::start().await;
    let port = format!("protocol: http\napp_http: 1\nallow: [{{ spiffe: {WEB} }}]");
    let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    for method in ["GET", "DELETE", "OPTIONS"] {
        let request = http1.request(method, "/body").body(full("one")).unwrap();
        assert_eq!(http1.send(request).await.unwrap().json()["body"], "one", "{method}");
        let (sender, body) = channel();
        let request = http2.request(method, "/body").body(body).unwrap();
        let sending = tokio::spawn(async move { sender.send(Ok(Frame::data(Bytes::from_static(b"two")))).await });
        assert_eq!(http2.send(request).await.unwrap().json()["body"], "two", "{method}");
        sending.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    const SIZE: usize = 4 << 20;
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut http1 = H1Client::connect(pair.outbound).await;
    let mut http2 = H2Client::connect(pair.outbound).await;
    let request = http1.request("POST", "/up").body(full(vec![b'u'; SIZE])).unwrap();
    assert_eq!(http1.send(request).await.unwrap().json()["length"], SIZE);
    assert_eq!(http1.get(&format!("/bytes/{SIZE}")).await.unwrap().body.len(), SIZE);
    let request = http2.request("POST", "/up").body(full(vec![b'u'; SIZE])).unwrap();
    assert_eq!(http2.send(request).await.unwrap().json()["length"], SIZE);
    assert_eq!(http2.get(&format!("/bytes/{SIZE}")).await.unwrap().body.len(), SIZE);
}

#[tokio::test]
async fn grpc_streams_both_ways_and_ends_with_its_status() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H2Client::connect(pair.outbound).await;
    let (sender, body) = channel();
    let request =
        client.request("POST", "/grpc/Echo").header("content-type", "application/grpc").header("te", "trailers");
    let response = client.sender.send_request(request.body(body).unwrap());
    sender.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let mut response = within("the head before the end of the request", response).await.unwrap();
    for expected in ["one", "two", "three"] {
        let frame = within("a message", response.frame()).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), expected);
        let next = match expected {
            "one" => "two",
            "two" => "three",
            _ => break,
        };
        sender.send(Ok(Frame::data(Bytes::from_static(next.as_bytes())))).await.unwrap();
    }
    drop(sender);
    let frame = within("the trailers", response.frame()).await.unwrap().unwrap();
    assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "0");
    assert_eq!(app.last().all("te"), ["trailers"], "gRPC demands it end to end");

    let request = client.request("POST", "/grpc-error").header("content-type", "application/grpc");
    let reply = client.send(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "5"), "trailers only");

    // What does not speak gRPC has no such status, whatever its answer says.
    assert_eq!(client.get("/grpc-error").await.unwrap().status, 200);
    drop(response);
    for sidecar in [&pair.web, &pair.orders] {
        let records = sidecar.records_of("request", 3).await;
        let mut statuses: Vec<_> = records.iter().map(|it| it["rpc.grpc.status_code"].as_u64()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [None, Some(0), Some(5)], "{records:#?}");
    }
}

#[tokio::test]
async fn grpc_refusals_come_as_a_status() {
    let app = HttpApp::start().await;
    let port = "protocol: http\nallow: [{ spiffe: spiffe://shop.example/ns/nobody/sa/x }]";
    let pair = Pair::with(Mesh::start(), app.address, port, "protocol: http").await;
    let mut client = H2Client::connect(pair.outbound).await;
    let request = client.request("POST", "/grpc/Echo").header("content-type", "application/grpc");
    let reply = client.send(request.body(full("x")).unwrap()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("grpc-status")), (200, "7"));
    assert!(app.seen().is_empty());
    let record = &pair.web.records_of("request", 1).await[0];
    assert_eq!(record["refusal.remote"], "not_allowed");
    for sidecar in [&pair.web, &pair.orders] {
        assert_eq!(sidecar.records_of("request", 1).await[0]["rpc.grpc.status_code"], 7);
    }
}

#[tokio::test]
async fn an_application_on_a_unix_socket_is_reached() {
    let mesh = Mesh::start();
    let path = mesh.directory().join("app.sock");
    let app = HttpApp::on_unix_socket(&path).await;
    let listen = ports::free();
    let lines = "tls: off\nprotocol: http\nallow: [{ anonymous: true }]";
    let section = inbound_section(listen, &format!("unix:{}", path.display()), lines);
    let _orders = mesh.sidecar("orders", &section).await;
    let mut client = H1Client::connect(listen).await;
    assert_eq!(client.get("/x").await.unwrap().status, 200);
    assert_eq!(app.last().target, "/x");
    assert!(app.last().all("x-spiffe-id").is_empty());
}
