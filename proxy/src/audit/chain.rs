//! The chain: each record is one line that carries its number, the hash of the record before it, and its own. Pure.
//!
//! ```text
//! {"seq":7,"prev":"<64 hex>","log":"<32 hex>","kind":"…", … ,"hash":"<64 hex>"}⏎
//! ```
//!
//! `hash` is SHA-256 over [`LABEL`] and the bytes of the line **as it is written**, from `{` up to and without
//! `,"hash":"`. `prev` is the `hash` of the record before, and 64 zeros in the first record of a log. Nothing is parsed or
//! written anew before it is hashed, so there is one spelling of a record: the file's. Hexadecimal digits are lower case.
//!
//! That a record has its own hash, and not only the next one's `prev`, is what names the changed one, also when it is the
//! last.

use crate::tls::certificate::hex;
use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::ops::Range;

/// No hash of a record is the hash of anything else.
const LABEL: &[u8] = b"postern-audit-record-v1\0";

pub type Hash = [u8; 32];

/// A line is never longer: seals hold a certificate chain, which has at most 64 KiB.
pub const LINE_BYTES_MAX: usize = 256 << 10;

/// Tells one log from every other one. Files of a log that were rotated have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a log ends, and so how it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    log: LogId,
    next: u64,
    head: Hash,
}

impl Chain {
    /// A log without a record.
    pub fn begin(log: LogId) -> Self {
        Self { log, next: 1, head: [0; 32] }
    }

    /// A log of which `last` is the last record.
    pub fn after(last: &Record<'_>) -> Self {
        Self { log: last.log, next: last.number + 1, head: last.hash }
    }

    pub fn log(&self) -> LogId {
        self.log
    }

    /// The number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn head(&self) -> &Hash {
        &self.head
    }

    /// Appends a line to `lines`. `body` is what stands between the chain's fields: members of a JSON object, of which the
    /// first is `"kind"`.
    pub fn append(&mut self, body: &[u8], lines: &mut Vec<u8>) {
        let start = lines.len();
        self.open(body, lines);
        self.close(start, lines);
    }

    /// As [`append`](Self::append), with the member `signature` behind `body`: what `sign` makes of everything before it.
    ///
    /// # Errors
    /// As `sign`; nothing is appended then.
    pub fn append_signed<E>(
        &mut self,
        body: &[u8],
        lines: &mut Vec<u8>,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let start = lines.len();
        self.open(body, lines);
        let signature = sign(&lines[start..]).inspect_err(|_| lines.truncate(start))?;
        lines.extend_from_slice(SIGNATURE);
        lines.extend_from_slice(hex(&signature).as_bytes());
        lines.push(b'"');
        self.close(start, lines);
        Ok(())
    }

    fn open(&self, body: &[u8], lines: &mut Vec<u8>) {
        lines.extend_from_slice(b"{\"seq\":");
        lines.extend_from_slice(itoa::Buffer::new().format(self.next).as_bytes());
        lines.extend_from_slice(b",\"prev\":\"");
        hex_into(&self.head, lines);
        lines.extend_from_slice(b"\",\"log\":\"");
        hex_into(&self.log.0, lines);
        lines.extend_from_slice(b"\",");
        lines.extend_from_slice(body);
    }

    fn close(&mut self, start: usize, lines: &mut Vec<u8>) {
        self.head = hash(&lines[start..]);
        self.next += 1;
        lines.extend_from_slice(HASH);
        hex_into(&self.head, lines);
        lines.extend_from_slice(b"\"}\n");
    }
}

/// What every reader of JSON reads exactly (RFC 8259 §6); no log gets there.
const NUMBER_MAX: u64 = 1 << 53;

const HASH: &[u8] = b",\"hash\":\"";
const SIGNATURE: &[u8] = b",\"signature\":\"";
/// Behind the bytes that are hashed: the member `hash`, and `}`.
const TAIL_BYTES: usize = HASH.len() + 64 + 2;

