//! Upstreams that refuse, go away, fall silent or break off: what is sent again, what is passed over, and what is refused
//! at once (THREATS F-20 to F-26, H2-15, DS-09).

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use postern_tests::app_raw::OK;
use postern_tests::client_http::full;
use postern_tests::pair::service_section;
use postern_tests::{
    H1Client, H2Client, HttpApp, Mesh, Pair, RawApp, RawClient, Sidecar, TcpApp, eventually, ports, within,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A sidecar whose application calls these endpoints, in plaintext.
struct Caller {
    web: Sidecar,
    listen: SocketAddr,
    _mesh: Mesh,
}

impl Caller {
    async fn of(endpoints: &[SocketAddr], lines: &str) -> Self {
        let (mesh, listen) = (Mesh::start(), ports::free());
        let endpoints = endpoints.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", ");
        let lines = format!("endpoints: [{endpoints}]\ntls: off\nprotocol: http\n{lines}");
        // Each worker counts for itself.
        let sections = format!("workers: 1\n{}", service_section(listen, &lines));
        let web = mesh.sidecar("web", &sections).await;
        Self { web, listen, _mesh: mesh }
    }

    fn retries(&self, result: &str) -> f64 {
        self.web.metric(&format!("postern_retries_total{{direction=\"outbound\",name=\"orders\",result=\"{result}\"}}"))
    }

    fn metric(&self, name: &str) -> f64 {
        self.web.metric(&format!("{name}{{direction=\"outbound\",name=\"orders\"}}"))
    }
}

/// An HTTP/2 application, and how many streams it has seen. `answer` gets each with its number, from 0; false ends its connection.
async fn of_streams(
    answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> bool + Send + Sync + 'static,
) -> (TcpApp, Arc<AtomicUsize>) {
    let streams = Arc::new(AtomicUsize::new(0));
    let (of_app, answer) = (streams.clone(), Arc::new(answer));
    let app = TcpApp::start(move |stream, _, _| {
        let (streams, answer) = (of_app.clone(), answer.clone());
        async move {
            let mut connection = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
            while let Some(Ok((request, respond))) = connection.accept().await {
                if !answer(streams.fetch_add(1, Relaxed), request, respond) {
                    break;
                }
            }
            Ok(())
        }
    })
    .await;
    (app, streams)
}

/// Refuses the first so many streams when it has read so much of their bodies, and sends back the bodies of the others.
async fn refusing_streams(refused: usize, when_read: usize) -> (TcpApp, Arc<AtomicUsize>) {
    of_streams(move |number, request, mut respond| {
        let is_refused = number < refused;
        tokio::spawn(async move {
            let (mut body, mut read) = (request.into_body(), Vec::new());
            while !(is_refused && read.len() >= when_read)
                && let Some(Ok(more)) = body.data().await
            {
                read.extend_from_slice(&more);
                let _ = body.flow_control().release_capacity(more.len());
            }
            if is_refused {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(Bytes::from(read), true).unwrap();
        });
        true
    })
    .await
}

#[tokio::test]
async fn h2_15_a_refused_stream_is_sent_again_once_whatever_its_method() {
    for (method, body) in [(Method::GET, ""), (Method::POST, ""), (Method::POST, "a body of some bytes")] {
        let (app, streams) = refusing_streams(1, 1).await;
        let it = Caller::of(&[app.address], "").await;
        let mut client = H2Client::connect(it.listen).await;
        let request = client.request(method.as_str(), "/x").body(full(body)).unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, body.as_bytes()), "{method}");
        assert_eq!((streams.load(Relaxed), it.retries("unprocessed")), (2, 1.0), "{method}");
        it.web.records_of("request", 1).await;
    }
}

#[tokio::test]
async fn h2_15_a_stream_that_is_refused_twice_is_not_sent_a_third_time() {
    let (app, streams) = refusing_streams(usize::MAX, 1).await;
    let it = Caller::of(&[app.address], "").await;
    let mut client = H2Client::connect(it.listen).await;
    let request = client.request("POST", "/x").body(full("body")).unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 502);
    assert_eq!(streams.load(Relaxed), 2);
    assert_eq!(it.web.records_of("request", 1).await[0]["refusal"], "upstream_closed");
}

#[tokio::test]
async fn h2_15_a_body_that_is_too_long_to_be_kept_is_not_sent_again() {
    for (length, expected) in [(60_000, 200), (200_000, 502)] {
        let (app, streams) = refusing_streams(1, length).await;
        let it = Caller::of(&[app.address], "").await;
        let mut client = H2Client::connect(it.listen).await;
        let request = client.request("POST", "/x").body(full(vec![b'x'; length])).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, expected, "{length} bytes");
        assert_eq!(streams.load(Relaxed), if expected == 200 { 2 } else { 1 }, "{length} bytes");
    }
}

