//! Reads the labels of our own workload from where the file says that they are.

use crate::authz::Labels;
use postern_config::Workload;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A label's limit in Kubernetes is 253 and 63 bytes; a pod has some ten.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads a variable of the environment. The environment is read in `cli/` alone.
pub type ReadVariable = fn(&str) -> Option<String>;

/// Why a label is not known. Nobody guesses one: rules depend on them.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    #[error("`workload.labels_env` wants the label `{label}` from ${variable}, which is not set")]
    NoVariable { label: String, variable: String },
    #[error("`workload.labels_file` cannot be read: {}", path.display())]
    NoFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`workload.labels_file` is larger than {FILE_BYTES_MAX} bytes: {}", path.display())]
    LargeFile { path: PathBuf },
    #[error("{}:{line}: is not of the form name=\"value\", as the downward API writes labels", path.display())]
    NoLabel { path: PathBuf, line: usize },
    #[error("the label `{label}` of {} stands in the configuration as well, or twice in it", path.display())]
    Twice { path: PathBuf, label: String },
}

/// # Errors
/// A label is nowhere, or its file says something else than labels.
pub fn read(workload: &Workload, variable: ReadVariable) -> Result<Labels, LabelsError> {
    let mut labels = Labels::default();
    for (name, value) in &workload.labels {
        labels.add(name.clone(), value.clone());
    }
    for (name, from) in &workload.labels_env {
        let missing = || LabelsError::NoVariable { label: name.clone(), variable: from.clone() };
        labels.add(name.clone(), variable(from).ok_or_else(missing)?);
    }
    if let Some(path) = &workload.labels_file {
        read_file(path, &mut labels)?;
    }
    Ok(labels)
}

fn read_file(path: &Path, labels: &mut Labels) -> Result<(), LabelsError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    file.map_err(|source| LabelsError::NoFile { path: path.to_owned(), source })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(LabelsError::LargeFile { path: path.to_owned() });
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) =
            parse_line(line).ok_or_else(|| LabelsError::NoLabel { path: path.to_owned(), line: index + 1 })?;
        if !labels.add(name.to_owned(), value) {
            return Err(LabelsError::Twice { path: path.to_owned(), label: name.to_owned() });
        }
    }
    Ok(())
}

/// `name="value"`, the value as Go quotes it (`fmt`, `%q`).
fn parse_line(line: &str) -> Option<(&str, String)> {
    let (name, quoted) = line.trim().split_once('=')?;
    let quoted = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        value.push(match character {
            '"' => return None,
            '\\' => match characters.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                same @ ('"' | '\\') => same,
                // A label's value has no other character that needs one.
                _ => return None,
            },
            other => other,
        });
    }
    (!name.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::{LabelsError, parse_line, read};
    use postern_config::Workload;

    fn variable(name: &str) -> Option<String> {
        (name == "DEPLOY_ENV").then(|| "prod".to_owned())
    }

    #[test]
    fn labels_come_from_the_file_the_environment_and_the_downward_api() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("labels");
        std::fs::write(&file, "app=\"orders\"\ntier=\"back \\\"end\\\"\"\n\n").unwrap();
        let mut workload = Workload {
            labels: vec![("purpose".to_owned(), "billing".to_owned())],
            labels_file: Some(file.clone()),
            labels_env: vec![("environment".to_owned(), "DEPLOY_ENV".to_owned())],
        };
        let labels = read(&workload, variable).unwrap();
        let expected = [("app", "orders"), ("environment", "prod"), ("purpose", "billing"), ("tier", "back \"end\"")];
        assert_eq!(labels.iter().collect::<Vec<_>>(), expected);

        std::fs::write(&file, "app=\"orders\"\npurpose=\"other\"\n").unwrap();
        assert!(matches!(read(&workload, variable), Err(LabelsError::Twice { .. })));
        std::fs::write(&file, "app=\"orders\"\ntier=back\n").unwrap();
        assert!(matches!(read(&workload, variable), Err(LabelsError::NoLabel { line: 2, .. })));
        std::fs::write(&file, "a".repeat(70_000)).unwrap();
        assert!(matches!(read(&workload, variable), Err(LabelsError::LargeFile { .. })));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(read(&workload, variable), Err(LabelsError::NoFile { .. })));
        workload.labels_env.push(("tenant".to_owned(), "TENANT".to_owned()));
        assert!(matches!(read(&workload, variable), Err(LabelsError::NoVariable { .. })));
    }

    #[test]
    fn a_line_is_a_label_or_nothing() {
        for wrong in ["", "a", "a=", "a=\"", "=\"b\"", "a=\"b", "a=b\"", "a=\"b\"c\"", "a=\"\\x41\"", "a=\"b\\\""] {
            assert_eq!(parse_line(wrong), None, "{wrong}");
        }
        assert_eq!(parse_line("a.b/c=\"\""), Some(("a.b/c", String::new())));
    }
}
