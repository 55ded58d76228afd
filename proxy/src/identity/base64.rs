//! Standard base64 with padding (RFC 4648 §4), read strictly: the one alphabet that `x5c` has. Pure.

/// What is not standard base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Base64Fault {
    #[error("its length is not a multiple of four")]
    Length,
    #[error("it has a character that is not in the alphabet; is it base64url or PEM?")]
    Character,
    #[error("its last group has bits that encode nothing")]
    TrailingBits,
}

/// # Errors
/// [`Base64Fault`]. No whitespace, no missing padding, one spelling for each value.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Base64Fault> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return Err(Base64Fault::Length);
    }
    let padding = bytes.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            bits = bits << 6 | value(*byte).ok_or(Base64Fault::Character)?;
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

fn value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_vectors_of_rfc_4648() {
        for (text, expected) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(decode(text).unwrap(), expected.as_bytes(), "{text}");
        }
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
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
}
