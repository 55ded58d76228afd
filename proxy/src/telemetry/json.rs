//! One JSON object a line, written straight into a reused buffer.
//!
//! Much of what is written came from a peer, so a line can never be more than one line, never moves a terminal's
//! cursor, and never grows beyond what its fields are bounded to.

use std::fmt;
use std::io::Write;
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

    /// Upper-case hexadecimal, as OpenTelemetry wants hashes.
    pub fn hash_if(&mut self, name: &str, hash: Option<&[u8; 32]>) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let Some(hash) = hash else { return };
        self.key(name);
        self.buffer.push(b'"');
        for byte in hash {
            self.buffer.push(DIGITS[usize::from(byte >> 4)]);
            self.buffer.push(DIGITS[usize::from(byte & 15)]);
        }
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

/// RFC 8259 §7, and more: DEL and C1 controls (a terminal obeys U+009B like ESC `[`) and the Unicode line separators.
fn escape_into(buffer: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
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

fn rfc3339_into(buffer: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, microseconds) = (since.as_secs(), since.subsec_micros());
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let _ = write!(buffer, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microseconds:06}Z");
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
    use super::{Object, rfc3339};
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
