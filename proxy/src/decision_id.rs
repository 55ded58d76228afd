//! The name of a decision: here, at the peer's sidecar, in every log.

use std::fmt;
use std::ops::Deref;

/// Eight hexadecimal digits that tell the process from others, `-`, and the decision's number in it, hexadecimal too.
///
/// Made for every request, so it is text without an allocation.
#[derive(Clone, Copy, Default)]
pub struct DecisionId {
    text: [u8; BYTES_MAX],
    length: u8,
}

const PROCESS_DIGITS: usize = 8;
const BYTES_MAX: usize = PROCESS_DIGITS + 1 + 16;

impl DecisionId {
    pub fn new(process: u32, number: u64) -> Self {
        let mut text = [b'-'; BYTES_MAX];
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1) as usize;
        write_digits(process.into(), &mut text[..PROCESS_DIGITS]);
        write_digits(number, &mut text[PROCESS_DIGITS + 1..][..digits]);
        Self { text, length: (PROCESS_DIGITS + 1 + digits) as u8 }
    }

    /// The number of the decision that is called `id`, if it is one of `process`.
    pub fn number(id: &str, process: u32) -> Option<u64> {
        let (its_process, number) = id.split_once('-')?;
        let is_its = u32::from_str_radix(its_process, 16).is_ok_and(|its_process| its_process == process);
        u64::from_str_radix(number, 16).ok().filter(|_| is_its)
    }
}

fn write_digits(mut number: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

impl Deref for DecisionId {
    type Target = str;

    fn deref(&self) -> &str {
        // It holds nothing but digits and a dash.
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::DecisionId;
    use proptest::prelude::*;

    #[test]
    fn is_process_and_number() {
        for (process, number, text) in [
            (0x7d72_4ffd, 0x3a90, "7d724ffd-3a90"),
            (0, 0, "00000000-0"),
            (0xab, u64::MAX, "000000ab-ffffffffffffffff"),
            (u32::MAX, 0x10, "ffffffff-10"),
        ] {
            assert_eq!(&*DecisionId::new(process, number), text);
        }
        for other in ["", "7d724ffd", "7d724ffd-", "7d724ffe-3a90", "7d724ffd-3a9g", "7d724ffd-10000000000000000"] {
            assert_eq!(DecisionId::number(other, 0x7d72_4ffd), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(process in any::<u32>(), number in any::<u64>()) {
            let id = DecisionId::new(process, number);
            prop_assert_eq!(&*id, format!("{process:08x}-{number:x}"));
            prop_assert_eq!(DecisionId::number(&id, process), Some(number));
        }
    }
}
