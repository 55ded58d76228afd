//! Lets clients in that name a unix socket by its path.
//!
//! gRPC's C core (Python, C++, Ruby, PHP), grpc-java and others send the socket's path as `:authority`, percent-encoded
//! or as it is (grpc/grpc#38142). RFC 9113 §8.3.1 allows neither, and h2 resets the stream with PROTOCOL_ERROR
//! (hyperium/h2#442, #487) before the Workload API, which has no use for the field, could ignore it. SPIRE's agent takes
//! such clients in; so do we, by replacing the offending characters by dots on the way to h2. Lengths stay, so nothing
//! else moves, and the decoder's dynamic table holds the replaced value.
//!
//! Only what those encoders send is looked for: a literal without Huffman coding in a HEADERS frame. Everything else
//! passes unchanged. The data plane does none of this: there, a malformed authority is refused.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// SETTINGS_MAX_FRAME_SIZE at its default: h2 refuses larger frames, so we need not hold them.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// RFC 7541 Appendix A.
const STATIC_AUTHORITY: usize = 1;

/// The server's side of a Workload API connection.
pub(super) struct LenientStream {
    inner: UnixStream,
    repair: Repair,
}

impl LenientStream {
    pub(super) fn new(inner: UnixStream) -> Self {
        Self { inner, repair: Repair::default() }
    }
}

impl AsyncRead for LenientStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.repair.release(buffer) || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 4096];
            let mut more = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut more))?;
            if more.filled().is_empty() {
                // The end, maybe within a frame: what is left is h2's to judge.
                this.repair.released = this.repair.held.len();
                this.repair.release(buffer);
                return Poll::Ready(Ok(()));
            }
            this.repair.push(more.filled());
        }
    }
}

impl AsyncWrite for LenientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

impl Connected for LenientStream {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.inner.connect_info()
    }
}

/// Follows the client's bytes, however they are cut into reads; holds at most one HEADERS frame and one read.
struct Repair {
    held: Vec<u8>,
    /// So many of `held` may go on.
    released: usize,
    /// So many of the bytes after those need no look: the preface, or a frame of another type.
    skip: usize,
}

impl Default for Repair {
    fn default() -> Self {
        Self { held: Vec::new(), released: 0, skip: PREFACE_BYTES }
    }
}

impl Repair {
    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        loop {
            let skipped = self.skip.min(self.held.len() - self.released);
            self.released += skipped;
            self.skip -= skipped;
            let rest = &mut self.held[self.released..];
            let Some([high, middle, low, kind, flags, ..]) = rest.get(..FRAME_HEADER_BYTES) else { return };
            let (kind, flags) = (*kind, *flags);
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if kind != HEADERS || length > FRAME_BYTES_MAX {
                self.skip = FRAME_HEADER_BYTES + length;
                continue;
            }
            let Some(payload) = rest.get_mut(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length) else { return };
            repair_headers(payload, flags);
            self.released += FRAME_HEADER_BYTES + length;
        }
    }

    /// Moves what may go on into `buffer`; says whether that was anything.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.released.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.released -= count;
        count > 0
    }
}

/// RFC 9113 §6.2. A malformed frame is left as it is.
fn repair_headers(payload: &mut [u8], flags: u8) {
    let padding = if flags & PADDED == 0 { 0 } else { 1 + usize::from(payload.first().copied().unwrap_or(0)) };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = (payload.len() + usize::from(flags & PADDED != 0)).saturating_sub(padding);
    if let Some(block) = payload.get_mut(before..end) {
        // `None` is the end of the block, whole or not.
        let _ = repair_block(block);
    }
}

/// Walks the representations of a header block (RFC 7541 §6) until it ends.
fn repair_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        if first & 0x80 != 0 {
            integer(block, &mut at, 7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            integer(block, &mut at, 5)?;
            continue;
        }
        let name = integer(block, &mut at, if first & 0x40 == 0 { 4 } else { 6 })?;
        let is_authority = match name {
            0 => {
                let (_, text) = string(block, &mut at)?;
                block.get(text)? == b":authority"
            }
            index => index == STATIC_AUTHORITY,
        };
        let (huffman, value) = string(block, &mut at)?;
        if is_authority && !huffman {
            for byte in block.get_mut(value)?.iter_mut().filter(|byte| matches!(byte, b'%' | b'/')) {
                *byte = b'.';
            }
        }
    }
}

