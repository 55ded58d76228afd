//! HTTP/2 and gRPC over the h2 crate, without a client library's tasks and channels in between.

use super::{Meter, http1};
use crate::app::{grpc_message, take_grpc_message};
use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use h2::client::SendRequest;
use http::{Method, Request};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

/// What a call sends: a small record.
const MESSAGE: [u8; 128] = [b'm'; 128];

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum Call {
    Get,
    GrpcUnary,
    /// A message each way is what is counted; the streams stay.
    GrpcStream,
}

/// A connection with `streams` loops on it, until the first of them fails.
pub async fn connection(
    to: SocketAddr,
    target: Rc<String>,
    streams: usize,
    call: Call,
    meter: Rc<Meter>,
) -> anyhow::Result<()> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake::<_, Bytes>(http1::connect(to).await?).await?;
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (sender, target, meter) = (sender.clone(), target.clone(), meter.clone());
        loops.spawn_local(async move {
            match call {
                Call::Get => requests(sender, &target, &meter).await,
                Call::GrpcUnary => unary_calls(sender, &target, &meter).await,
                Call::GrpcStream => messages(sender, &target, &meter).await,
            }
        });
    }
    tokio::select! {
        ended = connection => { ended?; bail!("the connection ended") }
        ended = loops.join_next() => ended.context("no stream was asked for")??,
    }
}

async fn requests(sender: SendRequest<Bytes>, target: &str, meter: &Meter) -> anyhow::Result<()> {
    loop {
        let since = Instant::now();
        let request = Request::builder().uri(target).header("user-agent", "bench/1").header("accept", "*/*").body(())?;
        let (response, _) = sender.clone().ready().await?.send_request(request, true)?;
        let (head, mut body) = response.await?.into_parts();
        ensure!(head.status == 200, "answered: {}", head.status);
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        meter.done(since);
    }
}

fn grpc_request(target: &str) -> anyhow::Result<Request<()>> {
    let request = Request::builder().method(Method::POST).uri(target).header("user-agent", "bench/1");
    Ok(request.header("content-type", "application/grpc").header("te", "trailers").body(())?)
}

async fn unary_calls(sender: SendRequest<Bytes>, target: &str, meter: &Meter) -> anyhow::Result<()> {
    let message = grpc_message(&MESSAGE);
    loop {
        let since = Instant::now();
        let (response, mut send) = sender.clone().ready().await?.send_request(grpc_request(target)?, false)?;
        send.send_data(message.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        ensure!(head.status == 200, "answered: {}", head.status);
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            received.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "grpc-status is not 0");
        ensure!(take_grpc_message(&mut received)?.is_some(), "no message");
        meter.done(since);
    }
}

async fn messages(sender: SendRequest<Bytes>, target: &str, meter: &Meter) -> anyhow::Result<()> {
    let message = grpc_message(&MESSAGE);
    let (response, mut send) = sender.ready().await?.send_request(grpc_request(target)?, false)?;
    let mut since = Instant::now();
    send.send_data(message.clone(), false)?;
    let (head, mut body) = response.await?.into_parts();
    ensure!(head.status == 200, "answered: {}", head.status);
    let mut received = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
        if take_grpc_message(&mut received)?.is_some() {
            meter.done(since);
            since = Instant::now();
            send.send_data(message.clone(), false)?;
        }
    }
    bail!("the stream ended")
}