/// One line, of which the hash is right.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub number: u64,
    /// The hash of the record before, as this one says.
    pub before: Hash,
    pub log: LogId,
    pub kind: &'a str,
    /// When it was made, if it begins with that, as records do.
    pub time: Option<&'a str>,
    pub hash: Hash,
    /// The line, without its end.
    pub line: &'a str,
}

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    #[error("it is no record of an audit log")]
    Form,
    #[error("its hash is not that of its content")]
    Hash,
}

impl<'a> Record<'a> {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// [`LineFault`]: somebody changed it, or it never was a record.
    pub fn read(line: &'a [u8]) -> Result<Self, LineFault> {
        let line = std::str::from_utf8(line).map_err(|_not_text| LineFault::Form)?;
        let (number, rest) = read_number(line.strip_prefix("{\"seq\":").ok_or(LineFault::Form)?)?;
        let rest = rest.strip_prefix(",\"prev\":\"").ok_or(LineFault::Form)?;
        let (before, rest) = read_hex::<32>(rest)?;
        let rest = rest.strip_prefix("\",\"log\":\"").ok_or(LineFault::Form)?;
        let (log, rest) = read_hex::<16>(rest)?;
        let rest = rest.strip_prefix("\",\"kind\":\"").ok_or(LineFault::Form)?;
        let (kind, rest) = rest.split_once('"').ok_or(LineFault::Form)?;
        let time = rest.strip_prefix(",\"time\":\"").and_then(|rest| rest.split_once('"'));
        let hashed = line.len().checked_sub(TAIL_BYTES).ok_or(LineFault::Form)?;
        let tail = line.get(hashed..).ok_or(LineFault::Form)?;
        let tail = tail.as_bytes().strip_prefix(HASH).and_then(|tail| std::str::from_utf8(tail).ok());
        let (said, rest) = read_hex::<32>(tail.ok_or(LineFault::Form)?)?;
        if rest != "\"}" {
            return Err(LineFault::Form);
        }
        if hash(&line.as_bytes()[..hashed]) != said {
            return Err(LineFault::Hash);
        }
        Ok(Self { number, before, log: LogId(log), kind, time: time.map(|(time, _)| time), hash: said, line })
    }

    /// Of a signed record: the bytes that the signature is about, and the signature.
    ///
    /// # Errors
    /// It has no signature.
    pub fn signed(&self) -> Result<(&'a [u8], Vec<u8>), LineFault> {
        let hashed = &self.line.as_bytes()[..self.line.len() - TAIL_BYTES];
        let at = hashed.windows(SIGNATURE.len()).rposition(|window| window == SIGNATURE).ok_or(LineFault::Form)?;
        let digits = hashed[at + SIGNATURE.len()..].strip_suffix(b"\"").ok_or(LineFault::Form)?;
        Ok((&hashed[..at], read_digits(digits)?))
    }
}

/// Which bytes of a file of `bytes` hold the last whole line, and how many behind it hold none.
pub fn last_line(bytes: &[u8]) -> (Range<usize>, usize) {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return (0..0, bytes.len()) };
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
    (start..end, bytes.len() - end - 1)
}

fn hash(bytes: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(LABEL);
    context.update(bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// One spelling: no sign, no leading zero.
fn read_number(text: &str) -> Result<(u64, &str), LineFault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits);
    if digits.is_empty() || digits.starts_with('0') {
        return Err(LineFault::Form);
    }
    let number = digits.parse().ok().filter(|number| *number <= NUMBER_MAX);
    number.map(|number| (number, rest)).ok_or(LineFault::Form)
}

fn read_hex<const BYTES: usize>(text: &str) -> Result<([u8; BYTES], &str), LineFault> {
    let (digits, rest) = text.split_at_checked(BYTES * 2).ok_or(LineFault::Form)?;
    let bytes = read_digits(digits.as_bytes())?;
    Ok((bytes.try_into().map_err(|_length| LineFault::Form)?, rest))
}

/// Lower case alone: upper case would be a second spelling of the same bytes.
pub fn read_digits(digits: &[u8]) -> Result<Vec<u8>, LineFault> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(LineFault::Form),
    };
    let (pairs, []) = digits.as_chunks::<2>() else { return Err(LineFault::Form) };
    pairs.iter().map(|[high, low]| Ok(value(*high)? << 4 | value(*low)?)).collect()
}

