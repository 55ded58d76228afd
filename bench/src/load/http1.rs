//! HTTP/1.1 by hand: the same bytes each time, and of the answer only what says where it ends.

use super::Meter;
use anyhow::{Context as _, bail};
use bytes::{Buf as _, BytesMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BUFFER: usize = 16 * 1024;

/// A GET, or a POST of `body` bytes.
pub fn request(host: &str, path: &str, body: usize) -> Vec<u8> {
    let method = if body == 0 { "GET" } else { "POST" };
    let length = if body == 0 { String::new() } else { format!("content-length: {body}\r\n") };
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench/1\r\naccept: */*\r\n{length}\r\n")
            .into_bytes();
    request.resize(request.len() + body, b'q');
    request
}

/// Where the head ends, if it is whole.
pub fn find_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of the first field called `name`.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(head).ok()?;
    let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

pub async fn keep_alive(to: SocketAddr, request: Rc<Vec<u8>>, meter: Rc<Meter>) -> anyhow::Result<()> {
    let mut stream = connect(to).await?;
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        let since = Instant::now();
        exchange(&mut stream, &request, &mut buffer).await?;
        meter.done(since);
    }
}

pub async fn connection_each(to: SocketAddr, request: Rc<Vec<u8>>, meter: Rc<Meter>) -> anyhow::Result<()> {
    let since = Instant::now();
    let mut stream = connect(to).await?;
    exchange(&mut stream, &request, &mut BytesMut::with_capacity(BUFFER)).await?;
    drop(stream);
    meter.done(since);
    Ok(())
}

/// A connection that was used for one request.
pub async fn used<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: Rc<Vec<u8>>) -> anyhow::Result<S> {
    exchange(&mut stream, &request, &mut BytesMut::new()).await?;
    Ok(stream)
}

pub async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its whole answer, which has to be a 200 with a length.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    buffer: &mut BytesMut,
) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let length = loop {
        if let Some(length) = answer_length(buffer)? {
            break length;
        }
        more(stream, buffer).await?;
    };
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    buffer.advance(length);
    Ok(())
}

async fn more(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> anyhow::Result<()> {
    // What was advanced over is used again only after this.
    buffer.reserve(BUFFER / 2);
    if stream.read_buf(buffer).await? == 0 {
        bail!("the connection ended within an answer");
    }
    Ok(())
}

/// Head and body, once the head is there.
pub fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head_length) = find_head(bytes) else { return Ok(None) };
    let head = &bytes[..head_length];
    if head.get(9..12) != Some(b"200") {
        bail!("answered: {}", String::from_utf8_lossy(&head[..head_length.min(60)]).lines().next().unwrap_or_default());
    }
    let length = header(head, "content-length").context("an answer without content-length")?;
    Ok(Some(head_length + length.parse::<usize>()?))
}

#[cfg(test)]
mod tests {
    use super::{answer_length, header, request};

    #[test]
    fn an_answer_is_as_long_as_its_head_and_its_content_length() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(answer_length(answer).unwrap(), Some(answer.len()));
        assert_eq!(answer_length(&answer[..20]).unwrap(), None);
    }

    #[test]
    fn whatever_is_no_200_with_a_length_is_an_error() {
        assert!(answer_length(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_body_makes_a_post_with_its_length() {
        let post = request("a", "/", 3);
        assert_eq!(header(&post, "Content-Length"), Some("3"));
        assert!(post.starts_with(b"POST ") && post.ends_with(b"\r\n\r\nqqq"));
        assert!(header(&request("a", "/", 0), "content-length").is_none());
    }
}
