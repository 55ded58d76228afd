//! Bytes as instructions: control characters stand for words of a vocabulary, so that a few changed bytes make a text that
//! gets past the first check. Everything else stands for itself.

pub(super) fn spell(bytes: &[u8], vocabulary: &[&str]) -> Vec<u8> {
    let mut spelt = Vec::with_capacity(bytes.len() * 4);
    for byte in bytes {
        match vocabulary.get(usize::from(*byte)) {
            Some(word) if *byte < b' ' => spelt.extend_from_slice(word.as_bytes()),
            _ => spelt.push(*byte),
        }
    }
    spelt
}
