//! An agent that allows few pings, as gRPC servers do by default: SPIRE's agent is one.

use super::fixtures::{Ca, message};
use super::support::Follower;
use crate::identity::SourceStatus;
use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;
use h2::server::{Connection, SendResponse};
use prost::Message;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

type Served = (Connection<UnixStream, Bytes>, SendResponse<Bytes>);

/// Of the two first connections, the one on which SVIDs are asked for. The other, for the keys of tokens, is kept and told
/// nothing.
async fn accept_both(listener: &UnixListener) -> Served {
    let mut of_svids = None;
    for _ in 0..2 {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        if request.uri().path().ends_with("/FetchX509SVID") {
            of_svids = Some((connection, respond));
            continue;
        }
        let headers = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let silent = respond.send_response(headers, false).unwrap();
        tokio::spawn(async move {
            let _silent = silent;
            while connection.accept().await.is_some() {}
        });
    }
    of_svids.expect("one asks for SVIDs")
}

/// Answers one RPC with `first` and ends the connection as grpc-go does after too many pings.
async fn serve_until_annoyed(served: Served, first: Bytes, patience: Duration) {
    let (mut connection, mut respond) = served;
    let headers = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = respond.send_response(headers, false).unwrap();
    body.send_data(first, false).unwrap();
    // Whatever the connection does, it does while it is polled.
    if tokio::time::timeout(patience, connection.accept()).await.is_err() {
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        while let Some(Ok(_request)) = connection.accept().await {}
    }
}

#[tokio::test(start_paused = true)]
async fn pings_less_when_the_agent_asks_for_calm() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let encoded = message([Ca::new("example.org").svid("spiffe://example.org/a")]).encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(encoded.len() as u32);
    frame.put_slice(&encoded);
    let first = frame.freeze();

    let follower = Follower::of_socket(&socket);
    let asked = accept_both(&listener).await;
    let annoyed = tokio::spawn(serve_until_annoyed(asked, first.clone(), Duration::from_secs(80)));
    follower.until("an identity", |snapshot| !snapshot.svids.is_empty()).await;
    annoyed.await.unwrap();
    follower.until("cut off", |snapshot| matches!(snapshot.source, SourceStatus::Broken { .. })).await;

    // The next connection hangs. Eager pings would find it within a minute; patient ones are not sent by then.
    let (_hangs, _) = listener.accept().await.unwrap();
    let start = Instant::now();
    let (_found, _) = listener.accept().await.unwrap();
    assert!(start.elapsed() > Duration::from_secs(300), "{:?}", start.elapsed());
}
