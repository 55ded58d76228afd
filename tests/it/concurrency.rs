//! Many at once: nobody gets another's answer, and a mesh that changes all the time loses nothing.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use postern_tests::client_http::{channel, full};
use postern_tests::mesh::WEB;
use postern_tests::pair::inbound_section;
use postern_tests::{H1Client, H2Client, HttpApp, Mesh, Pair, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[tokio::test]
async fn more_streams_than_one_upstream_connection_takes_are_all_carried() {
    const STREAMS: usize = 250;
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let client = H2Client::connect(pair.outbound).await;
    let mut open = Vec::with_capacity(STREAMS);
    for number in 0..STREAMS {
        let mut sender = client.sender.clone();
        let (frames, body) = channel();
        let request = client.request("POST", &format!("/grpc/{number}")).header("content-type", "application/grpc");
        let request = request.body(body).unwrap();
        open.push(tokio::spawn(async move {
            within("room for a stream", sender.ready()).await.unwrap();
            let response = within("a head", sender.send_request(request)).await.unwrap();
            (number, frames, response.into_body())
        }));
    }
    // All are open at once; then each is answered with what it sent.
    let mut streams = Vec::with_capacity(STREAMS);
    for stream in open {
        streams.push(within("a stream opens", stream).await.unwrap());
    }
    for (number, frames, body) in &mut streams {
        let text = format!("stream {number}");
        frames.send(Ok(Frame::data(Bytes::from(text.clone())))).await.unwrap();
        let frame = within("an echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), &text);
    }
    drop(streams);
    pair.orders.records_of("request", STREAMS).await;
    pair.web.records_of("request", STREAMS).await;
}

/// Callers of both versions, each with an id in every request that has to come back.
struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Callers {
    fn start(pair: &Pair, of_each: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for caller in 0..of_each * 2 {
            let (stop, answered, to) = (stop.clone(), answered.clone(), pair.outbound);
            tasks.push(tokio::spawn(async move {
                let is_http2 = caller % 2 == 1;
                let mut http1 = H1Client::connect(to).await;
                let mut http2 = H2Client::connect(to).await;
                let mut count = 0;
                while !stop.load(Relaxed) {
                    count += 1;
                    let path = format!("/caller/{caller}/{count}");
                    let body = vec![b'a' + (caller % 26) as u8; (count * 37) % 3000];
                    let reply = if is_http2 {
                        http2.send(http2.request("POST", &path).body(full(body.clone())).unwrap()).await
                    } else {
                        http1.send(http1.request("POST", &path).body(full(body.clone())).unwrap()).await
                    };
                    let reply = reply.unwrap_or_else(|error| panic!("{path}: {error:?}"));
                    assert_eq!(reply.status, 200, "{path}: {reply:?}");
                    let seen = reply.json();
                    assert!(seen["target"].as_str().is_some_and(|target| target.ends_with(&path)), "{path}: {seen}");
                    assert_eq!(seen["length"], body.len(), "{path}");
                    answered.fetch_add(1, Relaxed);
                    // A new connection now and then.
                    if count % 50 == 0 {
                        http1 = H1Client::connect(to).await;
                        http2 = H2Client::connect(to).await;
                    }
                }
            }));
        }
        Self { stop, answered, tasks }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            within("a caller ends", task).await.expect("a caller without a failure");
        }
        self.answered.load(Relaxed)
    }
}

#[tokio::test]
async fn f_31_rotations_and_reloads_under_mixed_load_lose_and_double_nothing() {
    const LASTS: Duration = Duration::from_secs(3);
    let app = HttpApp::start().await;
    let pair = Pair::http(app.address).await;
    let callers = Callers::start(&pair, 3);
    let started = Instant::now();
    let mut rounds = 0;
    // On a loaded machine it takes longer for as much to happen.
    while started.elapsed() < LASTS || callers.answered.load(Relaxed) <= 100 {
        rounds += 1;
        pair.mesh.provider.rotate_svids().unwrap();
        let rule = if rounds % 2 == 0 { WEB } else { "spiffe://shop.example/ns/web/**" };
        let lines = format!("protocol: http\nallow: [{{ spiffe: \"{rule}\", name: round-{rounds} }}]");
        pair.orders.apply(&inbound_section(pair.inbound, &app.address.to_string(), &lines)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(callers.tasks.iter().all(|task| !task.is_finished()), "a caller has failed");
    }
    let answered = callers.end().await;
    assert!(answered > 100, "{answered} in {rounds} rounds");
    // Every request once at the application, once in each record.
    let mut targets: Vec<_> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets.len(), answered);
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets.len(), answered, "none twice");
    for sidecar in [&pair.web, &pair.orders] {
        let records = sidecar.records_of("request", answered).await;
        assert!(records.iter().all(|record| record["http.response.status_code"] == 200));
        assert!(records.iter().all(|record| record.get("refusal").is_none()));
    }
}

#[tokio::test]
async fn heads_within_the_limits_pass_both_ways() {
    let app = HttpApp::start().await;
    for app_http in ["same", "1", "2"] {
        let port = format!("protocol: http\napp_http: {app_http}\nallow: [{{ spiffe: {WEB} }}]");
        let pair = Pair::with(Mesh::start(), app.address, &port, "protocol: http").await;
        let fields: Vec<_> = (0..90).map(|index| (format!("x-field-{index}"), "v".repeat(400))).collect();
        let mut http1 = H1Client::connect(pair.outbound).await;
        let mut http2 = H2Client::connect(pair.outbound).await;
        for is_http2 in [false, true] {
            let request = if is_http2 { http2.request("GET", "/x") } else { http1.request("GET", "/x") };
            let request = fields.iter().fold(request, |request, (name, value)| request.header(name, value));
            let request = request.body(full("")).unwrap();
            let reply = if is_http2 { http2.send(request).await } else { http1.send(request).await }.unwrap();
            assert_eq!(reply.status, 200, "app_http {app_http}, HTTP/2 {is_http2}: {reply:?}");
            assert_eq!(app.last().all("x-field-89"), ["v".repeat(400)]);
        }
    }
}
