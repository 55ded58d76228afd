//! Raw TCP: bulk, a connection each, and connections that idle.

use super::{Meter, http1};
use crate::app::{DOWNLOAD, ECHO};
use anyhow::Context as _;
use bytes::BytesMut;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CHUNK: usize = 256 * 1024;
const PING: [u8; 64] = [ECHO; 64];
/// Handshakes at once while many connections are opened.
const OPENING: usize = 32;

pub async fn download(to: SocketAddr, meter: Rc<Meter>) -> anyhow::Result<()> {
    let mut stream = http1::connect(to).await?;
    stream.write_all(&[DOWNLOAD]).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let received = stream.read(&mut buffer).await?;
        anyhow::ensure!(received > 0, "the download ended");
        meter.received(received);
    }
}

pub async fn connection_each(to: SocketAddr, meter: Rc<Meter>) -> anyhow::Result<()> {
    let since = Instant::now();
    let mut stream = http1::connect(to).await?;
    ping(&mut stream).await?;
    drop(stream);
    meter.done(since);
    Ok(())
}

async fn ping(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(&PING).await?;
    stream.read_exact(&mut [0; PING.len()]).await.context("the echo")?;
    Ok(())
}

/// `connections` open ones, each of which was used once: for `request`, or for an echo.
pub async fn open_many(to: SocketAddr, connections: usize, request: Option<Vec<u8>>) -> anyhow::Result<Vec<TcpStream>> {
    let request = Rc::new(request);
    let mut opening = tokio::task::JoinSet::new();
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        if opening.len() >= OPENING {
            open.push(opening.join_next().await.context("some are opening")???);
        }
        let request = request.clone();
        opening.spawn_local(async move {
            let mut stream = http1::connect(to).await?;
            match request.as_ref() {
                Some(request) => http1::exchange(&mut stream, request, &mut BytesMut::new()).await?,
                None => ping(&mut stream).await?,
            }
            anyhow::Ok(stream)
        });
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    Ok(open)
}
