//! The application behind the server sidecar: HTTP/1.1, HTTP/2 and raw TCP, one port each, one thread.
//!
//! It is made to cost little, and to notice a pair that does not do its work: with `--expect-identity`, a request without
//! the caller's SPIFFE ID in `x-forwarded-client-cert` is answered with 500, which the load counts as an error.

use crate::load::http1::{find_head, header};
use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use clap::Args;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What an HTTP answer carries.
pub const ANSWER: [u8; 1024] = [b'p'; 1024];
/// The first byte of a raw connection says what the caller wants.
pub const ECHO: u8 = b'e';
pub const DOWNLOAD: u8 = b'd';

/// A length before every gRPC message, after a flag that says whether it is compressed.
const GRPC_PREFIX: usize = 5;
const CHUNK: usize = 64 * 1024;

#[derive(Args)]
pub struct AppArguments {
    #[arg(long)]
    http1: SocketAddr,
    #[arg(long)]
    http2: SocketAddr,
    #[arg(long)]
    tcp: SocketAddr,
    /// Answer 500 to what does not say that this SPIFFE ID called.
    #[arg(long)]
    expect_identity: Option<String>,
}

pub fn run(arguments: &AppArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // It lives as long as the process, like everything that serves here.
    let identity: Option<&'static str> = arguments.expect_identity.clone().map(|id| &*id.leak());
    runtime.block_on(async {
        let (http1, http2, tcp) = tokio::try_join!(
            TcpListener::bind(arguments.http1),
            TcpListener::bind(arguments.http2),
            TcpListener::bind(arguments.tcp)
        )?;
        println!("ready");
        loop {
            // A connection that a proxy broke off is the load's to notice.
            tokio::select! {
                accepted = http1.accept() => drop(tokio::spawn(serve_http1(nodelay(accepted?.0)?, identity))),
                accepted = http2.accept() => drop(tokio::spawn(serve_http2(nodelay(accepted?.0)?, identity))),
                accepted = tcp.accept() => drop(tokio::spawn(serve_tcp(nodelay(accepted?.0)?))),
            }
        }
    })
}

fn nodelay(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn serve_http1(mut stream: TcpStream, identity: Option<&'static str>) -> anyhow::Result<()> {
    let mut good = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n".to_vec();
    good.extend_from_slice(&ANSWER);
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        let head_length = loop {
            if let Some(length) = find_head(&buffer) {
                break length;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = buffer.split_to(head_length);
        let mut left = match header(&head, "content-length") {
            Some(length) => length.parse::<usize>()?,
            None if header(&head, "transfer-encoding").is_some() => bail!("a body without a length"),
            None => 0,
        };
        while left > 0 {
            let taken = left.min(buffer.len());
            buffer.advance(taken);
            left -= taken;
            if left > 0 && stream.read_buf(&mut buffer).await? == 0 {
                bail!("the body ended early");
            }
        }
        if identity.is_none_or(|id| header(&head, "x-forwarded-client-cert").is_some_and(|told| told.contains(id))) {
            stream.write_all(&good).await?;
        } else {
            stream.write_all(b"HTTP/1.1 500 No Identity\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }
}

async fn serve_http2(stream: TcpStream, identity: Option<&'static str>) -> anyhow::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).max_concurrent_streams(1024);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        // A stream that the caller reset is the load's to notice.
        tokio::spawn(answer_http2(request, respond, identity));
    }
    Ok(())
}

async fn answer_http2(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    identity: Option<&'static str>,
) -> anyhow::Result<()> {
    let told = request.headers().get("x-forwarded-client-cert").and_then(|told| told.to_str().ok());
    if !identity.is_none_or(|id| told.is_some_and(|told| told.contains(id))) {
        let refused = Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(())?;
        respond.send_response(refused, true)?;
        return Ok(());
    }
    let is_grpc =
        request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut body = request.into_body();
    if is_grpc {
        return answer_grpc(&mut body, respond).await;
    }
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = Response::builder().header("content-type", "text/plain").header("content-length", "1024").body(())?;
    respond.send_response(head, false)?.send_data(Bytes::from_static(&ANSWER), true)?;
    Ok(())
}

/// One message of [`ANSWER`]'s length for every message that came: unary is the stream of one.
async fn answer_grpc(body: &mut h2::RecvStream, mut respond: SendResponse<Bytes>) -> anyhow::Result<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut answers = respond.send_response(head, false)?;
    let message = grpc_message(&ANSWER);
    let mut received = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
        while take_grpc_message(&mut received)?.is_some() {
            answers.send_data(message.clone(), false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answers.send_trailers(trailers)?;
    Ok(())
}

pub fn grpc_message(payload: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(payload);
    message.into()
}

/// The length of the message that was complete at the front, which is gone then.
pub fn take_grpc_message(received: &mut BytesMut) -> anyhow::Result<Option<usize>> {
    let Some(length) = received.get(1..GRPC_PREFIX) else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(length.try_into().context("four bytes")?))?;
    if received.len() < GRPC_PREFIX + length {
        return Ok(None);
    }
    received.advance(GRPC_PREFIX + length);
    Ok(Some(length))
}

async fn serve_tcp(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut length = stream.read(&mut buffer).await?;
    match buffer[..length].first() {
        Some(&DOWNLOAD) => loop {
            stream.write_all(&buffer).await?;
        },
        Some(&ECHO) => {
            while length > 0 {
                stream.write_all(&buffer[..length]).await?;
                length = stream.read(&mut buffer).await?;
            }
            Ok(())
        }
        Some(other) => bail!("byte {other} asks for nothing that is here"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{grpc_message, take_grpc_message};
    use bytes::BytesMut;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let message = grpc_message(b"abc");
        let mut received = BytesMut::from(&message[..message.len() - 1]);
        assert_eq!(take_grpc_message(&mut received).unwrap(), None);
        received.extend_from_slice(&message[message.len() - 1..]);
        assert_eq!(take_grpc_message(&mut received).unwrap(), Some(3));
        assert!(received.is_empty());
    }
}
