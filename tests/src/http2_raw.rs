//! HTTP/2 frame by frame, for what no library would send.

use crate::client_raw::RawClient;
use std::net::SocketAddr;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 §7.
pub const PROTOCOL_ERROR: u32 = 0x1;
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
pub const FRAME_SIZE_ERROR: u32 = 0x6;
pub const REFUSED_STREAM: u32 = 0x7;
pub const CANCEL: u32 = 0x8;
pub const ENHANCE_YOUR_CALM: u32 = 0xB;

/// RFC 7541 §6.2.2: literal, never indexed by us, nothing Huffman-coded.
///
/// # Panics
/// A name or value is too long for one byte of length.
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name.as_bytes(), value] {
        assert!(text.len() < 127, "one byte of length is enough here");
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text);
    }
    bytes
}

pub fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&head("GET", path)))
}

/// The head of a request whose body is to follow.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&head("POST", path)))
}

pub fn head<'a>(method: &'a str, path: &'a str) -> [(&'static str, &'a [u8]); 4] {
    [
        (":method", method.as_bytes()),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"orders.shop.svc"),
    ]
}

/// One that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4).map(|code| u32::from_be_bytes(code.try_into().expect("four bytes")))
    }

    /// The status of a HEADERS frame, where the static table (RFC 7541, appendix A) has it; 999 for others. It comes first.
    pub fn status(&self) -> u16 {
        // A change of the table's size may stand before it (§6.3).
        let start = self.payload.iter().position(|byte| byte & 0xE0 != 0x20).unwrap_or(0);
        match self.payload[start] {
            0x88 => 200,
            0x89 => 204,
            0x8A => 206,
            0x8B => 304,
            0x8C => 400,
            0x8D => 404,
            0x8E => 500,
            // Three digits, Huffman-coded or not, are more than this tells apart.
            _ => 999,
        }
    }
}

/// A client that has sent its preface and empty SETTINGS.
pub struct H2Raw(pub RawClient);

impl H2Raw {
    /// # Panics
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = RawClient::connect(address).await;
        client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        Self(client)
    }

    /// What can be sent, until the other side has ended the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send_what_is_taken(bytes).await;
    }

    /// `None`: the connection ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let head = self.0.take(9).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.0.take(length).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The first frame that `wanted` says yes to; `None`: the connection ended before.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The error code of the GOAWAY with which the other side ends the connection; `None`: it ended without one.
    pub async fn goaway(&mut self) -> Option<u32> {
        self.until(|frame| frame.kind == GOAWAY && frame.code() != Some(0)).await?.code()
    }

    /// How a stream ends: its status, or the code of its reset.
    ///
    /// # Errors
    /// The code; `None` if the whole connection ended.
    pub async fn answer(&mut self, stream: u32) -> Result<u16, Option<u32>> {
        let of_stream = |frame: &Frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM);
        let end = self.until(|frame| of_stream(frame) || frame.kind == GOAWAY && frame.code() != Some(0)).await;
        match end {
            Some(frame) if frame.kind == HEADERS => Ok(frame.status()),
            Some(frame) => Err(frame.code()),
            None => Err(None),
        }
    }
}
