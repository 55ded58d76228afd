//! HTTP/1 messages as bytes (RFC 9112): their fields, and bodies on their way in and out.
//!
//! What is read is read strictly, and by its length alone: what has two lengths, or none that can be told, is malformed. Pure
//! but for the sockets that are handed in.

pub mod chunked;
pub mod fields;
pub mod incoming;
pub mod outgoing;
pub mod request_head;
pub mod response_head;
pub mod wire;

use http::header::{InvalidHeaderName, InvalidHeaderValue};
use std::io;

/// Why a message is none.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("no HTTP/1")]
    Syntax(#[from] httparse::Error),
    #[error("a field's name is none")]
    Name(#[from] InvalidHeaderName),
    #[error("a field's value is none")]
    Value(#[from] InvalidHeaderValue),
    #[error("a head of more than {0} bytes")]
    LongHead(usize),
    #[error("more than {} header fields", fields::FIELDS_MAX)]
    ManyFields,
    #[error("a status that is none")]
    Status,
    #[error("`Content-Length` and `Transfer-Encoding`")]
    TwoWays,
    #[error("a `Content-Length` that is no number")]
    Length,
    #[error("two values of `Content-Length`")]
    TwoLengths,
    #[error("a `Transfer-Encoding` other than `chunked`")]
    Coding,
    #[error("a chunk's size is none")]
    ChunkSize,
    #[error("a chunk's line is longer than {} bytes", chunked::LINE_BYTES_MAX)]
    LongChunkLine,
    #[error("a chunk is longer or shorter than its size")]
    ChunkEnd,
    #[error("a line of the trailers that ends in a bare line feed")]
    BareLineFeed,
    #[error("trailers of more than {} bytes", chunked::TRAILER_BYTES_MAX)]
    LongTrailers,
}

/// Why a message did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection ended before the message did")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}
