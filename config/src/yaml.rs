//! YAML text to a tree in which every key and value knows its place.
//!
//! Only what a configuration needs: mappings with text keys, lists and scalars. Anchors, aliases and tags are refused,
//! so a small file cannot grow into a large tree (THREATS DS-14), and depth and size have bounds. The parser below is
//! driven by events, so nothing here recurses on what stands in the file.

use crate::problem::{Place, Problem};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const FILE_BYTES_MAX: usize = 1024 * 1024;
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 200_000;
/// Anchors, tags and doubled keys beyond this many are not listed one by one.
const PROBLEMS_MAX: usize = 50;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar {
        text: String,
        /// Written without quotes: `5` may be a number, `"5"` is text.
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// A problem has been told already; nothing more is said about it.
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

impl Node {
    /// `key:` with nothing behind it, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// The one document of `text`, or `None` when a problem makes the rest meaningless. Problems are added to `problems`.
pub(crate) fn parse(file: &Arc<PathBuf>, text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut builder = Builder { file, problems, stack: Vec::new(), nodes: 0, told: 0, root: None };
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                builder.syntax_error(&error, text);
                return None;
            }
        };
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                let place = builder.place(span);
                let hint = "put it into a file of its own and name that file under `include:`";
                builder.problems.push(Problem::new(&place, "a second YAML document begins here", hint));
                return None;
            }
        }
        builder.event(event, span)?;
    }
    match builder.root {
        Some(root) if !root.is_null() => Some(root),
        _ => {
            let place = Place { file: file.clone(), line: 1, column: 1 };
            let hint = "an empty file would deny everything; it is more likely that it was being written";
            problems.push(Problem::new(&place, "the file is empty", hint));
            None
        }
    }
}

struct Builder<'a> {
    file: &'a Arc<PathBuf>,
    problems: &'a mut Vec<Problem>,
    stack: Vec<Open>,
    nodes: usize,
    told: usize,
    root: Option<Node>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    place: Place,
    value: OpenValue,
}

enum OpenValue {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<(String, Place)>, seen: std::collections::HashMap<String, Place> },
}

impl Builder<'_> {
    fn place(&self, span: Span) -> Place {
        Place { file: self.file.clone(), line: span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn syntax_error(&mut self, error: &ScanError, text: &str) {
        let line = error.marker().line().max(1);
        let place = Place { file: self.file.clone(), line, column: error.marker().col() + 1 };
        let what = format!("is not YAML: {}", error.info());
        let tab = text.lines().nth(line - 1).is_some_and(|text| {
            let indent = &text[..text.len() - text.trim_start().len()];
            indent.contains('\t')
        });
        self.problems.push(match tab {
            true => Problem::new(&place, what, "this line is indented with a tab: YAML wants spaces"),
            false => Problem::without_hint(&place, what),
        });
    }

    /// `None` when reading has to stop.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(&place)?;
                let refused = self.refuse_extras(&place, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                let scalar = Value::Scalar { text: text.into_owned(), plain };
                self.scalar(Node { place, value: if refused { Value::Refused } else { scalar } })
            }
            Event::Alias(_) => {
                self.count(&place)?;
                self.tell(Problem::new(&place, "an alias (`*name`) stands here", "write the value out"));
                self.scalar(Node { place, value: Value::Refused })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(&place, anchor, tag.is_some());
                self.open(place, OpenValue::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(&place, anchor, tag.is_some());
                self.open(place, OpenValue::Mapping { entries: Vec::new(), key: None, seen: Default::default() })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.stack.pop()?;
                let value = match open.value {
                    OpenValue::Sequence(items) => Value::Sequence(items),
                    OpenValue::Mapping { entries, .. } => Value::Mapping(entries),
                };
                self.close(Node { place: open.place, value });
                Some(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Some(())
            }
        }
    }

    /// A scalar is a key where a key is due, else a value.
    fn scalar(&mut self, node: Node) -> Option<()> {
        if let Some(Open { value: OpenValue::Mapping { key: key @ None, .. }, .. }) = self.stack.last_mut() {
            let text = match node.value {
                Value::Scalar { text, .. } => text,
                _ => String::new(),
            };
            *key = Some((text, node.place));
        } else {
            self.close(node);
        }
        Some(())
    }

    fn open(&mut self, place: Place, value: OpenValue) -> Option<()> {
        self.count(&place)?;
        if let Some(Open { value: OpenValue::Mapping { key: None, .. }, .. }) = self.stack.last() {
            let hint = "a key is plain text; text that begins with `{` or `[` needs quotes";
            self.problems.push(Problem::new(&place, "a list or mapping stands where a key is due", hint));
            return None;
        }
        if self.stack.len() == DEPTH_MAX {
            self.problems.push(Problem::without_hint(&place, format!("nested deeper than {DEPTH_MAX} levels")));
            return None;
        }
        self.stack.push(Open { place, value });
        Some(())
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, node: Node) {
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut parent.value {
            OpenValue::Sequence(items) => items.push(node),
            OpenValue::Mapping { entries, key, seen } => {
                let Some((key, key_place)) = key.take() else { return };
                if let Some(first) = seen.get(&key) {
                    let what = format!("`{key}` is written twice; it stands at {first} already");
                    self.tell(Problem::new(&key_place, what, "keep one of the two"));
                    return;
                }
                seen.insert(key.clone(), key_place.clone());
                entries.push(Entry { key, key_place, value: node });
            }
        }
    }

    fn count(&mut self, place: &Place) -> Option<()> {
        self.nodes += 1;
        if self.nodes <= NODES_MAX {
            return Some(());
        }
        let hint = "split the file with `include:`, or use a template (`hosts: [\"*.{ns}.svc\"]`)";
        self.problems.push(Problem::new(place, format!("more than {NODES_MAX} keys and values in one file"), hint));
        None
    }

    fn refuse_extras(&mut self, place: &Place, anchor: usize, tagged: bool) -> bool {
        if anchor != 0 {
            self.tell(Problem::new(place, "an anchor (`&name`) stands here", "write the value out at each place"));
        }
        if tagged {
            self.tell(Problem::new(place, "a tag (`!name`) stands here", "remove it; text may stand in quotes"));
        }
        anchor != 0 || tagged
    }

    fn tell(&mut self, problem: Problem) {
        self.told += 1;
        if self.told <= PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests;