/// SETTINGS, then GOAWAY with this last stream as soon as a request is there; the next connections are `app`'s.
async fn going_away(last: u32, app: SocketAddr) -> TcpApp {
    TcpApp::start(move |mut stream: TcpStream, capture, connection| async move {
        if connection > 0 {
            let mut app = TcpStream::connect(app).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut app).await?;
            return Ok(());
        }
        let _ = capture;
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        // Its head, and its body.
        while !seen.windows(4).any(|window| window == b"body") {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            seen.extend_from_slice(&buffer[..length]);
        }
        let mut goaway = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        goaway.extend_from_slice(&last.to_be_bytes());
        goaway.extend_from_slice(&[0; 4]);
        stream.write_all(&goaway).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn h2_15_streams_above_a_goaways_last_are_sent_again_and_those_below_are_not() {
    for (last, expected) in [(0, 200), (1, 502)] {
        let app = HttpApp::start().await;
        let front = going_away(last, app.address).await;
        let it = Caller::of(&[front.address], "").await;
        let mut client = H2Client::connect(it.listen).await;
        let request = client.request("POST", "/x").body(full("body")).unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!(reply.status, expected, "last stream {last}: {reply:?}");
        assert_eq!(app.seen().len(), usize::from(expected == 200), "last stream {last}");
        assert_eq!(it.retries("unprocessed"), f64::from(u8::from(expected == 200)));
    }
}

/// Closes instead of answering `/second`, the first so many times.
async fn closing_at_the_second(times: usize) -> RawApp {
    let seen = AtomicUsize::new(0);
    let closes = move |request: &str| request.contains("/second") && seen.fetch_add(1, Relaxed) < times;
    RawApp::answering(move |request| (!closes(request)).then(|| OK.to_vec())).await
}

#[tokio::test]
async fn f_22_a_post_of_which_a_byte_was_written_is_never_sent_again() {
    for method in ["POST", "PATCH", "DELETE"] {
        let app = closing_at_the_second(1).await;
        let it = Caller::of(&[app.address], "").await;
        let mut client = H1Client::connect(it.listen).await;
        client.get("/first").await.unwrap();
        let request = client.request(method, "/second").body(full("body")).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 502, "{method}");
        assert_eq!(app.text().matches("/second").count(), 1, "{method}");
        assert_eq!(it.retries("replayed"), 0.0);
    }
}

#[tokio::test]
async fn f_22_an_idempotent_request_is_sent_again_once_on_a_connection_of_its_own() {
    for (times, expected) in [(1, 200), (2, 502)] {
        let app = closing_at_the_second(times).await;
        let it = Caller::of(&[app.address], "").await;
        // Several pooled connections, any of which might be as stale as the first.
        let clients = (0..3).map(|_| get(it.listen, false));
        futures_util::future::join_all(clients).await;
        let mut client = H1Client::connect(it.listen).await;
        let pooled = app.connections().len();
        assert_eq!(client.get("/second").await.unwrap().status, expected, "closed {times} times");
        assert_eq!(app.text().matches("/second").count(), 2, "once more, and no more");
        assert_eq!(app.connections().len(), pooled + 1, "not over another pooled connection");
        assert_eq!(it.retries("replayed"), 1.0);
    }
}

/// Closes its first connection instead of answering the second request on it.
async fn closing_at_the_second_stream() -> (TcpApp, Arc<AtomicUsize>) {
    of_streams(|number, _, mut respond| {
        let answers = number != 1;
        if answers {
            respond.send_response(Response::new(()), true).unwrap();
        }
        answers
    })
    .await
}

#[tokio::test]
async fn f_22_of_an_http2_connection_that_ends_only_idempotent_requests_are_sent_again() {
    for (method, expected) in [("GET", 200), ("POST", 502)] {
        let (app, streams) = closing_at_the_second_stream().await;
        let it = Caller::of(&[app.address], "").await;
        let mut client = H2Client::connect(it.listen).await;
        assert_eq!(client.get("/first").await.unwrap().status, 200);
        let request = client.request(method, "/second").body(full("")).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, expected, "{method}");
        let again = usize::from(expected == 200);
        assert_eq!((streams.load(Relaxed), it.retries("replayed")), (2 + again, again as f64), "{method}");
    }
}

#[tokio::test]
async fn f_23_what_the_budget_does_not_hold_is_not_sent_again() {
    let app = closing_at_the_second(usize::MAX).await;
    let it = Caller::of(&[app.address], "retries: { share: 0%, per_second: 1 }").await;
    for attempt in 0..3 {
        let mut client = H1Client::connect(it.listen).await;
        client.get("/first").await.unwrap();
        assert_eq!(client.get("/second").await.unwrap().status, 502, "{attempt}");
    }
    let (sent, held) = (it.retries("replayed"), it.retries("over_budget"));
    assert!(held >= 1.0 && sent + held == 3.0, "{sent} sent again, {held} not");
    assert_eq!(app.text().matches("/second").count(), 3 + sent as usize);
}

