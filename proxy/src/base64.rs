//! Base64 in both alphabets of RFC 4648, read strictly: one spelling for each value. Pure.

/// What is not base64 of the alphabet in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Base64Fault {
    #[error("it has a length that base64 never has")]
    Length,
    #[error("it has a character that is not in its alphabet; is it the other alphabet of base64, or PEM?")]
    Character,
    #[error("its last group has bits that encode nothing")]
    TrailingBits,
}

/// The standard alphabet with padding (RFC 4648 §4), which `x5c` has.
///
/// # Errors
/// [`Base64Fault`]. No whitespace, no missing padding.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Base64Fault> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return Err(Base64Fault::Length);
    }
    let padding = bytes.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    digits(&bytes[..bytes.len() - padding], &STANDARD)
}

/// The alphabet for URLs without padding (RFC 4648 §5), which JOSE has (RFC 7515 §2).
///
/// # Errors
/// [`Base64Fault`]. No whitespace, no padding.
pub(crate) fn decode_url(text: &[u8]) -> Result<Vec<u8>, Base64Fault> {
    if text.len() % 4 == 1 {
        return Err(Base64Fault::Length);
    }
    digits(text, &URL)
}

fn digits(digits: &[u8], alphabet: &Alphabet) -> Result<Vec<u8>, Base64Fault> {
    let mut decoded = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            match alphabet[usize::from(*byte)] {
                NONE => return Err(Base64Fault::Character),
                value => bits = bits << 6 | u32::from(value),
            }
        }
        // Two digits are one byte and four bits over, three are two bytes and two.
        let (spare, count) = match group.len() {
            4 => (0, 3),
            3 => (2, 2),
            _ => (4, 1),
        };
        if bits & ((1 << spare) - 1) != 0 {
            return Err(Base64Fault::TrailingBits);
        }
        let whole = (bits >> spare) << (8 * (3 - count));
        decoded.extend_from_slice(&whole.to_be_bytes()[1..=count]);
    }
    Ok(decoded)
}

/// Standard, with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for digit in 0..4 {
            // A byte is a digit and a bit, two are two and some, three are four.
            let is_padding = digit > group.len();
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if is_padding { '=' } else { char::from(DIGITS[value]) });
        }
    }
    text
}

/// For URLs, without padding.
pub(crate) fn encode_url(bytes: &[u8]) -> String {
    encode(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// The value of each byte.
type Alphabet = [u8; 256];

/// Not in the alphabet.
const NONE: u8 = 0xff;

static STANDARD: Alphabet = alphabet(b'+', b'/');
static URL: Alphabet = alphabet(b'-', b'_');

const fn alphabet(sixty_two: u8, sixty_three: u8) -> Alphabet {
    let mut values = [NONE; 256];
    let mut letter = 0;
    while letter < 26 {
        values[(b'A' + letter) as usize] = letter;
        values[(b'a' + letter) as usize] = letter + 26;
        letter += 1;
    }
    let mut digit = 0;
    while digit < 10 {
        values[(b'0' + digit) as usize] = digit + 52;
        digit += 1;
    }
    values[sixty_two as usize] = 62;
    values[sixty_three as usize] = 63;
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &[(&str, &str)] =
        &[("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")];

    #[test]
    fn reads_the_vectors_of_rfc_4648() {
        for (text, expected) in VECTORS {
            assert_eq!(decode(text).unwrap(), expected.as_bytes(), "{text}");
            assert_eq!(decode_url(text.trim_end_matches('=').as_bytes()).unwrap(), expected.as_bytes(), "{text}");
            assert_eq!(encode(expected.as_bytes()), *text);
            assert_eq!(encode_url(expected.as_bytes()), text.trim_end_matches('='));
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
        assert_eq!(decode_url(b"-_-_").unwrap(), [0xfb, 0xff, 0xbf]);
        assert_eq!(encode(&[0xfb, 0xff, 0xbf]), "+/+/");
        assert_eq!(encode_url(&[0xfb, 0xff, 0xbf]), "-_-_");
    }

    #[test]
    fn refuses_other_spellings() {
        let cases = [
            ("Zg", Base64Fault::Length),
            ("Zg=", Base64Fault::Length),
            ("-_-_", Base64Fault::Character),
            ("Zm9v\nZg=", Base64Fault::Character),
            ("====", Base64Fault::Character),
            ("Z===", Base64Fault::Character),
            ("Zh==", Base64Fault::TrailingBits),
            ("Zm9=", Base64Fault::TrailingBits),
        ];
        for (text, fault) in cases {
            assert_eq!(decode(text), Err(fault), "{text}");
        }
    }

    /// JW-14: every value has one spelling for URLs too.
    #[test]
    fn refuses_other_spellings_for_urls() {
        let cases = [
            ("Z", Base64Fault::Length),
            ("Zm9vZ", Base64Fault::Length),
            ("Zg==", Base64Fault::Character),
            ("Zm9vZg=", Base64Fault::Character),
            ("+_+_", Base64Fault::Character),
            ("-/-/", Base64Fault::Character),
            ("Zm9v\n", Base64Fault::Length),
            ("Zm9vZ\n", Base64Fault::Character),
            (" Zm9v", Base64Fault::Length),
            ("Zm 9vYg", Base64Fault::Character),
            ("Zm9vYmF\u{430}", Base64Fault::Length),
            ("Zh", Base64Fault::TrailingBits),
            ("Zm9", Base64Fault::TrailingBits),
        ];
        for (text, fault) in cases {
            assert_eq!(decode_url(text.as_bytes()), Err(fault), "{text:?}");
        }
    }
}