/// RFC 7541 §5.1.
fn integer(block: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let mask = (1 << prefix_bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    // Larger than any frame that is looked at.
    None
}

/// RFC 7541 §5.2: whether it is Huffman-coded, and where it lies.
fn string(block: &[u8], at: &mut usize) -> Option<(bool, Range<usize>)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let start = *at;
    *at = start + length;
    Some((huffman, start..*at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn pass(chunks: &[&[u8]]) -> Vec<u8> {
        let mut repair = Repair::default();
        let mut passed = Vec::new();
        for chunk in chunks {
            repair.push(chunk);
            let mut space = vec![0; repair.held.len()];
            let mut buffer = ReadBuf::new(&mut space);
            repair.release(&mut buffer);
            passed.extend_from_slice(buffer.filled());
        }
        passed.extend_from_slice(&repair.held);
        passed
    }

    /// What grpc-python 1.85 sends (recorded): a literal name, a plain value.
    fn from_c_core(authority: &str) -> Vec<u8> {
        let mut block = b"@\x05:path\x20/SpiffeWorkloadAPI/FetchX509SVID@\x0a:authority".to_vec();
        block.push(u8::try_from(authority.len()).unwrap());
        block.extend_from_slice(authority.as_bytes());
        block.extend_from_slice(b"\x83\x86@\x02te\x08trailers\x00\x12workload.spiffe.io\x04true");
        block
    }

    fn from_netty(authority: &str) -> Vec<u8> {
        let length = u8::try_from(authority.len()).unwrap();
        [&[0x83, 0x41, length], authority.as_bytes(), &[0x86]].concat()
    }

    #[test]
    fn replaces_what_no_authority_holds_and_nothing_else() {
        let cases = [
            ("tmp%2Fagent.sock", "tmp.2Fagent.sock"),
            ("/run/agent.sock", ".run.agent.sock"),
            ("localhost", "localhost"),
            ("agent.example:8081", "agent.example:8081"),
        ];
        for (sent, expected) in cases {
            for encode in [from_c_core, from_netty] {
                let received = pass(&[PREFACE, &frame(4, 0, &[]), &frame(HEADERS, 4, &encode(sent))]);
                assert_eq!(received, [PREFACE, &frame(4, 0, &[]), &frame(HEADERS, 4, &encode(expected))].concat());
                assert!(http::uri::Authority::try_from(expected).is_ok());
            }
        }
    }

    #[test]
    fn leaves_paths_other_frames_and_huffman_alone() {
        let data = frame(0, 1, &from_c_core("a/b"));
        let huffman = frame(HEADERS, 4, &[0x41, 0x82, b'/', b'%']);
        assert_eq!(pass(&[PREFACE, &data, &huffman]), [PREFACE, &data, &huffman].concat());
    }

    #[test]
    fn finds_the_block_behind_padding_and_priority() {
        let framed = |authority: &str| {
            let block = from_netty(authority);
            frame(HEADERS, PADDED | PRIORITY, &[&[2, 0, 0, 0, 0, 16], &block[..], &[0, 0]].concat())
        };
        assert_eq!(pass(&[PREFACE, &framed("a/b")]), [PREFACE, &framed("a.b")].concat());
    }

    proptest! {
        #[test]
        fn is_the_same_however_the_bytes_are_cut(cut in 0_usize..200, cut_again in 0_usize..200) {
            let whole = [PREFACE, &frame(4, 0, &[0; 6]), &frame(HEADERS, 4, &from_c_core("a%2Fb"))].concat();
            let (first, second) = (cut.min(cut_again).min(whole.len()), cut.max(cut_again).min(whole.len()));
            let parts = [&whole[..first], &whole[first..second], &whole[second..]];
            prop_assert_eq!(pass(&parts), pass(&[&whole]));
        }

        #[test]
        fn keeps_length_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), flags in any::<u8>()) {
            let headers = frame(HEADERS, flags, &bytes);
            prop_assert_eq!(pass(&[PREFACE, &headers, &bytes]).len(), PREFACE.len() + headers.len() + bytes.len());
        }
    }
}