#[tokio::test]
async fn f_21_an_endpoint_that_breaks_off_is_passed_over() {
    let bad = RawApp::answering(|_| None).await;
    let good = RawApp::ok().await;
    let it = Caller::of(&[bad.address, good.address], "outliers: { failures: 3, ejection: 1m }").await;
    let mut failed = 0;
    for _ in 0..60 {
        let mut client = H1Client::connect(it.listen).await;
        let request = client.request("POST", "/x").body(full("body")).unwrap();
        failed += usize::from(client.send(request).await.unwrap().status != 200);
    }
    assert_eq!(failed, 3, "as many as it takes");
    assert_eq!(it.metric("postern_endpoint_ejections_total"), 1.0);
    eventually("the gauge", || (it.metric("postern_endpoints_ejected") == 1.0).then_some(())).await;
}

#[tokio::test]
async fn f_21_not_more_than_a_share_of_the_endpoints_is_passed_over_and_a_single_one_never() {
    for count in [1, 3] {
        let mut apps = Vec::new();
        for _ in 0..count {
            apps.push(RawApp::answering(|_| None).await);
        }
        let addresses: Vec<_> = apps.iter().map(|app| app.address).collect();
        let it = Caller::of(&addresses, "outliers: { failures: 1, ejection: 1m }").await;
        for _ in 0..40 {
            let mut client = H1Client::connect(it.listen).await;
            let request = client.request("POST", "/x").body(full("body")).unwrap();
            assert_eq!(client.send(request).await.unwrap().status, 502);
        }
        assert_eq!(it.metric("postern_endpoint_ejections_total"), f64::from(count / 2), "of {count}");
    }
}

/// A listener whose queue is full: who connects gets no answer.
struct Silent {
    address: SocketAddr,
    listener: tokio::net::TcpListener,
    _queued: Vec<TcpStream>,
}

