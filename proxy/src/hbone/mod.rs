//! Many connections as streams of one mTLS connection: HTTP/2 CONNECT (RFC 9113 §8.5) in HBONE's wire form.
//!
//! What a stream carries is the application's bytes, and the authority of its CONNECT is the application's address and port.
//! Each stream has a session and a record of its own, with the identities of the connection that carries it, and is cut
//! alone. `client` opens them for services with `via: tunnel`, `server` takes them for the ports of `inbound`.

pub mod client;
mod keepalive;
pub mod server;
mod stream;

pub use keepalive::Keepalive;
pub use stream::TunnelStream;

/// Streams of one connection. A client opens another connection beyond that.
const STREAMS_MAX: u32 = 100;
/// What a stream may send before its other end has taken it.
const STREAM_WINDOW: u32 = 256 << 10;
/// All streams together: when each of them waits for a reader that does not read, there is still room for one that does
/// (ztunnel#1538: with less, streams that are read starve behind those that are not).
const CONNECTION_WINDOW: u32 = (STREAMS_MAX + 28) * STREAM_WINDOW;
const FRAME_BYTES_MAX: u32 = 64 << 10;
/// Of a stream, taken from its reader and not yet sent.
const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// A CONNECT has a handful of short fields.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// h2 ends a connection that has too much memory bound in tiny frames. One stream whose reader rests may hold a window of
/// frames of one byte, and must not end all others: each counts 255.
const TINY_FRAMES_BUDGET: usize = 256 * STREAM_WINDOW as usize;
