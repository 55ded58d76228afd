//! Where a character of a scalar stands in its file, whatever YAML made of it: quotes, escapes, folded lines.

use crate::problem::Place;

/// Lays the text over the source from `node` on: blanks, quotes, and what introduces a block, stand in the source alone.
/// `at`: bytes from the beginning of `text`. Where the two do not fit, the beginning of the scalar.
pub(super) fn within(source: &str, node: &Place, text: &str, at: usize) -> Place {
    let (mut line, mut column) = (node.line, node.column);
    let skipped = source.split_inclusive('\n').take(node.line.saturating_sub(1)).map(str::len).sum::<usize>();
    let rest = source.get(skipped..).unwrap_or_default();
    let mut rest = rest.chars().skip(node.column.saturating_sub(1)).peekable();
    let advance = |rest: &mut dyn Iterator<Item = char>, line: &mut usize, column: &mut usize| match rest.next() {
        Some('\n') => (*line, *column) = (*line + 1, 1),
        _ => *column += 1,
    };
    if matches!(rest.peek(), Some('|' | '>')) {
        while rest.peek().is_some_and(|character| *character != '\n') {
            advance(&mut rest, &mut line, &mut column);
        }
    }
    let before = text.char_indices().take_while(|(place, _)| *place < at);
    let mut wanted = 1 + before.filter(|(_, character)| !character.is_whitespace()).count();
    let mut letters = text.chars().filter(|character| !character.is_whitespace()).peekable();
    while wanted > 0 {
        let (Some(found), Some(letter)) = (rest.peek().copied(), letters.peek().copied()) else { return node.clone() };
        if found == letter {
            wanted -= 1;
            letters.next();
            if wanted == 0 {
                return Place { line, column, ..node.clone() };
            }
        } else if !(found.is_whitespace() || matches!(found, '\'' | '"' | '\\')) {
            return node.clone();
        }
        advance(&mut rest, &mut line, &mut column);
    }
    node.clone()
}
