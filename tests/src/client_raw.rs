//! A client that sends bytes as they are, and reads HTTP/1 responses one by one.

use crate::app_raw::find;
use crate::wait::within;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub struct RawClient<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
}

/// One HTTP/1 response.
#[derive(Clone, Debug)]
pub struct RawResponse {
    pub status: u16,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// As the headers.
    pub trailers: Vec<(String, String)>,
}

impl RawResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl RawClient {
    /// # Panics
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// As [`RawClient::connect`]; what is not read soon stands still at the other side.
    ///
    /// # Panics
    /// Nobody listens.
    pub async fn connect_with_small_window(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = within("a connection", socket.connect(address)).await.unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Our own, by which records tell connections apart.
    ///
    /// # Panics
    /// The socket has none.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }
}

impl RawClient<UnixStream> {
    /// # Panics
    /// Nobody listens.
    pub async fn at(socket: &Path) -> Self {
        let stream = within("a connection", UnixStream::connect(socket)).await.unwrap();
        Self { stream, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// # Panics
    /// The other side has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("bytes are sent", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// As [`RawClient::send`], to a side that may close meanwhile.
    pub async fn send_what_is_taken(&mut self, bytes: impl AsRef<[u8]>) {
        // The error is what the caller expects; what came before it can still be read.
        let _ = within("bytes are sent", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Sends `bytes` again and again without reading anything, until the other side takes no more, or has closed.
    pub async fn send_until_stuck(&mut self, bytes: &[u8]) {
        let long = std::time::Duration::from_millis(700);
        while let Ok(Ok(())) = tokio::time::timeout(long, self.stream.write_all(bytes)).await {}
    }

    /// A plain request with a host, and its response.
    ///
    /// # Panics
    /// There is none.
    pub async fn get(&mut self, host: &str, path: &str) -> RawResponse {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        self.response().await
    }

    /// # Panics
    /// There is none.
    pub async fn response_to(&mut self, request: &str) -> RawResponse {
        self.send(request).await;
        self.response().await
    }

    /// The next response to anything but HEAD.
    ///
    /// # Panics
    /// The connection ends before it.
    pub async fn response(&mut self) -> RawResponse {
        self.try_response().await.expect("a response")
    }

    /// As [`RawClient::response`].
    ///
    /// # Errors
    /// The connection ended before its end.
    pub async fn try_response(&mut self) -> io::Result<RawResponse> {
        let mut response = self.head().await?;
        let no_body = matches!(response.status, 100..=199 | 204 | 304);
        if response.header("transfer-encoding").is_some() {
            self.chunks(&mut response).await?;
        } else if let Some(length) = response.header("content-length").filter(|_| !no_body) {
            let length = length.parse().expect("a length");
            response.body = self.take(length).await?;
        } else if !no_body {
            response.body = self.to_end().await?;
        }
        Ok(response)
    }

    /// The next response's head only.
    ///
    /// # Errors
    /// The connection ended before its end.
    pub async fn head(&mut self) -> io::Result<RawResponse> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).expect("an ASCII head");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status line: {status_line:?}"));
        Ok(RawResponse { status, headers: fields(lines), body: Vec::new(), trailers: Vec::new() })
    }

    async fn chunks(&mut self, response: &mut RawResponse) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a chunk size: {line:?}"));
            if size == 0 {
                let mut trailers = Vec::new();
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        response.trailers = fields(trailers.iter().map(String::as_str));
                        return Ok(());
                    }
                    trailers.push(line);
                }
            }
            response.body.extend(self.take(size).await?);
            assert_eq!(self.take(2).await?, b"\r\n", "the end of a chunk");
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8(line).expect("an ASCII line"));
            }
            self.read_more().await?;
        }
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// The connection ended before.
    pub async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.read_more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Everything to the end of the other side's bytes.
    ///
    /// # Errors
    /// It did not end in order.
    pub async fn to_end(&mut self) -> io::Result<Vec<u8>> {
        within("the connection's end", self.stream.read_to_end(&mut self.buffer)).await?;
        Ok(std::mem::take(&mut self.buffer))
    }

    /// What arrives until the other side ends the connection, in order or not.
    pub async fn until_ended(&mut self) -> Vec<u8> {
        while self.read_more().await.is_ok() {}
        std::mem::take(&mut self.buffer)
    }

    /// What comes next: a whole response's bytes as far as its head, or what there was before the end.
    pub async fn until_ended_or_response(&mut self) -> Vec<u8> {
        while find(&self.buffer, b"\r\n\r\n").is_none() && self.read_more().await.is_ok() {}
        std::mem::take(&mut self.buffer)
    }

    /// Ends our side only.
    ///
    /// # Panics
    /// The other side is gone.
    pub async fn end(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    async fn read_more(&mut self) -> io::Result<()> {
        let read = within("bytes from the other side", self.stream.read_buf(&mut self.buffer)).await?;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    lines.filter_map(field).collect()
}
