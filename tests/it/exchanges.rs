//! The course of a request: expectations, early answers, upgrades, half-close, and what a bad answer becomes.

use bytes::Bytes;
use http_body::Frame;
use postern_tests::app_raw::OK;
use postern_tests::client_http::{channel, empty};
use postern_tests::{H1Client, H2Client, HttpApp, Pair, RawApp, RawClient, within};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn sm_15_we_answer_100_continue_and_unknown_expectations_get_417() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 100);
    client.send("body").await;
    assert_eq!(client.response().await.status, 200);
    let text = app.text();
    assert!(text.ends_with("body") && !text.to_lowercase().contains("expect"), "{text}");

    for expectation in ["y 100-continue", "200-ok"] {
        let mut client = RawClient::connect(pair.outbound).await;
        client
            .send(format!(
                "POST /evil HTTP/1.1\r\nhost: orders.shop.svc\r\nexpect: {expectation}\r\ncontent-length: 4\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response().await.status, 417, "{expectation}");
    }
    assert!(!app.text().contains("evil"));
}

#[tokio::test]
async fn sm_14_an_answer_before_the_end_of_the_body_poisons_nothing() {
    let app = RawApp::answering_early(|head| {
        let status = if head.starts_with("POST") { "404 Not Found" } else { "200 OK" };
        Some(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok").into_bytes())
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    // CL.0: the answer comes while most of the body, which looks like a request, has not been sent.
    client.send("POST /early HTTP/1.1\r\nhost: orders.shop.svc\r\ncontent-length: 60\r\n\r\nGET /adm").await;
    assert_eq!(client.response().await.status, 404);
    for _ in 0..3 {
        let mut other = H1Client::connect(pair.outbound).await;
        assert_eq!(other.get("/next").await.unwrap().status, 200);
    }
    // The application saw the next request on another connection: the one with the unfinished body was not used again.
    let connections = app.connections();
    let early = connections.iter().filter(|bytes| bytes.starts_with(b"POST /early")).count();
    assert_eq!(early, 1);
    for bytes in connections.iter().filter(|bytes| bytes.starts_with(b"POST /early")) {
        assert!(!String::from_utf8_lossy(bytes).contains("/next"));
    }
}

#[tokio::test]
async fn an_early_answer_reaches_an_http2_caller_whose_stream_is_still_open() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H2Client::connect(pair.outbound).await;
    let (sender, body) = channel();
    let request = client.request("POST", "/early").body(body).unwrap();
    let reply = client.send(request).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (404, &b"early"[..]));
    drop(sender);
    assert_eq!(client.get("/next").await.unwrap().status, 200);
}

#[tokio::test]
async fn ds_10_a_body_waits_for_a_slow_application_without_being_gathered() {
    // An application that never reads: what the caller can send is bounded by windows and socket buffers.
    let app = postern_tests::TcpApp::start(|stream, _, _| async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
        Ok(())
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = H1Client::connect(pair.outbound).await;
    let (sender, body) = channel();
    let request = client.request("POST", "/up").body(body).unwrap();
    let sending = tokio::spawn(async move { client.send(request).await });
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    let mut sent = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(500), sender.send(Ok(Frame::data(chunk.clone())))).await
    {
        sent += 1;
        assert!(sent < 64, "64 MiB went into a mesh whose application reads nothing");
    }
    sending.abort();
}

#[tokio::test]
async fn sm_21_nothing_after_the_head_of_an_upgrade_reaches_the_application_before_its_101() {
    const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    let request = format!(
        "GET /public HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{SMUGGLED}"
    );
    // Refused by the application: the bytes are the next request, decided as such.
    let app = RawApp::ok().await;
    let port = format!("protocol: http\nallow: [{{ spiffe: {}, paths: [/public] }}]", postern_tests::mesh::WEB);
    for service in ["protocol: tcp", "protocol: http"] {
        let pair = Pair::with(postern_tests::Mesh::start(), app.address, &port, service).await;
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(&request).await;
        assert_eq!(client.response().await.status, 200);
        let rest = String::from_utf8_lossy(&client.until_ended_or_response().await).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 403"), "{rest:?}");
        assert!(!app.text().contains("/admin"), "{}", app.text());
    }
}

#[tokio::test]
async fn an_upgrade_is_carried_and_recorded_once() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("GET /upgrade HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    client.send("frames").await;
    assert_eq!(client.take(6).await.unwrap(), b"frames");
    drop(client);
    for sidecar in [&pair.web, &pair.orders] {
        let record = &sidecar.records_of("request", 1).await[0];
        assert_eq!(record["http.response.status_code"], 101);
        assert_eq!((&record["http.request.body.size"], &record["http.response.body.size"]), (&6.into(), &6.into()));
        sidecar.records_of("connection", 1).await;
    }
    assert_eq!(app.last().all("sec-websocket-version"), ["13"]);
}

#[tokio::test]
async fn sm_20_h2c_upgrades_are_not_passed_on() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status, 200);
    let text = app.text().to_lowercase();
    assert!(!text.contains("h2c") && !text.contains("http2-settings") && !text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client
        .send("POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 3\r\n\r\nabc")
        .await;
    assert_eq!(client.response().await.status, 400);
    app.assert_nothing_arrived();
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let app = RawApp::answering(|_| {
        Some(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nsmuggled".to_vec())
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    assert_eq!(client.get("orders.shop.svc", "/x").await.status, 502);
    let mut http2 = H2Client::connect(pair.outbound).await;
    let reply = http2.get("/x").await.unwrap();
    assert_eq!(reply.status, 502, "{reply:?}");
}

#[tokio::test]
async fn connection_close_is_honoured() {
    let app = RawApp::ok().await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\nconnection: close\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert!(client.to_end().await.unwrap().is_empty());
    // It was about that connection only.
    assert!(!app.text().to_lowercase().contains("connection: close"), "{}", app.text());
}

#[tokio::test]
async fn ds_12_a_caller_that_ends_its_side_still_gets_its_answer() {
    let app = RawApp::answering(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Some(OK.to_vec())
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    client.end().await;
    assert_eq!(client.response().await.status, 200);
    assert!(client.to_end().await.unwrap().is_empty());
    pair.web.records_of("request", 1).await;
    pair.web.records_of("connection", 1).await;
}

#[tokio::test]
async fn sm_23_answers_that_are_no_http_are_a_bad_gateway_and_their_connection_is_not_used_again() {
    let bad: &[&str] = &[
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 2\r\n\r\nok",
        "nonsense\r\n\r\n",
        "HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ];
    for answer in bad {
        let answer = answer.as_bytes().to_vec();
        let app =
            RawApp::answering(move |request| Some(if request.contains("/bad") { answer.clone() } else { OK.to_vec() }))
                .await;
        let pair = Pair::http(app.address).await;
        let mut client = RawClient::connect(pair.outbound).await;
        let response = client.get("orders.shop.svc", "/bad").await;
        assert_eq!(response.status, 502, "{response:?}");
        assert_eq!(client.get("orders.shop.svc", "/good").await.status, 200);
        let with_bad = app.connections().into_iter().find(|bytes| bytes.starts_with(b"GET /bad")).unwrap();
        assert!(!String::from_utf8_lossy(&with_bad).contains("/good"));
        let record = &pair.orders.records_of("request", 2).await[0];
        assert!(record["refusal"].as_str().is_some_and(|code| code.starts_with("upstream_")), "{record}");
    }
}

#[tokio::test]
async fn sm_23_bytes_behind_an_answer_are_no_answer_to_the_next_request() {
    let app = RawApp::answering(|request| {
        let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let extra = if request.contains("/first") { smuggled } else { "" };
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{extra}").into_bytes())
    })
    .await;
    let pair = Pair::http(app.address).await;
    let mut client = RawClient::connect(pair.outbound).await;
    assert_eq!(client.get("orders.shop.svc", "/first").await.text(), "ok");
    for _ in 0..5 {
        assert_eq!(client.get("orders.shop.svc", "/next").await.text(), "ok");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off_at_the_other_side() {
    // The application announces more than it sends, and dies.
    let app = RawApp::answering(|_| {
        Some(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 100\r\n\r\nonly this".to_vec())
    })
    .await;
    let port = format!("protocol: http\napp_http: 1\nallow: [{{ spiffe: {} }}]", postern_tests::mesh::WEB);
    let pair = Pair::with(postern_tests::Mesh::start(), app.address, &port, "protocol: http").await;
    let mut client = RawClient::connect(pair.outbound).await;
    client.send("GET /x HTTP/1.1\r\nhost: orders.shop.svc\r\n\r\n").await;
    assert!(client.try_response().await.is_err());
    let mut http2 = H2Client::connect(pair.outbound).await;
    assert!(http2.get("/x").await.is_err(), "no clean end of the stream");
    let record = pair.web.records_of("request", 2).await;
    assert!(record.iter().all(|record| record["end"].is_string()), "{record:#?}");
}

#[tokio::test]
async fn f_27_a_caller_that_leaves_ends_its_request_at_the_application_and_is_recorded() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    // HTTP/2 says so; over HTTP/1, where a caller may end its side and still listen, the next bytes find out.
    let mut http1 = H1Client::connect(pair.outbound).await;
    let request = http1.request("GET", "/ticks").body(empty()).unwrap();
    let response = within("a head", http1.sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    http1.connection.abort();
    let mut http2 = H2Client::connect(pair.outbound).await;
    let request = http2.request("GET", "/stream").body(empty()).unwrap();
    let response = within("a head", http2.sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    for sidecar in [&pair.web, &pair.orders] {
        let records = sidecar.records_of("request", 2).await;
        assert!(records.iter().all(|record| record["end"].is_string()), "{records:#?}");
    }
}

#[tokio::test]
async fn f_27_an_upload_that_breaks_off_never_looks_whole() {
    let app = RawApp::ok().await;
    let port = format!("protocol: http\napp_http: 1\nallow: [{{ spiffe: {} }}]", postern_tests::mesh::WEB);
    let pair = Pair::with(postern_tests::Mesh::start(), app.address, &port, "protocol: http").await;
    for (number, framing, body) in
        [(1, "content-length: 100", "only this"), (2, "transfer-encoding: chunked", "4\r\nonly\r\n")]
    {
        let mut client = RawClient::connect(pair.outbound).await;
        client.send(format!("POST /up/{number} HTTP/1.1\r\nhost: orders.shop.svc\r\n{framing}\r\n\r\n{body}")).await;
        app.until_text("only").await;
        drop(client);
    }
    let mut client = H2Client::connect(pair.outbound).await;
    let (sender, body) = channel();
    let request = client.request("POST", "/up/3").body(body).unwrap();
    client.sender.ready().await.unwrap();
    let sending = tokio::spawn(client.sender.send_request(request));
    sender.send(Ok(Frame::data(Bytes::from_static(b"half of it")))).await.unwrap();
    app.until_text("half of it").await;
    sending.abort();
    drop(sending.await);
    let records = pair.orders.records_of("request", 3).await;
    assert!(records.iter().all(|record| record["end"].is_string() || record["refusal"].is_string()), "{records:#?}");
    assert!(!app.text().contains("\r\n0\r\n\r\n"), "no clean end: {}", app.text());
    // Nothing of a broken upload is in front of the next request.
    let mut client = RawClient::connect(pair.outbound).await;
    assert_eq!(client.get("orders.shop.svc", "/next").await.status, 200);
    let with_next =
        app.connections().into_iter().find(|bytes| String::from_utf8_lossy(bytes).contains("/next")).unwrap();
    assert!(with_next.starts_with(b"GET /next"), "{}", String::from_utf8_lossy(&with_next));
}

#[tokio::test]
async fn a_caller_that_leaves_before_there_is_an_answer_is_counted() {
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let mut client = H2Client::connect(pair.outbound).await;
    let request = client.request("GET", "/hang").body(empty()).unwrap();
    let asking = tokio::spawn(client.sender.send_request(request));
    postern_tests::eventually("it is at the application", || app.seen().pop()).await;
    asking.abort();
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.orders, "inbound")] {
        let record = &sidecar.records_of("request", 1).await[0];
        assert_eq!(record["end"], "caller_closed", "{record}");
        let requests =
            format!("postern_requests_total{{direction=\"{direction}\",name=\"orders\",status=\"unanswered\"}}");
        assert_eq!(sidecar.metric(&requests), 1.0);
    }
}

#[tokio::test]
async fn sm_23_interim_answers_are_no_answer_and_do_not_go_on_for_ever() {
    // A thousand, and then an answer; and one that never comes.
    let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
    let app = postern_tests::TcpApp::start(move |mut stream, _, number| async move {
        // The request is shorter than that; what counts is that it has begun.
        let mut begun = [0; 16];
        stream.read_exact(&mut begun).await?;
        if number == 0 {
            stream.write_all(&interim.repeat(1000)).await?;
            return stream.write_all(OK).await;
        }
        loop {
            stream.write_all(&interim.repeat(10)).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (mesh, listen) = (postern_tests::Mesh::start(), postern_tests::ports::free());
    let lines = "protocol: http\ntls: off\nallow: [{ anonymous: true }]";
    let section = postern_tests::pair::inbound_section(listen, &app.address.to_string(), lines);
    let orders = mesh.sidecar("orders", &format!("{section}timeouts: {{ stream_idle: 1s }}\n")).await;
    let first = RawClient::connect(listen).await.get("a", "/first").await;
    assert_eq!((first.status, first.text().as_str()), (200, "ok"));
    assert_eq!(RawClient::connect(listen).await.get("a", "/second").await.status, 504);
    let records = orders.records_of("request", 2).await;
    assert_eq!(records[1]["refusal"], "upstream_timeout", "{}", records[1]);
}
