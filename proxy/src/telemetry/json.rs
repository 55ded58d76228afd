//! One JSON object a line, written straight into a reused buffer.
//!
//! Much of what is written came from a peer, so a line can never be more than one line, never moves a terminal's
//! cursor, and never grows beyond what its fields are bounded to.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

/// A JSON object under construction at the end of a buffer.
pub struct Object<'a> {
    buffer: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub fn begin(buffer: &'a mut Vec<u8>) -> Self {
        buffer.push(b'{');
        Self { buffer, empty: true }
    }

    /// Members alone, without the braces around them.
    pub fn members(buffer: &'a mut Vec<u8>) -> Self {
        Self { buffer, empty: true }
    }

    /// The members that `write` makes, which are the same whenever it is called with this `rendered`.
    pub fn once(&mut self, rendered: &Rendered, write: impl FnOnce(&mut Object<'_>)) {
        let members = rendered.0.get_or_init(|| {
            let mut members = Vec::new();
            write(&mut Object::members(&mut members));
            members.into_boxed_slice()
        });
        if !self.empty && !members.is_empty() {
            self.buffer.push(b',');
        }
        self.empty &= members.is_empty();
        self.buffer.extend_from_slice(members);
    }

    /// `name` is ours and needs no escaping.
    fn key(&mut self, name: &str) {
        if !self.empty {
            self.buffer.push(b',');
        }
        self.empty = false;
        self.buffer.push(b'"');
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.extend_from_slice(b"\":");
    }

    /// A text of any origin, cut after `bytes_max` bytes of it.
    pub fn text(&mut self, name: &str, text: &str, bytes_max: usize) {
        self.key(name);
        self.buffer.push(b'"');
        let kept = &text[..text.floor_char_boundary(bytes_max)];
        escape_into(self.buffer, kept);
        if kept.len() < text.len() {
            self.buffer.extend_from_slice("…".as_bytes());
        }
        self.buffer.push(b'"');
    }

    pub fn text_if(&mut self, name: &str, text: Option<&str>, bytes_max: usize) {
        if let Some(text) = text {
            self.text(name, text, bytes_max);
        }
    }

    /// A number, or anything else whose `Display` is valid JSON as it stands.
    pub fn number(&mut self, name: &str, number: impl fmt::Display) {
        self.key(name);
        // Writing to a `Vec` cannot fail.
        let _ = write!(self.buffer, "{number}");
    }

    pub fn number_if(&mut self, name: &str, number: Option<impl fmt::Display>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    pub fn integer(&mut self, name: &str, integer: impl Into<u64>) {
        self.key(name);
        self.buffer.extend_from_slice(itoa::Buffer::new().format(integer.into()).as_bytes());
    }

    pub fn integer_if(&mut self, name: &str, integer: Option<impl Into<u64>>) {
        if let Some(integer) = integer {
            self.integer(name, integer);
        }
    }

    /// Upper-case hexadecimal, as OpenTelemetry wants hashes.
    pub fn hash_if(&mut self, name: &str, hash: Option<&[u8; 32]>) {
        if let Some(hash) = hash {
            self.digits(name, hash, b"0123456789ABCDEF");
        }
    }

    /// Lower-case hexadecimal.
    pub fn hex(&mut self, name: &str, bytes: &[u8]) {
        self.digits(name, bytes, b"0123456789abcdef");
    }

    fn digits(&mut self, name: &str, bytes: &[u8], digits: &[u8; 16]) {
        self.key(name);
        self.buffer.push(b'"');
        let of = |byte: &u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
        self.buffer.extend(bytes.iter().flat_map(of));
        self.buffer.push(b'"');
    }

    pub fn time(&mut self, name: &str, at: SystemTime) {
        self.key(name);
        self.buffer.push(b'"');
        rfc3339_into(self.buffer, at);
        self.buffer.push(b'"');
    }

    pub fn end_line(self) {
        self.buffer.extend_from_slice(b"}\n");
    }
}

/// Members of an object that never change, written when they are wanted first; see [`Object::once`].
#[derive(Default)]
pub struct Rendered(OnceLock<Box<[u8]>>);

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered").finish_non_exhaustive()
    }
}

