//! What somebody else wrote, in words for people: escaped, so that it can move no cursor and begin no line, and cut.

use std::fmt::{self, Write};

/// A text of a token or of a key set, as it may stand in a message. Never a token: those are longer than what is kept, and
/// no rule's message is given one.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// Enough for most SPIFFE IDs, too few to flood a log.
    const CHARACTERS_MAX: usize = 120;

    pub fn of(text: &str) -> Self {
        let mut characters = text.chars();
        let mut shown: String = characters.by_ref().take(Self::CHARACTERS_MAX).flat_map(char::escape_debug).collect();
        if characters.next().is_some() {
            shown.push('…');
        }
        Self(shown)
    }

    /// Several texts, as one.
    pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut joined = String::new();
        for text in texts {
            if joined.len() > 4 * Self::CHARACTERS_MAX {
                break;
            }
            let separator = if joined.is_empty() { "" } else { ", " };
            // Writing into a String cannot fail.
            let _ = write!(joined, "{separator}{text}");
        }
        Self::of(&joined)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn is_one_line_and_short() {
        assert_eq!(Shown::of("a\n\u{1b}[2J\u{202e}").as_str(), r"a\n\u{1b}[2J\u{202e}");
        assert_eq!(Shown::of(&"é".repeat(120)).as_str(), "é".repeat(120));
        assert_eq!(Shown::of(&"é".repeat(121)).as_str(), format!("{}…", "é".repeat(120)));
        assert_eq!(Shown::list(["a", "b"]).as_str(), "a, b");
        assert!(Shown::list(vec!["audience"; 10_000]).as_str().len() < 500);
    }
}
