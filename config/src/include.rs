//! Files to one tree: reads the first file and all that it includes, and joins them.
//!
//! Ports and services are added to each other in the order in which the files are named; every other section may be
//! written once among all files, so that no file silently overrides another.

use crate::problem::{Place, Problem};
use crate::read::shown;
use crate::values::absolute;
use crate::yaml::{self, Entry, FILE_BYTES_MAX, Node, Value};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 1000;
/// All files together: a directory of large files must not fill the memory of a small container.
const BYTES_MAX: usize = 16 * FILE_BYTES_MAX;

/// What was read.
pub(crate) struct Sources {
    /// All files joined. `None`: the first one could not be read.
    pub root: Option<Node>,
    /// A file could not be read, so something that seems to be missing may stand in it.
    pub incomplete: bool,
    /// Every file and directory, in the order of reading.
    pub paths: Vec<PathBuf>,
    pub problems: Vec<Problem>,
    /// The text of each file.
    pub texts: Vec<(Arc<PathBuf>, String)>,
}

/// Reads the file `path` and what it includes.
pub(crate) fn read_file(path: &Path) -> Sources {
    let mut reader = FileReader::default();
    let place = Place::file(path);
    let root = reader.file(path, &place, 0);
    reader.into_sources(root)
}

/// Reads `text` as the file `path`, and what it includes.
pub(crate) fn read_text(path: &Path, text: &str) -> Sources {
    let mut reader = FileReader::default();
    let root = reader.text(path, text, 0);
    reader.into_sources(root)
}

/// Reads the file `path`, which may not include others. `why`: the hint where it does.
pub(crate) fn read_file_alone(path: &Path, why: &'static str) -> Sources {
    let mut reader = FileReader { alone: Some(why), ..FileReader::default() };
    let root = reader.file(path, &Place::file(path), 0);
    reader.into_sources(root)
}

/// Reads `text` as the file `path`, which may not include others, as [`read_file_alone`].
pub(crate) fn read_text_alone(path: &Path, text: &str, why: &'static str) -> Sources {
    let mut reader = FileReader { alone: Some(why), ..FileReader::default() };
    let root = reader.text(path, text, 0);
    reader.into_sources(root)
}

#[derive(Default)]
struct FileReader {
    /// Why nothing may be included. `None`: it may.
    alone: Option<&'static str>,
    paths: Vec<PathBuf>,
    /// With every link resolved, to know a file again.
    files_seen: Vec<PathBuf>,
    bytes: usize,
    incomplete: bool,
    problems: Vec<Problem>,
    texts: Vec<(Arc<PathBuf>, String)>,
}

impl FileReader {
    fn into_sources(self, root: Option<Node>) -> Sources {
        let incomplete = self.incomplete || root.is_none();
        Sources { incomplete, root, paths: self.paths, problems: self.problems, texts: self.texts }
    }

    /// `None`: a problem has been told.
    fn file(&mut self, path: &Path, place: &Place, depth: usize) -> Option<Node> {
        self.paths.push(path.to_owned());
        match self.content(path) {
            Ok(text) => self.text(path, &text, depth),
            Err((what, hint)) => {
                self.incomplete = true;
                self.problems.push(Problem::new(place, what, hint));
                None
            }
        }
    }