fn hex_into<const BYTES: usize>(bytes: &[u8; BYTES], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = bytes.map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    text.extend_from_slice(pairs.as_flattened());
}

#[cfg(test)]
mod tests {
    use super::{Chain, LineFault, LogId, Record, last_line};
    use proptest::prelude::*;

    const BODY: &[u8] = br#""kind":"request","time":"2026-11-22T01:02:03.000004Z","outcome":"allowed""#;

    fn lines(count: usize) -> Vec<String> {
        let mut chain = Chain::begin(LogId([7; 16]));
        let mut lines = Vec::new();
        (0..count).for_each(|_| chain.append(BODY, &mut lines));
        String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect()
    }

    /// What is written today is verified in years: neither the form nor the hash may ever change.
    #[test]
    fn the_form_of_a_line_and_its_hash_are_fixed() {
        let zeros = "0".repeat(64);
        let start = format!(
            r#"{{"seq":1,"prev":"{zeros}","log":"07070707070707070707070707070707","kind":"request","time":"2026-11-22T01:02:03.000004Z","outcome":"allowed""#
        );
        let hash = crate::tls::certificate::hex(&crate::tls::bundle::sha256(
            &[b"postern-audit-record-v1\0", start.as_bytes()].concat(),
        ));
        let lines = lines(2);
        assert_eq!(lines[0], format!("{start},\"hash\":\"{hash}\"}}"));
        assert!(lines[1].starts_with(&format!(r#"{{"seq":2,"prev":"{hash}","log":"#)), "{}", lines[1]);
    }

    #[test]
    fn reads_what_it_wrote_and_goes_on_with_it() {
        let lines = lines(3);
        let last = Record::read(lines[2].as_bytes()).unwrap();
        assert_eq!((last.number, last.kind, last.log), (3, "request", LogId([7; 16])));
        assert_eq!(last.before, Record::read(lines[1].as_bytes()).unwrap().hash);
        let mut gone_on = Vec::new();
        Chain::after(&last).append(BODY, &mut gone_on);
        let next = Record::read(gone_on.trim_ascii_end()).unwrap();
        assert_eq!((next.number, next.before), (4, last.hash));
        serde_json::from_str::<serde_json::Value>(next.line).unwrap();
    }

    #[test]
    fn a_signature_is_about_everything_before_it_and_hashed_with_it() {
        let mut chain = Chain::begin(LogId([7; 16]));
        let mut line = Vec::new();
        let failed = chain.append_signed(BODY, &mut line, |_| Err("no key"));
        assert_eq!((failed, line.len(), chain.next()), (Err("no key"), 0, 1));
        let mut signed = Vec::new();
        let sign = |bytes: &[u8]| {
            signed = bytes.to_vec();
            Ok::<_, ()>(vec![0xab, 0xcd])
        };
        chain.append_signed(BODY, &mut line, sign).unwrap();
        let record = Record::read(line.trim_ascii_end()).unwrap();
        assert_eq!(record.signed().unwrap(), (&signed[..], vec![0xab, 0xcd]));
        assert!(signed.ends_with(br#""outcome":"allowed""#));
        assert_eq!(Record::read(lines(1)[0].as_bytes()).unwrap().signed(), Err(LineFault::Form));
    }

    #[test]
    fn finds_the_last_whole_line_and_what_is_torn() {
        for (bytes, line, torn) in [
            ("", 0..0, 0),
            ("torn", 0..0, 4),
            ("one\n", 0..3, 0),
            ("one\ntwo\n", 4..7, 0),
            ("one\ntwo\nto", 4..7, 2),
            ("\n", 0..0, 0),
        ] {
            assert_eq!(last_line(bytes.as_bytes()), (line, torn), "{bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_byte_of_a_line_can_be_changed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut line = lines(1).remove(0).into_bytes();
            let at = at.index(line.len());
            prop_assume!(line[at] != to);
            line[at] = to;
            prop_assert!(Record::read(&line).is_err());
        }

        #[test]
        fn nothing_panics(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::read(&line);
            let _ = last_line(&line);
        }
    }
}
