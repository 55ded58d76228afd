//! Raw TCP: bulk, a connection each, and connections that idle.

use super::{Meter, http1};
use crate::app::{DOWNLOAD, ECHO};
use anyhow::Context as _;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
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

/// Opened and used once.
pub async fn pinged(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = http1::connect(to).await?;
    ping(&mut stream).await?;
    Ok(stream)
}

/// `connections` of what `open` opens.
pub async fn open_many<S, F>(connections: usize, open: impl Fn() -> F) -> anyhow::Result<Vec<S>>
where
    S: 'static,
    F: Future<Output = anyhow::Result<S>> + 'static,
{
    let mut opening = tokio::task::JoinSet::new();
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        if opening.len() >= OPENING {
            opened.push(opening.join_next().await.context("some are opening")???);
        }
        opening.spawn_local(open());
    }
    while let Some(stream) = opening.join_next().await {
        opened.push(stream??);
    }
    Ok(opened)
}

/// Has the peer closed it, or sent what nobody asked for?
pub fn has_ended(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    let read = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
    read.is_ready()
}

#[cfg(test)]
mod tests {
    use super::has_ended;

    #[test]
    fn a_stream_has_ended_when_its_other_end_has_and_not_before() {
        let (mut ours, theirs) = tokio::io::duplex(16);
        assert!(!has_ended(&mut ours));
        drop(theirs);
        assert!(has_ended(&mut ours));
    }
}
