//! How much HTTP/2 connections may make us keep: bytes that the other side may send before somebody has taken them.
//!
//! HTTP/2 promises such bytes when a connection begins. Each connection is promised an eighth of what is left of its
//! worker's share of `limits.buffered_bytes`, between HTTP/2's own smallest window and the largest that serves a fast and
//! distant peer: few connections have all they can use, and ten thousand cannot fill the memory. Pure.

use std::cell::Cell;
use std::rc::Rc;

/// PEERS D2.
const STREAM_MAX: usize = 1 << 20;
const CONNECTION_MAX: usize = 4 << 20;
/// RFC 9113 §6.9.2: what every connection begins with, and what cannot be taken back.
const SMALLEST: usize = 65_535;
const PART: usize = 8;
/// Bytes of a stream's answer that wait for its connection, beside those in the socket.
const SEND_MAX: usize = 256 << 10;
const SEND_MIN: usize = 16 << 10;

/// The promises of one worker.
#[derive(Default)]
pub struct Windows {
    promised: Cell<usize>,
}

/// One connection's; taken back when dropped.
pub struct Window {
    windows: Rc<Windows>,
    bytes: usize,
}

impl Windows {
    pub fn promise(self: &Rc<Self>, bytes_max: usize) -> Window {
        let left = bytes_max.saturating_sub(self.promised.get());
        let bytes = (left / PART).clamp(SMALLEST, CONNECTION_MAX);
        self.promised.set(self.promised.get() + bytes);
        Window { windows: self.clone(), bytes }
    }
}

impl Window {
    pub fn connection(&self) -> u32 {
        self.bytes as u32
    }

    pub fn stream(&self) -> u32 {
        self.bytes.min(STREAM_MAX) as u32
    }

    pub fn send_buffer(&self) -> usize {
        (self.bytes / 16).clamp(SEND_MIN, SEND_MAX)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.promised.set(self.windows.promised.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTION_MAX, SMALLEST, Windows};
    use std::rc::Rc;

    #[test]
    fn ds_10_what_is_promised_stays_within_the_limit_and_comes_back() {
        let windows = Rc::new(Windows::default());
        let limit = 128 << 20;
        let mut live: Vec<_> = (0..10).map(|_| windows.promise(limit)).collect();
        assert!(live.iter().all(|window| window.bytes == CONNECTION_MAX), "few have all they can use");
        live.extend((0..10_000).map(|_| windows.promise(limit)));
        assert_eq!(live.last().expect("one").connection(), SMALLEST as u32);
        assert!(windows.promised.get() <= limit + 10_000 * SMALLEST);
        let beyond_the_smallest: usize = live.iter().map(|window| window.bytes - SMALLEST).sum();
        assert!(beyond_the_smallest <= limit);
        drop(live);
        assert_eq!(windows.promised.get(), 0);
        assert_eq!(windows.promise(limit).stream(), 1 << 20);
    }
}