/// RFC 8259 §7, and more: DEL and C1 controls (a terminal obeys U+009B like ESC `[`) and the Unicode line separators.
fn escape_into(buffer: &mut Vec<u8>, text: &str) {
    // All bytes are looked at, many at a time: most texts are plain.
    if text.bytes().fold(true, |plain, byte| plain & (matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\'))) {
        buffer.extend_from_slice(text.as_bytes());
        return;
    }
    for character in text.chars() {
        match character {
            '"' => buffer.extend_from_slice(b"\\\""),
            '\\' => buffer.extend_from_slice(b"\\\\"),
            '\n' => buffer.extend_from_slice(b"\\n"),
            '\r' => buffer.extend_from_slice(b"\\r"),
            '\t' => buffer.extend_from_slice(b"\\t"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(buffer, "\\u{:04x}", u32::from(character));
            }
            _ => {
                let mut encoded = [0; 4];
                buffer.extend_from_slice(character.encode_utf8(&mut encoded).as_bytes());
            }
        }
    }
}

/// `at` in UTC with microseconds, such as `2026-11-22T01:02:03.000004Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let mut text = Vec::with_capacity(27);
    rfc3339_into(&mut text, at);
    text.into_iter().map(char::from).collect()
}

/// RFC 3339 §1: years have four digits.
const END_OF_9999: u64 = 253_402_300_799;

fn rfc3339_into(buffer: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, microseconds) = (since.as_secs().min(END_OF_9999), since.subsec_micros());
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    // Several are in each record, and the machinery of formatting would be most of their cost.
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let parts = [(year, 4), (month, 7), (day, 10), (hour, 13), (minute, 16), (second, 19), (microseconds.into(), 26)];
    for (mut value, end) in parts {
        for digit in text[..end].iter_mut().rev().take_while(|digit| digit.is_ascii_digit()) {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    buffer.extend_from_slice(&text);
}

/// Days since 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`, without the eras before the epoch).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{Object, Rendered, rfc3339};
    use proptest::prelude::*;
    use std::time::{Duration, SystemTime};

    fn line(text: &str, bytes_max: usize) -> String {
        let mut buffer = Vec::new();
        let mut object = Object::begin(&mut buffer);
        object.text("x", text, bytes_max);
        object.end_line();
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn escapes_what_could_leave_the_string_the_line_or_the_terminal() {
        for (text, expected) in [
            ("plain", r#"plain"#),
            ("\"", r#"\""#),
            ("a\\b", r#"a\\b"#),
            ("\n{\"decision\":\"allow\"}", r#"\n{\"decision\":\"allow\"}"#),
            ("\r\t\0", r#"\r\t\u0000"#),
            ("\u{1b}[2J", r#"\u001b[2J"#),
            ("\u{9b}2J\u{7f}", r#"\u009b2J\u007f"#),
            ("\u{2028}\u{2029}", r#"\u2028\u2029"#),
            ("größe", "größe"),
        ] {
            assert_eq!(line(text, 100), format!("{{\"x\":\"{expected}\"}}\n"), "{text:?}");
        }
    }

    #[test]
    fn what_was_rendered_is_written_again_as_it_was() {
        let (rendered, nothing) = (Rendered::default(), Rendered::default());
        let mut buffer = Vec::new();
        for value in [1, 2] {
            let mut object = Object::begin(&mut buffer);
            object.once(&nothing, |_| {});
            object.once(&rendered, |object| {
                object.number("a", value);
                object.text("b", "\"", 10);
            });
            object.once(&nothing, |_| {});
            object.number("c", value);
            object.end_line();
        }
        assert_eq!(buffer, b"{\"a\":1,\"b\":\"\\\"\",\"c\":1}\n{\"a\":1,\"b\":\"\\\"\",\"c\":2}\n");
    }

    #[test]
    fn cuts_at_a_character_and_says_so() {
        assert_eq!(line("abcd", 4), "{\"x\":\"abcd\"}\n");
        assert_eq!(line("abcde", 4), "{\"x\":\"abcd…\"}\n");
        assert_eq!(line("aöö", 2), "{\"x\":\"a…\"}\n");
    }

    #[test]
    fn writes_times_as_rfc_3339() {
        for (seconds, microseconds, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (1_795_309_323, 4, "2026-11-22T01:02:03.000004Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (300_000_000_000, 0, "9999-12-31T23:59:59.000000Z"),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(microseconds);
            assert_eq!(rfc3339(at), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn hd_22_any_text_is_one_line_that_reads_back(text in any::<String>()) {
            let line = line(&text, usize::MAX);
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            prop_assert!(!line.trim_end().chars().any(char::is_control));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["x"].as_str().unwrap(), text);
        }
    }
}