impl Silent {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(stream);
            assert!(queued.len() < 64, "its queue does not fill");
        }
        Self { address, listener, _queued: queued }
    }

    /// From now on it answers.
    fn serve(self) {
        tokio::spawn(async move {
            let _queued = self._queued;
            while let Ok((mut stream, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                        if stream.write_all(OK).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

#[tokio::test]
async fn f_24_after_silence_one_request_waits_the_others_are_refused_at_once_and_all_recover() {
    let silent = Silent::start().await;
    let it = Caller::of(&[silent.address], "connect_timeout: 2s").await;
    for is_http2 in [false, true] {
        assert_eq!(get(it.listen, is_http2).await.0, 503, "met with silence");
        let probe = tokio::spawn(get(it.listen, is_http2));
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..20 {
            let (status, took) = get(it.listen, is_http2).await;
            assert_eq!(status, 503);
            assert!(took < Duration::from_secs(1), "refused after {took:?}");
        }
        let (status, took) = probe.await.unwrap();
        assert_eq!(status, 503);
        assert!(took > Duration::from_secs(1), "somebody has to try: {took:?}");
    }
    silent.serve();
    let recovering = async {
        while get(it.listen, false).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), recovering).await.expect("it recovers within 5 s");
}

async fn get(listen: SocketAddr, is_http2: bool) -> (u16, Duration) {
    let started = Instant::now();
    let reply = if is_http2 {
        H2Client::connect(listen).await.get("/x").await
    } else {
        H1Client::connect(listen).await.get("/x").await
    };
    (reply.expect("an answer").status.as_u16(), started.elapsed())
}

#[tokio::test]
async fn ds_09_requests_above_the_limit_wait_for_a_moment_and_are_refused_by_name() {
    let app = HttpApp::start().await;
    let it = Caller::of(&[app.address], "limits: { requests: 1, pending: 1, pending_timeout: 500ms }").await;
    let listen = it.listen;
    // HTTP/2: leaving is a reset there, and in HTTP/1 it looks like a caller who has said all and waits.
    let hanging = tokio::spawn(async move { H2Client::connect(listen).await.get("/hang").await });
    eventually("the first at the application", || (app.seen().len() == 1).then_some(())).await;
    let waiting = tokio::spawn(get(listen, false));
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (status, took) = get(listen, true).await;
    assert_eq!(status, 503, "the queue is full");
    assert!(took < Duration::from_millis(350), "{took:?}");
    let (status, took) = waiting.await.unwrap();
    assert_eq!(status, 503, "nothing was freed");
    assert!(took >= Duration::from_millis(450), "{took:?}");
    let records = it.web.records_of("request", 2).await;
    assert!(records.iter().all(|record| record["refusal"] == "over_limit"), "{records:#?}");
    hanging.abort();
    let made_room = async { while get(listen, false).await.0 != 200 {} };
    within("room for another", made_room).await;
    assert_eq!(app.seen().len(), 2, "what was refused never went there");
}

#[tokio::test]
async fn ds_09_connections_above_the_limit_are_not_made_and_requests_take_turns() {
    let open = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let of_app = open.clone();
    let app = TcpApp::start(move |mut stream: TcpStream, _, _| {
        let open = of_app.clone();
        async move {
            open.1.fetch_max(open.0.fetch_add(1, Relaxed) + 1, Relaxed);
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stream.write_all(OK).await.is_err() {
                    break;
                }
            }
            open.0.fetch_sub(1, Relaxed);
            Ok(())
        }
    })
    .await;
    let it = Caller::of(&[app.address], "limits: { connections: 2, pending_timeout: 10s }").await;
    let requests: Vec<_> = (0..12).map(|_| tokio::spawn(get(it.listen, false))).collect();
    for request in requests {
        assert_eq!(within("an answer", request).await.unwrap().0, 200);
    }
    assert_eq!(open.1.load(Relaxed), 2);
}

#[tokio::test]
async fn ds_09_above_the_limit_of_connections_http2_shares_those_that_there_are() {
    let app = HttpApp::start().await;
    let it = Caller::of(&[app.address], "limits: { connections: 1 }").await;
    let requests: Vec<_> = (0..150).map(|_| tokio::spawn(get(it.listen, true))).collect();
    for request in requests {
        assert_eq!(within("an answer", request).await.unwrap().0, 200);
    }
    // A place that is taken by one version is given up for the other when nobody uses it.
    assert_eq!(get(it.listen, false).await.0, 200);
}

#[tokio::test]
async fn f_21_a_request_that_takes_longer_than_it_may_is_refused_with_504_or_breaks_off() {
    let app = HttpApp::start().await;
    let it = Caller::of(&[app.address], "request_timeout: 400ms").await;
    for is_http2 in [false, true] {
        let started = Instant::now();
        let (reply, broken) = if is_http2 {
            (
                H2Client::connect(it.listen).await.get("/hang").await,
                H2Client::connect(it.listen).await.get("/ticks").await,
            )
        } else {
            (
                H1Client::connect(it.listen).await.get("/hang").await,
                H1Client::connect(it.listen).await.get("/ticks").await,
            )
        };
        assert_eq!(reply.unwrap().status, 504);
        assert!(broken.is_err(), "{broken:?}");
        assert!(started.elapsed() >= Duration::from_millis(800));
        assert_eq!(get(it.listen, is_http2).await.0, 200);
    }
    let records = it.web.records_of("request", 6).await;
    let refused = records.iter().filter(|record| record["refusal"] == "upstream_timeout").count();
    let ended = records.iter().filter(|record| record["end"] == "request_timeout").count();
    assert_eq!((refused, ended), (2, 2), "{records:#?}");
}

/// An application that answers everything, and whose connections end with it.
async fn mortal(address: SocketAddr) -> AbortHandle {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(16).unwrap();
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(OK).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    serving.abort_handle()
}

#[tokio::test]
async fn f_26_an_application_that_restarts_is_refused_by_name_meanwhile_and_found_at_once_afterwards() {
    let address = ports::free();
    let app = mortal(address).await;
    let pair = Pair::http(address).await;
    let mut client = H1Client::connect(pair.outbound).await;
    assert_eq!(client.get("/before").await.unwrap().status, 200);
    app.abort();
    eventually("its end", || std::net::TcpStream::connect(address).is_err().then_some(())).await;
    for _ in 0..10 {
        assert_eq!(client.get("/meanwhile").await.unwrap().status, 503);
    }
    let again = mortal(address).await;
    assert_eq!(client.get("/afterwards").await.unwrap().status, 200);
    again.abort();
    let records = pair.orders.records_of("request", 12).await;
    assert_eq!(records.iter().filter(|record| record["refusal"] == "app_unreachable").count(), 10, "{records:#?}");
}

#[tokio::test]
async fn sm_14_a_refusal_that_ends_its_connection_says_so() {
    // Nobody listens there.
    let it = Caller::of(&[ports::free()], "").await;
    let mut client = RawClient::connect(it.listen).await;
    client.send("POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\ncontent-length: 100000\r\n\r\nsome of it").await;
    let answer = client.response().await;
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(client.until_ended().await.is_empty());
    // Without a body there is nothing that was not read.
    let mut client = RawClient::connect(it.listen).await;
    for _ in 0..2 {
        client.send("POST /x HTTP/1.1\r\nhost: orders.shop.svc\r\ncontent-length: 0\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.header("connection")), (503, None));
    }
}
