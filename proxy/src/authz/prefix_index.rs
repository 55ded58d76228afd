//! Finds the few patterns that can match a text, among thousands.
//!
//! Patterns of paths and of SPIFFE IDs alike are segments behind `/`; the segments before the first wildcard stand
//! literally in all that a pattern matches. So a pattern is filed under them, and a text is looked up under each of its own
//! beginnings: as many look-ups as the deepest pattern has literal segments, whatever the number of patterns.

use crate::lookup::Lookup;

/// Items filed by the literal beginning of their pattern, each list in the order of insertion.
#[derive(Clone, Debug)]
pub struct PrefixIndex<T> {
    by_prefix: Lookup<Box<str>, Vec<T>>,
    /// Slashes in the longest prefix: a text of 30,000 slashes costs no more look-ups than a short one (THREATS PN-25).
    slashes_max: usize,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        Self { by_prefix: Lookup::default(), slashes_max: 0 }
    }
}

impl<T> PrefixIndex<T> {
    /// Files `item` under the literal segments of `pattern`.
    pub fn insert(&mut self, pattern: &str, item: T) {
        let prefix = literal_prefix(pattern);
        self.slashes_max = self.slashes_max.max(slashes(prefix));
        self.by_prefix.entry(prefix.into()).or_default().push(item);
    }

    /// The lists in which a pattern that matches `text` can be; at most one a prefix.
    pub fn candidates<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a [T]> {
        let whole = (slashes(text) <= self.slashes_max).then_some(text);
        let beginnings = text.match_indices('/').map(|(end, _)| &text[..end]).take(self.slashes_max + 1);
        beginnings.chain(whole).filter_map(|prefix| self.by_prefix.get(prefix)).map(Vec::as_slice)
    }
}

/// `/orders` of `/orders/{id}/items`, `spiffe://shop/ns` of `spiffe://shop/ns/*`, all of a pattern without wildcard.
fn literal_prefix(pattern: &str) -> &str {
    match pattern.find(WILDCARD) {
        None => pattern,
        Some(wildcard) => &pattern[..pattern[..wildcard].rfind('/').unwrap_or(0)],
    }
}

const WILDCARD: [char; 2] = ['*', '{'];

fn slashes(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'/').count()
}

#[cfg(test)]
mod tests {
    use super::{PrefixIndex, literal_prefix};

    #[test]
    fn files_patterns_under_their_literal_segments() {
        for (pattern, prefix) in [
            ("/**", ""),
            ("/orders", "/orders"),
            ("/orders/", "/orders/"),
            ("/orders/**", "/orders"),
            ("/orders/{id}/items", "/orders"),
            ("/orders/v*", "/orders"),
            ("/*/items", ""),
            ("spiffe://shop/**", "spiffe://shop"),
            ("spiffe://shop/ns/*/sa/web", "spiffe://shop/ns"),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }

    #[test]
    fn pn25_a_text_is_looked_up_no_deeper_than_patterns_go() {
        let mut index = PrefixIndex::default();
        for (pattern, slashes_max) in [("/**", 0), ("/long-name/*/a/b/c", 1), ("/a/b/{id}", 2), ("/d", 2)] {
            index.insert(pattern, ());
            assert_eq!(index.slashes_max, slashes_max, "{pattern}");
        }
    }

    #[test]
    fn finds_every_pattern_that_can_match_and_no_other() {
        let mut index = PrefixIndex::default();
        for pattern in ["/**", "/orders", "/orders/", "/orders/**", "/orders/{id}/items", "/admin/**"] {
            index.insert(pattern, pattern);
        }
        let found = |text: &str| index.candidates(text).flatten().copied().collect::<Vec<_>>();
        assert_eq!(found("/"), ["/**"]);
        assert_eq!(found("/orders"), ["/**", "/orders", "/orders/**", "/orders/{id}/items"]);
        assert_eq!(found("/orders/"), ["/**", "/orders", "/orders/**", "/orders/{id}/items", "/orders/"]);
        assert_eq!(
            found("/orders/1/items"),
            ["/**", "/orders", "/orders/**", "/orders/{id}/items", "/orders/"]
                .into_iter()
                .filter(|p| *p != "/orders/")
                .collect::<Vec<_>>()
        );
        assert_eq!(found("/administrator"), ["/**"]);
    }
}