    fn content(&mut self, path: &Path) -> Result<String, (String, &'static str)> {
        let name = path.display();
        let cannot =
            |error: std::io::Error| (format!("cannot read {name}: {error}"), "check the path and its permissions");
        let metadata = std::fs::metadata(path).map_err(cannot)?;
        // A pipe or device might never end.
        if !metadata.is_file() {
            return Err((format!("{name} is not a file"), "name a file"));
        }
        let canonical = path.canonicalize().map_err(cannot)?;
        if self.files_seen.contains(&canonical) {
            let hint = "include each file once; a file cannot include itself either";
            return Err((format!("{name} has been read already"), hint));
        }
        self.files_seen.push(canonical);
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
        self.bytes += bytes.len();
        if bytes.len() > FILE_BYTES_MAX || self.bytes > BYTES_MAX {
            let hint = "split it with `include:`, or use a template (`hosts: [\"*.{ns}.svc\"]`)";
            return Err((format!("{name} is larger than 1 MiB, or all files together than 16 MiB"), hint));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            (format!("{name} is not UTF-8 in line {line}"), "save it as UTF-8")
        })
    }

    fn text(&mut self, path: &Path, text: &str, depth: usize) -> Option<Node> {
        let file = Arc::new(path.to_owned());
        let place = Place::file(path);
        if text.len() > FILE_BYTES_MAX {
            let hint = "split it with `include:`, or use a template (`hosts: [\"*.{ns}.svc\"]`)";
            self.problems.push(Problem::new(&place, "the file is larger than 1 MiB", hint));
            self.incomplete = true;
            return None;
        }
        let root = yaml::parse(&file, text, &mut self.problems);
        self.texts.push((file, text.to_owned()));
        let mut root = match root {
            Some(root) => root,
            None => {
                self.incomplete = true;
                return None;
            }
        };
        let Value::Mapping(entries) = &mut root.value else { return Some(root) };
        let Some(include) = entries.iter().position(|entry| entry.key == "include") else { return Some(root) };
        let include = entries.remove(include);
        if let Some(why) = self.alone {
            self.problems.push(Problem::new(&include.key_place, "this file includes no others", why));
            return Some(root);
        }
        for included in self.included(&include, depth) {
            self.join(&mut root, included);
        }
        Some(root)
    }

    fn included(&mut self, include: &Entry, depth: usize) -> Vec<Node> {
        let names = match &include.value.value {
            Value::Sequence(names) => names.iter().collect(),
            Value::Refused => return Vec::new(),
            _ => vec![&include.value],
        };
        if depth == DEPTH_MAX {
            let what = format!("files include each other more than {DEPTH_MAX} deep");
            self.problems.push(Problem::new(&include.key_place, what, "include them from one file"));
            return Vec::new();
        }
        let mut nodes = Vec::new();
        for name in names {
            let text = match &name.value {
                Value::Scalar { text, .. } if !name.is_null() && !text.is_empty() => text,
                Value::Refused => continue,
                _ => {
                    let hint = "write the path of a file or directory, relative to this file";
                    self.problems.push(Problem::new(&name.place, "`include` names no file", hint));
                    continue;
                }
            };
            if text.contains(['*', '?']) {
                let what = format!("`include: {}` is a pattern, and those are not supported", shown(text));
                self.problems.push(Problem::new(
                    &name.place,
                    what,
                    "name the directory: its *.yaml and *.yml are read",
                ));
                continue;
            }
            let path = absolute(&name.place, text);
            match path.is_dir() {
                true => nodes.extend(self.directory(&path, &name.place, depth + 1)),
                false => nodes.extend(self.file(&path, &name.place, depth + 1)),
            }
        }
        nodes
    }

    fn directory(&mut self, path: &Path, place: &Place, depth: usize) -> Vec<Node> {
        self.paths.push(path.to_owned());
        let mut files = Vec::new();
        let listed = std::fs::read_dir(path).and_then(|entries| {
            for entry in entries {
                let file = entry?.path();
                if is_configuration(&file) {
                    files.push(file);
                }
            }
            Ok(())
        });
        if let Err(error) = listed {
            let what = format!("cannot read the directory {}: {error}", path.display());
            self.problems.push(Problem::new(place, what, "check the path and its permissions"));
            self.incomplete = true;
        }
        files.sort();
        if files.len() + self.files_seen.len() > FILES_MAX {
            let what = format!("{} leads to more than {FILES_MAX} files", path.display());
            self.problems.push(Problem::new(place, what, "put several services into one file"));
            self.incomplete = true;
            return Vec::new();
        }
        files.iter().filter_map(|file| self.file(file, place, depth)).collect()
    }

    /// Adds `included` to `root`.
    fn join(&mut self, root: &mut Node, included: Node) {
        let place = included.place;
        let (Value::Mapping(into), Value::Mapping(from)) = (&mut root.value, included.value) else {
            self.problems.push(Problem::new(
                &place,
                "the included file is not a mapping",
                "write sections: `inbound:`, …",
            ));
            return;
        };
        for entry in from {
            match into.iter_mut().find(|known| known.key == entry.key) {
                None => into.push(entry),
                Some(known) if entry.key == "inbound" => append(known, entry),
                Some(known) if entry.key == "outbound" => self.join_outbound(known, entry),
                Some(known) => self.written_twice(known, &entry),
            }
        }
    }

    fn join_outbound(&mut self, known: &mut Entry, entry: Entry) {
        // What is no mapping is told when the section is read; joined to another file's it would be lost.
        if !matches!(entry.value.value, Value::Mapping(_)) {
            let what = "`outbound` is not a mapping";
            self.problems.push(Problem::new(&entry.value.place, what, "write `services:` below it"));
        }
        let (Value::Mapping(into), Value::Mapping(from)) = (&mut known.value.value, entry.value.value) else { return };
        for entry in from {
            match into.iter_mut().find(|known| known.key == entry.key) {
                None => into.push(entry),
                Some(known) if matches!(entry.key.as_str(), "services" | "listen") => append(known, entry),
                Some(known) => self.written_twice(known, &entry),
            }
        }
    }

    fn written_twice(&mut self, known: &Entry, entry: &Entry) {
        let what = format!("`{}` is written in two files; it stands at {} already", shown(&entry.key), known.key_place);
        self.problems.push(Problem::new(&entry.key_place, what, "keep one of the two"));
    }
}

/// Kubernetes mounts a ConfigMap's files beside hidden ones (`..data`), and editors leave theirs.
fn is_configuration(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") && !path.is_dir()
}

fn append(known: &mut Entry, entry: Entry) {
    let mut items = into_items(std::mem::replace(&mut known.value.value, Value::Refused), &known.value.place);
    items.extend(into_items(entry.value.value, &entry.value.place));
    known.value.value = Value::Sequence(items);
}

/// One value counts as a list of one (`listen: 127.0.0.1:15001`); nothing at all as an empty list.
fn into_items(value: Value, place: &Place) -> Vec<Node> {
    match value {
        Value::Sequence(items) => items,
        value => Some(Node { place: place.clone(), value }).filter(|node| !node.is_null()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
