//! Bodies in chunks (RFC 9112 §7.1), read without leniency: lines end in CRLF, a size is digits alone.

use super::Malformed;
use super::fields::{self, Places};
use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

/// Of a chunk's size with its extensions, which nobody uses.
pub const LINE_BYTES_MAX: usize = 4096;
pub const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Of a size: more would not fit.
const DIGITS_MAX: usize = 16;

/// Reads the chunks of one body.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So many bytes of the chunk are still to come.
    Data(u64),
    /// The line break behind the data.
    DataEnd,
    Trailers,
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Chunks {
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes the next piece from the front of `bytes`. `None`: more bytes are needed, or it [has ended](Self::has_ended).
    ///
    /// # Errors
    /// There is no telling where the body ends.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.state {
                State::Size => match take_size(bytes)? {
                    None => return Ok(None),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(_) if bytes.is_empty() => return Ok(None),
                State::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    let data = bytes.split_to(count).freeze();
                    self.end_chunk(bytes)?;
                    return Ok(Some(Piece::Data(data)));
                }
                State::DataEnd => {
                    self.end_chunk(bytes)?;
                    if self.state == State::DataEnd {
                        return Ok(None);
                    }
                }
                State::Trailers => {
                    let Some(trailers) = take_trailers(bytes)? else { return Ok(None) };
                    self.state = State::Ended;
                    return Ok((!trailers.is_empty()).then_some(Piece::Trailers(trailers)));
                }
                State::Ended => return Ok(None),
            }
        }
    }

    /// Behind the data, as far as it has come, so that the end of the body is known with its last data.
    fn end_chunk(&mut self, bytes: &mut BytesMut) -> Result<(), Malformed> {
        if self.state != State::DataEnd {
            return Ok(());
        }
        match **bytes {
            [b'\r', b'\n', ..] => bytes.advance(2),
            [] | [b'\r'] => return Ok(()),
            _ => return Err(Malformed::ChunkEnd),
        }
        self.state = State::Size;
        if bytes.starts_with(b"0\r\n\r\n") {
            bytes.advance(5);
            self.state = State::Ended;
        }
        Ok(())
    }
}

fn take_size(bytes: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed::LongChunkLine) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(Malformed::ChunkSize)?;
    let size = read_size(line)?;
    bytes.advance(end + 1);
    Ok(Some(size))
}

/// `chunk-size [ chunk-ext ]`; the extension is not read, and goes nowhere.
fn read_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let is_extension = rest.trim_ascii_start().first().is_none_or(|first| *first == b';');
    let is_text = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if !(1..=DIGITS_MAX).contains(&digits) || !is_extension || !is_text {
        return Err(Malformed::ChunkSize);
    }
    let text = std::str::from_utf8(size).map_err(|_| Malformed::ChunkSize)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed::ChunkSize)
}

fn take_trailers(bytes: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    if bytes.starts_with(b"\r\n") {
        bytes.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut room = [httparse::EMPTY_HEADER; fields::FIELDS_MAX];
    let (length, places) = match httparse::parse_headers(bytes, &mut room)? {
        httparse::Status::Complete((length, found)) => (length, Places::of(bytes, found)),
        httparse::Status::Partial if bytes.len() < TRAILER_BYTES_MAX => return Ok(None),
        httparse::Status::Partial => return Err(Malformed::LongTrailers),
    };
    if fields::has_bare_line_feed(&bytes[..length]) {
        return Err(Malformed::BareLineFeed);
    }
    let head = bytes.split_to(length).freeze();
    places.map(&head, |_, _| Ok(())).map(Some)
}

#[cfg(test)]
mod tests;
